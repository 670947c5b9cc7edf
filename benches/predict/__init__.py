"""Predictions from compiled code, for GPUs that need not be there; the command is `benches.resources`."""
