"""Encoders: ResNets with torchvision's parameter names, any of timm's, and the registry to add others to.

A factory takes the configuration and gives a module from (B, channels, H, W) to (B, features). It may have more:
features, an int, else measured; `early` and `late`, two halves that are compiled apart on several ranks;
`output_and_maps`, for an evaluation of its stages (stages.py); attributes `width` and `recompute`, to say that it
follows these options.
"""

import contextlib
import difflib
import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rsdnet.config import Config, ModelConfig
from rsdnet.errors import DataError
from rsdnet.model.batchnorm import batch_of, views_in_batch
from rsdnet.registry import Registry


class Encoder(nn.Module):
    """(B, channels, H, W) to (B, features)."""

    features: int


class Block(nn.Module):
    """Convolutions with a shortcut around them."""

    expansion: int  # channels of the result, in units of `planes`
    downsample: nn.Sequential | None
    keeps_shortcut = True
    """Whether the shortcut's convolution is kept for the backward; else, compiled, it is computed again."""

    def shortcut(self, x: Tensor) -> Tensor:
        """The other way from a block's input to its sum."""
        if self.downsample is None:
            return x
        if self.keeps_shortcut or not (torch.compiler.is_compiling() and torch.is_grad_enabled()):
            return self.downsample(x)
        convolution, norm = self.downsample
        return norm(checkpoint(convolution, x, use_reentrant=False, preserve_rng_state=False))


class BasicBlock(Block):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, figure 5 left); torchvision/models/resnet.py's names."""

    expansion = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = self.shortcut(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + identity)


class Bottleneck(Block):
    """1x1, 3x3, 1x1 convolutions and a shortcut; the stride sits on the 3x3 one, as in torchvision (ResNet v1.5)."""

    expansion = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = self.shortcut(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + identity)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


# Block and number of blocks in each of the four stages.
Blocks = tuple[type[Block], tuple[int, int, int, int]]
# He et al. 2016, table 1.
DEPTHS: dict[str, Blocks] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}


class ResNet(Encoder):
    """torchvision's ResNet without its last layer `fc`.

    blocks: "resnet18", "resnet34", "resnet50", or a block and the depths of four stages. width: channels of the first
    stage, 64 in torchvision. recompute: activation checkpointing, block by block.
    """

    def __init__(self, blocks: str | Blocks, channels: int, width: int = 64, recompute: bool = False) -> None:
        super().__init__()
        self.width, self.recompute = width, recompute
        block, depths = DEPTHS[blocks] if isinstance(blocks, str) else blocks
        self.conv1 = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs = width
        for stage, depth in enumerate(depths):
            planes = width * 2**stage
            stack = []
            for index in range(depth):
                stack.append(block(inputs, planes, 2 if stage > 0 and index == 0 else 1))
                inputs = planes * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*stack))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.features = inputs
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # torchvision/models/resnet.py, ResNet.__init__
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.late(self.early(x))

    def early(self, x: Tensor) -> Tensor:
        """Stem and stages 1 to 3: a third of the parameters, most of the work."""
        x = self._stem(x)
        for stage in range(1, 4):
            x = self._stage(stage, x)
        return x

    def late(self, x: Tensor) -> Tensor:
        """Stage 4 and the mean over pixels."""
        return self.avgpool(self._stage(4, x)).flatten(1)

    def output_and_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The output (B, features) and the maps of the four stages: see stages.py."""
        x, maps = self._stem(x), []
        for stage in range(1, 5):
            x = self._stage(stage, x)
            maps.append(x)
        return self.avgpool(x).flatten(1), maps

    def _stem(self, x: Tensor) -> Tensor:
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    def _stage(self, stage: int, x: Tensor) -> Tensor:
        for block in self.get_submodule(f"layer{stage}").children():
            x = recomputed(block, x) if self.recompute and torch.is_grad_enabled() else block(x)
        return x


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """block(x), of which only x is kept: the backward computes the rest again.

    BatchNorm's running statistics move once all the same.
    """
    if torch.compiler.is_compiling():  # the graph's second forward has no side effects
        return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)

    def contexts() -> tuple[Any, Any]:
        return contextlib.nullcontext(), frozen_bn_stats(block, views_in_batch())

    return checkpoint(block, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)


def recompute_shortcuts(module: nn.Module) -> None:
    """Let the compiled backward of every block in `module` compute its shortcut's convolution again.

    That is a product over few channels with a large result: of a ResNet-50 at 128 px and 1,024 samples it gives back
    1.9 GiB, all four together.
    """
    for part in module.modules():
        if isinstance(part, Block):
            part.keeps_shortcut = False


@contextlib.contextmanager
def frozen_bn_stats(module: nn.Module, views: int) -> Iterator[None]:
    """While entered, a forward of `views` in training mode leaves BatchNorm's running statistics unchanged."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:  # a momentum of 0 writes back what is there
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        with batch_of(views):
            yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


def resnet(name: str, cfg: Config) -> ResNet:
    """`ResNet` of a configuration."""
    return ResNet(name, cfg.views.channels, cfg.model.width, cfg.model.recompute)


def timm_encoder(name: str, cfg: Config) -> nn.Module:
    """`timm_model` of a configuration."""
    return timm_model(name, cfg.views.channels)


def timm_model(name: str, channels: int) -> nn.Module:
    """timm's model `name` for views of `channels`, pooled, without its classifier and with untrained weights.

    Raises DataError where timm is not installed or has no such model.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # the latter from a torchvision that does not fit torch
        raise DataError(f"timm:{name} needs timm ({error}): pip install 'rsdnet[timm]'") from None
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models())
        raise DataError(f"timm has no model {name}" + (f": did you mean {' or '.join(close)}?" if close else ""))
    make = functools.partial(timm.create_model, name, pretrained=False, in_chans=channels, num_classes=0)
    try:
        return make(dynamic_img_size=True)  # vision transformers, which else take views of one size
    except TypeError:
        return make()


ENCODERS: Registry[Callable[[Config], nn.Module]] = Registry(
    "encoder",
    {
        "resnet18": functools.partial(resnet, "resnet18"),
        "resnet34": functools.partial(resnet, "resnet34"),
        "resnet50": functools.partial(resnet, "resnet50"),
        "timm:": timm_encoder,
    },
)


def encoder_of(cfg: Config) -> Encoder:
    """The encoder that --encoder names, with new weights.

    Raises DataError where the name is unknown, it does not take the views, or does not follow --width or --recompute.
    """
    name, model = cfg.model.encoder, cfg.model
    encoder = ENCODERS.find(name)(cfg)
    for option, default in (("width", ModelConfig.width), ("recompute", False)):
        if getattr(model, option) != default and not hasattr(encoder, option):
            raise DataError(f"encoder {name} has no {option} to set: leave --{option} at its default ({default})")
    if not hasattr(encoder, "features"):
        encoder.features = measured_features(encoder, cfg)  # type: ignore[assignment]
    return cast(Encoder, encoder)


def measured_features(encoder: nn.Module, cfg: Config) -> int:
    """Length of an encoder's output for one view. Raises DataError where it gives something else than (B, features)."""
    size, channels = cfg.views.size, cfg.views.channels
    encoder.eval()
    try:
        with torch.no_grad():
            shape = tuple(encoder(torch.zeros(1, channels, size, size)).shape)
    except Exception as error:
        raise DataError(
            f"encoder {cfg.model.encoder} does not take {channels} x {size} x {size} views: {error}"
        ) from None
    encoder.train()
    if len(shape) != 2:
        raise DataError(f"encoder {cfg.model.encoder} gives shape {shape} for one view, expected (1, features)")
    return shape[1]
