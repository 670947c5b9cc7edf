"""What is known of a kernel's path, in the words of its source: how often loops turn and branches are taken."""

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from rsdnet.errors import DataError

Frames = tuple[tuple[str, int], ...]  # a place in the source: file and line, then those of the callers
FRAME = re.compile(r"([\w.]+\.py):(\d+):\d+")


class Statement(NamedTuple):
    """A loop or branch: its condition, or `k in range(n)`; the lines of its head, of its body and of its else."""

    text: str
    loop: bool
    head: range
    body: range
    other: range


@cache
def statements(path: Path) -> list[Statement]:
    """All loops and branches of a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If | ast.While):
            text = ast.unparse(node.test)
        elif isinstance(node, ast.For):
            text = f"{ast.unparse(node.target)} in {ast.unparse(node.iter)}"
        else:
            continue
        body, other = lines_of(node.body), lines_of(node.orelse)
        found.append(Statement(text, not isinstance(node, ast.If), range(node.lineno, body.start), body, other))
    return found


def lines_of(nodes: list[ast.stmt]) -> range:
    """Lines that statements take."""
    return range(nodes[0].lineno, (nodes[-1].end_lineno or 0) + 1) if nodes else range(0)


class Known:
    """What a case says of its path.

    facts: by a statement's text; of a branch the share of warps that take it (`else` gets the rest), of a loop its
    turns. arguments: of the launch: `k in range(0, SIZE, TILE)` needs no fact where these are constants.
    folder: of the kernel's sources.
    """

    def __init__(self, facts: Mapping[str, float], arguments: Mapping[str, Any], folder: Path) -> None:
        self.facts, self.arguments, self.folder = facts, arguments, folder
        texts = {statement.text for path in folder.glob("*.py") for statement in statements(path)}
        if stale := facts.keys() - texts:
            raise DataError(f"path: `{min(stale)}` is no loop or branch in {folder}")

    def around(self, frames: Frames) -> Iterator[tuple[Statement, int, Frames]]:
        """Loops and branches around a place, the innermost first, each with the line in it and its own place."""
        for k, (file, line) in enumerate(frames):
            path = self.folder / file
            found = statements(path) if path.is_file() else []
            for part in sorted(found, key=lambda part: -part.head.start):
                if line in part.head or line in part.body or line in part.other:
                    yield part, line, ((file, part.head.start), *frames[k + 1 :])

    def share(self, frames: Frames) -> float:
        """Share of the warps that come to a place; branches without a fact do not count."""
        branches = [(part, line) for part, line, _ in self.around(frames) if not part.loop and part.text in self.facts]
        return prod(
            self.facts[part.text] if line in part.body else 1 - self.facts[part.text]
            for part, line in branches
            if line not in part.head
        )

    def loop(self, frames: Frames) -> tuple[Frames, str, float | None]:
        """The innermost loop around a place that the source does not unroll: its place, text and turns if known."""
        for part, _, place in self.around(frames):
            if part.loop and "static_range" not in part.text:
                return place, part.text, self.turns(part.text)
        return (), "", 1.0

    def turns(self, text: str) -> float | None:
        """Turns of a loop."""
        if text in self.facts:
            return self.facts[text]
        try:
            return len(eval(text.partition(" in ")[2], {"__builtins__": {"range": range}}, dict(self.arguments)))
        except (NameError, AttributeError, TypeError):
            return None


def frames_of(asm: str) -> dict[int, Frames]:
    """Of each line of an assembly with `.loc` and LLVM's remarks: the place in the source that it was made from."""
    frames: dict[int, Frames] = {}
    now: Frames = ()
    for number, line in enumerate(asm.splitlines(), 1):
        if line.lstrip().startswith(".loc\t"):
            now = tuple((file, int(at)) for file, at in FRAME.findall(line) if int(at))
        frames[number] = now
    return frames
