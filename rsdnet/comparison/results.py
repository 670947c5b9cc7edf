"""An evaluated run: its result, the bootstrap's replicates, and the settings that it was trained with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from rsdnet import config, probefile, runfolder
from rsdnet.errors import DataError
from rsdnet.evaluate.outcomes import replicates_path
from rsdnet.probefile import AGAIN, Depth, ProbeFile, Score


@dataclass(frozen=True)
class Result:
    """plain: the file's content as it stands. replicates: (R,) by "share/depth/bands/contender". settings: by
    "section.key"."""

    run: Path
    found: ProbeFile
    plain: dict[str, Any]
    replicates: dict[str, np.ndarray]
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.run.resolve().name

    @property
    def seed(self) -> int:
        """Of weights, order and views."""
        return int(self.settings["run.seed"])

    @property
    def draws(self) -> set[int]:
        """Numbers of replicates."""
        return {len(each) for each in self.replicates.values()}

    def depth(self, share: str, depth: str) -> Depth:
        """Scores at `depth` by a share of the labels."""
        return self.found.results[share][depth]

    def score(self, share: str, depth: str, name: str, contender: str) -> Score | None:
        """Of a contender on the bands `name`; None where it was not evaluated on them."""
        return self.depth(share, depth).bands.get(name, {}).get(contender)

    def replicates_of(self, share: str, depth: str, name: str, contender: str) -> np.ndarray:
        """(R,) of that score. Raises DataError where the file lacks them."""
        key = f"{share}/{depth}/{name}/{contender}"
        if key not in self.replicates:
            raise DataError(f"{self.run}: the evaluation holds no replicates of {key}: {AGAIN}")
        return self.replicates[key]


def read(run: Path, name: str = "") -> Result:
    """The evaluation `name` of a run. Raises DataError where the run, or a file of the evaluation, is absent, damaged
    or of another protocol."""
    if not run.is_dir():
        raise DataError(f"{run}: there is no such folder: name the folder of a pre-training run")
    path = runfolder.probe_path(run, name)
    found, plain = probefile.read(path)
    try:
        replicates = load_file(replicates_path(path))
    except (OSError, SafetensorError):
        raise DataError(f"{replicates_path(path)} is absent or damaged: {AGAIN}") from None
    tables = config.to_tables(config.read_run(run / runfolder.CONFIG))
    settings = {f"{section}.{key}": value for section, table in tables.items() for key, value in table.items()}
    return Result(run, found, plain, replicates, settings)
