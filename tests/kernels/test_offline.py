"""Every kernel compiles for GPUs that need not be there, without spills and without local memory."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from benches import resources
from tests.support.environments import compiling

REPO = Path(__file__).resolve().parents[2]
SOURCES = "".join(path.read_text() for path in (REPO / "kernels").glob("*.py"))
LAUNCHED = set(re.findall(r"(\w+)\[.*\]\(", SOURCES))


@pytest.mark.parametrize("backend", ["cuda", "hip"])
def test_no_kernel_spills(backend):
    targets = [target for target in resources.CHIPS if target.startswith(backend)]
    words = [sys.executable, "-m", "benches.resources", "--json", "--targets", *targets]
    done = subprocess.run(words, env=compiling(), cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for target in targets:
        compiled = {row["kernel"] for row in rows if row["target"] == target}
        assert compiled >= LAUNCHED, "a launch without a case in benches/ops/cases.py"
    for row in rows:
        assert row["registers"] > 0
        assert row["occupancy"] > 0
        for kind in ("stack", "local", "spills", "scalar_spills"):
            assert row.get(kind, 0) == 0, row


@pytest.mark.parametrize(
    ("asm", "width"),
    [
        ({"ptx": "@%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];\nld.global.b16 {%rs1}, [%rd2];"}, 16),
        ({"ptx": "ld.global.L1::evict_first.v2.b32 { %r1, %r2 }, [ %rd1 + 0 ];"}, 8),
        ({"ptx": "ld.shared.v4.b32 {%r1, %r2, %r3, %r4}, [%r5]; ld.global.nc.u8 %rs1, [%rd1];"}, 1),
        ({"ptx": "cp.async.cg.shared.global [ %r1 + 0 ], [ %rd1 + 0 ], 0x10, 0x10;"}, 16),
        ({"ptx": "ld.param.b64 %rd1, [p];"}, 0),
        ({"amdgcn": "global_load_dwordx4 v[0:3], v4, s[0:1]\nglobal_load_ushort v5, v6, s[0:1]"}, 16),
        ({"amdgcn": "buffer_load_dword v0, v1, s[0:3], 0 offen"}, 4),
        ({"amdgcn": "s_load_dwordx4 s[0:3], s[4:5], 0x0\nglobal_load_short_d16_hi v5, v6, s[0:1]"}, 2),
    ],
)
def test_the_widest_load_is_read_from_the_assembly(asm, width):
    assert max(resources.load_widths(asm), default=0) == width


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
    assert resources.resident(resources.CHIPS[target], registers, shared, warps) == (blocks, blocks * warps)
