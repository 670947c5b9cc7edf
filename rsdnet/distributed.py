"""The ranks of a run: torch.distributed under `torchrun`, or one process alone.

Every rank runs the same program on its part of each batch. All communication but that of gradients and BatchNorm is
here.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rsdnet.errors import DataError, Echo

# How long a rank waits for the others before it gives up: longer than the slowest checkpoint or evaluation.
PATIENCE = datetime.timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """This process: rank `rank` of `world`, number `local` on its machine, on `device`."""

    rank: int
    world: int
    local: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this is the rank that prints and writes files."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, in the order of ranks; all have this one's shape and type."""
        if self.world == 1:
            return [tensor]
        found = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.world)]
        dist.all_gather(found, tensor.contiguous())
        return found

    def collect(self, thing: Any) -> list[Any]:
        """Every rank's object, in the order of ranks; any that pickles."""
        if self.world == 1:
            return [thing]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, thing)
        return found

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on any rank."""
        return any(self.collect(flag))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """A DataError of one rank inside becomes one of all ranks, printed once."""
        own = ""
        try:
            yield
        except DataError as error:
            own = str(error)
        problems = self.collect(own)
        if any(problems):
            first = next(rank for rank, problem in enumerate(problems) if problem)
            raise (DataError if first == self.rank else Echo)(problems[first])

    def barrier(self) -> None:
        """Wait for every rank."""
        if self.world > 1:
            dist.barrier(device_ids=[self.local] if self.device.type == "cuda" else None)

    def share(self, count: int) -> slice:
        """This rank's part of `count` items: every world-th."""
        return slice(self.rank, count, self.world)


ALONE = Ranks(0, 1, 0, torch.device("cpu"))


@contextlib.contextmanager
def open_ranks(device: str) -> Iterator[Ranks]:
    """The process group of torchrun's environment, while entered; without torchrun, this process alone.

    device: "cpu", "cuda", or "auto" for the GPU where there is one; each rank of a machine takes its own.
    Raises DataError where a GPU is asked for and there is none, there are more ranks than GPUs, or another rank is lost
    while this one waits for it.
    """
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise DataError(
            "--device cuda: torch sees no CUDA GPU here; use --device cpu, or install a CUDA build of torch"
        )
    gpu = found and device != "cpu"
    rank, world, local = (int(os.environ.get(name, least)) for name, least in VARIABLES)
    if gpu and local >= torch.cuda.device_count():
        raise DataError(
            f"rank {rank} is number {local} of its machine, which has {torch.cuda.device_count()} GPUs: "
            "use torchrun --nproc-per-node of as many or fewer"
        )
    home = torch.device("cuda", local) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(home)
    if "RANK" not in os.environ:
        yield Ranks(0, 1, 0, home)
        return
    # gloo for objects and CPU tensors, NCCL for CUDA tensors
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    dist.init_process_group(
        backend, store=_store(), rank=rank, world_size=world, timeout=PATIENCE, device_id=home if gpu else None
    )
    try:
        yield Ranks(rank, world, local, home)
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # gloo's have no type of their own
            raise
        reason = str(error).splitlines()[0].split(". ")[0]
        raise DataError(
            f"rank {rank} has lost another one, which tells why if it could: go on with --resume from the last "
            f"checkpoint ({reason})"
        ) from None
    finally:
        dist.destroy_process_group()


def _store() -> dist.Store:
    """The key-value store by which ranks find each other.

    torchrun keeps its store over a restart: without a prefix for each start, ranks would look for the lost ones. On
    several machines each agent counts restarts for itself: there torchrun must make a new store (docs/cluster.md).
    """
    store, _, _ = next(dist.rendezvous("env://"))
    if os.environ.get("LOCAL_WORLD_SIZE") != os.environ.get("WORLD_SIZE"):
        return store
    return dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


VARIABLES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))  # torch.distributed.run's, and their values alone


def check_replicas(ranks: Ranks, tensors: dict[str, Tensor], step: int) -> None:
    """Compare float32 tensors over the ranks, by a checksum of each: the sum of its 32-bit words.

    Costs one pass over them and a message of 8 bytes a tensor.
    Raises DataError, on every rank, naming the first tensor and rank that differ.
    """
    if ranks.world == 1:
        return
    names = sorted(tensors)
    sums = torch.stack([words(tensors[name]) for name in names])
    first, *others = torch.stack(ranks.gather(sums)).cpu()
    for rank, other in enumerate(others, 1):
        if (differ := (other != first).nonzero().flatten()).numel():
            raise (DataError if ranks.main else Echo)(
                f"rank {rank} and rank 0 differ in {names[int(differ[0])]} after step {step} ({len(differ)} of "
                f"{len(names)} tensors): a fault of the machine or of a network; go on with --resume from the last "
                "checkpoint"
            )


def words(tensor: Tensor) -> Tensor:
    """() int64: the sum of the tensor's 32-bit words, modulo 2^64; of another type, of its values in float32."""
    return tensor.detach().float().view(torch.int32).sum(dtype=torch.int64)
