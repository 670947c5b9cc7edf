"""The embedded data: synthetic scenes written as GeoTIFFs in SEN12MS's layout, and ingested as real ones would be."""

import subprocess
import sys
from pathlib import Path

from rsdnet.errors import DataError

FOLDER = Path("data/demo")
PLACES, SIZE, PATCH, SEED = 300, 256, 64, 0


def prepare(seed: int = SEED, places: int = PLACES) -> Path:
    """The demo database of `places` places of the world `seed`, made where it is not there (a minute or two).

    Raises DataError if it cannot be made.
    """
    folder = FOLDER if (seed, places) == (SEED, PLACES) else FOLDER.with_name(f"{FOLDER.name}-{seed}-{places}")
    scenes, database = folder / "scenes", folder / "db"
    if not (database / "catalog.parquet").is_file():
        _call("rsdnet.scenes", str(scenes), f"--places={places}", f"--size={SIZE}", f"--seed={seed}")
        _call("rsdnet.ingest", "sen12ms", str(scenes), str(database), f"--patch={PATCH}", f"--stride={PATCH}")
    return database


def _call(module: str, *arguments: str) -> None:
    """Run a command of rsdnet as a user would; it shows its own progress and its own error line."""
    if subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode:
        raise DataError(f"the embedded data could not be made: `python -m {module} {' '.join(arguments)}` failed")
