"""byol-pytorch's BYOL. Its module augments one batch twice; here each augmentation first takes its own band."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benches.core.peers import peer
from benches.reference.model import encoder
from benches.reference.optim import optimizer_of
from benches.reference.train import Views, table_of
from benches.reference.transforms import standardised
from benches.training.setting import Setting
from rsdnet.config import number


class Take(nn.Module):
    """One channel of a batch (B, channels, H, H)."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, images: Tensor) -> Tensor:
        return images[:, self.channel : self.channel + 1]


def augmentation(size: int, channel: int) -> nn.Module:
    """byol-pytorch's own default (byol_pytorch.py, DEFAULT_AUG) as far as images of one channel go."""
    v1, own = peer("torchvision.transforms"), peer("byol_pytorch.byol_pytorch")
    blur = own.RandomApply(v1.GaussianBlur((3, 3), (1.0, 2.0)), p=0.2)
    return nn.Sequential(Take(channel), v1.RandomHorizontalFlip(), blur, v1.RandomResizedCrop((size, size)))


class ByolPytorch:
    """Networks and step. augment: by its own augmentations; else views go in as they are.

    Raises Absent without the package.
    """

    def __init__(self, setting: Setting, augment: bool) -> None:
        package, cfg = peer("byol_pytorch"), setting.config()
        self.device, self.dtype = torch.device(setting.device), setting.dtype
        _, network, _ = encoder(cfg.model, cfg.views.channels)
        first, second = (augmentation(setting.size, n) if augment else Take(n) for n in (0, 1))
        self.learner = package.BYOL(
            network.to(self.device),
            image_size=setting.size,
            hidden_layer="avgpool",
            projection_size=cfg.model.dim,
            projection_hidden_size=cfg.model.hidden,
            augment_fn=first,
            augment_fn2=second,
            moving_average_decay=cfg.optim.tau,
            use_simplicial_embeddings=False,
        )
        self.learner.to(self.device, memory_format=torch.channels_last)
        trained = [self.learner.online_encoder, self.learner.online_predictor]
        decay = number(cfg.optim.weight_decay)
        self.optimizer = optimizer_of(cfg.optim.optimizer, trained, decay, self.device.type == "cuda")
        self.scaler: Any = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def step(self, views: Tensor, lr: float, tau: float) -> Tensor:
        """One step over views or raw images (2, B, 1, H, H). Returns the loss. tau stays what it was made with."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            loss = self.learner(torch.cat((views[0], views[1]), 1))
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.learner.update_moving_average()
        return loss.detach()


def views_of(setting: Setting, folder: Path) -> Views:
    """Batches of whole standardised bands (2, B, 1, H, H): the module augments them on the device."""
    cfg, device = setting.config(folder), torch.device(setting.device)
    table = table_of(cfg).to(device)

    def batch(images: Tensor, bands: Tensor, _: Tensor) -> Tensor:
        jitter = torch.rand(*bands.shape, 2, device=device)
        return standardised(images, table[bands], jitter).transpose(0, 1)

    return Views(cfg, folder, setting.side, device, setting.workers, batch=batch)
