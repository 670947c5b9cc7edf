"""`render_views` in front of a model that is not ours: raw bands of mixed types and sizes to a plain CNN's batch.

The model learns to tell water from forest and town on made-up patches: `python examples/someone_elses_model.py`.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from rsdnet.kernels import DTYPE_CODES, BandRow, ViewSpec, band_table, render_views
from torch import Tensor, nn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BANDS = ("B04", "B11", "VV")  # red at 10 m and short-wave infrared at 20 m, in DN; radar at 10 m, in dB
COVER = {"water": (400, 100, -22), "forest": (300, 1500, -11), "town": (1400, 1700, -5)}  # each band's mean

# What a view does with a band: standardise it, last, after a random gain (reflectance) or offset (decibel).
table = band_table(len(BANDS), {
    0: BandRow(mean=700, std=600, gain=(0.8, 1.2)),
    1: BandRow(mean=1100, std=800, gain=(0.8, 1.2)),
    2: BandRow(mean=-13, std=7, offset=(-2, 2), clip=(-30, 5)),
}).to(DEVICE)  # fmt: skip


def patch(cover: str, random: np.random.Generator) -> dict[str, NDArray]:
    """One place as files hold it: each band with its own type and size."""
    red, infrared, radar = (mean + abs(mean) * 0.3 * random.standard_normal((60, 60)) for mean in COVER[cover])
    return {
        "B04": red.clip(0).astype(np.uint16),
        "B11": infrared[::2, ::2].clip(0).astype(np.int16),
        "VV": radar.astype(np.float32),
    }


def pack(places: list[dict[str, NDArray]], views: int) -> tuple[Tensor, Tensor]:
    """The bytes of all bands one after the other, and the record of each view's channels: see kernels/records.py."""
    data, records = bytearray(), []
    for place in places:
        for number, name in enumerate(BANDS):
            band = place[name]
            code = DTYPE_CODES[torch.from_numpy(band).dtype]
            records.append([len(data), code, *band.shape, number])
            data += band.tobytes()
            data += bytes(-len(data) % 16)  # each band starts at a multiple of 16 bytes
    shape = len(places), 1, len(BANDS), 5
    records = torch.tensor(records).view(shape).expand(-1, views, -1, -1)  # all views show the same bands here
    return torch.frombuffer(data, dtype=torch.uint8).clone().to(DEVICE), records.contiguous().to(DEVICE)


torch.manual_seed(0)
model = nn.Sequential(  # anything that takes (B, C, S, S)
    nn.Conv2d(len(BANDS), 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
    nn.Flatten(), nn.Linear(32, len(COVER)),
).to(DEVICE, memory_format=torch.channels_last)  # fmt: skip
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
spec = ViewSpec(size=32, scale=(0.2, 1.0), dtype=torch.float32, channels_last=True)
random = np.random.default_rng(0)
covers = random.integers(len(COVER), size=48)
data, records = pack([patch(list(COVER)[cover], random) for cover in covers], views=2)
samples, labels = torch.arange(len(covers), device=DEVICE), torch.from_numpy(covers).to(DEVICE).repeat(2)

for epoch in range(10):  # the same raw bytes, other views: they depend on (seed, epoch, sample, view) and nothing else
    views = render_views(data, records, samples, table, spec, seed=0, epoch=epoch)
    if epoch == 0:
        std, mean = torch.std_mean(views)
        print(f"on {DEVICE}: {len(data)} raw bytes, views {tuple(views.shape)} {views.dtype}, {mean:+.2f} ± {std:.2f}")
    loss = nn.functional.cross_entropy(model(views.flatten(0, 1)), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"epoch {epoch}   loss {loss.item():.3f}")
