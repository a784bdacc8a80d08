"""Work that threads do ahead of the one who waits for its results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def run_ahead(calls: Iterable[Callable[[], T]], workers: int = 2, ahead: int = 16) -> Iterator[T]:
    """The results of ``calls`` in their order; the next ones are computed meanwhile.

    ``calls`` is iterated over by the caller's thread, and only as far as it is needed: nothing is
    started before the first result is asked for. When the iterator is closed, calls that have not
    begun are dropped.

    Args:
        calls: functions without arguments, which the threads call.
        workers: threads, 1 or more.
        ahead: results that are finished or being computed at a time, 1 or more.

    Raises:
        Exception: whatever a call raises, when its turn comes.
    """
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="htdg") as pool:
        try:
            for call in calls:
                pending.append(pool.submit(call))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
