"""select_bands and take_bands: against numpy in float64, the draws against draw_bands, the kernels against the
reference, the gradient against autograd in float64, and the silent errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rsdnet.kernels import philox, select, select_kernel
from rsdnet.kernels._triton import tl, triton
from rsdnet.kernels.draws import draw_bands
from rsdnet.kernels.select import select_bands, take_bands

from tests.kernels.conftest import DEVICES, GPU, KERNEL

OUT = [torch.float32, torch.bfloat16, torch.float16]
ULP = {torch.float32: 0.0, torch.bfloat16: 2**-7, torch.float16: 2**-10}
LAYOUTS = ["contiguous", "channels last", "every other band", "expanded", "unaligned", "cropped", "transposed"]


def pictures(dtype, b, n, h, w, seed=0, layout="contiguous", invalid=True):
    """(b, n, h, w) of a type and a layout in memory; with `invalid`, some pixels are 0, NaN or infinite."""
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        made = torch.randn(b, n, h, w, generator=generator) * 5 - 12
        kinds = torch.randint(0, 12 if invalid else 1, made.shape, generator=generator)
        for kind, value in ((9, 0.0), (10, math.nan), (11, -math.inf)):
            made[kinds == kind] = value
    else:
        low, high = {torch.uint8: (0, 256), torch.int16: (-300, 9000), torch.uint16: (0, 65536)}[dtype]
        made = torch.randint(low, high, (b, n, h, w), generator=generator)
        made[torch.randint(0, 9, made.shape, generator=generator) == 0] = 0 if invalid else 1
        made = made.int()
    made = made.to(dtype)
    if layout == "channels last":
        return made.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    if layout == "every other band":
        return made.repeat_interleave(2, 1)[:, ::2]
    if layout == "expanded":
        return made[:1].expand(b, n, h, w)
    if layout == "unaligned":
        flat = torch.cat([made.new_empty(1), made.flatten()])
        return flat[1:].view(b, n, h, w)
    if layout == "cropped":
        return torch.nn.functional.pad(made.float(), (1, 2, 1, 0)).to(dtype)[:, :, 1:, 1:-2]
    if layout == "transposed":
        return made.transpose(2, 3).contiguous().transpose(2, 3)
    return made


def statistics(n):
    """mean and std of n bands, each band its own."""
    return torch.linspace(-10, 400, n) if n > 1 else torch.full((1,), -12.0), torch.linspace(3, 500, n)


def by_numpy(images, mean, std, bands, nodata=math.nan):
    """The formula, image by image and channel by channel, float64."""
    pixels = images.to(torch.int32 if images.dtype == torch.uint16 else images.dtype).double().numpy()
    nodata = float(torch.tensor(nodata, dtype=torch.float64).to(images.dtype)) if images.is_floating_point() else nodata
    out = np.empty((*bands.shape, *images.shape[2:]))
    for b, row in enumerate(bands.tolist()):
        for c, band in enumerate(row):
            plane = pixels[b, band]
            out[b, c] = (plane - float(mean[band])) / float(std[band])
            out[b, c][~np.isfinite(plane) | (plane == nodata)] = 0
    return torch.from_numpy(out)


def in_kernel(images, mean, std, bands, dtype=torch.float32, channels_last=False, nodata=math.nan, draw=None):
    """The result and the bands, by the kernel, into NaN."""
    images, mean, std, bands = (x.to(KERNEL) for x in (images, mean, std, bands))
    out = select_kernel.empty_bands(images, bands.shape[1], dtype, channels_last).fill_(math.nan)
    select_kernel.launch_select_bands(out, images, mean, std, bands, nodata, draw)
    return out.cpu(), bands.cpu()


def some_bands(b, c, n, seed=0):
    return torch.randint(0, n, (b, c), generator=torch.Generator().manual_seed(seed))


# ---- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", select.DTYPES)
@pytest.mark.parametrize("nodata", [math.nan, 0.0])
def test_take_bands_is_the_formula_in_float64(device, dtype, nodata):
    images, (mean, std), bands = pictures(dtype, 3, 5, 7, 9), statistics(5), some_bands(3, 4, 5)
    expected = by_numpy(images, mean, std, bands, nodata)
    out = take_bands(*(x.to(device) for x in (images, mean, std, bands)), nodata=nodata)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.cpu().double(), expected, rtol=5e-7, atol=1e-6)
    assert (expected == 0).any() or nodata != 0


@settings(max_examples=25)
@given(
    dtype=st.sampled_from(select.DTYPES), layout=st.sampled_from(LAYOUTS), out=st.sampled_from(OUT), nhwc=st.booleans(),
    b=st.integers(1, 3), c=st.integers(1, 5), n=st.integers(1, 6), nodata=st.sampled_from([math.nan, 0.0]),
    h=st.sampled_from([1, 2, 3, 17]), w=st.sampled_from([1, 2, 3, 16, 17]), seed=st.integers(0, 99),
)  # fmt: skip
def test_kernel_is_the_reference(dtype, layout, out, nhwc, b, c, n, nodata, h, w, seed):
    images, (mean, std), bands = pictures(dtype, b, n, h, w, seed, layout), statistics(n), some_bands(b, c, n, seed)
    expected = take_bands(images, mean, std, bands, dtype=torch.float32, channels_last=nhwc, nodata=nodata)
    got, _ = in_kernel(images, mean, std, bands, out, nhwc, nodata)
    assert got.dtype == out
    assert got.is_contiguous(memory_format=torch.channels_last if nhwc else torch.contiguous_format)
    low = take_bands(images, mean, std, bands, dtype=out, channels_last=nhwc, nodata=nodata)
    assert (low.dtype, low.stride()) == (out, got.stride())
    torch.testing.assert_close(got.float(), expected, rtol=ULP[out] + 3e-7, atol=1e-6)


@pytest.mark.parametrize("side", [(1, 1023), (1025, 1), (41, 101), (64, 64), (3, 1366)])
@pytest.mark.parametrize(("channels", "nhwc"), [(1, False), (3, True), (2, False)])
def test_planes_beyond_one_program(side, channels, nhwc, monkeypatch):
    monkeypatch.setattr(select_kernel, "BLOCK", 1024)
    images, (mean, std), bands = pictures(torch.uint16, 2, 3, *side), statistics(3), some_bands(2, channels, 3)
    expected = take_bands(images, mean, std, bands, channels_last=nhwc)
    got, _ = in_kernel(images, mean, std, bands, channels_last=nhwc)
    torch.testing.assert_close(got, expected, rtol=3e-7, atol=1e-6)


@pytest.mark.parametrize(
    ("pixels", "channels", "vectors", "block", "warps"),
    [
        (14400, 1, True, 4096, 4), (3600, 1, True, 4096, 4), (14400, 3, True, 4096, 8), (14400, 64, True, 256, 8),
        (14400, 1, False, 4096, 8), (14400, 3, False, 1024, 8), (100, 1, True, 128, 1),
    ],
)  # fmt: skip
def test_a_thread_holds_no_more_than_its_registers_take(pixels, channels, vectors, block, warps):
    """32 elements, 64 of several channels, 16 where loads are scalar."""
    assert select_kernel.blocks_of(pixels, channels, vectors) == (block, warps)


def test_only_what_no_even_step_reaches_is_copied():
    for layout in LAYOUTS:
        images = pictures(torch.int16, 2, 3, 4, 5, layout=layout)
        assert (select_kernel.even(images)[0] is images) == (layout not in ("cropped", "transposed"))
    far = torch.empty_strided((1, 3, 4, 5), (1 << 33, 1 << 30, 5, 1), device="meta")  # beyond 32-bit indices
    assert select_kernel.even(far)[0].stride() == (60, 20, 5, 1)


@pytest.mark.parametrize("compute", [take_bands, lambda *args, **options: in_kernel(*args, **options)[0]])
def test_silent_errors_digital_numbers_do_not_wrap_and_decibels_keep_their_fraction(compute):
    images = torch.tensor([10040, 40000, 255, 65535], dtype=torch.int32).to(torch.uint16).view(1, 1, 2, 2)
    one = torch.zeros(1), torch.ones(1), torch.zeros(1, 1, dtype=torch.int64)
    assert compute(images, *one).flatten().tolist() == [10040, 40000, 255, 65535]
    decibels = torch.tensor([-11.75, -0.25, -18.5, -24.99]).view(1, 1, 2, 2)
    assert torch.equal(compute(decibels, *one), decibels)


@pytest.mark.parametrize("compute", [take_bands, lambda *args, **options: in_kernel(*args, **options)[0]])
def test_nodata_is_compared_as_the_images_hold_it(compute):
    one = torch.zeros(1), torch.ones(1), torch.zeros(1, 1, dtype=torch.int64)
    for dtype in OUT:
        images = torch.tensor([-9999.0, 1.5]).to(dtype).view(1, 1, 1, 2)
        assert compute(images, *one, nodata=-9999.0).flatten().tolist() == [0, 1.5]
        assert compute(images, *one, nodata=-3.4e38).flatten().tolist() == [float(images[0, 0, 0, 0]), 1.5]


# ---- draws --------------------------------------------------------------------------------------------------


def drawn(seed, epoch, samples, view, channels, n):
    return draw_bands(seed, epoch, samples, view + 1, channels, {"ms": range(n)}, "ms")[:, view]


@triton.jit
def draw_kernel(
    out, counters, k0, k1, POOL: tl.constexpr, CHANNELS: tl.constexpr, STREAM: tl.constexpr, N: tl.constexpr
):
    """Bands, (N,) int64, of N counters (4, N) int64: sample, epoch, view, channel."""
    at = tl.arange(0, N)
    sample, epoch = tl.load(counters + at), tl.load(counters + N + at)
    view, channel = tl.load(counters + 2 * N + at), tl.load(counters + 3 * N + at)
    tl.store(out + at, select_kernel.band_of(k0, k1, sample, epoch, view, channel.to(tl.int32), POOL, CHANNELS, STREAM))


@pytest.mark.parametrize(
    ("channels", "n"), [(1, 1), (1, 12), (2, 2), (3, 10), (5, 3), (9, 4), (16, 5), (16, 13), (16, 20)]
)
@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_the_kernel_draws_as_draw_bands(channels, n, seed):
    generator = torch.Generator().manual_seed(channels * n)
    counters = torch.randint(0, 2**40, (4, 1024), generator=generator)
    counters[2] %= 4
    counters[3] %= channels
    counters[0, 0] = -3
    out = torch.full((1024,), -7, device=KERNEL)
    draw_kernel[(1,)](out, counters.to(KERNEL), *philox.seed_words(seed), n, channels, philox.BAND, 1024)
    sample, epoch, view, channel = counters
    pools = draw_bands(seed, epoch[:, None], sample, 4, channels, {"ms": range(n)}, "ms")
    wanted = pools[torch.arange(1024), view, channel]
    assert torch.equal(out.cpu(), wanted)


@pytest.mark.parametrize(("epoch", "nhwc"), [(5, False), (2**33, True), (torch.tensor(2**33), False)])
def test_the_kernel_takes_the_bands_it_draws_and_writes_them(epoch, nhwc):
    samples = torch.arange(2**40, 2**40 + 2)
    images = torch.arange(7.0).view(1, 7, 1, 1).expand(2, 7, 1, 2)  # a band's number is its value
    now = epoch.to(KERNEL) if isinstance(epoch, torch.Tensor) else epoch
    draw = samples.to(KERNEL), now, 2**62 + 5, 1
    out, bands = in_kernel(images, torch.zeros(7), torch.ones(7), torch.full((2, 3), -7), channels_last=nhwc, draw=draw)
    wanted = drawn(2**62 + 5, epoch, samples, 1, 3, 7)
    assert torch.equal(bands, wanted)
    assert torch.equal(out, wanted[..., None, None].expand(out.shape).float())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("channels", "n"), [(1, 12), (3, 10), (16, 5), (4, 1)])
def test_select_bands_is_take_bands_of_draw_bands(device, channels, n):
    images, (mean, std) = pictures(torch.uint16, 9, n, 4, 5).to(device), (x.to(device) for x in statistics(n))
    samples = torch.arange(100, 109, device=device)
    for view, epoch in ((0, 0), (1, 7), (1, torch.tensor(8, device=device))):
        bands = drawn(3, epoch, samples, view, channels, n)
        out = select_bands(images, mean, std, samples, channels=channels, seed=3, epoch=epoch, view=view)
        assert torch.equal(out, take_bands(images, mean, std, bands))


@pytest.mark.parametrize("device", DEVICES)
def test_a_draw_depends_on_nothing_but_seed_epoch_sample_and_view(device):
    images, (mean, std) = pictures(torch.int16, 8, 10, 3, 3).to(device), (x.to(device) for x in statistics(10))
    samples, order = torch.arange(8, device=device), [5, 0, 6]
    whole = select_bands(images, mean, std, samples, channels=3, seed=1, epoch=0)
    assert torch.equal(
        select_bands(images[order], mean, std, samples[order], channels=3, seed=1, epoch=0), whole[order]
    )
    assert torch.equal(select_bands(images, mean, std, samples, channels=3, seed=1, epoch=0), whole)
    for other in ({"seed": 2}, {"epoch": 1}, {"view": 1}):
        options = {"channels": 3, "seed": 1, "epoch": 0} | other
        assert not torch.equal(select_bands(images, mean, std, samples, **options), whole)


# ---- gradients ----------------------------------------------------------------------------------------------


def backward_in_kernel(grad, images, std, bands, nodata):
    grad, images, std, bands = (x.to(KERNEL) for x in (grad, images, std, bands))
    total = torch.full(images.shape, math.nan, dtype=images.dtype, device=KERNEL)
    select_kernel.launch_select_bands_backward(total, grad, images, std, bands, nodata)
    return total.cpu()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", OUT)
def test_gradient_is_autograds_in_float64(device, dtype):
    images, (mean, std) = pictures(dtype, 3, 5, 4, 6).to(device), (x.to(device) for x in statistics(5))
    bands = torch.tensor([[0, 3, 3, 1], [2, 2, 2, 2], [4, 0, 1, 0]], device=device)
    leaf, double = images.clone().requires_grad_(), images.double().requires_grad_()
    weight = torch.randn(3, 4, 4, 6, generator=torch.Generator().manual_seed(1)).to(device)
    (take_bands(leaf, mean, std, bands, nodata=0.0) * weight).sum().backward()
    taken = double[torch.arange(3, device=device)[:, None], bands]
    valid = taken.isfinite() & (taken != 0)
    formula = torch.where(valid, (taken - mean[bands][..., None, None]) / std[bands][..., None, None], 0)
    (formula * weight).sum().backward()
    wanted = double.grad.nan_to_num(0.0, 0.0, 0.0)
    assert leaf.grad.dtype == dtype
    torch.testing.assert_close(leaf.grad.double(), wanted, rtol=torch.finfo(dtype).eps, atol=1e-7)
    drawn_at_all = torch.zeros(3, 5, dtype=torch.bool, device=device).scatter(1, bands, True)
    assert (leaf.grad[~drawn_at_all] == 0).all()
    assert (leaf.grad[~images.isfinite()] == 0).all()


@settings(max_examples=25)
@given(
    dtype=st.sampled_from(OUT), out=st.sampled_from(OUT), layout=st.sampled_from(LAYOUTS), b=st.integers(1, 3),
    grads=st.sampled_from(["contiguous", "channels last", "expanded", "cropped"]), c=st.integers(1, 5),
    n=st.integers(1, 6), h=st.sampled_from([1, 3, 16]), w=st.sampled_from([1, 2, 17]), seed=st.integers(0, 99),
)  # fmt: skip
def test_backward_kernel_is_the_reference(dtype, out, layout, grads, b, c, n, h, w, seed):
    images, bands, (_, std) = pictures(dtype, b, n, h, w, seed, layout), some_bands(b, c, n, seed), statistics(n)
    grad = pictures(out, b, c, h, w, seed + 1, grads, invalid=False)
    expected = select_kernel.select_bands_backward_reference(grad, images, std, bands, 0.0)
    got = backward_in_kernel(grad, images, std, bands, 0.0)
    torch.testing.assert_close(
        got.float(), expected, rtol=ULP[dtype] + 3e-7, atol=1e-6 if dtype.itemsize == 4 else 1e-5
    )


def test_backward_beyond_one_program_and_of_a_sum(monkeypatch):
    monkeypatch.setattr(select_kernel, "BLOCK", 64)
    images, bands, (_, std) = pictures(torch.float32, 1, 2, 9, 17), torch.tensor([[1, 1, 1]]), statistics(2)
    grad = torch.ones(()).expand(1, 3, 9, 17)
    got = backward_in_kernel(grad, images, std, bands, math.nan)
    assert (got[0, 0] == 0).all()
    torch.testing.assert_close(got[0, 1], torch.where(images[0, 1].isfinite(), 3 / std[1], 0.0))


# ---- the ops ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epoch", [4, torch.tensor(4)])
def test_the_ops_run_their_kernels(launches, epoch):
    images, (mean, std) = pictures(torch.float32, 3, 6, 4, 4), statistics(6)
    moved = [x.to(KERNEL) for x in (images, mean, std)]
    samples = torch.arange(3, device=KERNEL)
    moved[0] = moved[0].clone().requires_grad_()
    epoch = epoch.to(KERNEL) if isinstance(epoch, torch.Tensor) else epoch
    out = select_bands(*moved, samples, channels=3, seed=9, epoch=epoch, view=1)
    bands = drawn(9, 4, torch.arange(3), 1, 3, 6)
    torch.testing.assert_close(out.detach().cpu().double(), by_numpy(images, mean, std, bands), rtol=1e-6, atol=1e-6)
    out.sum().backward()
    expected = select_kernel.select_bands_backward_reference(torch.ones(out.shape), images, std, bands, math.nan)
    torch.testing.assert_close(moved[0].grad.cpu(), expected)
    plain = take_bands(moved[0].detach(), *moved[1:], bands.to(KERNEL))
    assert torch.equal(plain, out.detach())
    assert launches == {"select_bands_kernel": 2, "select_bands_backward_kernel": 1}


def inputs_of(device, dtype=torch.float32, b=3):
    images, (mean, std) = pictures(dtype, b, 4, 3, 5), statistics(4)
    return [x.to(device) for x in (images, mean, std)]


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    images, mean, std = inputs_of(device)
    images = images.nan_to_num(0.0, 0.0, 0.0).requires_grad_()
    bands, samples = some_bands(3, 3, 4).to(device), torch.arange(3, device=device)
    torch.library.opcheck(select.take_op, (images, mean, std, bands, -1.0, torch.float32, True))
    drawn_with = (5, 7, 1, 3, -1.0, torch.bfloat16, False)  # epoch, seed, view, channels, nodata, dtype, channels last
    torch.library.opcheck(select.select_op, (images, mean, std, samples, None, *drawn_with))
    now, quick = torch.tensor(2, device=device), ["test_schema", "test_faketensor"]
    torch.library.opcheck(select.select_op, (images.detach(), mean, std, samples, now, *drawn_with), test_utils=quick)
    grad = torch.ones(3, 3, 3, 5, device=device)
    torch.library.opcheck(select.backward_op, (grad, images.detach(), std, bands, 0.0))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_with_any_batch_and_a_new_epoch_does_not_recompile(device):
    def step(images, mean, std, samples, epoch):
        return select_bands(images, mean, std, samples, channels=2, seed=1, epoch=epoch, channels_last=True)

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend="aot_eager")
    compiled(*inputs_of(device, b=7), torch.arange(7, device=device), torch.tensor(0, device=device))
    with torch.compiler.set_stance("fail_on_recompile"):
        for epoch, b in ((1, 3), (2, 5), (3, 2)):
            args = *inputs_of(device, b=b), torch.arange(b, device=device), torch.tensor(epoch, device=device)
            out, expected = compiled(*args), step(*args)
            assert torch.equal(out, expected)
            assert out.stride() == expected.stride()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("compiled", [False, True])
def test_under_autocast_the_result_is_of_its_type_unless_another_is_asked_for(device, compiled):
    images, mean, std = inputs_of(device, torch.uint16)
    bands = some_bands(3, 1, 4).to(device)

    def both():
        with torch.autocast(device, dtype=torch.bfloat16):
            return take_bands(images, mean, std, bands), take_bands(images, mean, std, bands, dtype=torch.float32)

    low, high = torch.compile(both, fullgraph=True, backend="eager")() if compiled else both()
    assert low.dtype == torch.bfloat16
    assert torch.equal(high, take_bands(images, mean, std, bands))
    assert torch.equal(low, high.bfloat16())


def test_empty_batch():
    images, (mean, std) = torch.zeros(0, 4, 3, 5), statistics(4)
    out = select_bands(images, mean, std, torch.zeros(0, dtype=torch.int64), channels=2, seed=0, epoch=0)
    assert out.shape == (0, 2, 3, 5)
    out, _ = in_kernel(images, mean, std, torch.zeros(0, 2, dtype=torch.int64))
    assert out.shape == (0, 2, 3, 5)


# ---- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [-1, 4, 1 << 40, -(1 << 62)])
def test_an_index_outside_is_an_error_on_the_host_and_zeros_on_the_device(index):
    images, (mean, std) = pictures(torch.int16, 2, 4, 3, 3), statistics(4)
    bands = torch.tensor([[1, 2], [3, index]])
    with pytest.raises(ValueError, match="bands"):
        take_bands(images, mean, std, bands)
    for nhwc in (False, True):
        out, _ = in_kernel(images, mean, std, bands, channels_last=nhwc)
        assert (out[1, 1] == 0).all()
        bands[1, 1] = 0
        assert torch.equal(out[:, 0], take_bands(images, mean, std, bands)[:, 0])
        bands[1, 1] = index
    total = backward_in_kernel(torch.ones(2, 2, 3, 3), images.float(), std, bands, math.nan)
    assert (total[1, [0, 1, 2]] == 0).all()


@pytest.mark.parametrize(("mean", "std"), [(math.nan, 1.0), (0.0, 0.0), (0.0, -1.0), (0.0, math.nan), (0.0, math.inf)])
def test_a_band_without_statistics_is_an_error_on_the_host_and_zeros_on_the_device(mean, std):
    images = pictures(torch.float32, 2, 2, 3, 3, invalid=False)
    means, stds, bands = torch.tensor([0.0, mean]), torch.tensor([1.0, std]), torch.tensor([[0], [1]])
    with pytest.raises(ValueError, match="band 1"):
        take_bands(images, means, stds, bands)
    out, _ = in_kernel(images, means, stds, bands)
    assert (out[1] == 0).all()
    assert torch.equal(out[0, 0], images[0, 0])


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("images", torch.zeros(2, 4, 3, 5, dtype=torch.float64), TypeError),
        ("images", torch.zeros(4, 3, 5), ValueError),
        ("images", torch.zeros(2, 4, 0, 5), ValueError),
        ("images", torch.zeros(1).expand(2, 4, 1 << 16, 1 << 16), ValueError),
        ("mean", torch.zeros(3), ValueError),
        ("mean", torch.zeros(4, dtype=torch.float64), TypeError),
        ("std", torch.ones(4, 1), ValueError),
        ("std", torch.ones(4, device="meta"), ValueError),
        ("samples", torch.zeros(3, dtype=torch.int64), ValueError),
        ("samples", torch.zeros(2, dtype=torch.int32), TypeError),
        ("epoch", torch.zeros(1, dtype=torch.int64), ValueError),
        ("epoch", torch.zeros((), dtype=torch.int32), TypeError),
        ("channels", 0, ValueError),
        ("channels", 65, ValueError),
        ("seed", -1, ValueError),
        ("seed", 1 << 63, ValueError),
        ("view", -1, ValueError),
        ("view", 1 << 31, ValueError),
        ("dtype", torch.int32, ValueError),
    ],
)
def test_bad_arguments_are_named(name, value, error):
    arguments = {"images": torch.zeros(2, 4, 3, 5), "mean": torch.zeros(4), "std": torch.ones(4), "seed": 0, "epoch": 0,
                 "samples": torch.zeros(2, dtype=torch.int64)}  # fmt: skip
    with pytest.raises(error, match=name):
        select_bands(**arguments | {name: value})


@pytest.mark.parametrize(
    ("bands", "error"),
    [
        (torch.zeros(2, dtype=torch.int64), ValueError),
        (torch.zeros(3, 1, dtype=torch.int64), ValueError),
        (torch.zeros(2, 1, dtype=torch.int32), TypeError),
        (torch.zeros(2, 1, dtype=torch.int64, device="meta"), ValueError),
    ],
)
def test_bad_bands_are_named(bands, error):
    with pytest.raises(error, match="bands"):
        take_bands(torch.zeros(2, 4, 3, 5), torch.zeros(4), torch.ones(4), bands)


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_one_launch_and_replays_in_a_cuda_graph():
    images, mean, std = inputs_of("cuda", torch.uint16)
    samples, epoch = torch.arange(3, device="cuda"), torch.zeros((), dtype=torch.int64, device="cuda")

    def step(now):
        return select_bands(images, mean, std, samples, channels=2, seed=1, epoch=now)

    step(epoch), step(3)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step(epoch), step(4)
        torch.cuda.synchronize()
    events = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    assert len(events) == 2
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(epoch)
    for now in range(3):
        epoch.fill_(now)
        graph.replay()
        assert torch.equal(captured, step(now))
