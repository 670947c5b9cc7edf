"""One entry of a database as ingest judges a file: its tensors as layers by band name.

Values are read with pread, in threads: no map of the file grows in memory, and Python's lock is free meanwhile.
"""

import io
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.numpy import load

from rsdnet import bands
from rsdnet._reader import Reader, extents
from rsdnet.catalog.base import OffsetPolicy
from rsdnet.data.catalog import DATA, MAP_TENSOR
from rsdnet.errors import DataError, Unfit
from rsdnet.ingest.images import Facts, Picture, picture_of
from rsdnet.ingest.raster import Layer, Raster
from rsdnet.ingest.s2_offset import DARK, OFFSET, Evidence, evidence
from rsdnet.ingest.source import Image, Recipe, Source
from rsdnet.ingest.units import NATIVE

_IN_PLACE = "; values are not changed in place: ingest the files, or --implausible keep"


class Database(NamedTuple):
    """An open file: equal wherever it is opened, in another process, too."""

    folder: str
    size: int
    changed: int
    """Time of its last change, ns."""

    @classmethod
    def of(cls, folder: Path) -> "Database":
        status = os.stat(folder / DATA)
        return cls(str(folder), status.st_size, status.st_mtime_ns)

    def read(self, key: str) -> bytes:
        """The value of an entry. Raises DataError if there is none, or it cannot be read."""
        reader, file = _opened(self)
        ((offset, size),) = extents(reader, [key]).tolist()
        value = os.pread(file.fileno(), size, offset)
        if len(value) < size:
            raise DataError(f"{self.folder}: entry {key} ends after {len(value):,} of {size:,} bytes")
        return value


@lru_cache(maxsize=1)
def _opened(database: Database) -> tuple[Reader, io.FileIO]:
    return Reader([database.folder], threads=1), io.FileIO(f"{database.folder}/{DATA}")


def read_entry(
    database: Database,
    offset: OffsetPolicy,
    kind: str,
    image: Image,
    source: Source,
    recipe: Recipe,
    facts: Facts,
) -> Picture:
    """The layers of one entry: as `rsdnet.ingest.images.read_image`. offset: see `Adoption`."""
    blob = database.read(image.key)
    facts.read += len(blob)
    file = _raster(kind, image.key, blob)
    try:
        picture = picture_of(kind, image.key, [file], source, recipe, facts)
    except Unfit as unfit:
        if not unfit.advice:
            raise
        raise Unfit(unfit.kind, unfit.fault + _IN_PLACE) from None
    if kind == "ms":
        _check_offset(evidence(image.key, {}, picture.layers.values()), offset, facts)
    return picture


def _raster(kind: str, key: str, blob: bytes) -> Raster:
    """An entry as a file of its layers. Raises Unfit on an entry that is damaged, or of types that cannot be read."""
    try:
        tensors = load(blob)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Unfit("damaged", f"{key}: its value is no safetensors ({error})") from error
    layers, untaken = dict[str, Layer](), list[str]()
    for name, pixels in sorted(tensors.items()):
        try:
            band = name if kind == "map" else bands.canonical(name)
        except DataError:
            untaken.append(name)
            continue
        if band in layers:
            raise Unfit("schema", f"{key} has {band} twice")
        wrong = pixels.dtype.name not in NATIVE or (kind == "sar" and pixels.dtype.kind != "f")
        if kind != "map" and (wrong or pixels.ndim != 2):
            raise Unfit("schema", f"{key}: {name} is {pixels.dtype} {list(pixels.shape)}, which training cannot read")
        layers[band] = Layer(key, pixels, None, 1, 0)
    if kind == "map" and (MAP_TENSOR not in layers or layers[MAP_TENSOR].pixels.ndim != 2):
        raise Unfit("schema", f"{key} has no tensor {MAP_TENSOR} of two dimensions")
    return Raster(layers, None, {}, tuple(untaken), False, {})


def _check_offset(found: Evidence, policy: str, facts: Facts) -> None:
    """Note what an S2 entry tells of its offset. Raises Unfit where it tells one, and that is left out."""
    facts.evidence.append(found)
    if found.offset and policy == "leave-out":
        raise Unfit("offset", f"its values have the offset of {OFFSET:,} DN by {found.why}")
    if found.open:
        facts.doubts.append(f"S2: the key tells the offset of {OFFSET:,} DN, but pixels lie under DN {DARK}")
    elif found.offset:
        facts.doubts.append(f"S2 keeps the offset of {OFFSET:,} DN by {found.why if found.known else 'its date'}")
    elif found.near:
        facts.doubts.append(f"S2: the darkest pixels lie just above DN {OFFSET:,}, as with the offset")


def offsets_told(keys: Sequence[str]) -> list[Evidence]:
    """Of S2 keys, those that tell the offset; no pixel is read."""
    return [found for key in keys if (found := evidence(key, {}, ())).offset]
