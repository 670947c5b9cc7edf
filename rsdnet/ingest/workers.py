"""Reading on all cores: a pool of threads or processes; results come in the order of the sources."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
from typing import TypeVar

from rsdnet.errors import DataError
from rsdnet.ingest.geotiffs import Result, ingest_source
from rsdnet.ingest.source import Recipe, Source

# On 2 cores threads and processes read alike (65 against 55 BigEarthNet pairs/s, 70 against 48 SEN12MS triplets/s:
# results need no pickling), but Python's lock holds about a third of the work, so more cores want processes.
_THREADS = 4
T = TypeVar("T")
R = TypeVar("R")


Work = Callable[..., Result]
"""`ingest_source`, or another that takes a source and `recipe`."""


def results(
    sources: list[Source], recipe: Recipe, asked: int, work: Work | None = None
) -> Generator[Result, None, None]:
    """The sources' results in order: see `ordered`. work: reads a source; None: from its files."""
    return ordered(partial(work or ingest_source, recipe=recipe), sources, asked)


def ordered(work: Callable[[T], R], items: Sequence[T], asked: int) -> Generator[R, None, None]:
    """`work` of each item, in order. Close the generator, so that its workers end.

    asked: workers, 0 for one a core: threads on a few cores or for a few items, processes beyond.
    Raises DataError if a process died.
    """
    cores = asked if asked > 0 else len(os.sched_getaffinity(0))
    workers = min(cores, max(1, len(items) // 16))
    spawn = multiprocessing.get_context("spawn")
    pool = (
        ThreadPoolExecutor(workers)
        if workers <= _THREADS
        else ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker)
    )
    try:
        coming = (pool.submit(work, item) for item in items)
        waiting = deque(islice(coming, 4 * cores))  # so many are read ahead
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(islice(coming, 1))
            yield result
    except BrokenProcessPool as error:
        raise DataError(
            "a reading process died (out of memory?): run the same command again, fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    """In a worker: leave Ctrl-C to the parent, and exit when it exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
