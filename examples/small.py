"""Small synthetic data and a small encoder for the other examples, made by the commands that a user types.

A minute on two CPU cores the first time; then they are there: `python examples/small.py`.
"""

import shlex
import subprocess
import sys
from pathlib import Path

FOLDER = Path("data/examples")
DATABASE, RUN, SCENE = FOLDER / "db", FOLDER / "run", FOLDER / "scene"
CATALOG, ENCODER = DATABASE / "catalog.parquet", RUN / "encoder.safetensors"

COMMANDS = {
    CATALOG: [
        f"rsdnet.scenes {FOLDER / 'scenes'} --places 56",
        f"rsdnet.ingest sen12ms {FOLDER / 'scenes'} {DATABASE} --patch 64 --stride 64",
    ],
    # Settings of the demo, on fewer samples and for fewer steps: an encoder that has begun to learn.
    ENCODER: [
        f"rsdnet.train --data {DATABASE} --run {RUN} --resume --split all --encoder resnet18 --width 16 --hidden 256 "
        "--size 32 --crop-scale 0.3 1 --no-antialias --ms-gain 0.9 1.1 --ms-offset -0.01 0.01 --sar-offset -0.7 0.7 "
        "--batch 64 --steps 120"
    ],
}


def run(command: str) -> None:
    """Show a command of rsdnet and run it."""
    print(f"python -m {command}", flush=True)
    subprocess.run([sys.executable, "-m", *shlex.split(command)], check=True)


def made(target: Path) -> Path:
    """`target`, a key of COMMANDS, made where it is not there yet."""
    if not target.exists():
        for command in COMMANDS[target]:
            run(command)
    return target


def database() -> Path:
    """A database of labelled patches of Sentinel-1 and -2, 64 pixels of 10 m a side."""
    return made(CATALOG).parent


def encoder() -> Path:
    """An encoder pre-trained on single bands of `database`."""
    database()
    return made(ENCODER)


def scene() -> dict[str, Path]:
    """A scene that is in no database: its files by sensor, "s1", "s2" and "lc", the land cover."""
    run(f"rsdnet.scenes {SCENE} --places 1 --size 384 --seed 1")
    return {sensor: next(SCENE.glob(f"*/{sensor}_*/*.tif")) for sensor in ("s1", "s2", "lc")}


if __name__ == "__main__":
    print(encoder(), *scene().values())
