"""Warnings of a run that does not learn: checks of the numbers in metrics.jsonl, each against a bound.

Training prints them as they come; the report reads them off the file again.
"""

import dataclasses
import itertools
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

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
# Steps to the first kNN evaluation, with which the others are compared: the weights are still nearly those drawn, and
# BatchNorm's running statistics have all but left their first values, which are no view's (0.9**20 is left).
START = 10
# Features that fill fewer than half of the directions they did. The runs of docs/training.md: sound ones keep 0.64 and
# more; tau 0 comes down to 0.34, SimSiam at 0.03 to 0.30.
LOST_RANK = 0.5
# A kNN F1 above the first by fewer standard deviations of chance on SAMPLES samples, in the mean of the last LATE
# evaluations. The same runs: sound ones rise by 3.9 and more, LARS at 0.45, whose weights hardly move, by 2.6.
RISE, SAMPLES, LATE = 3.0, 1000, 3
# A loss lower by more than a tenth of the larger of the two: between evaluations chance moves it by 2 %. SimSiam's is
# below 0.
FALL = 0.1
# A warning is over where its number has come back this many times as far as it had to go to be given.
BACK = 1.25
FIRST = 2  # steps that are not judged: those of weights just drawn


class Check(NamedTuple):
    """A number, the bound that triggers its warning, the bound that clears it, and the message.

    number: of a line and what `Past.facts` adds to it; NaN is neither. A warning is given once, until it is cleared.
    cause: of several checks that go off at one step for one cause, the first gives its warning.
    """

    cause: str
    name: str
    number: Callable[[Mapping[str, float]], float]
    triggered: float
    cleared: float
    message: str


CHECKS = (
    Check(
        "collapse", "spread", lambda line: line["spread"], COLLAPSED, COLLAPSED * BACK,
        "the projections have almost collapsed to one point (spread {spread:.3f}, 1 is even): the encoder no longer "
        "tells places apart; a lower --lr or a higher --tau helps",
    ),
    Check(
        "collapse", "effective rank",
        lambda line: line["effective_rank"] / max(LOW_RANK, LOW_RANK_SHARE * line["usual_rank"]), 1.0, BACK,
        "the projections fill {effective_rank:.1f} directions (effective rank; lately {usual_rank:.1f}): places differ "
        "in little more than that; if knn_f1 falls too, begin again with a lower --lr or a higher --tau",
    ),
    Check(
        "collapse", "cosine", lambda line: line["cosine"], HIGH_COSINE, 1 - (1 - HIGH_COSINE) * BACK,
        "the projections of different places are nearly parallel (mean cosine {cosine:.3f}): this comes before a "
        "collapse; if it stays, a lower --lr or a higher --tau helps",
    ),
    Check(
        "collapse", "classes of projections", lambda line: line["effective_rank"] / line["classes"], 1.0, BACK,
        "the projections fill {effective_rank:.1f} directions (effective rank), fewer than there are classes "
        "({classes:.0f}): the encoder learns few differences of places; begin again with a higher --covariance",
    ),
    Check(
        "skip", "skipped steps", lambda line: line["new_skips"], 1, 0,
        "{new_skips:.0f} skipped since the last line because the gradient was not finite ({skipped:.0f} in all): in "
        "fp16 now and then a step is, while the loss scale finds its level; if it goes on, lower --lr, or train in "
        "--precision bf16 or fp32",
    ),
    Check(
        "gradient", "infinite gradient", lambda line: not math.isfinite(line["norm"]), 1, 0,
        "the gradient's norm is {norm}: lower --lr, or train in --precision fp32",
    ),
    Check(
        "gradient", "gradient norm", lambda line: line["finite_norm"] / line["usual_norm"], NORM_JUMP, NORM_JUMP / BACK,
        "the gradient's norm is {norm:.3g}, its usual {usual_norm:.3g}: the step was a jump; once is harmless, "
        "if it repeats lower --lr, or look for odd patches (python -m rsdnet.preview)",
    ),
    Check(
        "ratios", "small trust ratios", lambda line: line["trust_max"], LOW_TRUST, LOW_TRUST * BACK,
        "LARS's trust ratios are below {trust_max:.3g}: the gradients are far larger than the weights; lower --lr or "
        "--weight-decay, or begin again from the last sound checkpoint",
    ),
    Check(
        "ratios", "large trust ratios", lambda line: line["trust_min"], HIGH_TRUST, HIGH_TRUST / BACK,
        "LARS's trust ratios are above {trust_min:.3g}: the gradients are nearly 0 and LARS enlarges what is left, "
        "noise; look at spread, or begin again from the last sound checkpoint",
    ),
    Check(
        "features", "classes", lambda line: line["feature_rank"] / line["classes"], 1.0, BACK,
        "the features fill {feature_rank:.1f} directions (effective rank), fewer than there are classes "
        "({classes:.0f}): too few to tell them apart by; begin again with a lower --lr or a higher --tau",
    ),
    Check(
        "features", "kNN F1", lambda line: line["knn_f1"] / line["best_f1"], LOW_F1_SHARE, (LOW_F1_SHARE + 1) / 2,
        "kNN F1 is {knn_f1:.3f}, its best was {best_f1:.3f}: the encoder is losing what it knew; lower --lr or raise "
        "--tau, and take the encoder of an earlier checkpoint (--keep-every)",
    ),
    Check(
        "features", "lost rank",
        lambda line: line["feature_rank"] / line["best_rank"] if line["rise"] < RISE else math.nan,
        LOST_RANK, LOST_RANK * BACK,
        "the features fill {feature_rank:.1f} directions (effective rank; at best {best_rank:.1f}), and kNN F1, "
        "{knn_f1:.3f}, is not clearly above that of step {first_step:.0f}, {first_f1:.3f}: they lose detail; "
        "begin again with a lower --lr or a higher --tau",
    ),
    Check(
        "features", "no rise",
        lambda line: line["late_rise"] if line["fall"] > FALL else math.nan, RISE, RISE * BACK,
        "the loss fell since step {first_step:.0f} ({first_loss:.3f}, now {mean_loss:.3f}), but kNN F1 did not clearly "
        "rise ({first_f1:.3f}, lately {late_f1:.3f}): places are told apart little better; if the weights hardly move, "
        "a higher --lr helps (LARS needs one), --optimizer adamw or more --steps; else look whether the views hide the "
        "classes (python -m rsdnet.preview)",
    ),
)  # fmt: skip


@dataclasses.dataclass
class Past:
    """The numbers of earlier lines that the checks compare with."""

    skipped: float = 0.0
    first: dict[str, float] = dataclasses.field(default_factory=dict)
    """The kNN evaluation of the start: {"first_step", "first_f1", "first_loss"}, its loss the mean of the lines so far.
    Empty where the run has none, or was first evaluated later."""
    best: dict[str, float] = dataclasses.field(default_factory=dict)
    """The best of all evaluations: {"best_f1", "best_rank"}."""
    late: deque[float] = dataclasses.field(default_factory=lambda: deque(maxlen=LATE))
    """F1 of the last evaluations after the first."""
    losses: list[float] = dataclasses.field(default_factory=list)
    """Of the lines since the last evaluation."""
    last: dict[str, deque[float]] = dataclasses.field(
        default_factory=lambda: {name: deque(maxlen=WINDOW) for name in ("effective_rank", "grad_norm")}
    )
    """The last finite values."""

    def keep(self, line: Mapping[str, float]) -> None:
        """Add a line's numbers."""
        if "loss" in line:
            self.losses.append(line["loss"])
        if "knn_f1" in line:
            self._keep_evaluation(line)
        self.skipped = line.get("skipped", self.skipped)
        for name, values in self.last.items():
            if math.isfinite(value := line.get(name, math.nan)):
                values.append(value)

    def facts(self, line: Mapping[str, float]) -> dict[str, float]:
        """A line's numbers, with those of the past that they are judged by.

        "norm" is the gradient's norm, unless a step was skipped, which has a check of its own.
        """
        usual = {"usual_rank": self._usual("effective_rank", 0.0), "usual_norm": self._usual("grad_norm", math.inf)}
        found = {**line, **usual}
        if "skipped" in line:
            found["new_skips"] = line["skipped"] - self.skipped
        if "grad_norm" in line and not found.get("new_skips"):
            norm = line["grad_norm"]
            found |= {"norm": norm, "finite_norm": norm if math.isfinite(norm) else math.nan}
        return found | self.best | (self._evaluated(line) if "knn_f1" in line and self.first else {})

    def _keep_evaluation(self, line: Mapping[str, float]) -> None:
        if self.first:
            self.late.append(line["knn_f1"])
        elif line["step"] < START:
            loss = statistics.fmean(self.losses) if self.losses else math.nan
            self.first = {"first_step": line["step"] + 1, "first_f1": line["knn_f1"], "first_loss": loss}
        for best, name in (("best_f1", "knn_f1"), ("best_rank", "feature_rank")):
            if name in line:
                self.best[best] = max(self.best.get(best, 0.0), line[name])
        self.losses.clear()

    def _evaluated(self, line: Mapping[str, float]) -> dict[str, float]:
        """An evaluation beside that of the start. "rise" of F1 and "late_rise", of the mean of the last ones, in
        standard deviations of chance (of a share p of n samples, sqrt(p (1 - p) / n)); "fall": share of the loss."""
        f1, first, late = line["knn_f1"], self.first["first_f1"], [*self.late, line["knn_f1"]][-LATE:]
        chance = math.sqrt(max(first * (1 - first), 1 / SAMPLES) / SAMPLES)
        found = self.first | {"rise": (f1 - first) / chance}
        losses = [*self.losses, *([line["loss"]] if "loss" in line else [])]
        if len(late) == LATE and losses:
            loss, late_f1 = statistics.fmean(losses), statistics.fmean(late)
            fall = (self.first["first_loss"] - loss) / (max(abs(self.first["first_loss"]), abs(loss)) or 1.0)
            found |= {"mean_loss": loss, "late_f1": late_f1, "fall": fall, "late_rise": (late_f1 - first) / chance}
        return found

    def _usual(self, name: str, unknown: float) -> float:
        """The median of the last values; `unknown` while there are too few."""
        values = self.last[name]
        return statistics.median(values) if len(values) >= LEAST else unknown


class Watch:
    """Turns the numbers of logged lines into warnings."""

    def __init__(self) -> None:
        self.past = Past()
        self._given: set[str] = set()

    def look(self, line: Mapping[str, float]) -> list[str]:
        """Warnings on the newest line {"step", "spread", "grad_norm", ...}, as metrics.jsonl has them; any may lack.

        Each names the step, the number, its meaning and the remedy.
        """
        facts, warnings, standing = self.past.facts(line), list[str](), set[str]()
        for check in CHECKS if line["step"] >= FIRST else ():
            try:
                number = check.number(facts)
            except KeyError:
                continue
            sign = 1 if check.triggered > check.cleared else -1
            if sign * number >= sign * check.triggered and check.name not in self._given:
                self._given.add(check.name)
                if check.cause not in standing:
                    warnings.append(f"step {int(line['step']) + 1}: {check.message.format_map(facts)}")
            elif sign * number <= sign * check.cleared:
                self._given.discard(check.name)
            if check.name in self._given:
                standing.add(check.cause)
        self.past.keep(line)
        return warnings


def intervals(lines: Iterable[Mapping[str, float]]) -> Iterator[dict[str, float]]:
    """The lines of metrics.jsonl, one a step, joined to those that `Watch.look` had of them, one a log interval.

    The numbers of an interval's last line, which all its lines share, those noted at any, and the mean loss.
    """
    for _, each in itertools.groupby(lines, key=lambda line: (line.get("spread"), line.get("grad_norm"))):
        joined, losses = dict[str, float](), list[float]()
        for line in each:
            joined |= line
            losses += [line["loss"]] if "loss" in line else []
        yield joined | ({"loss": statistics.fmean(losses)} if losses else {})
