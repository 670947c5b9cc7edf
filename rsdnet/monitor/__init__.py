"""The numbers of a run: metrics, health, display, FLOPs, profile."""
