"""The preview shows what the trainer sees."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rsdnet.config import Config, ViewConfig
from rsdnet.pictures import pictures


def test_the_grid_holds_bands_and_pairs_of_views(tiny_db: Path) -> None:
    rows = pictures(tiny_db, Config(), samples=4, pairs=2)
    assert len(rows) == 4
    for row in rows:
        titles = [title for title, _ in row]
        assert "B04 B03 B02" in titles[0]
        assert len([title for title in titles if title.startswith("view")]) == 4
        for _, image in row:
            assert image.min() >= 0
            assert image.max() <= 1
            assert np.isfinite(image).all()
    assert "smooth" in rows[0][0][0]


def test_views_of_fixed_bands_are_named_by_their_channels(tiny_db: Path) -> None:
    cfg = Config(views=ViewConfig(ms_view=("B04", "B03", "B02"), sar_view=("VV", "VH", "VV-VH")))
    for row in pictures(tiny_db, cfg, samples=2, pairs=2):
        shown = [(title, image) for title, image in row if title.startswith("view")]
        assert sorted(title for title, _ in shown) == ["view B04 B03 B02"] * 2 + ["view VV VH VV-VH"] * 2
        assert {image.shape for _, image in shown} == {(128, 128, 3)}


def test_views_are_blurred_as_the_trainer_blurs_them(tiny_db: Path) -> None:
    def shown(*blur: float) -> list[list[tuple[str, np.ndarray]]]:
        cfg = Config(views=ViewConfig(blur=blur))  # type: ignore[arg-type]
        return pictures(tiny_db, cfg, samples=3, pairs=1)

    # Of the three samples one is smooth, which no blur changes.
    for sharp, blurred in list(zip(shown(0, 0), shown(1, 0), strict=True))[1:]:
        same = [np.array_equal(one[1], other[1]) for one, other in zip(sharp, blurred, strict=True)]
        assert same[-2:] == [False, True]  # of the pair of views the first alone
        assert all(same[:-2])  # nor are whole patches


def test_the_command_writes_a_png(tiny_db: Path, tmp_path: Path) -> None:
    out = tmp_path / "look.png"
    argv = [sys.executable, "-m", "rsdnet.preview", str(tiny_db), str(out), "--samples=2"]
    subprocess.run(argv, check=True, capture_output=True)
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("target", ["nowhere/look.png"])
def test_a_folder_that_is_not_there(tiny_db: Path, tmp_path: Path, target: str) -> None:
    argv = [sys.executable, "-m", "rsdnet.preview", str(tiny_db), str(tmp_path / target)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "rsdnet.preview", str(tmp_path / "db"), str(tmp_path / "look.png")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
