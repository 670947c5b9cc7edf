"""Views of fixed bands: the channels that a sensor's views show, in order, and the bands that are read for them.

A channel is a band, or the difference of two SAR bands, "VV-VH": in dB the ratio of their powers. The bands are
rendered as drawn ones are, and the differences made of those: see `rsdnet.mixing`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rsdnet import bands
from rsdnet.config import ViewConfig
from rsdnet.errors import DataError


class FixedView(NamedTuple):
    """channels: of each its band, or two bands, the second to be taken from the first."""

    channels: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the channels: "VV", "VV-VH"."""
        return tuple("-".join(channel) for channel in self.channels)

    @property
    def differences(self) -> tuple[str, ...]:
        """Names of the channels that are differences, each once."""
        return tuple(dict.fromkeys(name for name in self.names if "-" in name))

    @property
    def bands(self) -> tuple[str, ...]:
        """All bands, each once, in the order of the channels."""
        return tuple(dict.fromkeys(band for channel in self.channels for band in channel))

    @property
    def read(self) -> tuple[str, ...]:
        """Bands to render: of each channel that is a band, then those that only a difference needs."""
        shown = tuple(channel[0] for channel in self.channels if len(channel) == 1)
        return shown + tuple(band for band in self.bands if band not in shown)


def view_of(names: Sequence[str], option: str) -> FixedView:
    """The view of the channels `names`. option: for the message.

    Raises DataError on an unknown band, and on a difference of other bands than two SAR bands.
    """
    return FixedView(tuple(_channel(name, option) for name in names))


def _channel(name: str, option: str) -> tuple[str, ...]:
    try:
        found = tuple(bands.canonical(part) for part in name.split("-"))
    except DataError as error:
        raise DataError(f"{option}: {error}") from None
    if len(found) == 1:
        return found
    if len(set(found)) != 2 or len(found) != 2 or {bands.BANDS[band].modality for band in found} != {"sar"}:
        raise DataError(f"{option}: {name}: a difference is of two SAR bands, in dB: VV-VH")
    return found


def fixed_views(views: ViewConfig) -> dict[str, FixedView]:
    """The views of fixed bands of a run's sensors; {} where bands are drawn.

    Raises DataError as `view_of`, and on a band of the other sensor.
    """
    found = {}
    for modality, names in views.fixed.items():
        option = f"views.{modality}_view"
        found[modality] = view_of(names, option)
        for band in found[modality].bands:
            if bands.BANDS[band].modality != modality:
                raise DataError(f"{option}: {band} is not a band of modality {modality}")
    return found


def reads_of(fixed: Mapping[str, FixedView]) -> dict[str, tuple[str, ...]]:
    """Bands to read for a view of each sensor: as many for one as for the other, so that they lie in one batch."""
    most = max((len(view.read) for view in fixed.values()), default=0)
    return {sensor: view.read + view.read[:1] * (most - len(view.read)) for sensor, view in fixed.items()}
