"""Learning rate and tau by step, as in google-deepmind/deepmind-research, byol/utils/schedules.py."""

import math


def learning_rate(step: int, steps: int, base: float, batch: int, warmup: int) -> float:
    """Linear warm-up over `warmup` steps to base * batch / 256, then a cosine to 0 at `steps` (learning_schedule)."""
    peak = base * batch / 256
    if step < warmup:
        return peak * step / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def tau(step: int, steps: int, base: float) -> float:
    """Target's momentum at `step` of `steps`: 1 - (1 - base) * (cos(pi * step / steps) + 1) / 2 (target_ema)."""
    return 1 - (1 - base) * (math.cos(math.pi * step / steps) + 1) / 2
