"""Guards a training folder: one run of a stage at a time, resumed only if earlier stages' weights are unchanged."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from motionstream.data.samples import sha256
from motionstream.training.loop.distributed import agree
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
"""The earlier stages whose weights each stage uses."""


@contextmanager
def stage_run(folder: Path, stage: str) -> Iterator[None]:
    """Lock ``stage`` in ``folder`` during a run. All ranks enter together.

    The lock is released when the process ends, however it ends; systems without file locks get none. Raises ValueError
    on all ranks if another run holds the lock, or if the run to be resumed started from other weights of earlier
    stages.
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
        # not flock: forked data workers would inherit it and keep it for seconds after a run is killed
        fcntl.lockf(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise ValueError(
                f"another run trains the {stage} stage in {folder}: let it end or stop it, or train into another folder"
            ) from error


def _check_origin(folder: Path, stage: str) -> None:
    """Check that the weights of earlier stages have not changed since the stage began, and record them."""
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
