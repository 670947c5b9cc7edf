"""Maps of a scene: seams, memory, pixels a second, and the loss by 8 bits: `python -m benches.embed --rows FOLDER`.

The encoder is trained here, on the embedded synthetic data. The scene is a mosaic of the real patches in
$RSDNET_REAL_DATA (default ../shared/data), side by side, or without them synthetic. Each figure is of the command that
a user types, in a process of its own.

- Seams: mean absolute difference of neighbouring output pixels across the borders of windows that do not overlap, in
  units of that of all other neighbours; each layer by its deviation. Borders of patches are left out of both.
- Memory: the most that the process held, with torch and the network.
- A whole tile: the mosaic repeated to a Sentinel-2 tile's 10,980 px a side, as a picture of pixels of 80 m.
- Loss by 8 bits: macro F1 of a logistic regression on the vectors of the test split's S2 patches, all ten bands of the
  encoder, int8 less float32.
"""

import dataclasses
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import rsdnet
from benches.core.rows import Results
from rsdnet.embed.geotiff import Coding
from rsdnet.embed.projection import fitted
from rsdnet.errors import DataError, command
from rsdnet.options import Positive, Threads, parse
from rsdnet.runfolder import ENCODER
from rsdnet.synthetic import demo

warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
REPO = Path(__file__).parents[1]
DEMO = REPO / "rsdnet" / "demo.toml"
NAMES = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")  # of TerraMesh's S2L2A
PATCH = 224  # px a side of TerraMesh's patches
TILE = 10_980  # px of 10 m a side of a Sentinel-2 tile (ESA, Sentinel-2 Products Specification)
PACKAGES = ("rasterio", "scikit-learn")


@dataclasses.dataclass(frozen=True)
class Options:
    """Seams, memory, speed and 8 bits of rsdnet.embed."""

    rows: Path | None = None
    """Folder whose embed.csv gets the rows; None: they are shown alone."""
    run: Path = Path("runs/embed")
    """Folder of the run whose encoder is used, trained where it is not there."""
    steps: Positive = 300
    """Of the training."""
    places: Positive = demo.PLACES
    """Of the synthetic data, 16 patches each."""
    side: Positive = 4
    """Patches a side of the mosaic."""
    row: str = "B08"
    """Row of bands whose maps are embedded."""
    threads: Threads = 2
    """CPU threads."""


class Embedded(NamedTuple):
    """Seams of an output, seconds and bytes of the process that made it, and its words on memory."""

    seams: float
    seconds: float
    peak: int
    said: str


def mosaic(side: int) -> tuple[np.ndarray, str]:
    """(12, H, W) uint16 DN of patches side by side, turned so that none is repeated, and the name of their source."""
    folder = Path(os.environ.get("RSDNET_REAL_DATA", REPO.parent / "shared" / "data")) / "terramesh" / "S2L2A"
    rng = np.random.default_rng(0)
    if paths := sorted(folder.glob("*.tif")):
        patches = [_read(path) for path in paths]
        patches = [np.where(patch < 1, 1, patch) for patch in patches if np.median(patch[3]) < 5000]  # not all of snow
    else:
        waves = rng.uniform(0.05, 0.5, (4, len(NAMES), 2))
        at = np.stack(np.meshgrid(np.arange(PATCH), np.arange(PATCH)))
        patches = [1500 + 500 * np.sin(np.einsum("cd,dhw->chw", own, at)) for own in waves]
    turned = [
        [np.rot90(patches[(r * side + c) % len(patches)], r + c, (1, 2)) for c in range(side)] for r in range(side)
    ]
    whole = np.concatenate([np.concatenate(row, 2) for row in turned], 1)
    return whole.astype(np.uint16), "terramesh S2L2A" if paths else "synthetic"


def _read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def call(*words: object, threads: int) -> tuple[str, float, int]:
    """Run a command of rsdnet: its output, seconds, and the bytes it held at most. Raises DataError where it fails."""
    began, peak = time.monotonic(), 0
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    argv = [sys.executable, "-m", *map(str, words)]
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(argv, stdout=said, env=environment)
        while process.poll() is None:
            # not getrusage's, which counts the memory of this process until the child's program starts
            found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
            peak = max(peak, 1024 * int(found[1])) if found else peak
            time.sleep(0.02)
        if process.returncode:
            raise DataError(f"{' '.join(argv)} failed")
        said.seek(0)
        return said.read(), time.monotonic() - began, peak


def embedded(encoder: Path, scene: Path, window: int, options: Options, *words: str) -> Embedded:
    """The embedding of a scene, by the command."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.tif"
        argv = ("rsdnet.embed", encoder, scene, out, "--offset=0", f"--bands={options.row}", "--device=cpu", *words)
        said, seconds, peak = call(*argv, threads=options.threads)
        promise = next(line for line in said.splitlines() if line.startswith("memory: "))
        with rasterio.open(out) as file:
            found = seams((file.read(layer) for layer in range(1, file.count + 1)), window)
        return Embedded(found, seconds, peak, promise.partition(": ")[2])


def seams(maps: Iterable[np.ndarray], window: int) -> float:
    """Of maps (H, W), each by its deviation: mean difference across window borders over that elsewhere."""
    borders, inside = list[float](), list[float]()
    for each in maps:
        for axis in (0, 1):
            steps = np.abs(np.diff(each / max(each.std(), 1e-9), axis=axis)).mean(1 - axis)
            at = np.arange(1, len(steps) + 1)
            borders += steps[(at % window == 0) & (at % PATCH != 0)].tolist()
            inside += steps[(at % window != 0) & (at % PATCH != 0)].tolist()
    return float(np.mean(borders) / np.mean(inside))


def score(table: pyarrow.Table, quantised: bool) -> float:
    """Macro F1 on the test split of a logistic regression on the train split's vectors."""
    vectors = np.stack(table["embedding"].to_numpy(zero_copy_only=False))
    labels, splits = np.array(table["label"].to_pylist()), np.array(table["split"].to_pylist())
    train, test = splits == "train", splits == "test"
    if quantised:
        fit = fitted(vectors[train], 0, False, 0)
        coding = Coding("int8", fit.low, fit.high)
        layers = torch.from_numpy(vectors.T[:, :, None].copy())
        levels = np.stack(list(coding.encoded(layers, torch.ones(layers.shape[1:], dtype=torch.bool))))[..., 0]
        scale, offset = coding.scales
        vectors = levels.T * scale + offset
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(vectors[train], labels[train])
    return float(f1_score(labels[test], head.predict(vectors[test]), average="macro"))


def written(path: Path, pixels: np.ndarray, names: Sequence[str]) -> Path:
    """`pixels` (C, H, W) uint16 as a tiled GeoTIFF whose layers are called `names`."""
    shape = dict(zip(("count", "height", "width"), pixels.shape, strict=True))
    with rasterio.open(path, "w", driver="GTiff", dtype="uint16", tiled=True, **shape) as file:
        file.write(pixels)
        file.descriptions = tuple(names)
    return path


def measure(options: Options, encoder: Path, database: Path, kept: Results, folder: Path) -> None:
    """All rows."""
    pixels, source = mosaic(options.side)
    scene = written(folder / "scene.tif", pixels, NAMES)
    size = "x".join(map(str, pixels.shape[:0:-1]))
    loaded = rsdnet.load(encoder)
    window, width = loaded.file.side, loaded.cfg.model.width
    named = f"{loaded.file.encoder} of width {width} after {loaded.file.step} steps"
    setting = {"encoder": named, "scene": f"{source} {size}", "row": options.row, "window": window}
    setting["threads"] = options.threads
    ways = {
        "no overlap": (f"--stride={window}",),
        "half overlap": (),
        "half overlap, position kept": ("--position=keep",),
    }
    for name, words in ways.items():
        found = embedded(encoder, scene, window, options, *words)
        kept.tell(setting, "seams", name, found.seams, "x inside")
        tell_cost(kept, setting, name, found, pixels[0].size)
    times = -(-TILE // pixels.shape[2])
    whole = np.tile(pixels[[NAMES.index(options.row)]], (1, times, times))[:, :TILE, :TILE]
    tile = written(folder / "tile.tif", whole, [options.row])
    found = embedded(encoder, tile, window, options, "--cell=8", "--pca=3", f"--stride={window}")
    setting |= {"scene": f"{source}, repeated to {TILE}x{TILE}", "options": f"--cell 8 --pca 3 --stride {window}"}
    tell_cost(kept, setting, "whole tile", found, whole.size)
    out = folder / "patches.parquet"
    call("rsdnet.embed", encoder, out, "--db", database, "--device=cpu", threads=options.threads)
    table = pyarrow.parquet.read_table(out, filters=[("sensor", "==", "ms")])
    full, eight = (score(table, quantised) for quantised in (False, True))
    tested = (np.array(table["split"].to_pylist()) == "test").sum()
    setting = {"encoder": named, "data": f"demo of {options.places} places, {tested} test patches"}
    kept.tell(setting, "macro F1, int8 less float32", "float32", eight - full, also={"float32": f"{full:.3f}"})


def tell_cost(kept: Results, setting: dict[str, Any], name: str, found: Embedded, pixels: int) -> None:
    """Rows of speed and memory."""
    rate = pixels / found.seconds / 1e3
    kept.tell(setting, "speed, with start and end", name, rate, "thousand px/s")
    kept.tell(setting, "peak memory", name, found.peak / 1e9, "GB", also={"promised": found.said})


def main() -> None:
    """The command."""
    options = parse(Options, prog="python -m benches.embed", description=__doc__)
    console = Console()

    def show(what: str, contender: str, outcome: str) -> None:
        console.print(f"{what}, {contender}: {outcome}", highlight=False, markup=False)

    kept = Results("embed", options.rows, show, PACKAGES)
    database = demo.prepare(places=options.places)
    if not (options.run / ENCODER).exists():
        argv = ("--data", database, "--run", options.run, f"--steps={options.steps}", "--width=16", "--device=cpu")
        call("rsdnet.train", "--config", DEMO, *argv, threads=options.threads)
    with tempfile.TemporaryDirectory() as folder:
        measure(options, options.run, database, kept, Path(folder))


if __name__ == "__main__":
    command(main)
