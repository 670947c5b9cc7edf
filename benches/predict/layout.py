"""Rows of a tile that one instruction of a warp touches, from the layouts of Triton's GPU dialect (TTGIR).

A tile's last dimension is taken as the contiguous one. An instruction takes one vector a thread, so it touches as many
rows as the warp's threads are laid out over: the product of `threadsPerWarp` but for the last dimension, or of the
lanes' bases of a linear layout that leave the row. Rows of at most a sector of memory, 32 bytes, are taken to lie side
by side: then the tile is one row.
"""

import re
from functools import cache
from math import prod
from pathlib import PurePath

from benches.predict.source import Frames

ACCESS = re.compile(
    r"(?:tt\.load|tt\.store|buffer_load|buffer_store|async_copy_global_to_local|buffer_load_to_local)\b"
)
TENSOR = re.compile(r"tensor<((?:\d+x)+)(?:!tt\.ptr<)?[a-z]+(\d+)\w*>?, (#\w+)>")
LAYOUT = re.compile(r"^(#\w+) = #ttg\.(blocked|linear)<\{(.*)\}>", re.M)
PLACE = re.compile(r"loc\((.*)\)\s*$")
SECTOR = 32  # bytes
NAMED = re.compile(r"^(#loc\w*) = loc\((.*)\)$", re.M)


def rows_touched(ttgir: str) -> dict[Frames, int]:
    """Rows by the place in the source of each load and store of a tile; the most where one line has several."""
    layouts = {name: spread_of(kind, text) for name, kind, text in LAYOUT.findall(ttgir)}
    named = dict(NAMED.findall(ttgir))

    @cache
    def frames_of(place: str) -> Frames:
        if place.startswith("#"):
            return frames_of(named.get(place, ""))
        if found := re.match(r"callsite\((\S+) at (\S+)\)", place):
            return frames_of(found[1]) + frames_of(found[2])
        if found := re.match(r'"(.*)":(\d+):\d+$', place):
            return ((PurePath(found[1]).name, int(found[2])),)
        found = re.match(r'"[^"]*"\((#\w+)\)$', place)
        return frames_of(found[1]) if found else ()

    rows: dict[Frames, int] = {}
    for line in ttgir.splitlines():
        tensor, place = TENSOR.search(line), PLACE.search(line)
        if ACCESS.search(line) and tensor and place and tensor[3] in layouts:
            *rest, length = [int(n) for n in tensor[1].split("x") if n]
            frames = frames_of(place[1])
            touched = min(layouts[tensor[3]], prod(rest)) if length * int(tensor[2]) > 8 * SECTOR else 1
            rows[frames] = max(rows.get(frames, 1), touched)
    return rows


def spread_of(kind: str, text: str) -> int:
    """Rows over which a layout spreads a warp's threads."""
    if kind == "blocked":
        threads = re.search(r"threadsPerWarp = \[([\d, ]+)\]", text)
        return prod(int(n) for n in threads[1].split(",")[:-1]) if threads else 1
    lanes = re.search(r"lane = \[(.*?\])\]", text)
    bases = re.findall(r"\[([\d, ]+)\]", lanes[1]) if lanes else []
    return 1 << sum(any(int(n) for n in base.split(",")[:-1]) for base in bases)
