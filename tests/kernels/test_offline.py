"""Every kernel compiles for GPUs that need not be there, without spills and local memory, and keeps to its budget; its
matrix products read what they should, whichever way a warp came."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from benches.predict.chips import CHIPS, resident
from benches.predict.work import WORK
from tests.support.environments import compiling

REPO = Path(__file__).resolve().parents[2]
SOURCES = "".join(path.read_text() for path in (REPO / "kernels").glob("*.py"))
LAUNCHED = set(re.findall(r"(\w+)\[.*\]\(", SOURCES))


def rows_of(*words: str) -> list[dict]:
    command = [sys.executable, "-m", "benches.resources", "--json", *words]
    done = subprocess.run(command, env=compiling(), cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("backend", ["cuda", "hip"])
def test_no_kernel_spills(backend):
    targets = [target for target in CHIPS if target.startswith(backend)]
    rows = rows_of("--no-counted", "--targets", *targets)
    for target in targets:
        compiled = {row["kernel"] for row in rows if row["target"] == target}
        assert compiled >= LAUNCHED, "a launch without a case in benches/ops/cases.py"
    for row in rows:
        assert row["registers"] > 0
        assert row["occupancy"] > 0
        for kind in ("stack", "local", "spills"):  # AMD keeps spilled scalars in lanes of vector registers: no memory
            assert row.get(kind, 0) == 0, row
        assert row.get("astray", 0) == 0, f"a product's operand depends on a branch before it: {row}"
    if "cuda:90" in targets:
        assert any("astray" in row for row in rows), "no product was looked at"


def test_every_kernel_keeps_to_its_budget_of_instructions_and_its_load_width():
    rows = {(row["kernel"], row["case"]): row for row in rows_of("--budgeted", "--targets", "cuda:90")}
    assert {name for name, work in WORK.items() if work.budgets} >= LAUNCHED, "a kernel without a budget"
    over = []
    for name, work in WORK.items():
        for case, budget in work.budgets.items():
            row = rows[name, case]
            if row["instructions"] > budget.instructions or row["usual_load"] < budget.load:
                over.append((name, case, row["instructions"], row["usual_load"], budget))
    assert not over


@pytest.mark.parametrize("target", ["cuda:100", "hip:gfx942"])
def test_instructions_are_counted_for_other_gpus_too(target):
    (row,) = rows_of("--targets", target, "--kernels", "philox")
    assert row["instructions"] > 10
    assert "H200" not in row


@pytest.mark.parametrize(
    ("target", "registers", "shared", "warps", "blocks"),
    [
        ("cuda:80", 32, 0, 4, 16),  # 64 warps
        ("cuda:80", 33, 0, 4, 12),  # 40 registers once rounded: 12 warps a partition
        ("cuda:90", 255, 0, 4, 2),  # 256: two warps a partition
        ("cuda:90", 16, 0, 1, 32),  # blocks
        ("cuda:90", 16, 227 << 10, 4, 1),  # the most that a block can have
        ("cuda:80", 16, 48 << 10, 4, 3),  # 49 KB each, of 164
        ("hip:gfx942", 64, 0, 4, 8),  # 8 waves a SIMD
        ("hip:gfx942", 65, 0, 4, 7),  # 72 once rounded
        ("hip:gfx942", 16, 33 << 10, 4, 1),
        ("hip:gfx942", 16, 0, 1, 32),  # groups of one wave
        ("hip:gfx942", 16, 0, 2, 16),
    ],
)  # fmt: skip
def test_blocks_a_multiprocessor(target, registers, shared, warps, blocks):
    assert resident(CHIPS[target], registers, shared, warps) == (blocks, blocks * warps)
