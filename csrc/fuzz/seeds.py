"""Writes the fuzzers' first inputs: values by safetensors, databases by py-lmdb, and those of other page sizes.

python csrc/fuzz/seeds.py TESTS writes into csrc/fuzz/corpus/; TESTS is the program of the C++ tests
(make -C csrc tests), which writes databases that LMDB cannot: it knows the machine's page size alone.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import lmdb
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

CORPUS = Path(__file__).resolve().parent / "corpus"
KINDS = ["bool", *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64))]
KINDS += ["float16", "float32", "float64", "complex64"]


def images(names: str, side: int, dtype: str) -> dict[str, NDArray]:
    """An image of (side, side) a name."""
    return {name: np.arange(side * side).reshape(side, side).astype(dtype) for name in names.split()}


def headers() -> dict[str, bytes]:
    """Values, good and bad."""
    good = save(images("B02 B03 B08", 2, "uint16") | images("B05 B8A", 1, "uint16"))
    one = b'{"B02":{"dtype":"U8","shape":[%s],"data_offsets":[%s,%s]}}'
    limit = b"18446744073709551615"
    huge = one % (limit, b"0", limit)
    escapes = b'{"\\u0042\\ud83d\\ude00\\n":{"dtype":"I8","data_offsets":[0,1],"shape":[]},"__metadata__":{"a":"\\\\"}}'
    return {
        "ms": good,
        "sar": save(images("VH VV", 2, "float32")),
        "kinds": save({kind: np.zeros((1, 2), kind) for kind in KINDS}),
        "metadata": save(images("B8", 1, "uint8"), metadata={"format": "pt"}),
        "empty": value(b"{}"),
        "empty_tensors": save({"B01": np.zeros((0, 3), np.uint8), "B02": np.zeros((3, 0), np.uint16)}),
        "dimensions": save({"B02": np.zeros((1,) * 32, np.uint8)}),
        "escapes": value(escapes, b"x"),
        "huge": value(huge, b"\xff" * 8),  # as if 2^64 - 1 bytes followed
        "wraps": value(one % (b"4294967296,4294967296", b"0", b"0")),
        "cut": good[:-1],
        "short": b"\x02\0\0\0\0\0\0",
        "length": b"\xff" * 8 + b"{}",
    }


def value(header: bytes, payload: bytes = b"") -> bytes:
    """A database value of this header."""
    return len(header).to_bytes(8, "little") + header + payload


def database(commits: list[dict[str, bytes]]) -> bytes:
    """The data file after these commits, without the pages LMDB allotted in advance."""
    with tempfile.TemporaryDirectory() as folder:
        for entries in commits:
            with lmdb.open(folder, map_size=1 << 22) as environment, environment.begin(write=True) as transaction:
                for key, content in entries.items():
                    transaction.put(key.encode(), content)
        return (Path(folder) / "data.mdb").read_bytes()


def databases() -> dict[str, bytes]:
    """Inline and overflow values, one and two levels, one and two commits, mixed schemas."""
    tiny = save({"B02": np.ones((1, 2), np.uint8)})
    mixed = {
        "s2": save(images("B02 B08", 4, "uint16") | images("B8A", 2, "uint16")),
        "s1": save(images("VV VH", 4, "float32")),
        "kinds": save({kind: np.zeros((2, 2), kind) for kind in KINDS}),
        "bad": b"x" * 40,
        "odd": save({"B03": np.zeros((0, 2), np.uint8), "B04": np.zeros(3, np.uint8)}),
    }
    overflow = {"s2": save(images("B02", 36, "uint16")), "s1": save(images("VV", 24, "float32"))}
    return {
        "lmdb_mixed": database([mixed]),
        "lmdb_overflow": database([overflow]),
        "lmdb_two_levels": database([{f"{n}" + "k" * 400: tiny for n in range(10)}]),
        "lmdb_two_commits": database([{"a": tiny, "b": tiny}, {"b": mixed["s2"], "c": mixed["s1"]}]),
    }


def main(tests: str) -> None:
    """Write both corpora."""
    for target, seeds in (("header", headers()), ("gather", databases())):
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for name, content in seeds.items():
            (CORPUS / target / name).write_bytes(content)
    subprocess.run([tests, "--write", str(CORPUS / "gather")], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
