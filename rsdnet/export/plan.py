"""What is exported: an encoder, the rows of its input, the depth of its features."""

import dataclasses
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rsdnet import __version__, bands
from rsdnet.data.fixed import view_of
from rsdnet.encoder import Encoder, Row
from rsdnet.errors import DataError
from rsdnet.evaluate.features import scaled_side
from rsdnet.export.wrapped import FromBands, FromViews, bands_of, views_of
from rsdnet.model.stages import at, features_of

Preprocessing = Literal["inside", "outside"]
BATCH = 3  # samples of the example; neither 0 nor 1, which torch.export takes for constants


@dataclasses.dataclass(frozen=True)
class Plan:
    """An export. encoder: on the CPU. rows: see `FromBands`. name: of the file or folder. size: pixels a side of a
    whole training patch as the encoder sees it.

    preprocessing: inside or outside of the exported graph. depth: of its features. licence: as SPDX names it, or "".
    """

    encoder: Encoder
    rows: tuple[Row, ...]
    name: str
    size: int
    preprocessing: Preprocessing = "inside"
    depth: str = "stages"
    licence: str = ""

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the rows."""
        return bands_of(self.rows)

    @property
    def view(self) -> Row:
        """Channels of the first view, an example of the others."""
        return views_of(self.rows[0], self.encoder.channels)[0]

    @property
    def resolution(self) -> int:
        """Metres of a pixel of the finest training band."""
        return min(bands.BANDS[name].resolution for pool in self.encoder.file.pools.values() for name in pool)

    @property
    def metres(self) -> float:
        """Of a pixel at `size`."""
        return self.resolution * self.encoder.file.side / self.size

    @property
    def inside(self) -> bool:
        """Whether the exported graph takes raw values."""
        return self.preprocessing == "inside"

    def module(self) -> nn.Module:
        """The module of ONNX and TorchScript, for inference."""
        inside = FromBands(self.encoder, self.rows, self.depth) if self.inside else None
        return (inside or FromViews(self.encoder.network, self.depth)).eval().requires_grad_(False)

    @cached_property
    def views(self) -> Tensor:
        """An example of standardised views (B, channels, S, S)."""
        return torch.randn(BATCH, self.encoder.channels, self.size, self.size, generator=_generator())

    @cached_property
    def values(self) -> Tensor:
        """An example of raw values (B, K, S, S), with invalid pixels."""
        known = [self.encoder.file.bands[name] for name in self.bands]
        mean, std = (torch.tensor([getattr(band, key) for band in known]) for key in ("mean", "std"))
        drawn = torch.randn(BATCH, len(known), self.size, self.size, generator=_generator())
        values = drawn * std[:, None, None] + mean[:, None, None]
        values[:, :, 0, 0], values[:, :, -1, -1] = 0, torch.nan
        return values

    @property
    def example(self) -> Tensor:
        """An example of the module's input."""
        return self.values if self.inside else self.views

    @cached_property
    def output(self) -> Tensor:
        """The network's output for `views`."""
        with torch.inference_mode():
            found: Tensor = self.encoder.network(self.views)
        return found

    @cached_property
    def expected(self) -> Tensor:
        """Features of `example`, by `rsdnet.load` where the graph takes raw values, in float32."""
        if not self.inside:
            with torch.inference_mode():
                return features_of(self.encoder.network, self.views)[self.depth]
        cfg = self.encoder.cfg
        exact = dataclasses.replace(cfg, run=dataclasses.replace(cfg.run, precision="fp32"))
        encoder = Encoder(self.encoder.network, exact, self.encoder.file, self.encoder.device)
        planes = dict(zip(self.bands, self.values.unbind(1), strict=True))
        found = [
            encoder.features(
                {name: planes[name] for name in view_of(row, "bands").bands},
                bands=row, depth=self.depth, size=self.size, check=False,
            )
            for row in self.rows
        ]  # fmt: skip
        return torch.cat(found, 1)

    def metadata(self) -> dict[str, str]:
        """What a file says of itself, JSON by key."""
        file = self.encoder.file
        given = self.bands if self.inside else ()
        told: dict[str, Any] = {
            "bands": list(given),
            "input": {name: dataclasses.asdict(file.bands[name]) for name in given or bands_of(self.rows)},
            "differences": file.differences, "rows": self.rows, "channels": self.encoder.channels,
            "preprocessing": self.preprocessing, "features": self.depth, "size": self.size, "metres": self.metres,
            "encoder": file.encoder, "method": file.method, "licence": self.licence, "commit": file.commit,
            "rsdnet": __version__,
        }  # fmt: skip
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in told.items()}


def plan_of(
    encoder: Encoder, name: str, names: Sequence[str], preprocessing: Preprocessing, depth: str, licence: str
) -> Plan:
    """The export of `encoder` as `name`. names: of one row; none: the encoder's own rows.

    Raises DataError on a band that the encoder does not know, and on a depth that it does not have.
    """
    rows = encoder.rows
    if names:
        row = view_of(names, "--bands")
        known = encoder.file.bands | encoder.file.differences
        if unseen := [each for each in (*row.bands, *row.differences) if each not in known]:
            raise DataError(f"--bands: the encoder has no statistics of {unseen[0]}: it has those of {' '.join(known)}")
        rows = (row.names,)
    plan = Plan(encoder, rows, name, size_of(encoder))
    with torch.inference_mode():
        found = features_of(encoder.network, plan.views[:1])
    if depth != "stages" and depth not in found:
        raise DataError(f"--features {depth}: the encoder has {', '.join(found)}")
    return dataclasses.replace(
        plan, preprocessing=preprocessing, depth=at(found, depth), licence=licence or encoder.file.licence
    )


def size_of(encoder: Encoder) -> int:
    """Pixels a side of a whole training patch, scaled as in training; of an encoder that takes no such view, as a
    transformer of larger steps, those of a view in training."""
    size = scaled_side(encoder.cfg.views, encoder.file.side, encoder.file.side)
    try:
        with torch.inference_mode():
            encoder.network(torch.zeros(1, encoder.channels, size, size))
    except Exception:  # of many types, by encoder
        return encoder.file.size
    return size


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
