"""Philox against Random123's known answers, in PyTorch and in Triton, and against Python's integers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rsdnet.kernels import philox

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # of a Triton kernel: the interpreter's is the CPU
ONES = 0xFFFFFFFF
# Random123 tests/kat_vectors, philox4x32 10: counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
word = st.integers(0, ONES)


def python_philox(counter, key):
    """Salmon et al. 2011, section 5.1, in Python's unbounded integers."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(10):
        p, q = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (q >> 32) ^ b ^ k0, q & ONES, (p >> 32) ^ d ^ k1, p & ONES
        k0, k1 = (k0 + 0x9E3779B9) & ONES, (k1 + 0xBB67AE85) & ONES
    return a, b, c, d


def in_pytorch(counters, seed):
    columns = torch.tensor(counters, dtype=torch.int64).unbind(1)
    return torch.stack(philox.philox_words(seed, *columns), 1).tolist()


def in_triton(counters, seed, block=8):
    counter = torch.tensor(counters, dtype=torch.int64, device=DEVICE)
    words = torch.full_like(counter, -1)
    grid = (-(-len(counter) // block),)
    philox.philox_kernel[grid](counter, words, *philox.seed_words(seed), len(counter), block)
    return words.tolist()


@pytest.mark.parametrize("generate", [in_pytorch, in_triton])
@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(generate, counter, key, words):
    assert generate([counter], key[0] | key[1] << 32) == [list(words)]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(word, word, word, word), min_size=1, max_size=9), st.integers(0, 2**64 - 1))
def test_pytorch_and_triton_give_the_words_of_python_integers(counters, seed):
    expected = [list(python_philox(counter, (seed & ONES, seed >> 32))) for counter in counters]
    assert in_pytorch(counters, seed) == expected
    assert in_triton(counters, seed) == expected


def test_counters_are_taken_modulo_two_to_the_32():
    assert in_pytorch([(2**32 + 5, -1, 2, 3)], 7) == in_pytorch([(5, ONES, 2, 3)], 7)
    assert in_triton([(2**32 + 5, -1, 2, 3)], 7) == in_triton([(5, ONES, 2, 3)], 7)


@given(word)
def test_uniform_is_exact_and_below_one(w):
    value = philox.uniform(torch.tensor(w)).item()
    assert value == (w >> 8) / 2**24
    assert 0 <= value < 1


@given(word, st.integers(1, 1000))
def test_pick_is_in_range_and_exact(w, n):
    assert philox.pick(torch.tensor(w), n).item() == w * n // 2**32 < n
