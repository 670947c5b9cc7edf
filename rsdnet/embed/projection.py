"""Fits on a sample of the output: the principal components of its channels, and the range of each layer.

Both are linear, so that they are applied to the maps before these are resampled: K layers are resampled and blended
instead of thousands.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import grid_sample

from rsdnet.embed.layers import Layers
from rsdnet.embed.position import without
from rsdnet.errors import DataError
from rsdnet.files import aside

WINDOWS, CELLS = 64, 256  # windows of the sample, and pixels of each, at most; our choice
SAMPLE = 1 << 28  # bytes of the sample, at most; our choice
PICTURE = (2, 98)  # per cent of the values between which a picture is stretched; the usual choice of GIS programs
QUANTISED = (0.1, 99.9)  # per cent between which 8 bits are spread; values beyond are clipped; our choice


class Fit(NamedTuple):
    """A projection and the ranges of the layers.

    components: (K, C) float32, None: the channels as they are. shift: (K,) float32, to be taken from the projected
    ones. low, high: (layers,) float32. variance: (K,) shares of the variance. position: of all stages, float32, one
    after the other, to be taken from the maps first; None: nothing.
    """

    components: np.ndarray | None
    shift: np.ndarray | None
    low: np.ndarray
    high: np.ndarray
    variance: np.ndarray | None
    position: np.ndarray | None = None

    def save(self, path: Path) -> None:
        """As a .npz, aside then renamed."""
        with aside(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{name: value for name, value in self._asdict().items() if value is not None})

    @classmethod
    def load(cls, path: Path) -> "Fit":
        """Of `save`."""
        with np.load(path) as found:
            return cls(*(found.get(name, None) for name in cls._fields))

    def apply(self, layers: Layers, maps: list[Tensor]) -> list[tuple[int, Tensor]]:
        """Each stage's maps (B, c, h, w) without their position part, projected where there are components, with the
        first layer they add to."""
        maps = without(maps, self._positions(maps))
        if self.components is None:
            return [(each.first, found) for each, found in zip(layers.stages, maps, strict=True)]
        whole = torch.from_numpy(self.components).to(maps[0].device)
        cut = [whole[:, each.first : each.first + each.channels] for each in layers.stages]
        return [(0, torch.einsum("kc,bchw->bkhw", own, found)) for own, found in zip(cut, maps, strict=True)]

    def _positions(self, maps: list[Tensor]) -> list[Tensor]:
        """The position part (c, h, w) of each stage."""
        if self.position is None:
            return []
        parts = torch.from_numpy(self.position).split([each[0].numel() for each in maps])
        return [part.view(each.shape[1:]).to(each.device) for part, each in zip(parts, maps, strict=True)]


def fitted(sample: np.ndarray, components: int, picture: bool, seed: int) -> Fit:
    """The fit on a sample (n, C) of the channels. components: K; 0: none. picture: layers are stretched to 8 bits.

    Channels are standardised first, for deep stages vary less than shallow ones.
    Raises DataError on fewer samples or channels than components.
    """
    if not components:
        return Fit(None, None, *_range(sample, QUANTISED), None)
    if components > min(sample.shape):
        raise DataError(
            f"--pca {components}: a sample of {len(sample)} pixels of {sample.shape[1]} channels has no more than "
            f"{min(sample.shape)} components"
        )
    scaler = StandardScaler().fit(sample)
    pca = PCA(components, random_state=seed).fit(scaler.transform(sample))
    matrix = (pca.components_ / scaler.scale_).astype(np.float32)
    shift = (matrix @ scaler.mean_).astype(np.float32)
    low, high = _range(sample @ matrix.T - shift, PICTURE if picture else QUANTISED)
    return Fit(matrix, shift, low, high, pca.explained_variance_ratio_.astype(np.float32))


def _range(values: np.ndarray, share: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """(layers,) low and high ends; of a constant layer 1 apart."""
    low, high = np.percentile(values, share, axis=0).astype(np.float32)
    return low, np.where(high > low, high, low + 1).astype(np.float32)


def sampled(
    layers: Layers, windows: Callable[[int], Iterator[tuple[dict[str, Tensor], np.ndarray]]], side: int, seed: int,
    position: Sequence[Tensor] = (),
) -> np.ndarray:  # fmt: skip
    """(n, C) float32: channels at valid pixels of the output, drawn from windows that are spread over the scene.

    windows: that many windows (1, h, w) by band, with their valid pixels (side, side). position: of the maps, to be
    taken from them.
    Raises DataError where there is no valid pixel.
    """
    rng, found = np.random.default_rng(seed), list[np.ndarray]()
    each = min(CELLS, max(SAMPLE // (4 * layers.channels * WINDOWS), 1))
    for values, valid in windows(WINDOWS):
        places = np.argwhere(valid)
        if len(places):
            chosen = rng.permutation(places)[:each]
            grid = torch.from_numpy((2 * chosen[:, ::-1] + 1) / side - 1).float()  # (x, y) of pixel centres in [-1, 1]
            found.append(at_places(without(layers.maps(values), position), grid).cpu().numpy())
    if not found:
        raise DataError("the scene has no valid pixel in all bands of the rows: name other rows by --bands")
    return np.concatenate(found)


def at_places(maps: list[Tensor], grid: Tensor) -> Tensor:
    """(n, C): maps (1, c, h, w) side by side at places (n, 2), as bilinear resampling to their pixels gives them."""
    places = grid[None, None].to(maps[0].device)
    return torch.cat([_at(each, places) for each in maps], 1)


def _at(maps: Tensor, places: Tensor) -> Tensor:
    return grid_sample(maps, places, mode="bilinear", padding_mode="border", align_corners=False)[0, :, 0].T
