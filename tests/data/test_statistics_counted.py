"""Statistics of a band, whatever its types: equal to numpy's in float64 over all pixels at once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from rsdnet.data.catalog import Catalog, objects
from rsdnet.data.shards import Shard, parts
from rsdnet.data.statistics import (
    HISTOGRAMS,
    PERCENTILES,
    Accumulator,
    Summary,
    read_stats,
    summarise,
    valid,
    write_histograms,
    write_stats,
)
from rsdnet.errors import DataError
from rsdnet.ingest.ingest import ingest
from rsdnet.ingest.layouts.pairs import Pairs
from tests.support import geotiffs

INTEGERS = ("uint16", "int16", "uint8")


def tiles(*dtypes: str) -> st.SearchStrategy[np.ndarray]:
    """Tiles (1, N) of one type each."""

    def of(dtype: str) -> st.SearchStrategy[np.ndarray]:
        if dtype in INTEGERS:
            limits = np.iinfo(dtype)
            values: Any = st.integers(int(limits.min), int(limits.max))
        else:
            width = 16 if dtype == "float16" else 32
            dn = st.floats(2.0**-13, 2.0**13, width=width)
            values = dn | st.floats(-40, 200, width=width) | st.sampled_from([np.nan, np.inf, 0.0, -0.0])
        return st.lists(values, min_size=1, max_size=30).map(lambda v: np.array([v], dtype))

    return st.sampled_from(dtypes).flatmap(of)


def counted(arrays: list[np.ndarray], modality: str) -> Accumulator:
    total = Accumulator()
    for array in arrays:
        total.add(summarise(array, modality))
    return total


def check(told: dict[str, Any], arrays: list[np.ndarray], modality: str) -> None:
    """Compare with numpy over all valid pixels, in float64."""
    pixels = np.concatenate([array[valid(array)].astype(np.float64) for array in arrays])
    assert (told["count"], told["invalid"]) == (pixels.size, sum(array.size for array in arrays) - pixels.size)
    if not pixels.size:
        assert {told["mean"], told["std"], told["min"], told["max"], *told["percentiles"].values()} == {None}
        return
    assert (told["min"], told["max"]) == (pixels.min(), pixels.max())
    size = np.abs(pixels).max()
    assert told["mean"] == pytest.approx(pixels.mean(), rel=1e-12, abs=1e-15 * size)
    assert told["std"] == pytest.approx(pixels.std(), rel=1e-12, abs=1e-13 * size)
    whole = all(array.dtype.kind != "f" for array in arrays)
    for q in PERCENTILES:
        lower, higher = (np.percentile(pixels, q, method=method) for method in ("lower", "higher"))  # type: ignore[call-overload]
        near = max(abs(lower), abs(higher))
        db = modality == "sar" and pixels.min() >= -100 and pixels.max() < 100
        step = 1e-12 * near if whole else 0.005 + 1e-9 if db else 0.002 * near + (0.005 if modality == "sar" else 0)
        assert abs(told["percentiles"][str(q)] - np.percentile(pixels, q)) <= step + 1e-12


@settings(max_examples=60)
@given(st.lists(tiles(*INTEGERS, "float32", "float16"), min_size=1, max_size=6), st.sampled_from(["ms", "sar"]))
@example([np.full((8, 8), 5000, np.uint16), np.full((8, 8), 1000, np.float32)], "ms")
@example([np.array([[-1, -40]], np.int16), np.array([[-2.5, np.nan]], np.float32)], "ms")
def test_statistics_of_mixed_types_equal_numpys(arrays: list[np.ndarray], modality: str) -> None:
    check(counted(arrays, modality).result(), arrays, modality)


@settings(max_examples=60)
@given(st.lists(tiles(*INTEGERS), min_size=1, max_size=6))
def test_statistics_of_integers_do_not_depend_on_the_order(arrays: list[np.ndarray]) -> None:
    assert counted(arrays, "ms").result() == counted(arrays[::-1], "ms").result()


@settings(max_examples=60)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
def test_no_float_falls_out_of_the_bins(values: list[float]) -> None:
    array = np.array([values], np.float32)
    got = counted([array], "ms").result()["percentiles"]
    for q in PERCENTILES:
        want = np.percentile(array.astype(np.float64), q)
        near = max(abs(np.percentile(array.astype(np.float64), q, method=m)) for m in ("lower", "higher"))  # type: ignore[call-overload]
        assert abs(got[str(q)] - want) <= 0.002 * near + 2e-38  # subnormal numbers share bins


@pytest.mark.parametrize(
    "array",
    [
        np.full((4, 4), -12.3456, np.float32), np.full((300, 300), 7, np.uint8), np.full((2, 2), -3000.5, np.float32),
        np.full((2, 2), 1e300), np.full((2, 2), 3_000_000_000, np.uint32), np.array([[-70_000, 80_000]], np.int64),
    ],
)  # fmt: skip
def test_a_constant_band_and_values_beyond_the_usual(array: np.ndarray) -> None:
    got = counted([array], "sar").result()
    assert (got["min"], got["max"], got["mean"]) == (array.min(), array.max(), np.mean(array, dtype=np.float64))
    assert got["count"] == array.size
    if array.min() == array.max():
        assert got["std"] == 0
        assert set(got["percentiles"].values()) == {float(array.flat[0])}


def test_counts_beyond_32_bits() -> None:
    many = Accumulator()
    for value in (10, 20):  # three thousand million pixels each
        for _ in range(3):
            many.add(Summary(1 << 30, {"count": (value + 32768, np.array([10**9], np.uint32))}, None))
    got = many.result()
    assert (got["count"], got["invalid"]) == (6 * 10**9, 6 << 30)
    assert (got["mean"], got["std"], got["percentiles"]["50"]) == (15, 5, 15)


def shards(folder: Path, parts: list[list[np.ndarray]], modality: str, name: str) -> None:
    """A finished ingest of one band in shards."""
    for number, arrays in enumerate(parts):
        shard = folder / Shard(number, len(parts)).name
        shard.mkdir(parents=True)
        key, none = objects([f"{number}"]), objects([None])
        Catalog(key, key, none, none, np.array([-1], np.int32), objects(["train"])).write(shard)
        total = counted(arrays, modality)
        write_stats(shard, {name: total.result()})
        write_histograms(shard / HISTOGRAMS, {name: total})


@settings(max_examples=25)
@given(
    st.lists(st.lists(tiles(*INTEGERS, "float32"), max_size=3), min_size=2, max_size=3),
    st.sampled_from(["ms", "sar"]),
)
@example([[np.full((2, 2), np.nan, np.float32)], [np.array([[150.0, -3.0]], np.float32)]], "sar")
@example([[np.full((2, 2), 1000, np.uint16)], [np.full((2, 2), 3000.5, np.float32)]], "ms")
def test_shards_joined_are_the_whole(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[np.ndarray]], modality: str
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    shards(folder, parts, modality, "B02")
    got, arrays = read_stats(folder)["bands"]["B02"], [array for arrays in parts for array in arrays]
    if not arrays:
        assert got["count"] == 0
        return
    check(got, arrays, modality)
    want = counted(arrays, modality).result()
    assert got["percentiles"] == want["percentiles"]


def test_a_shard_with_histograms_of_an_older_version(tmp_path: Path) -> None:
    shards(tmp_path, [[np.array([[100, 300]], np.uint16)]] * 2, "ms", "B02")
    for shard in tmp_path.iterdir():  # as it was written: logarithmic bins, 2^(1/256) apart from 2^-20 on
        start = (20 + 10) * 256  # 1024
        rest = {"B02/log": {"start": start, "moments": [2, 1025.0, 2.0, 1024.0, 1026.0]}, "B02": 5}
        counts = np.array([2], np.int64)
        save_file({"B02/log": counts}, shard / HISTOGRAMS, metadata={"rsdnet": json.dumps(rest)})
    got = read_stats(tmp_path)["bands"]["B02"]
    assert (got["count"], got["invalid"], got["mean"], got["std"]) == (4, 10, 1025.0, 1.0)
    assert got["percentiles"]["50"] == pytest.approx(1025, rel=0.003)


@pytest.mark.parametrize("key", ["B02/unknown", "B02/count"])
def test_a_histogram_that_no_version_wrote(tmp_path: Path, key: str) -> None:
    shards(tmp_path, [[np.array([[100, 300]], np.uint16)]] * 2, "ms", "B02")
    rest = {key: {"start": 98_304, "moments": None}}
    one = {"rsdnet": json.dumps(rest)}
    save_file({key: np.array([2], np.int64)}, tmp_path / Shard(0, 2).name / HISTOGRAMS, metadata=one)
    with pytest.raises(DataError, match="missing or damaged"):
        read_stats(tmp_path)


@pytest.mark.parametrize("shard", [(), ("0/3", "1/3", "2/3")])
def test_an_ingest_of_mixed_files(tmp_path: Path, shard: tuple[str, ...]) -> None:
    """Half of the files in uint16, half in float32 and a third as bright: neither half alone is the mean."""
    rng = np.random.default_rng(0)
    for number in range(12):
        dn = rng.integers(300, 9000, (2, 12, 12))
        layers = dn.astype(np.uint16) if number % 2 else (dn / 3).astype(np.float32)
        layers[0, 0, :2] = np.nan if layers.dtype == np.float32 else 0
        geotiffs.pair(tmp_path, f"{number:02}", layers)
    options: dict[str, Any] = {"s2": Path("s2"), "s2_bands": "B02,B03", "offset": "0", "val": 0.0, "test": 0.0}
    for part in shard or ("",):
        assert ingest(Pairs(tmp_path, tmp_path / "db", shard=part, **options)) == 0
    table = read_stats(tmp_path / "db")["bands"]
    found = [tensors for folder in parts(tmp_path / "db") for tensors in geotiffs.tensors(folder).values()]
    for name in ("B02", "B03"):
        assert {tensors[name].dtype.name for tensors in found} == {"uint16", "float32"}
        check(table[name], [tensors[name] for tensors in found], "ms")
