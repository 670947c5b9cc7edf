"""byol_loss: against cosine_similarity in float64 and autograd of the formula, and the kernel against the reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rsdnet.kernels import byol_loss, loss

GPU = torch.cuda.is_available()
DEVICES = ["cpu", *(["cuda"] if GPU else [])]
KERNEL = DEVICES[-1]
SHAPES = [(1, 1), (2, 3), (3, 17), (17, 2), (5, 1023), (3, 1025), (2, 8192)]
TYPES = [torch.float32, torch.bfloat16, torch.float16]


def four(b, d, dtype=torch.float32, device="cpu", seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(b, d, generator=generator).to(device, dtype) for _ in range(4)]
    return [x.requires_grad_(grad and k < 2) for k, x in enumerate(made)]


def formula(q1, q2, z1, z2):
    """Grill et al. 2020, eq. 2 by torch's cosine similarity, float64, on rows far from zero."""
    q1, q2, z1, z2 = (x.double() for x in (q1, q2, z1, z2))
    cosine = torch.nn.functional.cosine_similarity
    return (2 - 2 * cosine(q1, z2.detach())).mean() + (2 - 2 * cosine(q2, z1.detach())).mean()


def in_kernel(q1, q2, z1, z2):
    b, d = q1.shape
    q1, q2, z1, z2 = (x.detach().to(KERNEL) for x in (q1, q2, z1, z2))
    partial = torch.full((2, -(-b // loss.loss_block(d)[0])), math.nan, device=KERNEL)
    grads = torch.full((2, b, d), math.nan, device=KERNEL)
    loss.launch_byol_loss(q1, q2, z1, z2, partial, grads)
    return (partial.sum() / b).cpu(), grads.cpu()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_loss_and_gradient_are_those_of_float64(device, shape, dtype):
    inputs = four(*shape, dtype, device)
    value = byol_loss(*inputs)
    assert value.dtype == torch.float32
    assert -1e-6 <= value <= 8 + 1e-6
    expected = formula(*inputs)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=2e-6)
    grads = torch.autograd.grad(value * 3, inputs[:2])
    wanted = torch.autograd.grad(expected * 3, inputs[:2])
    scale = 3 * 2 / shape[0]  # one unit in the last place of the type, on top of float32's own rounding
    for grad, want, x in zip(grads, wanted, inputs, strict=False):
        assert grad.dtype == dtype
        norm = x.detach().double().norm(dim=1, keepdim=True)
        assert ((grad.double() - want).abs() * norm <= torch.finfo(dtype).eps * want.abs() * norm + scale * 1e-6).all()


@settings(deadline=None, max_examples=20)
@given(b=st.integers(1, 9), d=st.integers(1, 40), exponent=st.integers(-9, 9), seed=st.integers(0, 99))
def test_formula_is_cosine_similarity_and_reference_is_its_gradient(b, d, exponent, seed):
    inputs = [(x.detach() * 10.0**exponent).requires_grad_(k < 2) for k, x in enumerate(four(b, d, seed=seed))]
    doubled = [x.detach().double().requires_grad_(k < 2) for k, x in enumerate(inputs)]
    value, grads = loss.byol_loss_reference(*(x.detach() for x in inputs))
    expected = loss.byol_loss_formula(*doubled)
    if all(x.detach().norm(dim=1).min() > 1e-5 for x in inputs):
        torch.testing.assert_close(expected, formula(*inputs))
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=2e-6)
    for grad, want, q in zip(grads, torch.autograd.grad(expected, doubled[:2]), doubled, strict=False):
        size = 2 / b / q.detach().norm(dim=1, keepdim=True).clamp(min=1e-6)  # of the two terms that may cancel
        assert ((grad - want).abs() <= 1e-5 * size).all()


@pytest.mark.parametrize("norm", [1e-9, 0.5e-6, 2e-6])
def test_gradient_is_exact_where_the_epsilon_is_active_and_where_it_is_not(norm):
    inputs = four(4, 6, seed=1)
    with torch.no_grad():
        for x in inputs[:2]:
            x.mul_(norm / x.norm(dim=1, keepdim=True))
    doubled = [x.detach().double().requires_grad_(k < 2) for k, x in enumerate(inputs)]
    assert torch.autograd.gradcheck(lambda q1, q2: loss.byol_loss_formula(q1, q2, *doubled[2:]), doubled[:2],
                                    eps=norm * 1e-4, rtol=1e-3, atol=1.0)  # fmt: skip
    wanted = torch.stack(torch.autograd.grad(loss.byol_loss_formula(*doubled), doubled[:2]))
    for _, grads in (loss.byol_loss_reference(*(x.detach() for x in inputs)), in_kernel(*inputs)):
        torch.testing.assert_close(grads.double(), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_kernel_is_the_reference(shape, dtype):
    inputs = four(*shape, dtype, seed=2, grad=False)
    value, grads = in_kernel(*inputs)
    expected, wanted = loss.byol_loss_reference(*inputs)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(grads, wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()) + 1e-7)


def test_kernel_takes_rows_at_any_stride():
    inputs = [x.detach().repeat(1, k + 2)[:, :13] for k, x in enumerate(four(5, 13))]
    value, grads = in_kernel(*inputs)
    expected, wanted = loss.byol_loss_reference(*(x.contiguous() for x in inputs))
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grads, wanted)


@pytest.mark.parametrize("device", DEVICES)
def test_op_takes_columns_at_any_stride_and_is_deterministic(device):
    inputs = [x.detach().to(device).t().contiguous().t().requires_grad_(k < 2) for k, x in enumerate(four(33, 20))]
    results = []
    for _ in range(2):
        value = byol_loss(*inputs)
        results.append((value, *torch.autograd.grad(value, inputs[:2])))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    torch.testing.assert_close(results[0][0].double(), formula(*inputs), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("compute", [loss.byol_loss_reference, in_kernel])
@pytest.mark.parametrize("row", [0.0, 1e-30, 1e19, 1e30])
def test_zero_and_huge_rows_stay_finite(compute, row):
    inputs = four(3, 8, grad=False)
    for x in inputs:
        x[1] = row
    value, grads = compute(*inputs)
    assert value.isfinite()
    assert grads.isfinite().all()


def test_parallel_opposite_and_zero_rows():
    x, zero = torch.randn(4, 7), torch.zeros(4, 7)
    assert byol_loss(x, x, 3 * x, 5 * x).item() == pytest.approx(0, abs=1e-5)
    assert byol_loss(x, x, -x, -x).item() == pytest.approx(8, abs=1e-5)
    assert byol_loss(zero, x, x, x).item() == pytest.approx(2, abs=1e-5)  # cosine 0 by the epsilon, and cosine 1
    assert byol_loss(x, x, x, zero).item() == pytest.approx(2, abs=1e-5)


def test_gradients_of_half_precision_survive_a_loss_scale():
    """In float16 a mean over many rows underflows unless it is kept in float32 until the scale is in."""
    inputs = [x.detach().mul(30).half().requires_grad_(k < 2) for k, x in enumerate(four(4096, 64))]
    grads = torch.autograd.grad(byol_loss(*inputs) * 2**16, inputs[:2])
    wanted = torch.autograd.grad(formula(*inputs) * 2**16, inputs[:2])
    for grad, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(grad.double(), want.double(), rtol=2**-9, atol=1e-3 * float(want.abs().max()))


def test_targets_get_no_gradient_and_either_prediction_may_be_frozen():
    q1, q2, z1, z2 = four(4, 5)
    byol_loss(q1, q2.detach(), z1.requires_grad_(), z2.requires_grad_()).backward()
    assert q1.grad is not None
    assert z1.grad is None
    assert z2.grad is None
    with torch.no_grad():
        assert not byol_loss(q1, q2, z1, z2).requires_grad


def test_second_derivative_is_refused():
    inputs = four(4, 5)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(byol_loss(*inputs), inputs[:1], create_graph=True)


@pytest.mark.parametrize("device", DEVICES)
def test_under_autocast_types_stay_as_they_come(device):
    inputs = four(6, 9, torch.bfloat16, device)
    with torch.autocast(device, dtype=torch.bfloat16):
        value = byol_loss(*inputs)
    assert value.dtype == torch.float32
    assert torch.equal(value, byol_loss(*inputs))
    mixed = byol_loss(inputs[0], inputs[1].detach().float(), inputs[2].float(), inputs[3])
    torch.testing.assert_close(mixed, value)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("with_grad", [True, False])
def test_opcheck(device, with_grad):
    inputs = four(5, 6, device=device, grad=with_grad)
    torch.library.opcheck(loss._byol_loss, (*inputs, with_grad))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_with_any_batch(device):
    compiled = torch.compile(byol_loss, fullgraph=True, dynamic=True, backend="inductor" if GPU else "aot_eager")
    for b in (4, 7, 12):
        inputs = four(b, 8, device=device)
        value = compiled(*inputs)
        grads = torch.autograd.grad(value, inputs[:2])
        torch.testing.assert_close(value, byol_loss(*inputs))
        for grad, want in zip(grads, torch.autograd.grad(byol_loss(*inputs), inputs[:2]), strict=True):
            torch.testing.assert_close(grad, want)


@pytest.mark.parametrize(
    ("position", "value", "error", "name"),
    [
        (1, torch.zeros(4, 6), ValueError, "q2"),
        (0, torch.zeros(5), ValueError, "q1"),
        (2, torch.zeros(3, 5), ValueError, "z1"),
        (3, torch.zeros(4, 5, dtype=torch.float64), TypeError, "z2"),
        (3, torch.zeros(4, 5, dtype=torch.int32), TypeError, "z2"),
        (3, torch.zeros(4, 5, device="meta"), ValueError, "z2"),
    ],
)
def test_bad_arguments_are_named(position, value, error, name):
    inputs = four(4, 5, grad=False)
    inputs[position] = value
    with pytest.raises(error, match=name):
        byol_loss(*inputs)


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (1, 8193)])
def test_bad_shapes(shape):
    with pytest.raises(ValueError, match="q1"):
        byol_loss(*four(*shape, grad=False))
