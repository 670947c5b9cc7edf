"""Damaged input: one line each for the plain cases; never a crash, whatever the bytes (in a process of its own)."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis.strategies as st
import lmdb
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray

from rsdnet import bands
from rsdnet._reader import Reader, ReaderError
from rsdnet.errors import DataError
from tests.support.databases import paired_patches, write_database, write_values
from tests.support.reader_child import Child

PAGE = 4096


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    process = Child()
    yield process
    process.close()


def one_line(path: Path | str, **options: object) -> str:
    """The message with which the reader refuses a database."""
    with pytest.raises(ReaderError) as caught:
        Reader([path], **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert isinstance(caught.value, DataError)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_what_is_no_database_is_refused_in_one_line(tmp_path: Path) -> None:
    assert "No such file or directory; give a folder that holds data.mdb" in one_line(tmp_path / "absent")
    assert "holds no data.mdb" in one_line(tmp_path)
    data = tmp_path / "data.mdb"
    data.write_bytes(b"")
    assert "is empty (0 bytes)" in one_line(tmp_path)
    for content in (b"x", b"GIF89a" * 1000, b"\0" * 8192):
        data.write_bytes(content)
        assert "is not an LMDB database" in one_line(tmp_path)
    data.unlink()
    data.mkdir()
    assert "is not a regular file" in one_line(tmp_path)


def test_a_database_without_entries_is_refused(tmp_path: Path) -> None:
    lmdb.open(str(tmp_path)).close()
    assert "holds no entries; ingest into it first" in one_line(tmp_path)


def test_the_format_of_lmdb_1_is_named(tmp_path: Path) -> None:
    try:
        environment = lmdb.open(str(tmp_path), lib_version=1)
    except TypeError:
        pytest.skip("this py-lmdb has no LMDB 1.0")
    with environment, environment.begin(write=True) as transaction:
        transaction.put(b"a", b"b")
    assert "of LMDB 1.0 or newer, but format 1, of LMDB 0.9, is needed" in one_line(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    write_values(tmp_path, {"a": b"b"})
    (tmp_path / "data.mdb").chmod(0)
    assert "Permission denied" in one_line(tmp_path)


def test_sub_databases_and_duplicates_are_refused(tmp_path: Path) -> None:
    with lmdb.open(str(tmp_path / "named"), max_dbs=2) as environment:
        environment.open_db(b"inner")
    assert "entry 'inner' is a sub-database, not a patch" in one_line(tmp_path / "named")
    content = bytearray((write_values(tmp_path / "dup", {"a": b"1"}) / "data.mdb").read_bytes())
    for page in (0, PAGE):
        content[page + 16 + 72 + 4] = 0x04  # MDB_DUPSORT in md_flags of the main database
    (tmp_path / "dup" / "data.mdb").write_bytes(content)
    assert "keeps duplicates" in one_line(tmp_path / "dup")


def test_a_file_cut_anywhere_is_refused_or_whole(tmp_path: Path, child: Child) -> None:
    whole = (write_database(tmp_path / "whole", paired_patches(3, size=24)) / "data.mdb").read_bytes()
    intact = child.use(tmp_path / "whole")
    assert len(intact) == 6
    (tmp_path / "cut").mkdir()
    refused = 0
    for length in [
        1,
        100,
        151,
        152,
        PAGE - 1,
        PAGE,
        2 * PAGE - 1,
        2 * PAGE,
        *range(3 * PAGE, len(whole), PAGE // 2),
        len(whole) - 1,
    ]:
        (tmp_path / "cut" / "data.mdb").write_bytes(whole[:length])
        found = child.use(tmp_path / "cut")
        if isinstance(found, str):
            assert "is truncated: " in found or "not an LMDB database" in found
            refused += 1
        else:  # only pages that hold nothing were cut off
            assert all(np.array_equal(found[k][n], intact[k][n]) for k in intact for n in intact[k])  # type: ignore[index]
    assert refused >= len(whole) // (PAGE // 2) - 8


def test_a_file_that_shrinks_or_is_written_to_while_open(tmp_path: Path) -> None:
    patches = paired_patches(3, size=24)
    write_database(tmp_path, patches)
    reader = Reader([tmp_path], bands.spellings())
    entries, band_ids = reader.entries(["s1_0"]), np.array([bands.band_id("VV")])
    buffers = np.zeros(1 << 16, np.uint8), np.zeros((1, 5), np.int64)
    reader.gather(entries, band_ids, *buffers)
    write_database(tmp_path, {"later": patches["s1_1"]})
    actions: list[Callable[[], object]] = [lambda: reader.gather(entries, band_ids, *buffers), lambda: reader.keys()]
    actions += [lambda: reader.read("s1_0"), lambda: reader.entries(["s1_0"]), lambda: pickle.dumps(reader)]
    actions += [lambda: reader.check(entries, band_ids), lambda: reader.contains(["s1_0"])]
    for action in actions:
        with pytest.raises(ReaderError, match="was written to while it was open"):
            action()
    reader = Reader([tmp_path], bands.spellings())
    entries = reader.entries(["later"])
    os.truncate(tmp_path / "data.mdb", 3 * PAGE)
    for action in actions:
        with pytest.raises(ReaderError, match="was truncated while it was open"):
            action()


def test_a_deleted_database_is_no_longer_read(tmp_path: Path) -> None:
    write_database(tmp_path / "db", paired_patches(1))
    reader = Reader([tmp_path / "db"])
    shutil.rmtree(tmp_path / "db")
    with pytest.raises(ReaderError, match="was deleted or replaced while it was open"):
        reader.read("s1_0")


def blob(header: object, payload: bytes = b"\0" * 8, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + payload


def tensor(
    begin: int = 0, end: int = 8, shape: object = (2, 2), dtype: object = "U16", **more: object
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end], **more}


LIES = {
    "no header at all": (b"1234567", "7 bytes is too short"),
    "a length past the end": (blob({"B02": tensor()}, length=2**40), "header claims 1099511627776 bytes"),
    "a length that wraps": (blob({"B02": tensor()}, length=2**64 - 8), "header claims 18446744073709551608 bytes"),
    "a length one too long": (blob({"B02": tensor()}, b"", length=67), "header claims 67 bytes"),
    "an end past the payload": (blob({"B02": tensor(0, 16, (2, 4))}), "claims bytes 0 to 16 of a payload of 8"),
    "an end before the begin": (blob({"B02": tensor(8, 0)}), "claims bytes 8 to 0"),
    "offsets that wrap": (blob({"B02": tensor(2**64 - 8, 2**64 - 1)}), "claims bytes 18446744073709551608"),
    "a shape too large": (blob({"B02": tensor(shape=[2, 3])}), "has 8 bytes; its shape and type need 12"),
    "a shape that wraps to 8 bytes": (blob({"B02": tensor(shape=[2**62 + 1, 2, 2])}), r"more than 2\^64 bytes"),
    "a shape that wraps to 0": (blob({"B02": tensor(shape=[2**32, 2**32])}), r"more than 2\^64 bytes"),
    "overlap": (blob({"B02": tensor(), "B03": tensor()}), "'B0[23]' at bytes 0 to 8 overlaps"),
    "a gap": (blob({"B02": tensor(8, 16)}, b"\0" * 16), "leaves a gap before it"),
    "bytes that no tensor has": (blob({"B02": tensor()}, b"\0" * 9), "fill 8 of 9 payload bytes"),
    "an unknown type": (blob({"B02": tensor(dtype="U128")}), "unknown type 'U128'"),
    "a name with a line break": (blob({"B\n2": tensor(dtype="x")}), r"'B\\x0a2' has the unknown type"),
    "a type that is no string": (blob({"B02": tensor(dtype=16)}), "expected '\"'"),
    "a negative extent": (blob({"B02": tensor(shape=[-2, -2])}), "expected a whole number"),
    "a fraction": (blob({"B02": tensor(shape=[2.0, 2])}), "expected a whole number"),
    "a number of 80 digits": (blob({"B02": tensor(shape=[int("9" * 80)])}), r"larger than 2\^64"),
    "2^64": (blob({"B02": tensor(shape=[2**64])}), r"larger than 2\^64"),
    "no shape": (blob({"B02": {"dtype": "U16", "data_offsets": [0, 8]}}), "lacks its dtype, shape or data_offsets"),
    "a field twice": (blob(b'{"B02":{"dtype":"U16","dtype":"U16","shape":[4],"data_offsets":[0,8]}}'), "comes twice"),
    "deep nesting": (blob(b'{"B02":' + b"[" * 100_000), "expected '{'"),
    "deep objects": (blob(b'{"a":' * 100_000), "unknown field|expected"),
    "not JSON": (blob(b"PK\x03\x04"), "expected '{'"),
    "an empty header": (blob(b""), "expected '{'"),
    "a string without an end": (blob(b'{"B02'), "does not end"),
    "an escape at the end": (blob(b'{"B02\\'), "unknown escape"),
    "half a surrogate pair": (blob(b'{"\\ud800":1}'), "half a surrogate pair"),
    "a name that is no UTF-8": (blob(b'{"\xff":1}'), "not UTF-8"),
    "more after the end": (blob(b"{} {}"), "something follows"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_is_refused_with_key_and_reason(name: str, tmp_path: Path) -> None:
    value, reason = LIES[name]
    good = safetensors.numpy.save({"B02": np.ones((2, 2), np.uint16)})
    write_values(tmp_path, {"lies": value, "good": good})
    reader = Reader([tmp_path], bands.spellings())
    with pytest.raises(ReaderError, match=f"^{tmp_path}/data.mdb: entry 'lies': .*({reason})") as caught:
        reader.read("lies")
    assert "\n" not in str(caught.value)
    pairs = reader.entries(["good", "lies"]), np.array([1, 1])
    assert [position for position, _ in reader.check(*pairs)] == [1]
    with pytest.raises(ReaderError, match="entry 'lies': "):
        reader.gather(*pairs, np.zeros(4096, np.uint8), np.zeros((2, 5), np.int64))
    with pytest.raises(safetensors.SafetensorError):  # the reference refuses it too
        safetensors.deserialize(value)


def test_what_the_reference_takes_but_nobody_should_mean(tmp_path: Path) -> None:
    twice = b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}'
    values: dict[str | bytes, bytes] = {f"d{n}": blob({"B02": tensor(shape=[1] * (n - 1) + [4])}) for n in (32, 33)}
    reader = Reader([write_values(tmp_path, values | {"twice": blob(twice)})])
    assert reader.read("d32")["B02"].ndim == 32
    for key, reason in (("twice", "tensor 'a' comes twice"), ("d33", "more than 32 dimensions")):
        with pytest.raises(ReaderError, match=f"entry '{key}': .*{reason}"):
            reader.read(key)


def test_the_same_header_before_another_payload_is_refused(tmp_path: Path) -> None:
    good = safetensors.numpy.save({"B02": np.ones((20, 20), np.uint16)})
    write_values(tmp_path, {"a": good, "b": good[:-1], "c": good + b"\0", "d": good})
    reader = Reader([tmp_path], bands.spellings(), threads=1)
    found = reader.check(reader.entries(["a", "b", "c", "d"]), np.full(4, bands.band_id("B02")))
    assert [position for position, _ in found] == [1, 2]
    assert "payload has 799 bytes; its header describes 800" in found[0][1]


def test_more_layouts_than_the_cache_keeps(tmp_path: Path) -> None:
    shapes = {f"{n:04d}": (1, n + 1) for n in range(1100)}
    write_database(tmp_path, {key: {"B02": np.full(shape, int(key), np.uint16)} for key, shape in shapes.items()})
    reader = Reader([tmp_path], bands.spellings(), threads=2)
    out, records = np.zeros(1 << 21, np.uint8), np.zeros((1100, 5), np.int64)
    for _ in range(2):
        reader.gather(reader.entries(list(shapes)), np.full(1100, bands.band_id("B02")), out, records)
        assert records[:, 3].tolist() == list(range(1, 1101))
        assert [int(out[o : o + 2].view(np.uint16)[0]) for o in records[:, 0]] == list(range(1100))


# A byte string's damage: overwrite, insert, delete, cut.
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "insert", "delete", "cut"]),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.binary(min_size=1, max_size=4), st.sampled_from([b"0", b"9" * 20, b"-", b"[", b"}", b'"', b"U8"])),
    ),
    min_size=1,
    max_size=4,
)  # fmt: skip


def edited(content: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    data = bytearray(content)
    for kind, where, new in edits:
        position = int(where * len(data))
        if kind == "set":
            data[position : position + len(new)] = new
        elif kind == "insert":
            data[position:position] = new
        elif kind == "delete":
            del data[position : position + len(new)]
        else:
            del data[max(position, 8) :]
    return bytes(data)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS, fix_length=st.booleans())
def test_what_the_reader_accepts_the_reference_reads_alike(
    edits: list[tuple[str, float, bytes]], fix_length: bool, tmp_path: Path, child: Child
) -> None:
    patch: dict[str, NDArray] = {"B02": np.arange(6, dtype=np.uint16).reshape(2, 3), "VV": np.ones((1, 2), np.float32)}
    good = safetensors.numpy.save(patch)
    length = int.from_bytes(good[:8], "little")
    header = edited(good[8 : 8 + length], edits)
    value = (len(header) if fix_length else length).to_bytes(8, "little") + header + good[8 + length :]
    shutil.rmtree(tmp_path / "db", ignore_errors=True)
    found = child.use(write_values(tmp_path / "db", {"k": value, "l": good}, map_size=1 << 20))
    assert isinstance(found, dict)
    assert isinstance(found["l"], dict)
    if isinstance(found["k"], dict):
        reference = dict(safetensors.deserialize(value))  # raises if the reference refuses it
        assert found["k"].keys() == reference.keys()
        for name, array in found["k"].items():
            assert array.tobytes() == bytes(reference[name]["data"])
            assert list(array.shape) == list(reference[name]["shape"])


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tree of three levels with inline and overflow values. Two commits, so that both meta pages were used."""
    folder = tmp_path_factory.mktemp("deep")
    rng = np.random.default_rng(0)
    small = {f"{n:03d}" + "k" * 400: {"B02": rng.integers(0, 9, (2, 2)).astype(np.uint8)} for n in range(90)}
    write_database(folder, small, map_size=1 << 22)
    write_database(folder, {f"9{n}": {"VV": np.ones((40, 40), np.float32)} for n in range(6)}, map_size=1 << 22)
    with lmdb.open(str(folder), readonly=True) as environment:
        assert environment.stat()["depth"] == 3
    return (folder / "data.mdb").read_bytes()


INTERESTING = st.one_of(
    st.binary(min_size=1, max_size=8),
    st.sampled_from([b"\xff" * n for n in (1, 2, 4, 8)] + [b"\0" * n for n in (1, 2, 4, 8)]),
    st.integers(0, 200).map(lambda n: n.to_bytes(8, "little")),
    st.integers(0, 2**16 - 1).map(lambda n: n.to_bytes(2, "little")),
)
# Where: a page, and a place in it that is often among its header, node offsets or first nodes.
PLACES = st.tuples(st.floats(0, 1, exclude_max=True), st.one_of(st.integers(0, 160), st.integers(0, PAGE - 1)))


def tree_pages(content: bytes) -> list[int]:
    """Pages that are meta, branch or leaf pages: those that lead to the values."""
    count = len(content) // PAGE
    return [p for p in range(count) if int.from_bytes(content[p * PAGE + 10 : p * PAGE + 12], "little") & 0b1011]


@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(PLACES, INTERESTING), min_size=1, max_size=3), cut=st.none() | st.integers(0, 90 * PAGE)
)
def test_no_damage_to_the_file_crashes_the_reader(
    changes: list[tuple[tuple[float, int], bytes]], cut: int | None, deep: bytes, tmp_path: Path, child: Child
) -> None:
    pages = tree_pages(deep)
    data = bytearray(deep)
    for (page, offset), new in changes:
        start = pages[int(page * len(pages))] * PAGE + offset
        data[start : start + len(new)] = new
    (tmp_path / "data.mdb").write_bytes(data[:cut])
    child.use(tmp_path)


def node_places(content: bytes) -> list[int]:
    """Offsets of every page header field, node offset and node header of the tree."""
    places = [16 + n for n in range(136)] + [PAGE + 16 + n for n in range(136)]
    for page in tree_pages(content)[2:]:
        lower = int.from_bytes(content[page * PAGE + 12 : page * PAGE + 14], "little")
        places += [page * PAGE + n for n in (10, 12, 14, *range(16, lower, 2))]
        for slot in range(16, lower, 2):
            node = int.from_bytes(content[page * PAGE + slot : page * PAGE + slot + 2], "little")
            places += [page * PAGE + node + n for n in range(0, 8, 2)]
    return places


def test_every_structural_field_set_to_extremes(deep: bytes, tmp_path: Path, child: Child) -> None:
    places = node_places(deep)
    rng = np.random.default_rng(0)
    refused = 0
    chosen = rng.choice(places, 90, replace=False)
    for place in [*range(16, 16 + 136, 4), *chosen]:
        for new in (b"\xff\xff", b"\0\0"):
            data = bytearray(deep)
            data[place : place + 2] = new
            (tmp_path / "data.mdb").write_bytes(data)
            refused += isinstance(child.use(tmp_path), str)
    assert refused > 30


def test_a_tree_that_bites_its_tail(deep: bytes, tmp_path: Path, child: Child) -> None:
    branches = [page for page in tree_pages(deep) if deep[page * PAGE + 10] == 1]
    refused = 0
    for page in branches:  # some are of the commit before, and no longer in the tree
        for target in branches:
            data = bytearray(deep)
            for slot in range(16, int.from_bytes(deep[page * PAGE + 12 : page * PAGE + 14], "little"), 2):
                node = page * PAGE + int.from_bytes(deep[page * PAGE + slot : page * PAGE + slot + 2], "little")
                data[node : node + 6] = target.to_bytes(6, "little")
            (tmp_path / "data.mdb").write_bytes(data)
            refused += isinstance(child.use(tmp_path), str)
    assert refused >= 2 * len(branches)


def test_an_error_in_a_worker_ends_with_status_not_signal(tmp_path: Path) -> None:
    write_values(tmp_path, {"bad": b"x"})
    code = (
        "import sys, numpy as np; from rsdnet import bands; from rsdnet._reader import Reader\n"
        "r = Reader([sys.argv[1]], bands.spellings(), threads=4); e = r.entries(['bad'] * 999)\n"
        "r.gather(e, np.ones(999, int), np.zeros(9, np.uint8), np.zeros((999, 5), int))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 1
    assert "ReaderError" in result.stderr
    assert "entry 'bad': its value of 1 bytes is too short" in result.stderr
