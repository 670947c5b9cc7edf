"""The facts of a run that its encoder's file holds: see `rsdnet.encoderfile`."""

import math

from rsdnet import bands
from rsdnet.config import Config
from rsdnet.data.fixed import fixed_views
from rsdnet.data.identity import Identity
from rsdnet.data.normalisation import MS_NODATA, known_statistics, sar_clip
from rsdnet.data.pools import pools_of
from rsdnet.data.samples import Samples
from rsdnet.encoderfile import VERSION, BandInput, EncoderFile, Unit


def encoder_file(cfg: Config, samples: Samples, inputs: Identity) -> EncoderFile:
    """The facts of the encoder of a run on `samples`, before its first step. inputs: of `rsdnet.data.inputs.inputs_of`.

    Raises ReaderError on an entry that cannot be read.
    """
    views, pools, data = cfg.views, pools_of(cfg.views), samples.databases.described()
    known = known_statistics(cfg, inputs["statistics"])
    sides = sides_of(samples)
    low, high = sar_clip(cfg)
    level = "+".join(sorted({each.level for each in data if each.level}))

    def band(name: str) -> BandInput:
        mean, std = known[name]
        if bands.BANDS[name].modality == "sar":
            clip = (low, high) if math.isfinite(low) else None
            return BandInput(mean, std, "db", clip, None, "", sides.get(name, samples.side))
        unit: Unit = inputs["unit"]
        return BandInput(mean, std, unit, None, float(MS_NODATA), level, sides.get(name, samples.side))

    finest = min((bands.BANDS[name] for pool in pools.values() for name in pool), key=lambda each: each.resolution)
    native = finest.resolution * samples.side / views.size  # metres of a view's pixel, of a whole patch
    least, greatest = (native * share**0.5 for share in views.crop_scale)  # shares of the area
    return EncoderFile(
        version=VERSION,
        bands={name: band(name) for name in known},
        differences={name: tuple(pair) for name, pair in inputs["statistics"].items() if "-" in name},
        pools={sensor: pools[sensor] for sensor in views.modality.split("+")},
        views={sensor: view.names for sensor, view in fixed_views(views).items()},
        channels=views.channels,
        size=views.size,
        side=samples.side,
        metres=(least, greatest),
        encoder=cfg.model.encoder,
        method=cfg.model.method,
        seed=cfg.run.seed,
        step=0,
        split=cfg.data.split,
        data=data,
        versions={},
        commit="",
        licence=cfg.run.licence,
    )


def sides_of(samples: Samples) -> dict[str, int]:
    """Pixels a side of every band in the first sample's entries."""
    names = {spelling: name for name, own in zip(bands.NAMES, bands.spellings(), strict=True) for spelling in own}
    piece, rows, _ = next(samples.pieces())
    keys = (getattr(piece.catalog, sensor)[rows[0]] for sensor in samples.modality.split("+"))
    entries = [samples.reader.describe(key, piece.database) for key in keys]
    return {names[name]: max(shape) for entry in entries for name, (_, shape) in entry.items() if name in names}
