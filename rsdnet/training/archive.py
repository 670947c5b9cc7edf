"""A run's checkpoints over time: written by a thread while training goes on, pruned, the newest sound one found again.

A checkpoint is `checkpoint-STEP.safetensors`, and the newest one is also `checkpoint.safetensors`. Each is written
aside, then renamed; older ones are removed when it is on the disk. The file itself: checkpoint.py.
"""

import contextlib
import os
import re
import shutil
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from rsdnet import runfolder
from rsdnet.errors import DataError
from rsdnet.files import aside
from rsdnet.training import checkpoint

NUMBERED = re.compile(r"checkpoint-(\d{9,})\.safetensors")


class Archive:
    """The checkpoints in `folder`: the last `keep`, and those whose step is a multiple of `keep_every` (0: none)."""

    def __init__(self, folder: Path, keep: int = 2, keep_every: int = 0) -> None:
        self.folder, self.keep, self.keep_every = folder, keep, keep_every
        self._writing: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        """Take a copy of `tensors` and write it with the JSON-able `meta` while the caller goes on.

        Waits for the one before. Raises DataError if that could not be written.
        """
        self.wait()
        snapshot = Snapshot(tensors)
        self._writing = threading.Thread(target=self._write, args=(step, snapshot, meta), name="rsdnet-checkpoint")
        self._writing.start()

    def wait(self) -> None:
        """Return when everything is on disk. Raises DataError if it could not be written."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.wait()
        elif self._writing is not None:  # the checkpoint under way may still be of use; the error comes first
            self._writing.join()

    def _write(self, step: int, snapshot: "Snapshot", meta: dict[str, Any]) -> None:
        path = self.folder / f"checkpoint-{step:09d}.safetensors"
        try:
            checkpoint.save(path, snapshot.on_host(), meta)
            _publish(path, self.folder / runfolder.CHECKPOINT)
            self._prune(step)
        except OSError as error:
            self._error = checkpoint.failed(path, error)
        except BaseException as error:  # whatever it is, the trainer must hear of it
            self._error = error

    def _prune(self, newest: int) -> None:
        """Remove checkpoints beyond `keep` and `keep_every`, and those of steps after the newest: they are damaged, or
        an earlier one was resumed."""
        numbered = self._numbered()
        past = [(step, path) for step, path in numbered if step <= newest]
        kept = {step for step, _ in past[: self.keep]}
        kept |= {step for step, _ in past if self.keep_every and step % self.keep_every == 0}
        for step, path in numbered:
            if step not in kept:
                path.unlink(missing_ok=True)

    def _numbered(self) -> list[tuple[int, Path]]:
        """(step, file), the newest first."""
        found = [(NUMBERED.fullmatch(path.name), path) for path in self.folder.glob("checkpoint-*.safetensors")]
        return sorted(((int(match[1]), path) for match, path in found if match), reverse=True)

    def exists(self) -> bool:
        """Whether there is any checkpoint."""
        return (self.folder / runfolder.CHECKPOINT).is_file() or bool(self._numbered())

    def load(self) -> tuple[Path, dict[str, Tensor], dict[str, Any], list[str]]:
        """The newest sound checkpoint: its file, tensors and meta, and one line on each newer one that is damaged.

        Raises DataError where none is sound, with the newest one's fault.
        """
        damaged: list[str] = []
        for path in self._candidates():
            try:
                return path, *checkpoint.load(path), damaged
            except DataError as error:
                damaged.append(str(error))
        raise DataError(damaged[0])

    def _candidates(self) -> list[Path]:
        """Each checkpoint by one name, the newest first."""
        newest, found = self.folder / runfolder.CHECKPOINT, [path for _, path in self._numbered()]
        if not newest.is_file():
            return found or [newest]
        if found and not newest.samefile(found[0]):  # killed before it was published, or no hard links here
            return [*found, newest]
        return [newest, *found[1:]]


class Snapshot:
    """Copies of tensors as they are now, on their device; on a GPU only enqueued, no step waits."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        devices = {tensor.device for tensor in tensors.values() if tensor.is_cuda}
        self.events = {device: torch.cuda.current_stream(device).record_event() for device in devices}

    def on_host(self) -> dict[str, Tensor]:
        """The copies on the host. For another thread: its transfers take a stream of their own."""
        streams = {device: torch.cuda.Stream(device) for device in self.events}
        for device, stream in streams.items():
            stream.wait_event(self.events[device])
        with contextlib.ExitStack() as stack:
            for stream in streams.values():
                stack.enter_context(torch.cuda.stream(stream))
            return {name: tensor.cpu() for name, tensor in self.tensors.items()}


def _publish(path: Path, name: Path) -> None:
    """Make `name` another name of the file `path`, atomically."""
    with aside(name) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, temporary)
