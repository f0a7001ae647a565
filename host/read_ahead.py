"""Makes what the loop needs next while the loop computes, in a thread, always in the same order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

T = TypeVar("T")

STEPS_AHEAD = 2


@contextmanager
def read_ahead(
    make: Callable[[int], T], numbers: range, *, ahead: int = STEPS_AHEAD
) -> Iterator[Iterator[T]]:
    """Give a block ``make(number)`` for each of ``numbers``, in order; at most ``ahead`` wait unused.

    One thread makes them one after the other. What ``make`` raises is raised where the block asks for
    that number. When the block is left, however it is left, the thread finishes what it is at and ends.
    """
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead")
    try:
        yield _in_turn(pool, make, numbers, ahead=ahead)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_turn(
    pool: ThreadPoolExecutor, make: Callable[[int], T], numbers: range, *, ahead: int
) -> Iterator[T]:
    coming = iter(numbers)
    waiting: deque[Future[T]] = deque(pool.submit(make, number) for number in islice(coming, ahead))
    while True:
        waiting.extend(pool.submit(make, number) for number in islice(coming, 1))
        if not waiting:
            return
        yield waiting.popleft().result()
