"""Names of the files in a run's folder."""

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
CHECKPOINT = "checkpoint.safetensors"
ENCODER = "encoder.safetensors"
PROBE = "probe.json"
PROFILE = "profile.json"
TRACE = "trace.json"
LOCK = "run.lock"  # held by the process that trains
