"""A batch of raw bands as the reader gives it, for `bench_views`: for each sample an optical view and a radar view.

Of the ten optical bands of 10 and 20 m, four have `side` pixels and six have half of that, uint16; radar has `side`,
float32. The bands of one kind lie one after the other, so that a peer can take each kind as one dense tensor.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from rsdnet.kernels import DTYPE_CODES, BandRow, ViewSpec, band_table, draw_views
from rsdnet.kernels.records import ALIGN
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from benches.core.clock import DEVICE

SEED = 7
VIEWS = 2
FINE, BANDS, VV = 4, 10, 10  # optical bands 0 to 3 have 10 m, up to 9 20 m; 10 and 11 are radar
OPTICAL = BandRow(1500.0, 1000.0, gain=(0.8, 1.2), offset=(-100.0, 100.0))
RADAR = BandRow(-14.0, 5.0, offset=(-1.0, 1.0), clip=(-25.0, 0.0))


class Kind(NamedTuple):
    """Records alike in type and size, with their draws: what a dense op takes."""

    raw: Tensor  # (G, 1, H, W) uint16 or float32
    to: Tensor  # (G,) int64: row of the views, view by view
    row: Tensor  # (G, columns) float32: of the table
    box: Tensor  # (G, 4) float32: top, left, height, width, shares of the patch
    flip: Tensor  # (G,) bool
    turns: Tensor  # (G,) int64
    gain: Tensor  # (G,) float32
    offset: Tensor  # (G,) float32


@dataclass(frozen=True)
class Batch:
    """What render_views takes, and the same as dense tensors."""

    data: Tensor
    records: Tensor
    samples: Tensor
    table: Tensor
    epoch: Tensor
    spec: ViewSpec
    kinds: tuple[Kind, ...]


def make_batch(seed: int, b: int, side: int, spec: ViewSpec) -> Batch:
    """Pixels by `seed`; bands, crops and turns are the same for every seed, and so are the bytes to move."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    sample, view = torch.arange(b * VIEWS, device=DEVICE) // VIEWS, torch.arange(b * VIEWS, device=DEVICE) % VIEWS
    radar = (sample + view) % 2 == 1
    band = torch.where(radar, VV + sample // 2 % 2, 3 * sample % BANDS)
    table = band_table(VV + 2, {k: OPTICAL if k < BANDS else RADAR for k in range(VV + 2)}).to(DEVICE)
    samples, epoch = torch.arange(b, device=DEVICE), torch.zeros((), dtype=torch.int64, device=DEVICE)
    draws = draw_views(spec, SEED, epoch, samples, VIEWS, 1)
    records = torch.zeros(b * VIEWS, 5, dtype=torch.int64, device=DEVICE)
    stored, kinds, end = [], [], 0
    for chosen, pixels, dtype in (
        (band < FINE, side, torch.uint16),
        ((band >= FINE) & ~radar, side // 2, torch.uint16),
        (radar, side, torch.float32),
    ):
        at = chosen.nonzero()[:, 0]
        raw = pixels_of(len(at), pixels, dtype, generator)
        size = -(-pixels * pixels * dtype.itemsize // ALIGN) * ALIGN
        bytes_ = raw.view(len(at), -1).view(torch.uint8)
        stored.append(pad(bytes_, (0, size - bytes_.shape[1])).flatten())
        offsets = end + size * torch.arange(len(at), device=DEVICE)
        same = [torch.full_like(at, n) for n in (DTYPE_CODES[dtype], pixels, pixels)]
        records[at] = torch.stack([offsets, *same, band[at]], 1)
        end += len(at) * size
        row = table[band[at]]
        gain = row[:, 2] + draws.gain_u.flatten()[at] * (row[:, 3] - row[:, 2])
        offset = row[:, 4] + draws.offset_u.flatten()[at] * (row[:, 5] - row[:, 4])
        box = torch.stack([part.flatten()[at] for part in draws[:4]], 1)
        to = view[at] * b + sample[at]
        kinds.append(Kind(raw, to, row, box, draws.flip.flatten()[at], draws.turns.flatten()[at], gain, offset))
    return Batch(torch.cat(stored), records.view(b, VIEWS, 1, 5), samples, table, epoch, spec, tuple(kinds))


def pixels_of(count: int, pixels: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Random patches, (count, 1, pixels, pixels)."""
    shape = (count, 1, pixels, pixels)
    if dtype == torch.float32:
        return torch.randn(shape, generator=generator, device=DEVICE) * 4 - 14
    return torch.randint(0, 6000, shape, dtype=torch.int16, generator=generator, device=DEVICE).view(dtype)


def moved_bytes(batch: Batch) -> int:
    """Pixels inside the crops, read once, and the views, written once."""
    read = sum(
        float((kind.box[:, 2] * kind.box[:, 3]).double().sum()) * kind.raw[0].numel() * kind.raw.element_size()
        for kind in batch.kinds
    )
    b, v, c, _ = batch.records.shape
    return round(read) + b * v * c * batch.spec.size**2 * batch.spec.dtype.itemsize


# ---- the job in dense PyTorch -------------------------------------------------------------------------------


def standardised(kind: Kind, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pixels with clip, gain, offset, mean and standard deviation applied, (G, 1, H, W)."""
    raw = kind.raw.view(torch.int16).int() & 0xFFFF if kind.raw.dtype == torch.uint16 else kind.raw
    mean, std, low, high = (kind.row[:, column, None, None, None].to(dtype) for column in (0, 1, 6, 7))
    gain, offset = (part[:, None, None, None].to(dtype) for part in (kind.gain, kind.offset))
    return (raw.to(dtype).clamp(low, high) * gain + offset - mean) / std


def source_affine(kind: Kind, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """(G, 2, 3): from (column, row, 1) of a view to (column, row) of the source, with pixel centres on integers."""
    top, left, height, width = kind.box.to(dtype).unbind(1)
    pixels = kind.raw.shape[-1]
    odd = kind.turns % 2 == 1
    up = torch.where(kind.turns >= 2, -1.0, 1.0).to(dtype)  # the row of the crop grows, or shrinks
    right = torch.where((kind.turns == 1) | (kind.turns == 2), ~kind.flip, kind.flip)
    right = torch.where(right, -1.0, 1.0).to(dtype)
    zero = torch.zeros_like(up)

    def line(sign: Tensor, along_row: Tensor, start: Tensor, length: Tensor) -> Tensor:
        step = length * pixels / size
        first = torch.where(sign > 0, 0.5, size - 0.5).to(dtype)  # of the crop's pixels, at the view's first
        at = start * pixels + first * step - 0.5
        slope = sign * step
        return torch.stack([torch.where(along_row, slope, zero), torch.where(along_row, zero, slope), at], 1)

    return torch.stack([line(right, ~odd, left, width), line(up, odd, top, height)], 1)


def by_grid_sample(kinds: tuple[Kind, ...], out: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The views, (V * B, 1, S, S), by torch.nn.functional.grid_sample."""
    size = out.shape[-1]
    step = torch.arange(size, device=out.device, dtype=dtype)
    for kind in kinds:
        affine = source_affine(kind, size, dtype)
        x, y = ((part[:, 0, None] * step)[:, None, :] + (part[:, 1, None] * step)[:, :, None] + part[:, 2, None, None]
                for part in affine.unbind(1))  # fmt: skip
        grid = torch.stack([x, y], -1) * (2 / kind.raw.shape[-1]) + (1 / kind.raw.shape[-1] - 1)
        image = grid_sample(standardised(kind, dtype), grid, padding_mode="border", align_corners=False)
        out[kind.to] = image.to(out.dtype)
    return out
