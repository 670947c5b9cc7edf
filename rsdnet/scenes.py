"""Synthetic Sentinel-1/2 scenes as GeoTIFFs in SEN12MS's layout: data to try rsdnet on without a download.

    python -m rsdnet.scenes OUT --places 200 --seed 0

The folders and files are described in rsdnet/synthetic/geotiffs.py.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field

from rsdnet import options
from rsdnet.console import progress
from rsdnet.errors import command
from rsdnet.options import Seed, Workers
from rsdnet.synthetic.geotiffs import World, write_scenes


@dataclass(frozen=True)
class Options:
    """Write synthetic Sentinel-1/2 scenes as GeoTIFFs in SEN12MS's layout."""

    out: tyro.conf.Positional[Path]
    """Folder for the ROIs... folders."""
    places: Annotated[int, Field(ge=1, le=10**6)] = 200
    """Number of places; each is one s1, one s2 and one lc file."""
    size: Annotated[int, Field(ge=32, le=4096)] = 256
    """Width and height, px of 10 m."""
    seed: Seed = 0
    """The world: another seed, other places."""
    workers: Workers = 0
    """Processes; 0: one a core."""


def main() -> None:
    """The command."""
    asked = options.parse(Options, prog="python -m rsdnet.scenes")
    with progress("scenes", asked.places, "places") as show:
        written = write_scenes(asked.out, asked.places, World(asked.seed, asked.size), asked.workers, show)
    there = asked.places - written
    print(f"{asked.out}: {asked.places} places of {asked.size} px, {written} written now, {there} were there")


if __name__ == "__main__":
    command(main)
