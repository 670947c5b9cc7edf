"""Options of `python -m benches.learning`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from pydantic import Field

from benches.core.rows import RESULTS
from rsdnet.errors import DataError
from rsdnet.options import Count, Seed, Workers
from rsdnet.synthetic import demo


@dataclasses.dataclass(frozen=True)
class Options:
    """Train and probe the demo, recipes or the settings of a grid, over several seeds."""

    recipe: tuple[str, ...] = ()
    """Recipes to compare: names of recipes/NAME.toml, several joined by + as one; none: the demo alone."""
    grid: Path | None = None
    """File of settings to compare, ranked by their scores on the validation split (docs/evaluation.md)."""
    base: tuple[Path, ...] = ()
    """Settings that all runs share, over those of the recipe: size and length; none: rsdnet/demo.toml. A grid names
    its own."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds of weights, order and views."""
    worlds: tuple[Seed, ...] = ()
    """Worlds of the embedded synthetic data to compare on, made where they are not there; none: --data."""
    places: Annotated[int, Field(ge=1, le=10**6)] = demo.PLACES
    """Places of a world, of 16 patches each."""
    segmentation: bool = False
    """Compare recipes by segmentation, too."""
    bands: tuple[str, ...] = ()
    """Rows of the evaluations, as of rsdnet.probe; none: all."""
    pixels: Count = 0
    """Pixels of segmentation's training, as of rsdnet.probe; 0: its default."""
    steps: Count = 0
    """Length of a run; 0: that of --base."""
    data: Path | None = None
    """Labelled database to train on; None: the embedded synthetic data."""
    split: str = "train"
    """Split of it to train on; "all" where another database is probed."""
    probe: Path | None = None
    """Labelled database to probe on; None: the one trained on."""
    runs: Path = Path("runs/learning")
    """Folder for the runs."""
    threads: Workers = 0
    """CPU threads of a run; 0: torch's choice."""
    jobs: Workers = 0
    """Runs at a time on this machine; 0: its cores by --threads, or one where --threads is 0 or there is a GPU."""
    share: Annotated[str, Field(pattern=r"^[1-9]\d{0,3}/[1-9]\d{0,3}$")] = "1/1"
    """I/N: the I-th of N equal parts of the runs, I from 1 to N, N to 9999, for N calls on several machines. A later
    call without it makes the rest and shows the table."""
    rows: Path = RESULTS
    """Folder of the results, to which rows are appended."""

    @property
    def part(self) -> tuple[int, int]:
        """I and N of --share. Raises DataError where I is beyond N."""
        part, parts = map(int, self.share.split("/"))
        if part > parts:
            raise DataError(f"--share {self.share}: the first number is 1 to {parts}")
        return part, parts

    @property
    def tasks(self) -> tuple[str, ...]:
        """Evaluations of a run, by name of `rsdnet.runfolder.probe_path`."""
        return ("", "segmentation") if self.segmentation else ("",)

    def require_fitting(self) -> None:
        """Raise DataError on options that do not go together."""
        if self.worlds and self.data:
            raise DataError("--worlds are embedded data: leave out --data, or --worlds")
        if self.grid and (self.recipe or self.base or self.steps or self.segmentation):
            raise DataError(
                "--recipe, --base, --steps and --segmentation do not go with --grid: its file names base and settings"
            )
        if (self.worlds or self.segmentation) and not (self.recipe or self.grid):
            raise DataError("--worlds and --segmentation compare recipes: name them with --recipe")
