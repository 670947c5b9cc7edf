"""The reader against databases written by py-lmdb and safetensors, and against the files that rico-hdl read."""

import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
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
from rsdnet._reader import Reader, ReaderError, draw_bands, philox
from tests.support.databases import paired_patches, record_map_size, write_database, write_values

# Codes of a record, in the kernels' order.
DTYPES = (np.uint8, np.int16, np.uint16, np.float16, np.float32)
PATCHES = paired_patches(places=9)


def ids(*names: str) -> NDArray[np.int32]:
    return np.array([bands.band_id(name) for name in names], np.int32)


def gather(
    reader: Reader, entries: NDArray, band_ids: NDArray, room: int = 1 << 20
) -> tuple[list[NDArray], NDArray, int]:
    """Arrays, records and the bytes used; the buffer is poisoned first."""
    out = np.full(room, 0xAB, np.uint8)
    records = np.full((*entries.shape, 5), -7, np.int64)
    used = reader.gather(entries, band_ids, out, records)
    assert (out[used:] == 0xAB).all()
    arrays = []
    for offset, code, height, width, _ in records.reshape(-1, 5):
        dtype = np.dtype(DTYPES[code])
        arrays.append(out[offset : offset + height * width * dtype.itemsize].view(dtype).reshape(height, width))
    return arrays, records, used


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_database(tmp_path_factory.mktemp("databases") / "pairs", PATCHES)


@pytest.fixture
def reader(folder: Path) -> Reader:
    return Reader([folder], bands.spellings(), threads=2)


def test_keys_and_values_are_those_written(reader: Reader) -> None:
    assert reader.keys() == sorted(PATCHES)
    assert len(reader) == len(PATCHES)
    for key, patch in PATCHES.items():
        assert reader.describe(key) == {name: (str(array.dtype), array.shape) for name, array in patch.items()}
        values = reader.read(key)
        assert values.keys() == patch.keys()
        for name, array in patch.items():
            assert values[name].dtype == array.dtype
            np.testing.assert_array_equal(values[name], array)


def test_read_takes_any_spelling_and_keeps_the_name_asked_for(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.uint16).reshape(2, 3)
    write_database(tmp_path, {"eurosat": {"B08A": array}})
    reader = Reader([tmp_path], bands.spellings())
    assert list(reader.read("eurosat", ["B8A"])) == ["B8A"]
    np.testing.assert_array_equal(reader.read("eurosat", ["B8A"])["B8A"], array)
    arrays, _, _ = gather(reader, reader.entries(["eurosat"]), ids("B8A"))
    np.testing.assert_array_equal(arrays[0], array)


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
        value = reader.read(key, [name])[name]
        arrays, records, _ = gather(reader, reader.entries([key]), ids(name))
        for found in (value, arrays[0]):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
        assert records[0, 1:].tolist() == [DTYPES.index(expected.dtype.type), *expected.shape, bands.band_id(name)]


def test_every_value_type_of_safetensors_reads_back(tmp_path: Path) -> None:
    kinds = [f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)]
    kinds += ["bool", "float16", "float32", "float64", "complex64"]
    patch: dict[str, NDArray] = {kind: np.arange(24).reshape(2, 3, 4).astype(kind) for kind in kinds}
    patch |= {"scalar": np.array(7, np.int32), "nothing": np.zeros((0, 5), np.uint8)}
    write_database(tmp_path, {"all": patch})
    values = Reader([tmp_path]).read("all")
    assert values.keys() == patch.keys()
    for name, array in patch.items():
        assert (values[name].dtype, values[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(values[name], array)


def test_gather_refuses_types_and_shapes_that_are_no_image(tmp_path: Path) -> None:
    refused: dict[str, NDArray] = {
        "B02": np.zeros((2, 2), np.int32),
        "B03": np.zeros((2, 2, 2), np.uint16),
        "B04": np.zeros((0, 2), np.uint16),
    }
    write_database(tmp_path, {"odd": refused})
    reader = Reader([tmp_path], bands.spellings())
    entry = reader.entries(["odd"])
    for name, reason in (("B02", "int32; views are made of"), ("B03", "no image"), ("B04", "no image")):
        with pytest.raises(ReaderError, match=f"entry 'odd': band {name} is .*{reason}"):
            gather(reader, entry, ids(name))


def test_bfloat16_is_described_but_not_read(tmp_path: Path) -> None:
    from safetensors.torch import save

    write_values(tmp_path, {"b": save({"x": torch.zeros(2, 2, dtype=torch.bfloat16)})})
    reader = Reader([tmp_path])
    assert reader.describe("b") == {"x": ("bfloat16", (2, 2))}
    with pytest.raises(ReaderError, match="'x' is bfloat16, which numpy does not have"):
        reader.read("b")


@settings(deadline=None, max_examples=60)
@given(data=st.data(), threads=st.sampled_from([1, 2, 5]))
def test_gather_copies_each_pair_in_order(folder: Path, data: st.DataObject, threads: int) -> None:
    reader = Reader([folder], bands.spellings(), threads=threads)
    shape = tuple(data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=3)))
    count = int(np.prod(shape))
    keys = data.draw(st.lists(st.sampled_from(sorted(PATCHES)), min_size=count, max_size=count))
    names = [data.draw(st.sampled_from(sorted(PATCHES[key]))) for key in keys]
    band_ids = ids(*names).reshape(shape).astype(data.draw(st.sampled_from([np.int32, np.int64])))
    arrays, records, used = gather(reader, reader.entries(keys).reshape(shape), band_ids)
    offsets = records.reshape(-1, 5)[:, 0]
    assert (offsets % 16 == 0).all()
    for key, name, array in zip(keys, names, arrays, strict=True):
        expected = PATCHES[key][name]
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)
    np.testing.assert_array_equal(records[..., 4], band_ids)
    expected_used = 0
    for array in arrays:
        expected_used = -(-expected_used // 16) * 16 + array.nbytes
    assert used == expected_used


def test_gather_at_any_type_and_odd_shape(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    names = ("B02", "B03", "B04", "B08", "VV")
    shapes = [(1, 1), (1, 17), (3, 2), (31, 33), (2, 1023)]
    arrays = {
        f"{h}x{w}": {n: rng.integers(0, 200, (h, w)).astype(d) for n, d in zip(names, DTYPES, strict=True)}
        for h, w in shapes
    }
    write_database(tmp_path, arrays)
    reader = Reader([tmp_path], bands.spellings())
    keys = [key for key in arrays for _ in names]
    found, _, _ = gather(reader, reader.entries(keys), np.tile(ids(*names), len(arrays)))
    for array, expected in zip(found, (array for patch in arrays.values() for array in patch.values()), strict=True):
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


def test_gather_into_memory_of_torch(reader: Reader) -> None:
    out = torch.zeros(4096, dtype=torch.uint8)
    records = torch.zeros(1, 5, dtype=torch.int64)
    used = reader.gather(reader.entries(["s1_3"]), ids("VH"), out.numpy(), records.numpy())
    expected = torch.from_numpy(PATCHES["s1_3"]["VH"])
    assert torch.equal(out[:used].view(torch.float32).view(12, 12), expected)


def test_a_buffer_too_small_is_left_alone_and_the_bytes_needed_are_told(reader: Reader) -> None:
    entries, band_ids = reader.entries(["s1_0", "s1_1"]), ids("VV", "VV")
    needed = 2 * 12 * 12 * 4
    out = np.full(needed, 77, np.uint8)
    records = np.zeros((2, 5), np.int64)
    assert reader.gather(entries, band_ids, out[: needed - 1], records) == needed
    assert (out == 77).all()
    assert reader.gather(entries, band_ids, out, records) == needed
    assert not (out == 77).all()


def test_entries_are_registered_once_and_absent_keys_named(reader: Reader) -> None:
    first = reader.entries(["s2_0", "s1_0", "s2_0"])
    assert first[0] == first[2] != first[1]
    np.testing.assert_array_equal(reader.entries(["s1_0", "s2_0"]), first[[1, 0]])
    assert reader.contains(["s2_0", "absent", ""]).tolist() == [True, False, False]
    with pytest.raises(ReaderError, match=r"has no entry 'gone' \(2 of 3 keys are absent\)"):
        reader.entries(["s2_0", "gone", "s2_"])


def test_many_entries_keep_their_handles(tmp_path: Path) -> None:
    keys = [f"{n:05d}" for n in range(5000)]
    value = safetensors.numpy.save({"B02": np.ones((2, 2), np.uint8)})
    write_values(tmp_path, dict.fromkeys(keys, value))
    reader = Reader([tmp_path], bands.spellings())
    assert reader.keys() == keys
    order = np.random.default_rng(0).permutation(5000)
    handles = reader.entries([keys[n] for n in order])
    assert sorted(handles) == list(range(5000))
    np.testing.assert_array_equal(reader.entries(keys)[order], handles)


def test_keys_that_are_no_utf8_survive(tmp_path: Path) -> None:
    key = b"p\xff\xfetch"
    write_values(tmp_path, {key: safetensors.numpy.save({"B02": np.ones((1, 2), np.uint8)})})
    reader = Reader([tmp_path])
    assert reader.keys() == [os.fsdecode(key)]
    assert reader.read(reader.keys()[0])["B02"].tolist() == reader.read(key)["B02"].tolist() == [[1, 1]]


def test_check_names_the_pairs_that_gather_cannot_read(reader: Reader) -> None:
    entries = reader.entries(["s2_0", "s1_0", "s2_1", "s1_1"]).reshape(2, 2)
    found = reader.check(entries, ids("B02", "B02", "VV", "VH").reshape(2, 2))
    assert [position for position, _ in found] == [1, 2]
    assert "entry 's1_0': it has no band B02 (it has VH, VV)" in found[0][1]
    with pytest.raises(ReaderError, match="entry 's1_0': it has no band B02"):
        gather(reader, entries, ids("B02", "B02", "VV", "VH").reshape(2, 2))


def test_the_lowest_error_of_many_threads_is_raised(reader: Reader) -> None:
    entries = np.repeat(reader.entries(["s2_0", "s1_0", "s1_1"]), [700, 1, 700])
    for _ in range(20):
        with pytest.raises(ReaderError, match="'s1_0'"):
            gather(reader, entries, np.full(1401, bands.band_id("B02")))
    arrays, _, _ = gather(reader, entries[:700], np.full(700, bands.band_id("B02")))
    np.testing.assert_array_equal(arrays[699], PATCHES["s2_0"]["B02"])


def test_several_databases_are_one(tmp_path: Path) -> None:
    patches: list[dict[str, dict[str, NDArray]]] = [
        {f"d{n}": {"B02": np.full((2, 2), n, np.uint16)}, "both": {"B02": np.full((1, 3), n, np.uint8)}}
        for n in range(3)
    ]
    folders = [write_database(tmp_path / str(n), part) for n, part in enumerate(patches)]
    reader = Reader(folders, bands.spellings())
    assert len(reader) == 6
    assert reader.paths == [str(folder) for folder in folders]
    assert reader.keys() == ["both", "d0", "both", "d1", "both", "d2"]
    assert reader.keys(database=1) == ["both", "d1"]
    arrays, _, _ = gather(reader, reader.entries(["d2", "d0"]), ids("B02", "B02"))
    assert [array[0, 0] for array in arrays] == [2, 0]
    with pytest.raises(ReaderError, match=r"'both' is also in .*0/data\.mdb; say which"):
        reader.entries(["both"])
    handles = np.concatenate([reader.entries(["both"], database=n) for n in range(3)])
    assert [int(array[0, 0]) for array in gather(reader, handles, ids("B02", "B02", "B02"))[0]] == [0, 1, 2]
    assert reader.contains(["d1"], database=0).tolist() == [False]
    with pytest.raises(IndexError, match="database 3 is out of range; the reader has 3"):
        reader.keys(database=3)


def test_a_map_size_of_100_tib_opens(tmp_path: Path) -> None:
    record_map_size(write_database(tmp_path, {"a": PATCHES["s1_0"]}))
    with lmdb.open(str(tmp_path), readonly=True, map_size=1 << 20, lock=False) as environment:
        assert environment.stat()["entries"] == 1
    assert Reader([tmp_path]).read("a")["VV"].shape == (12, 12)


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
        np.testing.assert_array_equal(first.read("s2_4")["B11"], stored["B11"])
        with environment.begin() as transaction:  # py-lmdb's own copy of LMDB still works
            assert transaction.stat()["entries"] == len(PATCHES)


def _read_in_child(reader: Reader, entries: NDArray, queue: "multiprocessing.Queue[object]") -> None:
    try:
        arrays, _, _ = gather(reader, entries, np.full(entries.shape, bands.band_id("VV"), np.int32))
        later = reader.entries(["s1_8"])  # a look-up that this process did not inherit
        arrays += gather(reader, later, ids("VV"))[0]
        queue.put(arrays)
    except BaseException as error:
        queue.put(error)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_a_child_process(reader: Reader, method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    entries = reader.entries([f"s1_{n}" for n in range(8)] * 40)
    expected = gather(reader, entries, np.full(entries.shape, bands.band_id("VV"), np.int32))[0]
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(reader, entries, queue))
    child.start()
    found = queue.get(timeout=50)
    child.join(timeout=10)
    assert child.exitcode == 0
    assert isinstance(found, list), found
    for array, want in zip(found, [*expected, PATCHES["s1_8"]["VV"]], strict=True):
        np.testing.assert_array_equal(array, want)
    np.testing.assert_array_equal(reader.read("s1_2")["VV"], PATCHES["s1_2"]["VV"])  # the parent goes on


def test_pickle_keeps_paths_bands_threads_and_handles(reader: Reader) -> None:
    entries = reader.entries(["s1_5", "s2_5", "s1_1"])
    copy = pickle.loads(pickle.dumps(reader))
    assert (copy.paths, copy.threads, len(copy)) == (reader.paths, 2, len(reader))
    arrays, _, _ = gather(copy, entries, ids("VH", "B12", "VV"))
    for array, (key, name) in zip(arrays, [("s1_5", "VH"), ("s2_5", "B12"), ("s1_1", "VV")], strict=True):
        np.testing.assert_array_equal(array, PATCHES[key][name])


def test_threads_share_one_reader(reader: Reader) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(60):
                keys = [f"s1_{n}" for n in rng.integers(0, 9, 50)]
                arrays, _, _ = gather(reader, reader.entries(keys), np.full(50, bands.band_id("VV")))
                for key, array in zip(keys, arrays, strict=True):
                    np.testing.assert_array_equal(array, PATCHES[key]["VV"])
                reader.read("s2_1", ["B02"])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_arguments_of_the_wrong_kind_are_named(reader: Reader) -> None:
    entries, band_ids = reader.entries(["s1_0"]), ids("VV")
    out, records = np.zeros(4096, np.uint8), np.zeros((1, 5), np.int64)
    with pytest.raises(TypeError, match="entries is int32; expected int64"):
        reader.gather(entries.astype(np.int32), band_ids, out, records)
    with pytest.raises(TypeError, match=r"bands is format 'f'; expected int64"):
        reader.gather(entries, band_ids.astype(np.float32), out, records)
    with pytest.raises(ValueError, match=r"bands has shape \(1, 1\), entries \(1,\)"):
        reader.gather(entries, band_ids[None], out, records)
    with pytest.raises(ValueError, match=r"records has shape \(1, 4\); expected \(1, 5\)"):
        reader.gather(entries, band_ids, out, records[:, :4].copy())
    with pytest.raises(TypeError, match="out is format 'b'; expected uint8"):
        reader.gather(entries, band_ids, out.view(np.int8), records)
    with pytest.raises(ValueError, match="out must be contiguous and writable"):
        reader.gather(entries, band_ids, out[::2], records)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be contiguous and writable"):
        reader.gather(entries, band_ids, out, records)
    with pytest.raises(TypeError, match="key 1 is a int; expected a string"):
        reader.entries(["s1_0", 3])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="give a list of them"):
        reader.entries("s1_0")
    with pytest.raises(TypeError, match="paths is one path; give a list"):
        Reader("somewhere")
    with pytest.raises(ValueError, match="paths is empty"):
        Reader([])


@pytest.mark.parametrize("handle", [-1, 1, 2**62, -(2**63)])
def test_a_handle_that_was_not_given_is_refused(reader: Reader, handle: int) -> None:
    reader.entries(["s1_0"])
    with pytest.raises(ReaderError, match=rf"entry {handle} is not registered \(1 are\)"):
        gather(reader, np.array([handle]), ids("VV"))


@pytest.mark.parametrize("band", [-1, 15, 2**31, -(2**63)])
def test_a_band_id_out_of_range_is_refused(reader: Reader, band: int) -> None:
    with pytest.raises(ReaderError, match=rf"band id {band} is out of range \(the reader knows 15 bands\)"):
        gather(reader, reader.entries(["s1_0"]), np.array([band]))


def test_the_module_needs_numpy_alone() -> None:
    code = (
        "import sys; import rsdnet._reader; "
        "print([m for m in ('torch', 'lmdb', 'rasterio', 'pyarrow', 'safetensors') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Known answers of philox4x32-10: Random123 1.14, tests/kat_vectors.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> NDArray[np.uint32]:
    return np.array([int(word, 16) for word in text.split()], np.uint32)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter: str, key: str, expected: str) -> None:
    np.testing.assert_array_equal(philox(words(key), np.stack([words(counter)] * 3)), np.stack([words(expected)] * 3))


def python_philox(seed: int, counter: tuple[int, int, int, int]) -> list[int]:
    """Philox4x32-10 written a second time, in Python's integers (Salmon et al. 2011, section 3.3)."""
    c, k = list(counter), [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        low, high = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [high >> 32 ^ c[1] ^ k[0], high & 0xFFFFFFFF, low >> 32 ^ c[3] ^ k[1], low & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def python_bands(
    seed: int, epoch: int, sample: int, view: int, channels: int, pools: list[list[int]], modality: str
) -> list[int]:
    """The band draw as a list that loses what is picked."""
    order = python_philox(seed, (sample, epoch, 0, 0))[0] & 1
    sar = (view + order) & 1 if modality == "ms+sar" else modality == "sar"
    left: list[int] = []
    out = []
    for channel in range(channels):
        left = left or list(pools[sar])
        word = python_philox(seed, (sample, epoch, view, 8 + channel // 4))[channel % 4]
        out.append(left.pop(word * len(left) >> 32))
    return out


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    epoch=st.integers(0, 2**32 - 1),
    samples=st.lists(st.integers(0, 2**32 - 1), max_size=5),
    views=st.integers(1, 4),
    channels=st.integers(1, 13),
    pools=st.tuples(st.lists(st.integers(0, 99), min_size=1, max_size=11, unique=True), st.just([13, 14])),
    modality=st.sampled_from(["ms+sar", "ms", "sar"]),
)
def test_band_draws_equal_a_second_writing(
    seed: int,
    epoch: int,
    samples: list[int],
    views: int,
    channels: int,
    pools: tuple[list[int], list[int]],
    modality: str,
) -> None:
    drawn = draw_bands(seed, epoch, np.array(samples, np.int64), views, channels, *pools, modality)
    assert drawn.dtype == np.int32
    assert drawn.shape == (len(samples), views, channels)
    for row, sample in enumerate(samples):
        for view in range(views):
            expected = python_bands(seed, epoch, sample, view, channels, list(pools), modality)
            assert drawn[row, view].tolist() == expected


def test_bands_are_drawn_evenly_and_sensors_in_both_orders() -> None:
    pool = list(range(10))
    drawn = draw_bands(3, 0, np.arange(20_000), 2, 3, pool, [13, 14], "ms+sar")
    first_is_sar = drawn[:, 0, 0] >= 13
    assert ((drawn[:, 1, 0] >= 13) != first_is_sar).all()
    assert abs(first_is_sar.mean() - 0.5) < 0.02
    ms = np.where(first_is_sar[:, None], drawn[:, 1], drawn[:, 0])
    for channel in range(3):
        counts = np.bincount(ms[:, channel], minlength=10)
        assert np.abs(counts - 2000).max() < 250  # 6 standard deviations
    assert all(len(set(row)) == 3 for row in ms.tolist())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "both"}, "modality is 'both'"),
        ({"epoch": -1}, "epoch is -1"),
        ({"samples": np.array([2**32])}, "a sample is 4294967296"),
        ({"samples": np.zeros((1, 1), np.int64)}, r"samples has shape \(1, 1\)"),
        ({"views": 0}, "views must be"),
        ({"ms_pool": []}, "ms_pool is empty"),
    ],
)
def test_draws_refuse_what_is_out_of_range(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"seed": 0, "epoch": 0, "samples": np.arange(2), "views": 2, "channels": 1}
    arguments |= {"ms_pool": [1], "sar_pool": [2], "modality": "ms+sar"}
    with pytest.raises(ValueError, match=message):
        draw_bands(**(arguments | change))  # type: ignore[arg-type]
