"""The plan of a scene's embedding, from the command's options: rows, recipe, windows; and its words to the user."""

import math
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import rsdnet
from rsdnet import bands
from rsdnet.console import size
from rsdnet.data.fixed import view_of
from rsdnet.embed.job import Job
from rsdnet.embed.layers import Layers
from rsdnet.embed.options import Options
from rsdnet.embed.scene import Scene, files_of
from rsdnet.embed.windows import Tiling
from rsdnet.encoder import Encoder, Row
from rsdnet.errors import DataError
from rsdnet.evaluate.features import scaled_side
from rsdnet.evaluate.weights import digest
from rsdnet.ingest.images import Facts
from rsdnet.ingest.layouts.base import parse_offset
from rsdnet.ingest.source import Recipe
from rsdnet.provenance import commit

_SCALE = 0.05  # share by which a pixel's side may lie beyond those of training, before it is said; our choice


def planned(encoder: Encoder, options: Options, out: Path, console: Console) -> Job:
    """The job; says what it found. Raises DataError where options, scene and encoder do not fit each other."""
    files = files_of(options.files[:-1], options.layers)
    rows = rows_for(encoder, options.bands, [name for file in files for name in file.bands])
    wanted = list(dict.fromkeys(name for row in rows for name in view_of(row, "--bands").bands))
    require_unit(encoder, wanted, options.s2_unit)
    scene = Scene.of(files, wanted, recipe_of(options))
    tiling = tiling_of(encoder, scene, options.window, options.stride, options.cell)
    scene, facts = scene.settled()
    view = scaled_side(encoder.cfg.views, encoder.file.side, round(tiling.window * scene.tens))
    trial = {
        name: np.ones((1, *(max(tiling.window // factor, 1),) * 2), np.float32)
        for name, factor in factors(scene, wanted)
    }
    layers = Layers.of(encoder, rows, view, options.features, trial)
    identity = {
        "encoder": digest(encoder.network.state_dict()),
        "scene": scene.identity(),
        "rows": ["+".join(row) for row in rows],
        "layers": [list(file.layers) for file in scene.files],
        "features": options.features,
        "window": tiling.window,
        "stride": tiling.stride,
        "cell": tiling.cell,
        "pca": options.pca,
        "type": options.type,
        "seed": options.seed,
        "position": options.position,
        "offset": scene.recipe.offset,
        "s2_unit": options.s2_unit,
        "s1_unit": options.s1_unit,
        "s2_nodata": options.s2_nodata,
        "s1_nodata": options.s1_nodata,
    }
    told = {name: value for name, value in identity.items() if value is not None and name not in ("layers", "scene")}
    tags = {f"RSDNET_{name.upper()}": tag(value) for name, value in told.items()}
    tags |= {"RSDNET_VERSION": rsdnet.__version__, "RSDNET_COMMIT": commit(), "RSDNET_TRAINED": encoder.file.commit}
    tags["RSDNET_SCENE"] = " ".join(str(name) for name, *_ in scene.identity())
    kind = "byte" if options.pca == 3 else options.type
    job = Job(
        scene, layers, tiling, out, kind, options.pca, options.position, options.batch, int(options.memory * 1e9),
        options.seed, identity, tags,
    ).blocked()  # fmt: skip
    for line in words(job, facts):
        console.print(line)
    return job


def tag(value: Any) -> str:
    """A value as the text of a tag."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def rows_for(encoder: Encoder, asked: Sequence[str], held: Sequence[str]) -> tuple[Row, ...]:
    """The rows `asked` for; none: the encoder's, of the sensors of the bands `held`.

    Raises DataError on a band that the encoder does not know, and where there is no row.
    """
    if asked:
        rows = tuple(view_of(text.split("+"), "--bands").names for text in asked)
    else:
        sensors = {bands.BANDS[name].modality for name in held}
        rows = tuple(row for row in encoder.rows if bands.BANDS[row[0].split("-")[0]].modality in sensors)
    for row in rows:
        for name in view_of(row, "--bands").bands:
            if name not in encoder.file.bands:
                raise DataError(
                    f"the encoder knows no band {name}: it knows {' '.join(encoder.file.bands)}; see --bands"
                )
    if not rows:
        known = ", ".join("+".join(row) for row in encoder.rows)
        raise DataError(f"the encoder was trained on {known}, but there is none of that sensor: {', '.join(held)}")
    return rows


def require_unit(encoder: Encoder, wanted: Sequence[str], s2_unit: str) -> None:
    """Raise DataError where S2 values become another unit than the encoder was trained on."""
    for name in wanted:
        trained = encoder.file.bands[name].unit
        if bands.BANDS[name].modality == "ms" and (trained == "byte") != (s2_unit == "byte"):
            other = "--s2-unit byte" if trained == "byte" else "--s2-unit dn or reflectance"
            raise DataError(
                f"the encoder was trained on {trained}, but --s2-unit is {s2_unit}: a scene for {other} is needed"
            )


def recipe_of(options: Options) -> Recipe:
    """The conversion of the scene's values."""
    nodata = {"ms": options.s2_nodata, "sar": options.s1_nodata}
    return Recipe(
        {},
        offset=parse_offset(options.offset, Path()),
        s2_unit=options.s2_unit,
        s1_unit=options.s1_unit,
        nodata={kind: value for kind, value in nodata.items() if value is not None},
        implausible=options.implausible == "keep",
    )


def factors(scene: Scene, wanted: Sequence[str]) -> list[tuple[str, int]]:
    """Each band and the pixels of the scene a side of one of its own."""
    return [
        (name, max(1, round(scene.shape[0] / file.shape[0])))
        for file in scene.files
        for name in file.bands
        if name in wanted
    ]


def tiling_of(encoder: Encoder, scene: Scene, window: int, stride: int, cell: int) -> Tiling:
    """The windows: of a training patch's side and half of it apart, unless told."""
    step = math.lcm(scene.step, cell)
    window = window or max(round(encoder.file.side / scene.tens / step), 1) * step
    return Tiling(scene.shape, window, stride or max(window // 2 // step, 1) * step, step, cell)


def words(job: Job, facts: Facts) -> list[str]:
    """Lines on the scene as it is taken, the output, and the memory."""
    scene, tiling = job.scene, job.tiling
    rows = " ".join("+".join(row) for row in job.layers.rows)
    subtracted = [f"offset of {offset:,} DN subtracted by {why}" for _, offset, why, _ in facts.offsets[:1] if offset]
    notes = [note for note in facts.notes if "not taken" not in note]  # the rows leave out the others
    lines = [f"scene: {tiling.shape[1]:,} x {tiling.shape[0]:,} px; rows: {rows}", *notes, *subtracted]
    lines += [f"not sure of: {doubt}" for doubt in facts.doubts]
    lines += pixel_words(scene, job.layers, tiling.window)
    (height, width), pages = tiling.out, int(Path("/proc/self/statm").read_text().split()[1])
    held = pages * resource.getpagesize()
    lines.append(
        f"windows of {tiling.window} px, {tiling.stride} apart, seen as {job.layers.size} px; output: {width:,} x "
        f"{height:,} px, {job.count:,} layers, {size(job.bytes)} before compression"
    )
    lines.append(
        f"memory: {size(job.needed(tiling.block))} for blocks of {tiling.block} px, beside {size(held)} held already"
    )
    return lines


def pixel_words(scene: Scene, layers: Layers, window: int) -> list[str]:
    """Lines on a scene without georeference, and on pixels of another size than training's."""
    if scene.metres is None:
        return ["the scene has no georeference, nor will the output: its pixels are taken for training's"]
    low, high = layers.encoder.file.metres
    seen = scene.metres * window / layers.size
    if low * (1 - _SCALE) <= seen <= high * (1 + _SCALE):
        return []
    guess = " (a guess: its grid is in degrees)" if scene.degrees else ""
    return [
        f"not sure of: a pixel of {scene.metres:.3g} m{guess} is seen as one of {seen:.3g} m, but training saw "
        f"{low:.3g} to {high:.3g} m: resample the scene"
    ]
