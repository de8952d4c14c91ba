"""Checkpoints of a training run: written atomically, with the previous one kept as a fallback.

A checkpoint consists of ``tensors``, a flat dictionary by name, and ``rest``, plain values. If no tensor is sharded,
the first rank writes one file (``checkpoint.pt``); otherwise every rank writes its own part into a folder
(``checkpoint.sharded``) through ``torch.distributed.checkpoint``. Either kind can be resumed with or without sharding,
on any number of ranks. Only tensors and plain values are ever unpickled.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import warnings
import zipfile
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor

from motionstream.training.loop.distributed import agree, is_sharded, rank

State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and plain values."""

SINGLE, SHARDED = "checkpoint.pt", "checkpoint.sharded"
REST, SIZES = "rest.pt", "sizes.json"


class Checkpoints:
    """The checkpoints of one run in ``folder``. All ranks call ``save``, ``load`` and ``wait`` together.

    Args:
        background: copy the state and write it in a thread while training continues. The next ``save`` or ``wait``
            raises the error of a failed save.
    """

    def __init__(self, folder: Path, *, background: bool = False) -> None:
        self.folder, self.background = folder, background
        self._writing: threading.Thread | None = None
        self._error: Exception | None = None
        self._group: dist.ProcessGroup | None = None  # separate: the thread's messages must not mix with the loop's

    def save(self, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
        """Write a checkpoint under a temporary name, then move it into place.

        Raises OSError if it cannot be written (disk full); the last checkpoint stays intact.
        """
        self.wait()
        sharded = any(is_sharded(tensor) for tensor in tensors.values())
        if not sharded and rank() > 0:
            return
        work = self._sharded(tensors, rest) if sharded else self._single(tensors, rest)
        if not self.background:
            work()
            return
        self._writing = threading.Thread(target=self._guarded, args=(work,), name="checkpoint")
        self._writing.start()

    def wait(self) -> None:
        """Wait until nothing is being written. Raises the error of a background save that failed."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # raised by the next save or wait
            self._error = error

    def _single(self, tensors: dict[str, Tensor], rest: dict[str, Any]) -> Callable[[], None]:
        if self.background:
            tensors = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

        def work() -> None:
            save_file(self.folder / SINGLE, {"tensors": tensors, "rest": rest})
            self._drop(SHARDED)

        return work

    def _sharded(self, tensors: dict[str, Tensor], rest: dict[str, Any]) -> Callable[[], None]:
        path = self.folder / SHARDED
        temporary = path.with_name(path.name + ".tmp")
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        if rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        dist.barrier(self._group)
        pending: Any = None
        if self.background:
            pending = dcp.async_save(tensors, checkpoint_id=str(temporary), process_group=self._group)

        def work() -> None:
            try:
                if pending is None:
                    dcp.save(tensors, checkpoint_id=str(temporary), process_group=self._group)
                else:
                    (pending if isinstance(pending, Future) else pending.upload_completion).result()
                if rank() == 0:
                    _write(temporary / REST, rest)
                    sizes = {file.name: file.stat().st_size for file in temporary.iterdir()}
                    (temporary / SIZES).write_text(json.dumps(sizes))
                    move_into_place(temporary, path)
                    self._drop(SINGLE)
            except dcp.CheckpointException as error:
                raise OSError(f"cannot write {path}: {_first_failure(error)}; {_REMEDY}") from error
            except OSError as error:
                raise _cannot_write(path, error) from error
            dist.barrier(self._group)

        return work

    def _drop(self, name: str) -> None:
        """Delete the checkpoints ``name`` of the other kind, which are older than the one just written."""
        for path in (self.folder / name, previous(self.folder / name)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def load(self, like: Callable[[], dict[str, Tensor]]) -> State | None:
        """The newest readable checkpoint; None if there is none yet.

        A damaged one is renamed with a warning, and the one before it is read. Raises ValueError if all are damaged.

        Args:
            like: gives tensors of the names, shapes and shardings that a sharded checkpoint is read into.
        """
        chosen = agree(lambda: _choose(self.folder))
        if chosen is None:
            return None
        path = Path(chosen)
        if path.is_dir():
            reader = dcp.FileSystemReader(path)
            there = reader.read_metadata().state_dict_metadata
            tensors = {name: torch.empty_like(tensor) for name, tensor in like().items() if name in there}
            dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())
            return tensors, torch.load(path / REST, map_location="cpu", weights_only=True)
        state = torch.load(path, map_location="cpu", weights_only=True)
        return state.get("tensors", {}), state.get("rest", {})


def previous(path: Path) -> Path:
    """The path of the checkpoint before the one at ``path``."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_file(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` (nested tensors and plain values) atomically; an existing file becomes ``previous(path)``.
    Raises OSError if it cannot be written (disk full); both files are then unchanged."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        _write(temporary, state)
        move_into_place(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _cannot_write(path, error) from error


def _write(path: Path, state: dict[str, Any]) -> None:
    with open(path, "wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # if the disk fills up midway, PyTorch still tries to finish its file and reports that failure instead
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename ``path`` to ``previous(path)``, then ``temporary`` to ``path``. One of the two is always whole."""
    if path.exists():
        if path.is_dir():
            shutil.rmtree(previous(path), ignore_errors=True)
        os.replace(path, previous(path))
    os.replace(temporary, path)
    if os.name == "posix":  # make the renames durable, too, before training continues
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


_REMEDY = "the checkpoint before it is intact: make room, then train again to go on from it"


def _cannot_write(path: Path, error: OSError) -> OSError:
    return OSError(error.errno, f"cannot be written ({error.strerror}); {_REMEDY}", str(path))


def _first_failure(error: dcp.CheckpointException) -> str:
    """The first of the ranks' failures, in one line of at most 200 characters."""
    return " ".join(str(next(iter(error.failures.values()))[0]).split())[:200]


def _choose(folder: Path) -> str | None:
    """The newest undamaged checkpoint. Damaged ones are renamed, or the next save would keep one as the fallback."""
    newest = [folder / SINGLE, folder / SHARDED]
    found = [path for path in (*newest, *map(previous, newest)) if path.exists()]
    for path in found:
        problem = damage(path)
        if problem is None:
            return str(path)
        aside = path.with_name(path.name + ".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
        warnings.warn(f"{path} is damaged ({problem}): kept as {aside.name}, going back to an older one", stacklevel=4)
    if found:
        raise ValueError(
            f"no checkpoint in {folder} can be read: copy one back, or train into another folder to begin anew"
        )
    return None


def damage(path: Path) -> str | None:
    """A description of a checkpoint's damage, None if intact. A single file is checked by its checksums, shards only by
    their sizes."""
    try:
        if path.is_dir():
            for name, size in json.loads((path / SIZES).read_text()).items():
                if (path / name).stat().st_size != size:
                    return f"{name} has not its {size} bytes"
            return None
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
        return None if broken is None else f"{broken} does not agree with its checksum"
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
