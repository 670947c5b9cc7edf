"""Which tensors may skip the dispatcher."""

import pytest
import torch
from rsdnet.kernels._dispatch import eager
from torch._subclasses.fake_tensor import FakeTensorMode


class Watched(torch.Tensor):
    pass


def test_tensors_and_parameters_hold_values() -> None:
    assert eager(torch.ones(2))
    assert eager(torch.nn.Parameter(torch.ones(2)))


def test_what_stands_for_values_or_dispatches_by_itself_must_see_the_op() -> None:
    with FakeTensorMode():
        assert not eager(torch.ones(2))
    assert not eager(torch.ones(2).as_subclass(Watched))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_nothing_is_skipped_while_compiling(backend: str) -> None:
    compiled = torch.compile(lambda x: x + 1 if eager(x) else x - 1, fullgraph=True, backend=backend)
    assert compiled(torch.ones(())) == 0
