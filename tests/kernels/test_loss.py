"""byol_loss and cosine_loss: against cosine_similarity in float64 and autograd of the formula; the kernels against the
reference, alone and beneath the op."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rsdnet.kernels import loss, loss_kernel
from rsdnet.kernels.loss import byol_loss, cosine_loss

from tests.kernels.conftest import DEVICES, GPU, KERNEL, TYPES, Cut

SHAPES = [(1, 1), (2, 3), (3, 17), (17, 2), (5, 1023), (3, 1025), (2, 8192)]


def four(b, d, dtype=torch.float32, device="cpu", seed=0, grad=True):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(b, d, generator=generator).to(device, dtype) for _ in range(4)]
    return [x.requires_grad_(grad and k < 2) for k, x in enumerate(made)]


def formula(q1, q2, z1, z2):
    """Grill et al. 2020, eq. 2 by torch's cosine similarity, float64, on rows far from zero."""
    q1, q2, z1, z2 = (x.double() for x in (q1, q2, z1, z2))
    cosine = torch.nn.functional.cosine_similarity
    return (2 - 2 * cosine(q1, z2.detach())).mean() + (2 - 2 * cosine(q2, z1.detach())).mean()


def in_kernel(q1, q2, z1, z2, programs=None):
    """Loss and gradient, float32 (2, B, D), from both kernels, into NaN."""
    q1, q2, z1, z2 = (x.detach().to(KERNEL) for x in (q1, q2, z1, z2))
    shape = loss_kernel.partial_shape(*q1.shape, 2) if programs is None else (2, programs)
    value, partial, factors = (torch.full(s, math.nan, device=KERNEL) for s in ((), shape, (2, len(q1))))
    slopes = [torch.full(q.shape, math.nan, dtype=q.dtype, device=KERNEL) for q in (q1, q2)]
    grads = [torch.full(q.shape, math.nan, device=KERNEL) for q in (q1, q2)]
    arrived = torch.zeros(1, dtype=torch.int32, device=KERNEL)
    loss_kernel.launch_cosine(value, partial, arrived, (q1, z2, q2, z1), *slopes, factors)
    assert arrived == 0  # for the next launch
    loss_kernel.launch_cosine_backward(*grads, *slopes, factors, torch.ones((), device=KERNEL))
    return value.cpu(), torch.stack(grads).cpu()


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
        unit = torch.finfo(dtype).eps * want.abs().double().clamp(min=torch.finfo(dtype).smallest_normal)
        assert ((grad.double() - want).abs() * norm <= unit * norm + scale * 1e-6).all()


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


def cancelled(*predictions):
    """A few roundings of float32 in the two terms of a gradient, each 2 / (B |q|) long; of one element, they cancel."""
    return max(2e-6 / len(q) / float(q.detach().float().norm(dim=1).min().clamp(min=1e-6)) for q in predictions)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_kernel_is_the_reference(shape, dtype):
    inputs = four(*shape, dtype, seed=2, grad=False)
    value, grads = in_kernel(*inputs)
    expected, wanted = loss.byol_loss_reference(*inputs)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=2e-6)
    # The slopes lie in the inputs' type; the interpreter cuts bfloat16 where a GPU rounds it.
    unit = {torch.float32: 1e-5, torch.float16: 2**-11, torch.bfloat16: 2**-7}[dtype]
    torch.testing.assert_close(grads, wanted, rtol=1.01 * unit, atol=cancelled(*inputs[:2]))


def test_two_runs_are_bitwise_equal(launches):
    inputs = four(33, 20, device=KERNEL)
    results = []
    for _ in range(2):
        value = byol_loss(*inputs)
        results.append((value, *torch.autograd.grad(value, inputs[:2])))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


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


@pytest.mark.parametrize("kernel", [False, True])
def test_small_gradients_survive_in_half_precision(kernel, request):
    """Where q and z are nearly parallel the gradient is small; in float16 as it is, most of it would be lost."""
    if kernel:
        request.getfixturevalue("launches")
    q, noise = (x.detach() for x in four(4, 256, torch.float16)[:2])
    z = q.float() + 1e-5 * noise
    value = cosine_loss(q.requires_grad_(), z)
    grad = torch.autograd.grad(value * 2**16, q)[0].double()
    double = q.detach().double().requires_grad_()
    want = torch.autograd.grad(loss.cosine_loss_formula(double, z.double()) * 2**16, double)[0]
    assert (grad - want).norm() <= 0.02 * want.norm()


def test_targets_get_no_gradient_and_either_prediction_may_be_frozen():
    q1, q2, z1, z2 = four(4, 5)
    byol_loss(q1, q2.detach(), z1.requires_grad_(), z2.requires_grad_()).backward()
    assert q1.grad is not None
    assert z1.grad is None
    assert z2.grad is None
    with torch.no_grad():
        assert not byol_loss(q1, q2, z1, z2).requires_grad


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
def test_compiles_whole_with_any_batch(device):
    compiled = torch.compile(byol_loss, fullgraph=True, dynamic=True, backend="inductor" if GPU else "aot_eager")
    for b in (4, 7, 12):
        inputs = four(b, 8, device=device)
        with torch.compiler.set_stance("fail_on_recompile" if b > 4 else "default"):
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


# ---- rows of any size, type and stride ----------------------------------------------------------------------


def rows_of_any_size(b, d, seed, dtype=torch.float32):
    """Four (b, d), each row of its own size, from below the smallest normal number to just under the largest."""
    generator = torch.Generator().manual_seed(seed)
    lowest, highest = {torch.float32: (-45, 36), torch.bfloat16: (-40, 36), torch.float16: (-8, 3)}[dtype]
    sizes = 10.0 ** torch.randint(lowest, highest + 1, (4, b, 1), generator=generator).double()
    return (torch.randn(4, b, d, generator=generator).double().clamp(-9, 9) * sizes).to(dtype).unbind(0)


@pytest.mark.parametrize("compute", [loss.byol_loss_reference, in_kernel])
@settings(max_examples=12)
@given(
    b=st.integers(1, 9), d=st.sampled_from([1, 2, 3, 17, 130]), seed=st.integers(0, 999), dtype=st.sampled_from(TYPES)
)
def test_rows_of_any_size_follow_the_formula_in_float64(compute, b, d, seed, dtype):
    inputs = rows_of_any_size(b, d, seed, dtype)
    doubled = [x.double().requires_grad_(k < 2) for k, x in enumerate(inputs)]
    expected = loss.byol_loss_formula(*doubled)
    value, grads = compute(*inputs)
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-5, atol=4e-6)
    for grad, want, q in zip(grads, torch.autograd.grad(expected, doubled[:2]), doubled, strict=False):
        size = 2 / b / q.detach().norm(dim=1, keepdim=True).clamp(min=1e-6)  # of the two terms that may cancel
        unit = {torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-7}[dtype]
        assert ((grad - want).abs() <= 1.01 * unit * want.abs() + 1e-5 * size + 1e-38).all()


@pytest.mark.parametrize("compute", [loss.byol_loss_reference, in_kernel])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 3])
def test_a_nan_is_not_hidden(compute, bad, which):
    inputs = four(4, 6, grad=False)
    for x in inputs:
        x[2] = 0  # a zero row beside the bad one hides nothing
    inputs[which][2, 1] = bad
    value, grads = compute(*inputs)
    assert value.isnan()
    assert grads[0, 2].isnan().any() or bad == math.inf
    assert grads[0, [0, 1, 3]].isfinite().all()
    assert grads[1].isfinite().all()
    inputs[which][2] = bad
    _, grads = compute(*inputs)
    assert grads[0, 2].isnan().all()


def strided(how, x):
    """x's values, or rows repeated from it, at other strides; an odd start leaves rows unaligned."""
    b, d = x.shape
    if how == "expanded":
        return x[:1].expand(b, d)
    if how == "transposed":
        return x.t().contiguous().t()
    wide = torch.zeros(b, d + {"odd": 3, "even": 8, "offset": 1}[how], dtype=x.dtype)
    wide[:, wide.shape[1] - d :] = x
    return wide[:, wide.shape[1] - d :]


@settings(max_examples=20)
@given(
    hows=st.lists(st.sampled_from(["expanded", "transposed", "odd", "even", "offset"]), min_size=4, max_size=4),
    dtypes=st.lists(st.sampled_from(TYPES), min_size=4, max_size=4),
    b=st.integers(1, 5), d=st.sampled_from([1, 8, 15, 64]),
)  # fmt: skip
def test_kernel_takes_any_strides_and_a_type_each(hows, dtypes, b, d):
    inputs = [strided(how, x.detach().to(dtype)) for how, dtype, x in zip(hows, dtypes, four(b, d), strict=True)]
    expected, wanted = loss.byol_loss_reference(*inputs)
    q1, q2, z1, z2 = (x.to(KERNEL) for x in inputs)
    with pytest.MonkeyPatch.context() as patch:
        if not GPU:
            patch.setattr(loss, "arrivals", lambda device: torch.zeros(1, dtype=torch.int32))
        value, *slopes, factors = loss.cosine_by_kernel(q1, z2, q2, z1, True, True)
    torch.testing.assert_close(value.cpu(), expected, rtol=1e-6, atol=2e-6)
    for slope, factor, want, q in zip(slopes, factors, wanted, (q1, q2), strict=True):
        assert slope.dtype == q.dtype
        unit = {torch.float32: 1e-5, torch.float16: 2**-11, torch.bfloat16: 2**-7}[q.dtype]
        grad = factor[:, None] * slope.float() / loss_kernel.LIFT
        torch.testing.assert_close(grad.cpu(), want, rtol=1.01 * unit, atol=cancelled(q.cpu()))


@pytest.mark.parametrize("programs", [1, 2, 3])
def test_few_programs_take_all_rows_in_turns(programs):
    inputs = four(5, 513, grad=False)  # a row a turn
    value, grads = in_kernel(*inputs, programs=programs)
    expected, wanted = loss.byol_loss_reference(*inputs)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grads, wanted)


def test_more_rows_than_a_grid_is_high(launches):
    q, z = (x.detach() for x in four(2**16 + 3, 1, device=KERNEL)[:2])
    value = cosine_loss(q.requires_grad_(), z)
    torch.testing.assert_close(value.item(), 4 * float((q * z <= 0).double().mean()), rtol=1e-4, atol=0)
    assert launches["cosine_kernel"] == 1


def test_programs_are_bounded_and_do_not_depend_on_the_device():
    assert loss_kernel.partial_shape(4096, 256, 2) == (2, 512)
    assert loss_kernel.partial_shape(2**31, 8192, 1) == (1, loss_kernel.PROGRAMS)
    assert loss_kernel.partial_shape(1, 1, 2) == (2, 1)


# ---- one side -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TYPES)
def test_cosine_loss_is_the_mean_squared_distance_of_unit_rows(device, dtype):
    q, z = four(5, 33, dtype, device)[:2]
    value = cosine_loss(q, z)
    units = [torch.nn.functional.normalize(x.double(), dim=1) for x in (q, z.detach())]
    expected = (units[0] - units[1]).square().sum(1).mean()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=2e-6)
    (grad,), (want,) = torch.autograd.grad(value, [q]), torch.autograd.grad(expected, [q])
    torch.testing.assert_close(grad, want, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    similarity = torch.nn.functional.cosine_similarity(q.double(), z.double()).mean()
    torch.testing.assert_close(value.double() / 2 - 1, -similarity, rtol=1e-5, atol=2e-6)  # one side of SimSiam's


# ---- the op -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plain", [True, False])
def test_one_launch_forward_and_one_backward_and_nothing_unwanted(launches, monkeypatch, plain):
    if not plain:  # as where a compiler traces it
        monkeypatch.setattr(loss, "eager", lambda x: False)
    made = []
    outputs = loss._outputs
    monkeypatch.setattr(loss, "_outputs", lambda *args: made.append(outputs(*args)) or made[-1])
    for wanted in ((True, True), (True, False), (False, True), (False, False)):
        launches.clear()
        q1, q2, z1, z2 = four(5, 6, torch.float16, KERNEL)
        leaves = [q.detach().requires_grad_(want) for q, want in zip((q1, q2), wanted, strict=True)]
        value = byol_loss(*leaves, z1, z2)
        assert [slope.numel() for slope in made[-1][1:3]] == [30 * want for want in wanted]
        expected, grads = loss.byol_loss_reference(q1, q2, z1, z2)
        torch.testing.assert_close(value, expected.detach())
        if any(wanted):
            (value * 2**10).backward()
        assert launches == {"cosine_kernel": 1} | ({"cosine_backward_kernel": 1} if any(wanted) else {})
        for leaf, want, grad in zip(leaves, wanted, grads, strict=True):
            assert (leaf.grad is not None) == want
            if want:
                assert leaf.grad.dtype == torch.float16
                torch.testing.assert_close(leaf.grad.float(), grad.detach() * 2**10, rtol=2**-10, atol=1e-4)


def test_nothing_but_the_kernels_runs_on_the_device(launches, monkeypatch):
    """Memory is taken, nothing is computed: no cast, no sum, no copy, no fill."""
    ran = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            ran.append(function.overloadpacket.__name__)
            return function(*args, **kwargs or {})

    monkeypatch.setattr(loss, "arrivals", lambda device: None)
    monkeypatch.setattr(loss, "launch_cosine", lambda *args: None)
    monkeypatch.setattr(loss, "launch_cosine_backward", lambda *args: None)
    torch.use_deterministic_algorithms(False)
    inputs, one = four(5, 6, torch.bfloat16, KERNEL), torch.ones((), device=KERNEL)
    with Spy():
        torch.autograd.grad(byol_loss(*inputs), inputs[:2], one)
    assert "new_empty" in ran
    assert set(ran) <= {"new_empty", "empty", "empty_like", "detach"}


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    q1, q2, z1, z2 = four(5, 6, device=device)
    torch.library.opcheck(loss.cosine_op, (q1, z2, q2, z1, True, True))
    torch.library.opcheck(loss.cosine_op, (q1, z1, None, None, True, False))
    torch.library.opcheck(
        loss.cosine_op, (q1, z2, q2.detach(), z1, True, False), test_utils=["test_schema", "test_faketensor"]
    )
    _, *saved = loss.cosine_op(q1, z2, q2, z1, True, True)
    torch.library.opcheck(loss.backward_op, (*saved, torch.ones((), device=device)))


class ByReference(torch.autograd.Function):
    """The reference's gradient as autograd's, in float64."""

    @staticmethod
    def forward(ctx, q1, q2, z1, z2):
        value, grads = loss.byol_loss_reference(q1, q2, z1, z2)
        ctx.save_for_backward(grads)
        return value

    @staticmethod
    def backward(ctx, grad):
        return *(ctx.saved_tensors[0] * grad).unbind(0), None, None


def test_gradcheck_of_the_reference():
    q1, q2, z1, z2 = (x.detach().double().requires_grad_(k < 2) for k, x in enumerate(four(4, 6)))
    assert torch.autograd.gradcheck(lambda a, b: ByReference.apply(a, b, z1, z2), (q1, q2))


@pytest.mark.parametrize("plain", [True, False])
def test_a_second_derivative_is_refused(monkeypatch, plain):
    if not plain:  # as where a compiler traces it
        monkeypatch.setattr(loss, "eager", lambda x: False)
    inputs = four(4, 5)
    with pytest.raises(RuntimeError, match="second derivative"):
        torch.autograd.grad(byol_loss(*inputs), inputs[:1], create_graph=True)


def test_a_loss_that_gets_no_gradient_gives_none():
    inputs = four(4, 5)
    Cut.apply(byol_loss(*inputs)).backward()
    assert inputs[0].grad is None


@pytest.mark.parametrize(
    ("q", "z", "error", "name"),
    [
        (torch.zeros(4, 5), torch.zeros(4, 6), ValueError, "z: shape"),
        (torch.zeros(5), torch.zeros(5), ValueError, "q: shape"),
        (torch.zeros(0, 5), torch.zeros(0, 5), ValueError, "q: shape"),
        (torch.zeros(4, 0), torch.zeros(4, 0), ValueError, "q: shape"),
        (torch.zeros(1, 8193), torch.zeros(1, 8193), ValueError, "q: shape"),
        (torch.zeros(4, 5, dtype=torch.float64), torch.zeros(4, 5), TypeError, "q: torch.float64"),
        (torch.zeros(4, 5), torch.zeros(4, 5, device="meta"), ValueError, "z: on meta"),
    ],
)
def test_bad_arguments_of_cosine_loss_are_named(q, z, error, name):
    with pytest.raises(error, match=name):
        cosine_loss(q, z)


# ---- the count of arrivals ----------------------------------------------------------------------------------


def test_streams_keep_their_count_and_captured_launches_get_their_own(monkeypatch):
    now = SimpleNamespace(captured=True, stream=1)
    monkeypatch.setattr(loss, "_counts", {})
    monkeypatch.setattr(loss, "_unused", {})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: now.captured)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=now.stream))
    device = torch.device("cpu")
    assert loss.arrivals(device).tolist() == [0]  # the first launch of all is captured: cleared in the graph
    assert not loss._unused
    now.captured = False
    first = loss.arrivals(device)
    assert loss.arrivals(device) is first
    now.stream = 2
    second = loss.arrivals(device)
    now.captured = True
    captured = [loss.arrivals(device) for _ in range(1022)]
    assert len({x.data_ptr() for x in (first, second, *captured)}) == 1024
    assert loss.arrivals(device)._base is None  # none is left: cleared in the graph
    now.captured, now.stream = False, 1
    assert loss.arrivals(device) is first
    now.stream = 3
    assert loss.arrivals(device).tolist() == [0]  # more are made


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_two_launches_and_replays_in_a_cuda_graph():
    inputs = [x.detach().cuda().requires_grad_(k < 2) for k, x in enumerate(four(300, 64))]
    one = torch.ones((), device="cuda")

    def step():
        value = byol_loss(*inputs)
        return value, *torch.autograd.grad(value, inputs[:2], one)

    step()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert sorted(name.split("(")[0] for name in names) == ["cosine_backward_kernel", "cosine_kernel"]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for k in range(3):
        with torch.no_grad():
            inputs[0].copy_(torch.randn(300, 64, generator=torch.Generator().manual_seed(k)))
        graph.replay()
        for got, want in zip(captured, step(), strict=True):
            assert torch.equal(got, want)
