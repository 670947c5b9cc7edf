"""Out of memory: which settings of the run would fit its device, each of them tried there."""

import contextlib
import dataclasses
import gc
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

import torch
from rich.console import Console
from torch import Tensor

from rsdnet.augment import AHEAD
from rsdnet.config import Config
from rsdnet.distributed import Ranks
from rsdnet.errors import DataError
from rsdnet.monitor.flops import peak_memory
from rsdnet.training.precision import AUTOCAST, precision_of
from rsdnet.training.step import Engine, compiles

# How torch says so where it raises a RuntimeError: on a CPU; CUDA outside the allocator; cuBLAS; C++.
SAID = (
    "DefaultCPUAllocator: can't allocate memory",
    "posix_memalign failed",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
)
SMALLEST = 2  # samples of a micro-batch: BatchNorm of the heads takes no single one
STEPS = 2  # from the second on, the optimizer's state is there
PARTS = 2  # micro-batches of them: from the second on, gradients are there while activations are made


class OutOfMemory(Exception):
    """A run out of memory. Its arguments: step, from 1; bytes of a cache on the device."""


class Setting(NamedTuple):
    """What a run would be started with."""

    recompute: bool
    accumulate: int
    cached: int  # bytes of a cache on the device


class Running(Protocol):
    """The run whose steps are watched (rsdnet/training/run.py)."""

    step: int


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` says that a device, or the host, has no more memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


@contextlib.contextmanager
def watched(run: Running, arena: Tensor | None) -> Iterator[None]:
    """Raise OutOfMemory where the steps inside run out of memory. arena: the cache of raw bands, if there is one."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(run.step + 1, len(arena) if arena is not None and arena.is_cuda else 0) from None
        raise


def advised(train: Callable[[], int], cfg: Config, ranks: Ranks, console: Console) -> int:
    """What `train` returns. Raises DataError where it runs out of memory, with the settings of `cfg` that fit.

    They are tried only once the exception is gone, and with it everything that the run held.
    """
    try:
        return train()
    except OutOfMemory as error:
        step, cached = error.args
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        step, cached = 0, 0
    raise DataError(advice(cfg, ranks, step, cached, console))


def advice(cfg: Config, ranks: Ranks, step: int, cached: int, console: Console) -> str:
    """One line: what ran out, and what fits instead. step: 0 before the first. cached: as in `Setting`."""
    now = Setting(cfg.model.recompute, cfg.optim.accumulate, cached)
    batch = cfg.optim.batch // ranks.world

    def fits(setting: Setting) -> int | None:
        console.print(f"out of memory: trying {options(setting, now)}", style="yellow", highlight=False)
        return peak(cfg, setting, batch, ranks.device)

    begun = (
        f"{place(ranks)} {f'at step {step}' if step else 'before the first step'} ({sizes(now, batch, ranks.device)})"
    )
    if found := search(now, batch, fits):
        return f"{begun}: " + ", ".join(
            f"{options(setting, now)} fits ({remark(setting, now, taken, cfg, ranks)})"
            for setting, taken in found.items()
        )
    least = smallest(now, batch)
    tried = f", nor does {options(least, now)} ({micro_batches(least, batch)})" if least != now else ""
    return f"{begun}: it does not fit{tried}; use a smaller --size, --encoder, --width or --batch"


def search(now: Setting, batch: int, fits: Callable[[Setting], int | None]) -> dict[Setting, int]:
    """Of each kind of settings the first that fits, with its peak in bytes; none where not even the smallest does.

    The kinds: the cache elsewhere; activations recomputed; the largest micro-batches; and, where recomputing alone is
    not enough, the largest with it. fits: the peak of a setting that is tried, or None. batch: samples a rank.
    """
    least = smallest(now, batch)
    tried: dict[Setting, int | None] = {now: None}
    found: dict[Setting, int] = {}

    def first(settings: Iterable[Setting]) -> Setting | None:
        for setting in settings:
            if setting not in tried:
                tried[setting] = fits(setting)
            taken = tried[setting]
            if taken is not None:
                found[setting] = taken
                return setting
        return None

    if first([least]) is None:
        return {}
    counts, last = accumulations(now.accumulate, batch), found.copy()
    found.clear()
    first([now._replace(cached=0)])
    again = first([now._replace(recompute=True)])
    divided = first(now._replace(accumulate=count) for count in counts)
    if again is None:
        larger = [count for count in counts if divided is None or count < divided.accumulate]
        first(now._replace(recompute=True, accumulate=count) for count in larger)
    return found or last


def accumulations(now: int, batch: int) -> list[int]:
    """Micro-batches a step to try beyond `now`, each at least twice as many as the one before."""
    counts = [now]
    for count in range(2 * now, batch // SMALLEST + 1, now):
        if batch % count == 0 and count >= 2 * counts[-1]:
            counts.append(count)
    return counts[1:]


def smallest(now: Setting, batch: int) -> Setting:
    """What takes the least memory."""
    return Setting(recompute=True, accumulate=[now.accumulate, *accumulations(now.accumulate, batch)][-1], cached=0)


# ---- trying --------------------------------------------------------------------------------------------------------


def peak(cfg: Config, setting: Setting, batch: int, device: torch.device) -> int | None:
    """Bytes that steps of `setting` take at most, batch samples a rank; None where there are not so many."""
    release(device)
    try:
        attempt(cfg, setting, batch, device)
        return peak_memory(device)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    return None


def release(device: torch.device) -> None:
    """Give back what nothing refers to any more, and begin to count the peak anew."""
    torch._dynamo.reset()  # compiled code refers to its networks
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def attempt(cfg: Config, setting: Setting, batch: int, device: torch.device) -> None:
    """The first steps of a run on random views, beside the cache and the views of the batches to come."""
    parts, micro = min(setting.accumulate, PARTS), batch // setting.accumulate
    tried = dataclasses.replace(
        cfg,
        model=dataclasses.replace(cfg.model, recompute=setting.recompute),
        optim=dataclasses.replace(cfg.optim, accumulate=parts),
        run=dataclasses.replace(cfg.run, cuda_graph="off"),
    )
    dtype = AUTOCAST[precision_of(cfg, device)]
    shape = (2, batch, cfg.views.channels, cfg.views.size, cfg.views.size)
    cache = torch.empty(setting.cached, dtype=torch.uint8, device=device)
    views = [torch.randn(shape, dtype=dtype, device=device) for _ in range(1 + AHEAD)]
    engine = Engine(tried, device, compile=compiles(cfg, device), dtype=dtype)
    engine.set(lr=0.0, tau=1.0)
    for _, each in zip(range(STEPS), views, strict=False):
        engine.step(each[:, : parts * micro])
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    del cache


# ---- words ---------------------------------------------------------------------------------------------------------


def place(ranks: Ranks) -> str:
    """What ran out, and on which rank."""
    return f"out of {'GPU ' if ranks.device.type == 'cuda' else ''}memory" + (
        f" on rank {ranks.rank}" if ranks.world > 1 else ""
    )


def sizes(now: Setting, batch: int, device: torch.device) -> str:
    """What the run took, and what there is."""
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    parts = [
        micro_batches(now, batch),
        *([f"{gib(total)} in all"] if total else []),
        *([f"{gib(now.cached)} of them --cache device"] if now.cached else []),
    ]
    return "; ".join(parts)


def micro_batches(setting: Setting, batch: int) -> str:
    return f"micro-batches of {batch // setting.accumulate:,}"


def options(setting: Setting, now: Setting) -> str:
    """The options that make `now` a `setting`."""
    changed = [
        ("--cache host", setting.cached != now.cached),
        ("--recompute", setting.recompute != now.recompute),
        (f"--accumulate {setting.accumulate}", setting.accumulate != now.accumulate),
    ]
    return " ".join(option for option, wanted in changed if wanted)


def remark(setting: Setting, now: Setting, taken: int, cfg: Config, ranks: Ranks) -> str:
    """What a setting takes, on a GPU, and what it does to the results."""
    samples = cfg.optim.batch // ranks.world // setting.accumulate
    seen = samples * (ranks.world if cfg.model.batchnorm == "sync" else 1)
    same = setting.accumulate == now.accumulate
    effect = "the same results" if same else f"BatchNorm then sees {seen:,} samples at a time"
    return f"{gib(taken)}; {effect}" if ranks.device.type == "cuda" else effect


def gib(count: float) -> str:
    """Bytes, in GiB."""
    return f"{count / 2**30:.{0 if count >= 10 * 2**30 else 2}f} GiB"
