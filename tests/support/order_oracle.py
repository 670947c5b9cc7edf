"""The order of samples once more, in plain Python integers, from its description alone: the reader must agree."""

import bisect
from itertools import accumulate

M32 = 0xFFFFFFFF


def philox(key: tuple[int, int], counter: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 (Salmon et al. 2011)."""
    k0, k1 = key
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & M32, (p0 >> 32) ^ c3 ^ k1, p0 & M32
        k0, k1 = (k0 + 0x9E3779B9) & M32, (k1 + 0xBB67AE85) & M32
    return c0, c1, c2, c3


def fmix32(x: int) -> int:
    """MurmurHash3's finaliser."""
    x = (x ^ (x >> 16)) * 0x85EBCA6B & M32
    x = (x ^ (x >> 13)) * 0xC2B2AE35 & M32
    return x ^ (x >> 16)


def permute(seed: int, epoch: int, which: int, n: int, position: int) -> int:
    """Where `position` < n goes: 8 Feistel rounds on max(8, bits) bits, walked until the result is below n."""
    key = (seed & M32, seed >> 32)
    keys = [word for quarter in (0, 1) for word in philox(key, (quarter, epoch & M32, which, 4))]
    bits = max(8, (n - 1).bit_length())
    low_bits = bits - bits // 2
    low_mask, high_mask = (1 << low_bits) - 1, (1 << bits // 2) - 1
    while True:
        low, high = position & low_mask, position >> low_bits
        for index, word in enumerate(keys):
            if index % 2 == 0:
                high ^= fmix32(low ^ word) & high_mask
            else:
                low ^= fmix32(high ^ word) & low_mask
        position = high << low_bits | low
        if position < n:
            return position


def order(seed: int, epoch: int, counts: list[int], quotas: list[int], position: int) -> tuple[int, int]:
    """Sample at a position of an epoch, and how often it came before in that epoch."""
    place = permute(seed, epoch, 0, sum(quotas), position)
    ends = list(accumulate(quotas))
    database = bisect.bisect_right(ends, place)
    at = place - (ends[database] - quotas[database])
    first, count, quota = sum(counts[:database]), counts[database], quotas[database]
    if quota == count:
        return first + at, 0
    dealt = epoch * quota + at
    sample = permute(seed, dealt // count, 1 + database, count, dealt % count)
    return first + sample, dealt // count - epoch * quota // count


def shard(length: int, batch: int, world: int, rank: int, step: int) -> range:
    """Positions of an epoch that a rank reads at a step of it."""
    begin = step * batch * world
    left = min(batch * world, length - begin)
    if left == batch * world:
        return range(begin + rank * batch, begin + (rank + 1) * batch)
    return range(begin + left * rank // world, begin + left * (rank + 1) // world)
