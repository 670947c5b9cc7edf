"""Measurements. Each module is a command, or (`bench_*.py`) a benchmark of pytest; results lie in benches/results/."""

from importlib.util import find_spec
from pathlib import Path

import rsdnet

# In a clone that nobody installed, kernels/ lies beside rsdnet/: a GPU machine needs no build to measure it.
if find_spec("rsdnet.kernels") is None:
    rsdnet.__path__.append(str(Path(__file__).parents[1]))
