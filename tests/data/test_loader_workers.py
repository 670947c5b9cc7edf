"""The stream inside a DataLoader and torchdata's StatefulDataLoader: the same batches in the same order."""

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from rsdnet.data.loader import Batch, Stream
from rsdnet.data.samples import Samples
from rsdnet.errors import DataError
from tests.support import mixed

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create", "ignore:.*set_vital")
WAYS = [(0, None), (1, "fork"), (2, "fork"), (3, "fork"), (2, "spawn")]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    root = tmp_path_factory.mktemp("workers")
    return mixed.samples_of(
        mixed.make(root / "a", 23, side=12, seed=1), mixed.make(root / "b", 10, side=18, sar=np.int16, seed=2)
    )


def stream_of(samples: Samples, **options: object) -> Stream:
    return Stream(samples, **{"batch": 4, "seed": 3, "threads": 1, "drop_last": False, **options})  # type: ignore[arg-type]


def loader_of(stream: Stream, workers: int, context: str | None, **options: object) -> DataLoader:
    return DataLoader(
        stream,
        batch_size=None,
        num_workers=workers,
        multiprocessing_context=context,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def whole(samples: Samples) -> list[Batch]:
    """Three epochs of 9 steps."""
    return [mixed.copied(batch) for batch in stream_of(samples, stop=27)]


@pytest.mark.parametrize(("workers", "context"), WAYS)
def test_batches_come_in_the_same_order(
    samples: Samples, whole: list[Batch], workers: int, context: str | None
) -> None:
    stream = stream_of(samples)
    for epoch in range(2) if context != "spawn" else (1,):  # spawning takes seconds
        stream.set_epoch(epoch)
        loader = loader_of(stream, workers, context)
        assert len(loader) == 9
        mixed.same([mixed.copied(batch) for batch in loader], whole[9 * epoch : 9 * (epoch + 1)])
    if context == "spawn":
        return
    running = loader_of(stream_of(samples, stop=20, start=3), workers, context)
    mixed.same([mixed.copied(batch) for batch in running], whole[3:20])


@pytest.mark.parametrize(("workers", "context"), WAYS[2:])
def test_batches_of_workers_are_their_own(
    samples: Samples, whole: list[Batch], workers: int, context: str | None
) -> None:
    kept = list(loader_of(stream_of(samples, slots=1, stop=27), workers, context, prefetch_factor=4))
    mixed.same(kept, whole)


def test_workers_that_stay_go_on_with_the_next_epoch(samples: Samples, whole: list[Batch]) -> None:
    loader = loader_of(stream_of(samples), 2, "fork", persistent_workers=True)
    for epoch in range(3):
        mixed.same(list(loader), whole[9 * epoch : 9 * (epoch + 1)])


def test_workers_without_a_step_go_on_too(samples: Samples) -> None:
    """An epoch of one step: the second of two workers never has one."""
    alone = stream_of(samples, batch=33, stop=3)
    loader = loader_of(stream_of(samples, batch=33), 2, "fork", persistent_workers=True)
    mixed.same([batch for _ in range(3) for batch in loader], [mixed.copied(batch) for batch in alone])


def test_workers_that_stay_leave_a_broken_off_epoch(samples: Samples, whole: list[Batch]) -> None:
    loader = loader_of(stream_of(samples), 2, "fork", persistent_workers=True)
    next(iter(loader))
    mixed.same(list(loader), whole[9:18])


def test_a_stream_that_ran_before_the_fork(samples: Samples, whole: list[Batch]) -> None:
    """A worker inherits the memory of a running engine, but not its threads."""
    stream = stream_of(samples, stop=27)
    iterator = iter(stream)
    mixed.same([mixed.copied(next(iterator))], whole[:1])
    mixed.same(list(loader_of(stream, 2, "fork")), whole[1:])
    mixed.same([mixed.copied(next(iterator))], whole[1:2])


def test_leaving_a_loader_early_ends_its_workers(samples: Samples) -> None:
    for context in ("fork", "spawn"):
        iterator = iter(loader_of(stream_of(samples, stop=10**6), 2, context))
        next(iterator)
        workers = iterator._workers
        del iterator
        for worker in workers:
            worker.join(20)
            assert not worker.is_alive()


def test_a_host_cache_is_shared_with_forked_workers_and_not_pickled(samples: Samples, whole: list[Batch]) -> None:
    own = mixed.samples_of(*samples.databases)
    stream = stream_of(own, cache="host", stop=27)
    mixed.same(list(loader_of(stream, 2, "fork")), whole)
    with pytest.raises(DataError, match="cache"):
        pickle.dumps(stream)


def test_a_pickled_stream_goes_on_where_it_was(samples: Samples, whole: list[Batch]) -> None:
    stream = stream_of(samples, stop=27)
    iterator = iter(stream)
    for _ in range(5):
        next(iterator)
    again = pickle.loads(pickle.dumps(stream))
    mixed.same([mixed.copied(batch) for batch in again], whole[5:])


def test_a_gpu_inside_a_worker_is_refused(samples: Samples) -> None:
    stream = stream_of(samples)
    stream.device = torch.device("cuda")
    with pytest.raises(DataError, match=r"device cuda inside a DataLoader's worker.*num_workers=0"):
        list(loader_of(stream, 1, "fork"))


def test_an_error_in_a_worker_names_the_key(tmp_path: Path) -> None:
    db = mixed.make(tmp_path / "db", 12)
    own = mixed.samples_of(db)
    own.reader  # noqa: B018 -- open before the damage
    path = db / "data.mdb"
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size // 2)
    with pytest.raises(DataError, match=r"db"):
        list(loader_of(stream_of(own, damaged="raise"), 2, "fork"))


# ---- torchdata -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "context", "at"), [*((w, c, at) for w, c in WAYS[:4] for at in (0, 1, 4, 8, 9, 13)), (2, "spawn", 4)]
)
def test_torchdata_saves_and_restores_it(
    samples: Samples, whole: list[Batch], workers: int, context: str | None, at: int
) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")

    def loader() -> DataLoader:
        return torchdata.StatefulDataLoader(
            stream_of(samples, stop=20), batch_size=None, num_workers=workers, multiprocessing_context=context
        )

    first = loader()
    iterator = iter(first)
    for _ in range(at):
        next(iterator)
    state = pickle.loads(pickle.dumps(first.state_dict()))
    second = loader()
    second.load_state_dict(state)
    mixed.same([mixed.copied(batch) for batch in second], whole[at:20])


@pytest.mark.parametrize(("workers", "context"), WAYS[:3])
def test_torchdata_ends_a_restored_epoch_and_goes_on_with_the_next(
    samples: Samples, whole: list[Batch], workers: int, context: str | None
) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")

    def loader() -> DataLoader:
        return torchdata.StatefulDataLoader(
            stream_of(samples), batch_size=None, num_workers=workers, multiprocessing_context=context,
            persistent_workers=workers > 0,
        )  # fmt: skip

    first = loader()
    iterator = iter(first)
    for _ in range(5):
        next(iterator)
    second = loader()
    second.load_state_dict(first.state_dict())  # type: ignore[attr-defined]
    mixed.same([mixed.copied(batch) for batch in second], whole[5:9])
    mixed.same([mixed.copied(batch) for batch in second], whole[9:18])


def test_a_workers_state_is_not_for_another_number_of_workers(samples: Samples) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    loader = torchdata.StatefulDataLoader(stream_of(samples), batch_size=None, num_workers=2)
    iterator = iter(loader)
    next(iterator)
    next(iterator)
    states = [worker["dataset_state"] for worker in loader.state_dict()["_snapshot"]["_worker_snapshots"].values()]
    stream = stream_of(samples)
    stream.load_state_dict(states[0])
    with pytest.raises(DataError, match="use as many workers"):
        next(iter(stream))


def test_no_process_is_left() -> None:
    assert multiprocessing.active_children() == []
