"""The training step beside the reference and the peers: for `bench_step` and `end_to_end`."""

SPEED, SHARE = "x samples/s", "of the step"  # units
PACKAGES = ("numpy", "triton", "torchvision", "kornia", "lightly", "byol-pytorch", "lmdb", "safetensors")  # in the rows
