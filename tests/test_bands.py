"""Band names, ids, spellings and the published statistics."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdnet import bands
from rsdnet.errors import DataError


@pytest.mark.parametrize(
    ("spelled", "name"),
    [("B2", "B02"), ("b02", "B02"), ("B08A", "B8A"), ("B8a", "B8A"), ("b8A", "B8A"), ("vv", "VV"), (" B12 ", "B12")],
)
def test_spellings_of_a_band_become_one_name(spelled: str, name: str) -> None:
    assert bands.canonical(spelled) == name


def test_unknown_band_names_its_near_ones() -> None:
    with pytest.raises(DataError, match=r"unknown band 'B13'.*B1[0-2]"):
        bands.canonical("B13")
    with pytest.raises(DataError, match="unknown band 'nir'"):
        bands.band_id("nir")


@given(st.text(max_size=6))
def test_any_text_is_a_band_or_refused(text: str) -> None:
    try:
        name = bands.canonical(text)
    except DataError:
        return
    assert name in bands.BANDS
    assert bands.canonical(name) == name


def test_ids_follow_names_and_spellings_lead_back() -> None:
    assert bands.NAMES[:3] == ("B01", "B02", "B03")
    assert bands.NAMES[-2:] == ("VV", "VH")
    for number, spelled in enumerate(bands.spellings()):
        assert spelled[0] == bands.NAMES[number]
        assert {bands.band_id(name) for name in spelled} == {number}
    assert bands.spellings()[bands.band_id("B8A")] == ("B8A", "B08A")


def test_the_papers_bands_have_10_or_20_metres() -> None:
    assert len(bands.MS) == 10
    assert {bands.BANDS[name].resolution for name in bands.MS} == {10, 20}
    assert {bands.BANDS[name].modality for name in bands.SAR} == {"sar"}


def test_statistics_are_those_of_their_sources() -> None:
    assert bands.STATISTICS["SEN12MS", "L1C"]["B8A"] == (2409.1128, 1136.1942)
    assert bands.STATISTICS["BigEarthNet v2", "L2A"]["VH"] == (-19.352558, 5.590506)
    assert bands.STATISTICS["SSL4EO-S12 v1.0", "L1C"]["B10"] == (22.104, 51.154)
    assert bands.STATISTICS["EuroSAT", "L1C"]["B8A"] == (2594.1408, 1231.5858)
    for (_, level), table in bands.STATISTICS.items():
        assert set(table) <= set(bands.BANDS)
        assert ("B10" not in table) or level == "L1C"
        assert all(std > 0 for _, std in table.values())
