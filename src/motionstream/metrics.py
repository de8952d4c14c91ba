"""Metrics for training and evaluation: PSNR, SSIM, end-point error, drift, and confidence intervals.

Videos are uint8 arrays (T, H, W, 3), or tensors (B, 3, T, H, W), uint8 or float in [−1, 1]. Points are (x, y) in
pixels, (0, 0) the centre of the top-left one. Axes: B clips, T frames, N points.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

Video = np.ndarray | Tensor

MAX_PSNR = 100.0
"""PSNR in dB reported for equal pictures, since means and JSON files cannot hold infinity."""


def as_batch(video: Video) -> Tensor:
    """Convert a ``Video`` to float (B, 3, T, H, W) in [0, 1].

    Raises ValueError for any other shape or type.
    """
    if isinstance(video, np.ndarray):
        if video.ndim != 4 or video.shape[-1] != 3 or video.dtype != np.uint8:
            raise ValueError(f"video is {video.dtype} {video.shape}; give uint8 (frames, height, width, 3)")
        video = torch.from_numpy(video.copy()).permute(3, 0, 1, 2)[None]
    if video.ndim != 5 or video.shape[1] != 3:
        raise ValueError(f"video has shape {tuple(video.shape)}; give (clips, 3, frames, height, width)")
    if video.dtype == torch.uint8:
        return video.float() / 255
    if not video.is_floating_point():
        raise ValueError(f"video is {video.dtype}; give uint8, or float in -1..1")
    return (video.float() + 1) / 2


def _pair(video: Video, reference: Video) -> tuple[Tensor, Tensor]:
    first, second = as_batch(video), as_batch(reference)
    if first.shape != second.shape:
        raise ValueError(f"videos of shapes {tuple(first.shape)} and {tuple(second.shape)} cannot be compared")
    return first, second.to(first.device)


def psnr(video: Video, reference: Video, mask: Video | None = None) -> Tensor:
    """Peak signal-to-noise ratio of whole clips (B,) in dB, at most ``MAX_PSNR``.

    The squared error is averaged over the clip before taking the logarithm, so that a few perfect frames do not hide
    bad ones. ``mask``: bool (T, H, W) for one clip or (B, T, H, W); only these pixels count; NaN if none does.
    """
    first, second = _pair(video, reference)
    error = (first - second).square().mean(dim=1)  # B T H W
    if mask is None:
        mean = error.flatten(1).mean(dim=1)
    else:
        counted = torch.as_tensor(mask, device=error.device)
        counted = counted[None] if counted.ndim == 3 else counted
        if counted.shape != error.shape or counted.dtype != torch.bool:
            raise ValueError(
                f"mask is {counted.dtype} {tuple(counted.shape)}; give bool {tuple(error.shape)}, a clip's pixels"
            )
        mean = (error * counted).flatten(1).sum(dim=1) / counted.flatten(1).sum(dim=1)
    return -10 * mean.clamp(min=10 ** (-MAX_PSNR / 10)).log10()


def ssim(video: Video, reference: Video) -> Tensor:
    """Structural similarity (Wang et al. 2004; Gaussian window of 11 pixels), mean over each clip's frames: (B,)."""
    first, second = (part.transpose(1, 2).flatten(0, 1) for part in _pair(video, reference))
    frames = structural_similarity_index_measure(first, second, data_range=1.0, reduction="none")
    assert isinstance(frames, Tensor)
    clips, length = as_batch(video).shape[0], as_batch(video).shape[2]
    return frames.reshape(clips, length).mean(dim=1)


def blockiness(video: Video, cell: int = 8) -> float:
    """Mean brightness difference across the edges of ``cell``-pixel cells, relative to that between other neighbouring
    pixels; 1 without blocks. It includes the picture's own edges, so compare versions of the same picture."""
    frames = as_batch(video).mean(dim=1)  # B T H W
    if min(frames.shape[2:]) < 2 * cell:
        raise ValueError(f"a picture of {tuple(frames.shape[2:])} has no two cells of {cell} pixels a side")
    at_edges, elsewhere = [], []
    for axis in (2, 3):
        steps = frames.diff(dim=axis).abs().mean(dim=[d for d in range(4) if d != axis])
        edge = torch.arange(1, len(steps) + 1) % cell == 0
        at_edges.append(steps[edge])
        elsewhere.append(steps[~edge])
    return float(torch.cat(at_edges).mean() / torch.cat(elsewhere).mean().clamp(min=1e-6))


def moved_frames(positions: np.ndarray, visible: np.ndarray, least: float = 4.0) -> np.ndarray:
    """bool (T, N): whether a point is visible and at least ``least`` pixels from its position in frame 0.

    positions (T, N, 2), visible bool (T, N).
    """
    moved = np.linalg.norm(positions - positions[:1], axis=-1)
    return np.asarray(visible & (moved >= least))


def end_point_error(
    predicted: np.ndarray,
    found: np.ndarray,
    true: np.ndarray,
    counted: np.ndarray,
    *,
    lost: str = "frozen",
) -> np.ndarray:
    """Distances in pixels between predicted and true points where ``counted``, as one array (K,).

    Args:
        predicted: (T, N, 2), used where ``found``, bool (T, N).
        true: (T, N, 2). counted: bool (T, N), such as ``moved_frames``.
        lost: treatment of counted points that were not found. "frozen": predicted at their position in frame 0, as if
            nothing had moved, so that losing points never helps. "skip": excluded, which reduces K.
    """
    shape = counted.shape
    if predicted.shape != (*shape, 2) or true.shape != (*shape, 2) or found.shape != shape:
        shapes = f"predicted {predicted.shape}, found {found.shape}, true {true.shape}"
        raise ValueError(f"{shapes}: must be (T, N, 2), (T, N) and (T, N, 2) for counted {shape}")
    if lost not in ("frozen", "skip"):
        raise ValueError(f"lost = {lost!r}; give 'frozen' or 'skip'")
    if lost == "skip":
        counted = counted & found
    guess = np.where(found[..., None], predicted, true[:1])
    return np.asarray(np.linalg.norm(guess - true, axis=-1)[counted], dtype=float)


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def to_dict(self) -> dict[str, float]:
        return asdict(self)

    def place(self, bound: float) -> str:
        """Whether the interval is entirely "below" or "above" ``bound``, or lies "across" it."""
        if self.high < bound:
            return "below"
        return "above" if self.low > bound else "across"


Reduce = Callable[[np.ndarray], float]


def paired_bootstrap(
    first: Sequence[np.ndarray | float],
    second: Sequence[np.ndarray | float],
    *,
    compare: str = "difference",
    reduce: Reduce = np.mean,
    samples: int = 2000,
    seed: int = 0,
) -> Interval:
    """95 % percentile interval of first − second, or of first / second, by resampling clips.

    Points and frames of one clip are not independent, so whole clips are drawn, the same for both sides (Efron and
    Tibshirani 1993, chapter 13).

    Args:
        first, second: for each clip a number or an array of numbers, which may be empty.
        compare: "difference" or "ratio" of the reduced values. reduce: np.mean or np.median of all numbers.

    Raises ValueError if the sides differ in length, or if there are no numbers at all.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} clips against {len(second)}: a paired comparison needs the same clips")
    if compare not in ("difference", "ratio"):
        raise ValueError(f"compare = {compare!r}; give 'difference' or 'ratio'")
    sides = [[np.atleast_1d(np.asarray(clip, dtype=float)) for clip in side] for side in (first, second)]
    # clips without a value (because no point moved) are no observations
    kept = [row for row in range(len(first)) if all(len(side[row]) for side in sides)]
    if not kept:
        raise ValueError("no clip has a value to compare; give more clips")

    def statistic(rows: np.ndarray) -> float:
        a, b = (float(reduce(np.concatenate([side[row] for row in rows]))) for side in sides)
        return a - b if compare == "difference" else a / max(b, 1e-12)

    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.choice(kept, len(kept))) for _ in range(samples)]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(statistic(np.array(kept)), float(low), float(high))


def drift_curve(
    frames: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None, *, window: int = 12
) -> np.ndarray:
    """Drift of a region from ``reference``: PSNR in dB of consecutive windows of frames, (T // window,).

    frames: uint8 (T, H, W, 3). reference: uint8 (H, W, 3). mask: bool (H, W), the whole picture by default.
    """
    windows = len(frames) // window
    if window < 1 or windows < 1:
        raise ValueError(f"{len(frames)} frames hold no window of {window}; give more frames or a smaller window")
    still = np.broadcast_to(reference, (window, *reference.shape))
    pixels = None if mask is None else np.broadcast_to(mask, (window, *mask.shape)).copy()
    parts = [frames[k * window : (k + 1) * window] for k in range(windows)]
    return np.array([float(psnr(part, still, pixels)) for part in parts])
