"""Tables and plots of the README, made from the rows in benches/results/: `python -m benches.report`.

Between the lines `<!-- learning -->` and `<!-- end -->` of README.md stands what `learning` makes of learning.csv, and
below `<!-- kernels -->`, `<!-- reader -->` and `<!-- training -->` what those make of kernels.csv, reader.csv and
training.csv; a test checks that it does, so no figure there is typed by hand.
"""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from rsdnet.errors import DataError, command

README = Path(__file__).parents[1] / "README.md"
RESULTS = Path(__file__).parent / "results"
PLOTS = README.parent / "docs"
NO_ROWS = "No rows yet: no kernel has been measured on a GPU (`make bench` on one, then `python -m benches.report`)."
NO_READER_ROWS = "No rows yet: `pytest benches/bench_reader.py --rows=benches/results` measures them."
NO_TRAINING_ROWS = "No rows yet: `python -m benches.end_to_end` and `pytest benches/bench_step.py` measure them."
Row = dict[str, str]


def rows_of(path: Path) -> list[Row]:
    """The rows of a CSV; none where it is not there."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def cell(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def per_seed(rows: Sequence[Row], contender: str, bands: Sequence[str]) -> list[float]:
    """F1 of a contender averaged over `bands`, a number a seed."""
    chosen = [row for row in rows if row["contender"] == contender and row["band"] in bands]
    seeds = sorted({row["seed"] for row in chosen})
    return [mean(float(row["f1"]) for row in chosen if row["seed"] == seed) for seed in seeds]


def learning(rows: Sequence[Row]) -> str:
    """The last settings: a table of F1 per band for each training data, probed data and length. A line for the rest."""
    if not rows:
        return "No rows yet: `python -m benches.learning` measures them."
    keys = "settings", "data", "probe", "steps"
    kinds = dict.fromkeys(tuple(row[key] for key in keys) for row in rows)
    groups = [[row for row in rows if tuple(row[key] for key in keys) == kind] for kind in kinds]
    groups.sort(key=lambda group: group[0]["settings"] != rows[-1]["settings"])  # the last settings first
    return "\n\n".join(learning_table(group, group[0]["settings"] == rows[-1]["settings"]) for group in groups)


def learning_table(rows: Sequence[Row], whole: bool) -> str:
    """Rows of one kind as Markdown: mean and deviation over the seeds; the means alone unless `whole` and several."""
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    names = list(dict.fromkeys(row["band"] for row in rows))
    single = [name for name in names if "+" not in name]
    first, seeds = rows[0], len({row["seed"] for row in rows})
    made = "; ".join(sorted({f"torch {row['torch']}, {row['machine']}" for row in rows}))
    kind = f"{int(first['steps']):,} steps on `{first['data']}`, probed on `{first['probe']}`"
    if not whole or seeds == 1:
        means = ", ".join(f"{c} {cell(per_seed(rows, c, single))}" for c in contenders)
        earlier = "" if whole else f" with the settings of commit {first['commit'].rstrip('+')}"
        return f"{kind}{earlier}, {seeds} seed{'s' * (seeds > 1)}: mean F1 {means} ({made})."
    lines = ["| band | " + " | ".join(contenders) + " |", "|---" * (1 + len(contenders)) + "|"]
    for title, bands in [*((name, [name]) for name in names), ("**mean of the bands**", single)]:
        lines.append(f"| {title} | " + " | ".join(cell(per_seed(rows, c, bands)) for c in contenders) + " |")
    told = f"macro F1 on the test split, mean ± standard deviation over {seeds} seeds ({made})"
    return "\n".join([*lines, "", f"{kind}: {told}."])


def last_rows(rows: Sequence[Row]) -> dict[str, dict[tuple[str, ...], list[Row]]]:
    """The last row of each provider, by device and by contest (op, mode, shape, type)."""
    found: dict[str, dict[tuple[str, ...], dict[str, Row]]] = {}
    for row in rows:
        contest = (row["op"], row["mode"], row["shape"], row["type"])
        found.setdefault(row["device"], {}).setdefault(contest, {})[row["provider"]] = row
    return {
        device: {contest: list(providers.values()) for contest, providers in contests.items()}
        for device, contests in found.items()
    }


def kernels(rows: Sequence[Row]) -> str:
    """A table a device, a row a provider; one line where there are no rows."""
    return "\n\n".join(kernel_table(contests) for contests in last_rows(rows).values()) or NO_ROWS


def kernel_table(contests: dict[tuple[str, ...], list[Row]]) -> str:
    """One device's rows as Markdown: time and bytes where they were measured, and the speed beside the reference's."""
    rows = [row for group in contests.values() for row in group]
    timed = any(row["p50_us"] for row in rows)
    titles = ["op", "provider", *(("µs (p20 to p80)", "GB/s", "of the copy", "launches", "peak MiB") if timed else ())]
    lines = ["| " + " | ".join([*titles, "speed, reference 1"]) + " |", "|---" * (len(titles) + 1) + "|"]
    for contest, group in contests.items():
        for row in group:
            cells = [", ".join(contest) if row is group[0] else "", f"{row['provider']} {row['version']}".strip()]
            cells += measured(row) if timed else []
            lines.append("| " + " | ".join([*cells, row["speedup"] or "-"]) + " |")
    shared = {f"{row['device']}, torch {row['torch']}, triton {row['triton']}, commit {row['commit']}" for row in rows}
    copies = sorted({row["copy_gb_s"] for row in rows if row["copy_gb_s"]})
    told = f"; a copy on the device moves {' to '.join(copies)} GB/s" if copies else ""
    return "\n".join([*lines, "", f"{'; '.join(sorted(shared))}{told}."])


def measured(row: Row) -> list[str]:
    """What only a GPU's row has."""
    if not row["p50_us"]:
        return ["-"] * 5
    share = f"{float(row['copy_share']):.0%}"
    peak = f"{int(row['peak_bytes']) / 2**20:.1f}" if row["peak_bytes"] else "-"
    return [f"{row['p50_us']} ({row['p20_us']} to {row['p80_us']})", row["gb_s"], share, row["launches"] or "-", peak]


def plot_kernels(rows: Sequence[Row], folder: Path) -> list[Path]:
    """A chart a GPU: the share of the copy bandwidth that each provider reaches. Returns the files written."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    for device, contests in last_rows([row for row in rows if row["p50_us"]]).items():
        figure, axes = pyplot.subplots(len(contests), figsize=(8, 1.6 * len(contests)), squeeze=False, sharex=True)
        for axis, (contest, group) in zip(axes[:, 0], contests.items(), strict=True):
            shares = [float(row["copy_share"]) for row in reversed(group)]
            bars = axis.barh([row["provider"] for row in reversed(group)], shares)
            axis.bar_label(bars, [f"{row['p50_us']} µs" for row in reversed(group)], padding=3, fontsize=7)
            axis.set_title(", ".join(contest), fontsize=8, loc="left")
            axis.tick_params(labelsize=7)
        axes[-1, 0].set_xlabel(f"share of the copy bandwidth, {device}")
        axes[-1, 0].set_xlim(0, 1.15)
        figure.tight_layout()
        name = "".join(letter if letter.isalnum() else "-" for letter in device.lower())
        written.append(folder / f"kernels-{name}.png")
        figure.savefig(written[-1], dpi=120)
        pyplot.close(figure)
    return written


def reader(rows: Sequence[Row]) -> str:
    """A table a machine and size of database: the last row of each comparison, those that miss their target too."""
    found: dict[tuple[str, str], dict[tuple[str, str], Row]] = {}
    for row in rows:
        found.setdefault((row["machine"], row["pairs"]), {})[row["what"], row["contender"]] = row
    return "\n\n".join(reader_table(list(group.values())) for group in found.values()) or NO_READER_ROWS


def reader_table(rows: Sequence[Row]) -> str:
    """One machine's rows as Markdown."""
    lines = ["| what | beside | ratio (p20 to p80) | target | note |", "|---|---|---|---|---|"]
    last = ""
    for row in sorted(rows, key=lambda row: [r["what"] for r in rows].index(row["what"])):  # same `what` together
        what = "" if row["what"] == last else row["what"]
        lines.append("| " + " | ".join([what, row["contender"], *outcome(row), row["note"]]) + " |")
        last = row["what"]
    shared = sorted({f"{row['machine']}, {row['versions']}, commit {row['commit']}" for row in rows})
    return "\n".join([*lines, "", f"{int(rows[0]['pairs']):,} pairs; {'; '.join(shared)}."])


def outcome(row: Row) -> tuple[str, str]:
    """Cells of a comparison: its ratio with unit, or -, and its target with what became of it."""
    ratio = f"**{row['p50']}** ({row['p20']} to {row['p80']}) {row['unit']}" if row["p50"] else "-"
    return ratio, f"{row['target']}: {'met' if row['met'] == 'yes' else 'missed'}" if row["met"] else row["target"]


def training(rows: Sequence[Row]) -> str:
    """A table a device, network and precision: the last row of each comparison, those that miss their target too."""
    found: dict[tuple[str, ...], dict[tuple[str, str], Row]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("device", "shape", "batch", "precision"))
        found.setdefault(key, {})[row["what"], re.sub(r" [\d.]+$", "", row["beside"])] = row
    return "\n\n".join(training_table(list(group.values())) for group in found.values()) or NO_TRAINING_ROWS


def training_table(rows: Sequence[Row]) -> str:
    """One setting's rows as Markdown, with samples a second where they were measured on a GPU."""
    timed = any(row["samples_per_s"] for row in rows)
    titles = ["what", "beside", "ratio (p20 to p80)", "target", *(["samples/s, of both"] if timed else []), "note"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in sorted(rows, key=lambda row: [r["what"] for r in rows].index(row["what"])):  # same `what` together
        speeds = f"{row['samples_per_s']}, {row['beside_samples_per_s']}" if row["samples_per_s"] else "-"
        cells = [row["what"], row["beside"], *outcome(row), *([speeds] if timed else []), row["note"]]
        lines.append("| " + " | ".join(cells) + " |")
    first = rows[0]
    workers = sorted({int(row["workers"]) for row in rows if int(row["workers"])})
    told = f", workers: {' and '.join(map(str, workers))}" if workers else ""
    shared = sorted({f"{row['device']}, {row['versions']}, commit {row['commit']}" for row in rows})
    return "\n".join(
        [*lines, "", f"{first['shape']}, batch {first['batch']}, {first['precision']}{told}; {'; '.join(shared)}."]
    )


SECTIONS = {"learning": learning, "kernels": kernels, "reader": reader, "training": training}
OPTIONAL = ("reader", "training")  # left out of a text without their lines


def updated(text: str) -> str:
    """README's text with its tables made anew. Raises DataError where the lines for one are not there."""
    for name, make in SECTIONS.items():
        head, begin, rest = text.partition(f"<!-- {name} -->")
        _, end, tail = rest.partition("<!-- end -->")
        if not begin and name in OPTIONAL:
            continue
        if not end:
            raise DataError(f"{README} has no lines <!-- {name} --> and <!-- end --> for the table to stand between")
        text = f"{head}{begin}\n\n{make(rows_of(RESULTS / f'{name}.csv'))}\n\n{end}{tail}"
    return text


def main() -> None:
    """The command."""
    README.write_text(updated(README.read_text()))
    print(f"{README}: tables made from {RESULTS}")
    rows = rows_of(RESULTS / "kernels.csv")
    for path in plot_kernels(rows, PLOTS):
        print(f"{path}: plotted")
    if not rows:
        print(NO_ROWS)


if __name__ == "__main__":
    command(main)
