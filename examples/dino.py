"""DINO's self-distillation (Caron et al. 2021) in plain PyTorch, on a dense batch that is on the device already.

`select_bands` shows student and teacher other bands of a place; `update_target_` makes the teacher follow. They learn
the width of a field's rows, whatever the bands: `python examples/dino.py`, seconds on a CPU.
"""

import copy
import math

import torch
from rsdnet.kernels import select_bands, update_target_
from torch import Tensor, nn

PLACES, BANDS, SIDE, WIDTHS, STEPS, PROTOTYPES = 512, 8, 16, 4, 120, 32
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def fields() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Places in DN, int16 (PLACES, BANDS, SIDE, SIDE), each band's mean and std, and how wide a place's rows are."""
    label = torch.randint(WIDTHS, (PLACES, 1, 1, 1), device=DEVICE)
    angle, phase = 2 * math.pi * torch.rand(2, PLACES, 1, 1, 1, device=DEVICE)
    y, x = torch.meshgrid(torch.arange(SIDE, device=DEVICE), torch.arange(SIDE, device=DEVICE), indexing="ij")
    rows = torch.sin(0.6 * 1.5**label * (x * angle.cos() + y * angle.sin()) + phase)
    contrast = torch.randn(PLACES, BANDS, 1, 1, device=DEVICE).sign() * 250
    noise = 220 * torch.randn(PLACES, BANDS, SIDE, SIDE, device=DEVICE)
    brightness = 500 + 300 * torch.arange(BANDS, device=DEVICE).view(1, -1, 1, 1)
    images = (brightness + contrast * rows + noise).to(torch.int16)
    deep = images.float().transpose(0, 1).flatten(1)
    return images, deep.mean(1), deep.std(1), label.flatten()


@torch.no_grad()
def accuracy() -> float:
    """Share of places whose nearest neighbour, by the teacher's features of two drawn bands, has rows as wide."""
    views = select_bands(images, mean, std, places, channels=2, seed=1, epoch=0)
    features = nn.functional.normalize(teacher[:-1](views))
    return (label[(features @ features.T).fill_diagonal_(-1).argmax(1)] == label).float().mean().item()


class Prototypes(nn.Linear):
    """The cosine of each row with each weight vector, as DINO's last layer."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(x) @ nn.functional.normalize(self.weight).T


torch.manual_seed(0)
images, mean, std, label = fields()
places = torch.arange(PLACES, device=DEVICE)
student = nn.Sequential(
    nn.Conv2d(2, 32, 5, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), Prototypes(64, PROTOTYPES, bias=False),
).to(DEVICE)  # fmt: skip
teacher = copy.deepcopy(student)
tau = torch.tensor(0.98, device=DEVICE)  # read on the device: filling it would cost no sync and no recompilation
centre = torch.zeros(PROTOTYPES, device=DEVICE)
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)

print(f"on {DEVICE}; nearest neighbour has rows as wide: {accuracy():.0%} before")
# The loss first rises: the centre spreads the answers over all prototypes. Then it falls.
for step in range(STEPS + 1):
    batch = torch.randint(PLACES, (128,), device=DEVICE)
    chosen = images[batch], mean, std, places[batch]
    one, other = (select_bands(*chosen, channels=2, seed=0, epoch=step, view=view) for view in (0, 1))
    with torch.no_grad():
        answers = teacher(torch.cat([other, one]))
        targets = ((answers - centre) / 0.04).softmax(1)
        centre.lerp_(answers.mean(0), 0.1)
    loss = nn.functional.cross_entropy(student(torch.cat([one, other])) / 0.1, targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    update_target_(list(teacher.parameters()), list(student.parameters()), tau)
    if step % 30 == 0:  # how many prototypes the teacher uses, by their entropy: 1 where it has collapsed
        used = torch.special.entr(targets.mean(0)).sum().exp().item()
        print(f"step {step:3d}   loss {loss.item():.3f}   prototypes in use {used:.1f} of {PROTOTYPES}")
print(f"nearest neighbour has rows as wide: {accuracy():.0%} after")
