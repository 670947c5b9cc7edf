"""Views of fixed bands as they are rendered: against numpy in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rsdnet.kernels import ViewSpec

from rsdnet import bands
from rsdnet.augment import band_table, spec_of, training_views
from rsdnet.config import Config, DataConfig, ViewConfig
from rsdnet.data.differences import difference_statistics
from rsdnet.data.fixed import fixed_views
from rsdnet.data.inputs import drawn_of
from rsdnet.data.loader import Batch, Loader
from rsdnet.data.pools import pools_of
from rsdnet.data.samples import Samples
from rsdnet.mixing import Mix, mix_of
from tests.support import mixed, tiny

NAMES = {"ms": ("B04", "B03", "B02"), "sar": ("VV", "VV-VH", "VH")}
VIEWS = ViewConfig(ms_view=NAMES["ms"], sar_view=NAMES["sar"], size=20)


@pytest.fixture(scope="module")
def batch(tiny_db: Path) -> tuple[Batch, torch.Tensor, Mix, float]:
    """All samples of the database, its table, the mix, and the deviation of VV-VH."""
    cfg = Config(DataConfig(data=(tiny_db,)), VIEWS)
    samples, table = Samples(tiny_db, "ms+sar", pools_of(VIEWS)), band_table(cfg)
    measured = difference_statistics(cfg, samples)
    mix = mix_of(fixed_views(VIEWS), table, measured)
    assert mix
    (batch,) = map(mixed.copied, Loader(samples, batch=60, bands=drawn_of(VIEWS)))
    return batch, table, mix, measured["VV-VH"][1]


def sensors(batch: Batch) -> list[list[str]]:
    return [[bands.BANDS[bands.NAMES[band]].modality for band in row] for row in batch.records[:, :, 0, 4]]


def test_whole_patches_are_numpys(tiny_db: Path, batch: tuple[Batch, torch.Tensor, Mix, float]) -> None:
    found, table, mix, deviation = batch
    views = training_views(found, table, ViewSpec.plain(tiny.SIDE), mix)
    entries = mixed.entries(tiny_db)
    values = {
        name: np.stack([entry[name] for entry in entries.values() if name in entry]).astype(np.float64)
        for name in ("B02", "B03", "B04", "VV", "VH")
    }
    values["VV-VH"] = values["VV"] - values["VH"]
    for sample, row in enumerate(sensors(found)[:20]):
        for view, sensor in enumerate(row):
            entry = entries[("s2_" if sensor == "ms" else "s1_") + str(int(found.positions[sample]))]
            for channel, name in enumerate(NAMES[sensor]):
                one, *other = (entry[band].astype(np.float64) for band in name.split("-"))
                expected = (one - other[0] if other else one) - values[name].mean()
                expected /= deviation if other else values[name].std()
                np.testing.assert_allclose(views[view, sample, channel].numpy(), expected, atol=2e-4)
    joined = torch.stack([views[row.index("sar"), at, 1] for at, row in enumerate(sensors(found))]).double()
    assert abs(float(joined.mean())) < 1e-4
    assert float(joined.std()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_augmented_views_are_made_of_the_bands_as_rendered(
    batch: tuple[Batch, torch.Tensor, Mix, float], dtype: torch.dtype, channels_last: bool
) -> None:
    found, table, mix, deviation = batch
    spec = spec_of(VIEWS, dtype, channels_last)
    plain, views = (training_views(found, table, spec, each) for each in (None, mix))
    assert (views.dtype, views.stride()) == (dtype, plain.stride())
    std = {name: float(table[bands.band_id(name), 1]) for name in bands.SAR}
    for sample, row in enumerate(sensors(found)):
        for view, sensor in enumerate(row):
            own, made = plain[view, sample], views[view, sample]
            if sensor == "ms":
                assert torch.equal(made, own)
                continue
            assert torch.equal(made[[0, 2]], own[[0, 1]])  # VV, VH
            vv, vh = own[:2].double()
            expected = ((vv * std["VV"] - vh * std["VH"]) / deviation).to(dtype)
            torch.testing.assert_close(made[1], expected, rtol=1e-2 if dtype is torch.bfloat16 else 1e-5, atol=1e-5)


def test_a_difference_is_zero_where_either_band_is_invalid(batch: tuple[Batch, torch.Tensor, Mix, float]) -> None:
    found, table, mix, _ = batch
    data = found.data.clone()
    for index, record in enumerate(found.records.reshape(-1, 5).tolist()):
        if bands.NAMES[record[4]] == ("VV", "VH")[index // 6 % 2]:  # another one from sample to sample
            data[record[0] : record[0] + 4 * record[3]].view(torch.float32)[:] = torch.nan  # the first row
    spoilt = found._replace(data=data)
    plain, views = (training_views(spoilt, table, ViewSpec.plain(tiny.SIDE), each) for each in (None, mix))
    zeros = 0
    for sample, row in enumerate(sensors(found)):
        for view, sensor in enumerate(row):
            if sensor == "sar":
                lost = (plain[view, sample, :2] == 0).any(0)
                zeros += int(lost.sum())
                assert torch.equal(views[view, sample, 1] == 0, lost)
    assert zeros >= 20 * tiny.SIDE
