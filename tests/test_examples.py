"""The examples and the snippets of kernels/README.md run; the kernels folder works by itself, under another name."""

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environments import compiling
from tests.support.libraries import library

REPO = Path(__file__).resolve().parent.parent
SNIPPETS = re.findall(r"```python\n(.*?)```", (REPO / "kernels/README.md").read_text(), re.DOTALL)
OPS = (
    "render_views", "blur_views", "gaussian_blur", "select_bands", "take_bands", "byol_loss", "cosine_loss",
    "stem_conv2d", "max_pool2d", "LARS", "lars_groups", "update_target_",
)  # fmt: skip


def printed_by(*command, path=REPO, cwd=None):
    """What a fresh Python prints, without Triton's interpreter, in which the other tests run."""
    environment = compiling() | {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    command = [sys.executable, *map(str, command)]
    done = subprocess.run(command, env=environment, cwd=cwd or path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def numbers(pattern, text):
    """The number after each match of a pattern."""
    return [float(number) for number in re.findall(pattern + r"\s*([-+]?\d+\.?\d*)", text)]


def test_simsiam_learns_and_does_not_collapse():
    printed = printed_by("examples/simsiam.py")
    losses, (before, after) = numbers("loss", printed), numbers("direction:", printed)
    assert losses[0] > -0.2
    assert losses[-1] < -0.6  # of -1
    assert min(numbers("spread", printed)) > 0.8  # of 1
    assert after > before + 15  # %


def test_somebody_elses_model_trains_on_standardised_views():
    printed = printed_by("examples/someone_elses_model.py")
    assert "views (2, 48, 3, 32, 32) torch.float32" in printed
    assert abs(numbers("float32,", printed)[0]) < 0.3
    assert 0.7 < numbers("±", printed)[0] < 1.3
    losses = numbers("loss", printed)
    assert losses[-1] < 0.5 * losses[0]


def test_dino_learns_and_does_not_collapse():
    printed = printed_by("examples/dino.py")
    losses, (before, after) = numbers("loss", printed), numbers("wide:", printed)
    assert losses[-1] < losses[1] - 0.5
    assert numbers("in use", printed)[-1] > 8
    assert after > before + 15  # %


def test_from_small_data_to_features_a_map_and_a_loop_of_ones_own(tmp_path):
    """One after the other on the same data and encoder: the notebook, the map, the loop, and timm where it is there."""
    examples = REPO / "examples"
    cells = json.loads((examples / "features.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (tmp_path / "features.py").write_text("\n".join(code))
    printed = printed_by("features.py", path=examples, cwd=tmp_path)
    (features,), (means,) = numbers("features", printed), numbers("each band", printed)
    assert features > means + 0.1  # macro F1
    (same,), (chance,) = numbers("same class:", printed), numbers("random:", printed)
    assert same > 2 * chance
    printed = printed_by(examples / "land_cover.py", path=examples, cwd=tmp_path)
    (embedded,), (alone,) = numbers("layers: macro F1", printed), numbers("itself: macro F1", printed)
    assert embedded > max(alone, 0.5)
    assert (tmp_path / "land_cover.png").read_bytes().startswith(b"\x89PNG")
    printed = printed_by(examples / "reader.py", path=examples, cwd=tmp_path)
    learned, frequent = numbers("macro F1 of [a-z ]+", printed)
    assert learned > frequent + 0.2
    try:
        library("timm")
    except pytest.skip.Exception:
        return
    head, random = numbers("macro F1", printed_by(examples / "finetune_timm.py", path=examples, cwd=tmp_path))
    assert head > random + 0.1


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[snippet.splitlines()[-1][:40] for snippet in SNIPPETS])
def test_snippets_of_the_readme_run(snippet):
    exec(compile(snippet, "kernels/README.md", "exec"), {})


def test_readme_has_a_snippet_and_a_row_for_every_op():
    readme = (REPO / "kernels/README.md").read_text()
    for op in OPS:
        assert any(f"{op}(" in snippet for snippet in SNIPPETS), op
        assert op == "lars_groups" or re.search(rf"^\|.*`{op}`", readme, re.MULTILINE), op


def test_kernels_import_torch_triton_and_the_standard_library_alone():
    for path in (REPO / "kernels").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level < 2:
                names = [node.module] if node.level == 0 else []
            else:
                assert not isinstance(node, ast.ImportFrom), f"{path.name} imports from above its folder"
                continue
            for name in names:
                top = name.split(".")[0]
                assert top in {"torch", "triton"} | sys.stdlib_module_names, f"{path.name} imports {name}"


def test_the_folder_works_under_another_name_without_rsdnet(tmp_path):
    shutil.copytree(REPO / "kernels", tmp_path / "lifted", ignore=shutil.ignore_patterns("__pycache__"))
    snippets = "\n".join(snippet.replace("rsdnet.kernels", "lifted") for snippet in SNIPPETS)
    check = "import sys; print(sorted(name for name in sys.modules if name.split('.')[0] in ('rsdnet', 'kernels')))"
    (tmp_path / "use.py").write_text(f"{snippets}\n{check}")
    assert printed_by("use.py", path=tmp_path) == "[]\n"
