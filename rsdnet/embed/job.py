"""The embedding of a scene: block by block, each the blend of all windows that meet it."""

import itertools
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from rsdnet.console import percent, progress, size
from rsdnet.distributed import Ranks
from rsdnet.embed.geotiff import MOST, TILE, Coding, assemble
from rsdnet.embed.layers import Layers, windowed
from rsdnet.embed.parts import FIT, Blocks, room_for
from rsdnet.embed.position import WINDOWS, position_of
from rsdnet.embed.projection import Fit, fitted, sampled
from rsdnet.embed.scene import Scene
from rsdnet.embed.windows import Blend, Block, Tiling, batches, valid_cells, valid_pixels
from rsdnet.errors import DataError
from rsdnet.hardware import free_bytes

LARGEST = 2048  # output pixels a side of a block, at most: one that is lost takes minutes; our choice


@dataclass(frozen=True)
class Job:
    """The embedding of a scene by the maps of `layers`, with the windows of `tiling`, to `out`.

    kind: float16, int8, or byte for a picture. components: of the projection; 0: none. memory: bytes of a block and its
    windows. position: "subtract" or "keep". identity: of the options that decide the result. tags: of the output.
    """

    scene: Scene
    layers: Layers
    tiling: Tiling
    out: Path
    kind: str
    components: int
    position: str
    batch: int
    memory: int
    seed: int
    identity: Mapping[str, Any]
    tags: Mapping[str, Any]

    # ---- sizes -------------------------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Layers of the output."""
        return self.components or self.layers.channels

    @property
    def parts(self) -> Blocks:
        """The finished blocks."""
        return Blocks(self.out, Coding(self.kind, np.empty(0), np.empty(0)).dtype, self.count)

    @property
    def bytes(self) -> int:
        """Of the output, uncompressed."""
        return self.count * self.parts.dtype.itemsize * math.prod(self.tiling.out)

    def needed(self, block: int) -> int:
        """Bytes of a block of that many pixels a side, and of its windows, at most."""
        own = block * block * (4 * self.count + 16)
        scene = (block * self.tiling.cell + 2 * self.tiling.window) ** 2 * (8 * len(self._bands) + 4)
        maps = sum(each.channels * side**2 for each, side in zip(self.layers.stages, self.layers.sides, strict=True))
        shallow = self.layers.stages[0].channels * self.layers.sides[0] ** 2
        widest = max(self.components, 1) if self.components else max(each.channels for each in self.layers.stages)
        return own + scene + 4 * self.batch * (maps + 16 * shallow) + 12 * widest * self.tiling.side**2

    def blocked(self) -> "Job":
        """This job with the largest blocks whose memory is in bounds; one that is begun goes on with its own."""
        plan = self.parts.plan()
        if plan and all(plan.get(name) == value for name, value in self.identity.items()):
            return replace(self, tiling=replace(self.tiling, block=plan["block"]))
        block = TILE
        while block < min(LARGEST, max(self.tiling.out)) and self.needed(block + TILE) <= self.memory:
            block += TILE
        return replace(self, tiling=replace(self.tiling, block=block))

    def check(self) -> None:
        """Raise DataError where the output has too many layers, a block does not fit into the free memory, or the disk
        has no room for the output and its blocks."""
        if self.count > MOST:
            raise DataError(f"{self.count} layers are more than a GeoTIFF holds ({MOST}): fewer rows, or --pca")
        needed, free = self.needed(self.tiling.block), free_bytes(self.layers.encoder.device)
        if needed > free:
            raise DataError(
                f"a block of {self.tiling.block} px takes {size(needed)} of memory, and {size(free)} are free: use "
                "--pca, fewer rows, --features last, a larger --cell or a smaller --batch"
            )
        free = self._free()
        held = sum(path.stat().st_size for path in self.parts.folder.glob("*.bin"))
        if 2 * self.bytes - held > free:
            raise DataError(
                f"{self.out} takes up to {size(self.bytes)}, and its blocks as much until it is whole, but "
                f"{size(free)} are free: use --pca, a larger --cell, --features last, --type int8, or another disk"
            )

    def _free(self) -> int:
        """Bytes that the disk of the output has left."""
        return shutil.disk_usage(self.out.absolute().parent).free

    # ---- values ------------------------------------------------------------------------------------------------------

    @cached_property
    def _bands(self) -> dict[str, float | None]:
        """Nodata by band of the scene."""
        return {name: self.layers.encoder.file.bands[name].nodata for file in self.scene.files for name in file.bands
                if name in self.layers.encoder.file.bands}  # fmt: skip

    def _valid(self, values: Mapping[str, np.ndarray], height: int, width: int) -> np.ndarray:
        return valid_pixels(values, self._bands, (height, width))

    def _sample_windows(self, count: int) -> Iterator[tuple[dict[str, Tensor], np.ndarray]]:
        """At most `count` windows, drawn by the seed, with their valid output pixels."""
        every = [(top, left) for top in self.tiling.starts(0) for left in self.tiling.starts(1)]
        order = np.random.default_rng(self.seed).permutation(len(every))
        window, found = self.tiling.window, 0
        for top, left in (every[at] for at in order):
            values = self.scene.read(top, left, window, window)
            valid = valid_cells(self._valid(values, window, window), self.tiling.cell)
            if valid.any():
                yield windowed(values, window, [(0, 0)], window), valid
                found += 1
            if found == count:
                return

    def fit(self) -> Fit:
        """The projection and ranges: of an earlier part of this job, or of a sample."""
        path = self.parts.folder / FIT
        if path.exists():
            return Fit.load(path)
        position = self._position() if self.position == "subtract" else []
        if not self.components and self.kind == "float16":
            found = Fit(None, None, np.zeros(self.count, np.float32), np.ones(self.count, np.float32), None)
        else:
            sample = sampled(self.layers, self._sample_windows, self.tiling.side, self.seed, position)
            found = fitted(sample, self.components, self.kind == "byte", self.seed)
        if position:
            found = found._replace(position=torch.cat([each.flatten() for each in position]).cpu().numpy())
        with room_for(self.out, "nothing is written yet"):
            found.save(path)
        return found

    def _position(self) -> list[Tensor]:
        """The position part of each stage, of windows that are spread over the scene."""
        tiling = self.tiling
        every = len(tiling.starts(0)) * len(tiling.starts(1))
        independent = min(math.prod(side / tiling.window for side in tiling.shape) / every, 1)
        whole = (values for values, valid in self._sample_windows(WINDOWS) if valid.all())
        groups = iter(lambda: list(itertools.islice(whole, self.batch)), [])
        joined = ({name: torch.cat([each[name] for each in group]) for name in group[0]} for group in groups)
        with torch.inference_mode():
            return position_of((self.layers.maps(values) for values in joined), independent)

    def embed(self, block: Block, fit: Fit) -> tuple[Tensor, Tensor]:
        """Values (layers, height, width) float32 and valid pixels (height, width) bool of a block."""
        rows, columns = self.tiling.windows(block)
        window, cell, device = self.tiling.window, self.tiling.cell, self.layers.encoder.device
        top, left = rows[0], columns[0]
        height, width = rows[-1] + window - top, columns[-1] + window - left
        values = self.scene.read(top, left, height, width)
        valid = self._valid(values, height, width)
        blend = Blend(block, self.count, self.tiling.side, device)
        for places in batches(rows, columns, self.batch):
            own = [(y - top, x - left) for y, x in places]
            own = [(y, x) for y, x in own if valid[y : y + window, x : x + window].any()]
            if not own:
                continue
            found = fit.apply(self.layers, self.layers.maps(windowed(values, height, own, window)))
            for number, (y, x) in enumerate(own):
                maps = [(first, each[number]) for first, each in found]
                blend.add((y + top) // cell, (x + left) // cell, maps)
        mixed = blend.done()
        if fit.shift is not None:
            mixed -= torch.from_numpy(fit.shift).to(device)[:, None, None]
        y, x = block.top * cell - top, block.left * cell - left
        inside = valid[y : y + block.height * cell, x : x + block.width * cell]
        return mixed, torch.from_numpy(valid_cells(inside, cell)).to(device)

    # ---- the command -------------------------------------------------------------------------------------------------

    def run(self, ranks: Ranks, console: Console, force: bool) -> None:
        """Embed the blocks that are not finished, each rank its share, and write the output."""
        parts, blocks = self.parts, self.tiling.blocks()
        with ranks.together():
            if ranks.main:
                identity = {**self.identity, "block": self.tiling.block}
                if continued := parts.begin(identity, fresh=force):
                    done = sum(map(parts.has, blocks))
                    console.print(f"continuing {self.out} after {done:,} of {len(blocks):,} blocks")
                try:
                    fit = self.fit()
                except DataError:
                    if not continued:
                        parts.remove()
                    raise
        with ranks.together():
            if not ranks.main:
                if not (parts.folder / FIT).exists():
                    raise DataError(
                        f"rank {ranks.rank} does not see {parts.folder}: name an output that all ranks share"
                    )
                fit = self.fit()
        if fit.variance is not None:
            shares = ", ".join(percent(share, 1) for share in fit.variance[:3]) + ", ..." * (len(fit.variance) > 3)
            console.print(
                f"{self.components} components explain {percent(fit.variance.sum(), 1)} of the variance ({shares})"
            )
        with ranks.together():
            self._embed_rest(blocks, fit, ranks, console)
        if ranks.main:  # the others end before, for it may take longer than they would wait
            self._assemble(blocks, fit, console)
            parts.remove()

    def _embed_rest(self, blocks: Sequence[Block], fit: Fit, ranks: Ranks, console: Console) -> None:
        """Embed this rank's share of the blocks that are not finished."""
        parts, coding = self.parts, self.coding(fit)
        todo = [block for block in blocks if not parts.has(block)][ranks.share(len(blocks))]
        ranks.barrier()  # all have seen the same blocks as not finished
        total = sum(block.pixels for block in blocks)
        finished = total - sum(block.pixels for block in blocks if not parts.has(block))
        with torch.inference_mode(), progress("embed", total, "pixels", done=finished, console=console) as show:
            for block in todo:
                parts.save(block, coding.encoded(*self.embed(block, fit)))
                show(sum(each.pixels for each in blocks if parts.has(each)))

    def coding(self, fit: Fit) -> Coding:
        """Of the output's values."""
        return Coding(self.kind, fit.low, fit.high)

    def _assemble(self, blocks: Sequence[Block], fit: Fit, console: Console) -> None:
        if (free := self._free()) < self.bytes:
            raise DataError(
                f"no space to write {self.out}: it takes up to {size(self.bytes)}, and {size(free)} are free; finished "
                "blocks are safe; free some and run the same command again"
            )
        tags = dict(self.tags)
        if fit.variance is not None:
            tags["RSDNET_EXPLAINED_VARIANCE"] = " ".join(f"{share:.4f}" for share in fit.variance)
        names = [f"component {number}" for number in range(1, self.count + 1)] if self.components else self.layers.names
        grid, cell = self.scene.grid, self.tiling.cell
        with progress("write", len(blocks), "blocks", console=console) as show:
            assemble(self.out, self.parts, blocks, self.coding(fit), self.tiling.out, grid, cell, names, tags, show)
