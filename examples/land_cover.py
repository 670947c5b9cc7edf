"""A land-cover map from a few labelled pixels: a scene, its embedding, a linear classifier, and a picture of all three.

`python examples/land_cover.py`, a minute on a CPU. With an encoder and a scene of your own:

    python examples/land_cover.py --encoder runs/first --scene s2.tif s1.tif --labels cover.tif --out map.png
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import rasterio
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from small import encoder, run, scene

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.colors import ListedColormap

BANDS = "B03 B08 B11 VV VH"


def options() -> argparse.Namespace:
    """The command line; a synthetic scene and a small encoder where none is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", type=Path, help="an encoder's file, or a run's folder")
    parser.add_argument("--scene", type=Path, nargs="+", help="GeoTIFFs of one grid, the first with B04, B03 and B02")
    parser.add_argument("--labels", type=Path, help="land cover of the scene's pixels, 0 for none")
    parser.add_argument("--bands", default=BANDS, help=f"bands of the embedding; {BANDS}")
    parser.add_argument("--count", type=int, default=50, help="labelled pixels to learn from")
    parser.add_argument("--out", type=Path, default=Path("land_cover.png"))
    found = parser.parse_args()
    found.encoder = found.encoder or encoder()
    if not found.scene:
        files = scene()
        found.scene, found.labels = [files["s2"], files["s1"]], found.labels or files["lc"]
    return found


def stretched(image: np.ndarray) -> np.ndarray:
    """(3, H, W) values as a picture (H, W, 3) from 0 to 1, of the 2nd to the 98th percentile of each layer."""
    low, high = np.nanpercentile(image, (2, 98), axis=(1, 2))
    return np.nan_to_num(((image - low[:, None, None]) / (high - low)[:, None, None]).clip(0, 1)).transpose(1, 2, 0)


def drawn(cover: np.ndarray, count: int) -> np.ndarray:
    """Positions of `count` labelled pixels, as even over the classes as they come."""
    rng = np.random.default_rng(0)
    turns = [rng.permutation(np.flatnonzero(cover == label)) for label in np.unique(cover[cover > 0])]
    each = [position for turn in zip(*(own[:count] for own in turns), strict=False) for position in turn]
    return np.array(each[:count])


def mapped(x: np.ndarray, labels: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Predictions (N,) for pixels x (N, F) of a linear classifier on the pixels `train`."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    return classifier.fit(x[train], labels[train]).predict(x)


def layers(paths: list[Path], names: tuple[str, ...] = ()) -> np.ndarray:
    """(C, H, W) float32: the layers of files of one grid, those described as `names`, in this order; none: all."""
    found = {}
    for path in paths:
        with rasterio.open(path) as file:
            for index, name in enumerate(file.descriptions, 1):
                if not names or name in names:
                    found[name or index] = file.read(index, out_dtype="float32")
    return np.stack([found[name] for name in names or found])


asked = options()
files, names = " ".join(map(str, asked.scene)), tuple(asked.bands.split())
target, picture = asked.out.with_suffix(".tif"), asked.out.with_name(f"{asked.out.stem}-colour.tif")
# More overlap than half a window blends deep stages, of few pixels a window, into smooth maps.
run(f"rsdnet.embed {asked.encoder} {files} {target} --bands {asked.bands} --stride 16 --pca 64 --force")
run(f"rsdnet.embed {asked.encoder} {files} {picture} --bands {asked.bands} --features layer1 --pca 3 --force")
embedding, cover = layers([target]), layers([asked.labels])[0].astype(int)
pixels = layers(asked.scene, names)
truth = cover.ravel()
train, known = drawn(truth, asked.count), truth > 0
maps = {}
compared = {
    f"the embedding, {len(embedding)} layers": embedding,
    f"{asked.bands} of the pixel itself": pixels,
}
for words, x in compared.items():
    maps[words] = mapped(x.reshape(len(x), -1).T, truth, train)
    score = f1_score(truth[known], maps[words][known], average="macro")
    print(f"map from {asked.count} labels by {words}: macro F1 {score:.3f} over {known.sum():,} pixels")

palette = ListedColormap(pyplot.get_cmap("tab20").colors[: truth.max() + 1])
shown = {
    f"scene, and {asked.count} labels": stretched(layers(asked.scene, ("B04", "B03", "B02"))),
    "embedding, first stage": layers([picture]).transpose(1, 2, 0) / 255,
    "embedding, all stages": stretched(embedding[:3]),
    f"map from {asked.count} labels": next(iter(maps.values())).reshape(cover.shape),
    "land cover": cover,
}
figure, axes = pyplot.subplots(1, len(shown), figsize=(3 * len(shown), 3.3))
for axis, (title, image) in zip(axes, shown.items(), strict=True):
    axis.imshow(image, cmap=palette, vmin=0, vmax=truth.max(), interpolation="nearest")
    axis.set_title(title, fontsize=10)
    axis.axis("off")
rows, columns = np.unravel_index(train, cover.shape)
axes[0].scatter(columns, rows, s=9, c="white", edgecolors="black", linewidths=0.5)
figure.tight_layout()
figure.savefig(asked.out, dpi=80)
print(f"picture: {asked.out}; embedding: {target}")
