"""The +1000 DN that Sentinel-2 products carry since processing baseline 04.00: find it, subtract it.

ESA, Sentinel-2 Products Specification, RADIO_ADD_OFFSET: from 25 January 2022 DN = 10000 * reflectance + 1000, so that
reflectances below zero can be written. Reprocessed older products (Collection 1) carry it too, and some archives
subtract it again. So a file's tags count first, then the baseline in its product's name, then the acquisition date,
which is a guess; dark pixels are a hint that can only contradict. A file that tells nothing has no offset if every file
of the data set that was looked at is dark, which is a guess too; else the user decides.
"""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rsdnet.bands import REFLECTANCE
from rsdnet.errors import DataError, Unfit

OFFSET = 1000
_FIRST = "20220125"  # the first day of baseline 04.00 (ESA, Sentinel-2 Products Specification, RADIO_ADD_OFFSET)
# With the offset a DN under this is a reflectance under -0.02: dead pixels, or shadow that the correction overdid.
DARK = 800
_DARK_SHARE = 0.01  # of pixels under it, from which a file counts as dark
_CONTRADICTION = 0.05  # of pixels under it, from which a baseline's offset must have been subtracted by an archive
# A scene has pixels of reflectance below 0.025 in some band: vegetation in red, water and shadow in infrared.
_NEAR = 1250
_NEAR_SHARE = 0.001

# ESA, Sentinel-2 Products Specification, product naming: S2A_MSIL1C_20230101T101411_N0509_R022_T33UUP_...
_PRODUCT = re.compile(r"S2[A-D]_MSIL(?:1C|2A)_(\d{8})T\d{6}_N(\d{2})(\d{2})_R\d{3}(?:_|$)")
_BASELINE = re.compile(r"N?(\d{1,2}?)(?:\.(\d{1,2})|(\d\d))?")  # 05.09, 5.9, N0509, 509, 5
_NEWEST = 20  # greater ones are no official baseline: 99.99
_BRIGHTEST = 65_535  # DN; no offset is as large
_ADDED = re.compile(r"(?:RADIO|BOA)_ADD_OFFSET", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?(?!\w)")
_DATE = re.compile(r"(?<!\d)(20\d{6})T\d{6}(?!\d)")
_ACQUIRED = re.compile(r"SENSING|ACQUISITION|DATATAKE|PRODUCT_START|^DATETIME$", re.IGNORECASE)
_ISO = re.compile(r"(20\d\d)-?(\d\d)-?(\d\d)")


class Evidence(NamedTuple):
    """The offset of one S2 image as far as it can be told.

    offset: DN, None if nothing tells it. why: the source of that. known: not a guess. dark: share of its valid pixels
    under DN 800 in some band. near: whether its darkest pixels lie where the offset would put them.
    """

    path: str
    offset: int | None
    why: str
    known: bool
    dark: float
    near: bool

    @property
    def open(self) -> str:
        """The contradiction that leaves the offset open, or ""."""
        if self.offset and self.dark > (_CONTRADICTION if self.known else _DARK_SHARE):
            return f"{self.path}: {self.why} tells an offset, but {self.dark:.1%} of the pixels lie under DN {DARK}"
        return ""


def evidence(path: str, tags: Mapping[str, str], bands: Iterable[np.ndarray]) -> Evidence:
    """Evidence of an S2 image: of its path, its tags, and its bands, (H, W) DN with 0 and NaN for nodata."""
    lowest = _per_pixel_minimum(bands)
    dark = float(np.mean(lowest < DARK)) if lowest.size else 0.0
    near = bool(lowest.size and dark <= _NEAR_SHARE and np.percentile(lowest, 100 * _NEAR_SHARE) < _NEAR)
    return Evidence(path, *told(path, tags), dark, near)


def told(path: str, tags: Mapping[str, str]) -> tuple[int | None, str, bool]:
    """(offset, why, known) by tags, product name and date; (None, "", False) if they tell nothing."""
    if added := {name: text for name, text in tags.items() if _ADDED.search(name) and _NUMBER.search(text)}:
        name, text = next(iter(added.items()))
        return _subtracted(path, name, ", ".join(added.values())), f"the tag {name}", True
    for name, text in tags.items():
        match = _BASELINE.fullmatch(text.strip()) if "BASELINE" in name.upper() else None
        if match and int(match[1]) <= _NEWEST:
            minor = match[2] or match[3] or "00"
            return OFFSET * (int(match[1]) >= 4), f"processing baseline {match[1]:>02}.{minor:<02}", True
    parts = Path(path).parts[::-1]
    products = [match for part in (*parts, *tags.values()) if (match := _PRODUCT.search(part))]
    for match in products:
        if match[2] == "99":  # BigEarthNet's and other products of no official baseline
            continue
        return OFFSET * (int(match[2]) >= 4), f"processing baseline {match[2]}.{match[3]} of the product's name", True
    named = [match[1] for match in products] + [match[1] for part in parts if (match := _DATE.search(part))]
    tagged = [
        "".join(match.groups())
        for name, text in tags.items()
        if _ACQUIRED.search(name) and (match := _ISO.search(text))
    ]
    for day in tagged + named:
        return OFFSET * (day >= _FIRST), f"the acquisition date {day[:4]}-{day[4:6]}-{day[6:]}", False
    return None, "", False


def _subtracted(path: str, name: str, text: str) -> int:
    """The DN to subtract by the offset that a tag adds, in DN or, under 1, in reflectance.

    Raises Unfit if it lists several, or one above zero.
    """
    added = {float(match[0]) for match in _NUMBER.finditer(text)}
    offset = -min(added)
    if len(added) > 1 or not 0 <= offset < _BRIGHTEST:
        told = ", ".join(f"{number:g}" for number in sorted(added))
        raise Unfit("offset", f"{path}: the tag {name} adds {told}, no single offset to subtract: give --offset in DN")
    return round(offset * (REFLECTANCE if offset < 1 else 1))


def settle(found: Sequence[Evidence]) -> None:
    """Raise DataError where the offset of the images looked at stays open, so that the user must tell it."""
    for one in found:
        if one.open:
            raise DataError(_ask(one.open))
    dated = [one for one in found if one.offset == 0 and not one.known]
    near = [one for one in dated if one.near]
    if near and 2 * len(near) > len(dated):
        how = f"{near[0].why} tells no offset, but its darkest pixels lie just above DN {OFFSET}"
        raise DataError(_ask(f"{near[0].path}: {how}"))
    silent = [one for one in found if one.offset is None]
    told = {os.path.dirname(one.path): one for one in found if one.offset}
    for one in silent:
        if other := told.get(os.path.dirname(one.path)):
            how = f"tells no baseline and no date, but {os.path.basename(other.path)} beside it has the offset by"
            raise DataError(_ask(f"{one.path} {how} {other.why}"))
    bright = [one for one in silent if one.dark <= _DARK_SHARE]
    if bright:
        hint = (
            f"of {len(silent)} such files looked at, {len(silent) - len(bright)} have pixels under DN {DARK}, so "
            f"likely none, and {sum(one.near for one in bright)} their darkest just above {OFFSET}, so likely it"
        )
        raise DataError(_ask(f"{bright[0].path} tells no baseline and no date ({hint})"))


def _ask(why: str) -> str:
    choice = "give --offset 0, --offset 1000, or --offset TABLE.tsv of files and their DN"
    return f"the offset of S2 is open: {why}; {choice}"


def _per_pixel_minimum(bands: Iterable[np.ndarray]) -> np.ndarray:
    """Minimum over bands of one size, of pixels valid in all of them; bands of several sizes, one after another."""
    by_shape: dict[tuple[int, ...], list[np.ndarray]] = {}
    for band in bands:
        by_shape.setdefault(band.shape, []).append(band)
    minima = []
    for same in by_shape.values():
        valid = np.all([(band != 0) & np.isfinite(band) for band in same], axis=0)
        minima.append(np.minimum.reduce(same)[valid])
    return np.concatenate([np.empty(0, np.int64), *minima])


def subtract(band: np.ndarray, offset: float) -> np.ndarray:
    """(H, W) DN less the offset, same type; whole in integers. 0 is nodata: it stays 0, and in floats becomes NaN.

    A valid integer up to the offset becomes 1: its reflectance is at or below zero, and 1, a reflectance of 0.0001, is
    the least that is not nodata.
    """
    if offset == 0:
        return band
    if band.dtype.kind == "f":
        return np.where(band == 0, band.dtype.type(np.nan), band - band.dtype.type(offset))
    lower = np.clip(band.astype(np.int32) - offset, 1, np.iinfo(band.dtype).max).astype(band.dtype)
    return np.where(band == 0, band, lower)
