"""Reading on all cores: a pool of threads or processes; results come in the order of the sources."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from rsdnet.errors import DataError
from rsdnet.ingest.geotiffs import Result, ingest_source
from rsdnet.ingest.source import Recipe, Source

# On 2 cores threads and processes read alike (65 against 55 BigEarthNet pairs/s, 70 against 48 SEN12MS triplets/s:
# results need no pickling), but Python's lock holds about a third of the work, so more cores want processes.
_THREADS = 4


def count(asked: int) -> int:
    """Number of workers: `asked`, or one a core where that is 0."""
    return asked if asked > 0 else len(os.sched_getaffinity(0))


@contextlib.contextmanager
def executor(asked: int, sources: int) -> Iterator[Executor]:
    """Threads on a few cores or for a few sources, processes beyond."""
    pool: Executor
    workers = min(count(asked), max(1, sources // 16))
    if workers <= _THREADS:
        pool = ThreadPoolExecutor(workers)
    else:
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker)
    try:
        yield pool
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


def in_order(pool: Executor, sources: list[Source], recipe: Recipe, look_ahead: int) -> Iterator[Result]:
    """The sources' results in order, at most `look_ahead` of them read ahead. Raises DataError if a process died."""
    coming = (pool.submit(ingest_source, source, recipe) for source in sources)
    waiting = deque(islice(coming, look_ahead))
    while waiting:
        try:
            result = waiting.popleft().result()
        except BrokenProcessPool as error:
            raise DataError(
                "a reading process died (out of memory?): run the same command again, fewer --workers"
            ) from error
        waiting.extend(islice(coming, 1))
        yield result
