"""Says in plain words what a scene of the tiny world shows, in several phrasings."""

from collections.abc import Callable, Mapping, Sequence

from musubi_flux_dev.tiny_world.drawing import BACKGROUNDS, COLOURS, SHAPES, Scene, Thing

LOW, HIGH = 0.42, 0.58
"""Parts of a picture's side: a centre between them is in the middle."""
SMALL_BELOW = 0.23
"""Radius, as a part of the shorter side."""

PLACES: Mapping[tuple[int, int], str] = {
    (0, 0): "in the centre",
    (-1, 0): "on the left",
    (1, 0): "on the right",
    (0, -1): "at the top",
    (0, 1): "at the bottom",
    (-1, -1): "at the top left",
    (1, -1): "at the top right",
    (-1, 1): "at the bottom left",
    (1, 1): "at the bottom right",
}
"""Sides, as ``side`` tells them across and down -> words."""


def side(part: float) -> int:
    """Return -1, 0 or 1: before the middle of a picture's side, in it, or behind it."""
    return (part > HIGH) - (part < LOW)


def place(thing: Thing) -> str:
    """Return where a shape is, as captions say it."""
    return PLACES[side(thing.x), side(thing.y)]


def size(thing: Thing) -> str:
    """Return "small" or "large"."""
    return "small" if thing.radius < SMALL_BELOW else "large"


def captions(scene: Scene) -> Sequence[str]:
    """Return every phrasing of the scene, the plainest first; all of them are true and complete."""
    phrasings = PHRASINGS_OF_TWO if len(scene.things) == 2 else PHRASINGS_OF_ONE
    return [phrase(scene) for phrase in phrasings]


def _one(thing: Thing) -> str:
    return f"a {size(thing)} {thing.colour} {thing.shape}"


def _plain(scene: Scene) -> str:
    (thing,) = scene.things
    return f"{_one(thing)} {place(thing)} on a {scene.background} background"


def _background_first(scene: Scene) -> str:
    (thing,) = scene.things
    return f"{scene.background} background with {_one(thing)} {place(thing)}"


def _sentence(scene: Scene) -> str:
    (thing,) = scene.things
    return f"the picture shows {_one(thing)} {place(thing)} and the background is {scene.background}"


def _tags(scene: Scene) -> str:
    (thing,) = scene.things
    return f"{thing.colour} {thing.shape}, {size(thing)}, {place(thing)}, {scene.background} background"


def _two_plain(scene: Scene) -> str:
    first, second = scene.things
    return f"{_placed(first)} and {_placed(second)} on a {scene.background} background"


def _two_background_first(scene: Scene) -> str:
    first, second = scene.things
    return f"{scene.background} background with {_placed(first)} and {_placed(second)}"


def _two_related(scene: Scene) -> str:
    first, second = scene.things
    relation = "above" if first.y < second.y else "below"
    if abs(first.x - second.x) > abs(first.y - second.y):
        relation = "left of" if first.x < second.x else "right of"
    return f"{_bare(first)} {relation} {_bare(second)} on a {scene.background} background"


def _placed(thing: Thing) -> str:
    return f"{_bare(thing)} {place(thing)}"


def _bare(thing: Thing) -> str:
    return f"a {thing.colour} {thing.shape}"


PHRASINGS_OF_ONE: Sequence[Callable[[Scene], str]] = (_plain, _background_first, _sentence, _tags)
PHRASINGS_OF_TWO: Sequence[Callable[[Scene], str]] = (_two_plain, _two_background_first, _two_related)

WORDS = tuple(
    dict.fromkeys(
        " ".join(
            [
                *COLOURS,
                *SHAPES,
                *BACKGROUNDS,
                *PLACES.values(),
                "a small large background with the picture shows and is of above below ,",
            ]
        ).split()
    )
)
"""Every word that a caption of the base model's world can have."""
