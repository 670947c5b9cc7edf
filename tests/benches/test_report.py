"""No figure in the README is typed by hand."""

import dataclasses
from pathlib import Path
from statistics import mean, stdev

import pytest

from benches import learning, report, rows
from rsdnet import config
from rsdnet.config import Config, OptimConfig
from rsdnet.errors import DataError


def test_the_readmes_tables_are_those_of_the_results() -> None:
    text = report.README.read_text()
    assert "<!-- learning -->" in text
    assert "<!-- kernels -->" in text
    assert report.updated(text) == text


def test_a_table_averages_over_seeds_and_single_bands() -> None:
    shared = {"commit": "c+", "torch": "t", "machine": "m", "data": "d", "probe": "p", "steps": "10", "settings": "b"}
    scores = {
        ("0", "B02"): 0.2,
        ("1", "B02"): 0.4,
        ("0", "VV"): 0.6,
        ("1", "VV"): 0.6,
        ("0", "B02+VV"): 0.9,
        ("1", "B02+VV"): 0.9,
    }
    scored = [
        shared | {"seed": seed, "band": band, "contender": contender, "f1": str(f1)}
        for (seed, band), f1 in scores.items()
        for contender in ("pre-trained", "random", "raw statistics")
    ]
    table = report.learning(scored)
    assert f"| B02 | {mean([0.2, 0.4]):.3f} ± {stdev([0.2, 0.4]):.3f} |" in table
    (line,) = [line for line in table.splitlines() if "mean of the bands" in line]
    assert float(line.split("|")[2].split("±")[0]) == pytest.approx(mean([0.4, 0.5]))
    assert "10 steps on `d`, probed on `p`" in table
    assert "over 2 seeds" in table
    other = [row | {"steps": "20", "f1": "0.9"} for row in scored]
    assert report.learning([*scored, *other]).startswith(table)
    alone = report.learning([row for row in scored if row["seed"] == "0"])
    assert "1 seed: mean F1 pre-trained 0.400" in alone
    earlier = [row | {"settings": "a", "f1": "0.1"} for row in scored]
    both = report.learning([*earlier, *scored])
    assert both.startswith(table)
    assert "10 steps on `d`, probed on `p` with the settings of commit c, 2 seeds: mean F1 pre-trained 0.100" in both


def kernel_row(**values: str) -> dict[str, str]:
    shared = {
        "device": "G1",
        "torch": "t",
        "triton": "3",
        "commit": "c",
        "op": "blur",
        "mode": "forward",
        "shape": "B=2",
    }
    return dict.fromkeys(rows.COLUMNS, "") | shared | {"type": "bf16"} | values


def test_a_kernels_table_keeps_the_last_row_of_each_provider_and_losing_rows() -> None:
    times = {"p20_us": "1.00", "p80_us": "9.00", "gb_s": "50.0", "copy_gb_s": "4000.0", "copy_share": "0.125"}
    times |= {"peak_bytes": str(3 << 20), "launches": "2"}
    measured = [
        kernel_row(provider="reference", p50_us="4.00", speedup="1", **times),
        kernel_row(provider="ours", p50_us="8.00", speedup="0.5", **times),
        kernel_row(provider="ours", p50_us="16.00", speedup="0.25", **times),
        kernel_row(provider="kornia", version="0.9", p50_us="2.00", speedup="2", **times),
    ]
    table = report.kernels(measured)
    assert "| blur, forward, B=2, bf16 | reference | 4.00 (1.00 to 9.00) | 50.0 | 12% | 2 | 3.0 | 1 |" in table
    assert "|  | ours | 16.00 (1.00 to 9.00) | 50.0 | 12% | 2 | 3.0 | 0.25 |" in table
    assert "8.00 (1" not in table
    assert "|  | kornia 0.9 |" in table
    assert "G1, torch t, triton 3, commit c; a copy on the device moves 4000.0 GB/s." in table


def test_a_cpus_rows_tell_ratios_alone() -> None:
    table = report.kernels([kernel_row(device="C1", provider="kornia", speedup="0.3")])
    assert table.startswith("| op | provider | speed, reference 1 |\n")
    assert "| blur, forward, B=2, bf16 | kornia | 0.3 |" in table


def test_without_rows_one_line_says_so() -> None:
    assert report.kernels([]) == report.NO_ROWS
    assert "\n" not in report.NO_ROWS


def test_a_plot_a_gpu_and_none_for_a_cpu(tmp_path) -> None:
    timed = kernel_row(provider="ours", device="GPU 1", p50_us="4.00", copy_share="0.5")
    (path,) = report.plot_kernels([timed, kernel_row(provider="ours", device="CPU", speedup="1")], tmp_path)
    assert path.name == "kernels-gpu-1.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_the_readers_table_keeps_the_last_row_of_each_comparison_and_missed_targets() -> None:
    shared = {"machine": "M", "versions": "v", "commit": "c", "pairs": "20000", "unit": "x samples/s", "note": ""}
    timed = {"p20": "1", "p50": "2", "p80": "3", "target": ">= 3", "met": "no"}
    absent = {"p20": "", "p50": "", "p80": "", "target": "", "met": "", "note": "absent: no module"}
    rows = [
        shared | timed | {"what": "all bands", "contender": "memcpy", "p50": "9", "met": "yes"},
        shared | timed | {"what": "all bands", "contender": "memcpy"},
        shared | absent | {"what": "drawn", "contender": "FFCV"},
        shared | timed | {"what": "all bands", "contender": "python", "target": "", "met": ""},
    ]
    table = report.reader(rows)
    assert "| all bands | memcpy | **2** (1 to 3) x samples/s | >= 3: missed |  |" in table
    assert "|  | python | **2** (1 to 3) x samples/s |  |  |" in table
    assert "| drawn | FFCV | - |  | absent: no module |" in table
    assert "**9**" not in table
    assert table.endswith("20,000 pairs; M, v, commit c.")
    assert report.reader([]) == report.NO_READER_ROWS


def test_a_text_without_the_readers_lines_has_no_reader_table() -> None:
    without = "<!-- learning --><!-- end --><!-- kernels --><!-- end -->"
    begin = report.updated(without)
    made = report.reader(report.rows_of(report.RESULTS / "reader.csv"))
    assert (
        report.updated(f"{without}<!-- reader --><!-- end -->") == f"{begin}<!-- reader -->\n\n{made}\n\n<!-- end -->"
    )
    with pytest.raises(DataError, match="kernels"):
        report.updated("<!-- learning --><!-- end -->")


def test_settings_are_what_a_run_learned_with_but_not_its_length(tmp_path: Path) -> None:
    def named(**optim: float) -> str:
        path = tmp_path / "config.toml"
        path.write_text(config.dumps(dataclasses.replace(Config(), optim=OptimConfig(**optim))))  # type: ignore[arg-type]
        return learning.settings_of(path)

    assert named(steps=10) == named(steps=20) == named()
    assert len({named(), named(lr=0.1), named(batch=64)}) == 3
