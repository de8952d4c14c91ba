"""CoTracker3 (Karaev et al. 2024), which made the paper's tracks: adapters to its two predictors.

Its code and weights are not part of this project, are licensed CC BY-NC 4.0 (no commercial use), and nothing here
downloads them.

Axes: video uint8 (T, H, W, 3), points float32 (N, 2) in pixels of frame 0. The predictors take clips float 0..255
(1, T, 3, H, W) and queries (1, N, 3) of frame, x, y; they answer with positions (1, T, N, 2) and visibility (1, T, N).
"""

import os
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from motionstream.tracks.point_log import PointLog
from motionstream.tracks.tracks import Tracks


class CoTracker:
    """The offline predictor. It looks at the whole video at once, which needs much memory on `device` for long ones.

    `repository`: a folder with a clone of facebookresearch/co-tracker; `checkpoint`: its scaled_offline.pth. Both
    default to where torch.hub caches them. Raises ValueError where either is missing or does not fit.

    Points are tracked jointly: where one is found depends a little on which others are asked for.
    """

    ENTRY: ClassVar[str] = "cotracker3_offline"
    CHECKPOINT: ClassVar[str] = "scaled_offline.pth"

    def __init__(
        self,
        repository: str | os.PathLike[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        device: str = "cpu",
    ) -> None:
        import torch

        hub = Path(torch.hub.get_dir())
        folder = Path(repository or hub / "facebookresearch_co-tracker_main")
        weights = Path(checkpoint or hub / "checkpoints" / self.CHECKPOINT)
        if not (folder / "hubconf.py").is_file():
            raise ValueError(
                f"{folder} has no hubconf.py; clone facebookresearch/co-tracker (CC BY-NC 4.0) and name it"
            )
        if not weights.is_file():
            raise ValueError(
                f"{weights} does not exist; download facebook/cotracker3's {self.CHECKPOINT} (CC BY-NC 4.0) and name it"
            )
        self.device = device
        try:
            self.model = torch.hub.load(str(folder), self.ENTRY, source="local", pretrained=False)
        except RuntimeError as error:  # no such entry, or something it needs is not installed
            raise ValueError(f"{folder} cannot make {self.ENTRY} ({_line(error)}); update the clone") from error
        try:
            self.model.model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except (RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{weights} is damaged or not for {self.ENTRY} ({_line(error)}); give facebook/cotracker3's "
                f"{self.CHECKPOINT}"
            ) from error
        self.model = self.model.to(device).eval()

    def track(self, video: np.ndarray, points: np.ndarray, fps: float = 24.0) -> Tracks:
        """See Tracker. In frame 0 all points inside are visible; points that were hidden or outside may reappear."""
        import torch

        start = PointLog(video, points)
        index = np.flatnonzero(start.alive)
        positions = np.repeat(start.current[None], len(video), axis=0)
        visible = np.zeros(positions.shape[:2], bool)
        if len(index):
            queries = np.concatenate([np.zeros((len(index), 1), np.float32), start.current[index]], axis=1)
            with torch.no_grad():
                found, seen = self._follow(video, torch.from_numpy(queries).to(self.device)[None])
            positions[1:, index] = found[0, 1:].float().cpu().numpy()
            visible[0, index] = True  # frame 0 is the query; the online predictor may miss even there
            visible[1:, index] = seen[0, 1:].bool().cpu().numpy()
        return Tracks(positions, visible, video.shape[1:3], fps).clipped()

    def _follow(self, video: np.ndarray, queries: Any) -> tuple[Any, Any]:
        """Positions (1, T, N, 2) and visibility (1, T, N) of queries (1, N, 3)."""
        found, seen = self.model(self._clip(video), queries=queries)
        return found, seen

    def _clip(self, frames: np.ndarray) -> Any:
        """Frames uint8 (T, H, W, 3) → (1, T, 3, H, W) on the device, float only there."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(frames)).to(self.device).permute(0, 3, 1, 2)[None].float()


class CoTrackerOnline(CoTracker):
    """The online predictor: videos of any length, since only a window of 16 frames is on `device` at a time.

    `checkpoint` is its scaled_online.pth; the rest as for `CoTracker`.
    """

    ENTRY: ClassVar[str] = "cotracker3_online"
    CHECKPOINT: ClassVar[str] = "scaled_online.pth"

    def _follow(self, video: np.ndarray, queries: Any) -> tuple[Any, Any]:
        """Windows of 2 × step frames that overlap by half.

        The first call sets the queries and resets the predictor; it tracks nothing. Every other call returns all frames
        so far, updating those of its window, so the last call's result is complete. The last window may be shorter, but
        must extend beyond the one before it; a video of at most 2 × step frames is one window.
        """
        step = self.model.step
        support = {"add_support_grid": True}  # more points all over the picture; the offline predictor always has them
        self.model(self._clip(video[: 2 * step]), is_first_step=True, queries=queries, **support)
        found = seen = None
        for begin in range(0, max(len(video) - step, 1), step):
            found, seen = self.model(self._clip(video[begin : begin + 2 * step]), **support)
        assert found is not None and found.shape[1] == len(video), "the windows cover the video"
        return found, seen


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
