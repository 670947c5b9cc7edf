"""Shapes of the trainer's parameters: ResNet-50 with BYOL's projector and predictor.

Without its code, so that a machine which has torch alone can measure the optimiser.

He et al. 2016, table 1, less the classifier; stem of 7x7; heads: Linear(4096) - BN - ReLU - Linear(256) as DeepMind's
byol/utils/networks.py. A test compares the encoder with rsdnet.model.
"""

from collections.abc import Iterator

Shape = tuple[int, ...]
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # planes and blocks


def resnet50(channels: int, width: int = 64) -> Iterator[Shape]:
    """Convolutions and norms, in order; width 64 is the published network."""
    yield from convolution(channels, width, 7)
    inputs = width
    for planes, blocks in ((stage * width // 64, blocks) for stage, blocks in STAGES):
        for block in range(blocks):
            yield from convolution(inputs, planes, 1)
            yield from convolution(planes, planes, 3)
            yield from convolution(planes, 4 * planes, 1)
            if block == 0:
                yield from convolution(inputs, 4 * planes, 1)
            inputs = 4 * planes


def convolution(inputs: int, outputs: int, side: int) -> Iterator[Shape]:
    """A convolution without bias and the weight and bias of its norm."""
    yield outputs, inputs, side, side
    yield (outputs,)
    yield (outputs,)


def head(inputs: int, hidden: int, outputs: int) -> Iterator[Shape]:
    """Projector or predictor."""
    yield hidden, inputs
    for _ in range(3):  # the first layer's bias, the norm's weight and bias
        yield (hidden,)
    yield outputs, hidden


def parameters(shapes: str, predictor: bool = True) -> list[Shape]:
    """Shapes of what LARS updates; without the predictor, of what the target holds."""
    width, hidden, outputs = {"tiny": (1, 16, 8), "small": (16, 512, 64), "full": (64, 4096, 256)}[shapes]
    found = [*resnet50(1, width), *head(32 * width, hidden, outputs)]
    return [*found, *head(outputs, hidden, outputs)] if predictor else found
