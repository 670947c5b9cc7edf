"""On each rank: what `Ranks` promises; with the argument "fail", an error of rank 1 alone."""

import sys

import pytest
import torch

from rsdnet.distributed import check_replicas, open_ranks
from rsdnet.errors import DataError, command


def main() -> None:
    with open_ranks("cpu") as ranks:
        if "fail" in sys.argv:
            with ranks.together():
                if ranks.rank == 1:
                    raise DataError("rank 1 cannot")
            return
        me = torch.full((2,), float(ranks.rank))
        assert ranks.sum_(me.clone()).tolist() == [1, 1]
        assert [t.tolist() for t in ranks.gather(me)] == [[0, 0], [1, 1]]
        assert ranks.collect({"rank": ranks.rank}) == [{"rank": 0}, {"rank": 1}]
        assert ranks.any(ranks.rank == 1)
        assert not ranks.any(False)
        assert [*range(5)][ranks.share(5)] == [[0, 2, 4], [1, 3]][ranks.rank]
        same = {"a": torch.arange(4.0), "b": torch.ones(3)}
        check_replicas(ranks, same, step=3)
        same["b"][1] += ranks.rank * 1e-7
        with pytest.raises(DataError, match=r"rank 1 and rank 0 differ in b after step 3 \(1 of 2 tensors\)"):
            check_replicas(ranks, same, step=3)
        print(f"{ranks.rank}:done", flush=True)


if __name__ == "__main__":
    command(main)
