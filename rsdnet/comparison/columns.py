"""The columns of a comparison: runs that differ only in the seed are one, and so is a contender that all runs share."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsdnet.comparison.results import Result
from rsdnet.config import Config
from rsdnet.errors import DataError
from rsdnet.evaluate.intervals import interval, over_runs

MOST = 3  # settings in a title; where more differ, the folders' names are shorter
FREE = {
    f"{name}.{key}" for name in ("data", "views", "model", "optim", "run")
    for key in getattr(Config(), name).FREE_ON_RESUME
}  # fmt: skip
# Settings by which equal runs may differ: the seed, and those that change no result. The data's paths stay.
APART = (FREE | {"run.seed", "run.device"}) - {"data.data"}
# Words for a setting in a title, beside its value.
WORDS = {
    "model.method": "{}", "model.encoder": "{}", "views.modality": "{}", "views.channels": "{} channels",
    "optim.epochs": "{} epochs", "optim.steps": "{} steps", "data.data": "{}",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A contender of one run, or of several that differ only in the seed."""

    title: str
    contender: str
    members: list[Result]

    @property
    def head(self) -> str:
        """The title, with the number of seeds."""
        return self.title + (f" ({len(self.members)} seeds)" if len(self.members) > 1 else "")

    def has(self, share: str, depth: str, name: str) -> bool:
        """Whether every run has a score on the bands `name`."""
        return all(each.score(share, depth, name, self.contender) for each in self.members)

    def cell(self, share: str, depth: str, names: Sequence[str]) -> dict[str, Any]:
        """The mean score over the bands and over the seeds; its interval over the samples and seeds together."""
        where = [(share, depth, name, self.contender) for name in names]
        scores = [[each.score(*key) for key in where] for each in self.members]
        values = [[each.score for each in own if each] for own in scores]
        drawn = np.stack([np.mean([each.replicates_of(*key) for key in where], axis=0) for each in self.members])
        low, high = interval(over_runs(drawn.astype(np.float64)))
        return {
            "score": float(np.mean(values)), "interval": [low, high],
            "val": float(np.mean([[each.val for each in own if each] for own in scores])),
            "seeds": [float(np.mean(own)) for own in values],
        }  # fmt: skip


def columns_of(results: Sequence[Result], shares: Sequence[str], depth: str) -> list[Column]:
    """The pre-trained encoders, then every other contender, once where its scores are the same for several runs.

    Raises DataError on two runs of the same settings and seed.
    """
    groups = grouped(results)
    first, *others = dict.fromkeys(label for each in results for label in _contenders(each, shares[0], depth))
    titles = titles_of(groups) if len(groups) > 1 else [first]
    found = [Column(title, first, members) for title, members in zip(titles, groups, strict=True)]
    for label in others:
        own = _merged(groups, titles, label, shares, depth)
        found += [Column(label if len(own) == 1 else f"{label}, {title}", label, runs) for title, runs in own]
    return found


def grouped(results: Sequence[Result]) -> list[list[Result]]:
    """Runs that differ only in the seed together, in the order of the seeds."""
    groups: dict[str, list[Result]] = {}
    for each in results:
        key = str(sorted((name, value) for name, value in each.settings.items() if name not in APART))
        for member in groups.setdefault(key, []):
            if member.seed == each.seed:
                raise DataError(f"{member.run} and {each.run} have the same settings and seed: name one of them")
        groups[key].append(each)
    return [sorted(members, key=lambda each: each.seed) for members in groups.values()]


def titles_of(groups: Sequence[Sequence[Result]]) -> list[str]:
    """The settings in which the groups differ; where they are many, or paths alone, the names of the folders."""
    settings = [members[0].settings for members in groups]
    names = dict.fromkeys(name for each in settings for name in each if name not in APART)
    apart = [name for name in names if len({str(each.get(name)) for each in settings}) > 1]
    told = [", ".join(_words(name, each.get(name)) for name in apart) for each in settings]
    folders = [_folder(members) for members in groups]
    for titles in (told if len(apart) <= MOST else folders, folders):
        if len(set(titles)) == len(titles):
            return titles
    return [str(members[0].run) for members in groups]


def _words(name: str, value: Any) -> str:
    """A setting in a title."""
    if name == "data.data":
        value = [Path(each).name for each in value or ["embedded data"]]
    text = "+".join(map(str, value)) if isinstance(value, list) else str(value)
    return WORDS.get(name, f"{name.partition('.')[2]} {{}}").format(text).replace("1 channels", "1 channel")


def _folder(members: Sequence[Result]) -> str:
    """The beginning that the folders' names have in common, without the seed."""
    names = [each.name for each in members]
    if len(names) == 1:
        return names[0]
    common = os.path.commonprefix(names)  # noqa: RUF071 - of the letters
    return common.rstrip("-_.").removesuffix("seed").rstrip("-_.")


def _contenders(result: Result, share: str, depth: str) -> list[str]:
    return list(dict.fromkeys(label for row in result.depth(share, depth).bands.values() for label in row))


def _merged(
    groups: Sequence[Sequence[Result]], titles: Sequence[str], label: str, shares: Sequence[str], depth: str
) -> list[tuple[str, list[Result]]]:
    """The runs of a contender, by title; once those of equal scores, and no group whose scores are all in another."""
    rows = [[each.depth(share, depth).bands for share in shares] for members in groups for each in members]
    common = [name for name in rows[0][0] if all(name in bands for own in rows for bands in own)]

    def scores(each: Result) -> tuple[float | None, ...]:
        found = [each.score(share, depth, name, label) for share in shares for name in common]
        return tuple(score.score if score else None for score in found)

    kept: list[tuple[str, dict[tuple[float | None, ...], Result]]] = []
    for title, members in zip(titles, groups, strict=True):
        own = {scores(each): each for each in reversed(members) if label in _contenders(each, shares[0], depth)}
        if own and not any(own.keys() <= more.keys() for _, more in kept):
            kept = [(one, more) for one, more in kept if not more.keys() <= own.keys()] + [(title, own)]
    return [(title, list(own.values())[::-1]) for title, own in kept]
