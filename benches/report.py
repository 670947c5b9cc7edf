"""Tables of the README, made from the rows in benches/results/: `python -m benches.report`.

Between the lines `<!-- learning -->` and `<!-- end -->` of README.md stands what `learning` makes of learning.csv; a
test checks that it does, so no figure there is typed by hand.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from rsdnet.errors import DataError, command

README = Path(__file__).parents[1] / "README.md"
RESULTS = Path(__file__).parent / "results"
BEGIN, END = "<!-- learning -->", "<!-- end -->"
Row = dict[str, str]


def rows_of(path: Path) -> list[Row]:
    """The rows of a CSV. Raises DataError where it is not there."""
    if not path.is_file():
        raise DataError(f"{path} is not there: measure first, with python -m benches.{path.stem}")
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
    """Each setting (training data, probed data, steps): a table of F1 per band; of a single seed the mean alone."""
    settings = dict.fromkeys((row["data"], row["probe"], row["steps"]) for row in rows)
    return "\n\n".join(
        learning_table([row for row in rows if (row["data"], row["probe"], row["steps"]) == setting])
        for setting in settings
    )


def learning_table(rows: Sequence[Row]) -> str:
    """Rows of one setting as Markdown: mean and deviation over its seeds, the mean of the single bands last."""
    contenders = list(dict.fromkeys(row["contender"] for row in rows))
    names = list(dict.fromkeys(row["band"] for row in rows))
    single = [name for name in names if "+" not in name]
    first, seeds = rows[0], len({row["seed"] for row in rows})
    made = "; ".join(sorted({f"torch {row['torch']}, {row['machine']}" for row in rows}))
    setting = f"{int(first['steps']):,} steps on `{first['data']}`, probed on `{first['probe']}`"
    if seeds == 1:
        means = ", ".join(f"{c} {cell(per_seed(rows, c, single))}" for c in contenders)
        return f"{setting}, one seed: mean F1 {means} ({made})."
    lines = ["| band | " + " | ".join(contenders) + " |", "|---" * (1 + len(contenders)) + "|"]
    for title, bands in [*((name, [name]) for name in names), ("**mean of the bands**", single)]:
        lines.append(f"| {title} | " + " | ".join(cell(per_seed(rows, c, bands)) for c in contenders) + " |")
    told = f"macro F1 on the test split, mean ± standard deviation over {seeds} seeds ({made})"
    return "\n".join([*lines, "", f"{setting}: {told}."])


def updated(text: str) -> str:
    """README's text with its tables made anew."""
    table = learning(rows_of(RESULTS / "learning.csv"))
    head, _, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise DataError(f"{README} has no lines {BEGIN} and {END} for the table to stand between")
    return f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}"


def main() -> None:
    """The command."""
    README.write_text(updated(README.read_text()))
    print(f"{README}: tables made from {RESULTS}")


if __name__ == "__main__":
    command(main)
