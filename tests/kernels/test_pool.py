"""max_pool2d: the kernels and the reference against torch's pooling in float64 and its gradient; the op."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rsdnet.kernels import pool, pool_kernel
from rsdnet.kernels.pool import NHWC, max_pool2d
from torch.nn.functional import max_pool2d as torch_max_pool2d

from tests.kernels.conftest import DEVICES, GPU, KERNEL, TYPES, Cut

# One pixel, one row, one column; odd and even sides; several bands, stretches and blocks of channels; channels that
# fill vectors and that do not.
SHAPES = [
    (1, 1, 1, 1), (2, 8, 1, 2), (1, 3, 2, 1), (2, 64, 8, 8), (1, 5, 7, 6), (2, 30, 19, 33), (1, 130, 3, 5),
    (1, 64, 11, 70), (1, 200, 1, 9),
]  # fmt: skip


def maps(*shape, dtype=torch.float32, seed=0, device="cpu"):
    """Channels-last, of few values, so that maxima tie."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-4, 5, shape, generator=generator).to(device, dtype).contiguous(memory_format=NHWC)


def slopes(*shape, dtype=torch.float32, seed=1, device="cpu"):
    """Eighths: sums of four are exact in every type."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(-31, 32, shape, generator=generator) / 8).to(device, dtype).contiguous(memory_format=NHWC)


def in_float64(x, grad):
    """Maxima and gradient of x by torch, float64."""
    x = x.detach().cpu().double().contiguous().requires_grad_()
    out = torch_max_pool2d(x, 3, 2, 1)
    return out.detach(), torch.autograd.grad(out, x, grad.cpu().double())[0]


def in_kernel(x, grad):
    """Maxima and gradient of x from both kernels, into NaN."""
    x, grad = x.to(KERNEL), grad.to(KERNEL)
    out, position = torch.full_like(grad, math.nan), torch.full_like(grad, 255, dtype=torch.uint8)
    pool_kernel.launch_max_pool(out, position, x)
    total = torch.full_like(x, math.nan)
    pool_kernel.launch_max_pool_backward(total, grad, position)
    return out.cpu().double(), total.cpu().double()


def by_reference(x, grad):
    """Maxima and gradient of x from the reference."""
    out, position = pool.max_pool_reference(x)
    return out.double(), pool.max_pool_backward_reference(grad, position, *x.shape[2:]).double()


def halves(shape):
    return *shape[:2], (shape[2] + 1) // 2, (shape[3] + 1) // 2


@pytest.mark.parametrize("compute", [in_kernel, by_reference])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_maxima_and_gradient_are_torchs_in_float64(compute, shape, dtype):
    x, grad = maps(*shape, dtype=dtype), slopes(*halves(shape), dtype=dtype)
    for got, want in zip(compute(x, grad), in_float64(x, grad), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("compute", [in_kernel, by_reference])
@settings(max_examples=25)
@given(
    b=st.integers(1, 2), c=st.sampled_from([1, 3, 8, 16]), height=st.integers(1, 21), width=st.integers(1, 21),
    seed=st.integers(0, 999), dtype=st.sampled_from(TYPES), low=st.sampled_from([0.0, 0.3, 1.0]),
    nans=st.sampled_from([0.0, 0.1, 1.0]),
)  # fmt: skip
def test_infinities_and_nan_go_where_torch_sends_them(compute, b, c, height, width, seed, dtype, low, nans):
    """-inf as padding has it, in windows at each border too; of several NaN the last has the gradient."""
    shape = b, c, height, width
    x, grad = maps(*shape, dtype=dtype, seed=seed), slopes(*halves(shape), dtype=dtype, seed=seed)
    chance = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    x[chance < low] = -math.inf
    x[chance > 1 - nans] = math.nan
    for got, want in zip(compute(x, grad), in_float64(x, grad), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("launch", [(1, 1), (2, 3), (8, 64)])
def test_tiles_of_any_size_give_the_same(monkeypatch, launch):
    monkeypatch.setattr(pool_kernel, "FORWARD", pool_kernel.Launch(*launch))
    monkeypatch.setattr(pool_kernel, "BACKWARD", pool_kernel.Launch(*launch))
    x, grad = maps(2, 64, 13, 18, dtype=torch.bfloat16), slopes(2, 64, 7, 9, dtype=torch.bfloat16)
    for got, want in zip(in_kernel(x, grad), in_float64(x, grad), strict=True):
        assert torch.equal(got, want)


@settings(max_examples=100)
@given(
    c=st.integers(1, 3000), wide=st.integers(1, 2000), itemsize=st.sampled_from([2, 4]),
    warps=st.sampled_from([1, 4, 8]),
)  # fmt: skip
def test_a_thread_holds_one_vector_at_most(c, wide, itemsize, warps):
    columns, block, taken = pool_kernel.pool_tile(c, wide, itemsize, warps)
    threads = taken * pool_kernel.LANES
    assert 1 <= taken <= warps
    assert columns & (columns - 1) == block & (block - 1) == 0
    assert columns == 1 or columns * block * itemsize <= threads * pool_kernel.VECTOR


def test_the_stems_rows_are_whole_programs():
    assert pool_kernel.pool_tile(64, 32, 2, 8) == (32, 64, 8)


def test_sums_of_gradients_are_in_float32():
    """One pixel is the maximum of four windows."""
    x = torch.zeros(1, 8, 4, 4, dtype=torch.bfloat16).contiguous(memory_format=NHWC)
    x[:, :, 1, 1] = 1
    grad = torch.tensor([[256, 0.75], [0.75, 0.5]], dtype=torch.bfloat16)  # in bfloat16 256 + 0.75 is 256
    grad = grad.expand(1, 8, 2, 2).contiguous(memory_format=NHWC)
    for compute in (in_kernel, by_reference):
        _, total = compute(x, grad)
        assert (total[:, :, 1, 1] == 258).all()
        assert total.sum() == 8 * 258


# ---- the op -------------------------------------------------------------------------------------------------


def plain_and_ours(x, grad):
    """Maxima and gradient by torch's pooling, and by max_pool2d."""
    for function in (pool.max_pool2d_reference, max_pool2d):
        leaf = x.detach().requires_grad_()
        out = function(leaf)
        yield out, torch.autograd.grad(out, leaf, grad)[0]


@pytest.mark.parametrize("dtype", TYPES)
def test_one_launch_forward_and_one_backward(launches, dtype):
    x, grad = maps(2, 16, 9, 12, dtype=dtype, device=KERNEL), slopes(2, 16, 5, 6, dtype=dtype, device=KERNEL)
    (out, total), (ours, our_total) = plain_and_ours(x, grad)
    assert torch.equal(ours, out)
    assert torch.equal(our_total, total)
    assert ours.dtype == our_total.dtype == dtype
    assert ours.is_contiguous(memory_format=NHWC)
    assert our_total.is_contiguous(memory_format=NHWC)
    assert launches == {"max_pool_kernel": 1, "max_pool_backward_kernel": 1}


@pytest.mark.parametrize("how", ["contiguous", "expanded", "transposed", "sliced"])
def test_a_gradient_of_any_strides(launches, how):
    x = maps(2, 16, 10, 10, device=KERNEL)
    grad = {
        "contiguous": lambda: slopes(2, 16, 5, 5).contiguous(),
        "expanded": lambda: slopes(1, 1, 1, 1).expand(2, 16, 5, 5),
        "transposed": lambda: slopes(2, 16, 5, 5).transpose(2, 3),
        "sliced": lambda: slopes(2, 17, 5, 5)[:, 1:],
    }[how]().to(KERNEL)
    (_, total), (_, ours) = plain_and_ours(x, grad)
    assert torch.equal(ours, total)
    assert launches["max_pool_backward_kernel"] == 1


@pytest.mark.parametrize(
    "x",
    [
        maps(2, 16, 6, 6).contiguous(),
        maps(2, 16, 6, 6, dtype=torch.float64),
        maps(2, 16, 6, 6, device=KERNEL)[:, 1:],  # moved to a GPU, it would have no gap
        maps(1, 16, 6, 6)[0],
        maps(0, 16, 6, 6),
    ],
)
def test_what_the_kernel_does_not_take_goes_to_torch(launches, x):
    x = x.to(KERNEL)
    out = max_pool2d(x.requires_grad_())
    assert torch.equal(out, pool.max_pool2d_reference(x))
    out.sum().backward()
    assert not launches


def test_an_odd_start_in_memory(launches):
    dense = torch.randn(6 * 6 * 16 + 1, device=KERNEL)[1:].view(1, 6, 6, 16).permute(0, 3, 1, 2)
    assert torch.equal(max_pool2d(dense), pool.max_pool2d_reference(dense))
    assert launches == {"max_pool_kernel": 1}


def test_two_runs_are_bitwise_equal(launches):
    x, grad = torch.randn(2, 16, 9, 9, device=KERNEL), torch.randn(2, 16, 5, 5, device=KERNEL)
    x = x.contiguous(memory_format=NHWC)
    (_, first), (_, second) = (list(plain_and_ours(x, grad))[1] for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    x = maps(2, 8, 7, 6, device=device)
    torch.library.opcheck(pool.pool_op, (x.requires_grad_(),))
    out, position = pool.pool_op(x.detach())
    torch.library.opcheck(pool.backward_op, (out, position, 7, 6))
    torch.library.opcheck(pool.pool_op, (maps(2, 1, 3, 1, device=device).contiguous().requires_grad_(),))


def test_gradcheck_of_the_op_by_the_reference():
    x = torch.randperm(2 * 3 * 5 * 6).double().view(2, 3, 5, 6).contiguous(memory_format=NHWC).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pool.pool_op(x)[0], (x,))


def test_a_second_derivative_is_refused(launches):
    x = maps(1, 8, 4, 4, device=KERNEL).requires_grad_()
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(max_pool2d(x).sum(), x, create_graph=True)


def test_a_result_that_gets_no_gradient_gives_none(launches):
    x = maps(1, 8, 4, 4, device=KERNEL).requires_grad_()
    Cut.apply(max_pool2d(x)).sum().backward()
    assert x.grad is None


def test_compiles_whole_with_any_batch(launches):
    """The op inside a graph, between operations of torch."""
    backend = "inductor" if GPU else "aot_eager"
    compiled = torch.compile(lambda x: max_pool2d(x.relu()).square(), fullgraph=True, dynamic=True, backend=backend)
    for b in (2, 3, 5):
        x = maps(b, 16, 7, 8, device=KERNEL).requires_grad_()
        with torch.compiler.set_stance("fail_on_recompile" if b > 2 else "default"):
            out = compiled(x)
        total = torch.autograd.grad(out.sum(), x)[0]
        wanted = pool.max_pool2d_reference(x.relu()).square()
        assert torch.equal(out, wanted)
        torch.testing.assert_close(total, torch.autograd.grad(wanted.sum(), x)[0], rtol=0, atol=0)
    assert launches["max_pool_kernel"] == launches["max_pool_backward_kernel"] == 3


@pytest.mark.skipif(not GPU, reason="needs a GPU")
class TestOnGpu:
    def test_a_batch_of_the_trainer(self):
        x = torch.randn(64, 64, 64, 64, device="cuda").bfloat16().contiguous(memory_format=NHWC)
        grad = slopes(64, 64, 32, 32, dtype=torch.bfloat16, device="cuda")
        for got, want in zip(in_kernel(x, grad), in_float64(x, grad), strict=True):
            assert torch.equal(got, want)

    def test_beyond_two_to_the_31_elements(self):
        images = 2**31 // 64**3 + 1
        x = torch.zeros(images, 64, 64, 64, dtype=torch.bfloat16, device="cuda").permute(0, 3, 1, 2)
        x[-1:] = maps(1, 64, 64, 64, dtype=torch.bfloat16)
        grad = torch.ones(images, 32, 32, 64, dtype=torch.bfloat16, device="cuda").permute(0, 3, 1, 2)
        out = max_pool2d(x.requires_grad_())
        total = torch.autograd.grad(out, x, grad)[0]
        for got, want in zip((out, total), in_float64(x[-1:], grad[-1:]), strict=True):
            assert torch.equal(got[-1:].cpu().double(), want)
        assert (out[:-1] == 0).all()
        assert total[:-1].float().sum((1, 2, 3)).eq(64 * 32**2).all()

    def test_two_launches_and_replays_in_a_cuda_graph(self):
        x = maps(8, 64, 16, 16, dtype=torch.bfloat16, device="cuda").requires_grad_()
        grad = slopes(8, 64, 8, 8, dtype=torch.bfloat16, device="cuda")

        def step():
            out = max_pool2d(x)
            return out, *torch.autograd.grad(out, x, grad)

        step()
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            step()
            torch.cuda.synchronize()
        names = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
        assert sorted(names) == ["max_pool_backward_kernel", "max_pool_kernel"]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = step()
        for seed in range(3):
            with torch.no_grad():
                x.copy_(maps(8, 64, 16, 16, seed=seed))
            graph.replay()
            for got, want in zip(captured, step(), strict=True):
                assert torch.equal(got, want)
