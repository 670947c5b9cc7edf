"""The files of a finished database: its catalog, and lists beside it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsdnet.data.catalog import Catalog, objects
from rsdnet.files import aside
from rsdnet.ingest.geotiffs import Row
from rsdnet.ingest.source import Recipe


def catalog_of(rows: Sequence[Row], recipe: Recipe, highest: int, meta: dict[str, Any]) -> Catalog:
    """The catalog of `rows`. highest: the greatest label id, -1 for none. meta: the part that is not of `recipe`."""
    units = {"ms": "byte" if recipe.s2_unit == "byte" else "dn", "sar": "db"}
    meta = meta | {"level": recipe.level, "units": units}
    if recipe.raw_map:
        (values,) = recipe.classes.values()
        meta["values"] = {str(value): label for value, label in values.items()}
    ids = tuple(map(str, range(highest + 1)))
    return Catalog(
        samples=objects([row.sample for row in rows]),
        **{name: objects([getattr(row, name) for row in rows]) for name in ("ms", "sar", "map", "split", "group")},
        lon=np.array([row.lon for row in rows], np.float64),
        lat=np.array([row.lat for row in rows], np.float64),
        label=np.array([-1 if row.label is None else row.label for row in rows], np.int32),
        labels=objects([None if row.labels is None else tuple(row.labels) for row in rows]),
        contains_seasonal_snow=objects([row.snow for row in rows]),
        contains_cloud_or_shadow=objects([row.clouds for row in rows]),
        classes=ids if recipe.class_names is None else recipe.class_names,
        meta=meta,
    )


def write_list(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write tab-separated values; no file without rows, nor an earlier ingest's."""
    lines = ["\t".join(str(cell).replace("\t", " ") for cell in row) + "\n" for row in (header, *rows)]
    if len(lines) > 1:
        with aside(path) as temporary:
            temporary.write_text("".join(lines), "utf-8")
    else:
        path.unlink(missing_ok=True)
