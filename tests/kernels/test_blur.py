"""gaussian_blur, blur_views and draw_sigma: the reference against scipy in float64, the kernel against both."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rsdnet.kernels import ViewSpec, blur, blur_kernel
from rsdnet.kernels.blur import blur_views, draw_sigma, gaussian_blur, gaussian_blur_reference
from rsdnet.kernels.philox import BLUR
from rsdnet.kernels.views import empty_views

from tests.kernels.conftest import DEVICES, GPU, KERNEL, TYPES
from tests.kernels.test_philox import python_philox

ndimage = pytest.importorskip("scipy.ndimage")
# Float32 sums here and there; bf16 is cut off, not rounded, in Triton's interpreter: a unit in the last place.
TOLERANCE = {torch.float32: (1e-6, 2e-6), torch.bfloat16: (2**-7, 1e-6), torch.float16: (2**-10, 1e-6)}


def picture(*shape, dtype=torch.float32, last=False, seed=0):
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return made.contiguous(memory_format=torch.channels_last) if last else made


def in_float64(images, sigma, radius):
    """scipy's correlation with the paper's weights, axis by axis; "mirror" is torch's and torchvision's "reflect"."""
    out = images.double().cpu().numpy().copy()
    for image, s in zip(out, sigma.tolist(), strict=True):
        if s > 0:
            weights = [math.exp(-t * t / (2 * s * s)) for t in range(-radius, radius + 1)]
            weights = [weight / sum(weights) for weight in weights]
            for axis in (1, 2):
                ndimage.correlate1d(image, weights, axis, output=image, mode="mirror")
    return torch.from_numpy(out)


def transposed_in_float64(grads, sigma, radius):
    """The transpose of in_float64, from the matrices of its two passes: what it makes of the unit vectors."""
    out = grads.double().cpu().clone()
    for image, s in zip(out, sigma, strict=True):
        down, along = (
            in_float64(torch.eye(side)[:, None, :, None], s.expand(side), radius)[:, 0, :, 0].T
            for side in image.shape[1:]
        )
        image.copy_(down.T @ image @ along)
    return out


def in_kernel(images, sigma, radius, adjoint=False, **draw):
    images = images.to(KERNEL)
    out = torch.full_like(images, math.nan)
    blur_kernel.launch_blur(out, images, None if sigma is None else sigma.to(KERNEL), radius, adjoint, **draw)
    return out.cpu()


def assert_near(got, wanted, dtype):
    relative, absolute = TOLERANCE[dtype]
    torch.testing.assert_close(got.double(), wanted, rtol=relative, atol=absolute * float(wanted.abs().max()) + 1e-9)


@settings(max_examples=25)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    st.integers(1, 20),
    st.lists(st.floats(-0.5, 9, width=32), min_size=3, max_size=3),
    st.booleans(),
)
def test_reference_is_scipys_in_float64(shape, radius, sigma, last):
    images, sigma = picture(*shape, last=last), torch.tensor(sigma)[: shape[0]]
    wanted = in_float64(images, sigma, radius)
    assert_near(gaussian_blur_reference(images, sigma, radius), wanted, torch.float32)
    blurred = gaussian_blur(images, sigma, radius=radius)
    assert_near(blurred, wanted, torch.float32)
    assert blurred.stride() == images.stride()


def test_a_spike_becomes_the_window():
    images = torch.zeros(1, 1, 9, 9)
    images[..., 4, 4] = 1
    bell = torch.tensor([math.exp(-t * t / 4.5) for t in range(-2, 3)]) / (
        1 + 2 * math.exp(-1 / 4.5) + 2 * math.exp(-4 / 4.5)
    )
    got = gaussian_blur(images, torch.tensor([1.5]), radius=2)[0, 0]
    torch.testing.assert_close(got[2:7, 2:7], bell[:, None] * bell)
    assert torch.equal(got.nonzero().amin(0), torch.tensor([2, 2]))


F32, BF16, FP16 = TYPES
# Chunks of 8, of 4 and single elements; one, three and four channels side by side; several bands and tiles, with and
# without margins; sides below the radius, of 1, 2, 3, 17 and 1025. Few rows: the interpreter takes its time.
CASES = [
    ((1, 1, 3, 128), 6, False, BF16),
    ((1, 1, 17, 128), 6, False, FP16),
    ((1, 1, 7, 272), 6, False, BF16),
    ((1, 1, 3, 496), 2, False, BF16),
    ((1, 3, 4, 100), 3, True, F32),
    ((2, 1, 4, 16), 2, False, F32),
    ((2, 1, 5, 16), 2, False, BF16),
    ((2, 1, 3, 16), 2, False, FP16),
    ((1, 1, 70, 8), 1, False, F32),
    ((1, 3, 3, 16), 3, True, BF16),
    ((1, 4, 1, 8), 7, True, FP16),
    ((2, 2, 17, 17), 1, False, F32),
    ((2, 3, 3, 5), 2, True, FP16),
    ((2, 1, 3, 2), 4, False, F32),
    ((2, 1, 1, 1), 1, False, BF16),
    ((2, 1, 1, 17), 1, True, F32),
    ((2, 1, 17, 1), 2, False, F32),
    ((1, 1, 1, 1025), 1, False, F32),
    ((1, 1, 1, 2048), 1, False, BF16),
]


@pytest.mark.parametrize(("shape", "radius", "last", "dtype"), CASES)
def test_kernel_is_scipys_in_float64_and_copies_where_sigma_is_0(shape, radius, last, dtype):
    images = picture(*shape, dtype=dtype, last=last)
    sigma = torch.tensor([1.7, 0.0])[: shape[0]]
    got = in_kernel(images, sigma, radius)
    assert got.stride() == images.stride()
    assert_near(got, in_float64(images, sigma, radius), dtype)
    assert torch.equal(got[sigma == 0], images[sigma == 0])


@pytest.mark.parametrize(
    ("shape", "radius", "last", "dtype"), [case for case in CASES if math.prod(case[0]) < 65 and case[1] < 7]
)
def test_kernel_and_reference_of_the_gradient_are_the_transpose(shape, radius, last, dtype):
    grads, sigma = picture(*shape, dtype=dtype, last=last), torch.tensor([1.7, 0.45])[: shape[0]]
    wanted = transposed_in_float64(grads, sigma, radius)
    assert_near(gaussian_blur_reference(grads, sigma, radius, adjoint=True), wanted, dtype)
    assert_near(in_kernel(grads, sigma, radius, adjoint=True), wanted, dtype)


@settings(max_examples=60)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(1, 5), st.integers(1, 26), st.sampled_from([2, 4]),
       st.sampled_from([1, 7, 300, 5000]))  # fmt: skip
def test_tiles_fit(height, width, step, radius, itemsize, planes):
    for lanes in (32, 64):
        tile = blur_kernel.blur_tile(planes, height, width, step, radius, itemsize, lanes)
        px, chunks, margin, bands, band, programs = tile
        assert px == 1 or (width * step % px == 0 and radius < width and px * itemsize <= 16)
        assert chunks * bands == lanes
        assert chunks & (chunks - 1) == 0
        whole = px == 1 or chunks * px >= width * step  # no neighbour beyond the tile is needed
        assert margin == 0 if whole else radius * step <= margin * px < chunks * px / 2
        assert band % 8 == 0
        down = math.ceil(height / (bands * band))
        assert programs % (planes * down) == 0
        whole_width = math.ceil(width * step / px)
        assert programs // (planes * down) * (chunks - 2 * margin) >= whole_width - 2 * margin


def test_few_images_take_smaller_tiles():
    """As on an H200, where 256 images took 17.9 us by one program each and 12.3 us by two or four."""
    assert blur_kernel.blur_tile(256, 128, 128, 1, 6, 2, 32) == (8, 16, 0, 2, 32, 512)
    assert blur_kernel.blur_tile(1, 128, 128, 1, 6, 2, 32) == (8, 16, 0, 2, 16, 4)


def test_trainers_views_take_whole_chunks_and_no_idle_thread():
    assert blur_kernel.blur_tile(1024, 64, 64, 1, 3, 2, 32) == (8, 8, 0, 4, 16, 1024)
    assert blur_kernel.blur_tile(1024, 128, 128, 1, 6, 2, 32) == (8, 16, 0, 2, 64, 1024)
    assert blur_kernel.blur_tile(1024, 128, 128, 3, 6, 2, 32) == (8, 32, 3, 1, 64, 4096)
    assert blur_kernel.blur_tile(1024, 224, 224, 1, 11, 2, 32) == (4, 32, 3, 1, 112, 4096)


@pytest.mark.filterwarnings("ignore:.*double precision")
@pytest.mark.parametrize("device", DEVICES)
def test_gradcheck_also_of_the_gradient(device):
    """Linear, so that steps of 1 give exact differences, in float32."""
    images = picture(2, 2, 4, 5).to(device).requires_grad_()
    sigma = torch.tensor([0.8, 2.0], device=device)

    def op(x):
        return gaussian_blur(x, sigma, radius=3)

    assert torch.autograd.gradcheck(op, images, eps=1.0, rtol=1e-4, atol=1e-5)
    assert torch.autograd.gradgradcheck(op, images, eps=1.0, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TYPES)
def test_gradient_has_the_images_type_and_sigma_has_none(device, dtype):
    images = picture(2, 3, 8, 8, dtype=dtype, last=True).to(device).requires_grad_()
    sigma = torch.tensor([1.0, 0.0], device=device, requires_grad=True)
    gaussian_blur(images, sigma, radius=2).sum().backward()
    wanted = transposed_in_float64(torch.ones(2, 3, 8, 8), sigma.detach().cpu(), 2)
    assert images.grad.dtype == dtype
    assert_near(images.grad.cpu(), wanted, dtype)
    assert sigma.grad is None


@pytest.mark.parametrize("compute", [in_kernel, lambda x, sigma, radius: gaussian_blur(x, sigma, radius=radius)])
@pytest.mark.parametrize("dtype", TYPES)
def test_sigma_of_zero_or_less_or_nan_copies_every_bit(compute, dtype):
    images = picture(3, 1, 8, 16, dtype=dtype)
    images[:, 0, 2, 3], images[:, 0, 0, 0] = math.nan, math.inf
    stored = torch.int32 if dtype == torch.float32 else torch.int16
    images.view(stored)[:, 0, 5, 5] = torch.tensor(0x7FC1, dtype=torch.int32).to(stored)  # a NaN with a payload
    got = compute(images, torch.tensor([0.0, -1.0, math.nan]), 2)
    assert torch.equal(got.view(stored), images.view(stored))


@pytest.mark.parametrize("compute", [in_kernel, gaussian_blur_reference])
@pytest.mark.parametrize("width", [16, 17])
def test_a_nan_reaches_as_far_as_the_window(compute, width):
    images = picture(1, 1, 12, width, dtype=torch.bfloat16)
    images[0, 0, 5, 7] = math.nan
    rows, columns = compute(images, torch.tensor([1.0]), 2)[0, 0].isnan().nonzero().unbind(1)
    assert torch.equal(
        torch.stack([rows.unique(), columns.unique()]), torch.stack([torch.arange(3, 8), torch.arange(5, 10)])
    )
    assert len(rows) == 25


@settings(max_examples=15)
@given(st.tuples(st.just(1), st.integers(1, 3), st.integers(1, 150), st.integers(1, 300)), st.booleans())
@example((1, 1, 128, 128), False)
@example((1, 3, 71, 40), True)
def test_kernel_copies_every_row_and_column(shape, last):
    images = picture(*shape, dtype=torch.bfloat16, last=last)
    assert torch.equal(in_kernel(images, torch.zeros(1), 6), images)


@pytest.mark.parametrize("compute", [in_kernel, gaussian_blur_reference])
def test_sigmas_at_the_ends_of_float32(compute):
    images = picture(4, 1, 8, 16)
    got = compute(images, torch.tensor([1e-45, 1e-20, 1e30, math.inf]), 1)
    assert torch.equal(got[:2], images[:2])  # nothing but the centre weighs
    assert_near(got[2:], in_float64(images[2:], torch.full((2,), 1e30), 1), torch.float32)  # the mean of the window


@pytest.mark.parametrize("device", DEVICES)
def test_a_radius_beyond_the_kernels_and_of_0(device):
    images, sigma = picture(1, 1, 6, 9).to(device), torch.tensor([20.0], device=device)
    got = gaussian_blur(images, sigma, radius=blur_kernel.MAX_RADIUS + 1)
    assert_near(got.cpu(), in_float64(images, sigma, blur_kernel.MAX_RADIUS + 1), torch.float32)
    copy = gaussian_blur(images, sigma, radius=0)
    assert torch.equal(copy, images)
    assert copy.data_ptr() != images.data_ptr()
    assert gaussian_blur(images[:0], sigma[:0], radius=2).shape == (0, 1, 6, 9)


@pytest.mark.parametrize("device", DEVICES)
def test_two_runs_are_bitwise_equal_also_of_strided_images(device):
    images, sigma = picture(3, 6, 10, 24).to(device)[:, ::2, 1:9, ::2], torch.tensor([1.9, 0.3, 1.0], device=device)
    assert torch.equal(gaussian_blur(images, sigma, radius=2), gaussian_blur(images.contiguous(), sigma, radius=2))
    images, sigma = images[:1].contiguous(), sigma[:1]
    assert torch.equal(in_kernel(images, sigma, 1), in_kernel(images, sigma, 1))


# ---- the draw -----------------------------------------------------------------------------------------------


def test_draw_is_that_of_python_integers():
    samples, seed = [0, 7, 2**31 + 5], 2**40 + 3
    drawn = draw_sigma(torch.tensor(samples), probability=[0.5, 1.0], sigma=(0.25, 1.5), seed=seed, epoch=6)
    for view, chance in enumerate((0.5, 1.0)):
        for sample, got in zip(samples, drawn[view].tolist(), strict=True):
            words = python_philox((sample, 6, view, BLUR), (seed & 0xFFFFFFFF, seed >> 32))
            decide, size = (word / 2**32 for word in words[:2])
            assert got == pytest.approx(0.25 + 1.25 * size if decide < chance else 0, abs=1e-6)


def test_draw_is_uniform_and_as_likely_as_asked():
    drawn = draw_sigma(torch.arange(20_000), probability=(1.0, 0.1, 0.0), seed=1, epoch=0)
    assert (drawn[0] > 0).all()
    assert (drawn[1] > 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert not drawn[2].any()
    for view in drawn[:2]:
        blurred = view[view > 0]
        assert 0.1 <= blurred.min() < 0.11
        assert 1.99 < blurred.max() < 2.0
        assert blurred.mean().item() == pytest.approx(1.05, abs=0.05)
    assert torch.corrcoef(drawn[:2])[0, 1].abs() < 0.03


@pytest.mark.parametrize(("epoch", "last"), [(0, False), (1, True), (2**33 + 9, False)])
def test_kernel_draws_as_the_reference(epoch, last):
    images, samples = picture(6, 1, 1, 8, last=last), torch.tensor([4, 2**32 + 1, 77])
    chances, seed = (1.0, 0.5), 2**63 - 2
    draw = (samples.to(KERNEL), torch.tensor(epoch, device=KERNEL), seed, chances, 0.1, 2.0)
    sigma = draw_sigma(samples, probability=chances, seed=seed, epoch=epoch).flatten()
    assert 0 < (sigma > 0).sum() <= 6
    got = in_kernel(images, None, 1, draw=draw)
    assert_near(got, in_float64(images, sigma, 1), torch.float32)
    assert torch.equal(got[sigma == 0], images[sigma == 0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("last", [False, True])
def test_views_are_blurred_with_the_drawn_sigma_in_their_own_memory_layout(device, last):
    spec = ViewSpec(size=40, dtype=torch.bfloat16, channels_last=last)
    views = empty_views(torch.zeros(3, 2, 3, 5, dtype=torch.int64), spec)
    views = views.copy_(picture(*views.shape)).to(device)
    samples = torch.tensor([5, 6, 7], device=device)
    got = blur_views(views, samples, probability=(1.0, 0.4), seed=3, epoch=2)
    sigma = draw_sigma(samples, probability=(1.0, 0.4), seed=3, epoch=2)
    assert got.stride() == views.stride()
    assert got[0].is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    for view in range(2):
        assert_near(got[view].cpu(), in_float64(views[view], sigma[view], 2), torch.bfloat16)  # 40 // 10 // 2
    moved = blur_views(
        views[:, [2]], samples[[2]], probability=(1.0, 0.4), seed=3, epoch=torch.tensor(2, device=device)
    )
    assert torch.equal(moved[:, 0], got[:, 2])  # whatever the batch


def test_one_probability_counts_for_all_views_and_small_views_stay():
    views, samples = picture(2, 4, 1, 20, 20), torch.arange(4)
    blurred = blur_views(views, samples, probability=1, seed=0, epoch=0)
    assert torch.equal(blurred, blur_views(views, samples, probability=[1.0, 1.0], seed=0, epoch=0))
    assert not any(torch.equal(a, b) for a, b in zip(blurred.flatten(0, 1), views.flatten(0, 1), strict=True))
    small = views[..., :19, :19]
    assert torch.equal(blur_views(small, samples, probability=1.0, seed=0, epoch=0), small)
    assert not torch.equal(blur_views(small, samples, probability=1.0, radius=1, seed=0, epoch=0), small)
    assert blur_views(views[:, :0], samples[:0], probability=1.0, seed=0, epoch=0).shape == (2, 0, 1, 20, 20)


# ---- the op -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("last", [False, True])
def test_opcheck(device, last):
    images = picture(4, 2, 5, 6, last=last).to(device).requires_grad_()
    sigma = torch.tensor([1.0, 0.0, 0.5, 2.0], device=device)
    torch.library.opcheck(blur.blur_op, (images, sigma, *blur_kernel.NO_DRAW, 2, False))
    draw = (torch.arange(2, device=device), torch.tensor(3, device=device), 1, [1.0, 0.1], 0.1, 2.0)
    torch.library.opcheck(blur.blur_op, (images, None, *draw, 2, False))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_with_any_batch_and_once_for_all_epochs(device):
    graphs = 0

    def count(graph, inputs):
        nonlocal graphs
        graphs += 1
        return graph.forward

    def both(views, samples, sigma, epoch):
        views = blur_views(views, samples, probability=(1.0, 0.1), radius=1, seed=1, epoch=epoch)
        return gaussian_blur(views[0], sigma, radius=2)

    compiled = torch.compile(both, fullgraph=True, dynamic=True, backend="inductor" if GPU else count)
    for b, epoch in ((3, 0), (5, 1), (5, 2), (8, 3)):
        arguments = picture(2, b, 1, 6, 6), torch.arange(b), torch.full((b,), 0.7), torch.tensor(epoch)
        arguments = [argument.to(device) for argument in arguments]
        torch.testing.assert_close(compiled(*arguments), both(*arguments))
    assert graphs == (0 if GPU else 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TYPES)
def test_under_autocast_the_type_stays_as_it_comes(device, dtype):
    images, sigma = picture(2, 1, 9, 9, dtype=dtype).to(device), torch.tensor([1.0, 0.3], device=device)
    plain = gaussian_blur(images, sigma, radius=2)
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(gaussian_blur(images, sigma, radius=2), plain)
    assert plain.dtype == dtype


@pytest.mark.parametrize(
    ("change", "error", "name"),
    [
        ({"images": torch.zeros(2, 4, 4)}, ValueError, "images"),
        ({"images": torch.zeros(2, 1, 0, 4)}, ValueError, "images"),
        ({"images": torch.zeros(2, 1, 4, 4, dtype=torch.float64)}, TypeError, "images"),
        ({"images": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}, TypeError, "images"),
        ({"sigma": torch.zeros(2, dtype=torch.float64)}, TypeError, "sigma"),
        ({"sigma": torch.zeros(3)}, ValueError, "sigma"),
        ({"sigma": torch.zeros(2, device="meta")}, ValueError, "sigma"),
        ({"radius": -1}, ValueError, "radius"),
    ],
)
def test_bad_arguments_of_gaussian_blur_are_named(change, error, name):
    good = {"images": torch.zeros(2, 1, 4, 4), "sigma": torch.zeros(2), "radius": 1}
    gaussian_blur(**good)
    with pytest.raises(error, match=f"^{name}:"):
        gaussian_blur(**{**good, **change})


@pytest.mark.parametrize(
    ("change", "error", "name"),
    [
        ({"views": torch.zeros(3, 1, 20, 20)}, ValueError, "views"),
        ({"views": torch.zeros(2, 3, 0, 20, 20)}, ValueError, "views"),
        ({"views": torch.zeros(2, 3, 1, 20, 20, dtype=torch.int16)}, TypeError, "views"),
        ({"samples": torch.zeros(3)}, TypeError, "samples"),
        ({"samples": torch.zeros(2, dtype=torch.int64)}, ValueError, "samples"),
        ({"samples": torch.zeros(3, dtype=torch.int64, device="meta")}, ValueError, "samples"),
        ({"probability": (1.0,)}, ValueError, "probability"),
        ({"probability": (1.0, 1.1)}, ValueError, "probability"),
        ({"probability": -0.1}, ValueError, "probability"),
        ({"probability": math.nan}, ValueError, "probability"),
        ({"sigma": (2.0, 0.1)}, ValueError, "sigma"),
        ({"sigma": (-1.0, 0.1)}, ValueError, "sigma"),
        ({"sigma": (0.1, math.inf)}, ValueError, "sigma"),
        ({"radius": -1}, ValueError, "radius"),
        ({"seed": 1 << 63}, ValueError, "seed"),
        ({"epoch": torch.tensor(0.0)}, TypeError, "epoch"),
        ({"epoch": torch.zeros(1, dtype=torch.int64)}, ValueError, "epoch"),
        ({"epoch": torch.zeros((), dtype=torch.int64, device="meta")}, ValueError, "epoch"),
    ],
)
def test_bad_arguments_of_blur_views_are_named(change, error, name):
    good = {"views": torch.zeros(2, 3, 1, 20, 20), "samples": torch.arange(3), "probability": (1.0, 0.1)}
    good |= {"seed": 0, "epoch": 0}
    blur_views(**good)
    with pytest.raises(error, match=f"^{name}:"):
        blur_views(**{**good, **change})
