"""SimSiam (Chen and He 2021) in plain PyTorch, with two kernels dropped in: the loss and the optimiser.

Learns, without labels, the direction of stripes in noisy patches: `python examples/simsiam.py`, seconds on a CPU.
"""

import math

import torch
from rsdnet.kernels import LARS, cosine_loss, lars_groups
from torch import Tensor, nn

BATCH, STEPS, SIDE, CLASSES = 128, 120, 16, 8
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def patches(count: int) -> tuple[Tensor, Tensor]:
    """Noisy stripes (count, 1, SIDE, SIDE), and which of CLASSES directions they run in."""
    label = torch.randint(CLASSES, (count, 1, 1), device=DEVICE)
    angle, phase = math.pi * label / CLASSES, 2 * math.pi * torch.rand(count, 1, 1, device=DEVICE)
    y, x = torch.meshgrid(torch.arange(SIDE, device=DEVICE), torch.arange(SIDE, device=DEVICE), indexing="ij")
    stripes = torch.sin(1.2 * (x * angle.cos() + y * angle.sin()) + phase)
    return (stripes + torch.randn_like(stripes))[:, None], label.flatten()


def augment(images: Tensor) -> Tensor:
    """Moved, with a gain, an offset and noise of its own: what may differ between two views of a patch."""
    gain, offset = torch.randn(2, len(images), 1, 1, 1, device=DEVICE) / 2
    moved = images.roll(torch.randint(SIDE, (2,)).tolist(), (2, 3))
    return gain.exp() * moved + offset + torch.randn_like(images) / 2


def mlp(inside: int, hidden: int, outside: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inside, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, outside))


@torch.no_grad()
def accuracy(backbone: nn.Module) -> float:
    """Share of new patches whose nearest neighbour, by the backbone's features, has the same direction."""
    images, label = patches(1024)
    features = nn.functional.normalize(backbone(augment(images)))
    return (label[(features @ features.T).fill_diagonal_(-1).argmax(1)] == label).float().mean().item()


torch.manual_seed(0)
backbone = nn.Sequential(
    nn.Conv2d(1, 32, 5, 2), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
)  # fmt: skip
encoder = nn.Sequential(backbone, mlp(64, 128, 64), nn.BatchNorm1d(64, affine=False)).to(DEVICE)
predictor = mlp(64, 32, 64).to(DEVICE)
rate = torch.tensor(0.0, device=DEVICE)  # LARS reads it on the device: filling it costs no sync and no recompilation
optimizer = LARS(lars_groups(nn.ModuleList([encoder, predictor]), weight_decay=1e-5), lr=rate)

print(f"on {DEVICE}; nearest neighbour has the same direction: {accuracy(backbone):.0%} before")
for step in range(STEPS + 1):
    rate.fill_(6.0 * (1 + math.cos(math.pi * step / STEPS)) / 2)
    images, _ = patches(BATCH)
    z1, z2 = encoder(augment(images)), encoder(augment(images))
    p1, p2 = predictor(z1), predictor(z2)
    loss = (cosine_loss(p1, z2) + cosine_loss(p2, z1)) / 4 - 1  # SimSiam's; the targets get no gradient
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 30 == 0:  # the spread of unit vectors over the batch: 1 where they fill all directions, 0 collapsed
        spread = nn.functional.normalize(z1).std(0).mean() * math.sqrt(z1.shape[1])
        print(f"step {step:3d}   loss {loss.item():+.3f}   spread {spread.item():.2f}")
print(f"nearest neighbour has the same direction: {accuracy(backbone):.0%} after")
