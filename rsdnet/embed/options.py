"""Options of `python -m rsdnet.embed`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from rsdnet.errors import DataError
from rsdnet.files import writable
from rsdnet.ingest.layouts.base import Offset
from rsdnet.ingest.source import S1Unit, S2Unit
from rsdnet.options import Real, Seed


@dataclasses.dataclass(frozen=True)
class Options:
    """Features of a scene's pixels, or of a database's patches."""

    encoder: tyro.conf.Positional[Path]
    """encoder.safetensors of a run, or the run's folder."""
    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="SCENE ... OUT")]
    """Files of one scene, and last the file to write: OUT.tif; with --db OUT.parquet alone."""
    db: Path | None = None
    """Database whose patches to embed, in place of a scene."""
    bands: Annotated[tuple[str, ...], tyro.conf.arg(metavar="BANDS [BANDS ...]")] = ()
    """Rows whose features stand side by side, such as B08 or B04+B03+B02. None: the encoder's own, of the sensors that
    the scene or the database has."""
    features: Annotated[str, Field(pattern="^(last|stages|layer[1-4])$")] = "stages"
    """Maps: of the four stages side by side, of the last one, or of one (layer1, which shows most detail, to
    layer4)."""
    layers: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAMES [NAMES ...]")] = ()
    """Names of the scene's layers in order, B02,B03,...; - skips a layer; L1C or L2A for all 13 or 12; one text for all
    files, or one each. None: the files' own descriptions, or the band in the name of a file of one layer."""
    window: Annotated[int, Field(ge=0, le=4096)] = 0
    """Pixels a side of a window; 0: of a patch in training."""
    stride: Annotated[int, Field(ge=0, le=4096)] = 0
    """Pixels from window to window; 0: half a window. As --window: no overlap."""
    cell: Annotated[int, Field(ge=1, le=4096)] = 1
    """Pixels of the scene a side of an output pixel."""
    pca: Annotated[int, Field(ge=0, le=4096)] = 0
    """Principal components to write in place of the maps' channels; 3: a picture, red, green and blue of 8 bits; 0:
    none."""
    position: Literal["subtract", "keep"] = "subtract"
    """The part of the features that tells their place in the window, as padding causes it: subtract its mean over
    windows of the scene, or keep the encoder's maps as they are."""
    type: Literal["float16", "int8"] = "float16"
    """Type of the values: float16, or int8 with a scale and an offset a layer."""
    s2_unit: S2Unit = "dn"
    """Unit of the S2 values: DN, reflectance, or bytes of a stretched picture."""
    s1_unit: S1Unit = "db"
    """Unit of the S1 values: dB, power or amplitude."""
    offset: Offset = "auto"
    s2_nodata: Real | None = None
    """A value of S2 pixels without data, beside the nodata value, mask or alpha layer that a file tells."""
    s1_nodata: Real | None = None
    """The same for S1."""
    implausible: Literal["refuse", "keep"] = "refuse"
    """A scene whose values look like another unit or like fill: end, or take it as it is."""
    memory: Annotated[float, Field(ge=0.01, le=100_000)] = 2.0
    """GB of a block and its windows, beside torch and the network; larger blocks take less time."""
    batch: Annotated[int, Field(ge=1, le=2**16)] = 16
    """Windows, or patches, encoded at once."""
    seed: Seed = 0
    """Seed of the windows that --pca, --position and int8 are fitted on."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to encode; auto: the GPU where there is one, under torchrun one for each process."""
    force: bool = False
    """Write OUT even if it exists, and begin anew where blocks of other options are left."""


def output_of(options: Options) -> Path:
    """The file to write. Raises DataError where it exists or cannot be, or the files do not fit --db."""
    if not options.files:
        raise DataError("name the scene's files and last the file to write, or OUT.parquet with --db DB")
    out, kind = options.files[-1], "Parquet" if options.db else "GeoTIFF"
    if options.db and len(options.files) > 1:
        raise DataError(f"--db names the input, but {options.files[0]} is one too: leave one of them out")
    if not options.db and len(options.files) < 2:
        raise DataError(f"{out} alone is named: name the scene's files before the file to write, or --db DB")
    if out.suffix.lower() not in ((".parquet",) if options.db else (".tif", ".tiff")):
        raise DataError(f"{out}: the output is a {kind}: name it {out.stem}.{'parquet' if options.db else 'tif'}")
    writable(out, kind)
    if any(path.absolute() == out.absolute() for path in options.files[:-1]):
        raise DataError(f"{out} is a file of the scene: name another output")
    if out.exists() and not options.force:
        raise DataError(f"{out} exists: name another output, or write over it by --force")
    return out
