"""AMD's assembly of a kernel. Vector instructions run under a mask of lanes, so branches alone are guarded."""

import re
from collections.abc import Iterator

from benches.predict.code import Access, Blocks, Instruction, blocks_of

LABEL = re.compile(r"^(\.LBB\w+|[A-Za-z_]\w*):")
CODE = re.compile(r"^\t([sv]_\w+|[a-z]+_(?:load|store|atomic)\w*|ds_\w+)\b\s*([^;]*)")
ACCESS = re.compile(r"(?:global|buffer|flat)_(load|store)_(dword(?:x(\d))?|[us]?short|[us]?byte)")
MFMA = re.compile(r"v_mfma_\w+?_(\d+)x(\d+)x(\d+)")


def parsed(asm: str) -> Blocks:
    """Basic blocks up to the end of the function; their lines are those of the assembly."""

    def parts() -> Iterator[str | Instruction]:
        for number, row in enumerate(asm.splitlines(), 1):
            if row.startswith(".Lfunc_end"):
                return
            if found := LABEL.match(row):
                yield found[1]
            elif (found := CODE.match(row)) and found[1] != "s_nop":
                yield instruction(found[1], found[2].strip(), number)

    return blocks_of(parts())


def instruction(name: str, operands: str, line: int) -> Instruction:
    """One instruction."""
    if name.startswith(("s_branch", "s_cbranch")):
        return Instruction(name, name.partition("s_cbranch_")[2], line, "jump", operands)
    if name == "s_endpgm":
        return Instruction(name, "", line, "exit")
    flops = 1
    if found := MFMA.match(name):
        m, n, k = map(int, found.groups())
        flops = 2 * m * n * k
    return Instruction(name, "", line, access=access_of(name), flops=flops if found else 0)


def access_of(name: str) -> Access | None:
    """global_load_dwordx4 and the like."""
    if not (found := ACCESS.match(name)):
        return None
    kind, word, many = found.groups()
    return Access(kind == "store", 4 * int(many or 1) if word[0] == "d" else 2 if "short" in word else 1)
