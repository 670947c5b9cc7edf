"""Turns are fair, quantiles are numpy's, missed targets stay, and docs/results.md is made from the rows."""

import dataclasses
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benches import learning, report
from benches.core import rows
from benches.core.turns import Ratio, against, quantiles, race
from rsdnet import config
from rsdnet.config import Config, OptimConfig
from rsdnet.errors import DataError
from tests.benches.conftest import Kept

# ---- turns ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=30))
def test_quantiles_are_numpys(values: list[float]) -> None:
    assert quantiles(values) == pytest.approx(tuple(np.quantile(values, [0.2, 0.5, 0.8])))


def test_ratios_are_of_one_round_and_the_order_rotates() -> None:
    order: list[tuple[str, int]] = []

    def turn(name: str, seconds: list[float], n: int) -> float:
        order.append((name, n))
        return seconds[n]

    ours, other = [1.0, 2.0, 4.0], [3.0, 6.0, 12.0]
    times = race({"ours": lambda n: turn("ours", ours, n), "other": lambda n: turn("other", other, n)}, 3)
    assert times == {"ours": ours, "other": other}
    assert against(times, "ours", "other") == Ratio(3.0, 3.0, 3.0)
    assert [name for name, _ in order] == ["ours", "other", "other", "ours", "ours", "other"]


def test_a_race_without_time_has_one_round() -> None:
    assert race({"one": lambda n: 1.0}, 9, left=lambda: -1.0) == {"one": [1.0]}


# ---- rows -----------------------------------------------------------------------------------------------------------


def test_rows_are_read_back_and_missed_targets_stay(tmp_path: Path) -> None:
    shown: list[tuple[str, str, str]] = []
    kept = rows.Results("reader", tmp_path / "new", lambda *told: shown.append(told))
    setting = {"shape": "ResNet-18, 64 px", "pairs": 24}
    kept.tell(setting, "drawn", "memcpy", Ratio(1.5, 1.79, 1.9), "x", target=">= 1.8", also={"us": 3})
    kept.tell(setting, "drawn", "python", Ratio(0.8, 1.3, 1.9), "x", target="<= 1.3")
    kept.tell(setting, "drawn", "FFCV", None, target=">= 3", note="absent: no package")
    kept.tell(setting, "malloc", "none", 0.0, "calls")
    found = rows.read(tmp_path / "new" / "reader.csv")
    assert found == kept.rows
    assert [row["met"] for row in found] == ["no", "yes", "", ""]
    assert [row["p50"] for row in found] == ["1.79", "1.3", "", "0"]
    assert rows.split(found[0]["setting"]) == {"shape": "ResNet-18, 64 px", "pairs": "24"}
    assert all(row["commit"] and "torch" in row["versions"] and row["machine"] for row in found)
    assert "MISSED" in shown[0][2]
    assert shown[2][2] == "absent: no package"


def test_another_schema_is_not_appended_to(tmp_path: Path, kept: Kept) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("date,what\n2026-01-01,old\n")
    with pytest.raises(DataError, match="columns date, what"):
        rows.append(path, kept.tell({}, "what", "who", 1.0))
    assert path.read_text() == "date,what\n2026-01-01,old\n"


# ---- the page -------------------------------------------------------------------------------------------------------


def test_the_page_is_that_of_the_rows() -> None:
    assert report.PAGE.read_text() == report.page()


def test_a_page_without_rows_says_so(tmp_path: Path) -> None:
    text = report.page(tmp_path)
    assert all(nothing in text for nothing in report.NO_ROWS.values())


def test_a_table_has_the_last_row_of_each_comparison_and_missed_targets(kept: Kept) -> None:
    for ours in (9.0, 2.0):
        kept.tell({"pairs": 20}, "all bands", "peer 0.7.1", Ratio(1, ours, 3), "x samples/s", target=">= 3")
        kept.tell({"pairs": 99}, "all bands", "peer 0.7.2", ours)
    kept.tell({"pairs": 20}, "drawn", "FFCV", None, note="absent: no module")
    kept.tell({"pairs": 20}, "all bands", "python", 5.0, "x")
    table, other = report.comparisons(kept.rows).split("\n\n| what")
    assert "| all bands | peer 0.7.1 | **2** (1 to 3) x samples/s | >= 3: missed |  |\n|  | python |" in table
    assert "| drawn | FFCV | - |  | absent: no module |" in table
    assert "**9**" not in table + other
    assert "pairs 99" in other


def test_f1_is_averaged_over_seeds_and_single_bands(kept: Kept) -> None:
    scores = {(0, "B02"): 0.2, (1, "B02"): 0.4, (0, "VV"): 0.6, (1, "VV"): 0.6, (0, "B02+VV"): 0.9, (1, "B02+VV"): 0.9}

    def add(settings: str, data: str, seeds: tuple[int, ...] = (0, 1), *, share: float = 1, **also: str) -> None:
        for (seed, band), f1 in scores.items():
            setting = {"settings": settings, "data": data, "probe": data, "steps": 10, "seed": seed, **also}
            if seed in seeds:
                kept.tell(setting, band, "pre-trained", share * f1, "macro F1", digits=4)

    add("a", "old")
    add("b", "one", seeds=(0,))
    add("b", "d")
    add("b", "d", share=0.5, depth="last")
    text = report.learning(kept.rows)
    assert f"| B02 | {mean([0.2, 0.4]):.3f} ± {stdev([0.2, 0.4]):.3f} |" in text
    assert f"| **mean of the bands** | {mean([0.4, 0.5]):.3f} ± {stdev([0.4, 0.5]):.3f} |" in text
    assert "10 steps on `one`, probed on `one`, 1 seed: mean F1 pre-trained 0.400" in text
    assert "10 steps on `d`, probed on `d` by last: macro F1" in text
    assert f"| B02 | {mean([0.1, 0.2]):.3f} ± {stdev([0.1, 0.2]):.3f} |" in text
    assert text.index("on `d`") < text.index("on `old`, probed on `old` with the settings of commit")


def test_settings_name_the_hyper_parameters_but_not_the_length(tmp_path: Path) -> None:
    def named(**optim: float) -> str:
        path = tmp_path / "config.toml"
        path.write_text(config.dumps(dataclasses.replace(Config(), optim=OptimConfig(**optim))))  # type: ignore[arg-type]
        return learning.settings_of(path)

    assert named(steps=10) == named(steps=20) == named()
    assert len({named(), named(lr=0.1), named(batch=64)}) == 3
