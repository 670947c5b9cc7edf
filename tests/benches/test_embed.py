"""Seams and the loss by 8 bits are those of maps and vectors that are known."""

import numpy as np
import pyarrow
import pytest

from benches import embed


def test_seams_are_steps_at_window_borders_in_units_of_those_inside() -> None:
    """A ramp of slope 1 with a step of 5 between windows of 8, in layers of any scale; borders of patches left out."""
    line = np.arange(300.0) + 4 * (np.arange(300) // 8) + 100 * (np.arange(300) >= embed.PATCH)
    ramp = line[:, None] + line
    assert embed.seams([ramp, 1e-3 * ramp], 8) == pytest.approx(5)
    assert embed.seams([np.add.outer(np.arange(300.0), np.arange(300.0))], 8) == pytest.approx(1)


def test_the_score_is_of_the_test_split_and_8_bits_lose_little() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    vectors = (np.eye(3)[labels] + 0.2 * rng.normal(size=(300, 3))).astype(np.float32)
    splits = np.where(np.arange(300) < 200, "train", "test")
    table = pyarrow.table({"embedding": list(vectors), "label": labels, "split": splits})
    assert embed.score(table, False) > 0.95
    assert embed.score(table, True) == pytest.approx(embed.score(table, False), abs=0.03)
    wrong = table.set_column(1, "label", pyarrow.array(np.where(splits == "test", (labels + 1) % 3, labels)))
    assert embed.score(wrong, False) < 0.1


def test_a_mosaic_shows_no_patch_twice() -> None:
    pixels, source = embed.mosaic(2)
    assert pixels.shape == (12, 2 * embed.PATCH, 2 * embed.PATCH)
    parts = [pixels[3, r : r + embed.PATCH, c : c + embed.PATCH] for r in (0, embed.PATCH) for c in (0, embed.PATCH)]
    assert len({part.tobytes() for part in parts}) == 4
    assert source in ("terramesh S2L2A", "synthetic")
