"""Synthetic Sentinel-1/2 scenes as GeoTIFFs in SEN12MS's layout: data to try rsdnet on without a download.

    python -m rsdnet.scenes OUT --places 200 --seed 0

The folders and files are described in rsdnet/synthetic/geotiffs.py.
"""

from pathlib import Path

import tyro

from rsdnet.console import progress
from rsdnet.errors import command
from rsdnet.synthetic.geotiffs import World, write_scenes


def scenes(
    out: tyro.conf.Positional[Path], places: int = 200, size: int = 256, seed: int = 0, workers: int = 0
) -> None:
    """Write synthetic Sentinel-1/2 scenes as GeoTIFFs in SEN12MS's layout.

    Args:
        out: Folder for the ROIs... folders.
        places: Number of places; each is one s1, one s2 and one lc file.
        size: Width and height, px of 10 m.
        seed: The world: another seed, other places.
        workers: Processes; 0 = one a core.
    """
    with progress("scenes", places, "places") as show:
        written = write_scenes(out, places, World(seed, size), workers, show)
    print(f"{out}: {places} places of {size} px, {written} written now, {places - written} were there")


if __name__ == "__main__":
    command(lambda: tyro.cli(scenes, prog="python -m rsdnet.scenes"))
