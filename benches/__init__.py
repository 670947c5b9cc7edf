"""Measurements. Each module is a command; what it measured is appended to a file of benches/results/."""
