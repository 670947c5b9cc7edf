"""Out of memory: one line with the settings that take less, and how much each saves."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from rsdnet.config import Config
from rsdnet.console import size
from rsdnet.distributed import Ranks
from rsdnet.errors import DataError
from rsdnet.model.encoders import DEPTHS
from rsdnet.training.run import Run

# Words of a RuntimeError that is no torch.OutOfMemoryError: torch on a CPU; CUDA outside the allocator; cuBLAS; C++;
# oneDNN, which does not say what it lacks.
SAID = (
    "DefaultCPUAllocator: can't allocate memory",
    "posix_memalign failed",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
    "could not create a primitive",
)
SMALLEST = 2  # samples of a micro-batch: BatchNorm of the heads takes no single one


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` says that a device, or the host, has no more memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


@contextlib.contextmanager
def explained(cfg: Config, ranks: Ranks, run: Run | None = None, arena: Tensor | None = None) -> Iterator[None]:
    """Turn an out-of-memory error inside into a DataError that names the options to save memory.

    run: the run whose steps are inside; None: before its first step. arena: the cache of raw bands, if any.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        cached = len(arena) if arena is not None and arena.is_cuda else 0
        when = "before the first step" if run is None else f"at step {run.step + 1}"
        raise DataError(f"{place(ranks)} {when} ({use(cfg, ranks)}): {levers(cfg, ranks, cached)}") from None


def place(ranks: Ranks) -> str:
    """The memory and the rank, in words."""
    memory = "out of GPU memory" if ranks.device.type == "cuda" else "out of memory"
    return memory + (f" on rank {ranks.rank}" if ranks.world > 1 else "")


def use(cfg: Config, ranks: Ranks) -> str:
    """Size of the micro-batches and, on a GPU, the measured peak."""
    now = f"micro-batches of {cfg.optim.batch // ranks.world // cfg.optim.accumulate:,}"
    if ranks.device.type != "cuda":
        return now
    peak, total = torch.cuda.max_memory_allocated(ranks.device), torch.cuda.get_device_properties(ranks.device)
    return f"{now}; tensors took {size(peak, binary=True)} at most, of {size(total.total_memory, binary=True)}"


def levers(cfg: Config, ranks: Ranks, cached: int) -> str:
    """The options that save memory, each with its size and its effect on the results."""
    found = []
    if cached:
        found.append(f"--cache host frees {size(cached, binary=True)}")
    if cfg.model.encoder in DEPTHS and not cfg.model.recompute:
        found.append("--recompute keeps the inputs of the encoder's blocks alone, for the same results")
    batch = cfg.optim.batch // ranks.world
    if count := next_division(cfg.optim.accumulate, batch):
        samples = batch // count
        seen = samples * (ranks.world if cfg.model.batchnorm == "sync" else 1)
        found.append(f"--accumulate {count} takes {samples:,} samples a micro-batch, and BatchNorm then sees {seen:,}")
    return "; ".join([*found, f"{'or' if found else 'use'} a smaller --size, --encoder or --batch"])


def next_division(now: int, batch: int) -> int | None:
    """The next larger number of micro-batches that divides a rank's batch; None: they are the smallest already."""
    return next((count for count in range(now + 1, batch // SMALLEST + 1) if batch % count == 0), None)
