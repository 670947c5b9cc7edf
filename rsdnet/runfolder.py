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
