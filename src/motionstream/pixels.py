"""Pictures as people and files have them, uint8, and as networks have them: floats in [−1, 1], channels first."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_float(pixels: Tensor) -> Tensor:
    """uint8 → floats in [−1, 1], of any shape."""
    return pixels.float() / 127.5 - 1


def to_bytes(values: Tensor) -> Tensor:
    """Floats, clamped to [−1, 1] → uint8, of any shape."""
    return ((values.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_video(pictures: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (T, H, W, 3) → float (1, 3, T, H, W) in [−1, 1] on ``device``."""
    return to_float(torch.from_numpy(pictures.copy()).to(device).permute(3, 0, 1, 2)[None])


def to_pictures(video: Tensor) -> np.ndarray:
    """Video (1, 3, T, H, W) in [−1, 1] → uint8 (T, H, W, 3)."""
    return to_bytes(video[0].permute(1, 2, 3, 0)).cpu().numpy()
