"""The bands that views are drawn from."""

from collections.abc import Sequence

from rsdnet import bands
from rsdnet.config import ViewConfig
from rsdnet.data.fixed import fixed_views
from rsdnet.errors import DataError

Pools = dict[str, tuple[str, ...]]
"""{"ms": band names, "sar": band names}"""


def pools_of(views: ViewConfig) -> Pools:
    """The pools of a configuration: of a sensor with a view of fixed bands, those.

    Raises DataError on a band that is unknown or of the other sensor, and on one named twice to draw from.
    """
    pools: Pools = {}
    fixed = fixed_views(views)
    for modality, names in (("ms", views.ms_bands), ("sar", views.sar_bands)):
        if modality in fixed:
            pools[modality] = fixed[modality].bands
            continue
        option = f"views.{modality}_bands"
        pools[modality] = band_names(names, option) if names or modality in views.modality.split("+") else ()
        for name in pools[modality]:
            if bands.BANDS[name].modality != modality:
                raise DataError(f"{option}: {name} is not a band of modality {modality}")
    return pools


def band_names(names: Sequence[str], option: str) -> tuple[str, ...]:
    """Band names in this project's spelling. option: for the message.

    Raises DataError on no band, an unknown one, and one that is named twice.
    """
    found = tuple(bands.canonical(name) for name in names)
    if not found:
        raise DataError(f"{option} is empty: name at least one band")
    if len(set(found)) < len(found):
        raise DataError(f"{option} names a band twice: {', '.join(found)}")
    return found
