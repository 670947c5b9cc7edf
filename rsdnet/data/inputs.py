"""Inputs of a run by its configuration: samples, their identity, batches."""

import numpy as np
from rich.console import Console

from rsdnet.config import Config, ViewConfig
from rsdnet.data.differences import difference_statistics
from rsdnet.data.fixed import fixed_views, reads_of
from rsdnet.data.identity import Identity
from rsdnet.data.loader import Drawn, Loader, Part, Ring
from rsdnet.data.normalisation import ms_unit, statistics_of
from rsdnet.data.pools import pools_of
from rsdnet.data.samples import Samples
from rsdnet.distributed import Ranks
from rsdnet.errors import DataError


def open_samples(cfg: Config, ranks: Ranks, console: Console) -> Samples:
    """The samples that a run trains on; prints which were left out or held out, and the size of a cache.

    Raises DataError where a batch does not divide or fill, the weights do not fit, or the cache does not.
    """
    check_division(cfg, ranks.world)
    samples = Samples(
        cfg.data.data, cfg.views.modality, pools_of(cfg.views), threads=cfg.data.reader_threads,
        split=None if cfg.data.split == "all" else cfg.data.split, damaged=cfg.data.damaged,
    )  # fmt: skip
    if report := samples.report():
        console.print(report, style="yellow")
    total = samples.splits.total()
    if held := total - samples.splits[cfg.data.split] if cfg.data.split != "all" else 0:
        how = f"--split {cfg.data.split}: {held:,} of {total:,} samples are in other splits and held out"
        console.print(f"{how}; --split all takes all", highlight=False)
    if cfg.data.pair_seasons and (alone := int((samples.partners == np.arange(len(samples))).sum())):
        told = f"{alone:,} of {len(samples):,} samples are the only season of their place, and paired with themselves"
        console.print(f"--pair-seasons: {told}", style="yellow", highlight=False)
    samples.steps_per_epoch(cfg.optim.batch)
    samples.quotas(cfg.data.weights)
    if cfg.data.cache != "none":
        console.print(samples.check_cache(cfg.data.cache, ranks.device), highlight=False)
    return samples


def inputs_of(cfg: Config, samples: Samples) -> Identity:
    """The identity of a run's input: its samples, their side in pixels, the unit of MS, and the statistics that
    standardise it, of bands and of differences of bands."""
    known = statistics_of(cfg) | difference_statistics(cfg, samples)
    statistics = {name: list(values) for name, values in known.items()}
    return samples.identity | {"side": samples.side, "unit": ms_unit(cfg), "statistics": statistics}


def check_division(cfg: Config, world: int) -> None:
    """Raise DataError where the batch does not divide into a rank's micro-batches of two samples or more."""
    parts = world * cfg.optim.accumulate
    if cfg.optim.batch % parts or cfg.optim.batch < 2 * parts:
        near = max(round(cfg.optim.batch / parts), 2) * parts
        raise DataError(
            f"--batch {cfg.optim.batch} is of all ranks: {world} ranks with {cfg.optim.accumulate} micro-batches of "
            f"two samples or more do not divide it; use --batch {near}"
        )


def drawn_of(views: ViewConfig, pair_seasons: bool = False) -> Drawn:
    """The bands that a run's loader reads for a pair of views."""
    reads = reads_of(fixed_views(views))
    return Drawn(2, len(next(iter(reads.values()), ())) or views.channels, pair_seasons, reads)


def open_loader(
    cfg: Config, samples: Samples, ranks: Ranks, start: int, stop: int, *, progress: bool = False
) -> Loader:
    """A run's batches from step `start` to `stop`; fills the cache. progress: draw a bar."""
    samples.fill_cache(cfg.data.cache, ranks.device, progress=progress)
    return Loader(
        samples, batch=cfg.optim.batch // ranks.world, seed=cfg.run.seed,
        bands=drawn_of(cfg.views, cfg.data.pair_seasons), weights=cfg.data.weights, start=start, stop=stop,
        part=Part(ranks.rank, ranks.world), device=ranks.device, ring=Ring(cfg.data.slots, cfg.data.lookahead),
    )  # fmt: skip
