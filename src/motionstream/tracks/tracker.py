"""Trackers: video to tracks. `LucasKanade` and `TemplateTracker` need OpenCV only; `CoTracker` is an adapter.

Axes: video uint8 (T, H, W, 3), points float32 (N, 2) in pixels of frame 0, (0, 0) the centre of the top-left
pixel.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from motionstream.tracks.grids import grid_points
from motionstream.tracks.recorder import Recorder
from motionstream.tracks.template import TemplateTracker
from motionstream.tracks.tracks import Tracks

__all__ = ["CoTracker", "LucasKanade", "TemplateTracker", "Tracker", "grid_points"]


class Tracker(Protocol):
    """Follows points of a video's first frame."""

    def track(self, video: np.ndarray, points: np.ndarray, fps: float = 24.0) -> Tracks:
        """video uint8 (T, H, W, 3), points float (N, 2) in frame 0 -> Tracks of T frames, ids 0..N-1.

        A point that is lost, hidden or out of the picture is invisible; so is one that starts outside.
        """
        ...


@dataclass(frozen=True)
class LucasKanade:
    """Pyramidal Lucas-Kanade optical flow (OpenCV), each step checked by going back.

    A point is lost for good when the flow fails, the way back misses by more than `max_error` pixels, or it
    leaves the picture; it then stays where it was last seen. Made for textured video: large soft shapes
    mislead it, see `TemplateTracker`.
    """

    window: int = 21
    levels: int = 3
    max_error: float = 1.0

    def __post_init__(self) -> None:
        if self.window < 3 or self.levels < 0 or not self.max_error > 0:
            raise ValueError(f"{self}; give window >= 3, levels >= 0 and max_error > 0")

    def track(self, video: np.ndarray, points: np.ndarray, fps: float = 24.0) -> Tracks:
        """See Tracker."""
        import cv2

        track = Recorder(video, points)
        track.record(0)
        before = cv2.cvtColor(video[0], cv2.COLOR_RGB2GRAY)
        for frame in range(1, len(video)):
            after = cv2.cvtColor(video[frame], cv2.COLOR_RGB2GRAY)
            index = np.flatnonzero(track.alive)
            if len(index):
                start = track.current[index]
                end, found = self._flow(before, after, start)
                back, returned = self._flow(after, before, end)
                track.update(index, end, found & returned & (np.hypot(*(back - start).T) <= self.max_error))
            track.record(frame)
            before = after
        return track.tracks(fps)

    def _flow(self, before: Any, after: Any, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where points (n, 2) of one grey picture are in another, and whether they were found (n,)."""
        import cv2

        window = (self.window, self.window)
        end, found, _ = cv2.calcOpticalFlowPyrLK(
            before, after, start, start.copy(), winSize=window, maxLevel=self.levels
        )
        return np.asarray(end), np.asarray(found)[:, 0] == 1


class CoTracker:
    """CoTracker3, offline (Karaev et al. 2024), which made the paper's tracks: an adapter.

    Its code and weights are not part of this project, are licensed CC BY-NC 4.0 (no commercial use), and
    nothing here downloads them. `repository`: a folder with a clone of facebookresearch/co-tracker;
    `checkpoint`: its scaled_offline.pth. Both default to where torch.hub caches them. Raises ValueError where
    either is missing. Clips that are long or large need much memory: the whole video is tracked at once, on
    `device`.
    """

    def __init__(
        self,
        repository: str | os.PathLike[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        device: str = "cpu",
    ) -> None:
        import torch

        hub = Path(torch.hub.get_dir())
        folder = Path(repository or hub / "facebookresearch_co-tracker_main")
        weights = Path(checkpoint or hub / "checkpoints" / "scaled_offline.pth")
        if not (folder / "hubconf.py").is_file():
            raise ValueError(
                f"{folder} has no hubconf.py; clone facebookresearch/co-tracker (CC BY-NC 4.0) and name it"
            )
        if not weights.is_file():
            raise ValueError(
                f"{weights} does not exist; download facebook/cotracker3's scaled_offline.pth "
                "(CC BY-NC 4.0) and name it"
            )
        self.device = device
        self.model = torch.hub.load(str(folder), "cotracker3_offline", source="local", pretrained=False)
        self.model.model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        self.model = self.model.to(device).eval()

    def track(self, video: np.ndarray, points: np.ndarray, fps: float = 24.0) -> Tracks:
        """See Tracker."""
        import torch

        start = Recorder(video, points)
        index = np.flatnonzero(start.alive)
        positions = np.repeat(start.current[None], len(video), axis=0)
        visible = np.zeros(positions.shape[:2], bool)
        if len(index):
            clip = torch.from_numpy(np.ascontiguousarray(video)).to(self.device).permute(0, 3, 1, 2)[None].float()
            queries = np.concatenate([np.zeros((len(index), 1), np.float32), start.current[index]], axis=1)
            with torch.no_grad():
                found, seen = self.model(clip, queries=torch.from_numpy(queries).to(self.device)[None])
            positions[:, index] = found[0].float().cpu().numpy()
            visible[:, index] = seen[0].bool().cpu().numpy()
        return Tracks(positions, visible, video.shape[1:3], fps).clipped()
