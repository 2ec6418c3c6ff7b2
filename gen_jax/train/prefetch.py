"""Preparing the next batches while the device works."""

from __future__ import annotations

import collections
import concurrent.futures
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def prefetch(function: Callable[[T], U], items: Iterable[T], depth: int = 2) -> Generator[U, None, None]:
    """Maps a function over items, in order, `depth` of them ahead in a background thread.

    Args:
      function: what makes a batch of an item; it may raise, and the error comes out where its result would.
      items: such as the numbers of the steps.
      depth: how many results are made before they are asked for, at least 1.

    Yields:
      The results. Closing the iterator ends the thread.
    """
    waiting: collections.deque[concurrent.futures.Future[U]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
