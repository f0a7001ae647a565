"""The tags of a caption in other orders, and with some of them left out.

Nothing here is random: what looks so is computed from the caption, so that it is the same for every
seed, machine and version of Python.
"""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

JOINT = ", "
"""Between tags, as kohya-ss/sd-scripts joins them whatever they were separated by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """A caption in parts."""

    front: tuple[str, ...] = ()
    flexible: tuple[str, ...]
    """What is shuffled and left out."""
    tail: tuple[str, ...] = ()

    def text(self, flexible: Sequence[str]) -> str:
        """Return the caption with ``flexible`` in the middle."""
        return JOINT.join((*self.front, *flexible, *self.tail))


def split_tags(text: str, *, separator: str, keep: int = 0, keep_separator: str | None = None) -> Tags:
    """Return the parts of a caption; ``keep`` tags stay in front where ``keep_separator`` does not occur.

    Order of operations of kohya-ss/sd-scripts@48d368fa: library/train_util.py, process_caption.
    """
    if keep_separator is not None and keep_separator in text:
        front, flexible, *tail = text.split(keep_separator, 2)
        return Tags(
            front=_tags(front, separator),
            flexible=_tags(flexible, separator),
            tail=_tags(tail[0], separator) if tail else (),
        )
    tags = _tags(text, separator)
    return Tags(front=tags[:keep], flexible=tags[keep:])


def tag_texts(tags: Tags, *, shuffle: bool, dropout: float, count: int) -> dict[str, Fraction]:
    """Return at most ``count`` texts of a caption, each with its share; the shares sum to 1.

    Where a set of tags has no more orders than its share of ``count``, every order is there, and
    equally often. Each tag is left out in ``dropout`` of the texts, to within ``1 / count``.
    """
    groups = Counter(_kept(tags, rate=dropout, count=count)) if dropout else {tags.flexible: count}
    texts: dict[str, Fraction] = {}
    for kept, times in groups.items():
        orders = _orders(kept, most=times) if shuffle else [kept]
        for order in orders:
            text = tags.text(order)
            texts[text] = texts.get(text, Fraction(0)) + Fraction(times, count * len(orders))
    return texts


def _tags(text: str, separator: str) -> tuple[str, ...]:
    return tuple(tag.strip() for tag in text.split(separator) if tag.strip())


def _kept(tags: Tags, *, rate: float, count: int) -> list[tuple[str, ...]]:
    """Return for each of ``count`` texts the tags that stay, in their order.

    Each tag is left out of as many texts as the rate says, and of which ones is its own choice: so the
    frequency of every tag is right, not only that of all of them together.
    """
    times = _drop_counts(tags, rate=rate, count=count)
    absent = [
        set(_hashed_order(count, *tags.flexible, "text", place)[:number])
        for place, number in enumerate(times)
    ]
    if _must_keep_one(tags, rate):
        _keep_one(absent, count=count)
    pairs = list(zip(tags.flexible, absent, strict=True))
    return [tuple(tag for tag, without in pairs if number not in without) for number in range(count)]


def _must_keep_one(tags: Tags, rate: float) -> bool:
    return rate < 1 and bool(tags.flexible) and not tags.front and not tags.tail


def _drop_counts(tags: Tags, *, rate: float, count: int) -> list[int]:
    """Return in how many of ``count`` texts each tag is left out: ``rate * count`` on average."""
    size = len(tags.flexible)
    whole = math.floor(rate * count)
    # What rounding takes from one tag another one gets; the last bit falls by chance, over all captions.
    more = math.floor((rate * count - whole) * size + _hashed_chance(*tags.flexible))
    lucky = set(_hashed_order(size, *tags.flexible, "more")[:more])
    most = count * (size - 1) // size if _must_keep_one(tags, rate) else count
    return [min(whole + (place in lucky), most) for place in range(size)]


def _keep_one(absent: list[set[int]], *, count: int) -> None:
    """Give every text that lost all its tags one of them, in exchange with a text that has several."""
    left = [sum(number not in without for without in absent) for number in range(count)]
    for bare in [number for number in range(count) if left[number] == 0]:
        rich = max(range(count), key=left.__getitem__)
        places = _hashed_order(len(absent), "keep", bare)
        moved = next(absent[place] for place in places if rich not in absent[place])
        moved.remove(bare)
        moved.add(rich)
        left[bare], left[rich] = 1, left[rich] - 1


def _orders(tags: tuple[str, ...], *, most: int) -> list[tuple[str, ...]]:
    """Return all orders of ``tags`` if they are at most ``most``, else ``most`` different ones."""
    alike = math.prod(math.factorial(number) for number in Counter(tags).values())
    if math.factorial(len(tags)) // alike <= most:
        return list(_all_orders(tags))
    found: dict[tuple[str, ...], None] = {}
    for attempt in itertools.count():
        found[tuple(tags[place] for place in _hashed_order(len(tags), *tags, attempt))] = None
        if len(found) == most:
            break
    return list(found)


def _all_orders(tags: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield each different order once, in the order of a dictionary."""
    order = sorted(tags)
    while True:
        yield tuple(order)
        rising = [place for place in range(len(order) - 1) if order[place] < order[place + 1]]
        if not rising:
            return
        first = rising[-1]
        larger = max(place for place in range(first, len(order)) if order[place] > order[first])
        order[first], order[larger] = order[larger], order[first]
        order[first + 1 :] = reversed(order[first + 1 :])


def _hashed_order(count: int, *salt: str | int) -> list[int]:
    """Return 0 to ``count - 1`` in an order that looks random and depends on the arguments alone."""
    return sorted(range(count), key=lambda number: _hashed(*salt, number))


def _hashed_chance(*salt: str | int) -> float:
    """Return a number in [0, 1) that looks random and depends on the arguments alone."""
    return int.from_bytes(_hashed(*salt)[:6]) / 2**48


def _hashed(*salt: str | int) -> bytes:
    return hashlib.blake2b("\x1f".join(str(part) for part in salt).encode(), digest_size=8).digest()
