"""Pairs of seasons: two views of one place at two times, drawn alike on any number of ranks and after any break."""

import dataclasses
import io
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from rsdnet import bands
from rsdnet.config import Config, DataConfig, OptimConfig, ViewConfig, differences
from rsdnet.data.catalog import Catalog, objects
from rsdnet.data.inputs import open_samples
from rsdnet.data.loader import Batch, Drawn, Loader, Part
from rsdnet.data.samples import Samples
from rsdnet.data.seasons import cycles, place_of
from rsdnet.distributed import Ranks
from rsdnet.errors import DataError
from rsdnet.pictures import pictures
from tests.support import mixed
from tests.support import order_oracle as oracle

# Four seasons of two places in two tiles, three and two seasons, and one place alone: 22 samples, in ingest's order.
NAMES = [
    *(f"000000{place}_{season}_y0_x{left}" for place in (1, 2) for season in range(4) for left in (0, 12)),
    *("0000003_0", "0000003_1", "0000003_2", "0000004_1", "0000004_3", "0000005_2"),
]
PLACES = [(name.split("_")[0], "_".join(name.split("_")[2:])) for name in NAMES]
PAIRED = Drawn(2, 1, pair_seasons=True)
ALONE = Ranks(0, 1, 0, torch.device("cpu"))


def others(sample: int) -> list[int]:
    """The other seasons of a sample's place, from the next one on."""
    place = [at for at, own in enumerate(PLACES) if own == PLACES[sample]]
    return [at for at in place if at > sample] + [at for at in place if at < sample]


def database(folder: Path, names: list[str] = NAMES, layout: str = "ssl4eo") -> Path:
    mixed.make(folder, len(names), side=12)
    own = dataclasses.replace(
        Catalog.read(folder), samples=objects(names), meta={"layout": layout}, split=objects(["train"] * len(names))
    )
    own.write(folder)
    return folder


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return database(tmp_path_factory.mktemp("seasons") / "db")


def take(loader: Loader, count: int) -> list[Batch]:
    with loader:
        batches = []
        while len(batches) < count:
            batches += [mixed.copied(batch) for batch in loader]
        return batches[:count]


def shown(batch: Batch, values: dict[str, dict[str, np.ndarray]]) -> list[list[int]]:
    """The samples that the views of a batch show, by their pixels alone."""
    found = []
    for rows in batch.records.tolist():
        found.append([])
        for records in rows:
            name, pixels = bands.NAMES[records[0][4]], mixed.band(batch.data, records[0])
            prefix = "s1" if name in bands.SAR else "s2"
            (own,) = (at for at in range(len(NAMES)) if np.array_equal(values[f"{prefix}_{at}"][name], pixels))
            found[-1].append(own)
    return found


@pytest.mark.parametrize("modality", ["ms+sar", "ms", "sar"])
@pytest.mark.parametrize("world", [1, 2])
def test_views_are_of_one_place_and_two_seasons_as_plain_python_draws_them(db: Path, modality: str, world: int) -> None:
    values, seed = mixed.entries(db), 7
    for rank in range(world):
        samples = mixed.samples_of(db, modality=modality)
        paired = take(Loader(samples, batch=4, seed=seed, bands=PAIRED, part=Part(rank, world)), 10)
        plain = take(Loader(samples, batch=4, seed=seed, bands=Drawn(2, 1), part=Part(rank, world)), 10)
        for batch, other in zip(paired, plain, strict=True):
            assert torch.equal(batch.samples, other.samples)  # the same order, bands, crops
            assert torch.equal(batch.records[..., 1:], other.records[..., 1:])
            for (first, second), sample in zip(shown(batch, values), batch.positions.tolist(), strict=True):
                assert first == sample
                season = others(sample) or [sample]
                word = oracle.philox((seed, 0), (sample, batch.epoch, 1, 5))[0]
                assert second == season[word * len(season) >> 32]


def test_all_partners_occur_about_equally_often(db: Path) -> None:
    samples, counts = mixed.samples_of(db), Counter[tuple[int, int]]()
    for epoch in range(300):
        pairs = samples.shown(np.arange(len(NAMES)), 3, epoch, views=2)
        counts.update(map(tuple, pairs.tolist()))
    assert counts.keys() == {(at, other) for at in range(len(NAMES)) for other in others(at) or [at]}
    for (at, _), count in counts.items():
        mean = 300 / max(len(others(at)), 1)
        assert abs(count - mean) < 5 * np.sqrt(mean)


def test_it_goes_on_bit_for_bit_with_a_cache_too_and_knows_its_state(db: Path) -> None:
    samples = mixed.samples_of(db)
    whole = take(Loader(samples, batch=4, seed=1, bands=PAIRED), 14)
    with Loader(samples, batch=4, seed=1, bands=PAIRED) as loader:
        first = [mixed.copied(batch) for batch in itertools.islice(loader, 3)]
        state = loader.state_dict()
    cached = mixed.samples_of(db, threads=3)
    cached.fill_cache("host")
    again = Loader(cached, batch=4, seed=1, bands=PAIRED)
    again.load_state_dict(state)
    rest = take(again, 11)
    mixed.same(whole, [*first, *rest])
    with pytest.raises(DataError, match="pair_seasons is True in the state and False here"):
        Loader(samples, batch=4, seed=1, bands=Drawn(2, 1)).load_state_dict(state)


def test_the_stream_shows_what_samples_tell(db: Path) -> None:
    samples, values = mixed.samples_of(db), mixed.entries(db)
    (batch,) = take(Loader(samples, batch=20, seed=5, bands=Drawn(3, 2, pair_seasons=True)), 1)
    want = samples.shown(batch.positions.numpy(), 5, 0, views=3)
    assert shown(batch, values) == want.tolist()
    data, records = samples.read(want, batch.records[..., 4].numpy().astype(np.int32))
    assert torch.equal(records[..., 1:], batch.records[..., 1:])
    assert shown(batch._replace(data=data, records=records), values) == want.tolist()


def config(db: Path, **data: object) -> Config:
    views = ViewConfig(size=8)
    return Config(DataConfig(data=(db,), **data), views, optim=OptimConfig(batch=4))  # type: ignore[arg-type]


def test_single_seasons_are_counted_and_databases_without_seasons_refused(db: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    open_samples(config(db, pair_seasons=True), ALONE, console)
    told = "1 of 22 samples are the only season of their place, and paired with themselves"
    assert told in console.file.getvalue()  # type: ignore[attr-defined]
    single = database(tmp_path / "single", ["0000001_0", "0000002_0", "0000003_0", "0000004_3"])
    with pytest.raises(DataError, match="no place has two seasons among 4 samples"):
        open_samples(config(single, pair_seasons=True), ALONE, console)
    with pytest.raises(DataError, match="scenes has no seasons of a place; ingest's ssl4eo has"):
        open_samples(config(database(tmp_path / "scenes", layout="sen12ms"), pair_seasons=True), ALONE, console)
    with pytest.raises(DataError, match="sample 'mine' names no season of a place"):
        place_of("mine")
    asked = differences(config(db), config(db, pair_seasons=True))
    assert asked == ["data.pair_seasons (False in the run, True asked)"]


def test_the_preview_pairs_them_too(db: Path) -> None:
    cfg = dataclasses.replace(config(db), data=DataConfig(statistics="SEN12MS L1C", pair_seasons=True))
    paired, plain = (pictures(db, one, samples=3, pairs=1) for one in (cfg, config(db, statistics="SEN12MS L1C")))
    for own, other in zip(paired, plain, strict=True):
        assert [np.array_equal(a[1], b[1]) for a, b in zip(own, other, strict=True)][-2] is True  # of the sample itself
    assert any(not np.array_equal(own[-1][1], other[-1][1]) for own, other in zip(paired, plain, strict=True))


def test_cycles_close(db: Path) -> None:
    assert cycles("abaca").tolist() == [2, 1, 4, 3, 0]
    assert isinstance(Samples(db).partners, np.ndarray)
