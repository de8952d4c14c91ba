"""What stages share a folder for: one run of a stage at a time, and none that goes on from what is there no more."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from motionstream.data.samples import sha256
from motionstream.training.distributed import agree
from motionstream.training.sources import weights_path

STARTS_FROM = {
    "autoencoder": (),
    "mixer": (),
    "teacher": ("autoencoder", "mixer"),
    "teacher-forcing": ("autoencoder", "mixer", "teacher"),
    "causal": ("autoencoder", "mixer", "teacher", "teacher-forcing"),
    "self-forcing": ("autoencoder", "mixer", "teacher", "causal"),
    "decoder": ("autoencoder", "mixer", "teacher"),
    "tiny-decoder": ("autoencoder",),
}
"""The stages whose weights a stage is trained with."""


@contextmanager
def stage_run(folder: Path, stage: str) -> Iterator[None]:
    """A run of ``stage`` in ``folder``: while it lasts there is no other. All ranks enter it together.

    The lock ends with the process, however that ends. Where the system or the file system has none, there is none.
    Raises ValueError on all ranks where another run has it, and where an earlier run of the stage, which this one would
    go on from, began with other weights of the stages before.
    """
    held: list[IO[str]] = []

    def enter() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder, stage, held)
        _check_origin(folder, stage)

    try:
        agree(enter)
        yield
    finally:
        for file in held:
            file.close()


def _lock(folder: Path, stage: str, held: list[IO[str]]) -> None:
    if os.name != "posix":
        return
    import fcntl

    held.append(open(folder / f".{stage}.lock", "w"))  # noqa: SIM115 - the lock lasts as long as it is open
    try:
        # not flock: data workers outlive a run that is killed by seconds, and must not hold what they were forked with
        fcntl.lockf(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise ValueError(
                f"another run trains the {stage} stage in {folder}: let it end or stop it, or train into another folder"
            ) from error


def _check_origin(folder: Path, stage: str) -> None:
    """Compare the weights that the stage starts from with those it was begun with, or note them where it begins."""
    record = folder / f"{stage}.origin.json"
    paths = [weights_path(folder, before) for before in STARTS_FROM[stage]]
    now = {path.name: sha256(path) for path in paths if path.exists()}
    begun = any(folder.glob(f"{stage}/checkpoint*")) or any(folder.glob(f"{stage}_phase*/checkpoint*"))
    if begun and record.exists():
        then = json.loads(record.read_text())
        other = sorted(name for name in then | now if then.get(name) != now.get(name))
        if other:
            raise ValueError(
                f"the {stage} stage in {folder} was begun with another {other[0]}: delete {folder / stage}* to train "
                "it anew, or train into another folder"
            )
    temporary = record.with_suffix(".tmp")
    temporary.write_text(json.dumps(now, indent=1))
    temporary.replace(record)
