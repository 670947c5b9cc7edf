"""Views of fixed bands: which bands they are, in which order they are read, and the deviation of a difference."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rsdnet import bands
from rsdnet.config import Config, DataConfig, ViewConfig
from rsdnet.data.differences import difference_statistics
from rsdnet.data.fixed import fixed_views, reads_of, view_of
from rsdnet.data.inputs import drawn_of
from rsdnet.data.loader import Drawn, Loader
from rsdnet.data.pools import pools_of
from rsdnet.data.samples import Samples
from rsdnet.errors import DataError
from tests.support import mixed

RATIO = ViewConfig(ms_view=("b4", "B03", "B2"), sar_view=("VV", "VH", "VV-VH"))


def samples_of(db: Path, views: ViewConfig) -> Samples:
    return Samples(db, views.modality, pools_of(views))


@pytest.mark.parametrize(
    ("names", "read"),
    [
        (("VV", "VH", "VV-VH"), ("VV", "VH")),
        (("VV-VH", "VH"), ("VH", "VV")),
        (("VV-VH",), ("VV", "VH")),
        (("VV", "VH", "VV"), ("VV", "VH", "VV")),
        (("VH-VV", "VV", "VV"), ("VV", "VV", "VH")),
    ],
)
def test_the_bands_of_a_view_are_read_once_a_channel(names: tuple[str, ...], read: tuple[str, ...]) -> None:
    assert view_of(names, "views.sar_view").names == names
    assert view_of(names, "views.sar_view").read == read


def test_both_sensors_read_as_many_bands() -> None:
    fixed = fixed_views(RATIO)
    assert reads_of(fixed) == {"ms": ("B04", "B03", "B02"), "sar": ("VV", "VH", "VV")}
    assert pools_of(RATIO) == {"ms": ("B04", "B03", "B02"), "sar": ("VV", "VH")}
    assert drawn_of(RATIO) == Drawn(2, 3, fixed=reads_of(fixed))
    assert drawn_of(ViewConfig(channels=3)) == Drawn(2, 3)
    alone = ViewConfig(modality="sar", sar_view=("VV-VH",))
    assert drawn_of(alone) == Drawn(2, 2, fixed={"sar": ("VV", "VH")})


@pytest.mark.parametrize("modality", ["ms+sar", "ms", "sar"])
def test_a_batch_holds_the_bands_in_order_and_views_in_the_order_of_drawn_ones(tiny_db: Path, modality: str) -> None:
    views = ViewConfig(modality=modality, ms_view=("B12", "B02", "B12"), sar_view=("VH", "VV", "VH"))  # type: ignore[arg-type]
    expected = {"ms": ["B12", "B02", "B12"], "sar": ["VH", "VV", "VH"]}
    shown = set()
    loader = Loader(samples_of(tiny_db, views), batch=20, seed=5, bands=drawn_of(views))
    random = Loader(Samples(tiny_db, modality), batch=20, seed=5, bands=Drawn(2, 3))
    truth = mixed.Truth([tiny_db])
    for batch, drawn in zip(loader, random, strict=True):
        truth.check_bytes(batch)
        assert torch.equal(batch.samples, drawn.samples)
        for own, other in zip(batch.records[..., 4].reshape(-1, 3), drawn.records[..., 4].reshape(-1, 3), strict=True):
            sensor = bands.BANDS[bands.NAMES[other[0]]].modality
            assert [bands.NAMES[band] for band in own] == expected[sensor]
            shown.add(sensor)
    assert shown == set(modality.split("+"))


def test_a_loader_of_other_bands_does_not_go_on(tiny_db: Path) -> None:
    def loader(*names: str) -> Loader:
        views = ViewConfig(modality="ms", ms_view=names)
        return Loader(Samples(tiny_db, "ms"), batch=20, bands=drawn_of(views))

    loader("B04", "B03").load_state_dict(loader("B04", "B03").state_dict())
    with pytest.raises(DataError, match=r"drawn is \[2, 2, \['B04', 'B03'\]\] in the state"):
        loader("B03", "B04").load_state_dict(loader("B04", "B03").state_dict())


def test_the_deviation_of_a_difference_is_numpys(tiny_db: Path) -> None:
    cfg = Config(DataConfig(data=(tiny_db,)), RATIO)
    found = difference_statistics(cfg, samples_of(tiny_db, RATIO))
    values = [value for key, value in mixed.entries(tiny_db).items() if key.startswith("s1")]
    apart = np.stack([value["VV"].astype(np.float64) - value["VH"] for value in values])
    assert found == {"VV-VH": (pytest.approx(apart.mean(), abs=1e-6), pytest.approx(apart.std(), rel=1e-5))}
    assert difference_statistics(Config(DataConfig(data=(tiny_db,))), samples_of(tiny_db, RATIO)) == {}


@pytest.mark.parametrize(
    ("views", "words"),
    [
        ({"ms_view": ("B04", "B99")}, "views.ms_view: unknown band 'B99'"),
        ({"ms_view": ("B04", "VV")}, "views.ms_view: VV is not a band of modality ms"),
        ({"ms_view": ("B08-B04",)}, "views.ms_view: B08-B04: a difference is of two SAR bands, in dB"),
        ({"modality": "sar", "sar_view": ("VV-VV",)}, "views.sar_view: VV-VV: a difference is of two SAR bands"),
        ({"modality": "sar", "sar_view": ("VV-",)}, "views.sar_view: unknown band ''"),
    ],
)
def test_channels_that_are_none_are_one_line(views: dict, words: str) -> None:
    with pytest.raises(DataError) as caught:
        pools_of(ViewConfig(**{"modality": "ms", **views}))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_band_that_the_database_lacks_is_named(tiny_db: Path) -> None:
    with pytest.raises(DataError, match=r"none of 60 samples can be read; the first: .*B10"):
        samples_of(tiny_db, ViewConfig(modality="ms", ms_view=("B04", "B10")))
