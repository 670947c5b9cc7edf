"""Instructions on the executed path are counted rightly: against kernels whose loads are known, and piece by piece."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("triton")

from benches.ops.cases import Case
from benches.predict import chips, gcn, prediction, rows, sass
from benches.predict.code import Access
from benches.predict.descriptors import astray
from benches.predict.layout import rows_touched
from benches.predict.path import Walk
from benches.predict.prediction import floors, lines_of
from benches.predict.source import Known
from rsdnet.errors import DataError
from tests.support.environments import compiling

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def counted() -> dict[str, dict[str, float]]:
    words = [sys.executable, "-m", "tests.support.counted"]
    done = subprocess.run(words, env=compiling(), cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


# A block of 512 elements over 128 threads: each load of the source is one of 16 bytes.
LOADS = {"add": 2, "2 turns": 2, "5 turns": 5, "64 turns": 64, "first": 1, "second": 2, "third": 3,
         "mixed": 0.5 * 1 + 0.25 * 2 + 0.25 * 3}  # fmt: skip


@pytest.mark.parametrize("name", LOADS)
def test_loads_on_the_executed_path_are_those_of_the_source(counted, name):
    assert counted[name]["loads"] == pytest.approx(LOADS[name])
    assert counted[name]["stores"] == pytest.approx(1)


def test_lines_of_ptx_change_no_instruction(counted):
    assert all(found["same"] for found in counted.values())


def test_all_but_the_jump_to_itself_behind_the_end_is_executed_of_straight_code(counted):
    assert counted["add"]["instructions"] == counted["add"]["static"] - 1


def test_a_turn_of_an_unrolled_loop_costs_the_same_however_many(counted):
    two, five, many = (counted[f"{n} turns"]["instructions"] for n in (2, 5, 64))
    assert (five - two) / 3 == pytest.approx((many - five) / 59)


# ---- paths through hand-written code --------------------------------------------------------------------------------

KERNEL = """def kernel(n, code):
    for k in range(0, n):
        f(k)
    if code == 1:
        g()
    h()
    for k in range(0, WIDE):
        f(k)
"""
# lines of the "PTX" that stand for lines of the source
FRAMES = {10 * line: (("kernel.py", line),) for line in range(1, 10)}
SASS = """
.text.kernel:
\t//## File "k.py", line 10
        /*0000*/                   MOV R1, R2 ;
.L_x_0:
\t//## File "k.py", line 30
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/                   FADD R4, R4, R5 ;
\t//## File "k.py", line 20
        /*0030*/               @P0 BRA `(.L_x_0) ;
\t//## File "k.py", line 40
        /*0040*/              @!P1 BRA `(.L_x_1) ;
\t//## File "k.py", line 50
        /*0050*/                   STG.E.64 desc[UR4][R2.64], R4 ;
        /*0060*/                   MUFU.EX2 R4, R4 ;
.L_x_1:
\t//## File "k.py", line 60
        /*0070*/              @!P2 BRA `(.L_x_2) ;
        /*0080*/                   MOV R1, R2 ;
        /*0090*/                   CALL.REL.NOINC `($slowpath) ;
.L_x_2:
        /*00a0*/               @P3 HMMA.16816.F32.BF16 R4, R4, R5, R6 ;
        /*00b0*/                   EXIT ;
$slowpath:
        /*00c0*/                   MOV R1, R2 ;
        /*00d0*/                   RET.REL.NODEC R6 `(kernel) ;
.L_x_3:
        /*00e0*/                   BRA `(.L_x_3);
        /*00f0*/                   NOP;
"""


def walk(tmp_path: Path, facts: dict[str, float], text: str = SASS) -> Walk:
    (tmp_path / "kernel.py").write_text(KERNEL)
    return Walk(sass.parsed(text), FRAMES, Known(facts, {"WIDE": 6}, tmp_path))


def test_a_path_turns_takes_its_share_and_leaves_slow_paths_out(tmp_path):
    made = walk(tmp_path, {"k in range(0, n)": 7, "code == 1": 0.25})
    made.check()
    executed = list(made.executed())
    assert sum(n for i, n in executed if i.access == Access(False, 16)) == 7
    assert sum(n for i, n in executed if i.access == Access(True, 8)) == 0.25
    assert sum(n for i, n in executed if i.flops == 2 * 16 * 8 * 16) == 1
    assert not [i for i, _ in executed if i.kind == "call" or i.name == "NOP"]
    assert sum(n for _, n in executed) == 1 + 7 * 3 + 1 + 0.25 * 2 + 1 + 2


def test_constants_tell_how_often_a_loop_turns_and_an_unknown_loop_is_refused(tmp_path):
    facts = {"code == 1": 0.0}
    with pytest.raises(DataError, match=r"loop `k in range\(0, n\)` turns"):
        walk(tmp_path, facts).check()
    text = SASS.replace("line 20\n", "line 70\n").replace("line 30\n", "line 80\n")
    assert sum(n for i, n in walk(tmp_path, facts, text).executed() if i.access) == 6


def test_a_fact_about_no_line_of_the_source_is_refused(tmp_path):
    with pytest.raises(DataError, match="`code == 2` is no loop or branch"):
        walk(tmp_path, {"code == 2": 1})


@pytest.mark.parametrize(
    ("name", "access"),
    [
        ("LDG.E.128.CONSTANT", Access(False, 16)), ("LDG.E", Access(False, 4)), ("LDG.E.U16", Access(False, 2)),
        ("LDGSTS.E.BYPASS.LTC128B.128", Access(False, 16)), ("LDGSTS.E.LTC128B", Access(False, 4)),
        ("STG.E.EF.64", Access(True, 8)), ("STG.E.U8", Access(True, 1)), ("LDS.128", None), ("LDC.64", None),
    ],
)  # fmt: skip
def test_widths_are_read_from_sass(name, access):
    assert sass.access_of(name) == access


@pytest.mark.parametrize(
    ("name", "access"),
    [
        ("global_load_dwordx4", Access(False, 16)), ("global_load_ushort", Access(False, 2)),
        ("buffer_load_dword", Access(False, 4)), ("global_load_short_d16_hi", Access(False, 2)),
        ("buffer_store_dwordx2", Access(True, 8)), ("global_store_byte", Access(True, 1)), ("s_load_dwordx4", None),
    ],
)  # fmt: skip
def test_widths_are_read_from_amds_assembly(name, access):
    assert gcn.access_of(name) == access


def test_matrix_products_are_counted_a_warp():
    assert sass.flops_of("HMMA.16816.F32.BF16") == 4096
    assert sass.flops_of("HMMA.1688.F32.TF32") == 2 * 2048  # half bf16's rate
    assert sass.flops_of("HGMMA.64x128x16.F32") == 2 * 64 * 128 * 16 / 4  # four warps together
    assert sass.flops_of("IMAD.WIDE") == 0


# ---- layouts and floors ---------------------------------------------------------------------------------------------

TTGIR = """
#blocked = #ttg.blocked<{sizePerThread = [1, 1], threadsPerWarp = [32, 1], warpsPerCTA = [1, 4], order = [0, 1]}>
#blocked1 = #ttg.blocked<{sizePerThread = [1, 8], threadsPerWarp = [8, 4], warpsPerCTA = [4, 1], order = [1, 0]}>
#linear = #ttg.linear<{register = [[0, 1]], lane = [[0, 2], [0, 4], [1, 0], [2, 0], [0, 8]], warp = [], block = []}>
#loc1 = loc("/somewhere/kernel.py":12:34)
#loc2 = loc("/somewhere/kernel.py":20:3)
#loc3 = loc("x"(#loc1))
#loc4 = loc(callsite(#loc3 at #loc2))
    %a = tt.load %p, %m : tensor<64x32x!tt.ptr<i16>, #blocked> loc(#loc4)
    tt.store %q, %a : tensor<64x32x!tt.ptr<bf16>, #blocked1> loc(#loc2)
    %b = amdg.buffer_load %p[%o] : tensor<64x32xf32, #linear> loc(#loc1)
"""


# As ptxas 12.8 made it: UR6 and UR7, which the last product reads, are written inside the `if` alone.
PRODUCTS = """
.text.kernel:
        /*0000*/                   UMOV UR4, 0x400 ;
        /*0010*/                   S2UR UR5, SR_CgaCtaId ;
        /*0020*/                   ULEA UR4, UR5, UR4, 0x18 ;
        /*0030*/                   USHF.R.U32.HI UR16, URZ, 0x4, UR4 ;
        /*0040*/                   USGXT.U32 UR16, UR16, 0xe ;
        /*0050*/                   UMOV UR5, URZ ;
        /*0060*/                   UMOV UR6, UR16 ;
        /*0070*/                   UMOV UR7, 0x40000040 ;
        /*0080*/              @!P3 BRA `(.L_x_0) ;
        /*0090*/                   ULOP3.LUT UR10, UR16, 0x2000000, URZ, 0xfc, !UPT ;
        /*00a0*/                   UMOV UR11, 0x40000040 ;
        /*00b0*/                   HGMMA.64x128x16.F32 R24, R152, gdesc[UR8].tnspB, RZ, !UPT ;
        /*00c0*/                   UIADD3 UR6, UP0, UR16, 0x2, URZ ;
        /*00d0*/                   UIADD3.X UR7, UR5, 0x40000040, URZ, UP0, !UPT ;
        /*00e0*/                   UIADD3.64 UR10, UR6, 0x200007e, URZ ;
        /*00f0*/                   HGMMA.64x128x16.F32 R24, R148, gdesc[UR8].tnspB, R24, gsb0 ;
.L_x_0:
        /*0100*/                   UIADD3.64 UR58, UR6, 0x2, URZ ;
        /*0110*/                   MOV R9, UR58 ;
        /*0120*/                   R2UR UR14, R9 ;
        /*0130*/                   UMOV UR15, UR59 ;
        /*0140*/                   HGMMA.64x64x16.F32 R24, R80, gdesc[UR12], R24, gsb0 ;
        /*0150*/                   EXIT ;
"""


def test_a_product_whose_operand_depends_on_a_branch_is_found():
    assert astray(sass.parsed(PRODUCTS)) == [".L_x_0: HGMMA.64x64x16.F32 R24, R80, gdesc[UR12], R24, gsb0"]
    kept = PRODUCTS.replace(
        "MOV R9, UR58 ;", "MOV R9, UR58 ;\n        /*0118*/  STL [R1+0x8], R9 ;\n        /*011c*/  LDL R9, [R1+0x8] ;"
    )
    assert len(astray(sass.parsed(kept))) == 1  # through local memory too
    before = PRODUCTS.replace("UMOV UR6, UR16 ;", "UIADD3 UR6, UR16, 0x2, URZ ;")  # the same value, made otherwise
    assert before != PRODUCTS
    assert not astray(sass.parsed(before))
    assert not astray(sass.parsed(kept.replace("UMOV UR6, UR16 ;", "UIADD3 UR6, UR16, 0x2, URZ ;")))


def test_a_product_in_a_loop_has_one_operand_unless_the_loop_moves_it():
    loop = """
.text.kernel:
        /*0000*/                   UMOV UR6, 0x40 ;
        /*0010*/                   UMOV UR7, 0x40000040 ;
.L_x_0:
        /*0020*/                   HGMMA.64x64x16.F32 R24, R80, gdesc[UR4], R24, gsb0 ;
        /*0030*/                   UMOV UR9, UR7 ;
        /*0040*/               @P0 BRA `(.L_x_0) ;
        /*0050*/                   EXIT ;
"""
    assert not astray(sass.parsed(loop))
    assert astray(sass.parsed(loop.replace("UMOV UR9, UR7", "UIADD3 UR6, UR6, 0x2, URZ")))


def test_rows_that_a_warp_touches_are_those_of_its_threads():
    assert rows_touched(TTGIR) == {
        (("kernel.py", 12), ("kernel.py", 20)): 32, (("kernel.py", 20),): 8, (("kernel.py", 12),): 4,
    }  # fmt: skip


@pytest.mark.parametrize(("rows_", "width", "lines"), [(1, 4, 1), (1, 16, 4), (32, 2, 32), (8, 16, 8), (2, 16, 4)])
def test_lines_of_a_warps_access(rows_, width, lines):
    load = sass.instruction("", {2: "LDG.E.U16", 4: "LDG.E", 16: "LDG.E.128"}[width], "", 1)
    assert lines_of(load, rows_, 32) == lines


def test_floors_of_a_copy_are_its_bytes():
    """2^30 bytes in and out by 16-byte loads and stores: 10 instructions for each 16 bytes."""
    moved, warps = 2 << 30, (1 << 30) // 16 / 32
    found = floors(chips.RATES["H200"], moved, 10 * warps, 8 * warps, 0.0)
    assert found["bytes"] == pytest.approx(moved / 4.3e12 * 1e6, rel=0.01)
    assert found["issue"] == pytest.approx(10 * warps / 1.05e12 * 1e6, rel=0.01)
    assert found["high"] == 1
    assert found["low"] == pytest.approx(
        found["bytes"] / sum(found[name] for name in ("bytes", "issue", "lines")), 0.01
    )


def test_the_predicted_gpus_are_those_of_the_rows():
    assert tuple(chips.RATES) == rows.GPUS


# ---- rows -----------------------------------------------------------------------------------------------------------


def test_rows_are_replaced_by_commit_and_triton_and_tell_what_was_before(tmp_path, monkeypatch):
    floor = {"issue": 3.0, "lines": 1.0, "tensor": 0.0, "bytes": 2.0, "low": 0.33, "high": 0.67}
    row = {"kernel": "blur_kernel", "case": "small", "target": "cuda:90", "instructions": 50.25, "load": 16}
    row |= {"usual_load": 16, "load_rows": 1, "store": 16, "usual_store": 8, "store_rows": 2, "registers": 40}
    row |= {"stack": 0, "local": 0, "shared": 0, "warps": 4, "resident": 32, "occupancy": 0.5, "bytes": None}
    row |= {"H100": floor, "H200": floor, "budget": 60.0}
    for commit, count in (("abc", 50.25), ("def", 40.0), ("def", 30.5)):
        monkeypatch.setenv("RSDNET_COMMIT", commit)
        rows.replace(tmp_path / rows.NAME, [row | {"instructions": count}], "3.6.0")
    kept = rows.read(tmp_path / rows.NAME)
    assert [(each["commit"], each["instructions"]) for each in kept] == [("abc", "50.25"), ("def", "30.5")]
    ((title, (_, cells)),) = rows.tables(kept)
    assert title == "triton 3.6.0, commit def; in brackets: commit abc"
    assert cells == ["blur", "small", "30.5 (50.2)", "16, 8 (16)", "1, 2", "40", "50%",
                     *["bytes 2.0, issue 3.0, lines 1.0"] * 2, *["33% to 67%"] * 2]  # fmt: skip


@pytest.mark.parametrize(("target", "raises"), [("cuda:80", False), ("cuda:90", True)])
def test_a_path_that_is_not_understood_is_said_and_fails_where_times_follow_from_it(
    target, raises, monkeypatch, capsys
):
    class Compiled:
        metadata, asm = SimpleNamespace(num_warps=4, shared=0), {}

    def lost(*_):
        raise DataError("path: lost")

    monkeypatch.setattr(prediction, "compile_case", lambda *_: Compiled)
    monkeypatch.setattr(prediction, "memory", lambda _: {"registers": 32, "stack": 0, "local": 0})
    monkeypatch.setattr(prediction, "walk_of", lost)
    case = Case(SimpleNamespace(__name__="philox_kernel"), "", {}, 1)
    if raises:
        with pytest.raises(DataError, match=r"philox_kernel.*path: lost.*work\.py"):
            prediction.predict(case, target)
        return
    row = prediction.predict(case, target)
    assert row["registers"] == 32
    assert row["instructions"] is None
    assert "path: lost" in capsys.readouterr().err
