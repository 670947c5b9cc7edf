"""Label maps of patches as the targets of a segmentation: read beside the patches, in their own pixels."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from rsdnet._reader import Reader, Table
from rsdnet.console import track
from rsdnet.data.catalog import MAP_TENSOR, PIECE, read_meta
from rsdnet.errors import DataError
from rsdnet.evaluate.features import Labelled
from rsdnet.kernels import BandRow, ViewSpec, band_table, render_views

IGNORE = -1  # of a pixel without a class
OUTSIDE = -2  # of a value outside the class list
VALUES = 1 << 16  # that a label map may hold: 0 to 65,534, and one for no class
UNNAMED = 255  # classes of a database without a list of them; our choice


class LabelMaps:
    """The label maps of `labelled`, which goes on with the samples that have one; a sample is its place there.

    ignore: names of classes whose pixels count nowhere. Each rank counts the pixels of its part of the maps.
    Raises DataError where no sample has a map, maps fit neither each other nor their patches, a value is outside the
    class list, and on an unknown class to ignore.
    """

    of = "pixel"
    """The thing that has a label."""

    def __init__(self, labelled: Labelled, ignore: Sequence[str] = (), console: Console | None = None) -> None:
        self.labelled, self.samples, self.device = labelled, labelled.samples, labelled.ranks.device
        samples = labelled.samples
        self.table = Table(Reader(samples.databases.folders, [(MAP_TENSOR,)], samples.threads), "ms", [0], [])
        self.left_out: list[str] = []
        """Why each map that cannot be read is left out."""
        labelled.take(self._add())
        if not len(self.table):
            why = f"; the first: {self.left_out[0]}" if self.left_out else ""
            raise DataError(
                f"{samples.databases}: no label map of a labelled sample, so pixels cannot be judged{why}: ingest with "
                "label maps, or use --task classes"
            )
        self.side = self._common_side()
        """Pixels a side of every map."""
        self._spec, self._band = ViewSpec.plain(self.side).of_labels(), band_table(1, {0: BandRow(-1.0, 1.0)})
        self._band = self._band.to(self.device)
        listed = self._listed()
        if unknown := [name for name in ignore if name not in listed]:
            raise DataError(f"--ignore {unknown[0]!r}: no such class; known: {', '.join(listed)}")
        self._ids = self._ids_of_values(listed).to(self.device)
        counts = self._count(len(listed), console)
        kept = [at for at, name in enumerate(listed) if name not in ignore]
        used = [at for at in kept if counts[:, at].any()]
        self.ignored, self.listed = tuple(ignore), tuple(listed[at] for at in kept if samples.classes or at in used)
        self.classes = tuple(listed[at] for at in used)
        """Names of the classes that some pixel has, without those ignored."""
        self.counts = counts[:, used]
        """(N, C) int64 pixels of each class in each map."""
        places = torch.full((len(listed),), IGNORE)
        places[used] = torch.arange(len(used))
        self._ids = torch.where(self._ids >= 0, places.to(self.device)[self._ids.clamp(min=0)], IGNORE)

    def __len__(self) -> int:
        return len(self.table)

    def read(self, samples: np.ndarray) -> Tensor:
        """(b, side, side) int64 classes of the pixels of `samples` (b,), or `IGNORE`, on the ranks' device."""
        values, databases = self._values(samples), torch.from_numpy(self._folder[samples]).to(self.device)
        return self._ids[databases[:, None, None], values]

    def part(self, split: str) -> np.ndarray:
        """(n,) int64 samples of a split."""
        return self.labelled.part(split).numpy()

    def pixels(self, split: str) -> np.ndarray:
        """(C,) int64 pixels of each class in a split."""
        return self.counts[self.part(split)].sum(0)

    def without(self, split: str) -> list[str]:
        """Names of the listed classes, but those ignored, that no pixel of a split has."""
        found = {name for name, count in zip(self.classes, self.pixels(split), strict=True) if count}
        return [name for name in self.listed if name not in found]

    def unseen(self) -> list[str]:
        """Names of the classes that the test split has and the train split has not."""
        absent = self.without("test")
        return [name for name in self.without("train") if name not in absent]

    def report(self) -> list[str]:
        """Lines on maps left out, and on the classes that the mean leaves out."""
        lines = [
            f"left out {len(own)} label maps that cannot be read; the first: {own[0]}"
            for own in (self.left_out,)
            if own
        ]
        if absent := self.without("test"):
            lines.append(f"the test split has no pixel of {', '.join(absent)}: left out of the mean")
        return lines

    def require(self, *splits: str) -> None:
        """Raise DataError where a split has no pixel of a class, or the train split has pixels of one class only."""
        where = self.samples.databases
        for name in splits:
            if not self.pixels(name).any():
                raise DataError(
                    f"{where}: no pixel of a class in the {name} split, so an encoder cannot be judged by it: name a "
                    "database that has some"
                )
        if np.count_nonzero(self.pixels("train")) < 2:
            raise DataError(f"{where}: pixels of one class only in the train split, so there is nothing to tell apart")

    def identity(self) -> dict[str, Any]:
        """As `Labelled.identity`, with the classes of pixels."""
        return self.labelled.identity() | {
            "classes": list(self.classes), "ignored": list(self.ignored), "absent from test": self.without("test"),
            "absent from train": self.without("train"), "map side": self.side,
            "maps": hashlib.sha256(self.counts.astype("<i8").tobytes()).hexdigest(),
        }  # fmt: skip

    def _add(self) -> np.ndarray:
        """Add every map that can be read to the table. (n,) int64: the places in `labelled` of the samples with one."""
        found, folders = list[np.ndarray](), list[np.ndarray]()
        wanted = np.zeros(len(self.samples), bool)
        wanted[self.labelled.positions] = True
        for piece, rows, places in self.samples.pieces():
            keys = piece.catalog.map[rows]
            there = np.flatnonzero(wanted[places] & np.array([key is not None for key in keys], bool))
            faults = self.table.add(piece.database, rows[there] + piece.first, list(keys[there]), None)
            self.left_out += [reason for _, reason in faults]
            there = np.delete(there, [index for index, _ in faults])
            found.append(there + places.start)
            folders.append(np.full(len(there), piece.database))
        self._folder = np.concatenate(folders)
        return np.searchsorted(self.labelled.positions, np.concatenate(found))

    def _common_side(self) -> int:
        """Pixels a side of every map. Raises DataError where they differ, or are of another grid than the patches."""
        labelled = self.labelled
        pool = self.samples.pools[self.samples.modality]
        first: tuple[int, int] | None = None
        for start in range(0, len(self), PIECE):
            own = np.arange(start, min(start + PIECE, len(self)))
            maps = _shapes(self.table, own, np.zeros(1, np.int32))
            patches = _shapes(self.samples.table, labelled.positions[own], pool)
            (ratio := np.maximum(maps, patches) / np.minimum(maps, patches)), (first := first or tuple(maps[0]))
            odd = (ratio != ratio.round()).any(1) | (maps[:, 0] * patches[:, 1] != maps[:, 1] * patches[:, 0])
            other = (maps != first).any(1) | (maps[:, 0] != maps[:, 1])
            if (wrong := np.flatnonzero(odd | other)).size:
                at = wrong[0]
                row = self.samples.rows[labelled.positions[own[at : at + 1]]]
                name = self.samples.databases.take(row).samples[0]
                shapes = [f"{height} x {width}" for height, width in (maps[at], patches[at], first)]
                of = f"its patch has {shapes[1]}" if odd[at] else f"the first map has {shapes[2]}"
                raise DataError(
                    f"{self.samples.databases}: the label map of sample {name!r} has {shapes[0]} pixels, {of}: all "
                    "maps must be squares of one size, and a whole multiple or part of the patch: ingest again"
                )
        assert first is not None
        return int(first[0])

    def _listed(self) -> tuple[str, ...]:
        """Class names by label id."""
        return self.samples.classes or tuple(map(str, range(UNNAMED)))

    def _ids_of_values(self, listed: Sequence[str]) -> Tensor:
        """(folders, VALUES + 1) int64 label ids of a pixel's value + 1, or `IGNORE`, or `OUTSIDE`; 0 is no value."""
        found = torch.full((len(self.samples.databases.folders), VALUES + 1), OUTSIDE)
        for own, folder in zip(found, self.samples.databases.folders, strict=True):
            if (values := read_meta(folder).get("values")) is None:
                own[1 : len(listed) + 1] = torch.arange(len(listed))
                own[[0, VALUES]] = IGNORE  # ingest writes 65,535 for no class, or 255 in maps of 8 bits
                if len(listed) <= 255:
                    own[256] = IGNORE
            else:
                own[:] = IGNORE
                own[torch.tensor([int(value) + 1 for value in values])] = torch.tensor(list(values.values()))
        return found

    def _count(self, classes: int, console: Console | None) -> np.ndarray:
        """(N, classes) int64 pixels by label id in each map, each rank its part of them."""
        ranks, counts = self.labelled.ranks, torch.zeros(len(self), classes, dtype=torch.int64)
        with ranks.together():
            for own in track(list(self.batches(np.arange(len(self))))[ranks.share(len(self))], "maps", console=console):
                labels = self.read(own).flatten(1)
                if (outside := (labels == OUTSIDE)).any():
                    value = int(self._values(own).flatten(1)[outside][0]) - 1
                    raise DataError(
                        f"{self.samples.databases}: a label map holds {value}, and there are {classes} "
                        "classes: name all classes when ingesting (--classes)"
                    )
                cells = torch.arange(len(own), device=self.device)[:, None] * (classes + 1) + labels + 1
                found = torch.bincount(cells.flatten(), minlength=len(own) * (classes + 1))
                counts[torch.from_numpy(own)] = found.view(len(own), -1)[:, 1:].cpu()
        return ranks.sum_(counts).numpy()

    def batches(self, samples: np.ndarray, pixels: int = 1 << 23) -> Iterator[np.ndarray]:
        """`samples` (n,) in parts whose maps have at most `pixels` pixels together."""
        size = min(max(pixels // self.side**2, 1), self.labelled.batch)
        return (samples[start : start + size] for start in range(0, len(samples), size))

    def _values(self, samples: np.ndarray) -> Tensor:
        """(b, side, side) int64 values of pixels, plus 1; 0 for no value."""
        ids, nothing = np.zeros((len(samples), 1, 1), np.int32), np.empty(0, np.uint8)
        records = torch.empty((*ids.shape, 5), dtype=torch.int64)
        data = torch.empty(self.table.gather(samples, ids, nothing, records.numpy()), dtype=torch.uint8)
        self.table.gather(samples, ids, data.numpy(), records.numpy())
        data, records, rows = (each.to(self.device) for each in (data, records, torch.from_numpy(samples)))
        found = render_views(data, records, rows, self._band, self._spec, seed=0, epoch=0)
        return found[0, :, 0].long().clamp(0, VALUES)


def _shapes(table: Table, samples: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """(b, 2) int64 height and width of the largest band of `pool` in each of `samples` (b,)."""
    ids = np.broadcast_to(pool.astype(np.int32), (len(samples), 1, len(pool))).copy()
    records = np.empty((*ids.shape, 5), np.int64)
    table.gather(samples, ids, np.empty(0, np.uint8), records)
    return records[:, 0, :, 2:4].max(1)
