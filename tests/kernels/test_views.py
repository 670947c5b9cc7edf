"""render_views: reference against Pillow and torch, kernel against reference, and the silent errors."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rsdnet.kernels import (
    DTYPE_CODES,
    BandRow,
    ViewSpec,
    band_table,
    blur_views,
    draw_views,
    render_views,
    views,
    views_matrix,
)
from rsdnet.kernels.views_matrix import launch_matrix
from rsdnet.kernels.views_taps import launch_taps
from torch.nn.functional import grid_sample, interpolate

from tests.kernels.conftest import DEVICES, KERNEL

TABLE = band_table(
    4,
    {
        0: BandRow(100.0, 50.0, gain=(0.8, 1.2), offset=(-5.0, 5.0)),
        1: BandRow(1000.0, 500.0, gain=(0.9, 1.1), clip=(10.0, 9000.0), nodata=0.0),
        2: BandRow(-12.0, 5.0, offset=(-1.0, 1.0), looks=3.0),
    },
)
RANGES = {torch.uint8: (0, 256), torch.int16: (-300, 9000), torch.uint16: (0, 65536)}


def patch(dtype, height, width, generator):
    if dtype in RANGES:
        return torch.randint(*RANGES[dtype], (height, width), generator=generator).to(torch.int32).to(dtype)
    return (torch.randn(height, width, generator=generator) * 5 - 12).to(dtype)


def pack(patches, band=0):
    """data and records of patches[b][v][c], each a tensor or (tensor, band id)."""
    parts, records, end = [], [], 0
    for sample in patches:
        for view in sample:
            for item in view:
                image, band_id = item if isinstance(item, tuple) else (item, band)
                raw = image.contiguous().flatten().view(torch.uint8)
                records.append([end, DTYPE_CODES[image.dtype], *image.shape, band_id])
                parts += [raw, torch.full((-len(raw) % 16,), 255, dtype=torch.uint8)]
                end += len(raw) + -len(raw) % 16
    shape = len(patches), len(patches[0]), len(patches[0][0]), 5
    return torch.cat(parts), torch.tensor(records).view(shape)


def mixed(b, v, c, side, seed=0, finite=True):
    """A batch of every type and of odd sizes up to `side`, in bands 0, 1 and 2."""
    generator = torch.Generator().manual_seed(seed)
    dtypes, patches, count = list(DTYPE_CODES), [], 0
    for _ in range(b):
        patches.append([[None] * c for _ in range(v)])
        for view in range(v):
            for channel in range(c):
                height, width = torch.randint(1, side + 1, (2,), generator=generator).tolist()
                image = patch(dtypes[count % 5], height, width, generator)
                if not finite and image.dtype.is_floating_point:
                    image.view(-1)[:: max(1, height // 2)] = math.nan
                    image.view(-1)[-1:] = -math.inf
                patches[-1][view][channel] = (image, count % 3)
                count += 1
    return patches


def render(patches, spec, table=TABLE, samples=None, seed=5, epoch=2, device="cpu"):
    data, records = pack(patches)
    samples = torch.arange(len(patches)) if samples is None else torch.as_tensor(samples)
    moved = (x.to(device) for x in (data, records, samples, table))
    return render_views(*moved, spec, seed=seed, epoch=epoch).cpu()


def by_pillow(patches, spec, seed, epoch):
    """The view by Pillow's antialiased bilinear of a box, then torch.flip and torch.rot90."""
    b, v, c, size = len(patches), len(patches[0]), len(patches[0][0]), spec.size
    draws = draw_views(spec, seed, epoch, torch.arange(b), v, c)
    out = torch.empty(v, b, c, size, size)
    for n, k, channel in product(range(b), range(v), range(c)):
        image, band = patches[n][k][channel]
        (high, wide), (top, left, height, width) = image.shape, (float(part[n, k]) for part in draws[:4])
        mean, std, *rest = TABLE[band].double().tolist()
        gain = rest[0] + float(draws.gain_u[n, k, channel]) * (rest[1] - rest[0]) if spec.jitter else 1
        offset = rest[2] + float(draws.offset_u[n, k, channel]) * (rest[3] - rest[2]) if spec.jitter else 0
        raw = image.numpy().astype("float64")
        value = (gain * raw.clip(rest[4], rest[5]) + offset - mean) / std
        value[raw == rest[6]] = 0
        box = (left * wide, top * high, min((left + width) * wide, wide), min((top + height) * high, high))
        resized = Image.fromarray(value.astype("float32")).resize((size, size), Image.Resampling.BILINEAR, box)
        view = torch.from_numpy(np.array(resized))
        view = view.flip(-1) if draws.flip[n, k] else view
        out[k, n, channel] = torch.rot90(view, int(draws.turns[n, k]), (0, 1))
    return out


@settings(deadline=None, max_examples=40)
@given(
    size=st.sampled_from([1, 2, 3, 17, 32, 33]), side=st.sampled_from([1, 2, 7, 40, 90]), channels=st.integers(1, 3),
    seed=st.integers(0, 2**63 - 1), augment=st.booleans(),
)  # fmt: skip
def test_reference_is_pillows_antialiased_bilinear(size, side, channels, seed, augment):
    spec = ViewSpec(size, dtype=torch.float32) if augment else ViewSpec.plain(size)
    patches = mixed(3, 2, channels, side, seed % 1000)
    rendered = render(patches, spec, seed=seed)
    expected = by_pillow(patches, spec, seed, 2)
    # A position is off by up to 2^-24 of the patch in float32; neighbours differ by up to 1,300 deviations here.
    assert (rendered - expected).abs().max() <= 2e-5 * expected.abs().max() + 1e-4


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 97), (20, 20), (129, 60)])
def test_a_whole_patch_is_torchs_own_antialiased_bilinear(height, width):
    image = torch.randn(height, width, dtype=torch.float64)
    expected = interpolate(image[None, None], size=(32, 32), mode="bilinear", antialias=True)[0, 0]
    table = band_table(1, {0: BandRow(0.0, 1.0)})
    rendered = render([[[image.float()]]], ViewSpec.plain(32), table=table)[0, 0, 0]
    torch.testing.assert_close(rendered.double(), expected, rtol=0, atol=2e-5)


def test_without_antialias_it_is_torchs_grid_sample():
    image, size = torch.randn(90, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 32
    spec = ViewSpec(size, (0.3, 0.9), flip=False, turn=False, jitter=False, dtype=torch.float32, antialias=False)
    draws = draw_views(spec, 5, 2, torch.arange(1), 1, 1)
    top, left, height, width = (float(part) for part in draws[:4])
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    at = torch.meshgrid(2 * (top + centre * height) - 1, 2 * (left + centre * width) - 1, indexing="ij")
    expected = grid_sample(
        image[None, None], torch.stack(at[::-1], -1)[None], padding_mode="border", align_corners=False
    )
    rendered = render([[[image.float()]]], spec, table=band_table(1, {0: BandRow(0.0, 1.0)}))
    torch.testing.assert_close(rendered[0, 0, 0].double(), expected[0, 0], rtol=0, atol=1e-4)


def test_shrinking_lets_every_pixel_count():
    image = torch.zeros(96, 96)
    image[48, 48] = 90.0
    table = band_table(1, {0: BandRow(0.0, 1.0)})
    for size in (32, 7, 3):
        view = render([[[image]]], ViewSpec.plain(size), table=table)[0, 0, 0]
        torch.testing.assert_close(view.mean(), image.mean(), rtol=0.08, atol=0)  # the border's pixels weigh otherwise


def in_kernel(patches, spec, seed=5, epoch=2, table=TABLE, launch=launch_taps):
    """Views by a kernel itself: of single taps, or of matrix products where views are in half precision."""
    data, records = (x.to(KERNEL) for x in pack(patches))
    out = views.empty_views(records, spec).fill_(math.nan)
    samples = torch.arange(len(patches), device=KERNEL)
    now = torch.tensor(epoch, device=KERNEL)
    launch = launch if spec.dtype == torch.float32 else launch_matrix
    launch(out, data, records, samples, table.to(KERNEL), spec, seed, now)
    return out.cpu()


@pytest.mark.parametrize("size", [1, 2, 3, 17, 32, 33])
@pytest.mark.parametrize(("channels", "nhwc"), [(1, False), (3, True)])
def test_kernel_is_the_reference(size, channels, nhwc):
    patches = mixed(4 - channels, 2, channels, min(45, 2 * size + 4), size, finite=False)  # of each type one at least
    spec = ViewSpec(size, dtype=torch.float32, channels_last=nhwc, speckle=nhwc, antialias=size != 17)
    expected = render(patches, spec, seed=2**63 - 2**31 - 1)
    out = in_kernel(patches, spec, seed=2**63 - 2**31 - 1)
    assert out.stride() == expected.stride()
    # As above: positions are rounded, and neighbours differ by up to 1,300 deviations.
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("blur", [(), (1.0, 0.5)])
@pytest.mark.parametrize(
    ("size", "channels", "nhwc", "side"),
    [(1, 1, False, 8), (2, 3, True, 12), (17, 3, True, 72), (20, 12, False, 30), (33, 1, False, 300), (64, 3, True, 70),
     (130, 1, False, 200)],
)  # fmt: skip
def test_matrix_products_are_the_reference(size, channels, nhwc, side, blur):
    """In two halves, so to float32's accuracy: patches of every type, narrow, wide, odd, with invalid pixels."""
    patches = mixed(1 if channels > 1 else 3, 2, channels, side, size, finite=False)
    spec = ViewSpec(size, dtype=torch.float32, channels_last=nhwc, antialias=size != 17, blur=blur)
    out = in_kernel(patches, spec, launch=launch_matrix)
    expected = render(patches, spec)
    assert out.stride() == expected.stride()
    torch.testing.assert_close(
        out, expected, rtol=0, atol=3e-5 * float(expected.abs().max())
    )  # tensor cores' sums: 2.1e-5 on an H200


@pytest.mark.parametrize("blur", [(), (1.0, 1.0)])
def test_matrix_products_of_one_half_add_less_than_bf16_rounds(blur, monkeypatch):
    """On white noise, the worst case, and a training patch's shapes; against the largest pixel of an image."""
    monkeypatch.setattr(views_matrix, "halves_of", lambda dtype: 1)
    optical = torch.randint(0, 9001, (120, 120), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    patches = [[[(optical.to(torch.uint16), 1)], [(torch.randn(120, 120) * 5 - 12, 2)]]]
    spec = ViewSpec(128, dtype=torch.float32, blur=blur)
    difference = (in_kernel(patches, spec, launch=launch_matrix) - render(patches, spec)).abs().amax((-1, -2))
    pixels = torch.tensor([8000.0 * 1.1 / 500, 5.0])[:, None, None]  # the largest deviations from the mean
    assert (difference <= 2**-10 * pixels).all()


@pytest.mark.parametrize(("dtype", "ulp"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-10)])
@pytest.mark.parametrize("blur", [(), (1.0, 1.0)])
def test_kernel_in_half_precision_is_within_one_unit_in_the_last_place(dtype, ulp, blur):
    """Of the largest pixel that is averaged, in bf16: its products have 11 bits, bf16 has 8."""
    patches = [[[(torch.randn(20, 20) * 5 - 12, 2)], [(torch.randn(9, 9) * 5 - 12, 2)]] for _ in range(3)]
    expected = render(patches, ViewSpec(24, dtype=torch.float32, blur=blur))
    out = in_kernel(patches, ViewSpec(24, dtype=dtype, blur=blur))
    assert out.dtype == dtype
    largest = 4.0 if dtype == torch.bfloat16 else 0.0
    torch.testing.assert_close(out.float(), expected, rtol=ulp, atol=max(1e-4, largest * 2**-11))


def test_a_blur_folded_into_the_weights_is_a_blur_of_the_views():
    patches = [[[(torch.randn(50, 40) * 5 - 12, 2)], [(torch.randn(50, 40) * 5 - 12, 2)]] for _ in range(4)]
    spec = ViewSpec(70, dtype=torch.float32)
    sharp = in_kernel(patches, spec)
    expected = blur_views(sharp, torch.arange(4), probability=(1.0, 0.5), sigma=(0.5, 3.0), seed=5, epoch=2)
    spec = replace(spec, blur=(1.0, 0.5), sigma=(0.5, 3.0))
    blurred = in_kernel(patches, spec, launch=launch_matrix)
    torch.testing.assert_close(blurred, expected, rtol=0, atol=1e-4)
    same = (expected == sharp).flatten(2).all(-1)
    assert 0 < same.sum() < 4  # some of the second views are left sharp


def test_views_are_blurred_whichever_kernel_renders_them(launches):
    """Float32 and speckle are rendered tap by tap and blurred after it; half precision at once."""
    patches = [[[(torch.randn(30, 30) * 5 - 12, 2)], [(torch.randn(30, 30) * 5 - 12, 2)]]]
    for dtype, speckle in ((torch.float32, False), (torch.float16, True), (torch.float16, False)):
        spec = ViewSpec(40, dtype=dtype, speckle=speckle, blur=(1.0, 1.0))
        data, records = (x.to(KERNEL) for x in pack(patches))
        arguments = data, records, torch.arange(1, device=KERNEL), TABLE.to(KERNEL), spec
        expected = views.render_reference(*arguments, 3, torch.tensor(1, device=KERNEL))
        launches.clear()
        torch.testing.assert_close(render_views(*arguments, seed=3, epoch=1), expected, rtol=2e-3, atol=2e-3)
        folded = dtype == torch.float16 and not speckle
        assert list(launches) == (["render_matrix_kernel"] if folded else ["render_taps_kernel", "blur_kernel"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_beyond_half_precision_saturate_and_spoil_nothing(dtype):
    table = band_table(1, {0: BandRow(0.0, 1e-4)})
    image = torch.zeros(16, 16)
    image[8, 8], image[2, 2] = 3e38, -1000.0
    view = in_kernel([[[image]]], ViewSpec.plain(16, dtype), table=table)[0, 0, 0].float()
    assert not view.isnan().any()
    assert view[8, 8] > 2e6 or view[8, 8] == math.inf
    assert view[2, 2] < -2e6
    assert (view[12:] == 0).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_op_gives_the_type_and_layout_asked_for(device, dtype):
    patches = mixed(2, 2, 3, 12)
    for nhwc in (False, True):
        out = render(patches, ViewSpec(10, dtype=dtype, channels_last=nhwc), device=device)
        assert out.dtype == dtype
        assert out.shape == (2, 2, 3, 10, 10)
        form = torch.channels_last if nhwc else torch.contiguous_format
        assert all(view.is_contiguous(memory_format=form) for view in out)


BAD_RECORDS = {
    "offset past the end": (0, 1 << 40),
    "offset far past the end": (0, (1 << 63) - 16),
    "offset below 0": (0, -16),
    "offset not a multiple of 16": (0, 8),
    "dtype code": (1, 5),
    "negative dtype code": (1, -1),
    "height beyond the data": (2, 30000),
    "height of 0": (2, 0),
    "height that overflows": (2, (1 << 62) + 1),
    "negative width": (3, -4),
    "band outside the table": (4, 99),
    "negative band": (4, -1),
    "band without statistics": (4, 3),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_bad_record_is_named_on_the_host_and_zero_on_the_device(dtype):
    spec, samples = ViewSpec(5, dtype=dtype), torch.arange(len(BAD_RECORDS) + 1)
    data, good = pack(mixed(len(samples), 1, 1, 9))
    records = good.clone()
    for number, (field, value) in enumerate(BAD_RECORDS.values(), start=1):
        records[number, 0, 0, field] = value
        one = torch.where(torch.arange(len(samples))[:, None, None, None] == number, records, good)
        with pytest.raises(ValueError, match=rf"records\[{number}, 0, 0\]"):
            render_views(data, one, samples, TABLE, spec, seed=0, epoch=0)
    moved = [x.to(KERNEL) for x in (data, records, samples, TABLE)]
    out = views.empty_views(moved[1], spec).fill_(math.nan)
    launch = launch_taps if dtype == torch.float32 else launch_matrix
    launch(out, *moved, spec, 0, torch.tensor(0, device=KERNEL))
    assert (out[0, 1:] == 0).all()
    assert (out[0, 0] != 0).any()
    assert not out.isnan().any()


@pytest.mark.parametrize("renderer", [render, in_kernel])
def test_silent_error_2_values_far_outside_the_unit_range_survive(renderer):
    """Standardised last, clipped never: torchgeo 3997 lost all below 0 and above 1."""
    image = torch.tensor([[-50.0, -12.0], [-7.0, 60.0]])
    view = renderer([[[(image, 2)]]], ViewSpec.plain(2))[0, 0, 0]
    torch.testing.assert_close(view, (image + 12) / 5)
    assert view.min() < -7
    assert view.max() > 14


@pytest.mark.parametrize("renderer", [render, in_kernel])
def test_silent_error_3_digital_numbers_do_not_wrap(renderer):
    """DN 10040 became 0 as uint8 in SSL4EO-S12's code; 40000 is negative as int16."""
    table = band_table(1, {0: BandRow(0.0, 1.0)})
    image = torch.tensor([[10040, 40000], [255, 65535]], dtype=torch.int32).to(torch.uint16)
    view = renderer([[[image]]], ViewSpec.plain(2), table=table)[0, 0, 0]
    assert view.tolist() == [[10040, 40000], [255, 65535]]


@pytest.mark.parametrize("renderer", [render, in_kernel])
def test_silent_error_4_decibels_keep_their_fraction(renderer):
    table = band_table(1, {0: BandRow(0.0, 1.0)})
    image = torch.tensor([[-11.75, -0.25], [-18.5, -24.99]])
    assert torch.equal(renderer([[[image]]], ViewSpec.plain(2), table=table)[0, 0, 0], image)


@pytest.mark.parametrize("renderer", [render, in_kernel])
def test_invalid_pixels_become_the_mean_each_tap_for_itself(renderer):
    table = band_table(2, {0: BandRow(10.0, 2.0), 1: BandRow(10.0, 2.0, nodata=0.0)})
    lost = torch.full((6, 6), math.nan)
    lost[::2] = math.inf
    assert (renderer([[[lost]]], ViewSpec(7, dtype=torch.float32), table=table) == 0).all()
    image = torch.tensor([[14, 0]], dtype=torch.int16)
    view = renderer([[[(image, 1)]]], ViewSpec.plain(4), table=table)[0, 0, 0]
    torch.testing.assert_close(view, torch.tensor([2.0, 1.5, 0.5, 0.0]).expand(4, 4))


SPECKLED = ViewSpec(64, (1.0, 1.0), (1.0, 1.0), False, False, False, torch.float32, speckle=True)


@pytest.mark.parametrize("looks", [1.0, 4.4, 20.0])
def test_speckle_is_a_gamma_factor_on_the_intensity(looks):
    """Of mean 1 and variance 1 / looks: Goodman 1976; quantiles as scipy's gamma within Wilson and Hilferty's error."""
    gamma = pytest.importorskip("scipy.stats").gamma(looks, scale=1 / looks)
    table = band_table(1, {0: BandRow(-12.0, 5.0, looks=looks)})
    view = render([[[torch.full((64, 64), -12.0)]] for _ in range(8)], SPECKLED, table=table)
    factor = 10 ** (view.double() * 5 / 10)
    assert abs(factor.mean() - 1) < 0.02
    assert abs(factor.var() * looks - 1) < 0.06
    shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95, 0.99], dtype=torch.float64)
    found = torch.quantile(factor.flatten(), shares)
    torch.testing.assert_close(found, torch.from_numpy(gamma.ppf(shares.numpy())), rtol=0.06, atol=0.02)
    flat = view.flatten(2).squeeze()
    assert torch.corrcoef(flat).fill_diagonal_(0).abs().max() < 0.08  # between samples
    assert torch.corrcoef(torch.stack([flat[:, 1:].flatten(), flat[:, :-1].flatten()]))[0, 1].abs() < 0.03


def test_speckle_leaves_other_bands_and_invalid_pixels_alone():
    table = band_table(2, {0: BandRow(-12.0, 5.0), 1: BandRow(-12.0, 5.0, looks=2.0)})
    lost = torch.full((64, 64), math.nan)
    assert (render([[[(lost, 1)]]], SPECKLED, table=table) == 0).all()
    image = torch.randn(64, 64)
    assert torch.equal(render([[[(image, 0)]]], SPECKLED, table=table),
                       render([[[(image, 0)]]], ViewSpec.plain(64), table=table))  # fmt: skip


def test_whole_patch_at_its_own_size_is_itself():
    image = torch.randn(120, 120) * 5 - 12
    view = render([[[(image, 2)]]], ViewSpec.plain(120))[0, 0, 0]
    torch.testing.assert_close(view, (image + 12) / 5, rtol=0, atol=1e-6)


def test_one_crop_shows_the_same_ground_at_every_resolution():
    def ramp(side):  # value = metres from the corner, at pixel centres
        metres = (torch.arange(side) + 0.5) * 1200 / side
        return metres[:, None] * 3 + metres[None, :]

    # Enlarged at every resolution: shrinking weighs whole pixels, so a ramp moves by parts of one.
    spec = ViewSpec(64, scale=(0.1, 0.28), ratio=(1, 1), jitter=False, dtype=torch.float32)
    draws = draw_views(spec, 5, 2, torch.arange(40), 1, 3)
    table = band_table(1, {0: BandRow(0.0, 1.0)})
    drawn = render([[[ramp(120), ramp(60), ramp(20)]] for _ in range(40)], spec, table=table)[0]
    inside = (
        (draws.top > 0.03) & (draws.top + draws.height < 0.97) & (draws.left > 0.03) & (draws.left + draws.width < 0.97)
    )
    assert inside.sum() > 5
    fine, middle, coarse = drawn[inside[:, 0]].unbind(1)
    torch.testing.assert_close(middle, fine, rtol=1e-4, atol=0.01)
    torch.testing.assert_close(coarse, fine, rtol=1e-4, atol=0.01)


@pytest.mark.parametrize("device", DEVICES)
def test_a_view_depends_on_nothing_but_seed_epoch_and_sample(device):
    patches, spec = mixed(7, 2, 2, 30), ViewSpec(33, dtype=torch.float32)
    whole = render(patches, spec, samples=range(100, 107), device=device)
    order = [4, 0, 6]
    assert torch.equal(render([patches[i] for i in order], spec, samples=[100 + i for i in order], device=device),
                       whole[:, order])  # fmt: skip
    assert torch.equal(render(patches, spec, samples=range(100, 107), device=device), whole)
    for other in ({"seed": 6}, {"epoch": 3}, {"samples": range(107, 114)}):
        assert not torch.equal(render(patches, spec, **{"samples": range(100, 107), "device": device} | other), whole)


def test_nothing_is_read_outside_a_record():
    """A record's neighbours in the buffer may be anything."""
    patches, spec = mixed(3, 2, 1, 9), ViewSpec(6, dtype=torch.float32)
    data, records = pack(patches)
    used = torch.zeros(len(data), dtype=torch.bool)
    for offset, code, height, width, _ in records.view(-1, 5).tolist():
        used[offset : offset + height * width * list(DTYPE_CODES)[code].itemsize] = True
    poisoned = torch.where(used, data, data ^ 0x55)
    args = records, torch.arange(3), TABLE, spec
    assert torch.equal(render_views(data, *args, seed=0, epoch=0), render_views(poisoned, *args, seed=0, epoch=0))


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("data", torch.zeros(64), TypeError),
        ("data", torch.zeros(8, 8, dtype=torch.uint8), ValueError),
        ("data", torch.zeros(81, dtype=torch.uint8)[1:], ValueError),
        ("records", torch.zeros(1, 1, 1, 4, dtype=torch.int64), ValueError),
        ("records", torch.zeros(1, 1, 1, 5, dtype=torch.int32), TypeError),
        ("samples", torch.zeros(2, dtype=torch.int64), ValueError),
        ("table", torch.zeros(4, 9), ValueError),
        ("epoch", torch.zeros(1, dtype=torch.int64), ValueError),
        ("epoch", torch.zeros((), dtype=torch.int32), TypeError),
        ("seed", -1, ValueError),
        ("seed", 1 << 63, ValueError),
    ],
)
def test_bad_arguments_are_named(name, value, error):
    data, records = pack([[[torch.zeros(4, 4)]]])
    arguments = {"data": data, "records": records, "samples": torch.zeros(1, dtype=torch.int64), "table": TABLE,
                     "spec": ViewSpec.plain(4), "seed": 0, "epoch": 0}  # fmt: skip
    with pytest.raises(error, match=name):
        render_views(**arguments | {name: value})


@pytest.mark.parametrize(
    "row",
    [
        BandRow(0.0, 0.0),
        BandRow(math.nan, 1.0),
        BandRow(0.0, -1.0),
        BandRow(0.0, 1.0, gain=(2.0, 1.0)),
        BandRow(0.0, 1.0, looks=0.5),
    ],
)
def test_bad_band_rows(row):
    with pytest.raises(ValueError, match="band id 2"):
        band_table(4, {2: row})


def test_empty_batch():
    records = torch.zeros(0, 2, 1, 5, dtype=torch.int64)
    data, samples = torch.zeros(0, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    assert render_views(data, records, samples, TABLE, ViewSpec(8), seed=0, epoch=0).shape == (2, 0, 1, 8, 8)


def op_arguments(device):
    data, records = pack(mixed(2, 2, 1, 9))
    tensors = [x.to(device) for x in (data, records, torch.arange(2), TABLE, torch.tensor(3))]
    return *tensors, 7, 6, [0.1, 1.0, 0.7, 1.4, 0.1, 2.0], [*[True] * 6, False], [], torch.bfloat16


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck(device):
    torch.library.opcheck(views._render_views, op_arguments(device))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_whole_and_a_new_epoch_does_not_recompile(device):
    data, records, samples, table, *_ = op_arguments(device)
    spec = ViewSpec(6, channels_last=True)
    compiled = torch.compile(lambda now: render_views(data, records, samples, table, spec, seed=1, epoch=now),
                             fullgraph=True, backend="aot_eager")  # fmt: skip
    first = compiled(torch.tensor(0, device=device))
    with torch.compiler.set_stance("fail_on_recompile"):
        for epoch in range(1, 4):
            drawn = compiled(torch.tensor(epoch, device=device))
            expected = render_views(data, records, samples, table, spec, seed=1, epoch=epoch)
            assert torch.equal(drawn, expected)
            assert drawn.stride() == expected.stride()
    assert not torch.equal(first, drawn)


@pytest.mark.parametrize(
    ("name", "values"),
    [("blur", {"blur": (1.0, 1.5)}), ("blur", {"blur": (-0.1, 0.0)}), ("sigma", {"blur": (1.0, 0.1), "sigma": (2, 1)}),
     ("sigma", {"sigma": (-1.0, 1.0)}), ("sigma", {"sigma": (0.1, math.inf)})],
)  # fmt: skip
def test_a_blur_out_of_range_is_named(name, values):
    with pytest.raises(ValueError, match=f"^{name}: "):
        ViewSpec(8, **values)


def test_a_blur_has_a_probability_for_each_view():
    patches = [[[torch.zeros(4, 4)], [torch.zeros(4, 4)]]]
    with pytest.raises(ValueError, match="each of 2 views"):
        render(patches, ViewSpec(8, blur=(1.0, 0.1, 0.1)))


# ---- label maps ------------------------------------------------------------------------------------------------------

LABELS = band_table(1, {0: BandRow(-1.0, 1.0, nodata=255.0)})


def label_maps(count, height, width, dtype=torch.uint8):
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(0, 12, (count, height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
    return labels.to(torch.int32).to(dtype)


@pytest.mark.parametrize(("size", "height", "width"), [(16, 40, 40), (33, 20, 41), (7, 7, 7), (24, 5, 90)])
def test_label_crops_are_pillows_nearest_pixels(size, height, width):
    """uint8 of Pillow's nearest resampling of the same box; 255 is no label."""
    spec = ViewSpec(size, scale=(0.2, 1.0)).of_labels()
    maps = label_maps(6, height, width)
    found = render([[[image]] for image in maps], spec, LABELS)[0, :, 0]
    draws = draw_views(spec, 5, 2, torch.arange(6), 1, 1)
    for n, image in enumerate(maps):
        top, left, h, w = (float(part[n, 0]) for part in draws[:4])
        box = (left * width, top * height, min((left + w) * width, width), min((top + h) * height, height))
        picked = np.array(Image.fromarray(image.numpy()).resize((size, size), Image.Resampling.NEAREST, box))
        view = torch.from_numpy(picked.astype(np.int64))
        view = torch.rot90(view.flip(-1) if draws.flip[n, 0] else view, int(draws.turns[n, 0]), (0, 1))
        assert torch.equal(found[n].long() - 1, torch.where(view == 255, -1, view))


def test_label_crops_show_the_ground_of_the_views():
    """Bands that are labels times 100: a view's pixels far from any border have the value of their label."""
    blocks = torch.randint(0, 5, (8, 6, 6)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    spec = ViewSpec(48, scale=(0.3, 1.0), jitter=False, dtype=torch.float32)
    table = band_table(1, {0: BandRow(0.0, 1.0)})
    views = render([[[(each * 100).to(torch.int16)]] for each in blocks], spec, table)[0, :, 0]
    labels = render([[[each.to(torch.uint8)]] for each in blocks], spec.of_labels(), LABELS)[0, :, 0] - 1
    inside = (views - 100 * labels).abs() < 0.01
    assert ((views - 100 * labels).abs() < 400).all()
    around = labels.unfold(1, 5, 1).unfold(2, 5, 1).flatten(3)  # a pixel of the view takes at most two to either side
    uniform = around.amin(3) == around.amax(3)
    assert uniform.float().mean() > 0.1
    assert inside[:, 2:-2, 2:-2][uniform].all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16])
def test_a_label_map_at_its_own_size_is_itself(dtype):
    maps = label_maps(2, 50, 50, dtype)
    found = render([[[image]] for image in maps], ViewSpec.plain(50).of_labels(), LABELS)[0, :, 0].long() - 1
    assert torch.equal(found, torch.where(maps.int() == 255, -1, maps.int()).long())


@pytest.mark.parametrize("size", [5, 33])
def test_the_kernel_picks_the_references_pixels(size):
    spec = ViewSpec(size, scale=(0.2, 1.0)).of_labels()
    patches = [[[image], [image]] for image in label_maps(3, 37, 61)]
    same = in_kernel(patches, spec, table=LABELS) == render(patches, spec, LABELS)
    assert same.float().mean() > 0.999  # a centre on a pixel's border may round either way


@pytest.mark.parametrize("change", [{"dtype": torch.bfloat16}, {"speckle": True}, {"blur": (1.0,)}])
def test_what_would_change_labels_is_refused(change):
    with pytest.raises(ValueError, match="nearest"):
        replace(ViewSpec.plain(8).of_labels(), **change)
