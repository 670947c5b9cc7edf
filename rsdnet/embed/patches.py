"""One vector a patch of a database, as Parquet: `python -m rsdnet.embed ENCODER OUT.parquet --db DB`.

Columns: sample, sensor ("ms" or "sar"), key, split, label, class, labels, group, lon, lat (null where unknown), and
embedding, a list of float32. Row groups are written one by one, so that memory does not grow with the database, and an
interrupted embedding continues.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from rich.console import Console
from torch import Tensor

import rsdnet
from rsdnet.console import progress
from rsdnet.data.catalog import Catalog
from rsdnet.data.databases import Databases
from rsdnet.data.pools import Pools
from rsdnet.data.samples import Samples
from rsdnet.distributed import Ranks
from rsdnet.embed.parts import Parts, room_for
from rsdnet.embed.plan import rows_for
from rsdnet.encoder import Encoder, Row
from rsdnet.errors import DataError
from rsdnet.evaluate.features import bands_of, scaled_side, views_of
from rsdnet.evaluate.weights import digest
from rsdnet.files import aside
from rsdnet.kernels import ViewSpec
from rsdnet.model.stages import Features
from rsdnet.provenance import commit

GROUP = 1 << 24  # bytes of the vectors in a row group, at most: what an interruption loses; our choice
PART = ".group"  # suffix of a finished row group's file
SENSORS = ("ms", "sar")
_TEXT, _REAL = pyarrow.string(), pyarrow.float64()
SCHEMA = pyarrow.schema(
    {
        **dict.fromkeys(("sample", "sensor", "key", "split"), _TEXT),
        "label": pyarrow.int32(), "class": _TEXT, "labels": pyarrow.list_(pyarrow.int32()), "group": _TEXT,
        "lon": _REAL, "lat": _REAL, "embedding": pyarrow.list_(pyarrow.float32()),
    }
)  # fmt: skip


class Stored(NamedTuple):
    """Samples of a database, as an encoder sees them whole: those at `positions` (b,) int64 of `samples`."""

    encoder: Encoder
    samples: Samples
    spec: ViewSpec
    positions: np.ndarray

    @property
    def device(self) -> torch.device:
        """Of the views."""
        return self.encoder.device

    def features(self, names: tuple[str, ...], of: Callable[[Tensor], Features]) -> Features:
        """Features (b, F) by depth: `of` applied to the views."""
        return of(self.rendered(names, np.arange(len(self.positions))))

    def rendered(self, names: Sequence[str], samples: np.ndarray) -> Tensor:
        """Views (n, len(names), S, S) of `samples` (n,) int64, among `positions`."""
        encoder = self.encoder
        return views_of(
            self.samples, names, self.positions[samples], encoder.table, encoder.file.differences, self.spec
        )

    def scale(self, name: str) -> tuple[float, float]:
        """Mean and standard deviation of a band or a difference."""
        band = self.encoder.file.bands.get(name)
        return (band.mean, band.std) if band else self.encoder.file.differences[name]


class Sensor(NamedTuple):
    """The patches of one sensor and the rows whose features are a vector."""

    name: str
    stored: Stored
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, encoder: Encoder, db: Path, name: str, asked: Sequence[str]) -> "Sensor":
        """Raises DataError on a row whose bands the database lacks."""
        held = bands_of((db,), name)
        rows = rows_for(encoder, asked, held)
        if absent := [band for row in rows for part in row for band in part.split("-") if band not in held]:
            raise DataError(f"{db} has no band {absent[0]}: it has {', '.join(held)}; name the rows to use by --bands")
        pools: Pools = {each: held if each == name else () for each in SENSORS}
        samples = Samples((db,), name, pools)
        side = scaled_side(encoder.cfg.views, encoder.file.side, samples.side)
        return cls(name, Stored(encoder, samples, ViewSpec.plain(side), np.arange(0)), rows)

    def vectors(self, first: int, count: int, batch: int, depth: str) -> np.ndarray:
        """(count, F) float32 of the patches from `first` on."""
        found = list[np.ndarray]()
        for start in range(first, first + count, batch):
            positions = np.arange(start, min(start + batch, first + count))
            stored = self.stored._replace(positions=positions)
            with torch.inference_mode():
                each = [self.stored.encoder.features_of(stored, row, depth) for row in self.rows]
            found.append(torch.cat(each, 1).cpu().numpy())
        return np.concatenate(found)


Group = tuple[Sensor, int, Catalog]
"""A row group: its sensor, the position of the first sample, and the samples' rows of the catalog."""


def embed_database(
    encoder: Encoder, db: Path, out: Path, asked: Sequence[str], depth: str, batch: int, force: bool, ranks: Ranks,
    console: Console,
) -> None:  # fmt: skip
    """Write the vectors of all patches of `db` to `out`: each rank its share of the row groups, then all joined.

    asked: rows; none: the encoder's. force: begin anew where row groups of other options are left.
    """
    with ranks.together():
        sensors = sensors_of(encoder, db, asked)
        sizes = [max(GROUP // (4 * each.vectors(0, 1, 1, depth).shape[1]), 1) for each in sensors]
    for sensor in sensors:
        count, rows = len(sensor.stored.samples), " ".join("+".join(row) for row in sensor.rows)
        console.print(f"{sensor.name}: {count:,} patches; rows: {rows}")
        if line := sensor.stored.samples.report():
            console.print(line)
    about: dict[str, Any] = {"encoder": digest(encoder.network.state_dict()), "features": depth}
    about |= {"rows": {each.name: list(map("+".join, each.rows)) for each in sensors}}
    parts = Parts(out)
    with ranks.together():
        if ranks.main and parts.begin(about | {"samples": [each.stored.samples.identity for each in sensors]}, force):
            console.print(f"continuing {out} after {len(_finished(parts)):,} row groups")
    ranks.barrier()
    total = sum(len(sensor.stored.samples) for sensor in sensors)
    with ranks.together(), progress("embed", total, "patches", console=console) as show:
        _embed_rest(_groups(sensors, sizes), depth, batch, parts, ranks, show)
    with ranks.together():
        if ranks.main:
            _join(parts, about | {"version": rsdnet.__version__, "commit": commit()})
            parts.remove()


def _embed_rest(
    groups: Iterable[Group], depth: str, batch: int, parts: Parts, ranks: Ranks, show: Callable[[int], None]
) -> None:
    """Embed this rank's share of the row groups that are not finished, each into a file of its own."""
    done = 0
    for number, (sensor, first, catalog) in enumerate(groups):
        done += len(catalog)
        path = parts.folder / f"{number:07d}{PART}"
        if number % ranks.world == ranks.rank and not path.exists():
            table = _table(sensor.name, catalog, sensor.vectors(first, len(catalog), batch, depth))
            with room_for(parts.out), aside(path) as temporary:
                pyarrow.parquet.write_table(table, temporary, compression="zstd")
        show(done)


def _finished(parts: Parts) -> list[Path]:
    """The files of the finished row groups, in order."""
    return sorted(parts.folder.glob(f"*{PART}"))


def _join(parts: Parts, about: dict[str, Any]) -> None:
    """Write all row groups to the output, aside first."""
    schema = SCHEMA.with_metadata({"rsdnet": json.dumps(about)})
    with (
        room_for(parts.out),
        aside(parts.out) as temporary,
        pyarrow.parquet.ParquetWriter(temporary, schema, compression="zstd") as file,
    ):
        for path in _finished(parts):
            file.write_table(pyarrow.parquet.read_table(path, schema=SCHEMA).cast(schema))


def sensors_of(encoder: Encoder, db: Path, asked: Sequence[str]) -> list[Sensor]:
    """The sensors that the database has patches of and the encoder, or `asked`, rows.

    Raises DataError where there is none.
    """
    held = set[str]()
    for piece in Databases((db,)):
        held |= {name for name in SENSORS if any(key is not None for key in getattr(piece.catalog, name))}
    rows = {name: [row for row in asked if sensor_of(row) == name] for name in SENSORS}
    trained = {sensor_of("+".join(row)) for row in encoder.rows}
    wanted = [name for name in SENSORS if (rows[name] if asked else name in trained)]
    if not (found := [name for name in wanted if name in held]):
        raise DataError(f"{db} has patches of {' and '.join(sorted(held))}, but the rows are of {' and '.join(wanted)}")
    return [Sensor.of(encoder, db, name, rows[name]) for name in found]


def sensor_of(row: str) -> str:
    """The sensor of a row such as B04+B03+B02 or VV-VH. Raises DataError on an unknown band."""
    return rsdnet.bands.BANDS[rsdnet.bands.canonical(row.split("+")[0].split("-")[0])].modality


def _groups(sensors: Sequence[Sensor], sizes: Sequence[int]) -> Iterator[Group]:
    """Row groups in the order of the catalog. sizes: of each sensor's, at most."""
    for sensor, most in zip(sensors, sizes, strict=True):
        for piece, rows, place in sensor.stored.samples.pieces():
            for start in range(0, len(rows), most):
                yield sensor, place.start + start, piece.catalog.take(rows[start : start + most])


def _table(sensor: str, catalog: Catalog, vectors: np.ndarray) -> pyarrow.Table:
    count, width = vectors.shape
    labels = [int(label) if label >= 0 else None for label in catalog.label]
    known = dict(enumerate(catalog.classes))
    offsets = pyarrow.array(np.arange(count + 1, dtype=np.int32) * width)
    columns = {
        "sample": list(catalog.samples), "sensor": [sensor] * count, "key": list(getattr(catalog, sensor)),
        "split": list(catalog.split), "label": labels, "class": [known.get(int(label)) for label in catalog.label],
        "labels": list(catalog.labels), "group": list(catalog.group),
        "lon": [None if np.isnan(each) else each for each in catalog.lon],
        "lat": [None if np.isnan(each) else each for each in catalog.lat],
    }  # fmt: skip
    arrays = [pyarrow.array(values, SCHEMA.field(name).type) for name, values in columns.items()]
    embedding = pyarrow.ListArray.from_arrays(offsets, pyarrow.array(vectors.ravel()))
    return pyarrow.Table.from_arrays([*arrays, embedding], schema=SCHEMA)
