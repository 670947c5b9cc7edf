"""Comparison of runs by their evaluations: one JSON, and the forms in which it is shown."""
