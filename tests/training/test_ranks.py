"""Several ranks: what they agree on, and what happens where they do not. Two gloo processes on a CPU."""

import pytest
import torch

from rsdnet.distributed import ALONE, open_ranks, words
from rsdnet.errors import DataError
from tests.support.torchrun import torchrun


def test_one_process_is_alone() -> None:
    with open_ranks("cpu") as ranks:
        assert (ranks.rank, ranks.world, ranks.main) == (0, 1, True)
        tensor = torch.ones(3)
        assert ranks.sum_(tensor) is tensor
        assert ranks.gather(tensor)[0] is tensor
        assert ranks.collect("a") == ["a"]
        assert [*range(5)][ranks.share(5)] == [*range(5)]


def test_an_error_alone_is_itself() -> None:
    with pytest.raises(DataError, match="of its own"), ALONE.together():
        raise DataError("of its own")


def test_batch_statistics_are_those_of_all_ranks() -> None:
    assert "alike" in torchrun(2, "tests.support.norm_child").stdout


def test_ranks_talk_and_disagree() -> None:
    done = torchrun(2, "tests.support.ranks_child")
    assert all(f"{rank}:done" in done.stdout for rank in range(2))


def test_an_error_of_one_rank_is_told_once() -> None:
    done = torchrun(2, "tests.support.ranks_child", "fail", expect=None)
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == ["error: rank 1 cannot"]


def test_words_tell_any_bit() -> None:
    tensor = torch.randn(100)
    other = tensor.clone()
    other.view(torch.int32)[7] ^= 1
    assert words(tensor) != words(other)
    assert words(tensor) == words(tensor.clone())
