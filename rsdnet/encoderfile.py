"""Facts in `encoder.safetensors` by which an encoder is used without its run and its database.

They stand as JSON under "encoder" in the file's metadata, beside the run's configuration.
"""

import dataclasses
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from rsdnet.errors import DataError

VERSION = 1
KEY = "encoder"

Unit = Literal["dn", "byte", "db"]
"""Of the values that an encoder takes: DN (reflectance x 10,000), 8-bit levels, or backscatter in dB."""


@dataclasses.dataclass(frozen=True)
class BandInput:
    """A band as the encoder takes it: (value within clip - mean) / std, and 0 for an invalid pixel.

    nodata: value of an invalid pixel beside NaN; None: NaN alone. level: processing level of the product, "" for
    unknown. side: pixels a side in a patch of `EncoderFile.side`.
    """

    mean: float
    std: float
    unit: Unit
    clip: tuple[float, float] | None
    nodata: float | None
    level: str
    side: int


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A database that an encoder was trained on, by its folder's name; samples of all splits."""

    name: str
    layout: str
    level: str
    samples: int


@dataclasses.dataclass(frozen=True)
class EncoderFile:
    """The facts of an encoder.

    bands: by name, of all bands with known statistics. differences: mean and standard deviation in dB by name, such as
    VV-VH. pools: by sensor, the bands that were drawn or shown in training. views: by sensor, the channels of fixed
    views; {} where bands were drawn. channels: of a view. size: pixels a side of a view. side: pixels a side of the
    training patches' finest band. metres: least and greatest of a view's pixel in training. step: of the weights.
    versions: of packages. licence: of the weights as SPDX names it, "" for unknown.
    """

    version: int
    bands: dict[str, BandInput]
    differences: dict[str, tuple[float, float]]
    pools: dict[str, tuple[str, ...]]
    views: dict[str, tuple[str, ...]]
    channels: int
    size: int
    side: int
    metres: tuple[float, float]
    encoder: str
    method: str
    seed: int
    step: int
    split: str
    data: tuple[DataSet, ...]
    versions: dict[str, str]
    commit: str
    licence: str

    def to_json(self) -> dict[str, Any]:
        """The facts as JSON."""
        return _ADAPTER.dump_python(self, mode="json")


_ADAPTER = TypeAdapter(EncoderFile)


def read(meta: dict[str, Any], where: str) -> EncoderFile:
    """The facts in the metadata of the encoder's file `where`.

    Raises DataError where there are none, in files of earlier versions, or they are of a newer version or damaged.
    """
    facts = meta.get(KEY)
    if facts is None:
        known = meta.get("inputs", {})
        lacking = ["clip, nodata and level a band", "data sets", "versions", "licence"]
        lacking = [name for name in ("statistics", "unit", "side") if name not in known] + lacking
        raise DataError(
            f"{where} is of an earlier version and does not hold {', '.join(lacking)}: delete it and run python -m "
            "rsdnet.train --run RUN --resume, which writes it anew from the run's last checkpoint"
        )
    if isinstance(facts, dict) and isinstance(found := facts.get("version"), int) and found > VERSION:
        raise DataError(f"{where} is of a newer version ({found}, this rsdnet reads {VERSION}): update rsdnet")
    try:
        return _ADAPTER.validate_python(facts)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise DataError(f"{where} is damaged: {KEY}.{key}: {first['msg']}; copy it again") from None
