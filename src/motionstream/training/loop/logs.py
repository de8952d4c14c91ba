"""Logs a run: as JSON lines, to TensorBoard if installed, and as lines of text passed to a callback."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from motionstream.media.pictures import write_picture
from motionstream.training.loop import distributed

Say = Callable[[str], None]


class Stopwatch:
    """A context manager that sums up the seconds spent inside it; ``take`` returns and resets the sum."""

    def __init__(self) -> None:
        self._seconds = self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._seconds += time.monotonic() - self._began

    def take(self) -> float:
        seconds, self._seconds = self._seconds, 0.0
        return seconds


data_wait = Stopwatch()
"""Sources of clips wait for data inside this stopwatch; the log reports the share of a step's time."""


class Pace:
    """Time, memory and speed of the steps between two log lines.

    Args:
        flops: floating-point operations of a step, all ranks together.
        peak: peak speed of one device in FLOP/s; None if unknown.
    """

    def __init__(
        self, device: torch.device, flops: Callable[[int], float] | None = None, peak: float | None = None
    ) -> None:
        self._device, self._count = device, flops
        self._peak = None if flops is None else peak
        self._clear()
        data_wait.take()

    def _clear(self) -> None:
        self._steps, self._seconds, self._flops = 0, 0.0, 0.0
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)

    def add(self, step: int, seconds: float) -> None:
        """Record that ``step`` took ``seconds``."""
        self._steps, self._seconds = self._steps + 1, self._seconds + seconds
        if self._count is not None and self._peak is not None:
            self._flops += self._count(step)

    def take(self) -> dict[str, float]:
        """Figures of the steps since the last call: ``step_seconds`` (mean); ``data_wait`` (share of the time); if the
        peak is known, ``share_of_peak``, relative to the peak speed of all devices; on a GPU, ``peak_memory_gb`` of
        this rank."""
        seconds = max(self._seconds, 1e-9)
        numbers = {"step_seconds": self._seconds / max(1, self._steps), "data_wait": data_wait.take() / seconds}
        if self._peak is not None:
            numbers["share_of_peak"] = self._flops / (seconds * self._peak * distributed.world_size())
        if self._device.type == "cuda":
            numbers["peak_memory_gb"] = torch.cuda.max_memory_allocated(self._device) / 1e9
        self._clear()
        return numbers


class Log:
    """Writes numbers to ``log.jsonl``, TensorBoard and ``say``, and pictures to ``validation/`` and TensorBoard. Only
    the first rank writes."""

    def __init__(self, folder: Path, step: int, say: Say) -> None:
        self.first = distributed.rank() == 0
        self.say: Say = say if self.first else lambda text: None
        self.path, self.pictures = folder / "log.jsonl", folder / "validation"
        self._board: Any = None
        if not self.first:
            return
        keep_until(self.path, step)
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, step: int, seconds: float, numbers: dict[str, float], kind: str) -> None:
        """Write a record of ``kind`` "train" or "validate"; ``seconds``: the run's training time until now."""
        if not self.first:
            return
        head = {"step": step, "minutes": round(seconds / 60, 2), "kind": kind}
        with open(self.path, "a") as file:
            file.write(json.dumps(head | {k: float(f"{v:.9g}") for k, v in numbers.items()}) + "\n")
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)
        shown = (head | numbers).items()
        self.say("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown))

    def show(self, step: int, pictures: dict[str, np.ndarray]) -> None:
        """Write pictures, uint8 (H, W, 3), by name."""
        if not self.first:
            return
        for name, picture in pictures.items():
            self.pictures.mkdir(exist_ok=True)
            write_picture(self.pictures / f"{step:06d}-{name}.png", picture)
            if self._board is not None:
                self._board.add_image(f"validate/{name}", picture, step, dataformats="HWC")

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def keep_until(path: Path, step: int) -> None:
    """Drop a log's records after ``step``, which a resumed run writes again, and incomplete lines."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)
