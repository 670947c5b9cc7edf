"""No figure in the README is typed by hand."""

from statistics import mean, stdev

import pytest

from benches import report


def test_the_readmes_tables_are_those_of_the_results() -> None:
    text = report.README.read_text()
    assert "<!-- learning -->" in text
    assert report.updated(text) == text


def test_a_table_averages_over_seeds_and_single_bands() -> None:
    shared = {"commit": "c", "torch": "t", "machine": "m", "data": "d", "probe": "p", "steps": "10"}
    scores = {
        ("0", "B02"): 0.2,
        ("1", "B02"): 0.4,
        ("0", "VV"): 0.6,
        ("1", "VV"): 0.6,
        ("0", "B02+VV"): 0.9,
        ("1", "B02+VV"): 0.9,
    }
    rows = [
        shared | {"seed": seed, "band": band, "contender": contender, "f1": str(f1)}
        for (seed, band), f1 in scores.items()
        for contender in ("pre-trained", "random", "raw statistics")
    ]
    table = report.learning(rows)
    assert f"| B02 | {mean([0.2, 0.4]):.3f} ± {stdev([0.2, 0.4]):.3f} |" in table
    (line,) = [line for line in table.splitlines() if "mean of the bands" in line]
    assert float(line.split("|")[2].split("±")[0]) == pytest.approx(mean([0.4, 0.5]))
    assert "10 steps on `d`, probed on `p`" in table
    assert "over 2 seeds" in table
    other = [row | {"steps": "20", "f1": "0.9"} for row in rows]
    assert report.learning([*rows, *other]).startswith(table)
    alone = report.learning([row for row in rows if row["seed"] == "0"])
    assert "one seed: mean F1 pre-trained 0.400" in alone
