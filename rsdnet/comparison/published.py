"""Figures of the paper (arXiv 2205.02049), for a comparison on the paper's data. Their protocol is unknown."""

from collections.abc import Iterable
from typing import Any

SOURCE = "arXiv 2205.02049"
EUROSAT = (  # Helber et al. 2019, the names of its folders
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop", "Residential",
    "River", "SeaLake",
)  # fmt: skip
DFC2020 = (  # the contest's ten classes without Savanna and Snow/Ice, which DFC2020 has none of
    "Forest", "Shrubland", "Grassland", "Wetlands", "Croplands", "Urban/Built-up", "Barren", "Water",
)  # fmt: skip


def published(metric: str, classes: Iterable[str]) -> list[dict[str, Any]]:
    """The paper's figure for scores by `metric` on data of `classes`, JSON-able; none for other data."""
    named = set(classes)
    if metric == "macro F1" and named == set(EUROSAT):
        return [{"what": "EuroSAT, F1 of certain single bands", "score": 0.92, "source": SOURCE}]
    if metric == "mIoU" and len(named) > 1 and named <= set(DFC2020):
        return [{"what": "DFC2020, mIoU of certain single bands", "score": 0.596, "source": SOURCE}]
    return []


def line(figure: dict[str, Any]) -> str:
    """A figure in words."""
    return f"published, protocol unknown: {figure['what']}: {figure['score']:.3g} ({figure['source']})"
