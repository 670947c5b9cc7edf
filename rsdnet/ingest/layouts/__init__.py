"""One short module a data set layout on disk: each lists a folder's samples as `base.Source`."""

from collections.abc import Callable

from rsdnet.ingest.layouts.base import Layout
from rsdnet.ingest.layouts.bigearthnet import BigEarthNet
from rsdnet.ingest.layouts.eurosat import EuroSat
from rsdnet.ingest.layouts.pairs import Pairs
from rsdnet.ingest.layouts.sen12ms import Sen12ms
from rsdnet.ingest.layouts.ssl4eo import Ssl4eo

# The layouts by the name the command line knows them by.
LAYOUTS: dict[str, Callable[..., Layout]] = {
    "sen12ms": Sen12ms,
    "pairs": Pairs,
    "bigearthnet": BigEarthNet,
    "ssl4eo": Ssl4eo,
    "eurosat": EuroSat,
}
