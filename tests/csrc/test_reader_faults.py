"""Damaged input: one line each for the plain cases; what is accepted is what the reference reads."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import lmdb
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings

from rsdnet import bands
from rsdnet._reader import Reader, ReaderError, Survey, Table
from rsdnet.errors import DataError
from tests.support.databases import paired_patches, write_database, write_values

PAGE = 4096


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


CHANGES: dict[str, Callable[[Path], object]] = {
    "written to": lambda folder: write_database(folder, {"later": paired_patches(1)["s1_0"]}),
    "truncated": lambda folder: os.truncate(folder / "data.mdb", 3 * PAGE),
    "deleted or replaced": lambda folder: (folder / "data.mdb").unlink(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_database_that_changes_while_it_is_open_is_an_error(what: str, tmp_path: Path) -> None:
    patches = paired_patches(3, size=24)
    reader = Reader([write_database(tmp_path / "db", patches)], bands.spellings())
    table = Table(reader, "sar", [], [bands.band_id("VV")])
    assert not table.add(0, np.arange(1), None, ["s1_0"])
    batch = np.zeros(1, np.int64), np.array([[bands.band_id("VV")]], np.int32)
    buffers = np.zeros(1 << 16, np.uint8), np.zeros((1, 1, 5), np.int64)
    table.gather(*batch, *buffers)
    actions: list[Callable[[], object]] = [lambda: table.gather(*batch, *buffers), lambda: reader.keys()]
    actions += [lambda: reader.describe("s1_0"), lambda: table.add(0, np.arange(1), None, ["s1_1"])]
    actions += [lambda: reader.contains(["s1_0"]), lambda: pickle.dumps(table), lambda: Survey(reader)]
    CHANGES[what](tmp_path / "db")
    for action in actions:
        with pytest.raises(ReaderError, match=f"was {what} while it was open"):
            action()


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
        reader.describe("lies")
    assert "\n" not in str(caught.value)
    assert faults(reader, ["good", "lies"]) == {1: str(caught.value)}
    with pytest.raises(safetensors.SafetensorError):  # the reference refuses it too
        safetensors.deserialize(value)


def faults(reader: Reader, keys: list[str]) -> dict[int, str]:
    """Reasons for which entries cannot be samples of band B02, by position."""
    return dict(Table(reader, "ms", [bands.band_id("B02")], []).add(0, np.arange(len(keys)), keys, None))


def test_what_the_reference_takes_but_nobody_should_mean(tmp_path: Path) -> None:
    twice = b'{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}'
    values: dict[str | bytes, bytes] = {f"d{n}": blob({"B02": tensor(shape=[1] * (n - 1) + [4])}) for n in (32, 33)}
    reader = Reader([write_values(tmp_path, values | {"twice": blob(twice)})])
    assert len(reader.describe("d32")["B02"][1]) == 32
    for key, reason in (("twice", "tensor 'a' comes twice"), ("d33", "more than 32 dimensions")):
        with pytest.raises(ReaderError, match=f"entry '{key}': .*{reason}"):
            reader.describe(key)


def test_the_same_header_before_another_payload_is_refused(tmp_path: Path) -> None:
    good = safetensors.numpy.save({"B02": np.ones((20, 20), np.uint16)})
    write_values(tmp_path, {"a": good, "b": good[:-1], "c": good + b"\0", "d": good})
    found = faults(Reader([tmp_path], bands.spellings(), threads=1), ["a", "b", "c", "d"])
    assert sorted(found) == [1, 2]
    assert "payload has 799 bytes; its header describes 800" in found[1]


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


@settings(deadline=None, max_examples=100)
@given(damages=st.lists(st.tuples(EDITS, st.booleans()), min_size=10, max_size=10))
def test_what_the_reader_accepts_the_reference_reads_alike(
    damages: list[tuple[list[tuple[str, float, bytes]], bool]],
) -> None:
    good = safetensors.numpy.save({"B02": np.arange(6, dtype=np.uint16).reshape(2, 3), "VV": np.ones((1, 2), "f4")})
    length = int.from_bytes(good[:8], "little")
    values: dict[str | bytes, bytes] = {}
    for number, (edits, fix_length) in enumerate(damages):
        header = edited(good[8 : 8 + length], edits)
        values[f"{number}"] = (
            (len(header) if fix_length else length).to_bytes(8, "little") + header + good[8 + length :]
        )
    with TemporaryDirectory() as folder:
        reader = Reader([write_values(Path(folder), values, map_size=1 << 20)], bands.spellings())
        for key, value in values.items():
            try:
                found = reader.describe(key)
            except ReaderError:
                continue
            reference = dict(safetensors.deserialize(value))  # raises if the reference refuses it
            assert {name: shape for name, (_, shape) in found.items()} == {
                name: tuple(tensor["shape"]) for name, tensor in reference.items()
            }
            if faults(reader, [str(key)]):
                continue
            name = next(name for name in ("B02", "B2") if name in reference)
            table = Table(reader, "ms", [bands.band_id("B02")], [])
            table.add(0, np.arange(1), [key], None)
            out, records = np.zeros(4096, np.uint8), np.zeros((1, 1, 5), np.int64)
            table.gather(np.zeros(1, np.int64), np.array([[bands.band_id("B02")]], np.int32), out, records)
            expected = bytes(reference[name]["data"])
            assert out[: len(expected)].tobytes() == expected
