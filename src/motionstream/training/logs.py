"""What a run writes down: JSON lines, TensorBoard where it is installed, and a line to whoever listens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from motionstream.media import write_picture
from motionstream.training import distributed

Say = Callable[[str], None]


class Stopwatch:
    """Seconds spent inside it, summed up until ``take``."""

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
"""Sources of data wait within it; the log tells the share of a step's time."""


class Pace:
    """What steps take, from one log line to the next.

    Args:
        flops: a step's floating-point operations, of all ranks together.
        peak: what one device can do in a second at best; None where that is not known.
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
        """``step`` is done, after ``seconds``."""
        self._steps, self._seconds = self._steps + 1, self._seconds + seconds
        if self._count is not None and self._peak is not None:
            self._flops += self._count(step)

    def take(self) -> dict[str, float]:
        """Of the steps since the last call: ``step_seconds``, ``data_wait`` (its share of the time); on a GPU
        ``peak_memory_gb`` of this rank, and ``share_of_peak``, of what all devices could have computed meanwhile."""
        seconds = max(self._seconds, 1e-9)
        numbers = {"step_seconds": self._seconds / max(1, self._steps), "data_wait": data_wait.take() / seconds}
        if self._peak is not None:
            numbers["share_of_peak"] = self._flops / (seconds * self._peak * distributed.world_size())
        if self._device.type == "cuda":
            numbers["peak_memory_gb"] = torch.cuda.max_memory_allocated(self._device) / 1e9
        self._clear()
        return numbers


class Log:
    """Numbers to ``log.jsonl``, TensorBoard and ``say``, pictures to ``validation/`` and TensorBoard; of the first rank
    alone."""

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
        """One record of ``kind`` "train" or "validate"."""
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
        """Pictures, uint8 (H, W, 3), by name."""
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
    """Drop from a log what came after ``step``: a run that was killed writes it again. A line cut short goes, too."""
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
