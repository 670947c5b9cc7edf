"""The model card of an exported encoder: Markdown with the front matter that the Hugging Face hub reads.

https://github.com/huggingface/hub-docs/blob/main/modelcard.md. All of it comes from the encoder's file and, where they
are there, from its run's metrics and evaluations; no path of this machine stands in it.
"""

import dataclasses
import math
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
import torch
from jinja2 import Environment, StrictUndefined

from rsdnet import __version__, config, probefile, runfolder
from rsdnet.bands import BANDS
from rsdnet.comparison.gather import gather
from rsdnet.comparison.texts import markdown
from rsdnet.errors import DataError
from rsdnet.evaluate.weights import digest
from rsdnet.export.plan import Plan
from rsdnet.export.targets.base import UNITS, Target, weights
from rsdnet.provenance import commit
from rsdnet.report import record
from rsdnet.report.metrics import figure
from rsdnet.report.summary import facts

TEMPLATE = Path(__file__).with_name("card.md")
POINTS = 8  # of the loss's curve
# https://huggingface.co/docs/hub/repositories-licenses, of those that weights and data commonly have.
LICENCES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "cc-by-3.0", "cc-by-sa-3.0", "cdla-permissive-2.0", "mpl-2.0",
    "etalab-2.0", "eupl-1.2", "odbl-1.0",
}  # fmt: skip
FAMILIES = {"gpl-3.0", "gpl-2.0", "agpl-3.0", "lgpl-3.0", "lgpl-2.1"}
TASKS = {"segmentation": "image-segmentation"}
METRICS = {"macro F1": "f1", "mIoU": "mean_iou", "macro mAP": "mean_average_precision"}
OURS = "pre-trained"


def card(plan: Plan, to: str, target: Target, run: Path | None, checked: str) -> str:
    """The card. run: the run's folder; None: unknown. checked: on the model, read back."""
    options: dict[str, Any] = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(keep_trailing_newline=True, autoescape=False, **options)  # Markdown
    environment.filters["cell"] = cell
    evaluations = dict(evaluated(run, digest(weights(plan)))) if run else {}
    known = known_run(run) if run else None
    return (
        environment.from_string(TEMPLATE.read_text())
        .render(
            plan=plan, file=plan.encoder.file, target=target, to=to, checked=checked, licence=licence(plan.licence),
            datasets=[slug(each.name) for each in plan.encoder.file.data],
            index=[index(Path(plan.name).stem, evaluations)] if evaluations else [],
            bands=band_rows(plan), tables=tables(run, evaluations) if run else [], loading=target.loading(plan),
            facts=facts(known) if known else {}, curve=list(curve(known)) if known else [],
            recipe=tomli_w.dumps(settings(plan)), command=command(plan, to),
            made={"rsdnet": __version__, "commit": commit(), "python": platform.python_version(),
                  "torch": torch.__version__},
        )
    )  # fmt: skip


def licence(name: str) -> dict[str, str]:
    """The front matter's keys of a licence as SPDX names it; "" is unknown."""
    short = re.sub("-(only|or-later)$", "", name.lower())
    if not name:
        return {"license": "unknown"}
    if name.lower() in LICENCES or short in FAMILIES:
        return {"license": short}
    return {"license": "other", "license_name": name.lower()}


def cell(value: object) -> str:
    """A text in a table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def slug(name: str) -> str:
    """A name as the hub takes it."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.") or "unnamed"


def evaluated(run: Path, own: str) -> Iterator[tuple[str, tuple[probefile.ProbeFile, list[str]]]]:
    """The evaluations, by name, of the weights whose digest is `own`, with the names of their databases."""
    for name, path in runfolder.evaluations(run).items():
        try:
            found, plain = probefile.read(path)
        except DataError:
            continue  # of an earlier protocol, or damaged
        if plain.get("encoder") == own:  # else of an earlier step
            yield name, (found, [Path(str(each)).name for each in plain.get("data") or []])


def index(name: str, evaluations: dict[str, tuple[probefile.ProbeFile, list[str]]]) -> dict[str, Any]:
    """The front matter's `model-index`: the encoder's scores of all bands and their means."""
    results = []
    for evaluation, (found, databases) in evaluations.items():
        named = " + ".join(databases) or "unknown"
        metrics = [
            {"type": METRICS.get(found.metric, slug(found.metric)), "name": told, "value": value}
            for told, value in scores(found)
        ]
        task = {"type": TASKS.get(evaluation, "image-classification"), "name": evaluation or "classes"}
        results.append({"task": task, "dataset": {"type": slug(named), "name": named}, "metrics": metrics})
    return {"name": name, "results": results}


def scores(found: probefile.ProbeFile) -> Iterator[tuple[str, float]]:
    """The encoder's finite scores, each with its words."""
    for share, by_depth in found.results.items():
        depth = found.features if found.features in by_depth else next(iter(by_depth))
        rows = {mean.replace("_", " of "): row for mean, row in by_depth[depth].means.items()} | by_depth[depth].bands
        for name, row in rows.items():
            if OURS in row and math.isfinite(row[OURS].score):
                yield f"{found.metric}, {name}, {depth}, {share} labels", round(row[OURS].score, 4)


def tables(run: Path, evaluations: dict[str, Any]) -> list[str]:
    """The comparisons with the other contenders, as `python -m rsdnet.table` makes them."""
    found = []
    for name in evaluations:
        try:
            found.append(markdown(gather([run], name)))
        except DataError as error:
            found.append(f"{name or 'classes'}: {str(error).replace(str(run) + '/', '')}")
    return found


def known_run(run: Path) -> record.Record | None:
    """The run's files; None: there are none."""
    try:
        return dataclasses.replace(record.read(run), probes={})  # they have tables of their own
    except DataError:
        return None


def curve(known: record.Record) -> Iterator[tuple[int, str]]:
    """Steps and losses, evenly spaced."""
    if (series := known.series.get("loss")) is not None and len(series.steps):
        for place in np.unique(np.linspace(0, len(series.steps) - 1, POINTS).round().astype(int)):
            yield int(series.steps[place]), figure(float(series.values[place]))


def band_rows(plan: Plan) -> list[list[str]]:
    """The table of the input's statistics, bands of training first."""
    file = plan.encoder.file
    trained = {name for pool in file.pools.values() for name in pool}
    rows = []
    for name in sorted(file.bands, key=lambda name: (name not in trained, list(BANDS).index(name))):
        band = file.bands[name]
        clip = f"{band.clip[0]:g} to {band.clip[1]:g}" if band.clip else "none"
        nodata = "NaN" if band.nodata is None else f"{band.nodata:g} or NaN"
        seen = "yes" if name in trained else "no"
        rows.append(
            [name, f"{band.mean:.7g}", f"{band.std:.7g}", UNITS[band.unit], clip, nodata, band.level or "unknown", seen]
        )
    for name, (mean, std) in file.differences.items():
        rows.append(
            [name, f"{mean:.7g}", f"{std:.7g}", "dB", "that of the bands", "as in the bands", "as the bands", "yes"]
        )
    return rows


def settings(plan: Plan) -> dict[str, Any]:
    """The run's configuration, its databases by their folders' names."""
    found = config.to_tables(plan.encoder.cfg)
    found["data"]["data"] = [each.name for each in plan.encoder.file.data]
    found["run"] = {key: value for key, value in found["run"].items() if key not in ("run", "resume", "knn_data")}
    return found


def command(plan: Plan, to: str) -> str:
    """The export's command line."""
    words = ["python -m rsdnet.export encoder.safetensors", plan.name, f"--to {to}"]
    if to in ("onnx", "torchscript"):
        words += [f"--preprocessing {plan.preprocessing}", f"--features {plan.depth}"]
        if plan.inside and plan.rows != plan.encoder.rows:
            words.append(f"--bands {' '.join(plan.rows[0])}")
    if plan.licence != plan.encoder.file.licence:
        words.append(f"--licence {plan.licence}")
    return " ".join(words)
