"""An evaluation as a table on the screen and as a chart."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsdnet.evaluate.outcomes import Row
from rsdnet.files import aside
from rsdnet.probefile import MEANS


def show(result: dict[str, Any], console: Console) -> None:
    """Print the scores and their intervals per band, a table for each share of the labels."""
    for share, by_depth in result["results"].items():
        shown = by_depth[result["features"]]
        labels = list(next(iter(shown["bands"].values())))
        title = f"{kind(result)}, {share} labels, {result['features']}: {result['metric']}, 95 % interval"
        table = Table("band", title=title)
        for label in labels:
            table.add_column(Text(label), justify="right", overflow="fold")
        for name, row in shown["bands"].items():
            best = max(row[label]["score"] for label in labels)
            styles = ["bold" if row[label]["score"] == best else "" for label in labels]
            table.add_row(name, *map(Text, [cell(row[label]) for label in labels], styles))
        table.add_section()
        for depth, found in by_depth.items():
            for mean in means_of(found):
                table.add_row(f"{mean}, {depth}", *[cell(found[mean][label]) for label in labels])
        console.print(table)


def means_of(found: Mapping[str, Any]) -> list[str]:
    """The means of an evaluation at one depth; of one sensor its own alone, which is that of all."""
    own = [mean for mean in MEANS if mean in found]
    return own if len(own) == len(MEANS) else own[:1]


def kind(result: dict[str, Any]) -> str:
    """The evaluation in words."""
    if "finetune" in result:
        return "Fine-tuning"
    return f"Segmentation, {result['head']} head" if "head" in result else "Linear evaluation"


def cell(row: Row) -> str:
    """A score and its interval."""
    low, high = (f"{end:.3f}".removeprefix("0") for end in row["interval"])
    return f"{row['score']:.3f} ({low}-{high})"


def chart(result: dict[str, Any], path: Path) -> None:
    """Draw the scores per band as grouped bars, with intervals; of the first share of the labels."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = next(iter(result["results"].values()))[result["features"]]
    names = list(shown["bands"])
    labels = list(shown["bands"][names[0]])
    figure, axes = plt.subplots(figsize=(max(1.5 + 0.75 * len(names), 7), 3.6), layout="constrained")
    width = 0.8 / len(labels)
    for index, label in enumerate(labels):
        own = [shown["bands"][name][label] for name in names]
        heights = np.array([each["score"] for each in own])
        errors = np.abs(np.array([each["interval"] for each in own]).T - heights)
        offsets = np.arange(len(names)) + (index - (len(labels) - 1) / 2) * width
        mean = f" (mean {shown['mean_all'][label]['score']:.3f})" if "mean_all" in shown else ""
        axes.bar(offsets, heights, width, label=label + mean, yerr=errors, error_kw={"linewidth": 0.6})
    axes.set_xticks(range(len(names)), [name.replace("+", "+\n") for name in names])
    axes.set_ylabel(f"{result['metric']} on the test split")
    axes.set_ylim(0, 1)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper right", ncols=2, fontsize="small")
    with aside(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)
