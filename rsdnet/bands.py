"""Sentinel-1/2 bands by name: their resolution, how databases spell them, and published statistics.

Bands are looked up by name, never by position: rico-hdl stores VH before VV, SEN12MS VV before VH,
EuroSAT puts B8A last. A **band id** is a band's place in `NAMES`; kernels and reader count with it, and
it only ever comes from `band_id`.
"""

import difflib
import re
from typing import NamedTuple

from rsdnet.errors import DataError


class Band(NamedTuple):
    """One band: its name, its modality ("ms" or "sar") and its native resolution in metres."""

    name: str
    modality: str
    resolution: int


# Sentinel-2 MSI: ESA, Sentinel-2 User Handbook, table 1. Sentinel-1 IW GRDH: pixels of 10 m.
BANDS: dict[str, Band] = {
    name: Band(name, modality, resolution)
    for name, modality, resolution in (
        ("B01", "ms", 60),
        ("B02", "ms", 10),
        ("B03", "ms", 10),
        ("B04", "ms", 10),
        ("B05", "ms", 20),
        ("B06", "ms", 20),
        ("B07", "ms", 20),
        ("B08", "ms", 10),
        ("B8A", "ms", 20),
        ("B09", "ms", 60),
        ("B10", "ms", 60),
        ("B11", "ms", 20),
        ("B12", "ms", 20),
        ("VV", "sar", 10),
        ("VH", "sar", 10),
    )
}
NAMES: tuple[str, ...] = tuple(BANDS)

REFLECTANCE = 10_000  # DN of reflectance 1 (ESA, Sentinel-2 Products Specification: QUANTIFICATION_VALUE)

# The paper's bands (arXiv 2205.02049): the ten MS bands of 10 and 20 m, and both polarisations.
MS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
SAR = ("VV", "VH")

# Files with all bands in Sentinel-2's own order: level 1C has 13, level 2A lacks the cirrus band B10.
S2L1C = NAMES[:13]
S2L2A = tuple(name for name in S2L1C if name != "B10")

_NUMBERED = re.compile(r"B0*(\d{1,2})(A?)")


def canonical(name: str) -> str:
    """The canonical name of a band: "B2" and "b02" are "B02", "B08A" and "B8a" are "B8A", "vv" is "VV".

    Raises DataError for an unknown band, with the names closest to it.
    """
    upper = name.strip().upper()
    numbered = _NUMBERED.fullmatch(upper)
    if numbered:
        upper = f"B{int(numbered[1])}A" if numbered[2] else f"B{int(numbered[1]):02d}"
    if upper in BANDS:
        return upper
    near = difflib.get_close_matches(upper, NAMES, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known bands: {', '.join(NAMES)}"
    raise DataError(f"unknown band {name!r}: {hint}")


def band_id(name: str) -> int:
    """The band's place in `NAMES`, in any spelling that `canonical` takes. DataError for an unknown band."""
    return NAMES.index(canonical(name))


def spellings() -> list[tuple[str, ...]]:
    """Per band id, the tensor names a database may use for that band, the canonical one first.

    rico-hdl writes B8A of EuroSAT as "B08A"; SSL4EO-S12's files are named B1 to B9, without the zero.
    """
    return [_spellings(name) for name in NAMES]


def _spellings(name: str) -> tuple[str, ...]:
    if name == "B8A":
        return ("B8A", "B08A")
    if name.startswith("B0"):
        return (name, "B" + name[2:])
    return (name,)


def _table(**columns: tuple[float, float]) -> dict[str, tuple[float, float]]:
    return {canonical(name): column for name, column in columns.items()}


# (data set, level) -> band -> (mean, standard deviation). MS in DN (reflectance x 10,000), SAR in dB.
STATISTICS: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    # schmitt-muc/SEN12MS, classification/main_train.py; S1 clipped to [-25, 0] dB before.
    ("SEN12MS", "L1C"): _table(
        B02=(1226.4215, 741.6254),
        B03=(1137.3799, 740.883),
        B04=(1139.6792, 960.1045),
        B05=(1350.9973, 946.76056),
        B06=(1932.9058, 985.52747),
        B07=(2211.1584, 1082.4341),
        B08=(2154.9846, 1057.7628),
        B8A=(2409.1128, 1136.1942),
        B11=(2001.8622, 1132.7898),
        B12=(1356.0801, 991.48016),
        VV=(-11.76858, 4.525339),
        VH=(-18.294598, 4.3586307),
    ),
    # lhackel-tub/ConfigILM, extra/BENv2_utils.py: training split, bands at 120 px by nearest neighbour.
    ("BigEarthNet v2", "L2A"): _table(
        B01=(361.0768, 575.0687),
        B02=(438.3721, 607.0269),
        B03=(614.0557, 603.2968),
        B04=(588.4096, 684.5689),
        B05=(942.8433, 738.4327),
        B06=(1769.9316, 1100.4561),
        B07=(2049.5515, 1275.8054),
        B08=(2193.2920, 1369.3717),
        B8A=(2235.5566, 1356.5441),
        B09=(2241.4553, 1316.3933),
        B11=(1568.2268, 1070.1613),
        B12=(997.7325, 813.5277),
        VV=(-12.643864, 5.133494),
        VH=(-19.352558, 5.590506),
    ),
    # zhu-xlab/SSL4EO-S12, pretrain_ssl/datasets: v1.0. The means of v1.1 are these + 1000..1066: its +1000 DN
    # offset of processing baseline 04.00 was kept.
    ("SSL4EO-S12 v1.0", "L2A"): _table(
        B01=(752.40, 1108.03),
        B02=(884.30, 1155.15),
        B03=(1144.16, 1183.63),
        B04=(1297.47, 1368.11),
        B05=(1624.91, 1370.27),
        B06=(2194.64, 1355.55),
        B07=(2422.21, 1416.51),
        B08=(2517.76, 1474.79),
        B8A=(2581.65, 1439.31),
        B09=(2645.52, 1582.28),
        B11=(2368.51, 1455.52),
        B12=(1805.07, 1343.48),
        VV=(-12.54847273, 5.25697717),
        VH=(-20.19237134, 5.91150917),
    ),
    ("SSL4EO-S12 v1.0", "L1C"): _table(
        B01=(1605.575, 786.787),
        B02=(1390.782, 850.348),
        B03=(1314.873, 875.065),
        B04=(1363.524, 1138.850),
        B05=(1549.444, 1122.178),
        B06=(2091.749, 1161.592),
        B07=(2371.717, 1274.392),
        B08=(2299.905, 1248.429),
        B8A=(2560.295, 1345.527),
        B09=(830.066, 577.316),
        B10=(22.104, 51.154),
        B11=(2177.072, 1336.099),
        B12=(1524.065, 1136.538),
        VV=(-12.54847273, 5.25697717),
        VH=(-20.19237134, 5.91150917),
    ),
    # microsoft/torchgeo, datamodules/eurosat.py: the standard split's training part.
    ("EuroSAT", "L1C"): _table(
        B01=(1354.4055, 245.7176),
        B02=(1118.2440, 333.0078),
        B03=(1042.9298, 395.0925),
        B04=(947.6262, 593.7506),
        B05=(1199.4728, 566.4170),
        B06=(1999.7909, 861.1840),
        B07=(2369.2229, 1086.6314),
        B08=(2296.8261, 1117.9817),
        B8A=(2594.1408, 1231.5858),
        B09=(732.0834, 404.9198),
        B10=(12.1133, 4.7758),
        B11=(1819.0103, 1002.5877),
        B12=(1118.9239, 761.3032),
    ),
}
