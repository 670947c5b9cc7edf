"""update_target_ against its closed form, and the kernel against the reference."""

import gc
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rsdnet.kernels import ema, multi_tensor, update_target_

from tests.kernels.conftest import DEVICES, GPU, KERNEL, TYPES

ODD = [(1,), (2,), (3,), (17,), (1023,), (1025,), (), (0,), (3, 5, 2)]


def make(device, seed, dtype=torch.float32, shapes=((3, 5), (7,), (), (1025,))):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def guarded(x, before=0):
    """A copy of x inside a larger buffer of NaN, `before` elements from its begin: any write beside it shows."""
    buffer = torch.full((before + x.numel() + 9,), math.nan, dtype=x.dtype, device=x.device)
    inside = buffer[before : before + x.numel()].view(x.shape).copy_(x)
    return buffer, inside


def close(moved, wanted):
    """To float32's rounding, and one unit in the last place of a shorter type (the interpreter truncates bf16)."""
    torch.testing.assert_close(moved, wanted, rtol=max(torch.finfo(moved.dtype).eps, 1e-6), atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tensor_tau", [True, False])
def test_after_k_steps_the_target_is_the_closed_form(device, tensor_tau):
    """Towards a fixed online network: target_k = online + tau^k * (target_0 - online)."""
    targets, onlines = make(device, 0), make(device, 1)
    start = [t.clone() for t in targets]
    addresses = [t.data_ptr() for t in targets]
    kept = [o.clone() for o in onlines]
    tau = torch.tensor(0.96, device=device) if tensor_tau else 0.96
    for _ in range(10):
        update_target_(targets, onlines, tau)
    for t, o, s in zip(targets, onlines, start, strict=True):
        want = o.double() + 0.96**10 * (s.double() - o.double())
        torch.testing.assert_close(t.double(), want, rtol=1e-5, atol=1e-6)
    assert [t.data_ptr() for t in targets] == addresses
    assert all(torch.equal(o, k) for o, k in zip(onlines, kept, strict=True))


@settings(max_examples=40)
@given(
    tau=st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0, 0.5, 0.996])),
    n=st.integers(0, 40),
    exponents=st.tuples(st.integers(-20, 20), st.integers(-20, 20)),
    dtype=st.sampled_from([*TYPES, torch.float64]),
    seed=st.integers(0, 99),
)
def test_reference_and_cpu_are_the_formula_in_float64(tau, n, exponents, dtype, seed):
    t, o = (x * 2.0**e for x, e in zip(make("cpu", seed, dtype, [(n,), (n,)]), exponents, strict=True))
    t, o = (x.nan_to_num(posinf=1.0, neginf=-1.0) for x in (t, o))  # float16 overflows
    want = tau * t.double() + (1 - tau) * o.double()
    size = t.double().abs() + o.double().abs()
    plain, fast = t.clone(), t.clone()
    ema.update_target_reference(plain, o, tau)
    update_target_([fast], [o], tau)
    for moved in (plain, fast):
        bound = torch.finfo(dtype).eps * want.abs() + 4e-7 * size + torch.finfo(dtype).tiny
        assert ((moved.double() - want).abs() <= bound).all()


@pytest.mark.parametrize(("dtype", "tau"), [*zip(TYPES, (0.9, 0.3, 0.996), strict=True)])
def test_kernel_is_the_reference_on_odd_shapes_and_writes_nothing_beside_them(dtype, tau, launches):
    starts, onlines = make(KERNEL, 0, dtype, ODD), make(KERNEL, 1, dtype, ODD)
    wanted = [t.clone() for t in starts]
    for t, o in zip(wanted, onlines, strict=True):
        ema.update_target_reference(t, o, tau)
    buffers, targets = zip(*(guarded(t, 8 * (k % 2)) for k, t in enumerate(starts)), strict=True)
    update_target_(targets, onlines, torch.tensor(tau, device=KERNEL))
    for buffer, moved, want in zip(buffers, targets, wanted, strict=True):
        close(moved, want)
        assert buffer.isnan().sum() == buffer.numel() - moved.numel()
    assert launches.total() == 1


def test_kernel_takes_whole_blocks_several_chunks_and_any_alignment(launches):
    shapes = [
        (multi_tensor.CHUNK * 2 + multi_tensor.BLOCK,),
        (multi_tensor.BLOCK,),
        (multi_tensor.BLOCK * 2 + 5,),
        (multi_tensor.CHUNK + 1,),
    ]
    for before in (0, 1, 4):  # 0 and 16 bytes are aligned, 4 are not
        starts, onlines = make(KERNEL, 0, shapes=shapes), make(KERNEL, 1, shapes=shapes)
        buffers, targets = zip(*(guarded(t, before) for t in starts), strict=True)
        update_target_(targets, onlines, 0.9)
        for buffer, t, s, o in zip(buffers, targets, starts, onlines, strict=True):
            torch.testing.assert_close(t, torch.lerp(o, s, 0.9), rtol=1e-6, atol=1e-6)
            assert buffer.isnan().sum() == buffer.numel() - t.numel()
    assert launches.total() == 3


def test_one_launch_takes_mixed_types(launches):
    targets = [t for dtype in TYPES for t in make(KERNEL, 0, dtype)]
    onlines = [o for dtype in TYPES for o in make(KERNEL, 1, dtype)]
    wanted = [t.clone() for t in targets]
    for t, o in zip(wanted, onlines, strict=True):
        ema.update_target_reference(t, o, 0.75)
    update_target_(targets, onlines, 0.75)
    for t, want in zip(targets, wanted, strict=True):
        close(t, want)
    assert launches.total() == 1


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # the interpreter's numpy, on inf - inf
@pytest.mark.parametrize("way", ["foreach", "kernel", "reference"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("tensor_tau", [True, False])
def test_tau_of_one_keeps_the_bits_and_of_zero_takes_the_online(way, dtype, tensor_tau, request):
    if way == "kernel":
        request.getfixturevalue("launches")
    values = [-0.0, 0.0, 1.5, -3.25, 2.0**-14, math.inf, -math.inf, 65504.0]
    grid = torch.tensor(values, device=KERNEL if way == "kernel" else "cpu").to(dtype)
    target, online = (x.contiguous() for x in torch.meshgrid(grid, grid, indexing="ij"))
    for tau, wanted in ((1.0, target.clone()), (0.0, online)):
        rate = torch.tensor(tau, device=grid.device) if tensor_tau else tau
        if way == "reference":
            ema.update_target_reference(target, online, rate)
        else:
            update_target_([target], [online], rate)
        assert torch.equal(target, wanted)
        assert torch.equal(target.signbit(), wanted.signbit())


def test_tables_are_kept_by_address_and_hold_nothing_alive(launches, monkeypatch):
    pairs_of, tables = ema.pairs_of, []
    monkeypatch.setattr(ema, "pairs_of", lambda *lists: tables.append(1) or pairs_of(*lists))
    targets, onlines = make(KERNEL, 0), make(KERNEL, 1)
    for _ in range(3):
        update_target_(targets, onlines, 0.9)
    assert len(tables) == 1
    assert launches == {"update_target_kernel": 3}
    targets[1] = targets[1].clone()
    update_target_(targets, onlines, 0.9)
    targets[0].set_(targets[0].clone())  # same tensor, other address
    update_target_(targets, onlines, 0.9)
    assert len(tables) == 3
    stand_in = [torch.as_strided(t, t.shape, t.stride()) for t in targets]  # same addresses, other tensors
    update_target_(stand_in, onlines, 0.9)
    assert len(tables) == 4
    alive = ema.weakref.ref(targets[3])
    del targets, stand_in
    gc.collect()
    assert alive() is None
    for seed in range(ema.TABLES + 3):
        kept = make(KERNEL, seed)
        onlines.append(kept[0])
        update_target_(kept, make(KERNEL, 1), 0.9)
    assert len(ema._KNOWN) <= ema.TABLES
    known = list(ema._KNOWN)
    monkeypatch.setattr(ema, "is_capturing", lambda device: True)
    update_target_(make(KERNEL, 0), make(KERNEL, 1), 0.9)  # its table is filled by the graph alone
    assert list(ema._KNOWN) == known


def odd_layouts(device):
    """Pairs that the kernel cannot walk in the order of memory, or not both alike."""
    image, wide, row, double = make(device, 3, shapes=[(2, 3, 4, 5), (6, 8), (1, 5), (4,)])
    return [
        (image.clone().to(memory_format=torch.channels_last), image + 1),
        (image.clone(), (image + 1).to(memory_format=torch.channels_last)),
        (wide.clone()[:, ::2], wide[:, 1::2] + 1),
        (wide.clone()[:, ::2], (wide + 1)[:, ::2]),
        (wide.clone().t(), wide.t().contiguous() + 1),
        (wide.clone()[:4], (row[:, :1] + 1).expand(4, 8)),
        (double.double(), double.double() + 1),
        (torch.zeros(3, 1, 4, device=device).transpose(0, 1), torch.ones(1, 3, 4, device=device)),
    ]


def test_odd_layouts_are_right_all_the_same(launches):
    pairs = odd_layouts(KERNEL)
    wanted = [torch.lerp(o.double(), t.double(), 0.75) for t, o in pairs]
    update_target_([t for t, _ in pairs], [o for _, o in pairs], torch.tensor(0.75, device=KERNEL))
    for (t, _), want in zip(pairs, wanted, strict=True):
        torch.testing.assert_close(t.double(), want, rtol=1e-6, atol=1e-6)


def test_layouts_alike_need_no_copy(launches):
    image = make(KERNEL, 0, shapes=[(4, 3, 2, 2)])[0]
    target, online = (x.to(memory_format=torch.channels_last) for x in (image, image + 1))
    pairs = ema.pairs_of([target, image[:, :, :1, :1]], [online, image[:, :, :1, :1] + 1])
    assert pairs.others == [1]
    assert multi_tensor.is_dense(target)
    assert multi_tensor.is_dense(torch.zeros(0, 3).t())
    assert not multi_tensor.is_dense(torch.zeros(2, 1).expand(2, 3))


def test_two_runs_are_bitwise_equal(launches):
    results = []
    for _ in range(2):
        targets, onlines = make(KERNEL, 0), make(KERNEL, 1)
        for _ in range(3):
            update_target_(targets, onlines, torch.tensor(0.9, device=KERNEL))
        results.append(targets)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_parameters_with_gradient_are_updated_outside_autograd():
    target, online = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    update_target_(list(target.parameters()), list(online.parameters()), torch.tensor(0.5))
    assert target.weight.grad_fn is None
    assert target.weight.requires_grad


def test_autograd_sees_that_a_target_changed(launches):
    target = torch.nn.Parameter(torch.ones(3, device=KERNEL))
    value = target.square().sum()
    update_target_([target], [torch.zeros(3, device=KERNEL)], 0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()
    with torch.inference_mode():
        update_target_([target], [torch.zeros(3, device=KERNEL)], 0.5)
    assert target[0].item() == 0.25


@pytest.mark.parametrize("device", DEVICES)
def test_under_autocast_types_stay(device):
    targets, onlines = make(device, 0), make(device, 1)
    wanted = [torch.lerp(o, t, 0.9) for t, o in zip(targets, onlines, strict=True)]
    with torch.autocast(device, dtype=torch.bfloat16):
        update_target_(targets, onlines, 0.9)
    for t, want in zip(targets, wanted, strict=True):
        torch.testing.assert_close(t, want)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    tau = torch.tensor(0.9, device=device)
    torch.library.opcheck(ema._update_target, (make(device, 0), make(device, 1), tau))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_and_a_new_tau_does_not_recompile(device):
    ours, theirs, onlines = make(device, 0), make(device, 0), make(device, 1)
    tau = torch.tensor(0.9, device=device)
    compiled = torch.compile(update_target_, fullgraph=True, backend="aot_eager")
    compiled(ours, onlines, tau)
    update_target_(theirs, onlines, 0.9)
    with torch.compiler.set_stance("fail_on_recompile"):
        for value in (0.95, 0.99):
            compiled(ours, onlines, tau.fill_(value))
            update_target_(theirs, onlines, value)
    compiled(ours, onlines, 0.5)
    update_target_(theirs, onlines, 0.5)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.skipif(not GPU, reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("warm", [True, False])
def test_stands_in_a_cuda_graph(warm):
    targets, onlines = make("cuda", 0), make("cuda", 1)
    wanted = [t.clone() for t in targets]
    tau = torch.tensor(1.0, device="cuda")
    update_target_(targets if warm else make("cuda", 5), onlines, tau)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        update_target_(targets, onlines, tau)
    ema._KNOWN.clear()
    for value in (0.9, 0.5):
        tau.fill_(value)
        graph.replay()
        update_target_(wanted, onlines, value)
    for t, want in zip(targets, wanted, strict=True):
        torch.testing.assert_close(t, want)


@pytest.mark.parametrize("way", ["foreach", "kernel"])
def test_bad_lists_are_named(way, request):
    if way == "kernel":
        request.getfixturevalue("launches")
    one, two = torch.zeros(2, device=KERNEL), torch.zeros(3, device=KERNEL)
    with pytest.raises(ValueError, match="1 and 2 tensors"):
        update_target_([one], [one, one], 0.9)
    with pytest.raises(ValueError, match="0 and 1 tensors"):
        update_target_([], [one], 0.9)
    with pytest.raises(ValueError, match=r"targets\[1\]"):
        update_target_([one, two.clone()], [one, one], 0.9)
    with pytest.raises(ValueError, match=r"targets\[0\]"):
        update_target_([one], [one.double()], 0.9)
    with pytest.raises(ValueError, match=r"targets\[1\]: on meta"):
        update_target_([one, two.to("meta")], [one, two.to("meta")], 0.9)
    with pytest.raises(TypeError, match=r"targets\[0\]: torch.int64"):
        update_target_([one.long()], [one.long()], 0.9)
    with pytest.raises(ValueError, match="twice"):
        update_target_([one, one], [two[:2], two[:2]], 0.9)
    update_target_([], [], 0.9)


@pytest.mark.parametrize("tau", [-0.1, 1.5, math.nan, torch.ones(1), torch.tensor(1), torch.tensor(0.5, device="meta")])
def test_bad_tau_is_named(tau):
    with pytest.raises(ValueError, match="tau"):
        update_target_([torch.zeros(2)], [torch.zeros(2)], tau)


def test_fake_tensors_go_through_the_op():
    with torch._subclasses.FakeTensorMode():
        one, two = torch.zeros(3), torch.zeros(3)
        update_target_([one], [two], torch.tensor(0.5))
        update_target_([one], [two], 0.5)
