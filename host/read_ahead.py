"""Makes what is needed next while the present is computed with, in threads, always in the same order."""

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
    make: Callable[[int], T], numbers: range, *, ahead: int = STEPS_AHEAD, threads: int = 1
) -> Iterator[Iterator[T]]:
    """Give a block ``make(number)`` for each of ``numbers``, in order; at most ``ahead`` wait unused.

    One thread makes them one after the other, several make several at a time. What ``make`` raises is
    raised where the block asks for that number. When the block is left, however it is left, the threads
    finish what they are at and end.
    """
    pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="read-ahead")
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


@contextmanager
def writing_behind(*, behind: int = STEPS_AHEAD) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Give a block ``write(act)``, which lets one thread call ``act()`` while the block goes on.

    They are called in order, and at most ``behind`` wait. What one raises is raised at a later ``write``
    or at the end of the block. When the block itself fails, what waits is still done.
    """
    waiting: deque[Future[object]] = deque()

    def write(act: Callable[[], object]) -> None:
        waiting.append(pool.submit(act))
        while len(waiting) > behind or (waiting and waiting[0].done()):
            waiting.popleft().result()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="writing-behind") as pool:
        yield write
        while waiting:
            waiting.popleft().result()
