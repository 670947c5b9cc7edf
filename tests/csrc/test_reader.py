"""The reader against databases written by py-lmdb and safetensors, and against the files that rico-hdl read."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import lmdb
import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from numpy.typing import NDArray

from rsdnet import bands
from rsdnet._reader import Reader, ReaderError, Table
from tests.support.databases import paired_patches, record_map_size, write_database, write_values

# Codes of a record, in the kernels' order.
DTYPES = (np.uint8, np.int16, np.uint16, np.float16, np.float32)
PATCHES = paired_patches(places=9)


def ids(*names: str) -> list[int]:
    return [bands.band_id(name) for name in names]


def table_of(reader: Reader, keys: Sequence[str | bytes], *names: str, database: int = 0) -> Table:
    """Entries that hold all these bands, as samples."""
    table = Table(reader, "ms", ids(*names), [])
    faults = table.add(database, np.arange(len(keys)), keys, None)
    assert not faults, faults[0]
    return table


def gather(table: Table, positions: Sequence[int], names: Sequence[str]) -> tuple[list[NDArray], NDArray, int]:
    """These bands of each sample as arrays, records and the bytes used; the buffer is poisoned first."""
    out, chosen = np.full(1 << 20, 0xAB, np.uint8), np.tile(np.array(ids(*names), np.int32), (len(positions), 1))
    records = np.full((*chosen.shape, 5), -7, np.int64)
    used = table.gather(np.array(positions, np.int64), chosen, out, records)
    assert (out[used:] == 0xAB).all()
    arrays = []
    for offset, code, height, width, _ in records.reshape(-1, 5):
        dtype = np.dtype(DTYPES[code])
        arrays.append(out[offset : offset + height * width * dtype.itemsize].view(dtype).reshape(height, width))
    return arrays, records, used


def read(reader: Reader, key: str | bytes, name: str, database: int = 0) -> NDArray:
    """One band of one entry."""
    return gather(table_of(reader, [key], name, database=database), [0], [name])[0][0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_database(tmp_path_factory.mktemp("databases") / "pairs", PATCHES)


@pytest.fixture
def reader(folder: Path) -> Reader:
    return Reader([folder], bands.spellings(), threads=2)


def test_keys_headers_and_values_are_those_written(reader: Reader) -> None:
    assert reader.keys() == sorted(PATCHES)
    assert len(reader) == len(PATCHES)
    assert reader.contains(["s2_0", "absent", "", b"s1_8"]).tolist() == [True, False, False, True]
    for key, patch in PATCHES.items():
        assert reader.describe(key) == {name: (str(array.dtype), array.shape) for name, array in patch.items()}
        arrays, _, _ = gather(table_of(reader, [key], *patch), [0], list(patch))
        for array, found in zip(patch.values(), arrays, strict=True):
            assert found.dtype == array.dtype
            np.testing.assert_array_equal(found, array)
    with pytest.raises(ReaderError, match="has no entry 'gone'"):
        reader.describe("gone")


def test_a_band_is_read_by_any_spelling_of_its_tensor(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.uint16).reshape(2, 3)
    write_database(tmp_path, {"eurosat": {"B08A": array}})
    np.testing.assert_array_equal(read(Reader([tmp_path], bands.spellings()), "eurosat", "B8A"), array)


def test_rico_hdl_database_equals_its_geotiffs(real_data: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    source = real_data / "bigearthnet-v2"
    reader = Reader([source / "rico-hdl-lmdb"], bands.spellings())
    files = [file for part in ("BigEarthNet-S1", "BigEarthNet-S2") for file in (source / part).rglob("*.tif")]
    assert len(files) == 14
    for file in files:
        key, name = file.stem.rsplit("_", 1)
        with rasterio.open(file) as image:
            expected = image.read(1)
        assert expected.dtype == (np.float32 if name in bands.SAR else np.uint16)
        found = read(reader, key, name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_every_value_type_of_safetensors_is_described(tmp_path: Path) -> None:
    from safetensors.torch import save

    kinds = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
    kinds += ["bool", "float16", "float32", "float64", "complex64"]
    patch: dict[str, NDArray] = {kind: np.arange(24).reshape(2, 3, 4).astype(kind) for kind in kinds}
    patch |= {"scalar": np.array(7, np.int32), "nothing": np.zeros((0, 5), np.uint8)}
    write_database(tmp_path, {"all": patch})
    write_values(tmp_path, {"b": save({"x": torch.zeros(2, 2, dtype=torch.bfloat16)})})
    reader = Reader([tmp_path])
    assert reader.describe("all") == {name: (str(array.dtype), array.shape) for name, array in patch.items()}
    assert reader.describe("b") == {"x": ("bfloat16", (2, 2))}


def test_types_and_shapes_that_are_no_image_are_refused(tmp_path: Path) -> None:
    odd: dict[str, NDArray] = {"B02": np.zeros((2, 2), np.int32), "B03": np.zeros((2, 2, 2), np.uint16)}
    write_database(tmp_path, {"odd": odd | {"B04": np.zeros((0, 2), np.uint16)}})
    reader = Reader([tmp_path], bands.spellings())
    for name, reason in (("B02", "int32; views are made of"), ("B03", "no image"), ("B04", "no image")):
        ((_, said),) = Table(reader, "ms", ids(name), []).add(0, np.arange(1), ["odd"], None)
        assert f"entry 'odd': band {name} is " in said
        assert reason in said


@settings(deadline=None, max_examples=40)
@given(data=st.data(), threads=st.sampled_from([1, 2, 5]), modality=st.sampled_from(["ms+sar", "ms", "sar"]))
def test_gather_copies_each_band_in_order(folder: Path, data: st.DataObject, threads: int, modality: str) -> None:
    pools = {"ms": ["B02", "B05", "B09"], "sar": ["VV", "VH"]}
    table = Table(Reader([folder], bands.spellings(), threads), modality, ids(*pools["ms"]), ids(*pools["sar"]))
    keys = {"ms": [f"s2_{n}" for n in range(9)], "sar": [f"s1_{n}" for n in range(9)]}
    assert not table.add(0, np.arange(9), keys["ms"], keys["sar"])
    positions = data.draw(st.lists(st.integers(0, 8), max_size=20))
    names = [name for sensor in modality.split("+") for name in pools[sensor]]
    shown = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=4))
    arrays, records, used = gather(table, positions, shown)
    pairs = [(position, name) for position in positions for name in shown]
    at = 0
    for (position, name), record, found in zip(pairs, records.reshape(-1, 5), arrays, strict=True):
        expected = PATCHES[keys["sar" if name in bands.SAR else "ms"][position]][name]
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert record.tolist() == [at, DTYPES.index(expected.dtype.type), *expected.shape, bands.band_id(name)]
        at += -(-expected.nbytes // 16) * 16
    assert used == at


def test_any_type_and_odd_shapes_are_gathered(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    names = ("B02", "B03", "B04", "B08", "VV")
    shapes = [(1, 1), (1, 17), (3, 2), (31, 33), (2, 1023)]
    patches = {
        f"{h}x{w}": {n: rng.integers(0, 200, (h, w)).astype(d) for n, d in zip(names, DTYPES, strict=True)}
        for h, w in shapes
    }
    write_database(tmp_path, patches)
    table = table_of(Reader([tmp_path], bands.spellings()), list(patches), *names)
    found, _, _ = gather(table, range(len(shapes)), names)
    for array, expected in zip(found, (array for patch in patches.values() for array in patch.values()), strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


def test_a_buffer_too_small_is_left_alone_and_the_bytes_needed_are_told(reader: Reader) -> None:
    table = table_of(reader, ["s1_0", "s1_1"], "VV")
    positions, chosen, records = np.arange(2), np.array([ids("VV")] * 2, np.int32), np.zeros((2, 1, 5), np.int64)
    needed = 2 * 12 * 12 * 4
    out = torch.full((needed,), 77, dtype=torch.uint8)
    assert table.gather(positions, chosen, out[: needed - 1].numpy(), records) == needed
    assert (out == 77).all()
    assert table.gather(positions, chosen, out.numpy(), records) == needed
    assert torch.equal(out[needed // 2 :].view(torch.float32).view(12, 12), torch.from_numpy(PATCHES["s1_1"]["VV"]))


def test_keys_that_are_no_utf8_survive(tmp_path: Path) -> None:
    key = b"p\xff\xfetch"
    write_values(tmp_path, {key: safetensors.numpy.save({"B02": np.ones((1, 2), np.uint8)})})
    reader = Reader([tmp_path], bands.spellings())
    assert reader.keys() == [os.fsdecode(key)]
    for name in (reader.keys()[0], key):
        table = pickle.loads(pickle.dumps(table_of(reader, [name], "B02")))
        assert gather(table, [0], ["B02"])[0][0].tolist() == [[1, 1]]


def test_several_databases_are_one(tmp_path: Path) -> None:
    patches: list[dict[str, dict[str, NDArray]]] = [
        {f"d{n}": {"B02": np.full((2, 2), n, np.uint16)}, "both": {"B02": np.full((1, 3), n, np.uint8)}}
        for n in range(3)
    ]
    folders = [write_database(tmp_path / str(n), part) for n, part in enumerate(patches)]
    reader = Reader(folders, bands.spellings())
    assert len(reader) == 6
    assert reader.paths == [str(folder) for folder in folders]
    assert [reader.keys(database) for database in range(3)] == [["both", f"d{n}"] for n in range(3)]
    assert [int(read(reader, "both", "B02", database)[0, 0]) for database in range(3)] == [0, 1, 2]
    assert reader.contains(["d1"]).tolist() == [False]
    assert reader.describe("d1", 1) == {"B02": ("uint16", (2, 2))}
    table = Table(reader, "ms", ids("B02"), [])
    for database in (0, 2):
        assert not table.add(database, np.arange(1) + database, [f"d{database}"], None)
    assert (table.counts, table.rows.tolist()) == ([1, 0, 1], [0, 2])
    again = pickle.loads(pickle.dumps(table))
    assert (again.counts, again.rows.tolist()) == ([1, 0, 1], [0, 2])
    assert [int(array[0, 0]) for array in gather(again, [1, 0], ["B02"])[0]] == [2, 0]
    for database in (3, -1):
        with pytest.raises(IndexError, match=f"database {database} is out of range; the reader has 3"):
            reader.keys(database)


def test_a_map_size_of_100_tib_opens(tmp_path: Path) -> None:
    record_map_size(write_database(tmp_path, {"a": PATCHES["s1_0"]}))
    with lmdb.open(str(tmp_path), readonly=True, map_size=1 << 20, lock=False) as environment:
        assert environment.stat()["entries"] == 1
    assert Reader([tmp_path]).describe("a")["VV"] == ("float32", (12, 12))


def test_a_file_path_opens_like_its_folder(folder: Path) -> None:
    assert Reader([folder / "data.mdb"]).keys() == Reader([str(folder)]).keys() == sorted(PATCHES)


def test_opening_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data.mdb").write_bytes((folder / "data.mdb").read_bytes())
    tmp_path.chmod(0o555)
    try:
        reader = Reader([tmp_path])
        assert reader.keys() == sorted(PATCHES)
        assert [file.name for file in tmp_path.iterdir()] == ["data.mdb"]
    finally:
        tmp_path.chmod(0o755)


def test_open_twice_beside_py_lmdb_in_one_process(folder: Path) -> None:
    with lmdb.open(str(folder), readonly=True) as environment:
        first, second = Reader([folder], bands.spellings()), Reader([folder, folder], bands.spellings())
        with environment.begin() as transaction:
            stored = safetensors.numpy.load(bytes(transaction.get(b"s2_4") or b""))
        del second
        np.testing.assert_array_equal(read(first, "s2_4", "B11"), stored["B11"])
        with environment.begin() as transaction:  # py-lmdb's own copy of LMDB still works
            assert transaction.stat()["entries"] == len(PATCHES)


def _read_in_child(table: Table, queue: "multiprocessing.Queue[object]") -> None:
    try:
        arrays = gather(table, [*range(8)] * 40, ["VV"])[0]
        queue.put([*arrays, read(table.reader, "s1_8", "VV")])  # a look-up that this process did not inherit
    except BaseException as error:
        queue.put(error)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_a_child_process(reader: Reader, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    table = table_of(reader, [f"s1_{n}" for n in range(8)], "VV")
    expected = gather(table, [*range(8)] * 40, ["VV"])[0]
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(table, queue))
    child.start()
    found = queue.get(timeout=50)
    child.join(timeout=10)
    assert child.exitcode == 0
    assert isinstance(found, list), found
    for array, want in zip(found, [*expected, PATCHES["s1_8"]["VV"]], strict=True):
        np.testing.assert_array_equal(array, want)
    np.testing.assert_array_equal(read(reader, "s1_2", "VV"), PATCHES["s1_2"]["VV"])  # the parent goes on


def test_pickles_keep_paths_bands_threads_and_samples(reader: Reader) -> None:
    table = Table(reader, "ms+sar", ids("B02", "B12"), ids("VH"))
    table.add(0, np.array([7, 3, 11]), ["s2_5", "absent", "s2_1"], ["s1_5", "s1_5", "s1_0"])
    again = pickle.loads(pickle.dumps(table))
    assert (again.reader.paths, again.reader.threads, len(again.reader)) == (reader.paths, 2, len(reader))
    assert (again.rows.tolist(), again.counts) == ([7, 11], [2])
    assert again.band_bytes("sar") == table.band_bytes("sar")
    arrays, _, _ = gather(again, [1, 0], ["VH", "B12"])
    pairs = [("s1_0", "VH"), ("s2_1", "B12"), ("s1_5", "VH"), ("s2_5", "B12")]
    for array, (key, name) in zip(arrays, pairs, strict=True):
        np.testing.assert_array_equal(array, PATCHES[key][name])
    kept = np.zeros(again.arena_bytes, np.uint8)
    again.load(kept, 0, 2)
    again.keep(kept)
    with pytest.raises(ReaderError, match="in a cache cannot be pickled"):
        pickle.dumps(again)


def test_a_pickle_of_entries_that_went_since_is_refused(tmp_path: Path) -> None:
    write_database(tmp_path, {"a": PATCHES["s1_0"], "b": PATCHES["s1_1"]})
    state = pickle.dumps(table_of(Reader([tmp_path], bands.spellings()), ["a", "b"], "VV"))
    with lmdb.open(str(tmp_path)) as environment, environment.begin(write=True) as transaction:
        transaction.delete(b"b")
    with pytest.raises(ReaderError, match=r"key 'b' of the catalog is not in .*: make the samples anew"):
        pickle.loads(state)


def test_threads_share_one_reader(reader: Reader) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(30):
                chosen = rng.integers(0, 9, 50).tolist()
                table = table_of(reader, [f"s1_{n}" for n in range(9)], "VV")
                for number, array in zip(chosen, gather(table, chosen, ["VV"])[0], strict=True):
                    np.testing.assert_array_equal(array, PATCHES[f"s1_{number}"]["VV"])
                reader.describe("s2_1")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_arguments_of_the_wrong_kind_are_named(reader: Reader) -> None:
    table, positions = table_of(reader, ["s1_0"], "VV"), np.zeros(1, np.int64)
    chosen, out, records = np.array([ids("VV")], np.int32), np.zeros(4096, np.uint8), np.zeros((1, 1, 5), np.int64)
    with pytest.raises(TypeError, match="positions is int32; expected int64"):
        table.gather(positions.astype(np.int32), chosen, out, records)
    with pytest.raises(TypeError, match=r"bands is format 'f'; expected int32"):
        table.gather(positions, chosen.astype(np.float32), out, records)
    with pytest.raises(ValueError, match=r"bands has shape \(2, 1\), positions \(1,\)"):
        table.gather(positions, np.tile(chosen, (2, 1)), out, records)
    with pytest.raises(ValueError, match=r"records has shape \(1, 1, 4\); expected \(1, 1, 5\)"):
        table.gather(positions, chosen, out, records[..., :4].copy())
    with pytest.raises(TypeError, match="out is format 'b'; expected uint8"):
        table.gather(positions, chosen, out.view(np.int8), records)
    with pytest.raises(ValueError, match="out must be contiguous and writable"):
        table.gather(positions, chosen, out[::2], records)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be contiguous and writable"):
        table.gather(positions, chosen, out, records)
    with pytest.raises(TypeError, match="key 1 is a int; expected a string"):
        reader.contains(["s1_0", 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="give a list of them"):
        reader.contains("s1_0")
    with pytest.raises(TypeError, match="paths is one path; give a list"):
        Reader("somewhere")
    with pytest.raises(ValueError, match="paths is empty"):
        Reader([])


def test_the_module_needs_numpy_alone() -> None:
    code = (
        "import sys; import rsdnet._reader; "
        "print([m for m in ('torch', 'lmdb', 'rasterio', 'pyarrow', 'safetensors') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
