# mypy: disallow-untyped-defs=False
"""Philox4x32-10, the counter-based generator behind every draw: words = philox(key, counter), with no state.

Salmon, Moraes, Dror, Shaw: *Parallel Random Numbers: As Easy as 1, 2, 3*, SC 2011; Random123's `philox4x32`.
Here key = (seed, seed >> 32) and counter = (sample, epoch, view, stream), each taken modulo 2^32, so that a
draw depends on nothing but those numbers: not on the batch, the thread, the device or what was drawn before.

    uniform(w) = (w >> 8) * 2^-24     in [0, 1), exact in float32
    pick(w, n) = (w * n) >> 32        in 0..n-1

`philox_words`, `uniform` and `pick` are the PyTorch reference; `philox4`, `uniform_of` are the same inside a
Triton kernel.
"""

import torch
from torch import Tensor

from ._triton import tl, triton

MASK = 0xFFFFFFFF
# Multipliers and key increments: Random123 include/Random123/philox.h, PHILOX_M4x32_* and PHILOX_W32_*.
M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10

# Streams: what the fourth counter word names. BAND + c // 4 and JITTER + c go by the view's channel c; SPECKLE has one
# counter a pixel, from far above the others.
PAIR, CROP, TURN, BLUR, BAND, JITTER, SPECKLE = 0, 1, 2, 3, 8, 16, 1 << 30


def _wide_product(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * b for 32-bit a and b, by 16-bit halves: no intermediate passes 2^49."""
    high, low = a * (b >> 16), a * (b & 0xFFFF)
    middle = high + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def philox_words(
    seed: int, sample: Tensor, epoch: int | Tensor, view: int | Tensor, stream: int | Tensor
) -> list[Tensor]:
    """The four words of each counter (sample, epoch, view, stream) under the key made of `seed`.

    seed: 64-bit int. sample: int64 tensor; the others are ints or int64 tensors that broadcast with it.
    Returns four int64 tensors of values in 0..2^32-1, on sample's device, of the broadcast shape.
    """
    counter = [
        torch.as_tensor(c, dtype=torch.int64, device=sample.device) & MASK for c in (sample, epoch, view, stream)
    ]
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = seed & MASK, (seed >> 32) & MASK
    for _ in range(ROUNDS):
        high0, low0 = _wide_product(M0, c0)
        high1, low1 = _wide_product(M1, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + W0) & MASK, (k1 + W1) & MASK
    return [c0, c1, c2, c3]


def uniform(word: Tensor) -> Tensor:
    """float32 in [0, 1) from a word: its upper 24 bits, so that the conversion is exact."""
    return (word >> 8).to(torch.float32) * 2.0**-24


def pick(word: Tensor, n: int) -> Tensor:
    """An integer in 0..n-1 from a word (n < 2^31); the bias is below n / 2^32."""
    return (word * n) >> 32


def check_seed(seed: int) -> None:
    """Raises ValueError on a seed outside 0 to 2^63 - 1."""
    if not 0 <= seed < 1 << 63:
        raise ValueError(f"seed: {seed}, expected 0 to 2^63 - 1")


def epoch_tensor(epoch: int | Tensor, device: torch.device) -> Tensor:
    """An epoch as a 0-dim int64 tensor on the device; one that is a tensor as it is."""
    return epoch if isinstance(epoch, Tensor) else torch.full((), epoch, dtype=torch.int64, device=device)


def seed_words(seed: int) -> tuple[int, int]:
    """The key's two words as signed 32-bit ints: a kernel argument of one type whatever the seed."""

    def signed(word: int) -> int:
        return word - (1 << 32) if word >> 31 else word

    return signed(seed & MASK), signed((seed >> 32) & MASK)


@triton.jit
def philox4(k0, k1, sample, epoch, view, stream):
    """The four uint32 words of a counter. sample: integer tensor or scalar; the rest are of its shape, or ints."""
    zero = sample.to(tl.uint32) * 0  # gives plain ints and other widths sample's shape and the words' type
    return tl.philox_impl(
        sample.to(tl.uint32),
        (zero + epoch).to(tl.uint32),
        (zero + view).to(tl.uint32),
        (zero + stream).to(tl.uint32),
        (zero + k0).to(tl.uint32),
        (zero + k1).to(tl.uint32),
    )


@triton.jit
def uniform_of(word):
    """float32 in [0, 1) from a uint32 word, as `uniform`."""
    return (word >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2^-24


@triton.jit
def philox_kernel(
    counter_ptr,  # (n, 4) int64: sample, epoch, view, stream
    words_ptr,  # (n, 4) int64 out
    k0,  # seed, low word, int32
    k1,  # seed, high word, int32
    n,
    BLOCK: tl.constexpr,
):
    """Words of n counters: for tests, which compare them with the reference and with C++."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = row < n
    at = counter_ptr + row * 4
    c0, c1 = tl.load(at, mask=live, other=0), tl.load(at + 1, mask=live, other=0)
    c2, c3 = tl.load(at + 2, mask=live, other=0), tl.load(at + 3, mask=live, other=0)
    w0, w1, w2, w3 = philox4(k0, k1, c0, c1, c2, c3)
    to = words_ptr + row * 4
    tl.store(to, w0.to(tl.int64), mask=live)
    tl.store(to + 1, w1.to(tl.int64), mask=live)
    tl.store(to + 2, w2.to(tl.int64), mask=live)
    tl.store(to + 3, w3.to(tl.int64), mask=live)
