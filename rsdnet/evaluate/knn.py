"""How well an encoder tells classes apart while it trains: a vote of nearest labelled neighbours, nothing fitted."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rsdnet.config import Config
from rsdnet.data.fixed import fixed_views
from rsdnet.data.identity import Identity
from rsdnet.data.pools import pools_of
from rsdnet.distributed import ALONE, Ranks
from rsdnet.evaluate import metrics
from rsdnet.evaluate.features import Labelled, frozen, labelled_modalities
from rsdnet.model.stages import STAGES
from rsdnet.monitor.projections import effective_rank

# Wu et al. 2018 (arXiv 1805.01978), section 3.4: temperature 0.07 and 200 neighbours in a bank of 1.28 million. Of two
# thousand 200 would be a whole class; 20 is what Caron et al. 2021 (arXiv 2104.14294) take throughout.
NEIGHBOURS, TEMPERATURE = 20, 0.07
# Each of unit length, so that no stage drowns the others: our choice. On EuroSAT's B04, F1 .65 so and .62 as they are.
DEPTHS = tuple(f"layer{number}" for number in range(1, STAGES + 1))
BLOCK = 1024  # queries compared with the whole bank at once
KEEP = 1 << 28  # bytes of views to keep on the device beside the training


class KNN:
    """kNN F1 of an encoder on labelled databases: the train split is the bank; val, or else test, the queries.

    cfg: of the run. limit: samples at most of either, always the same ones, of each class its share and one at least.
    ranks: all of them call alike. trained: the identity of the run's input; None: unknown.
    Raises DataError where there is no label, no sample in a split, or one class only.
    """

    def __init__(
        self, cfg: Config, databases: Sequence[Path], device: torch.device, ranks: Ranks = ALONE, limit: int = 2000,
        trained: Identity | None = None,
    ) -> None:  # fmt: skip
        self.device, self.channels = device, cfg.views.channels
        ranks = dataclasses.replace(ranks, device=device)
        self.parts: list[tuple[Labelled, dict[str, tuple[str, ...]], str]] = []
        """Of each modality: the samples, the channels of each view by its name, and the split of the queries."""
        fixed = fixed_views(cfg.views)
        for modality in labelled_modalities(databases, cfg.views.modality):
            pool = pools_of(cfg.views)[modality]
            labelled = Labelled(cfg, tuple(databases), modality, ranks, pool=pool, trained=trained, keep=KEEP)
            queries = "val" if len(labelled.part("val")) else "test"
            labelled.require("train", queries)
            parts = [labelled.drawn(split, max(limit, len(labelled.classes))) for split in ("train", queries)]
            labelled.take(torch.cat(parts).sort().values.numpy())
            views = {name: (name,) * self.channels for name in pool}
            if fixed:
                views = {"+".join(fixed[modality].names): fixed[modality].names}
            self.parts.append((labelled, views, queries))

    def __call__(self, encoder: nn.Module, dtype: torch.dtype) -> dict[str, float]:
        """{"knn_f1": mean, "feature_rank": mean effective rank of the features, "classes": their number, "knn_f1/B04":
        macro F1 of a band, ...}, the same on every rank; of a run with views of fixed bands those views,
        "knn_f1/B04+B03+B02", in place of bands.

        dtype: of autocast; float32: none. The encoder, its modes and torch's random state are left as they are.
        """
        with evaluating(encoder):
            of = frozen(encoder, self.device, dtype, DEPTHS)
            each, ranks = {}, []
            for labelled, views, queries in self.parts:
                for name, names in views.items():
                    stages = labelled.features(names, of).values()
                    features = torch.cat([nn.functional.normalize(stage, dim=1) for stage in stages], 1)
                    each[f"knn_f1/{name}"] = self._score(labelled, features, queries)
                    ranks.append(float(effective_rank(features[labelled.part(queries)])))
        means = {"knn_f1": float(np.mean(list(each.values()))), "feature_rank": float(np.mean(ranks))}
        return means | {"classes": max(len(labelled.classes) for labelled, *_ in self.parts)} | each

    def _score(self, labelled: Labelled, features: Tensor, queries: str) -> float:
        """Macro F1 of the samples of the split `queries`."""
        bank, asked = labelled.part("train"), labelled.part(queries)
        features, labels = features.to(self.device), labelled.labels.to(self.device)
        classes = len(labelled.classes)
        found = predict(features[asked], features[bank], labels[bank], classes)
        matrix = metrics.confusion(labelled.labels[asked].numpy(), found.cpu().numpy(), classes)
        return float(metrics.macro_f1(matrix))


def predict(queries: Tensor, bank: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Classes (Q,) of the features `queries` (Q, F), by a vote of their nearest in `bank` (N, F) of `labels` (N,).

    A neighbour of cosine similarity s votes with exp(s / 0.07) (Wu et al. 2018, section 3.4).
    """
    bank, votes = nn.functional.normalize(bank, dim=1), nn.functional.one_hot(labels, classes).float()
    found = []
    for block in nn.functional.normalize(queries, dim=1).split(BLOCK):
        similarity, nearest = (block @ bank.T).topk(min(NEIGHBOURS, len(bank)))
        weights = (similarity / TEMPERATURE).exp()
        found.append((votes[nearest] * weights[..., None]).sum(1).argmax(1))
    return torch.cat(found)


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Every module of `network` in eval mode while entered, and in its own again after."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
