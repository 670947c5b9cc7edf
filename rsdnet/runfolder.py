"""Names of the files in a run's folder."""

from pathlib import Path

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.safetensors"
ENCODER = "encoder.safetensors"
PROBE = "probe.json"
PROFILE = "profile.json"
TRACE = "trace.json"
LOCK = "run.lock"  # held by the process that trains


def probe_path(run: Path, name: str = "") -> Path:
    """The evaluation of a run by one label a patch, or of another `name`, such as segmentation."""
    return run / (f"probe-{name}.json" if name else PROBE)


def evaluations(run: Path) -> dict[str, Path]:
    """The evaluations that a run's folder holds, by name; `probe_path` gives the same path."""
    found = {path.stem.removeprefix("probe").removeprefix("-"): path for path in sorted(run.glob("probe*.json"))}
    return {name: path for name, path in found.items() if path == probe_path(run, name)}
