"""The stem's convolution: kernels and references against torch's in float64."""

import pytest
import torch
from rsdnet.kernels import stem, stem_conv2d, stem_kernel
from rsdnet.kernels.stem import stem_conv2d_reference
from torch._functorch.aot_autograd import aot_module_simplified
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.nn.functional import conv2d

from tests.kernels.conftest import DEVICES, GPU, KERNEL

# Interpreted, products of bf16 are wrong (triton 3.6 and 3.7): there fp16 alone.
HALVES = [torch.float16, *([torch.bfloat16] if GPU else [])]
UNIT = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
SUMS = 5e-6  # float32 sums of exact products, by tensor cores
# B, C, H, W, filters, k, padding: one result and several programs of them; sides odd and even, read whole and not;
# windows of one tap, of even sides, without padding and with more than half; lines of 8 to 64 values; blocks of
# filters.
CASES = [
    (2, 1, 16, 16, 8, 7, 3), (1, 1, 7, 7, 3, 7, 0), (3, 3, 9, 13, 24, 7, 3), (1, 2, 1, 1, 4, 3, 1),
    (2, 5, 20, 7, 70, 5, 2), (1, 7, 10, 11, 16, 7, 3),
    (2, 1, 12, 9, 16, 4, 1), (2, 4, 8, 8, 5, 2, 0), (1, 1, 9, 10, 6, 1, 0), (1, 1, 6, 5, 140, 3, 2),
    (1, 6, 23, 40, 30, 3, 1),
]  # fmt: skip


def given(case, dtype, device="cpu"):
    """Images, weight and gradient of the result, of numbers that dtype holds."""
    b, c, height, width, filters, kernel, padding = case
    generator = torch.Generator().manual_seed(sum(case))
    images = torch.randn(b, c, height, width, generator=generator)
    weight = torch.randn(filters, c, kernel, kernel, generator=generator)
    high, wide = stem_kernel.sides_of(images, kernel, padding)
    grad = torch.randn(b, filters, high, wide, generator=generator)
    images, grad = (part.to(dtype).to(device) for part in (images, grad))
    return images, weight.to(dtype).float().to(device).requires_grad_(), grad


def in_float64(images, weight, grad, padding):
    """Result and gradient of the weight by torch."""
    weight = weight.detach().cpu().double().requires_grad_()
    out = conv2d(images.cpu().double(), weight, None, 2, padding)
    return out.detach(), torch.autograd.grad(out, weight, grad.cpu().double())[0]


def off(found, wanted):
    return float((found.detach().cpu().double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_results_and_gradients_are_those_of_torch_in_float64(case, dtype, launches):
    images, weight, grad = given(case, dtype, KERNEL)
    out = stem_conv2d(images, weight, padding=case[-1])
    assert (out.dtype, out.is_contiguous(memory_format=torch.channels_last)) == (dtype, True)
    slope = torch.autograd.grad(out, weight, grad)[0]
    assert slope.dtype == torch.float32
    result, gradient = in_float64(images, weight, grad, case[-1])
    assert out.shape == result.shape
    assert off(out, result) < UNIT[dtype]
    assert off(slope, gradient) < SUMS
    assert launches == {"stem_kernel": 1, "stem_backward_kernel": 1}


def test_shares_of_the_gradient_add_up(launches, monkeypatch):
    """As many programs as there are blocks of results, or fewer, of several turns each."""
    images, weight, grad = given((3, 1, 40, 40, 8, 7, 3), torch.float16, KERNEL)
    gradient = in_float64(images, weight, grad, 3)[1]
    for parts in (1, 4, 1000):
        monkeypatch.setattr(stem_kernel, "PARTS", parts)
        slope = torch.autograd.grad(stem_conv2d(images, weight, padding=3), weight, grad)[0]
        assert off(slope, gradient) < SUMS


def test_a_gradient_of_any_strides(launches):
    images, weight, grad = given((2, 1, 16, 16, 8, 7, 3), torch.float16, KERNEL)
    out = stem_conv2d(images, weight, padding=3)
    wanted = torch.autograd.grad(out, weight, grad, retain_graph=True)[0]
    strided = grad.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert torch.equal(torch.autograd.grad(out, weight, strided)[0], wanted)


def test_a_weight_of_the_images_type_gets_its_gradient_in_it(launches):
    images, weight, grad = given((2, 1, 16, 16, 8, 7, 3), torch.float16, KERNEL)
    half = weight.detach().half().requires_grad_()
    out = stem_conv2d(images, half, padding=3)
    assert torch.equal(out, stem_conv2d(images, weight, padding=3))
    slope = torch.autograd.grad(out, half, grad)[0]
    assert (slope.dtype, off(slope, in_float64(images, weight, grad, 3)[1]) < UNIT[torch.float16]) == (half.dtype, True)


def test_images_that_are_nan_spoil_their_neighbours_alone(launches):
    """A window reads 8 values where it has 7 taps, so one more result than its own; other rows and images none."""
    images, weight, _ = given((2, 1, 32, 32, 8, 7, 3), torch.float16, KERNEL)
    clean = stem_conv2d(images, weight, padding=3)
    images[0, 0, 16, 16] = torch.nan
    found = stem_conv2d(images, weight, padding=3)
    bad = found.isnan().any(1)
    rows, columns = bad[0].any(1).nonzero()[:, 0], bad[0].any(0).nonzero()[:, 0]
    assert not bad[1].any()
    assert (rows.min(), rows.max()) == (7, 9)  # 2i - 3 <= 16 <= 2i + 3
    assert columns.min() >= 6
    assert columns.max() == 9
    assert torch.equal(found.isnan() | (found == clean), torch.ones_like(found, dtype=torch.bool))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_padded_images_hold_what_windows_read_and_nothing_else(case):
    """The last value of the last window's lines lies inside, in a row of an even number of pixels, for reads of two."""
    _, c, height, width, _, kernel, padding = case
    images = given(case, torch.float16)[0]
    high, wide = conv2d(images.float(), torch.zeros(1, c, kernel, kernel), None, 2, padding).shape[2:]
    source = stem_kernel.padded(images, kernel, padding)
    line = stem_kernel.line_of(c, kernel)
    assert line >= kernel * c
    assert source.shape[1] == 2 * (high - 1) + kernel
    assert source.shape[2] % 2 == 0
    assert 0 <= source.shape[2] * c - (2 * (wide - 1) * c + line) < 2 * c
    rows, columns = min(height, source.shape[1] - padding), min(width, source.shape[2] - padding)
    inside = source[:, padding : padding + rows, padding : padding + columns]
    assert torch.equal(inside, images.permute(0, 2, 3, 1)[:, :rows, :columns])
    assert source.count_nonzero() == inside.count_nonzero()


def test_what_the_kernels_do_not_take_is_torchs(launches):
    """Images that want a gradient, of float32, of many channels; such that want none are taken."""
    for c, dtype, wants in ((1, torch.float32, False), (1, torch.bfloat16, True), (8, torch.bfloat16, False)):
        images, weight, _ = given((2, c, 12, 12, 4, 3, 1), dtype, KERNEL)
        images.requires_grad_(wants)
        assert not stem.takes(images, weight, 1)
        assert torch.equal(stem_conv2d(images, weight, padding=1), stem_conv2d_reference(images, weight, 1))
    assert stem.takes(given((2, 1, 12, 12, 4, 3, 1), torch.bfloat16, KERNEL)[0], weight[:, :1], 1)
    assert not launches


@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (2, 1, 2, 2)])
def test_without_results_torch_answers(shape, launches):
    images, weight = torch.zeros(shape, dtype=torch.float16, device=KERNEL), torch.zeros(4, 1, 5, 5, device=KERNEL)
    assert not stem.takes(images, weight, 0)
    if shape[0] == 0:
        assert stem_conv2d(images, weight, padding=0).shape == (0, 4, 2, 2)
    else:
        with pytest.raises(RuntimeError, match="size"):
            stem_conv2d(images, weight, padding=0)


def test_indices_stay_within_32_bits(monkeypatch):
    monkeypatch.setattr(stem, "on_gpu", lambda device: True)
    few, many = (torch.empty(b, 1, 128, 128, dtype=torch.bfloat16, device="meta") for b in (2048, 2**31 // 128**2 + 1))
    weight = torch.empty(64, 1, 7, 7, device="meta")
    assert stem.takes(few, weight, 3)
    assert not stem.takes(many, weight, 3)


def test_a_second_derivative_is_refused(launches):
    images, weight, grad = given((2, 1, 16, 16, 8, 7, 3), torch.float16, KERNEL)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(stem_conv2d(images, weight, padding=3), weight, grad, create_graph=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_op_is_torchs_convolution_and_passes_torchs_checks(case, device):
    """On a CPU by its reference."""
    images, weight, grad = given(case, torch.float16, device)
    kernel, padding = case[-2:]
    source, factors = stem_kernel.padded(images, kernel, padding), stem_kernel.factors_of(weight)
    assert torch.equal(stem_kernel.weight_of(factors, case[1], kernel), weight)
    arguments = source, factors.detach().requires_grad_(), kernel, *grad.shape[2:]
    out = stem.stem_op(*arguments)
    slope = stem_kernel.weight_of(torch.autograd.grad(out, arguments[1], grad)[0], case[1], kernel)
    result, gradient = in_float64(images, weight, grad, padding)
    assert off(out, result) < UNIT[torch.float16]
    assert off(slope, gradient) < SUMS
    if case == CASES[0]:
        torch.library.opcheck(stem.stem_op, arguments, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_without_a_break_images_are_padded_once(device, monkeypatch):
    """For two networks that see them."""
    monkeypatch.setattr(stem, "takes", lambda *_: True)  # the op, on a CPU too
    images, weight, grad = given((2, 1, 16, 16, 8, 7, 3), torch.float16, device)
    graphs = []

    def loss(weight):
        with torch.no_grad():
            target = stem_conv2d(images, 2 * weight, padding=3)
        return ((stem_conv2d(images, weight, padding=3) - target) * grad).float().sum()

    def backend(graph, inputs):
        def kept(graph, inputs):
            graphs.append(graph.code)
            return graph

        return aot_module_simplified(graph, inputs, fw_compiler=kept, partition_fn=min_cut_rematerialization_partition)

    wanted = torch.autograd.grad(loss(weight), weight)[0]
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend=backend)(weight), weight)[0]
    assert off(found, wanted.cpu().double()) < 1e-5
    # Of the images once; of each weight twice, and of its gradient.
    assert [graph.count("aten.constant_pad_nd") for graph in graphs] == [1 + 2 * 2, 2]


@pytest.mark.skipif(not GPU, reason="needs a CUDA GPU")
class TestOnGpu:
    def test_at_the_trainers_size_twice_the_same_bits(self):
        images, weight, grad = given((256, 1, 128, 128, 64, 7, 3), torch.bfloat16, "cuda")
        pairs = []
        for _ in range(2):
            out = stem_conv2d(images, weight, padding=3)
            pairs.append((out, torch.autograd.grad(out, weight, grad)[0]))
        assert all(torch.equal(one, other) for one, other in zip(*pairs, strict=True))
        result, gradient = in_float64(images, weight, grad, 3)
        assert off(pairs[0][0], result) < UNIT[torch.bfloat16]
        assert off(pairs[0][1], gradient) < SUMS

    def test_replayed_in_a_cuda_graph(self):
        images, weight, grad = given((8, 3, 32, 32, 64, 7, 3), torch.bfloat16, "cuda")
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.autograd.grad(stem_conv2d(images, weight, padding=3), weight, grad)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            out = stem_conv2d(images, weight, padding=3)
            slope = torch.autograd.grad(out, weight, grad)[0]
        images.copy_(torch.randn_like(images))
        graph.replay()
        result, gradient = in_float64(images, weight, grad, 3)
        assert off(out, result) < UNIT[torch.bfloat16]
        assert off(slope, gradient) < SUMS
