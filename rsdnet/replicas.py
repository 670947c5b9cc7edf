"""Whether every rank holds the same bits: what data-parallel training rests on, and what nothing else would notice."""

import torch
from torch import Tensor

from rsdnet.errors import DataError, Echo
from rsdnet.ranks import Ranks


def check_replicas(ranks: Ranks, tensors: dict[str, Tensor], step: int) -> None:
    """Compare float32 tensors over the ranks, bit for bit but for permutations: the sum of each one's words.

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
