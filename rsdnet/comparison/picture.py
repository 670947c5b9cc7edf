"""A comparison as a picture: a dot and its interval for each score, a row a band."""

from pathlib import Path

from rsdnet.comparison import texts
from rsdnet.comparison.gather import Comparison
from rsdnet.comparison.published import line
from rsdnet.files import aside


def draw(comparison: Comparison, path: Path) -> None:
    """Write the picture, a panel for each share of the labels, to `path`, PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tables = comparison["tables"]
    most = max(map(len, tables.values()))
    columns = len(comparison["columns"])
    figure = Figure(
        figsize=(1 + 5 * len(tables), 1.4 + most * (0.14 + 0.1 * columns) + 0.2 * columns / len(tables)),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    for axes, (share, rows) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        for index, head in enumerate(texts.heads(comparison)):
            found = [(place, row["cells"][index]) for place, row in enumerate(rows) if row["cells"][index]]
            places = [place + 0.7 * ((index + 0.5) / columns - 0.5) for place, _ in found]
            scores = [cell["score"] for _, cell in found]
            ends = [[abs(cell["interval"][end] - cell["score"]) for _, cell in found] for end in (0, 1)]
            axes.errorbar(scores, places, xerr=ends, fmt="o", markersize=3.5, linewidth=1, label=plain(head))
        for given in comparison["published"]:
            axes.axvline(given["score"], color="0.4", linestyle="--", linewidth=1, label=plain(line(given)))
        axes.set_yticks(range(len(rows)), [plain(row["row"]) for row in rows])
        axes.invert_yaxis()
        axes.set_title(plain(f"{share} labels"))
        axes.set_xlabel(plain(f"{comparison['metric']} on the test split, {comparison['features']}"))
        axes.grid(axis="x", alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(tables), fontsize="small")
    with aside(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def plain(text: str) -> str:
    """Text in which matplotlib reads no formula."""
    return text.replace("$", r"\$")
