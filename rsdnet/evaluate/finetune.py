"""Fine-tuning: encoder and linear head trained together from each contender's start, on one view at a time.

On several ranks each trains another job, a contender on a row of bands, so that every result is that of one process.
"""

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from rsdnet.console import progress
from rsdnet.evaluate.contenders import Contender, spread
from rsdnet.evaluate.features import Labelled
from rsdnet.evaluate.linear import Problem, Task, problem_of
from rsdnet.evaluate.outcomes import Outcome, Outcomes
from rsdnet.training.optim import cosine

LRS = (1e-4, 3e-4, 1e-3)  # peaks of AdamW's learning rate to choose from # our choice
DECAY = 0.05  # of weights (He et al. 2022, arXiv 2111.06377, table 9)
WARMUP = 0.1  # share of the steps # our choice
BATCH = 64  # samples of a step; fewer where an epoch would have fewer than STEPS # our choice
STEPS = 8

Names = tuple[str, ...]


def settings(epochs: int) -> dict[str, Any]:
    """What the scores depend on, JSON-able."""
    return {"epochs": epochs, "lrs": list(LRS), "weight_decay": DECAY, "warmup": WARMUP, "batch": BATCH}


class Job(NamedTuple):
    """A training, but for its learning rate. beat: called after every epoch."""

    contender: Contender
    labelled: Labelled
    names: Names
    problem: Problem
    task: Task
    epochs: int
    seed: int
    beat: Callable[[], None]


def evaluate(
    labelled: Labelled, views: Sequence[Names], contenders: Mapping[str, Contender], trains: Mapping[str, Tensor],
    console: Console, *, epochs: int, seed: int, task: Task,
) -> dict[str, Outcomes]:  # fmt: skip
    """Outcomes by share of the labels, at the depth "last", of `views`, each the bands of a view.

    contenders: to start from; one without a network is left out. trains: (n,) int64 samples to train on, by share.
    """
    ranks, problems = labelled.ranks, {share: problem_of(labelled, train) for share, train in trains.items()}
    labels = [label for label, each in contenders.items() if each.network is not None]
    jobs = [(share, names, label) for share in trains for names in views for label in labels]
    turns = [jobs[start : start + ranks.world] for start in range(0, len(jobs), ranks.world)]
    beats = epochs * max(len(LRS) + (len(each.folds) > 1) for each in problems.values())
    scored: dict[tuple[str, Names, str], Outcome] = {}
    with progress(f"fine-tuning, {labelled.samples.modality} epochs", len(turns) * beats, console=console) as show:
        for number, turn in enumerate(turns):
            done = number * beats

            def beat() -> None:
                """Wait for the others, however long their epochs: none waits for a whole job."""
                nonlocal done
                ranks.barrier()
                show(done := done + 1)

            if ranks.rank < len(turn):
                share, names, label = turn[ranks.rank]
                job = Job(contenders[label], labelled, names, problems[share], task, epochs, seed, beat)
                scored[turn[ranks.rank]] = score(job)
            while done < (number + 1) * beats:
                beat()
    scored = {key: found for part in ranks.collect(scored) for key, found in part.items()}
    return {
        share: {"last": {"+".join(names): {label: scored[share, names, label] for label in labels} for names in views}}
        for share in trains
    }


def score(job: Job) -> Outcome:
    """Test scores with the learning rate that is best on validation samples: the val split, or one fold of several,
    as each costs a training; the train split is then fitted again."""
    problem, fold = job.problem, job.problem.folds[0]
    labels = problem.labels[fold.judge]
    best, chosen, top = LRS[0], None, -np.inf
    for lr in LRS:
        tuned = fit(job, fold.fit, lr)
        if (found := job.task.judge(predict(tuned, job, fold.judge), labels)) > top:
            best, chosen, top = lr, tuned, found
    if chosen is None or len(problem.folds) > 1:
        chosen = fit(job, problem.train, best)
    return job.task.outcome(predict(chosen, job, problem.test), problem, {"lr": best}, float(top))


class Tuned(nn.Module):
    """Logits (b, classes) of views (b, k, S, S): a copy of a contender's network, and a head on its output.

    Bands that the network does not take as one view go through it one by one, their outputs side by side. The head's
    BatchNorm has no parameters: one learning rate then suits outputs of any size (He et al. 2022, appendix A.1).
    """

    def __init__(self, contender: Contender, labelled: Labelled, names: Names, classes: int) -> None:
        super().__init__()
        assert contender.network is not None
        self.network: nn.Module = copy.deepcopy(contender.network)
        self.channels, self.joined = contender.channels, contender.joins(len(names))
        self.scaled = contender.scaling(labelled, names)
        device = labelled.ranks.device
        with torch.inference_mode():
            one = torch.zeros(1, self.channels, labelled.spec.size, labelled.spec.size, device=device)
            width = self.network.eval()(one).shape[1] * (1 if self.joined else len(names))
        self.head = nn.Sequential(nn.BatchNorm1d(width, affine=False), nn.Linear(width, classes)).to(device)

    def forward(self, views: Tensor) -> Tensor:
        x = self.scaled(views)
        x = spread(x if self.joined else x.flatten(0, 1)[:, None], self.channels)
        output = self.network(x.contiguous(memory_format=torch.channels_last))
        return self.head(output.reshape(len(views), -1))


def fit(job: Job, samples: Tensor, lr: float) -> Tuned:
    """Train on `samples` (n,) int64, flipped and turned at random, by AdamW with a cosine of peak `lr`.

    On a GPU in the contender's precision; on a CPU in float32.
    """
    labelled, device = job.labelled, job.labelled.ranks.device
    torch.manual_seed(job.seed)
    names = names_of(job)
    tuned = Tuned(job.contender, labelled, names, job.problem.classes).train()
    flat = [part for part in tuned.parameters() if part.dim() < 2]  # biases and norms, which do not decay
    matrices = [part for part in tuned.parameters() if part.dim() > 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": flat, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr)
    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda" and job.contender.dtype is torch.float16)
    spec = dataclasses.replace(labelled.spec, flip=True, turn=True)
    steps = -(-len(samples) // min(BATCH, max(len(samples) // STEPS, 2)))
    steps = max(1, min(steps, len(samples) // 2))  # BatchNorm wants two samples
    order = torch.Generator().manual_seed(job.seed)
    for epoch in range(job.epochs):
        for number, part in enumerate(samples[torch.randperm(len(samples), generator=order)].tensor_split(steps)):
            rate = cosine(epoch * steps + number + 1, job.epochs * steps + 1, lr, round(WARMUP * job.epochs * steps))
            for group in optimizer.param_groups:
                group["lr"] = rate
            views = labelled.rendered(names, part.numpy(), spec, job.seed, epoch)
            loss = job.task.loss(logits_of(tuned, views, job), job.problem.labels[part].to(device))
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        job.beat()
    return tuned.eval()


def predict(tuned: Tuned, job: Job, samples: Tensor) -> Tensor:
    """Logits (n, classes), float32, on the CPU, of whole views of `samples` (n,)."""
    names = names_of(job)
    with torch.inference_mode():
        parts = [
            logits_of(tuned, job.labelled.rendered(names, part.numpy()), job).cpu()
            for part in samples.split(job.labelled.batch)
        ]
    return torch.cat(parts)


def names_of(job: Job) -> Names:
    """The bands that the network sees: one that stands twice in the row goes through it once, if it goes alone."""
    return job.names if job.contender.joins(len(job.names)) else tuple(dict.fromkeys(job.names))


def logits_of(tuned: Tuned, views: Tensor, job: Job) -> Tensor:
    """Float32, under autocast on a GPU."""
    dtype = job.contender.dtype
    with torch.autocast(views.device.type, dtype, enabled=views.is_cuda and dtype is not torch.float32):
        return tuned(views).float()
