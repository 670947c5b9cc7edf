"""The stages of a measurement on a GPU, in their order: correctness, the ops, the step, end to end, predictions."""

from typing import NamedTuple

TESTS = (
    "tests/kernels --ignore=tests/kernels/test_offline.py tests/csrc/test_draws.py tests/training/test_on_gpu.py "
    "tests/training/test_cuda_graph.py tests/training/test_archive.py tests/training/test_out_of_memory.py "
    "tests/monitor/test_flops.py tests/monitor/test_profiler.py tests/evaluate/test_knn.py"
)
SIZES = "--rows={rows} --shapes={shapes}"
OPS = f"pytest benches/bench_ops.py --benchmark-only --backend={{backend}} {SIZES} -k"
STEP = f"pytest --backend={{backend}} {SIZES} --seconds={{left}} benches/bench_step.py::"
END = f"python -m benches.end_to_end {SIZES} --folder={{scratch}} --budget={{left}} --only"
CHECK = "check"


class Stage(NamedTuple):
    """Commands that run one after the other.

    seconds: limit of them all. Filled in before a command runs: {rows}, the folder of the rows; {scratch}, a folder to
    keep things in; {left}, seconds; {shapes}, {backend} and {tests}.
    """

    name: str
    seconds: int
    does: str
    commands: tuple[str, ...]


def chosen(ops: str) -> str:
    """The command of some ops, without what torch.compile takes minutes for."""
    return f"{OPS} '({ops}) and not compiled and not torchvision'"


STAGES = (
    Stage(CHECK, 300, "kernels, graph, checkpoints, memory and whole runs are right", (
        f"pytest -vv {{tests}} {TESTS}",  # a test's name as it ends: what is cut has no summary
    )),
    Stage("ops", 330, "kernels beside their references and the peers", (
        chosen("render_views"), chosen("gaussian_blur or select_bands or byol_loss or stem_conv2d or max_pool2d"),
        chosen("LARS or update_target_"),
    )),
    Stage("ahead", 260, "the step's networks compiled side by side, and the database made", (
        "python -m benches.gpu.ahead --shapes={shapes} --backend={backend} --folder={scratch}",
    )),
    Stage("step", 560, "ResNet-50's step beside the reference and the peers", (f"{STEP}bench_step[0]",)),
    Stage("end", 560, "from the database, beside a resident batch and the reference", (f"{END} resident reference",)),
    Stage("small-step", 400, "ResNet-18's step", (f"{STEP}bench_step[1]",)),
    Stage("peers", 560, "from the database, beside the peers", (
        f"{END} lightly byol-pytorch 'reference, transforms on the CPU'",
    )),
    Stage("compiled", 560, "kernels beside torch.compile of their references", (
        f"{OPS} '(reference or ours) and not graph'",  # a ratio is to the reference of the same run
    )),
    Stage("predict", 300, "instructions and floors of every kernel, without the GPU", (
        "python -m benches.resources --targets cuda:90 --rows {rows}",
    )),
)  # fmt: skip
