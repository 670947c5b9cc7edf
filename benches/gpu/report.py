"""Predictions beside measurements."""

from pathlib import Path


def show(rows: Path) -> None:
    pass
