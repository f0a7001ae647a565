"""Says of a picture whether it shows what a caption of the tiny world asks for.

Axes: H W pixels.
"""

from collections.abc import Sequence
from itertools import permutations

import numpy as np
from jaxtyping import UInt8

from host.architecture import Judge
from musubi_flux_dev.tiny_world.captions import PLACES
from musubi_flux_dev.tiny_world.checker import Seen, look
from musubi_flux_dev.tiny_world.drawing import NEW_SHAPES
from musubi_flux_dev.tiny_world.wanted import RELATIONS, Wanted, WantedThing, read_caption

SIDES = {words: sides for sides, words in PLACES.items()}


def answers(prompt: str, picture: UInt8[np.ndarray, "H W 3"]) -> dict[str, bool] | None:
    """Return whether colour, shape, place and background are as the prompt says; None for other prompts.

    What the prompt leaves open is not among the answers. Of two shapes both must be right. Sizes are not
    looked at, nor shapes beyond those that are asked for.
    """
    wanted = read_caption(prompt)
    if wanted is None:
        return None
    sight, count = look(picture), len(wanted.things)
    largest: list[Seen | None] = [*sight.things, *[None] * count][:count]
    found = max(
        (_compare(wanted, order) for order in permutations(largest)), key=lambda one: sum(one.values())
    )
    if wanted.background is not None:
        found["background"] = sight.background == wanted.background
    return found


def _compare(wanted: Wanted, seen: Sequence[Seen | None]) -> dict[str, bool]:
    """Return the answers when the things seen are taken for those wanted, one by one."""
    pairs = list(zip(wanted.things, seen, strict=True))
    found = {
        "colour": all(one is not None and one.colour == thing.colour for thing, one in pairs),
        "shape": all(one is not None and one.shape == thing.shape for thing, one in pairs),
    }
    if wanted.relation is not None:
        found["place"] = _is_related(wanted.relation, seen)
    elif any(thing.place is not None for thing in wanted.things):
        found["place"] = all(_is_placed(thing, one) for thing, one in pairs)
    return found


def _is_placed(thing: WantedThing, one: Seen | None) -> bool:
    return thing.place is None or (one is not None and one.place == thing.place)


def _is_related(relation: str, seen: Sequence[Seen | None]) -> bool:
    """Whether the first thing lies on the asked side of the second, by thirds of the picture."""
    first, second = seen
    if first is None or second is None:
        return False
    steps = zip(SIDES[first.place], SIDES[second.place], RELATIONS[relation], strict=True)
    return all(one * way > other * way for one, other, way in steps if way)


WORLD = {"tiny_world": Judge(answers=answers, new_words=tuple(NEW_SHAPES))}
