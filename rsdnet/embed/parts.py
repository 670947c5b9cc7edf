"""Finished parts of an output, in the folder `OUT.parts` until all are there, so that an embedding continues."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rsdnet.embed.windows import Block
from rsdnet.errors import FULL, DataError
from rsdnet.files import aside, lock, sweep

PLAN, FIT = "plan.json", "fit.npz"
_WORDS = {"rows": "--bands", "encoder": "weights", "scene": "files of the scene", "samples": "samples in the database"}


@contextlib.contextmanager
def room_for(path: Path, done: str = "finished parts are safe") -> Iterator[None]:
    """A full disk becomes a DataError of one line. done: the work that is safe."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL or any(os.strerror(code) in str(error) for code in FULL):
            raise DataError(f"no space to write {path}: {done}; free some and run the same command again") from error
        raise


class Parts:
    """The folder of an output's finished parts."""

    def __init__(self, out: Path) -> None:
        self.out, self.folder = out, out.with_name(out.name + ".parts")

    def begin(self, identity: Mapping[str, Any], fresh: bool) -> bool:
        """Begin, or go on; whether it goes on. identity: of the command, JSON-able. fresh: begin anew where the folder
        is of another command.

        Raises DataError where it is of another command, or another process works there.
        """
        own = json.loads(json.dumps(identity))
        found = self.plan()
        if found is not None and (differ := [name for name in own if found.get(name) != own[name]]):
            if not fresh:
                name = differ[0]
                told = _WORDS.get(name, f"--{name.replace('_', '-')} {found.get(name)}, not {own[name]}")
                raise DataError(
                    f"{self.folder} was begun with other {told}: give the same, or begin anew by --force"
                    if name in _WORDS
                    else f"{self.folder} was begun with {told}: give the same, or begin anew by --force"
                )
            shutil.rmtree(self.folder)
            found = None
        with room_for(self.folder, "nothing is written yet"):
            self.folder.mkdir(exist_ok=True)
            if found is None:
                with aside(self.folder / PLAN) as temporary:
                    temporary.write_text(json.dumps(own, indent=1))
        self._lock = open(self.folder / PLAN, "rb")  # noqa: SIM115 - until this process ends
        with contextlib.suppress(OSError):  # a file system without locks
            lock(self._lock, f"{self.folder}: another process works there: wait for its end")
        sweep(self.folder)
        return found is not None

    def plan(self) -> dict[str, Any] | None:
        """The identity that the folder was begun with; None: there is none."""
        try:
            return json.loads((self.folder / PLAN).read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise DataError(f"{self.folder / PLAN} is damaged ({error}): delete {self.folder}") from error

    def remove(self) -> None:
        """Remove the folder."""
        self._lock.close()
        shutil.rmtree(self.folder)


class Blocks(Parts):
    """Finished blocks. dtype, layers: of a block's values (layers, height, width)."""

    def __init__(self, out: Path, dtype: np.dtype, layers: int) -> None:
        super().__init__(out)
        self.dtype, self.layers = dtype, layers

    def path(self, block: Block) -> Path:
        """The file of a block: its values, one layer after the other."""
        return self.folder / f"y{block.top}_x{block.left}.bin"

    def has(self, block: Block) -> bool:
        """Whether a block is finished."""
        return self.path(block).exists()

    def save(self, block: Block, layers: Iterator[np.ndarray]) -> None:
        """Write a block, layer by layer (height, width), aside then renamed."""
        with room_for(self.out), aside(self.path(block)) as temporary, open(temporary, "wb") as file:
            for layer in layers:
                file.write(np.ascontiguousarray(layer).view(np.uint8).data)

    def read(self, block: Block) -> np.ndarray:
        """The values (layers, height, width) of a finished block, mapped into memory."""
        return np.memmap(self.path(block), self.dtype, "r", shape=(self.layers, block.height, block.width))
