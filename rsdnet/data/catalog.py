"""The catalog of a database: which S2 and S1 entries make a sample, with its label and split.

A database is a folder: `data.mdb` (LMDB of safetensors, as rico-hdl writes it), `catalog.parquet` with one row a
sample, and `stats.json` with statistics per band over the training split.

catalog.parquet has the columns `sample` (unique name), `ms`, `sar`, `map` (keys of the S2, S1 and pixel label entries,
or null; the label map is tensor "Data"), `label` (int32 or null; the majority class of the map) and `split` (train, val
or test). Its key-value metadata `rsdnet` is JSON: {"version": 1, "layout", "level", "patch", "classes": [names by label
id], "values": {pixel value: label id}}, the last where the pixels of a label map are not label ids.
Columns it may lack: `group` (text; the scene or location that no drawn split tears apart), `lon` and `lat` (float64 or
null; the patch's centre in degrees of WGS 84), `labels` (list of int32 or null; the ids of all its classes, which need
"classes"), `contains_seasonal_snow` and `contains_cloud_or_shadow` (bool or null).
"""

import contextlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rsdnet.errors import DataError
from rsdnet.files import aside

VERSION = 1
SPLITS = ("train", "val", "test")
MODALITIES = ("ms+sar", "ms", "sar")
CONDITIONS = ("contains_seasonal_snow", "contains_cloud_or_shadow")
"""Columns of patches that benchmarks leave out."""
COLUMNS = ("samples", "ms", "sar", "map", "label", "split", "group", "lon", "lat", "labels", *CONDITIONS)
"""The arrays of a `Catalog`."""
Labelling = Literal["one", "several"]
"""The labels of a sample: `label`, one class, or `labels`, any number of them."""
DATA = "data.mdb"
CATALOG = "catalog.parquet"
STATS = "stats.json"
JOURNAL = "ingest.journal"  # there while an ingest is not finished
MAP_TENSOR = "Data"  # the tensor of a pixel label entry, as rico-hdl names it
BUFFER = 1 << 18  # bytes of a column read at a time
PIECE = 1 << 13  # samples of a catalog in memory at a time, and of a row group: a larger group takes more memory
_KEYS = ("ms", "sar", "map")
_COLUMNS = ("sample", *_KEYS, "label", "split")  # of every file
_INT32 = (-(2**31), 2**31 - 1)
_BOUNDS = {"lon": 180.0, "lat": 90.0}  # degrees
_KNOWN = ("group", *_BOUNDS, "labels", *CONDITIONS)  # of a file in which one value at least is known


@dataclass(frozen=True, eq=False)
class Catalog:
    """The samples of a database, one array element a sample.

    samples: (N,) str, unique. ms, sar, map: (N,) str or None, keys into the database. label: (N,) int32,
    -1 for none. split: (N,) str of `SPLITS`. classes: class names by label id. meta: the rest of the
    catalog's metadata. group: (N,) str or None. lon, lat: (N,) float64 degrees, NaN for unknown. labels: (N,) tuples of
    label ids, or None for unknown. contains_seasonal_snow, contains_cloud_or_shadow: (N,) bool or None. Of those from
    group on an empty array stands for N unknown ones.
    """

    samples: np.ndarray
    ms: np.ndarray
    sar: np.ndarray
    map: np.ndarray
    label: np.ndarray
    split: np.ndarray
    classes: tuple[str, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    group: np.ndarray = field(default_factory=lambda: objects([]))
    lon: np.ndarray = field(default_factory=lambda: np.empty(0))
    lat: np.ndarray = field(default_factory=lambda: np.empty(0))
    labels: np.ndarray = field(default_factory=lambda: objects([]))
    contains_seasonal_snow: np.ndarray = field(default_factory=lambda: objects([]))
    contains_cloud_or_shadow: np.ndarray = field(default_factory=lambda: objects([]))

    def __post_init__(self) -> None:
        for name in _KNOWN:
            if not len(getattr(self, name)):
                object.__setattr__(self, name, _unknown(name, len(self)))

    def __len__(self) -> int:
        return len(self.samples)

    @classmethod
    def read(cls, db: str | os.PathLike[str]) -> "Catalog":
        """The catalog of the database in folder `db`. Raises DataError if it is missing, damaged or contradictory."""
        with _opened(db) as (path, file):
            return cls._of(path, file.read(columns=_held(file)))

    @classmethod
    def scan(cls, db: str | os.PathLike[str], rows: int = PIECE) -> Iterator["Catalog"]:
        """The catalog in pieces of `rows` samples, in order: tens of MB at a time, however many samples there are.

        Raises DataError as `read`, except for a name shared by samples of two pieces.
        """
        with _opened(db, buffered=True) as (path, file):
            for batch in file.iter_batches(rows, columns=_held(file), use_threads=False):
                yield cls._of(path, batch)
        _release_memory()

    @classmethod
    def _of(cls, path: Path, table: Any) -> "Catalog":
        """The catalog in `table`, a pyarrow table or record batch with the columns of `_held`."""
        columns = {name: table.column(name).to_pylist() for name in table.schema.names}
        meta = _checked_meta(path, table.schema)
        given = np.array([-1 if label is None else label for label in columns["label"]], np.float64)
        label = np.nan_to_num(given).clip(*_INT32).astype(np.int32)
        if (label != given).any():
            raise DataError(f"{path}: labels must be 32-bit integers or null: ingest again")
        if "labels" in columns:
            columns["labels"] = [ids if ids is None else tuple(ids) for ids in columns["labels"]]
        plain = (*_KEYS, "split", "group", "labels", *CONDITIONS)
        arrays = {name: objects(columns[name]) for name in plain if name in columns}
        try:
            arrays |= {name: np.array(columns[name], np.float64) for name in _BOUNDS if name in columns}
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: lon and lat must be degrees or null: ingest again") from error
        classes = tuple(meta.pop("classes", ()))
        catalog = cls(samples=objects(columns["sample"]), label=label, classes=classes, meta=meta, **arrays)
        catalog._check(str(path))
        return catalog

    def _check(self, where: str) -> None:
        counts = Counter(self.samples)
        if None in counts:
            raise DataError(f"{where}: a sample has no name; each needs one of its own")
        if len(counts) < len(self):
            twice = counts.most_common(1)[0][0]
            raise DataError(f"{where}: sample {twice!r} stands in it more than once; names must be unique")
        for split in set(self.split):
            if split not in SPLITS:
                raise DataError(f"{where}: unknown split {split!r}; it must be one of {', '.join(SPLITS)}")
        empty = [row for row in range(len(self)) if self.ms[row] is None and self.sar[row] is None]
        if empty:
            raise DataError(f"{where}: sample {self.samples[empty[0]]!r} names neither an S2 nor an S1 entry")
        if len(self) and self.classes and int(self.label.max()) >= len(self.classes):
            raise DataError(f"{where}: label {self.label.max()}, but only {len(self.classes)} class names")
        for sample, ids in zip(self.samples, self.labels, strict=True):
            if ids and not all(id is not None and 0 <= id < len(self.classes) for id in ids):
                raise DataError(
                    f"{where}: labels {list(ids)} of sample {sample!r}, but {len(self.classes)} class names"
                )
        for name, bound in _BOUNDS.items():
            if (beyond := np.abs(getattr(self, name)) > bound).any():
                value, sample = getattr(self, name)[beyond][0], self.samples[beyond][0]
                raise DataError(f"{where}: {name} of sample {sample!r} is {value:g}, beyond {bound:g} degrees")

    def write(self, db: str | os.PathLike[str]) -> None:
        """Write `catalog.parquet` into the folder `db`: aside first, then renamed.

        Raises DataError if it contradicts itself.
        """
        import pyarrow
        import pyarrow.parquet

        path = Path(db) / CATALOG
        self._check(str(path))
        text = pyarrow.string()
        columns = {"sample": pyarrow.array(list(self.samples), text)}
        columns |= {name: pyarrow.array(list(getattr(self, name)), text) for name in _KEYS}
        columns["label"] = pyarrow.array(np.asarray(self.label, np.int32), mask=np.asarray(self.label) < 0)
        columns["split"] = pyarrow.array(list(self.split), text)
        if any(name is not None for name in self.group):
            columns["group"] = pyarrow.array(list(self.group), text)
        for name in _BOUNDS:
            if not (unknown := np.isnan(degrees := np.asarray(getattr(self, name), np.float64))).all():
                columns[name] = pyarrow.array(degrees, mask=unknown)
        kinds = {"labels": pyarrow.list_(pyarrow.int32())} | dict.fromkeys(CONDITIONS, pyarrow.bool_())
        for name, kind in kinds.items():
            if any(value is not None for value in getattr(self, name)):
                columns[name] = pyarrow.array(list(getattr(self, name)), kind)
        meta = {"version": VERSION, **self.meta, "classes": list(self.classes)}
        table = pyarrow.table(columns).replace_schema_metadata({"rsdnet": json.dumps(meta)})
        with aside(path) as temporary:
            pyarrow.parquet.write_table(table, temporary, compression="zstd", row_group_size=PIECE)

    def take(self, rows: np.ndarray) -> "Catalog":
        """The samples at `rows` (indices or a boolean mask), in that order."""
        return Catalog(**{name: getattr(self, name)[rows] for name in COLUMNS}, classes=self.classes, meta=self.meta)

    def mask(
        self, *, split: str | None = None, modality: str | None = None, labelled: bool | Labelling | None = None
    ) -> np.ndarray:
        """(N,) bool: the samples of one split, with the entries a modality needs ("ms+sar": both).

        labelled: with labels of a kind, or without one label; True stands for "one".

        None means any. Raises DataError for an unknown split or modality.
        """
        if split is not None and split not in SPLITS:
            raise DataError(f"unknown split {split!r}; it must be one of {', '.join(SPLITS)}")
        if modality is not None and modality not in MODALITIES:
            raise DataError(f"unknown modality {modality!r}; it must be one of {', '.join(MODALITIES)}")
        keep = np.ones(len(self), bool)
        if split is not None:
            keep &= self.split == split
        for name in modality.split("+") if modality else ():
            keep &= np.array([key is not None for key in getattr(self, name)], bool)
        if labelled == "several":
            keep &= np.array([ids is not None for ids in self.labels], bool)
        elif labelled is not None:
            keep &= (self.label >= 0) == bool(labelled)
        return keep


def read_meta(db: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of the database's catalog, with "classes"; reads no row. Raises DataError as `Catalog.read`."""
    with _opened(db) as (path, file):
        return _checked_meta(path, file.schema_arrow)


def count(db: str | os.PathLike[str]) -> int:
    """Samples in the database's catalog; reads no row. Raises DataError as `Catalog.read`."""
    with _opened(db) as (_, file):
        return int(file.metadata.num_rows)


def _checked_meta(path: Path, schema: Any) -> dict[str, Any]:
    """The catalog's own part of a pyarrow schema's metadata."""
    meta = json.loads((schema.metadata or {}).get(b"rsdnet", b"{}"))
    if not isinstance(meta, dict) or meta.get("version", VERSION) != VERSION:
        raise DataError(f"{path} is not of version {VERSION}, the one that this code reads: ingest again")
    names = meta.get("classes", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: classes must be a list of names in its metadata: ingest again")
    return meta


@contextlib.contextmanager
def _opened(db: str | os.PathLike[str], *, buffered: bool = False) -> Iterator[tuple[Path, Any]]:
    """The path of a database's catalog and the open pyarrow.parquet.ParquetFile, which has all columns.

    buffered: read a little at a time, not a whole row group ahead.
    Raises DataError if it is missing or, also inside the block, damaged.
    """
    import pyarrow
    import pyarrow.parquet

    path = Path(db) / CATALOG
    if not path.is_file() and (Path(db) / JOURNAL).exists():
        raise DataError(f"{db} is not finished: run the same `python -m rsdnet.ingest` command again")
    if Path(db).is_file():
        raise DataError(f"{db} is a file: name the folder of a database")
    if not path.is_file():
        raise DataError(
            f"{path} is missing, so the samples are not known: make the database with `python -m rsdnet.ingest`, adopt "
            "rico-hdl's with `python -m rsdnet.catalog`, or write one row a sample: sample, ms, sar, map, label, split"
        )
    try:
        with pyarrow.parquet.ParquetFile(path, buffer_size=BUFFER if buffered else 0) as file:
            _check_columns(path, file.schema_arrow)
            yield path, file
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}): ingest again") from error


def _check_columns(path: Path, schema: Any) -> None:
    """Raise DataError where a pyarrow schema lacks a column of a catalog, or one has another type."""
    import pyarrow
    from pyarrow import types

    texts = (types.is_string, types.is_large_string, types.is_string_view)
    for name in _COLUMNS:
        if name not in schema.names:
            raise DataError(f"{path} has no column {name}: ingest again")
    for name in (*_COLUMNS, "group"):
        kind = schema.field(name).type if name in schema.names else None
        if kind is None or types.is_null(kind):
            continue
        values = kind.value_type if types.is_dictionary(kind) else kind
        if name == "label" and not (types.is_integer(values) or types.is_floating(values)):
            raise DataError(f"{path}: labels must be 32-bit integers or null, not {kind}: ingest again")
        if name != "label" and not any(is_text(values) for is_text in texts):
            raise DataError(f"{path}: column {name} must hold text, not {kind}: ingest again")
    for name in ("labels", *CONDITIONS):
        kind = schema.field(name).type if name in schema.names else pyarrow.null()
        listed = (types.is_list(kind) or types.is_large_list(kind)) and types.is_integer(kind.value_type)
        if not (types.is_null(kind) or (listed if name == "labels" else types.is_boolean(kind))):
            wanted = "lists of label ids" if name == "labels" else "true or false"
            raise DataError(f"{path}: column {name} must hold {wanted}, not {kind}: ingest again")


def _held(file: Any) -> list[str]:
    """The columns to read of an open pyarrow.parquet.ParquetFile: all that a catalog has, and of `_KNOWN` its own."""
    return [*_COLUMNS, *(name for name in _KNOWN if name in file.schema_arrow.names)]


def _unknown(name: str, count: int) -> np.ndarray:
    """(count,) values of a column of `_KNOWN`, all unknown."""
    return np.full(count, np.nan) if name in _BOUNDS else objects([None] * count)


def _release_memory() -> None:
    """Let pyarrow return the memory that it holds on to after a scan."""
    import pyarrow

    pyarrow.default_memory_pool().release_unused()


def objects(values: Sequence[Any]) -> np.ndarray:
    """(N,) array of Python objects: a column of names, None where there is none."""
    return np.fromiter(values, object, len(values))  # of tuples, too
