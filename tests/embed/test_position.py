"""The position part of maps: known patterns are found, the content of windows is left."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rsdnet.embed.position import position_of, without
from tests.embed import scenes
from tests.support import encoders, geotiffs


def windows(count: int, pattern: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Maps (count, c, h, w): levels and textures of their own, and a pattern (c, h, w) that all of them share."""
    generator = torch.Generator().manual_seed(seed)
    levels = 5 * torch.randn(count, len(pattern), 1, 1, generator=generator)
    return levels + torch.randn(count, *pattern.shape, generator=generator) + pattern


def test_a_shared_pattern_is_found_and_taken_away() -> None:
    pattern = torch.zeros(2, 6, 6)
    pattern[0, 0], pattern[0, :, -1] = 4.0, -3.0  # near two borders, of one channel alone
    maps = windows(200, pattern)
    (found,) = position_of([[part] for part in maps.split(64)])
    centred = pattern - pattern.mean((1, 2), keepdim=True)
    assert (found[0] - centred[0]).abs().max() < 0.3  # of a deviation of 1 / sqrt(200)
    assert found[1].abs().max() < 0.1
    (left,) = without([maps], [found])
    assert left.mean(0).std((1, 2)).max() < 0.1
    torch.testing.assert_close(left.mean((2, 3)), maps.mean((2, 3)), rtol=0, atol=1e-5)  # levels stay


def test_of_a_few_windows_the_content_stays() -> None:
    maps = windows(3, torch.zeros(8, 6, 6))
    (found,) = position_of([[maps]])
    assert found.square().mean() < 0.1 * maps.mean(0).var((1, 2)).mean()
    assert not position_of([[maps[:1]]])[0].any()
    assert not position_of([[maps]], independent=0.3)[0].any()
    assert position_of([]) == []
    assert without([maps], []) == [maps]


def test_an_output_shows_no_place_of_the_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the mean over 64 windows side by side of one noise: of the maps as they are it has a pattern, else none."""
    rng, side = np.random.default_rng(0), encoders.SIDE
    pixels = rng.integers(1000, 3000, (1, 8 * side, 8 * side)).astype(np.uint16)
    scene = geotiffs.write(tmp_path / "scene_B08.tif", pixels)
    encoder, shares = encoders.written(tmp_path), {}
    for position in ("keep", "subtract"):
        options = (f"--stride={side}", "--features=layer1", f"--position={position}", "--offset=0", "--bands", "B08")
        assert scenes.run(monkeypatch, encoder, scene, tmp_path / f"{position}.tif", *options) == 0
        maps = scenes.read(tmp_path / f"{position}.tif").reshape(-1, 8, side, 8, side)
        shares[position] = maps.mean((1, 3)).var((1, 2)).sum() / maps.var((1, 2, 3, 4)).sum()
    assert shares["subtract"] < 0.3 * shares["keep"]
    assert shares["subtract"] < 2 / 64  # of the noise
