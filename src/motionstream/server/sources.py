"""What a stream can follow, and how much of it: uploaded videos, and frames of a viewer's webcam."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MAX_JPEG = 256 * 1024  # bytes of one webcam frame: a page sends a tenth of that
FASTEST = 60.0  # webcam frames a second


@dataclass(frozen=True, eq=False)
class Video:
    """``frames`` uint8 (T, H, W, 3) at ``fps``; ``note``: what was left out, for people, "" for nothing."""

    frames: np.ndarray
    fps: float
    note: str = ""


class Rate:
    """Lets so many ``things`` a second through; after a rest so many at once, as behind a connection that stalled."""

    def __init__(self, most: float, things: str) -> None:
        self.most, self.things = most, things
        self._left, self._counted = most, -math.inf

    def count(self, now: float) -> None:
        """One more. ValueError where that is one too many."""
        self._left = min(self.most, self._left + self.most * max(0.0, now - self._counted))
        self._counted = now
        if self._left < 1:
            raise ValueError(f"{self.things} come faster than {self.most:g} a second; send fewer")
        self._left -= 1
