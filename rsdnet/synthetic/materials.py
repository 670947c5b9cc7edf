"""Materials of the ground: reflectance in Sentinel-2's bands and C-band backscatter.

Rounded, plausible values for such materials, chosen by hand in the ranges of the ECOSTRESS (Meerdink et al. 2019) and
USGS splib07 (Kokaly et al. 2017) spectral libraries and of Ulaby & Dobson's handbook of radar scattering statistics
(1989); no entry of theirs is copied.
"""

import numpy as np

# material: reflectance in per cent, bands.S2L1C; C-band sigma0 in dB, VV and VH, at 39 degrees incidence
MATERIALS: dict[str, tuple[tuple[float, ...], tuple[float, float]]] = {
    "water": ((3, 3.2, 3, 2, 1.6, 1.2, 1.1, 0.9, 0.8, 0.7, 0.5, 0.5, 0.4), (-19.0, -26.0)),
    "turbid": ((6, 7, 10, 9, 8, 5, 4.8, 4, 3.5, 3, 1, 1, 0.7), (-18.0, -25.5)),
    "conifer": ((2, 2.6, 4.2, 2.9, 6, 15, 19, 20.5, 21.5, 21, 5, 10, 4.8), (-9.5, -15.5)),
    "broadleaf": ((2.2, 3, 6, 3.4, 9, 26, 34, 36, 37, 36, 8, 18, 8), (-9.0, -14.5)),
    "twigs": ((4, 5, 7, 8, 10, 14, 16, 18, 19, 19, 8, 22, 15), (-10.0, -16.0)),
    "grass": ((3, 4, 8, 5, 12, 26, 32, 34, 36, 35, 10, 22, 11), (-12.0, -19.0)),
    "straw": ((6, 8, 12, 15, 19, 23, 25, 27, 29, 29, 14, 34, 25), (-13.0, -20.5)),
    "crop": ((2.3, 3.2, 7, 3.6, 10, 32, 42, 45, 47, 45, 10, 20, 9), (-11.0, -17.0)),
    "loam": ((5, 6, 8, 10, 12, 13, 15, 16, 17, 18, 10, 24, 20), (-11.0, -20.0)),
    "soil": ((9, 12, 17, 22, 25, 27, 29, 31, 33, 34, 20, 42, 36), (-15.0, -23.0)),
    "sand": ((13, 17, 24, 30, 33, 35, 37, 39, 41, 41, 28, 49, 45), (-17.0, -25.0)),
    "rock": ((8, 9.5, 12, 15, 16, 17, 18, 19, 20, 20, 14, 25, 22), (-9.0, -17.5)),
    "asphalt": ((8, 9, 10, 11, 12, 12, 13, 13, 14, 14, 10, 16, 15), (-14.0, -22.0)),
    "roof": ((18, 21, 24, 26, 27, 28, 29, 30, 31, 31, 18, 32, 28), (-4.0, -13.0)),
    "tile": ((6, 8, 11, 19, 21, 22, 24, 25, 26, 27, 14, 33, 29), (-4.5, -13.5)),
    "reed": ((3, 4, 7, 6, 10, 18, 22, 24, 25, 25, 9, 17, 9), (-10.0, -17.5)),
    "shrub": ((3, 4, 6, 6, 10, 17, 20, 22, 23, 23, 9, 19, 12), (-11.0, -17.5)),
}
NAMES = tuple(MATERIALS)
REFLECTANCE = np.array([m[0] for m in MATERIALS.values()], np.float32) / 100  # (materials, 13)
SIGMA0 = np.array([m[1] for m in MATERIALS.values()], np.float32)  # (materials, 2) dB
