"""lightly's BYOL: its heads, loss, LARS, moving average and transforms, in the loop of its examples/pytorch/byol.py."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benches.core.peers import peer
from benches.reference.data import Pair
from benches.reference.model import encoder
from benches.reference.optim import MOMENTUM, TRUST
from benches.reference.train import Views, table_of
from benches.training.setting import Setting

SPREAD = 2.5  # standard deviations about the mean that 256 levels of grey cover


class Lightly(nn.Module):
    """Networks and step. Raises Absent without lightly."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        heads, self.tools = peer("lightly.models.modules"), peer("lightly.models.utils")
        cfg = setting.config()
        self.made_of, self.backbone, features = encoder(cfg.model, cfg.views.channels)
        self.projection_head = heads.BYOLProjectionHead(features, cfg.model.hidden, cfg.model.dim)
        self.prediction_head = heads.BYOLPredictionHead(cfg.model.dim, cfg.model.hidden, cfg.model.dim)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        for frozen in (self.backbone_momentum, self.projection_head_momentum):
            self.tools.deactivate_requires_grad(frozen)
        self.to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.criterion = peer("lightly.loss").NegativeCosineSimilarity()
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": cfg.optim.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        lars = peer("lightly.utils.lars").LARS
        self.optimizer = lars(groups, lr=1.0, momentum=MOMENTUM, trust_coefficient=TRUST)
        self.device, self.dtype = torch.device(setting.device), setting.dtype
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)

    def forward(self, view: Tensor) -> Tensor:
        return self.prediction_head(self.projection_head(self.backbone(view).flatten(start_dim=1)))

    def forward_momentum(self, view: Tensor) -> Tensor:
        """Projection by the target."""
        return self.projection_head_momentum(self.backbone_momentum(view).flatten(start_dim=1)).detach()

    def step(self, views: Tensor, lr: float, tau: float) -> Tensor:
        """One step over views (2, B, C, S, S), in the order of lightly's example. Returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.tools.update_momentum(self.backbone, self.backbone_momentum, m=tau)
        self.tools.update_momentum(self.projection_head, self.projection_head_momentum, m=tau)
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not torch.float32):
            p0, p1 = self(views[0]), self(views[1])
            z0, z1 = self.forward_momentum(views[0]), self.forward_momentum(views[1])
            loss = 0.5 * (self.criterion(p0, z1) + self.criterion(p1, z0))
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return loss.detach()


class Transforms:
    """lightly's BYOLTransform of a pair's two images, in a worker, on the 8-bit images that it takes."""

    def __init__(self, size: int, table: Tensor) -> None:
        self.size, self.table = size, table
        self.steps: Any = None

    def __call__(self, pair: Pair) -> Pair:
        if self.steps is None:  # in the worker
            self.steps = self._made()
        mean, std = self.table[pair.bands[:, 0]][:, :2, None, None].unbind(1)
        grey = ((pair.images[:, 0] - mean) / (2 * SPREAD * std) + 0.5).clamp(0, 1).mul(255).to(torch.uint8)
        images = [self.pil.fromarray(image.numpy()) for image in grey]
        return pair._replace(images=torch.stack([step(image) for step, image in zip(self.steps, images, strict=True)]))

    def _made(self) -> list[Any]:
        self.pil = peer("PIL.Image")
        views = peer("lightly.transforms.byol_transform")
        numbers: dict[str, Any] = {"input_size": self.size, "normalize": {"mean": [0.5], "std": [0.5 / SPREAD]}}
        both = views.BYOLTransform(views.BYOLView1Transform(**numbers), views.BYOLView2Transform(**numbers))
        return both.transforms

    def __getstate__(self) -> dict[str, Any]:
        return {"size": self.size, "table": self.table, "steps": None}


def views_of(setting: Setting, folder: Path) -> Views:
    """Batches of views as lightly's users feed it: transforms in the DataLoader's workers."""
    peer("lightly.transforms.byol_transform")
    cfg = setting.config(folder)
    each = Transforms(setting.size, table_of(cfg))
    return Views(cfg, folder, setting.side, torch.device(setting.device), setting.workers, each=each)
