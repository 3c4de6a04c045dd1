"""Work done ahead by threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from lightpose.errors import UserError
from lightpose.runtime.cores import CORES

THREADS = min(8, CORES)
"""That decode and crop; more would only wait for Python's lock."""
AHEAD = 2 * THREADS

T = TypeVar("T")
R = TypeVar("R")


def prefetch(function: Callable[[T], R], items: Iterable[T], ahead: int, threads: int = THREADS) -> Generator[R]:
    """``map(function, items)`` by threads that keep at most ``ahead`` results waiting; close it to stop them."""
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """``items`` in lists of ``size``; the last may be shorter.

    Raises:
        UserError: for a size below 1.
    """
    if size < 1:
        raise UserError(f"batch_size={size} must be at least 1")
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
