"""The labels that an evaluation asks for: one class a sample, or any number; and the samples that it leaves out."""

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rsdnet.data.catalog import CONDITIONS, Catalog, Labelling
from rsdnet.data.databases import Databases
from rsdnet.errors import DataError

UNCLEAR = dict(zip(("snow", "clouds"), CONDITIONS, strict=True))
"""Column of the catalog by condition. The published splits of BigEarthNet v2, and figures on them, leave both out."""


def targets_of(catalog: Catalog, labelling: Labelling) -> tuple[np.ndarray, Tensor]:
    """Ids (C,) of the classes, and labels of the samples: (N,) int64 in range(C), or of several (N, C) bool.

    The classes are those that a sample has, or of several those of the class list.
    """
    if labelling == "one":
        classes, indices = np.unique(catalog.label.astype(np.int64), return_inverse=True)
        return classes, torch.from_numpy(indices)
    labels = np.zeros((len(catalog), len(catalog.classes)), bool)
    counts = [len(ids) for ids in catalog.labels]
    labels[np.repeat(np.arange(len(catalog)), counts), np.concatenate([*catalog.labels, ()]).astype(np.int64)] = True
    return np.arange(len(catalog.classes)), torch.from_numpy(labels)


def present(labels: Tensor) -> set[int]:
    """The classes of labels (N,) or (N, C)."""
    return set(labels.any(0).nonzero().flatten().tolist() if labels.dim() == 2 else labels.tolist())


def strata(labels: Tensor) -> Tensor:
    """(N,) int64: the class by which a sample is drawn; of several (N, C) the rarest, and C of none.

    Iterative stratification (Sechidis et al. 2011, section 3.2) begins with the rarest class, too: it is the one that a
    draw can miss.
    """
    if labels.dim() == 1:
        return labels
    counts = labels.sum(0)
    rarity = torch.where(labels, counts, len(labels) + 1)
    return torch.where(labels.any(1), rarity.argmin(1), labels.shape[1])


def clear(catalog: Catalog, kept: Collection[str]) -> tuple[np.ndarray, str]:
    """(N,) bool: samples without snow or clouds, unless these are among the `kept`; and a line on the rest, or ""."""
    found = {what: np.array([bool(each) for each in getattr(catalog, name)], bool) for what, name in UNCLEAR.items()}
    out = {what: mask for what, mask in found.items() if what not in kept and mask.any()}
    keep = ~np.logical_or.reduce([np.zeros(len(catalog), bool), *out.values()])
    words = ", ".join(f"{mask.sum():,} with {what} (--{what} keep takes them)" for what, mask in out.items())
    return keep, f"samples left out, as published figures have it: {words}" if out else ""


def require_labelling(databases: Sequence[Path], task: str) -> None:
    """Raise DataError, naming the right task, where the samples have another kind of labels than `task` asks for."""
    joined, one, several = Databases(databases), 0, 0
    for piece in joined:
        one += int(piece.catalog.mask(labelled="one").sum())
        several += int(piece.catalog.mask(labelled="several").sum())
    if task == "classes" and several:
        raise DataError(f"{joined}: samples have any number of labels each, not one: use --task multilabel")
    if task == "multilabel" and one and not several:
        raise DataError(f"{joined}: samples have one label each, not any number: use --task classes")
