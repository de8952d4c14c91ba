"""Sources that a stream can follow: uploaded videos, and frames of a viewer's webcam, with their limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MAX_JPEG = 256 * 1024  # bytes per webcam frame; the page sends a tenth of that
FASTEST = 60.0  # largest number of webcam frames per second


@dataclass(frozen=True, eq=False)
class Video:
    """``frames``: uint8 (T, H, W, 3) at ``fps``. ``note``: message for users about omitted parts, or ""."""

    frames: np.ndarray
    fps: float
    note: str = ""


class Rate:
    """Rate limiter (token bucket): ``most`` ``things`` per second, and as many at once after a pause, such as a stalled
    connection."""

    def __init__(self, most: float, things: str) -> None:
        self.most, self.things = most, things
        self._left, self._counted = most, -math.inf

    def count(self, now: float) -> None:
        """Count one more. ValueError if it exceeds the rate."""
        self._left = min(self.most, self._left + self.most * max(0.0, now - self._counted))
        self._counted = now
        if self._left < 1:
            raise ValueError(f"{self.things} come faster than {self.most:g} a second; send fewer")
        self._left -= 1
