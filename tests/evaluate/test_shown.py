"""The evaluation's table on a narrow screen: every figure whole, the best in bold, no mean twice."""

import io
from typing import Any

import pytest
from rich.console import Console

from rsdnet.evaluate.shown import show

LABELS = ("pre-trained", "random", "raw statistics", "ImageNet EfficientNet-Lite0")


def row(*scores: float) -> dict[str, Any]:
    return {label: {"score": score, "interval": [0.5, 1.0]} for label, score in zip(LABELS, scores, strict=True)}


@pytest.mark.parametrize(
    ("bands", "means"), [(("B02",), ["mean_ms"]), (("B02", "VV"), ["mean_ms", "mean_sar", "mean_all"])]
)
def test_a_mean_stands_there_once(bands: tuple[str, ...], means: list[str]) -> None:
    held = [mean for mean in ("mean_ms", "mean_sar", "mean_all") if mean in means or mean == "mean_all"]
    depth = {"bands": {name: row(0.7, 0.6, 0.5, 0.8) for name in bands}} | {
        mean: row(0.7, 0.6, 0.5, 0.8) for mean in held
    }
    result = {"metric": "macro F1", "features": "stages", "results": {"all": {"stages": depth}}}
    screen = io.StringIO()
    show(result, Console(file=screen, width=80))
    told = screen.getvalue()
    assert [mean for mean in ("mean_ms", "mean_sar", "mean_all") if mean in told] == means
    assert told.count("0.800") == told.count("0.700") == len(bands) + len(means)
    assert told.count("(.500-1.000)") == len(LABELS) * (len(bands) + len(means))
    assert "…" not in told
