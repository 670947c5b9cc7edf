"""docs/results.md, made from the rows in benches/results/: `python -m benches.report`, or with `--check` only compared.

The prose stands in benches/results/template.md, so no figure of the page is typed by hand; a test holds it current.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

from benches import ablations
from benches.core.rows import RESULTS, Row, read, split
from benches.gpu import report as gpu
from benches.predict import rows as predicted
from benches.search import ranking
from rsdnet.comparison import texts
from rsdnet.errors import DataError, command
from rsdnet.options import parse

PAGE = RESULTS.parents[1] / "docs" / "results.md"
NO_ROWS = {
    "learning": "No rows yet: `python -m benches.learning` measures them.",
    "ablations": "No rows yet: the command of benches/ablations.toml measures them.",
    "eurosat-search": "No rows yet.",
    "grids": "No rows yet: `python -m benches.learning --grid FILE.toml` measures them.",
    "reader": "No rows yet: `pytest benches/bench_reader.py --rows=benches/results` measures them.",
    "training": "No rows yet: `python -m benches.end_to_end` and `pytest benches/bench_step.py` measure them.",
    "embed": "No rows yet: `python -m benches.embed --rows benches/results` measures them.",
    "kernels": "No rows yet: no kernel has been measured on a GPU. `make bench` on one measures them.",
    "predicted": "No rows yet: `python -m benches.resources --rows benches/results` predicts them.",
}


# ---- ratios: reader, training, kernels ----------------------------------------------------------------------


def comparisons(rows: Sequence[Row]) -> str:
    """A table for each machine and setting: the last row of each comparison, missed targets included."""
    groups: dict[str, dict[tuple[str, ...], Row]] = {}
    for row in rows:
        last = groups.setdefault(f"{settings(row)}; {row['machine']}", {})
        last[row["what"], re.sub(r" [\d.]+$", "", row["contender"]), row["unit"]] = row  # whatever its version
    return "\n\n".join(comparison_table(list(last.values()), title) for title, last in groups.items())


def settings(row: Row) -> str:
    """Conditions that all rows of a table share: workers differ where a step alone and end to end stand together."""
    return ", ".join(f"{name} {value}" for name, value in split(row["setting"]).items() if name != "workers")


def comparison_table(rows: Sequence[Row], title: str) -> str:
    """Rows as Markdown, equal `what` together."""
    known = list(dict.fromkeys(row["what"] for row in rows))
    more = [name for name in ("also", "note") if any(row[name] for row in rows)]
    lines = table_head(["what", "beside", "measured (p20 to p80)", "target", *more])
    last = ""
    for row in sorted(rows, key=lambda row: known.index(row["what"])):
        what = row["what"] if row["what"] != last else ""
        spread = f" ({row['p20']} to {row['p80']})" if row["p20"] else ""
        measured = f"**{row['p50']}**{spread} {row['unit']}" if row["p50"] else "-"
        target = row["target"] + {"yes": ": met", "no": ": missed", "": ""}[row["met"]]
        lines.append(table_line([what, row["contender"], measured, target, *(row[name] for name in more)]))
        last = row["what"]
    workers = sorted({found for row in rows if (found := split(row["setting"]).get("workers", "0")) != "0"})
    told = f"; workers: {', '.join(workers)}" if workers else ""
    made = sorted({f"{row['versions']}, commit {row['commit']}" for row in rows})
    return "\n".join([*lines, "", f"{title}{told}; {'; '.join(made)}."])


def table_head(titles: Sequence[str]) -> list[str]:
    """The first two lines of a Markdown table."""
    return [table_line(titles), "|---" * len(titles) + "|"]


def table_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


# ---- learning -----------------------------------------------------------------------------------------------


def learning(rows: Sequence[Row]) -> str:
    """F1 per band of the last hyper-parameters, a table a data set, length and depth; a line for each other run."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        conditions = split(row["setting"])
        key = tuple(conditions.get(name, "") for name in ("settings", "data", "probe", "steps", "depth"))
        groups.setdefault(key, []).append(row)
    last = split(rows[-1]["setting"])["settings"]
    ordered = sorted(groups.items(), key=lambda group: group[0][0] != last)  # the last hyper-parameters first
    return "\n\n".join(learning_table(group, current=key[0] == last) for key, group in ordered)


def learning_table(rows: Sequence[Row], current: bool) -> str:
    """Rows of one kind: mean and standard deviation over the seeds; means alone if not `current` or of one seed."""
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    first, seeds = split(rows[0]["setting"]), len({split(row["setting"])["seed"] for row in rows})
    made = "; ".join(sorted({f"{row['versions']}, {row['machine']}" for row in rows}))
    kind = f"{int(first['steps']):,} steps on `{first['data']}`, probed on `{first['probe']}`"
    kind += f" by {first['depth']}" if "depth" in first else ""  # earlier rows: by the last stage, the patch unscaled
    if not current or seeds == 1:
        single = dict(seed_scores(rows, contenders))["**mean of the bands**"]
        means = ", ".join(f"{name} {spread(scores)}" for name, scores in zip(contenders, single, strict=True))
        earlier = "" if current else f" with the settings of commit {rows[0]['commit'].rstrip('+')}"
        return f"{kind}{earlier}, {seeds} seed{'s' * (seeds > 1)}: mean F1 {means} ({made})."
    lines = table_head(["band", *contenders])
    lines += [table_line([title, *map(spread, scores)]) for title, scores in seed_scores(rows, contenders)]
    told = f"macro F1 on the test split, mean ± standard deviation over {seeds} seeds ({made})"
    return "\n".join([*lines, "", f"{kind}: {told}."])


def seed_scores(rows: Sequence[Row], contenders: Sequence[str]) -> Iterator[tuple[str, list[list[float]]]]:
    """F1 of each contender, a number a seed: for each band, then for the mean of the single bands."""
    names = list(dict.fromkeys(row["what"] for row in rows))
    seeds = sorted({split(row["setting"])["seed"] for row in rows})
    score = {(row["contender"], split(row["setting"])["seed"], row["what"]): float(row["p50"]) for row in rows}
    single = [name for name in names if "+" not in name]
    for title, bands in [*((name, [name]) for name in names), ("**mean of the bands**", single)]:
        yield title, [[mean(score[who, seed, band] for band in bands) for seed in seeds] for who in contenders]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def ablation(rows: Sequence[Row]) -> str:
    """A table for each metric: a line a recipe and contender, with intervals and the difference to the first recipe."""
    return markdown(ablations.tables(rows))


def searches(rows: Sequence[Row]) -> str:
    """A table for each grid: a line for each of its settings, the best on the validation split first."""
    return markdown(ranking.tables(rows))


def markdown(tables: Iterable[tuple[str, Sequence[str], Iterable[Sequence[str]]]]) -> str:
    """Tables, each of title, head and lines; the title stands below."""
    return "\n\n".join(
        "\n".join([*table_head(head), *map(table_line, lines), "", f"{title}."]) for title, head, lines in tables
    )


# ---- predictions --------------------------------------------------------------------------------------------


def predictions(rows: Sequence[Row]) -> str:
    """A table for each triton."""
    return markdown((f"Predicted: {title}", head, lines) for title, (head, *lines) in predicted.tables(rows))


def beside(measured: Sequence[Row], told: Sequence[Row]) -> str:
    """Each kernel's share of a copy's bandwidth, predicted and measured."""
    lines = list(gpu.beside(measured, told))
    return "\n".join([*table_head(gpu.HEAD), *map(table_line, lines)]) if lines else NO_ROWS["kernels"]


# ---- the page -----------------------------------------------------------------------------------------------


MAKERS = {"learning": learning, "ablations": ablation, "grids": searches, "predicted": predictions}


def page(folder: Path = RESULTS) -> str:
    """The text of docs/results.md."""
    text = (RESULTS / "template.md").read_text()
    found = {name: (predicted.read if name == "predicted" else read)(folder / f"{name}.csv") for name in NO_ROWS}
    for name, rows in found.items():
        make = MAKERS.get(name, comparisons)
        text = text.replace(f"{{{{ {name} }}}}", make(rows) if rows else NO_ROWS[name])
    for path in sorted(folder.glob("*.json")):  # of rsdnet.table
        text = text.replace(f"{{{{ {path.stem} }}}}", texts.markdown(json.loads(path.read_text())).strip())
    return text.replace("{{ beside }}", beside(found["kernels"], found["predicted"]))


@dataclasses.dataclass(frozen=True)
class Options:
    """Write docs/results.md."""

    check: bool = False
    """Write nothing; fail where the page is not that of the rows."""


def main() -> None:
    """The command."""
    options = parse(Options, prog="python -m benches.report", description=__doc__)
    text = page()
    if not options.check:
        PAGE.write_text(text)
    elif not PAGE.is_file() or PAGE.read_text() != text:
        raise DataError(f"{PAGE} is not that of {RESULTS}: run `python -m benches.report`")


if __name__ == "__main__":
    command(main)
