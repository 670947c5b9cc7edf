"""Features of labelled patches: whole patches of one band or a few, rendered and encoded, each rank its share."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rsdnet import bands
from rsdnet.augment import band_table
from rsdnet.config import Config, ViewConfig
from rsdnet.console import size as bytes_text
from rsdnet.data.catalog import Labelling
from rsdnet.data.databases import Databases
from rsdnet.data.fixed import reads_of, view_of
from rsdnet.data.identity import Identity
from rsdnet.data.normalisation import ms_unit, statistics_of
from rsdnet.data.pools import pools_of
from rsdnet.data.samples import Samples
from rsdnet.data.statistics import read_stats
from rsdnet.distributed import Ranks
from rsdnet.errors import DataError
from rsdnet.evaluate.intervals import apart, numbered
from rsdnet.evaluate.stratified import stratified
from rsdnet.evaluate.targets import clear, present, strata, targets_of
from rsdnet.hardware import free_bytes
from rsdnet.kernels import ViewSpec, render_views
from rsdnet.mixing import mix_of
from rsdnet.model.stages import Features, at, features_of, output_and_maps

BATCH = 256  # samples encoded at once
KEEP = 1 << 30  # bytes of views to keep for the next time they are asked for


class Labelled:
    """Labelled samples of one sensor, rendered whole, with their splits, labels and groups.

    cfg, trained: of the run that is evaluated, and the identity of its input. pool: bands of the sensor; none: those
    of the run. size: pixels a side as the encoder sees them; 0: scaled as in training. statistics: mean and standard
    deviation a band, this database's or the run's. keep: bytes of views to keep on the device. ranks: each renders and
    encodes whole batches, every world-th, so the features are those of one process. labelling: the labels that a sample
    must have. kept: of "snow" and "clouds", those whose samples are not left out.
    Raises DataError where there is no labelled sample.
    """

    def __init__(
        self, cfg: Config, databases: tuple[Path, ...], modality: str, ranks: Ranks, *,
        pool: tuple[str, ...] = (), size: int = 0, trained: Identity | None = None,
        statistics: Literal["database", "run"] = "database", batch: int = BATCH, keep: int = KEEP,
        labelling: Labelling = "one", kept: Collection[str] = (),
    ) -> None:  # fmt: skip
        self.bands = pool or pools_of(cfg.views)[modality]
        own = dataclasses.replace(
            cfg.views, modality=modality, ms_view=(), sar_view=(), **{f"{modality}_bands": self.bands}  # type: ignore[arg-type]
        )  # fmt: skip
        own_cfg = dataclasses.replace(cfg, views=own, data=dataclasses.replace(cfg.data, data=databases))
        self.samples = Samples(databases, modality, pools_of(own), labelled=labelling, threads=cfg.data.reader_threads)
        known = trained or {}
        self.table = band_table(own_cfg, of_run(known, own_cfg) if statistics == "run" else None).to(ranks.device)
        self.differences = {name: pair for name, pair in known.get("statistics", {}).items() if "-" in name}
        """{name: (mean, standard deviation)} of the differences of bands that the run was trained on."""
        side = self.samples.side
        self.spec = ViewSpec.plain(size or scaled_side(cfg.views, known.get("side", side), side))
        self.ranks, self.batch, self.keep = ranks, min(batch, len(self.samples)), keep
        self._check_memory(cfg.views.channels)
        self._kept: dict[tuple[str, ...], list[Tensor]] = {}  # of views, the oldest first
        catalog = self.samples.catalog
        del self.samples.catalog  # hundreds of bytes a sample, which is read again if it is asked for
        self.split = catalog.split
        """(N,) str: the samples' splits."""
        self.groups = apart(numbered(catalog.group), catalog.split)
        """(N,) int64: the samples' groups, of samples that are not independent of each other; see `apart`."""
        self.classes, self.labels = targets_of(catalog, labelling)
        """(N,) int64 in range(len(classes)), or of several (N, classes) bool. A class of the test split that the train
        split lacks counts as missed."""
        self.positions = np.arange(len(self.samples))
        """(N,) of the samples, among those of the database, that are encoded."""
        chosen, self.left_out = clear(catalog, kept)
        """left_out: a line on samples with snow or clouds, or ""."""
        if self.left_out:
            self.take(np.flatnonzero(chosen))

    def _check_memory(self, channels: int) -> None:
        """Raise DataError where a batch of views is larger than the free memory."""
        needed, free = 4 * self.batch * channels * self.spec.size**2, free_bytes(self.ranks.device)
        if needed > free:
            raise DataError(
                f"{self.batch} views of {self.spec.size} pixels a side take {bytes_text(needed)} and "
                f"{bytes_text(free)} are free: use a smaller --size or --batch"
            )

    def take(self, positions: np.ndarray) -> None:
        """Go on with the samples at `positions` (n,) alone."""
        self.positions, self.split = self.positions[positions], self.split[positions]
        self.groups = self.groups[positions]
        self.labels = self.labels[torch.from_numpy(positions)]
        self._kept.clear()

    def part(self, split: str) -> Tensor:
        """(n,) int64: where the samples of a split are."""
        return torch.from_numpy(np.flatnonzero(self.split == split))

    def drawn(self, split: str, limit: int, seed: int = 0) -> Tensor:
        """(n,) int64: where at most `limit` samples of a split are, drawn by `stratified`; 0: all of them."""
        every = self.part(split)
        return every[torch.from_numpy(stratified(strata(self.labels[every]).numpy(), limit, seed))]

    def identity(self) -> dict[str, Any]:
        """The input of an evaluation on these samples, beside the encoder: JSON-able, without any path."""
        digest = hashlib.sha256(self.labels.numpy().astype("<i8").tobytes())
        digest.update("\0".join(self.split.tolist()).encode())
        ids = {band: bands.band_id(band) for band in self.samples.identity["bands"][self.samples.modality]}
        statistics = {band: self.table[index, :2].tolist() for band, index in ids.items()}
        statistics |= {name: list(pair) for name, pair in self.differences.items()}
        labels = {"labels": digest.hexdigest(), "classes": self.names}
        return self.samples.identity | labels | {"statistics": statistics, "size": self.spec.size}

    @property
    def names(self) -> list[str]:
        """Of the classes."""
        names = self.samples.classes
        return [names[label] if label < len(names) else str(label) for label in self.classes.tolist()]

    @property
    def device(self) -> torch.device:
        """Of the views."""
        return self.ranks.device

    of = "sample"
    """The thing that has a label."""

    def require(self, *splits: str) -> None:
        """Raise DataError where a split has no sample, or the train split has one class only."""
        for name in splits:
            if not len(self.part(name)):
                raise DataError(
                    f"{self.samples.databases}: no labelled sample in the {name} split, so an encoder cannot be judged "
                    "by it: name a database that has some"
                )
        if len(self.labels[self.part("train")].unique(dim=0)) < 2:
            raise DataError(
                f"{self.samples.databases}: one class only in the train split, so there is nothing to tell apart"
            )

    def unseen(self, train: Tensor | None = None) -> list[str]:
        """Names of the classes that the test split has and the samples `train` (n,) int64, or the train split, have
        not."""
        seen = present(self.labels[self.part("train") if train is None else train])
        return [self.names[index] for index in sorted(present(self.labels[self.part("test")]) - seen)]

    def report(self) -> list[str]:
        """Lines on the samples left out, and on classes that the test split lacks."""
        tested = present(self.labels[self.part("test")])
        absent = [name for index, name in enumerate(self.names) if index not in tested]
        told = f"the test split has no {self.of} of {', '.join(absent)}: left out of the scores" if absent else ""
        return [line for line in (self.left_out, told) if line]

    def views(self, names: tuple[str, ...]) -> Iterator[Tensor]:
        """This rank's batches (b, len(names), S, S), float32, in order; the channels are the bands `names`, and
        differences of bands that the run was trained on."""
        needed = self._bytes(names)
        if names not in self._kept and needed <= self.keep:
            while self._kept and sum(map(self._bytes, self._kept)) + needed > self.keep:
                self._kept.pop(next(iter(self._kept)))
            self._kept[names] = list(self._render(names))
        yield from self._kept.get(names) or self._render(names)

    def features(self, names: tuple[str, ...], of: Callable[[Tensor], Features]) -> Features:
        """(N, F) float32 features by depth, on the CPU, on every rank: `of` applied to every batch of `views`."""
        with torch.inference_mode():
            own = [{depth: each.float().cpu() for depth, each in of(batch).items()} for batch in self.views(names)]
        depths = next(each for each in self.ranks.collect(list(own[0]) if own else []) if each)
        return {depth: self._join([each[depth] for each in own]) for depth in depths}

    def _starts(self) -> range:
        """Where this rank's batches begin."""
        starts = range(0, len(self.positions), self.batch)
        return starts[self.ranks.share(len(starts))]

    def _bytes(self, names: tuple[str, ...]) -> int:
        """Of this rank's views, at most."""
        return 4 * len(self._starts()) * self.batch * len(names) * self.spec.size**2

    def _render(self, names: tuple[str, ...]) -> Iterator[Tensor]:
        every = np.arange(len(self.positions))
        return (self.rendered(names, every[start : start + self.batch]) for start in self._starts())

    def scale(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation by which a band, or a difference of bands, is standardised."""
        mean, std = self.differences[name] if "-" in name else self.table[bands.band_id(name), :2].tolist()
        return mean, std

    def rendered(
        self, names: Sequence[str], samples: np.ndarray, spec: ViewSpec | None = None, seed: int = 0, epoch: int = 0
    ) -> Tensor:
        """Views (b, len(names), S, S), float32, of `samples` (b,) int64; the channels are the bands `names`.

        spec: None: whole patches, as they are.
        """
        return views_of(
            self.samples, names, self.positions[samples], self.table, self.differences, spec or self.spec, seed, epoch
        )

    def _join(self, own: list[Tensor]) -> Tensor:
        """All ranks' features (N, F) in the order of the samples, of this rank's batches (b, F)."""
        if self.ranks.world == 1:
            return torch.cat(own)
        world, batches = self.ranks.world, -(-len(self.positions) // self.batch)
        width = max(self.ranks.collect(own[0].shape[1] if own else 0))
        padded = torch.zeros(-(-batches // world) * self.batch, width)
        for number, features in enumerate(own):
            padded[number * self.batch :][: len(features)] = features
        every, joined = self.ranks.gather(padded), torch.empty(len(self.positions), width)
        for number, target in enumerate(joined.split(self.batch)):
            target.copy_(every[number % world][number // world * self.batch :][: len(target)])
        return joined


def views_of(
    samples: Samples, names: Sequence[str], positions: np.ndarray, table: Tensor,
    differences: Mapping[str, tuple[float, float]], spec: ViewSpec, seed: int = 0, epoch: int = 0,
) -> Tensor:  # fmt: skip
    """Views (b, len(names), S, S), float32, on the device of `table`, of the samples at `positions` (b,) int64.

    names: of the channels, bands and differences of bands. table: of `band_table`. differences: their mean and standard
    deviation by name.
    """
    fixed = {samples.modality: view_of(names, "bands")}
    mix = mix_of(fixed, table, differences)
    ids = np.array([bands.band_id(name) for name in reads_of(fixed)[samples.modality]], np.int32)
    chosen = np.broadcast_to(ids, (len(positions), 1, len(ids))).copy()
    data, records = samples.read(positions, chosen)
    rows = torch.from_numpy(samples.rows[positions])
    data, records, rows = (tensor.to(table.device) for tensor in (data, records, rows))
    shown = render_views(data, records, rows, table, spec, seed=seed, epoch=epoch)
    return (mix.to(table.device)(shown, records) if mix else shown)[0]


def of_run(inputs: Identity, cfg: Config) -> dict[str, tuple[float, float]]:
    """{band: (mean, standard deviation)} that a run standardised its input by; of a band that it did not see, the
    database's of `cfg`. Raises DataError where the run does not tell, or its values were of another unit."""
    if "statistics" not in inputs:
        raise DataError(
            "--statistics run: the run does not tell its statistics, it is of an earlier version: "
            "use --statistics database"
        )
    if (unit := ms_unit(cfg)) != inputs.get("unit", unit):
        raise DataError(
            f"--statistics run: the run was trained on MS in {inputs['unit']}, the database holds {unit}: "
            "use --statistics database"
        )
    own, then = statistics_of(cfg), inputs["statistics"]
    return {name: tuple(then.get(name, own[name])) for name in own}


def bands_of(databases: Sequence[Path], modality: str) -> tuple[str, ...]:
    """The bands of a sensor that every one of the databases holds, in the order of the product."""
    held = set.intersection(*(set(read_stats(path)["bands"]) for path in databases))
    return tuple(name for name, band in bands.BANDS.items() if name in held and band.modality == modality)


def scaled_side(views: ViewConfig, trained: int, native: int) -> int:
    """Pixels a side of a whole patch of `native` pixels, scaled as training scales the mean crop of `trained` ones.

    A crop of share s of the area has a side of sqrt(s) of the patch's; s is uniform in crop_scale. Seen at another
    scale, a patch shows things of another size than those that were learned (Touvron et al. 2019, arXiv 1906.06423).
    """
    low, high = views.crop_scale
    mean = 2 / 3 * (high**1.5 - low**1.5) / (high - low) if high > low else high**0.5
    return max(round(views.size / (mean * trained) * native), 1)


def frozen(
    network: nn.Module, device: torch.device, dtype: torch.dtype, depths: Sequence[str]
) -> Callable[[Tensor], Features]:
    """A function from views (b, C, S, S) to features at `depths`: the network in eval mode, under autocast to `dtype`.

    Of a depth that the network does not have, "last".
    """

    def features(views: Tensor) -> Features:
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            found = features_of(network, views.contiguous(memory_format=torch.channels_last))
        return {depth: found[depth] for depth in dict.fromkeys(at(found, depth) for depth in depths)}

    return features


def frozen_maps(network: nn.Module, device: torch.device, dtype: torch.dtype) -> Callable[[Tensor], list[Tensor]]:
    """A function from views (b, C, S, S) to the maps of `output_and_maps`, float32, under the same settings.

    Raises DataError on a network without maps.
    """

    def maps(views: Tensor) -> list[Tensor]:
        with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
            _, found = output_and_maps(network, views.contiguous(memory_format=torch.channels_last))
        if not found:
            raise DataError(
                "the encoder gives no maps of its stages, so pixels cannot be told apart: use --task classes"
            )
        return [each.float() for each in found]

    return maps


def labelled_modalities(databases: Sequence[Path], modality: str = "ms+sar", labelling: Labelling = "one") -> list[str]:
    """The sensors of `modality` that the databases hold labelled samples of.

    Raises DataError where they hold none, or the same label is another class from database to database.
    """
    joined, counts, labelled, several = Databases(databases), Counter[str](), 0, 0
    joined.require_one_list()
    for piece in joined:
        labelled += int(piece.catalog.mask(labelled=labelling).sum())
        several += int(piece.catalog.mask(labelled="several").sum())
        counts.update({m: int(piece.catalog.mask(modality=m, labelled=labelling).sum()) for m in modality.split("+")})
    found = [m for m in modality.split("+") if counts[m]]
    if not found:
        why = "they have any number of labels each, not one" if several else "none has a label"
        why = f"the {labelled} labelled samples have entries of the other sensor" if labelled else why
        raise DataError(
            f"{joined}: no labelled samples with {modality} entries ({why}), so an encoder cannot be judged by it: "
            "name a database that has some"
        )
    return found
