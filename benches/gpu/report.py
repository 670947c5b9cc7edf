"""Predictions beside measurements: `python -m benches.gpu.report FOLDER`, of predicted.csv and kernels.csv there.

Compared is the share of a copy's bandwidth, which does not depend on the number of images.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benches.core.rows import Row, read, split
from benches.predict import rows as predicted
from benches.predict.chips import RATES

# Rows of `bench_ops` (op and mode, type, contender) and the kernels that they launch, named as in predicted.csv. A CUDA
# graph launches the same.
OURS = "ours"
LAUNCHED: dict[tuple[str, str, str], tuple[tuple[str, str], ...]] = {
    ("render_views augmented", "bf16", OURS): (("render_matrix_kernel", "S=128 C=1 bf16 NHWC"),),
    ("render_views augmented, blurred", "bf16", OURS): (("render_matrix_kernel", "S=128 C=1 bf16 NHWC blur"),),
    ("render_views augmented", "bf16", "single taps"): (("render_taps_kernel", "S=128 C=1 bf16 NHWC"),),
    ("gaussian_blur forward", "bf16", OURS): (("blur_kernel", "S=128 C=1 bf16 drawn"),),
    ("gaussian_blur forward", "fp32", OURS): (("blur_kernel", "S=128 C=1 fp32 given"),),
    ("select_bands forward", "uint16 to bf16", OURS): (("select_bands_kernel", "C=1 uint16 to bf16 NCHW drawn"),),
    ("byol_loss forward+backward", "bf16", OURS): (
        ("cosine_kernel", "D=256 bf16"), ("cosine_backward_kernel", "D=256 bf16"),
    ),
    ("byol_loss forward+backward", "fp32", OURS): (
        ("cosine_kernel", "D=256 fp32"), ("cosine_backward_kernel", "D=256 fp32"),
    ),
    ("stem_conv2d forward", "bf16", OURS): (("stem_kernel", "S=128 C=1 O=64 bf16"),),
    ("stem_conv2d forward+backward", "bf16", OURS): (
        ("stem_kernel", "S=128 C=1 O=64 bf16"), ("stem_backward_kernel", "S=128 C=1 O=64 bf16"),
    ),
    ("max_pool2d forward", "bf16", OURS): (("max_pool_kernel", "S=64 C=64 bf16"),),
    ("max_pool2d forward+backward", "bf16", OURS): (
        ("max_pool_kernel", "S=64 C=64 bf16"), ("max_pool_backward_kernel", "S=64 C=64 bf16"),
    ),
    ("LARS step", "fp32", OURS): (("lars_norms_kernel", "fp32"), ("lars_update_kernel", "fp32")),
    ("update_target_ step", "fp32", OURS): (("update_target_kernel", "fp32"),),
}  # fmt: skip
KINDS = ("issue", "lines", "tensor", "bytes")
HEAD = ("share of a copy's bandwidth", "", "predicted", "measured")


def share(launches: Sequence[dict[str, str]]) -> tuple[float, float]:
    """Of a copy's bandwidth, for launches one after the other: where nothing overlaps, and where all does.

    launches: floors in us, as predicted.csv has them.
    """
    times = [[float(launch.get(kind, 0)) for kind in KINDS] for launch in launches]
    moved = sum(launch[KINDS.index("bytes")] for launch in times)
    return moved / sum(map(sum, times)), moved / sum(map(max, times))


def beside(measured: Sequence[Row], told: Sequence[dict[str, str]]) -> Iterator[tuple[str, str, str, str]]:
    """Op, contender, and the share of a copy's bandwidth predicted and measured; the last rows of each.

    measured: of kernels.csv. told: of predicted.csv, for the Triton of a measurement where there are such.
    """
    last = {(row["what"], row["setting"], row["contender"]): row for row in measured}
    for (what, setting, contender), row in last.items():
        gpu = next((gpu for gpu in RATES if gpu in row["machine"]), "")
        same = [prediction for prediction in told if prediction.get("triton", "") in row["versions"]] or told
        known = {(p["kernel"], p["case"]): p for p in same if p["target"] == "cuda:90"}
        kernels = LAUNCHED.get((what, split(setting).get("type", ""), contender.removesuffix(", graph")), ())
        also = split(row["also"])
        if gpu and "of the copy" in also and kernels and all(kernel in known for kernel in kernels):
            low, high = share([split(known[kernel][gpu]) for kernel in kernels])
            yield f"{what} ({setting})", contender, f"{low:.0%} to {high:.0%}", f"{float(also['of the copy']):.0%}"


def main(folder: Path) -> None:
    """Print the table; nothing where one of the two files is not there."""
    lines = list(beside(read(folder / "kernels.csv"), predicted.read(folder / predicted.NAME)))
    if lines:
        lines.insert(0, HEAD)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for cells in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
