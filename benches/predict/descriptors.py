"""Where Hopper's matrix products (wgmma; HGMMA in SASS) find their operands in shared memory, on every path.

A descriptor, in uniform registers, holds the operand's address. ptxas 12.8 has computed one inside an `if`, whose
products had an operand at the same address, and used it after the `if` as well: a program that skipped the `if` read
another address. In these kernels, of four warps each, no descriptor depends on a branch, so one that differs between
paths is wrong. Not followed: registers that a called function writes, and jumps by a table.
"""

import re
from typing import Any

from benches.predict.code import Blocks, Instruction, flow

Value = Any  # an int, or a tuple: what it is made of
UNSET: Value = ("unset",)
MASK = (1 << 32) - 1
REGISTER = re.compile(r"U?R\d+")
COPIES = ("UMOV", "R2UR", "MOV", "IMAD.MOV.U32", "IMAD.U32")
NO_RESULT = ("ST", "LDGSTS", "RED", "BAR", "BRA", "EXIT", "MEMBAR", "FENCE", "WARP", "CALL", "RET", "DEPBAR", "BSYNC")


def astray(blocks: Blocks) -> list[str]:
    """Products with a descriptor that is not the same on all paths."""
    graph = flow(blocks)
    entry = graph.graph["entry"]
    before: dict[str, dict[str, Value]] = {entry: {}}
    found: dict[str, None] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        held = dict(before[name])
        for number, instruction in enumerate(blocks.get(name, [])):
            if instruction.name.startswith("HGMMA") and any(map(mixed, descriptors(instruction.operands, held))):
                found[f"{name}: {instruction.name} {instruction.operands}"] = None
            for register, value in written(instruction, held, (name, number)).items():
                unsure = instruction.guard and held.get(register, UNSET) != value
                held[register] = ("mixed", name, number) if unsure else value
        for after in graph.successors(name):
            if after not in before:
                before[after] = dict(held)
            elif not merged(before[after], held, after):
                continue
            waiting.append(after)
    return list(found)


def merged(into: dict[str, Value], held: dict[str, Value], label: str) -> bool:
    """Whether another way to a block changes what is known of its registers."""
    changed = False
    for register in into.keys() | held.keys():
        old, new = into.get(register, UNSET), held.get(register, UNSET)
        if old != new and old != ("mixed", label):
            into[register], changed = ("mixed", label), True
    return changed


def mixed(value: Value) -> bool:
    """Whether a value depends on the path, or one that it is made of."""
    return isinstance(value, tuple) and (value[0] in ("mixed", "unset") or any(map(mixed, value[1:])))


def descriptors(operands: str, held: dict[str, Value]) -> list[Value]:
    """Those of a product, two registers each: of both operands, or, where one is in registers, of the other."""
    first = int(re.search(r"gdesc\[UR(\d+)\]", operands)[1])  # type: ignore[index]
    used = (2, 3) if re.match(r"R\d+, R\d+, gdesc", operands) else (0, 1, 2, 3)
    return [held.get(f"UR{first + k}", UNSET) for k in used]


def written(instruction: Instruction, held: dict[str, Value], place: tuple[str, int]) -> dict[str, Value]:
    """Registers that an instruction writes, and their values."""
    name = instruction.name
    words = [word.replace(".reuse", "") for word in instruction.operands.split(", ")]
    if name.startswith(("STL", "LDL")):
        return dict(zip(*spilled(name, words, held), strict=True))
    if name.startswith(NO_RESULT) or not re.match(r"U?[RP]\d", words[0]):
        return {}
    to, rest = words[0], words[1:]
    carries = []
    while rest and re.fullmatch(r"U?P[T\d]", rest[0]):  # predicates that are written too
        carries.append(rest.pop(0))
    wide = width(name)
    if not to.startswith("U") and name not in COPIES:
        prefix, number = re.match(r"(U?[RP])(\d+)", to).groups()  # type: ignore[union-attr]
        return {f"{prefix}{int(number) + k}": ("made", *place, k) for k in range(wide)}
    inputs = [value_of(word, held, wide, place) for word in rest]
    result = computed(name, inputs)
    if isinstance(result, int):
        made = {to: result & MASK} | dict.fromkeys(carries, result >> 32)
        return made if wide == 1 else {to: result & MASK, second(to): result >> 32 & MASK}
    if wide > 1:
        return {to: (*result, 0), second(to): (*result, 1)}
    return {to: result} | dict.fromkeys(carries, ("carry", result))


def spilled(name: str, words: list[str], held: dict[str, Value]) -> tuple[list[str], list[Value]]:
    """What goes to local memory or comes from there: "[R1+0x8]" is a register like others."""
    slot, register = words if name.startswith("STL") else words[::-1]
    base, _, offset = slot.strip("[]").partition("+")
    number, wide = int(register.lstrip("R").replace("Z", "255")), range(width(name))
    slots = [f"{base}+{int(offset or '0', 0) + 4 * k:#x}" for k in wide]
    registers = [f"R{number + k}" for k in wide]
    to, source = (slots, registers) if name.startswith("STL") else (registers, slots)
    return to, [held.get(each, UNSET) for each in source]


def width(name: str) -> int:
    """Registers of a result."""
    if found := re.match(r"HGMMA\.64x(\d+)x", name):
        return int(found[1]) // 2
    if re.search(r"\.128|\.M88\.4|\.MT88\.4", name) or name.startswith("HMMA"):
        return 4
    return 2 if re.search(r"\.64|\.WIDE|\.M88\.2", name) or name.startswith("CS2R") else 1


def second(register: str) -> str:
    """The upper one of a pair of uniform registers."""
    return f"UR{int(register[2:]) + 1}"


def value_of(word: str, held: dict[str, Value], wide: int, place: tuple[str, int]) -> Value:
    """An operand's value; of a pair of registers both halves'."""
    sign, word = word.startswith("-"), word.lstrip("-~!")
    if word in ("URZ", "RZ", "UPT", "PT"):  # a carry that is always true is written !UPT
        value: Value = 0
    elif REGISTER.fullmatch(word) or re.fullmatch(r"U?P\d", word):
        value = held.get(word, UNSET)
        if wide == 2 and word.startswith("UR"):
            upper = held.get(second(word), UNSET)
            if isinstance(value, int) and isinstance(upper, int):
                value |= upper << 32
            else:
                value = ("pair", value, upper)
    elif re.fullmatch(r"0x[0-9a-f]+|\d+", word):
        value = int(word, 0)
    elif word == "SR_CgaCtaId":
        value = 0  # clusters of one program
    else:
        value = ("made", *place)
    if sign:
        value = -value & ((1 << 32 * wide) - 1) if isinstance(value, int) else ("minus", value)
    return value


def computed(name: str, inputs: list[Value]) -> Value:
    """What an instruction makes of its operands: a number where all are."""
    if name in COPIES:
        return inputs[-1]
    if not all(isinstance(value, int) for value in inputs):
        return (name, *inputs)
    kind = name.partition(".")[0]
    if kind == "UIADD3":  # with carries
        return sum(inputs) & ((1 << 64) - 1)
    if name == "S2UR":
        return inputs[0]
    if name == "ULEA":
        return (inputs[0] << inputs[2]) + inputs[1] & MASK
    if name == "USHF.R.U32.HI" and inputs[0] == 0:
        return inputs[2] >> inputs[1]
    if name == "USGXT.U32":
        return inputs[0] & ((1 << inputs[1]) - 1)
    if name == "ULOP3.LUT":
        return table(*inputs[:4])
    return (name, *inputs)


def table(a: int, b: int, c: int, truth: int) -> int:
    """Three words by a truth table."""
    terms = ((a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c) for k in range(8) if truth >> k & 1)
    result = 0
    for term in terms:
        result |= term & MASK
    return result
