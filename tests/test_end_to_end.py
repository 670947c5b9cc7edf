"""From GeoTIFFs to a table of F1, by the commands a user types: synthetic scenes and real patches."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ("--size=24", "--encoder=resnet18", "--width=8", "--hidden=32", "--dim=16", "--threads=1", "--device=cpu")
TERRAMESH = "1=water,2=trees,3=flooded vegetation,4=crops,5=built,6=bare,7=snow/ice,9=rangeland"


def command(module: str, *argv: object) -> str:
    words = [sys.executable, "-m", f"rsdnet.{module}", *map(str, argv)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout


def all_the_way(db: Path, run: Path, *options: str, bands: tuple[str, ...]) -> dict[str, dict]:
    """Look at a database, train 50 steps on it, probe it; the rows of the probe. bands: rows to probe."""
    assert "samples" in command("info", db)
    command("preview", db, run.with_suffix(".png"), "--samples=2")
    command("train", "--data", db, "--run", run, "--steps=50", *SMALL, *options)
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 50
    assert min(losses[-10:]) < max(losses[:10])
    command("probe", run, "--data", db, "--bands", *bands)
    return json.loads((run / "probe.json").read_text())["results"]["all"]["stages"]["bands"]


def test_synthetic_scenes_all_the_way(tmp_path: Path) -> None:
    command("scenes", tmp_path / "scenes", "--places=24", "--size=96", "--seed=5")
    argv = ("sen12ms", tmp_path / "scenes", tmp_path / "db", "--patch=48")
    command("ingest", *argv)
    names = ("B02", "B12", "VV", "VH")
    rows = all_the_way(tmp_path / "db", tmp_path / "run", "--batch=16", bands=names)
    assert tuple(rows) == names
    assert command("ingest", *argv)  # done already: says so
    assert "already" in command("probe", tmp_path / "run", "--data", tmp_path / "db", "--bands", *names)
    assert "mean_sar" in command("table", tmp_path / "run")


def test_terramesh_all_the_way(real_data: Path, tmp_path: Path) -> None:
    command(
        "ingest", "pairs", real_data / "terramesh", tmp_path / "db", "--s2=S2L2A", "--s1=S1RTC", "--label=LULC",
        "--s2-bands=L2A", "--s1-bands=VV,VH", "--offset=0", f"--classes={TERRAMESH}", "--patch=56", "--test=0.4",
        "--val=0",
    )  # fmt: skip
    rows = all_the_way(tmp_path / "db", tmp_path / "run", "--batch=16", bands=("B09", "B12", "VV"))
    assert list(rows) == ["B09", "B12", "VV"]


def test_three_channels_of_terramesh(real_data: Path, tmp_path: Path) -> None:
    command(
        "ingest", "pairs", real_data / "terramesh", tmp_path / "db", "--s2=S2L2A", "--s1=S1RTC", "--label=LULC",
        "--s2-bands=L2A", "--s1-bands=VV,VH", "--offset=0", "--patch=56", "--test=0.4", "--val=0",
    )  # fmt: skip
    rows = all_the_way(tmp_path / "db", tmp_path / "run", "--batch=16", "--channels=3", bands=("B04+B03+B02", "VV"))
    assert list(rows) == ["B04+B03+B02", "VV"]


def test_ssl4eo_all_the_way(real_data: Path, tmp_path: Path) -> None:
    """One location without labels: trained on it, probed on the labels of terramesh."""
    command("ingest", "ssl4eo", real_data / "ssl4eo-s12", tmp_path / "db", "--patch=66")
    command(
        "ingest", "pairs", real_data / "terramesh", tmp_path / "labelled", "--s2=S2L2A", "--s1=S1RTC", "--label=LULC",
        "--s2-bands=L2A", "--s1-bands=VV,VH", "--offset=0", "--patch=56", "--test=0.4", "--val=0",
    )  # fmt: skip
    run = tmp_path / "run"
    command("preview", tmp_path / "db", tmp_path / "look.png", "--samples=2")
    command("train", "--data", tmp_path / "db", "--run", run, "--steps=50", "--batch=16", "--pair-seasons", *SMALL)
    command("probe", run, "--data", tmp_path / "labelled", "--bands", "B08", "VV")
    done = subprocess.run([sys.executable, "-m", "rsdnet.probe", str(run)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "labelled" in done.stderr


@pytest.mark.parametrize("argv", [("train", "--data", "{db}"), ("probe", "{db}"), ("info", "{db}")], ids=" ".join)
@pytest.mark.parametrize("damage", ["empty folder", "no LMDB", "empty file", "cut short"])
def test_a_database_that_cannot_be_read(tiny_db: Path, tmp_path: Path, argv: tuple[str, ...], damage: str) -> None:
    db = tmp_path / "db"
    db.mkdir()
    for name in ("catalog.parquet", "stats.json"):
        (db / name).write_bytes((tiny_db / name).read_bytes())
    whole = (tiny_db / "data.mdb").read_bytes()
    content = {"no LMDB": b"hello" * 5000, "empty file": b"", "cut short": whole[: len(whole) // 3]}.get(damage)
    if content is not None:
        (db / "data.mdb").write_bytes(content)
    words = [sys.executable, "-m", f"rsdnet.{argv[0]}", *(word.format(db=db) for word in argv[1:])]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert str(db) in line
    assert "Traceback" not in done.stderr
