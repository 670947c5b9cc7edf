"""The look at some sources before anything is written: how many, and which of their faults end the ingest."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rsdnet.data.catalog import Catalog
from rsdnet.errors import INTERRUPTED, DataError
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.eurosat import EuroSat
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


def test_sources_that_are_left_out_anyway_are_not_looked_at(tmp_path: Path) -> None:
    for number in range(300):
        geotiffs.write(tmp_path / "src" / "Forest" / f"Forest_{number:03}.tif", s2(8, count=13))
    (tmp_path / "src" / "eurosat-train.txt").write_text("Forest_001\n")  # every 2nd or 3rd, from the first, is spread
    ingest(EuroSat(tmp_path / "src", tmp_path / "db"))
    assert Catalog.read(tmp_path / "db").samples.tolist() == ["Forest_001"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"split": "validation"}, "the split 'validation': it must be one of train, val, test"),
        ({"label": 10}, "but there are 10 class names"),
        ({"label": -1}, "none is None"),
    ],
)
def test_splits_and_labels_of_a_layout_are_checked_first(tmp_path: Path, change: dict, said: str) -> None:
    class Own(EuroSat):
        def sources(self) -> list[Source]:
            first, *others = super().sources()
            return [*others, first._replace(**change)]

    for number in range(3):
        geotiffs.write(tmp_path / "src" / "Forest" / f"Forest_{number}.tif", s2(8, count=13))
    with pytest.raises(DataError, match=f"sample Forest_0 has .*{said}"):
        ingest(Own(tmp_path / "src", tmp_path / "db"))
    assert not (tmp_path / "db").exists()


def test_labels_of_a_layout_without_class_names_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class Own(EuroSat):
        def sources(self) -> list[Source]:
            bare = Source("bare", "bare", {}), Source("empty", "empty", {"ms": Image("empty", ())})
            return [*bare, *(source._replace(label=2) for source in super().sources())]

        def recipe(self) -> Recipe:
            return replace(super().recipe(), class_names=None)

    geotiffs.write(tmp_path / "src" / "Forest" / "a.tif", s2(8, count=13))
    ingest(Own(tmp_path / "src", tmp_path / "db"))
    assert "labels: 1 of 1 samples, 3 classes (2 without a sample: 0, ...)" in capsys.readouterr().out
    made = Catalog.read(tmp_path / "db")
    assert (made.classes, made.label.tolist()) == (("0", "1", "2"), [2])
    assert reasons(tmp_path / "db").keys() == {"bare", "empty"}


def test_an_interruption_before_the_first_image_gets_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class Slow(EuroSat):
        def sources(self) -> list[Source]:
            raise KeyboardInterrupt

    assert ingest(Slow(tmp_path, tmp_path / "db")) == INTERRUPTED
    assert capsys.readouterr().out == "interrupted: nothing was written; run the same command again\n"


def test_classes_without_a_sample_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for name in ("ice", "sea", "thumbnails"):
        geotiffs.write(tmp_path / "src" / name / f"{name}_0.tif", s2(8, count=3 if name == "thumbnails" else 13))
    ingest(EuroSat(tmp_path / "src", tmp_path / "db"))
    assert "labels: 2 of 2 samples, 3 classes (1 without a sample: thumbnails)\n" in capsys.readouterr().out


def test_sources_of_label_maps_alone_are_no_samples(tmp_path: Path) -> None:
    path = geotiffs.write(tmp_path / "a.tif", np.ones((1, 8, 8), np.uint8))
    alone = Source("a", "a", {"map": Image.of_file(path, ("Data",))})
    with pytest.raises(DataError, match=r"nothing of .* could be ingested: no source has an S2 or S1 image"):
        survey([alone], Recipe({}), 1, tmp_path)
