"""Work done by threads, some items ahead of whoever asks for the results."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import repeat


def map_ahead(function: Callable, items: Iterable, threads: int, most: int = 8) -> Generator:
    """Map by threads of its own, in order, at most so many items ahead of whoever asks.

    Closed early, it waits for its threads, then closes the items: a film must not be closed while
    a stage before still reads from it.
    """
    pool, pending = ThreadPoolExecutor(threads), deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > most:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        if isinstance(items, Generator):
            items.close()


def prefetch(items: Generator, most: int = 8) -> Generator:
    """Make the same items in a thread of its own, before they are asked for."""
    end = object()
    ahead = map_ahead(lambda _: next(items, end), repeat(0), 1, most)
    with closing(items), closing(ahead):
        yield from iter(lambda: next(ahead), end)
