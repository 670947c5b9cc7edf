"""A pre-trained encoder in use, without the run and the database that it was trained in.

    encoder = rsdnet.load("encoder.safetensors")
    features = encoder.features({"B04": red, "B08": infrared})  # (B, F)

Values are standardised by the facts in the encoder's file, and rendered by the kernel of training.
"""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from rsdnet import bands, kernels, plausible, runfolder
from rsdnet.config import Config
from rsdnet.data.fixed import FixedView, view_of
from rsdnet.encoderfile import EncoderFile, read
from rsdnet.errors import DataError, Unfit
from rsdnet.evaluate.contenders import Shown, contender, trained_of
from rsdnet.evaluate.features import scaled_side
from rsdnet.kernels import BandRow, ViewSpec, render_views
from rsdnet.kernels.records import ALIGN, DTYPE_CODES
from rsdnet.mixing import mix_of
from rsdnet.model.stages import Features
from rsdnet.training import checkpoint

MsUnit = Literal["dn", "reflectance", "byte"]
SarUnit = Literal["db", "power", "amplitude"]
UNITS: dict[str, tuple[str, ...]] = {"ms": get_args(MsUnit), "sar": get_args(SarUnit)}
DEPTHS = ("stages", "last", "layer1", "layer2", "layer3", "layer4")
Data = Mapping[str, ArrayLike | Tensor] | ArrayLike | Tensor
BATCH = 256  # patches encoded at once
ASPECT = 0.05  # greatest difference of two bands' aspects: SSL4EO-S12's differ by a row or column in 264; our choice
Row = tuple[str, ...]
"""Bands, or differences of bands, whose features stand in one vector."""


class Encoder:
    """A pre-trained encoder and the standardisation of its input.

    network: in eval mode, from views (B, channels, S, S) to (B, F). cfg: of its run. file: the facts in its file.
    """

    def __init__(self, network: nn.Module, cfg: Config, file: EncoderFile, device: torch.device) -> None:
        self.cfg, self.file, self.channels = cfg, file, file.channels
        self._place(network, device)

    def _place(self, network: nn.Module, device: torch.device) -> None:
        rows = {
            bands.band_id(name): BandRow(
                band.mean,
                band.std or 1.0,  # a constant band
                clip=band.clip or (-math.inf, math.inf),
                nodata=math.nan if band.nodata is None else band.nodata,
            )
            for name, band in self.file.bands.items()
        }
        self.table = kernels.band_table(len(bands.NAMES), rows).to(device)
        self.device = device
        self._contender = contender(network, self.cfg, self.channels, device, DEPTHS)

    @property
    def network(self) -> nn.Module:
        """From views (B, channels, S, S), standardised, to (B, F)."""
        assert self._contender.network is not None
        return self._contender.network

    def to(self, device: str | torch.device) -> Self:
        """This encoder, moved to `device`."""
        self._place(self.network, torch.device(device))
        return self

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the views that it was trained on: fixed views, else every band of its pools alone, or as many
        side by side as there are channels; where these do not divide a pool, its last row repeats bands."""
        if self.file.views:
            return tuple(self.file.views.values())
        found = list[Row]()
        for pool in self.file.pools.values():
            for first in range(0, len(pool), self.channels):
                first = max(min(first, len(pool) - self.channels), 0)
                found.append(tuple(pool[at % len(pool)] for at in range(first, first + self.channels)))
        return tuple(found)

    def features(
        self, data: Data, *, bands: Sequence[str] | None = None, unit: str | None = None, depth: str = "stages",
        size: int = 0, check: bool = True,
    ) -> Tensor:  # fmt: skip
        """Features (B, F), float32, of whole patches.

        data: {band: (B, H, W) or (H, W)}, each band in its own resolution; or (B, C, H, W) or (C, H, W), whose channels
        are the `bands`. Numpy or torch, of any real type. Invalid pixels are NaN, or 0 in DN.
        bands: of the row, in order; differences such as VV-VH too. None: all in `data`, in the order of the product. As
        many as there are channels, or more, go in as one view; else the features of each stand side by side.
        unit: of the values: dn, reflectance or byte of MS, db, power or amplitude of SAR. None: as in training.
        depth: stages, last, or layer1 to layer4; of an encoder without stages last. size: pixels a side as the encoder
        sees a patch; 0: scaled as the mean crop of training. check: whether the values can be of their unit.
        Raises DataError on a band that is unknown or absent, values that cannot be of the unit, and wrong shapes.
        """
        if depth not in DEPTHS:
            raise DataError(f"depth {depth!r}: it must be one of {', '.join(DEPTHS)}")
        patches, row = self._patches(data, bands, unit, size, check)
        return self.features_of(patches, row, depth)

    def features_of(self, shown: Shown, row: Row, depth: str = "stages") -> Tensor:
        """Features (N, F), float32, of samples that are `shown` as `Patches` are."""
        with torch.inference_mode():
            found = self._contender.of_bands(shown, row, {})
        return found.get(depth, found["last"])

    def views(
        self, data: Data, *, bands: Sequence[str] | None = None, unit: str | None = None, size: int = 0,
        check: bool = True,
    ) -> Tensor:  # fmt: skip
        """Views (B, C, S, S), float32, of whole patches as the network takes them: resampled, standardised, 0 for
        invalid pixels; the channels are the `bands`. Arguments and errors as of `features`.
        """
        patches, row = self._patches(data, bands, unit, size, check)
        return patches.rendered(row, np.arange(patches.count))

    def maps(
        self, data: Data, *, bands: Sequence[str] | None = None, unit: str | None = None, size: int = 0,
        check: bool = True,
    ) -> list[Tensor]:  # fmt: skip
        """Maps (B, C, H', W'), float32, of at most 4 stages, shallow first; arguments and errors as of `features`.

        Raises DataError too where the encoder has no stages.
        """
        patches, row = self._patches(data, bands, unit, size, check)
        with torch.inference_mode():
            return self._contender.maps_of_bands(patches, row, np.arange(patches.count))

    def _patches(
        self, data: Data, names: Sequence[str] | None, unit: str | None, size: int, check: bool
    ) -> tuple["Patches", Row]:
        """`data`, ready to be rendered, and the row."""
        if not isinstance(data, Mapping):
            data = _by_name(data, names)
        given = {bands.canonical(name): values for name, values in data.items()}
        if not given:
            raise DataError("no band in the data: give at least one")
        row = view_of(names or sorted(given, key=bands.band_id), "bands")
        self._require(row, given)
        used = {name: _tensor(name, given[name], self.device) for name in row.bands}
        count = len(next(iter(used.values())))
        for name, values in used.items():
            if len(values) != count:
                raise DataError(f"{name} has {len(values)} patches, {next(iter(used))} {count}: give as many of each")
        used = {name: self._in_unit(name, values, unit, check) for name, values in used.items()}
        side = max(max(values.shape[1:]) * self.file.side / self.file.bands[n].side for n, values in used.items())
        self._require_shape(used)
        spec = ViewSpec.plain(size or scaled_side(self.cfg.views, self.file.side, round(side)))
        return Patches(used, self.table, self.file.differences, spec), row.names

    def _require(self, row: FixedView, given: Mapping[str, Any]) -> None:
        """Raise DataError on a band of the row without values, or without statistics."""
        if absent := [name for name in row.bands if name not in given]:
            raise DataError(
                f"no band {absent[0]} in the data, which have {' '.join(given)}: name others as bands=[...]"
            )
        if unseen := [name for name in row.bands if name not in self.file.bands]:
            known = " ".join(self.file.bands)
            raise DataError(f"the encoder has no statistics of {unseen[0]}: it has those of {known}")
        if unseen := [name for name in row.differences if name not in self.file.differences]:
            raise DataError(f"the encoder was not trained on {unseen[0]}: name bands alone")

    def _require_shape(self, used: Mapping[str, Tensor]) -> None:
        """Raise DataError on patches of another aspect than training's crops, and on bands that differ in it."""
        low, high = self.cfg.views.crop_ratio
        aspects = {name: values.shape[2] / values.shape[1] for name, values in used.items()}
        for name, aspect in aspects.items():
            if not min(low, 1) <= aspect <= max(high, 1):
                height, width = used[name].shape[1:]
                raise DataError(f"{name} is {width} x {height} pixels: a patch is as wide as high; cut it into windows")
        if max(aspects.values()) - min(aspects.values()) > ASPECT:
            sizes = ", ".join(f"{name} {values.shape[2]} x {values.shape[1]}" for name, values in used.items())
            raise DataError(f"bands of a patch differ in their aspect: {sizes} pixels; cut them to one place")

    def _in_unit(self, name: str, values: Tensor, unit: str | None, check: bool) -> Tensor:
        """Values (B, H, W) in the unit of training. Raises DataError on values that cannot be of their unit."""
        own, sensor = self.file.bands[name].unit, bands.BANDS[name].modality
        given = unit if unit in UNITS[sensor] else own
        if unit is not None and unit not in (*UNITS["ms"], *UNITS["sar"]):
            raise DataError(f"unit {unit!r}: it must be one of {', '.join((*UNITS['ms'], *UNITS['sar']))}")
        if (given == "byte") != (own == "byte"):
            raise DataError(f"{name} is in {given}, but the encoder was trained on {own}: use an encoder of this unit")
        if given == "byte" and values.dtype != torch.uint8:
            raise DataError(f"{name} is {values.dtype}, but byte means uint8")
        converted = _converted(values, given)
        if check:
            _require_plausible(name, converted, given, np.dtype(str(values.dtype).removeprefix("torch.")))
        return converted


@dataclasses.dataclass(frozen=True)
class Patches:
    """Whole patches in memory, rendered as `rsdnet.evaluate.features.Labelled` renders those of a database.

    values: (B, H, W) by band, in the types of the kernels. differences: mean and standard deviation by name.
    """

    values: Mapping[str, Tensor]
    table: Tensor
    differences: Mapping[str, tuple[float, float]]
    spec: ViewSpec

    @property
    def count(self) -> int:
        """B."""
        return len(next(iter(self.values.values())))

    @property
    def device(self) -> torch.device:
        """Of the values."""
        return self.table.device

    def features(self, names: tuple[str, ...], of: Callable[[Tensor], Features]) -> Features:
        """Features (B, F) by depth: `of` applied to the views, in batches."""
        every = np.arange(self.count)
        parts = [of(self.rendered(names, every[first : first + BATCH])) for first in range(0, self.count, BATCH)]
        return {depth: torch.cat([part[depth] for part in parts]) for depth in parts[0]}

    def scale(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation of a band or a difference."""
        mean, std = self.differences[name] if "-" in name else self.table[bands.band_id(name), :2].tolist()
        return mean, std

    def rendered(self, names: Sequence[str], samples: np.ndarray) -> Tensor:
        """Views (b, len(names), S, S), float32, of the consecutive `samples` (b,)."""
        view, part = view_of(names, "bands"), slice(int(samples[0]), int(samples[-1]) + 1)
        data, records = packed([(name, self.values[name][part]) for name in view.read])
        rows = torch.zeros(len(samples), dtype=torch.int64, device=self.device)
        shown = render_views(data, records, rows, self.table, self.spec, seed=0, epoch=0)
        mix = mix_of({bands.BANDS[view.read[0]].modality: view}, self.table, self.differences)
        return (mix.to(self.device)(shown, records) if mix else shown)[0]


def packed(values: Sequence[tuple[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """Bands (B, H, W) as the data (N,) uint8 and records (B, 1, C, 5) of `render_views`."""
    blocks, records, end = [], [], 0
    for name, band in values:
        count, height, width = band.shape
        raw = band.contiguous().view(torch.uint8).reshape(count, -1)
        raw = nn.functional.pad(raw, (0, -raw.shape[1] % ALIGN))
        offsets = end + raw.shape[1] * torch.arange(count)
        same = torch.tensor([DTYPE_CODES[band.dtype], height, width, bands.band_id(name)]).expand(count, 4)
        records.append(torch.cat((offsets[:, None], same), 1))
        blocks.append(raw.flatten())
        end += raw.numel()
    device = blocks[0].device
    return torch.cat(blocks), torch.stack(records, 1)[:, None].to(device)


def _by_name(data: ArrayLike | Tensor, names: Sequence[str] | None) -> dict[str, Tensor]:
    """The channels of (B, C, H, W) or (C, H, W) by band. Raises DataError on another number of channels than bands."""
    values = data if isinstance(data, Tensor) else _from_numpy("data", data)
    shape = tuple(values.shape)
    if not names:
        raise DataError(f"an array of shape {shape} does not name its bands: give bands=[...], one a channel")
    if values.ndim not in (3, 4) or shape[-3] != len(names):
        raise DataError(f"an array of shape {shape} with {len(names)} bands: give (B, {len(names)}, H, W)")
    if len(set(names)) < len(names):
        raise DataError(f"bands {' '.join(names)}: one stands twice")
    return dict(zip(names, values.unbind(-3), strict=True))


def _from_numpy(name: str, values: ArrayLike) -> Tensor:
    """An array of any byte order and strides. Raises DataError on one of other things than numbers."""
    array = np.asarray(values)
    try:
        return torch.from_numpy(np.ascontiguousarray(array, array.dtype.newbyteorder("=")))
    except TypeError:
        raise DataError(f"{name} is {array.dtype}: give real values") from None


def _tensor(name: str, values: ArrayLike | Tensor, device: torch.device) -> Tensor:
    """Values as (B, H, W) on `device`, in a type of the kernels. Raises DataError on a shape or type that is none."""
    tensor = values if isinstance(values, Tensor) else _from_numpy(name, values)
    tensor = tensor[None] if tensor.ndim == 2 else tensor
    if tensor.ndim != 3 or not tensor.numel():
        raise DataError(f"{name} has shape {tuple(tensor.shape)}: a band is (B, H, W) or (H, W)")
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise DataError(f"{name} is {tensor.dtype}: give real values")
    return (tensor if tensor.dtype in DTYPE_CODES else tensor.float()).to(device)


def _require_plausible(name: str, values: Tensor, unit: str, dtype: np.dtype) -> None:
    """Raise DataError where values, in DN, bytes or dB, cannot have been of `unit` and `dtype`."""
    layers = {name: values.cpu().numpy()}
    try:
        if bands.BANDS[name].modality == "sar":
            plausible.check_s1(name, layers, unit)
        else:
            plausible.check_s2(name, layers, unit, dtype)
    except Unfit as error:
        told = re.sub(r"--s[12]-unit (\w+)", r'unit="\1"', str(error))
        raise DataError(f"{told}; check=False takes them as they are") from None


def _converted(values: Tensor, unit: str) -> Tensor:
    """Values in DN or dB; bytes as they are."""
    if unit == "reflectance":
        return values.float() * bands.REFLECTANCE
    if unit in ("power", "amplitude"):
        factor = 10 if unit == "power" else 20
        return torch.where(values > 0, factor * values.double().log10(), torch.nan).float()
    return values


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Encoder:
    """The encoder in a file `encoder.safetensors`, or in a run's folder that holds one.

    Raises DataError where there is none, it is damaged, or of an earlier or a newer version.
    """
    path = Path(path)
    if path.is_dir():
        path = path / runfolder.ENCODER
    tensors, meta = checkpoint.load(path)
    file = read(meta, str(path))
    trained = trained_of(path, tensors, meta)
    return Encoder(trained.encoder, trained.cfg, file, torch.device(device))
