"""Data set layouts, one short module each: the files of every sample, their splits and classes."""

from collections.abc import Callable

from rsdnet.ingest.layouts.base import Layout
from rsdnet.registry import Registry

# By the command line's name. A layout from outside: `python -m rsdnet.ingest package.module:Layout SOURCE DB`.
LAYOUTS: Registry[Callable[..., Layout]] = Registry(
    "layout",
    {
        "sen12ms": "rsdnet.ingest.layouts.sen12ms:Sen12ms",
        "pairs": "rsdnet.ingest.layouts.pairs:Pairs",
        "bigearthnet": "rsdnet.ingest.layouts.bigearthnet:BigEarthNet",
        "ssl4eo": "rsdnet.ingest.layouts.ssl4eo:Ssl4eo",
        "eurosat": "rsdnet.ingest.layouts.eurosat:EuroSat",
        "eurosat-rgb": "rsdnet.ingest.layouts.eurosat:EuroSatRgb",
    },
)
