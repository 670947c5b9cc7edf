"""GeoTIFF, JPEG, JPEG 2000 and whatever GDAL reads, through rasterio: layers by name, north up, with their masks."""

import logging
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from rsdnet import bands
from rsdnet.errors import DataError, Unfit
from rsdnet.ingest.grid import Grid, grid_of
from rsdnet.ingest.region import Cut, Region, cut_of

# An unreadable file is reported once, with its sample; GDAL's own messages would double it.
logging.getLogger("rasterio").setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", category=NotGeoreferencedWarning, module="rasterio")
GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",  # a folder of a million files is not listed a file
    "GDAL_CACHEMAX": 64,
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",  # damaged JPEG data is an error, not pixels made up
}
_HUGE = 1e5  # no scale and no offset of values in DN, dB, power or reflectance is as large
SKIP, REST = "-", "*"
# Other words that describe a layer: colours, and layers of products (ESA, Sentinel-2 Products Specification; Earth
# Engine's S2 and S1 collections).
_WORDS = {"BLUE": "B02", "GREEN": "B03", "RED": "B04"} | {
    name: name for name in ("SCL", "AOT", "WVP", "CLD", "SNW", "QA10", "QA20", "QA60", "ANGLE")
}
_OTHER = ("HH", "HV")  # Sentinel-1's other polarisations (ESA, Sentinel-1 Product Definition)
# Of a product that sent horizontal waves, so has HH, HV (ESA, Sentinel-1 Product Specification, naming).
_SENT_H = re.compile(r"S1[A-D]_\w\w_[A-Z]{3}[FHM_]_\dS[SD]H_")


class Layer(NamedTuple):
    """One layer as it lies in its file.

    pixels: (H, W), north up. invalid: (H, W) bool, pixels without data by nodata value, mask or alpha; None: none.
    scale, offset: of the file's tags; value = pixel * scale + offset.
    """

    path: str
    pixels: np.ndarray
    invalid: np.ndarray | None
    scale: float
    offset: float


class Raster(NamedTuple):
    """The named layers of a file; its grid, None without a georeference; its tags; the layers that were not taken.

    flipped: whether it was stored south-up or mirrored. palette: colour by value, where it has a colour table.
    """

    layers: dict[str, Layer]
    grid: Grid | None
    tags: dict[str, str]
    untaken: tuple[str, ...]
    flipped: bool
    palette: dict[int, tuple[int, ...]]


def read(
    path: str, names: tuple[str, ...] | None, nodata: float | None = None, region: Region | None = None, most: int = 0
) -> Raster:
    """Read a file's layers: `names` in their order, else those that its band descriptions name.

    nodata: a value that is no data, beside the file's own. region: of the image; None: all of it. most: pixels a side
    of a whole image that is read thinned out, by nearest neighbour or the file's own overviews; 0: all. The grid is
    that of the whole file either way.
    Raises Unfit if it cannot be read or named, or its descriptions contradict `names`.
    """
    try:
        with rasterio.open(path) as file:
            chosen = choose(path, file.descriptions, names, _alpha(file))
            grid, axes = grid_of(file)
            indices = list(chosen.values())
            _check_scales(path, [(file.scales[index - 1], file.offsets[index - 1]) for index in indices])
            known = range(1, file.count + 1) if names and names[-1] == REST else indices
            cut = cut_of(file, axes, region, most)
            pixels, blank = cut.read(file, indices), _invalid(file, known, cut)
            layers = {}
            for one, (name, index) in zip(pixels, chosen.items(), strict=True):
                mask = _is(one, nodata, _is(one, file.nodatavals[index - 1], blank))
                if np.any(cut.pads) and mask is None:
                    mask = np.zeros(one.shape, bool)
                flipped = None if mask is None else cut.padded(np.flip(mask, axes), True)
                scale, offset = file.scales[index - 1], file.offsets[index - 1]
                layers[name] = Layer(path, cut.padded(np.flip(one, axes)), flipped, scale, offset)
            _check_polarisation(path, file.tags(), chosen)
            rest = [text or f"layer {at}" for at, text in enumerate(file.descriptions, 1) if at not in indices]
            return Raster(layers, grid, _tags(file, indices), tuple(rest), bool(axes), _palette(file))
    except (RasterioError, CPLE_BaseError, OSError, UnicodeError) as error:
        reason = str(error.__cause__ or error).replace(path, "").strip(" :'")
        raise Unfit("cannot be read", f"{path} cannot be read ({reason}); is it whole?") from error


def _palette(file: rasterio.DatasetReader) -> dict[int, tuple[int, ...]]:
    """Colour by value; {} without a colour table, which may be announced all the same."""
    try:
        return file.colormap(1) if file.colorinterp[0] == ColorInterp.palette else {}
    except ValueError:
        return {}


def _check_scales(path: str, pairs: Iterable[tuple[float, float]]) -> None:
    """Raise Unfit on scale and offset tags by which every pixel would be one value, none, or beyond all measure."""
    for scale, offset in pairs:
        if scale == 0 or not (np.abs((scale, offset)) < _HUGE).all():
            raise Unfit("unit", f"{path} tells a scale of {scale:g} and an offset of {offset:g}: correct its tags")


def _tags(file: rasterio.DatasetReader, indices: Collection[int]) -> dict[str, str]:
    """The tags of a file, and of its layers where it has none of the name."""
    tags = joined(file.tags(index) for index in indices) | file.tags()
    for name, text in tuple(tags.items()):
        rest, equals, value = text.partition("=")
        if equals and rest.isidentifier():  # GDAL splits "s2:processing_baseline=05.09" at its colon
            tags[f"{name}:{rest}"] = value
    return tags


def joined(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Tags of several layers or files: values that differ as one text."""
    values: dict[str, list[str]] = {}
    for own in tags:
        for name, text in own.items():
            values.setdefault(name, []).append(text)
    return {name: ", ".join(dict.fromkeys(texts)) for name, texts in values.items()}


def _alpha(file: rasterio.DatasetReader) -> int | None:
    """Index of the layer that is a mask of the others. GDAL calls the fourth of four 8-bit layers alpha by default, so
    one that bears another name is none."""
    last, name = file.count, (file.descriptions[-1] or "alpha").lower()
    return last if last > 1 and file.colorinterp[-1] == ColorInterp.alpha and "alpha" in name else None


def _invalid(file: rasterio.DatasetReader, known: Collection[int], cut: Cut) -> np.ndarray | None:
    """(H, W) bool: the pixels that a mask of the file, internal or .msk, or its alpha layer blanks; None: no mask.

    known: indices of the layers that are no mask.
    """
    masks = []
    flags = file.mask_flag_enums[0]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        masks.append(file.read_masks(1, window=cut.window, out_shape=cut.shape) == 0)
    if (alpha := _alpha(file)) and alpha not in known:
        masks.append(cut.read(file, alpha) == 0)
    return np.logical_or.reduce(masks) if masks else None


def _is(pixels: np.ndarray, value: float | None, mask: np.ndarray | None) -> np.ndarray | None:
    """`mask`, and the pixels of a value."""
    if value is None or np.isnan(value):
        return mask
    with np.errstate(over="ignore"):
        same = pixels == (pixels.dtype.type(value) if pixels.dtype.kind == "f" else value)
    return (same if mask is None else mask | same) if same.any() else mask


def choose(
    path: str, descriptions: Sequence[str | None], names: tuple[str, ...] | None, alpha: int | None = None
) -> dict[str, int]:
    """{band: index of its layer, from 1}: by `names` in the layers' order, else by the file's band descriptions.

    alpha: index of a layer that is a mask; it needs no name.
    Raises Unfit where layers are unnamed, or named otherwise than described.
    """
    described = [band_name(text) for text in descriptions]
    shared = {name for name in described if name and described.count(name) > 1}
    known = [name for name in described if name and not shared]
    if names is None:
        chosen = {name: described.index(name) + 1 for name in known if name in bands.BANDS}
        if not chosen:
            told = f" as bands: {', '.join(map(str, descriptions))}" if any(descriptions) else ""
            raise Unfit("bands", f"{path} does not name its {len(descriptions)} layers{told}")
        return chosen
    rest, wanted = names[-1] == REST, [name for name in names if name != REST]
    if wanted == ["R", "G", "B"] and len(descriptions) == 1:  # a colour table
        return {"Data": 1}
    if wanted == ["Data"] and len(descriptions) - bool(alpha) > 1 and not rest:
        how = "a label map has one, of class numbers; or name its colours: --classes '#ff0000=urban,...'"
        raise Unfit("label map", f"{path} has {len(descriptions)} layers: {how}")
    if set(wanted) - {SKIP} <= set(known) and len(wanted) < len(descriptions):
        chosen = {name: described.index(name) + 1 for name in wanted if name != SKIP}
        if list(chosen.values()) == sorted(chosen.values()):
            return chosen
    count = len(descriptions) - (alpha == len(descriptions) == len(wanted) + 1)
    if count < len(wanted) or (count > len(wanted) and not rest):
        spelled, how = ", ".join(wanted), f"; {SKIP} skips a layer" if count > len(wanted) else ""
        raise Unfit("bands", f"{path} has {count} layers, but {len(wanted)} bands are named: {spelled}{how}")
    # A description that several layers share names none of them.
    said_of = [
        None if name in shared else name or _WORDS.get((text or "").strip().upper())
        for name, text in zip(described, descriptions, strict=True)
    ]
    for index, (said, name) in enumerate(zip(said_of, wanted, strict=False), 1):
        if said and name in bands.BANDS and name != said:
            raise Unfit("bands", f"{path} describes layer {index} as {descriptions[index - 1]}, but it is named {name}")
        if not said and name in bands.BANDS and name in said_of:
            where = f"layer {said_of.index(name) + 1} as {name}, but layer {index} is named so"
            raise Unfit("bands", f"{path} describes {where}")
    return {name: index for index, name in enumerate(wanted, 1) if name != SKIP}


def _check_polarisation(path: str, tags: Mapping[str, str], names: Collection[str]) -> None:
    """Raise Unfit if layers are named VV or VH, but the product's name or a tag tells HH or HV."""
    told = " ".join(text.upper() for name, text in tags.items() if "POLARI" in name.upper())
    sent_h = _SENT_H.search(path) or (re.search(r"\bH[HV]\b", told) and not re.search(r"\bV[HV]\b", told))
    if sent_h and {"VV", "VH"} & set(names):
        raise Unfit("bands", f"{path} is of a product that sent H, but its layers are named {', '.join(names)}")


def band_name(description: str | None) -> str | None:
    """The band that a description tells: "B04", "B4 (665 nm)", "Sigma0_VV_db"; HH and HV too; None: none or several."""
    found = set()
    for word in re.split(r"[^A-Za-z0-9]+", description or ""):
        try:
            found.add(word.upper() if word.upper() in _OTHER else bands.canonical(word))
        except DataError:
            continue
    return found.pop() if len(found) == 1 else None
