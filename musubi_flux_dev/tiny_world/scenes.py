"""Which scenes there are: at random from a seed, the held-out ones, and those of the new concept."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle

from musubi_flux_dev.tiny_world.captions import captions, place, size
from musubi_flux_dev.tiny_world.curios import CURIOS
from musubi_flux_dev.tiny_world.drawing import BACKGROUNDS, COLOURS, NEW_WORD, SHAPES, Scene, Thing

Pair = tuple[str, str]
"""A colour and a shape."""

SIZES = ((64, 64), (64, 96), (96, 64), (96, 96), (64, 128), (128, 64), (128, 128))
"""Height and width in pixels."""

SMALL_RADII, LARGE_RADII = (0.17, 0.20), (0.26, 0.30)
NEAR, MIDDLE, FAR = 0.28, 0.5, 0.72
SWAY = 0.035
"""How far from its place a shape may be, as a part of the picture's side."""
APART = (0.25, 0.75)
SWAY_OF_TWO = 0.02
"""Two shapes never touch."""

WITHHELD_SEED, HELD_OUT_SEED, CONCEPT_SEED, KNOWN_SEED = 7, 8, 9, 12
HELD_OUT = 96
"""Captions, half of them of withheld pairs."""
CONCEPT_SIZES = ((64, 64),) * 8 + ((64, 96), (96, 64)) * 2
"""Height and width in pixels of the pictures that a LoRA learns the new concept from."""
KNOWN_PICTURES = 192


def withheld_pairs() -> frozenset[Pair]:
    """Return the pairs of colour and shape that the base model never sees: one for each colour."""
    draws = random.Random(WITHHELD_SEED)
    shapes = [*SHAPES, *SHAPES]
    draws.shuffle(shapes)
    return frozenset(zip(COLOURS, shapes, strict=False))


def seen_pairs() -> Sequence[Pair]:
    """Return the pairs of colour and shape that the base model sees."""
    withheld = withheld_pairs()
    return [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in withheld]


def one_shape(draws: random.Random, *, pairs: Sequence[Pair], size: tuple[int, int]) -> Scene:
    """Draw a scene of one shape; ``size`` is height and width in pixels."""
    colour, shape = draws.choice(pairs)
    x, y = (draws.choice((NEAR, MIDDLE, FAR)) + draws.uniform(-SWAY, SWAY) for _ in range(2))
    radius = draws.uniform(*draws.choice((SMALL_RADII, LARGE_RADII)))
    thing = Thing(shape=shape, colour=colour, x=x, y=y, radius=radius)
    return Scene(height=size[0], width=size[1], background=draws.choice([*BACKGROUNDS]), things=(thing,))


def two_shapes(draws: random.Random, *, pairs: Sequence[Pair], size: tuple[int, int]) -> Scene:
    """Draw a scene of two different shapes, beside or above each other."""
    first, second = draws.sample(pairs, 2)
    positions = [*APART]
    draws.shuffle(positions)
    across = draws.random() < 0.5
    things: list[Thing] = []
    for (colour, shape), along in zip((first, second), positions, strict=True):
        x, y = (along, MIDDLE) if across else (MIDDLE, along)
        x, y = (part + draws.uniform(-SWAY_OF_TWO, SWAY_OF_TWO) for part in (x, y))
        radius = draws.uniform(*SMALL_RADII)
        things.append(Thing(shape=shape, colour=colour, x=x, y=y, radius=radius))
    background = draws.choice([*BACKGROUNDS])
    return Scene(height=size[0], width=size[1], background=background, things=tuple(things))


def curio_scenes(seed: int, count: int, *, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Scene]:
    """Return scenes of one shape that has a made-up word for its name."""
    draws = random.Random(seed)
    pairs = [(colour, word) for colour in COLOURS for word in CURIOS]
    return [one_shape(draws, pairs=pairs, size=draws.choice(sizes)) for _ in range(count)]


def training_scenes(
    seed: int, count: int, *, sizes: Sequence[tuple[int, int]] = SIZES, two: float = 0.25
) -> list[Scene]:
    """Return scenes for the base model, none of them held out; ``two`` is the part that has two shapes."""
    draws, pairs, held_out = (
        random.Random(seed),
        seen_pairs(),
        {meaning(scene) for scene in held_out_scenes()},
    )
    scenes: list[Scene] = []
    while len(scenes) < count:
        kind = two_shapes if draws.random() < two else one_shape
        scene = kind(draws, pairs=pairs, size=draws.choice(sizes))
        if meaning(scene) not in held_out:
            scenes.append(scene)
    return scenes


def held_out_scenes() -> list[Scene]:
    """Return scenes of one shape, no two alike: first of seen pairs, then as many of withheld ones."""
    draws = random.Random(HELD_OUT_SEED)
    found: dict[object, Scene] = {}
    for pairs, wanted in ((seen_pairs(), HELD_OUT // 2), (sorted(withheld_pairs()), HELD_OUT)):
        while len(found) < wanted:
            scene = one_shape(draws, pairs=pairs, size=(64, 64))
            found.setdefault(meaning(scene), scene)
    return list(found.values())


def concept_scenes(
    sizes: Sequence[tuple[int, int]] = CONCEPT_SIZES, *, seed: int = CONCEPT_SEED, word: str = NEW_WORD
) -> list[Scene]:
    """Return a scene a size of a shape that the base model has never seen, large, in all colours."""
    draws = random.Random(seed)
    scenes = [
        one_shape(draws, pairs=[(colour, word)], size=size) for colour, size in zip(cycle(COLOURS), sizes)
    ]
    return [replace(scene, things=tuple(_large(thing, draws) for thing in scene.things)) for scene in scenes]


def known_scenes() -> list[Scene]:
    """Return scenes of what the base model knows: regularisation pictures for those of the new concept."""
    draws = random.Random(KNOWN_SEED)
    return [one_shape(draws, pairs=seen_pairs(), size=(64, 64)) for _ in range(KNOWN_PICTURES)]


def probe_captions(*, new: int, known: int, seed: int) -> list[str]:
    """Return captions to draw for: ``new`` of the new concept, large, and then ``known`` held-out ones."""
    draws, colours = random.Random(seed), [*COLOURS]
    probes: list[Scene] = []
    while len(probes) < new:
        pair = (colours[len(probes) % len(colours)], NEW_WORD)
        scene = one_shape(draws, pairs=[pair], size=(64, 64))
        if size(scene.things[0]) == "large":
            probes.append(scene)
    return [captions(scene)[0] for scene in [*probes, *held_out_scenes()[:known]]]


def meaning(scene: Scene) -> object:
    """Return what a caption tells of the scene: two scenes with the same meaning share their captions."""
    told = [(thing.shape, thing.colour, place(thing), size(thing)) for thing in scene.things]
    return (scene.background, *told)


def _large(thing: Thing, draws: random.Random) -> Thing:
    return replace(thing, radius=draws.uniform(*LARGE_RADII))
