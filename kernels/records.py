"""The inputs of render_views: the raw bytes of a batch, one record a band in it, and a table of all bands.

data     uint8 (N,)            bands as stored on disk, each at an offset that is a multiple of 16 bytes
records  int64 (B, V, C, 5)    byte offset, dtype code, height, width, band id
table    float32 (K, 10)       mean, std, gain lo and hi, offset lo and hi, clip lo and hi, nodata, looks of speckle
"""

from collections.abc import Mapping
from math import inf, isfinite, nan
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = (torch.uint8, torch.int16, torch.uint16, torch.float16, torch.float32)
DTYPE_CODES = {dtype: code for code, dtype in enumerate(DTYPES)}
BYTES = (1, 2, 2, 2, 4)  # of one pixel, by dtype code
ALIGN = 16  # bytes, for loads of any type at a record's offset
MAX_SIDE = 1 << 15  # pixels: height * width stays inside 31 bits
FIELDS = 5
COLUMNS = 10


class BandRow(NamedTuple):
    """Standardisation of one band: (gain * clip(x) + offset - mean) / std. Units: the band's own, DN or dB.

    gain, offset: ranges of the jitter (lo, hi). clip: range of valid values, to which x is clipped first. nodata:
    value of an invalid pixel, nan for none; NaN and infinite pixels are always invalid. An invalid pixel becomes 0,
    the mean. looks: number of looks of the speckle added to a band in dB if the views ask for speckle; inf for none.
    """

    mean: float
    std: float
    gain: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    clip: tuple[float, float] = (-inf, inf)
    nodata: float = nan
    looks: float = inf


def band_table(bands: int, rows: Mapping[int, BandRow]) -> Tensor:
    """float32 (bands, 10) table from rows by band id; a band without a row is unknown (std nan).

    Raises ValueError on a band id outside 0..bands-1, a mean not finite, a std not positive, looks below 1 or
    a reversed range.
    """
    table = torch.full((bands, COLUMNS), nan)
    for band, row in rows.items():
        if not 0 <= band < bands:
            raise ValueError(f"rows: band id {band}, expected 0 to {bands - 1}")
        if not (isfinite(row.mean) and isfinite(row.std) and row.std > 0):
            raise ValueError(f"rows: band id {band} has mean {row.mean} and std {row.std}, expected finite and std > 0")
        if not (row.gain[0] <= row.gain[1] and row.offset[0] <= row.offset[1] and row.clip[0] <= row.clip[1]):
            raise ValueError(f"rows: band id {band} has a range whose upper end is below its lower: {row}")
        if not row.looks >= 1:
            raise ValueError(f"rows: band id {band} has {row.looks} looks of speckle, expected 1 or more, inf for none")
        table[band] = torch.tensor([row.mean, row.std, *row.gain, *row.offset, *row.clip, row.nodata, row.looks])
    return table


def check_batch(data: Tensor, records: Tensor, samples: Tensor, table: Tensor, epoch: Tensor) -> None:
    """Raises TypeError or ValueError on a shape, type or device that does not match. Reads no value: no sync."""
    flat = data.ndim == 1 and data.is_contiguous()
    record = records.ndim == 4 and records.shape[-1] == FIELDS
    by_band = table.ndim == 2 and table.shape[0] > 0 and table.shape[1] == COLUMNS
    wanted = (
        ("data", data, torch.uint8, "(N,), contiguous", flat),
        ("records", records, torch.int64, "(B, V, C, 5)", record),
        ("samples", samples, torch.int64, "(B,)", samples.ndim == 1 and samples.shape[0] == records.shape[0]),
        ("table", table, torch.float32, "(K, 10), K > 0", by_band),
        ("epoch", epoch, torch.int64, "()", epoch.ndim == 0),
    )
    for name, tensor, dtype, shape, fits in wanted:
        if tensor.dtype != dtype:
            raise TypeError(f"{name}: {tensor.dtype}, expected {dtype}")
        if not fits:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)}, expected {shape}")
        if tensor.device != data.device:
            raise ValueError(f"{name}: on {tensor.device}, but data is on {data.device}")


def check_records(records: Tensor, size: int, table: Tensor) -> None:
    """Raises ValueError naming the first record that does not fit a buffer of `size` bytes or the table.

    For records on the host; on a GPU it would sync, and the kernel renders such a record as zeros.
    """
    offset, code, height, width, band = records.reshape(-1, FIELDS).unbind(-1)
    pixel = torch.tensor(BYTES)[code.clamp(0, len(BYTES) - 1)]
    sides = torch.stack([height, width])
    side = sides.clamp(0, MAX_SIDE)
    tests = (
        ("dtype code outside 0 to 4", (code < 0) | (code >= len(BYTES))),
        (f"height or width outside 1 to {MAX_SIDE}", ((sides != side) | (side == 0)).any(0)),
        (f"offset below 0 or not a multiple of {ALIGN}", (offset < 0) | (offset % ALIGN != 0)),
        (f"end beyond the {size} bytes of data", (offset > size) | (side[0] * side[1] * pixel > size - offset)),
        (f"band id outside 0 to {len(table) - 1}", (band < 0) | (band >= len(table))),
        ("band without a row in the table", ~(table[band.clamp(0, len(table) - 1), 1] > 0)),
    )
    bad = torch.stack([test for _, test in tests])
    if bool(bad.any()):
        first = int(bad.any(0).nonzero()[0])
        reason = next(name for (name, _), hit in zip(tests, bad[:, first].tolist(), strict=True) if hit)
        at = tuple(int(i) for i in torch.unravel_index(torch.tensor(first), records.shape[:-1]))
        raise ValueError(f"records{list(at)}: {records.reshape(-1, FIELDS)[first].tolist()}: {reason}")
