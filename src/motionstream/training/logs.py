"""What a run writes down: JSON lines, TensorBoard where it is installed, and a line to whoever listens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

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


class Log:
    """Numbers to ``log.jsonl``, TensorBoard and ``say``, of the first rank alone."""

    def __init__(self, folder: Path, step: int, say: Say) -> None:
        self.first = distributed.rank() == 0
        self.say: Say = say if self.first else lambda text: None
        self.path = folder / "log.jsonl"
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
