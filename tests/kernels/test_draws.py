"""The draws of views: against a plain-Python derivation of the published rule, and their properties."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rsdnet.kernels import ViewSpec, draw_bands, draw_modalities, draw_views

ONES = 0xFFFFFFFF
POOLS = {"ms": [1, 2, 3, 4, 5, 6, 7, 8, 11, 12], "sar": [13, 14]}


def words(seed, sample, epoch, view, stream):
    """Philox4x32-10 in Python's integers, which test_kernels_philox.py holds against the known answers."""
    a, b, c, d = sample & ONES, epoch & ONES, view, stream
    k0, k1 = seed & ONES, seed >> 32
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k0, q & ONES, (p >> 32) ^ d ^ k1, p & ONES
        k0, k1 = (k0 + 0x9E3779B9) & ONES, (k1 + 0xBB67AE85) & ONES
    return a, b, c, d


def python_bands(seed, epoch, sample, view, channels, pools, modality):
    """One view's bands by taking from a shrinking list, in place of the rank arithmetic of the reference."""
    sensor = modality
    if modality == "ms+sar":
        sensor = "sar" if (view + words(seed, sample, epoch, 0, 0)[0]) & 1 else "ms"
    left, bands = [], []
    for channel in range(channels):
        left = left or list(pools[sensor])
        w = words(seed, sample, epoch, view, 8 + channel // 4)[channel % 4]
        bands.append(left.pop(w * len(left) >> 32))
    return bands


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**32 - 1), first=st.integers(0, 2**33),
    views=st.integers(1, 3), channels=st.integers(1, 14), modality=st.sampled_from(["ms+sar", "ms", "sar"]),
)  # fmt: skip
def test_bands_follow_the_rule(seed, epoch, first, views, channels, modality):
    samples = torch.arange(first, first + 4)
    drawn = draw_bands(seed, epoch, samples, views, channels, POOLS, modality)
    expected = [
        [python_bands(seed, epoch, sample, view, channels, POOLS, modality) for view in range(views)]
        for sample in samples.tolist()
    ]
    assert drawn.tolist() == expected


def test_two_views_are_two_sensors_in_random_order():
    sar = draw_modalities(3, 0, torch.arange(2000), 2)
    assert (sar[:, 0] != sar[:, 1]).all()
    assert abs(sar[:, 0].float().mean() - 0.5) < 0.05
    assert not draw_modalities(3, 0, torch.arange(9), 2, "ms").any()
    assert draw_modalities(3, 0, torch.arange(9), 2, "sar").all()


def test_every_band_is_drawn_about_as_often():
    bands = draw_bands(0, 0, torch.arange(20000), 1, 3, POOLS, "ms")
    for channel in range(3):
        counts = torch.bincount(bands[:, 0, channel], minlength=15)[POOLS["ms"]]
        assert (counts - 2000).abs().max() < 5 * math.sqrt(2000)
    assert all(len(set(row)) == 3 for row in bands[:, 0].tolist())


def test_epoch_may_be_a_tensor_and_draws_do_not_depend_on_the_batch():
    samples = torch.randint(0, 10**6, (31,))
    whole = draw_bands(9, torch.tensor(4), samples, 2, 3, POOLS)
    parts = [draw_bands(9, 4, sample[None], 2, 3, POOLS) for sample in samples]
    assert torch.equal(whole, torch.cat(parts))
    spec = ViewSpec(8)
    for a, b in zip(draw_views(spec, 9, 4, samples, 2, 3), draw_views(spec, 9, 4, samples[5:6], 2, 3), strict=True):
        assert torch.equal(a[5:6], b)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**64 - 1), st.integers(0, 10**9), st.integers(0, 5))
def test_draws_follow_the_rule(seed, sample, view):
    spec = ViewSpec(8, scale=(0.1, 0.9), ratio=(0.5, 3.0))
    draws = draw_views(spec, seed, 7, torch.tensor([sample]), 6, 2)
    u = [(w >> 8) / 2**24 for w in words(seed, sample, 7, view, 1)]
    area, ratio = 0.1 + u[0] * 0.8, math.exp(math.log(0.5) + u[1] * math.log(6))
    height, width = min(1, math.sqrt(area / ratio)), min(1, math.sqrt(area * ratio))
    expected = [u[2] * (1 - height), u[3] * (1 - width), height, width]
    assert [part[0, view].item() for part in draws[:4]] == pytest.approx(expected, rel=1e-5, abs=1e-6)
    turn = words(seed, sample, 7, view, 2)[0]
    assert draws.flip[0, view].item() == bool(turn & 1)
    assert draws.turns[0, view].item() == turn >> 1 & 3
    for channel in range(2):
        gain, offset, _, _ = words(seed, sample, 7, view, 16 + channel)
        assert draws.gain_u[0, view, channel].item() == (gain >> 8) / 2**24
        assert draws.offset_u[0, view, channel].item() == (offset >> 8) / 2**24


def test_crops_lie_inside_the_patch_and_plain_is_the_whole_patch():
    draws = draw_views(ViewSpec(8, scale=(0.08, 1.0)), 0, 0, torch.arange(5000), 2, 1)
    for corner, side in ((draws.top, draws.height), (draws.left, draws.width)):
        assert corner.min() >= 0
        assert (corner + side).max() <= 1 + 1e-6
    assert abs((draws.height * draws.width).mean() - 0.54) < 0.02  # uniform from 0.08 to 1; a few are cut to the patch
    assert torch.bincount(draws.turns.flatten()).min() > 2300
    plain = draw_views(ViewSpec.plain(8), 0, 0, torch.arange(50), 2, 1)
    assert (plain.height == 1).all()
    assert (plain.width == 1).all()
    assert not (plain.top.any())
    assert not (plain.left.any())
    assert not (plain.flip.any())
    assert not (plain.turns.any())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "optical"}, "modality: 'optical'"),
        ({"pools": {"ms": [1], "sar": []}}, "no sar band"),
        ({"channels": 0}, "at least 1"),
    ],
)
def test_bad_draws(change, message):
    arguments = {
        "seed": 0,
        "epoch": 0,
        "samples": torch.arange(3),
        "views": 2,
        "channels": 1,
        "pools": POOLS,
        "modality": "ms+sar",
    }
    with pytest.raises(ValueError, match=message):
        draw_bands(**arguments | change)


@pytest.mark.parametrize(
    "bad", [{"size": 0}, {"scale": (0.0, 1.0)}, {"scale": (0.5, 0.2)}, {"ratio": (0, 1)}, {"dtype": torch.float64}]
)
def test_bad_spec(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        ViewSpec(**{"size": 8} | bad)
