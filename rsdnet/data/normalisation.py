"""Mean and standard deviation of a run's bands, and the unit of its databases' values.

A catalog's metadata names the units of a database: {"units": {"ms": "dn" or "byte", "sar": "db"}}. In catalogs without
it MS is in DN (reflectance x 10,000) and SAR in dB.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsdnet import bands
from rsdnet.config import Config
from rsdnet.data import shards
from rsdnet.data.catalog import read_meta
from rsdnet.data.pools import pools_of
from rsdnet.data.statistics import read_stats
from rsdnet.errors import DataError

FULL_SCALE = {"dn": bands.REFLECTANCE, "byte": 255}
"""Of MS by unit: reflectance 1, and the highest level of a picture."""
MS_NODATA = 0  # DN 0 is NO_DATA in Sentinel-2 products (ESA, Sentinel-2 PSD)
Pair = tuple[float, float]
"""Mean and standard deviation; or the ends of a range."""
# SEN12MS's statistics are of backscatter clipped to these dB (schmitt-muc/SEN12MS classification/main_train.py).
SEN12MS_SAR_CLIP = (-25.0, 0.0)
_LEAST = 2.0  # mean and standard deviation of DN lie far above it, those of reflectance below
_MOST = 100.0  # neither mean nor standard deviation of backscatter in dB comes near it


def unit_of(db: Path) -> str | None:
    """The unit of a database's MS values: "dn", "byte", or None where its metadata says that it has none.

    Raises DataError on any other unit, and where the catalog cannot be read.
    """
    units = read_meta(shards.parts(db)[0]).get("units", {"ms": "dn"})
    unit = units.get("ms") if isinstance(units, dict) else units
    if unit is None or (isinstance(unit, str) and unit in FULL_SCALE):
        return unit
    raise DataError(f"{db}: the MS values are in {unit!r}, a unit that this version does not know: ingest again")


def units_of(db: Path) -> dict[str, str]:
    """The units of a database's values as words, by sensor: {"ms": "DN", "sar": "dB"}."""
    words = {"dn": "DN", "byte": "levels of 8 bits"}
    unit = unit_of(db)
    return ({"ms": words[unit]} if unit else {}) | {"sar": "dB"}


def ms_unit(cfg: Config) -> str:
    """The unit of MS values in a run: "dn" or "byte".

    Raises DataError where its databases differ, or the published statistics that it asks for are of another unit.
    """
    if "ms" not in cfg.views.modality.split("+"):
        return "dn"
    units = {db: unit for db in cfg.data.data if (unit := unit_of(db))}
    first = next(iter(units.values()), "dn")
    for db, unit in units.items():
        if unit != first:
            raise DataError(
                f"{db} has MS in {unit}, {next(iter(units))} in {first}: one run takes one unit; train on each alone, "
                "or ingest one again with another --s2-unit"
            )
    if first == "byte" and cfg.data.statistics != "database":
        raise DataError(
            f"--statistics {cfg.data.statistics!r} is of DN, but {next(iter(units))} holds 8-bit levels: "
            "use --statistics database"
        )
    return first


def statistics_of(cfg: Config) -> dict[str, tuple[float, float]]:
    """{band: (mean, standard deviation)} of the bands in a run's views, in the raw values' units.

    From the databases' own stats.json, pooled by the number of pixels, or from published tables (rsdnet/bands.py).
    Raises DataError on a band without statistics, and on values that cannot be in the unit they should be in.
    """
    pools = pools_of(cfg.views)
    source: str = cfg.data.statistics
    names = [name for modality in cfg.views.modality.split("+") for name in pools[modality]]
    if source == "database":
        source = "stats.json"
        stats = {path: read_stats(path) for path in cfg.data.data}
        for path, own in stats.items():
            table = own["bands"]
            if not own.get("checked"):  # ingest has compared image by image, and may have been overruled
                _require_plausible(path, {name: table[name] for name in names if name in table})
        found = joined([stats[path]["bands"] for path in cfg.data.data], names)
    else:
        dataset, level = source.rsplit(" ", 1)
        found = {name: bands.STATISTICS[dataset, level].get(name) for name in names}
    if missing := [name for name in names if found[name] is None]:
        raise DataError(
            f"{source} has no statistics of {', '.join(missing)}: leave them out of "
            + ("--ms-view and --sar-view" if cfg.views.fixed else "--ms-bands and --sar-bands")
        )
    return {name: value for name, value in found.items() if value}


def known_statistics(cfg: Config, used: Mapping[str, Sequence[float]]) -> dict[str, Pair]:
    """{band: (mean, standard deviation)} of all bands of a run's sensors that its source of statistics knows.

    used: those that standardised the run's input, which stand as they are.
    """
    sensors = cfg.views.modality.split("+")
    names = [name for name, band in bands.BANDS.items() if band.modality in sensors]
    if cfg.data.statistics == "database":
        found = joined([read_stats(path)["bands"] for path in cfg.data.data], names)
    else:
        dataset, level = cfg.data.statistics.rsplit(" ", 1)
        found = {name: bands.STATISTICS[dataset, level].get(name) for name in names}
    own = {name: (float(pair[0]), float(pair[1])) for name, pair in used.items() if name in bands.BANDS}
    return {name: pair for name in names if (pair := own.get(name) or found[name])}


def sar_clip(cfg: Config) -> Pair:
    """The range that a run clips backscatter to, in dB."""
    return SEN12MS_SAR_CLIP if cfg.data.statistics == "SEN12MS L1C" else (-math.inf, math.inf)


def joined(tables: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, tuple[float, float] | None]:
    """{band: (mean, standard deviation)} of several databases' tables of bands; None of a band without a pixel."""
    return {name: pooled([table[name] for table in tables if name in table]) for name in names}


def pooled(parts: list[dict[str, Any]]) -> tuple[float, float] | None:
    """Mean and standard deviation of the union of sets of pixels, by the law of total variance; None without pixels."""
    parts = [part for part in parts if part["count"]]
    if not parts:
        return None
    counts, means, deviations = (np.array([part[key] for part in parts], float) for key in ("count", "mean", "std"))
    mean = float(np.average(means, weights=counts))
    variance = float(np.average(deviations**2 + (means - mean) ** 2, weights=counts))
    return mean, variance**0.5


def _require_plausible(db: Path, table: dict[str, dict[str, Any]]) -> None:
    """Raise DataError if the values of a database's bands cannot be DN or dB, by their statistics."""
    known = {name: band for name, band in table.items() if band["count"]}
    ms = {name: band for name, band in known.items() if bands.BANDS[name].modality == "ms"}
    sar = {name: band for name, band in known.items() if name not in ms}
    if ms and all(_size(band) < _LEAST for band in ms.values()):
        told = f"{db}: {_told(*next(iter(ms.items())))}: these look like reflectance, not DN"
        raise DataError(f"{told}; ingest again with --s2-unit reflectance")
    positive = all((band.get("min") or -1) > 0 for band in sar.values())
    for name, band in sar.items():
        if _size(band) > _MOST:
            how = "these are no dB; ingest again with the unit, --s1-unit amplitude or power"
            raise DataError(f"{db}: {_told(name, band)}: {how}")
        if positive:
            how = "none negative: these are no dB; ingest again with --s1-unit power or amplitude"
            raise DataError(f"{db}: {_told(name, band)}, {how}")


def _size(band: dict[str, Any]) -> float:
    return max(abs(band["mean"]), band["std"])


def _told(name: str, band: dict[str, Any]) -> str:
    return f"{name} has mean {band['mean']:.4g} and standard deviation {band['std']:.4g}"
