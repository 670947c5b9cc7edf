"""C++, PyTorch and Triton draw the same integers, and the integers that were drawn when this file was written."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rsdnet.kernels import draw_bands, philox

_reader = pytest.importorskip("rsdnet._reader")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # of the Triton kernel: the interpreter's is the CPU
ONES = 0xFFFFFFFF
POOLS = {"ms": [1, 2, 3, 4, 5, 6, 7, 8, 11, 12], "sar": [13, 14]}

# Golden: seed 20220502, epoch 3, samples 0 7 4294967295, two views, three channels, modality ms+sar.
GOLDEN_SEED, GOLDEN_EPOCH, GOLDEN_SAMPLES = 20220502, 3, [0, 7, 4294967295]
GOLDEN_BANDS = [[[14, 13, 14], [11, 12, 2]], [[12, 4, 8], [13, 14, 13]], [[13, 14, 13], [2, 8, 7]]]


def in_cpp(seed, epoch, samples, views, channels, pools, modality):
    samples = np.asarray(samples, np.int64)
    return _reader.draw_bands(seed, epoch, samples, views, channels, pools["ms"], pools["sar"], modality).tolist()


def in_pytorch(seed, epoch, samples, views, channels, pools, modality):
    return draw_bands(seed, epoch, torch.tensor(samples), views, channels, pools, modality).tolist()


def in_triton(counters, seed):
    counter = torch.from_numpy(counters.astype(np.int64)).to(DEVICE)
    words = torch.full_like(counter, -1)
    philox.philox_kernel[(-(-len(counter) // 16),)](counter, words, *philox.seed_words(seed), len(counter), 16)
    return words.cpu().numpy()


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**64 - 1),
    counters=st.lists(st.tuples(*[st.integers(0, ONES)] * 4), min_size=1, max_size=20),
)
def test_words_agree(seed, counters):
    counters = np.array(counters, np.uint32)
    columns = torch.from_numpy(counters.astype(np.int64)).unbind(1)
    expected = _reader.philox(np.array([seed & ONES, seed >> 32], np.uint32), counters).astype(np.int64)
    np.testing.assert_array_equal(torch.stack(philox.philox_words(seed, *columns), 1).numpy(), expected)
    np.testing.assert_array_equal(in_triton(counters, seed), expected)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 2**31 - 1),
    samples=st.lists(st.integers(0, ONES), min_size=1, max_size=9),
    views=st.integers(1, 4),
    channels=st.integers(1, 13),
    ms=st.lists(st.integers(0, 12), min_size=1, max_size=13, unique=True),
    sar=st.lists(st.integers(13, 14), min_size=1, max_size=2, unique=True),
    modality=st.sampled_from(["ms+sar", "ms", "sar"]),
)
def test_bands_agree(seed, epoch, samples, views, channels, ms, sar, modality):
    arguments = seed, epoch, samples, views, channels, {"ms": ms, "sar": sar}, modality
    assert in_cpp(*arguments) == in_pytorch(*arguments)


@pytest.mark.parametrize("draw", [in_cpp, in_pytorch])
def test_golden_bands(draw):
    assert draw(GOLDEN_SEED, GOLDEN_EPOCH, GOLDEN_SAMPLES, 2, 3, POOLS, "ms+sar") == GOLDEN_BANDS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "both"}, "modality is 'both'"),
        ({"epoch": -1}, "epoch is -1"),
        ({"samples": np.array([2**32])}, "one of samples is 4294967296"),
        ({"samples": np.zeros((1, 1), np.int64)}, r"samples has shape \(1, 1\)"),
        ({"views": 0}, "views must be"),
        ({"ms_pool": []}, "ms_pool is empty"),
        ({"channels": 3, "ms_view": [1, 2]}, "needs one for each channel"),
    ],
)
def test_draws_refuse_what_is_out_of_range(change, message):
    arguments = {"seed": 0, "epoch": 0, "samples": np.arange(2), "views": 2, "channels": 1}
    arguments |= {"ms_pool": [1], "sar_pool": [2], "modality": "ms+sar"}
    with pytest.raises(ValueError, match=message):
        _reader.draw_bands(**(arguments | change))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"partners": np.array([1, 1])}, ValueError, "partners must hold each of the samples once"),
        ({"positions": np.array([2])}, IndexError, "there is no sample 2"),
        ({"samples": np.arange(2)}, ValueError, "samples and positions differ in length"),
    ],
)
def test_partners_refuse_what_is_out_of_range(change, error, message):
    arguments = {"seed": 0, "epoch": 0, "samples": np.arange(1), "positions": np.arange(1), "views": 2}
    with pytest.raises(error, match=message):
        _reader.draw_partners(**({"partners": np.array([1, 0])} | arguments | change))
