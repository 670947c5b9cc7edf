"""The look at some sources before anything is written: how many, and which of their faults end the ingest."""

from pathlib import Path

import numpy as np
import pytest

from rsdnet.errors import DataError
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.source import Image, Recipe, Source
from rsdnet.ingest.survey import spread, survey
from tests.ingest.test_grids import layout, reasons
from tests.ingest.test_ingest import s1, s2
from tests.support import geotiffs


def sources(root: Path, count: int, size: int = 1000) -> list[Source]:
    """Sources of one file of `size` bytes each."""
    found = []
    for number in range(count):
        path = root / f"{number:03}.tif"
        path.write_bytes(bytes(size))
        found.append(Source(path.stem, path.stem, {"ms": Image.of_file(path, ("B02",))}))
    return found


@pytest.mark.parametrize(
    ("count", "limit", "want"), [(300, 1 << 30, 128), (5, 1 << 30, 5), (300, 10_500, 10), (5, 10, 1)]
)
def test_as_many_as_the_limits_allow_are_looked_at_evenly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, limit: int, want: int
) -> None:
    monkeypatch.setattr("rsdnet.ingest.survey._BYTES", limit)
    picked = [int(source.name) for source in spread(sources(tmp_path, count))]
    assert len(picked) == want
    steps = np.diff([*picked, count])
    assert picked[0] == 0
    assert steps.max() - steps.min() <= 1


@pytest.mark.parametrize(("bad", "ends"), [(1, False), (2, True)])
def test_one_implausible_image_is_left_out_and_more_than_a_tenth_end_the_ingest(
    tmp_path: Path, bad: int, ends: bool
) -> None:
    for number in range(8):
        radar = s1(seed=number)
        geotiffs.pair(tmp_path, f"p{number}", s2(seed=number), 10 ** (radar / 10) if number < bad else radar)
    if ends:
        with pytest.raises(DataError, match=r"likely power, .* \(so 2 of 8 sources; --implausible keep"):
            ingest(layout(tmp_path))
        assert not (tmp_path / "db").exists()
    else:
        ingest(layout(tmp_path))
        assert list(reasons(tmp_path / "db")) == ["p0"]


def test_sources_of_label_maps_alone_are_no_samples(tmp_path: Path) -> None:
    path = geotiffs.write(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint8))
    alone = Source("a", "a", {"map": Image.of_file(path, ("Data",))})
    with pytest.raises(DataError, match=r"nothing of .* could be ingested: no source has an S2 or S1 image"):
        survey([alone], Recipe({}), 1, tmp_path)
