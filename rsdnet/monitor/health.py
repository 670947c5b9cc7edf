"""Whether a run learns: measures of a batch's projections on the device, and a watch over what is logged.

BYOL's loss alone does not tell: projections that have all become one point give the lowest loss there is.
"""

import dataclasses
import math
import statistics
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Below this share of an even spread the projections of a batch have all but fallen into one point.
COLLAPSED = 0.05
# What is usual differs from model to model (RankMe compares runs of one alone), so some numbers are judged by the
# median of their last ones: WINDOW of them, once there are LEAST.
WINDOW, LEAST = 50, 5
# Projections that fill fewer directions tell no three groups of places apart; or a quarter of what they filled. In a
# sound run of the demo the rank falls as it learns, from 90 to 11 in 250 steps, which stays above that.
LOW_RANK, LOW_RANK_SHARE = 2.0, 0.25
# A mean cosine of 0.95 leaves a tenth of the squared length, 1 - 0.95**2, to what tells two places apart.
HIGH_COSINE = 0.95
# A gradient as many times as long as the usual one: a sound run of the demo makes jumps of 14.
NORM_JUMP = 20.0
# LARS's ratio is 1e-3 |p| / |u|. You et al. 2017 (arXiv 1708.03888) give |p| / |u| of AlexNet's weights at the start,
# 5.76 to 1345: ratios of 0.006 to 1.3, and the demo's lie about there. All of them a hundredfold beyond is unsound.
LOW_TRUST, HIGH_TRUST = 6e-5, 1.3e2
# A kNN F1 below this share of its best: on 1,000 samples chance moves an F1 of 0.5 by 0.016, that is 3 %.
LOW_F1_SHARE = 0.85
# A warning is over where its number has come back this many times as far as it had to go to be given.
BACK = 1.25
FIRST = 2  # steps that are not judged: those of weights just drawn


def spread(first: Tensor, second: Tensor) -> Tensor:
    """Standard deviation over the batch of what the projections (B, D) of two views share, scaled by sqrt(D).

    L2-normalised, then averaged over the sample's two views, so that what tells the sensors apart and not the places
    cancels: a network that encodes the sensor alone has a spread of 0, as one that projects everything to one point
    has (collapse: Chen and He 2021, arXiv 2011.10566, figure 2). About 1 where views agree and places lie evenly.
    """
    shared = _shared(first, second)
    return shared.std(dim=0, correction=0).mean() * shared.shape[1] ** 0.5


def projections(z1: Tensor, z2: Tensor) -> dict[str, Tensor]:
    """Measures of the projections (B, D) of a batch's two views, 0-dim float32 on their device; no gradient.

    "spread": see `spread`. "effective_rank" and "cosine", of what both views share as there: see `effective_rank` and
    `mean_cosine`. For now and then: the eigenvalues make the host wait for the device.
    """
    shared = _shared(z1, z2)
    return {"spread": spread(z1, z2), "effective_rank": effective_rank(shared), "cosine": mean_cosine(shared)}


def effective_rank(matrix: Tensor) -> Tensor:
    """exp of the entropy of the singular values of `matrix` (B, D) over their sum: how many directions it fills.

    Between 1 and min(B, D), float32; NaN where the matrix is not finite. Roy and Vetterli 2007 (The effective rank,
    EUSIPCO), definition 1; RankMe, Garrido et al. 2023 (arXiv 2210.02885), equations 1 and 2, who find that it goes
    with what a linear classifier reads off. Not centred, as there: of projections fallen into one point, centring would
    leave the noise, which fills every direction.
    """
    matrix = matrix.double()  # squares of singular values: in float32 a small one would drown in the largest's rounding
    gram = matrix @ matrix.T if len(matrix) < matrix.shape[1] else matrix.T @ matrix
    values = torch.linalg.eigvalsh(gram.nan_to_num(0, 0, 0)).clamp_min(0).sqrt()
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    rank = torch.special.entr(shares).sum().exp().float()
    return torch.where(gram.isfinite().all(), rank, torch.nan)


def mean_cosine(shared: Tensor) -> Tensor:
    """Mean of the inner products of all pairs of different rows of `shared` (B, D), float32: |sum|^2 less the squares.

    Where a row is the mean of the unit vectors of a sample's two views, this is the mean cosine of the projections of
    two different samples, over all pairs of samples and of views: 1 where all lie in one point.
    """
    rows = shared.double()
    pairs = max(len(rows) * (len(rows) - 1), 1)
    return ((rows.sum(0).square().sum() - rows.square().sum()) / pairs).float()


def _shared(first: Tensor, second: Tensor) -> Tensor:
    """(B, D) float32: the mean of a sample's two projections, each of length 1."""
    units = [nn.functional.normalize(z.detach().float(), dim=1, eps=1e-6) for z in (first, second)]
    return (units[0] + units[1]) / 2


class Finding(NamedTuple):
    """What a check says of a line: whether the number is bad, whether it is well again, and the words for it."""

    bad: bool
    well: bool
    words: str


@dataclasses.dataclass
class Past:
    """What the checks keep of the lines before."""

    f1: float = 0.0
    """The highest kNN F1."""
    skipped: float = 0.0
    """Steps skipped, in all."""
    last: dict[str, deque[float]] = dataclasses.field(
        default_factory=lambda: {name: deque(maxlen=WINDOW) for name in ("effective_rank", "grad_norm")}
    )
    """The last values that were finite."""

    def keep(self, line: Mapping[str, float]) -> None:
        """Take up a line's numbers."""
        self.f1 = max(self.f1, line.get("knn_f1", 0.0))
        self.skipped = line.get("skipped", self.skipped)
        for name, values in self.last.items():
            if math.isfinite(value := line.get(name, math.nan)):
                values.append(value)

    def usual(self, name: str, unknown: float) -> float:
        """The median of the last values; `unknown` while there are too few."""
        values = self.last[name]
        return statistics.median(values) if len(values) >= LEAST else unknown


class Watch:
    """Turns the numbers of logged lines into warnings; each is given once, until its number has been well again."""

    def __init__(self) -> None:
        self.past = Past()
        self._said: set[str] = set()

    def look(self, line: Mapping[str, float]) -> list[str]:
        """Warnings on the newest line {"step", "spread", "grad_norm", ...}, as metrics.jsonl has them; any may lack.

        Each names the step, the number, what it means and what to do.
        """
        warnings = []
        for check in CHECKS if line["step"] >= FIRST else ():
            found = check(line, self.past)
            if found is None:
                continue
            if found.bad and check.__name__ not in self._said:
                self._said.add(check.__name__)
                warnings.append(f"step {int(line['step']) + 1}: {found.words}")
            elif found.well:
                self._said.discard(check.__name__)
        self.past.keep(line)
        return warnings


def _spread(line: Mapping[str, float], past: Past) -> Finding | None:
    if (value := line.get("spread")) is None:
        return None
    words = (
        f"the projections have almost collapsed to one point (spread {value:.3f}, 1 is even): the encoder no longer "
        "tells places apart; a lower --lr or a higher --tau helps"
    )
    return Finding(value < COLLAPSED, value > COLLAPSED * BACK, words)


def _rank(line: Mapping[str, float], past: Past) -> Finding | None:
    if (value := line.get("effective_rank")) is None:
        return None
    usual = past.usual("effective_rank", 0.0)
    floor = max(LOW_RANK, LOW_RANK_SHARE * usual)
    words = (
        f"the projections fill {value:.1f} directions (effective rank; lately {usual:.1f}): places differ in little "
        "more than that; if knn_f1 falls too, begin again with a lower --lr or a higher --tau"
    )
    return Finding(value < floor, value > floor * BACK, words)


def _cosine(line: Mapping[str, float], past: Past) -> Finding | None:
    if (value := line.get("cosine")) is None:
        return None
    words = (
        f"the projections of different places are nearly parallel (mean cosine {value:.3f}): this comes before a "
        "collapse; if it stays, a lower --lr or a higher --tau helps"
    )
    return Finding(value > HIGH_COSINE, 1 - value > (1 - HIGH_COSINE) * BACK, words)


def _skipped(line: Mapping[str, float], past: Past) -> Finding | None:
    if (value := line.get("skipped")) is None:
        return None
    count = int(value - past.skipped)
    words = (
        f"{count} skipped since the last line because the gradient was not finite ({int(value)} in all): in fp16 now "
        "and then a step is, while the loss scale finds its level; if it goes on, lower --lr, or train in --precision "
        "bf16 or fp32"
    )
    return Finding(count > 0, count == 0, words)


def _norm(line: Mapping[str, float], past: Past) -> Finding | None:
    """A norm that is not finite on a step that was skipped is `_skipped`'s to tell."""
    value = line.get("grad_norm")
    if value is None or line.get("skipped", past.skipped) > past.skipped:
        return None
    if not math.isfinite(value):
        words = f"the gradient's norm is {value}: lower --lr, or train in --precision fp32"
        return Finding(True, False, words)
    usual = past.usual("grad_norm", math.inf)
    words = (
        f"the gradient's norm is {value:.3g}, its usual {usual:.3g}: the step was a jump; once is harmless, if it "
        "repeats lower --lr, or look for odd patches (python -m rsdnet.preview)"
    )
    return Finding(value > NORM_JUMP * usual, value < NORM_JUMP / BACK * usual, words)


def _trust(line: Mapping[str, float], past: Past) -> Finding | None:
    if "trust_min" not in line or "trust_max" not in line:
        return None
    low, high = line["trust_min"], line["trust_max"]
    if low > HIGH_TRUST:
        what = f"above {low:.3g}: the gradients are nearly 0 and LARS enlarges what is left, noise; look at spread"
    else:
        what = f"below {high:.3g}: the gradients are far larger than the weights; lower --lr or --weight-decay"
    words = f"LARS's trust ratios are {what}, or begin again from the last sound checkpoint"
    return Finding(high < LOW_TRUST or low > HIGH_TRUST, high > LOW_TRUST * BACK and low < HIGH_TRUST / BACK, words)


def _f1(line: Mapping[str, float], past: Past) -> Finding | None:
    if (value := line.get("knn_f1")) is None:
        return None
    words = (
        f"kNN F1 is {value:.3f}, its best was {past.f1:.3f}: the encoder is losing what it knew; lower --lr or raise "
        "--tau, and take the encoder of an earlier checkpoint (--keep-every)"
    )
    floor = LOW_F1_SHARE * past.f1
    return Finding(value < floor, value > (floor + past.f1) / 2, words)


CHECKS: tuple[Callable[[Mapping[str, float], Past], Finding | None], ...] = (
    _spread, _rank, _cosine, _skipped, _norm, _trust, _f1,
)  # fmt: skip
