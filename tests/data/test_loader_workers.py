"""The loader inside torch's DataLoader and torchdata's StatefulDataLoader: without workers, the same batches."""

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from rsdnet.data.loader import Batch, Loader
from rsdnet.data.samples import Samples
from rsdnet.errors import DataError
from tests.support import mixed

pytestmark = pytest.mark.filterwarnings("ignore:.*set_vital", "ignore::pytest.PytestUnraisableExceptionWarning")
ALONE = r"the loader has threads of its own: use num_workers=0"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    root = tmp_path_factory.mktemp("workers")
    return mixed.samples_of(
        mixed.make(root / "a", 23, side=12, seed=1), mixed.make(root / "b", 10, side=18, sar=np.int16, seed=2)
    )


def loader_of(samples: Samples, stop: int | None = None) -> Loader:
    """Epochs of 9 steps."""
    return Loader(samples, batch=4, seed=3, drop_last=False, stop=stop)


@pytest.fixture(scope="module")
def whole(samples: Samples) -> list[Batch]:
    return [mixed.copied(batch) for batch in loader_of(samples, 27)]


def test_batches_come_in_the_same_order(samples: Samples, whole: list[Batch]) -> None:
    loader = DataLoader(loader_of(samples), batch_size=None)
    assert len(loader) == 9
    for epoch in range(3):
        mixed.same([mixed.copied(batch) for batch in loader], whole[9 * epoch : 9 * (epoch + 1)])


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_are_refused(samples: Samples, context: str) -> None:
    with pytest.raises(DataError, match=ALONE):
        next(iter(DataLoader(loader_of(samples), batch_size=None, num_workers=2, multiprocessing_context=context)))


def test_another_loaders_workers_leave_a_running_loader_alone(samples: Samples, whole: list[Batch]) -> None:
    """A fork inherits the memory of a running loader, but not its threads."""
    loader = loader_of(samples, 27)
    iterator = iter(loader)
    first = mixed.copied(next(iterator))
    context = multiprocessing.get_context("fork")
    child = context.Process(target=loader.close)
    child.start()
    child.join(20)
    assert child.exitcode == 0
    mixed.same([first, *(mixed.copied(batch) for batch in iterator)], whole)


def test_samples_with_a_cache_are_not_pickled(samples: Samples) -> None:
    own = mixed.samples_of(*samples.databases.folders)
    own.fill_cache("host")
    with pytest.raises(DataError, match="cache"):
        pickle.dumps(own)


@pytest.mark.parametrize("at", [0, 1, 4, 8, 9, 13])
def test_torchdata_saves_and_restores_it(samples: Samples, whole: list[Batch], at: int) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    first, second = (torchdata.StatefulDataLoader(loader_of(samples, 20), batch_size=None) for _ in range(2))
    iterator = iter(first)
    for _ in range(at):
        next(iterator)
    second.load_state_dict(pickle.loads(pickle.dumps(first.state_dict())))
    mixed.same([mixed.copied(batch) for batch in second], whole[at:20])


def test_torchdata_ends_a_restored_epoch_and_goes_on_with_the_next(samples: Samples, whole: list[Batch]) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    first, second = (torchdata.StatefulDataLoader(loader_of(samples), batch_size=None) for _ in range(2))
    iterator = iter(first)
    for _ in range(5):
        next(iterator)
    second.load_state_dict(first.state_dict())
    mixed.same([mixed.copied(batch) for batch in second], whole[5:9])
    mixed.same([mixed.copied(batch) for batch in second], whole[9:18])


def test_torchdatas_workers_are_refused(samples: Samples) -> None:
    torchdata = pytest.importorskip("torchdata.stateful_dataloader")
    with pytest.raises(DataError, match=ALONE):
        next(iter(torchdata.StatefulDataLoader(loader_of(samples), batch_size=None, num_workers=1)))


def test_an_error_names_the_database(tmp_path: Path) -> None:
    db = mixed.make(tmp_path / "db", 12)
    own = mixed.samples_of(db, damaged="raise")
    with (db / "data.mdb").open("r+b") as file:
        file.truncate((db / "data.mdb").stat().st_size // 2)
    with pytest.raises(DataError, match=r"db"):
        list(loader_of(own))
