"""Validation of generated latents: pictures beside the true ones, and the distance of points from their tracks.

Both need a decoder. Axes: B clips, T frames, M tracks. Positions are pixels (x, y); (0, 0) is the centre of the
top-left pixel.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from motionstream.autoencoder.base import StreamingAutoencoder
from motionstream.media.sheets import contact_sheet, draw_tracks
from motionstream.metrics import end_point_error, moved_frames
from motionstream.pixels import to_pictures
from motionstream.tracks.template import TemplateTracker
from motionstream.tracks.tracker import Tracker
from motionstream.training.clips.prepared import PreparedClips

LEAST_MOTION = 4.0
"""Distance in pixels from its start at which a point counts as moved, as in ``motionstream evaluate rendered``."""
DRAWN = 16
"""Maximum number of tracks drawn on a clip, so that dots do not hide the picture."""
LEGIBLE = 128
"""Shorter side in pixels below which the frames of a sheet are enlarged."""


class ClipView:
    """Decodes held-out clips for pictures and point tracking; created once per stage, used at every validation.

    Args:
        decoder: decodes ``clips``' latents; any streaming autoencoder.
        points: maximum number of moving tracks per clip to follow, evenly spaced among those visible in frame 0, since
            tracking starts in the given picture.
        shown: clips on the sheet, two rows each. columns: frames of each.
    """

    def __init__(
        self,
        clips: PreparedClips,
        decoder: StreamingAutoencoder,
        *,
        points: int = 8,
        shown: int = 2,
        columns: int = 6,
        tracker: Tracker | None = None,
    ) -> None:
        if min(points, shown, columns) < 1:
            raise ValueError(f"points = {points}, shown = {shown}, columns = {columns}: must be at least 1")
        self.clips, self.decoder = clips, decoder
        self.tracker = TemplateTracker() if tracker is None else tracker
        self.points, self.shown = points, min(shown, len(clips))
        frames = clips.visible.shape[1]
        self.numbers = np.unique(np.linspace(0, frames - 1, columns).round().astype(int))
        """Indices of the frames on the sheet."""
        self.sheet: np.ndarray | None = None
        """The sheet of the last ``look``."""
        self._true: list[np.ndarray] = []

    def look(self, made: Tensor) -> tuple[dict[str, float], np.ndarray]:
        """Figures and the sheet of generated latents ``made`` (B, C, F, h, w), one for each clip.

        Figures: ``epe_px``, ``epe_frozen_px``, ``lost``, see ``_figures``. Sheet, uint8 (H, W, 3): for each clip a row
        of generated frames with some of its tracks, and below it a row of true frames.
        """
        if made.shape != self.clips.latents.shape:
            shapes = f"{tuple(made.shape)}, the clips' {tuple(self.clips.latents.shape)}"
            raise ValueError(f"the made latents are {shapes}: make as many, of the same length and size")
        if not self._true:
            true = self.clips.latents[: self.shown].to(made.device)
            self._true = [self._decode(true, clip)[self.numbers] for clip in range(self.shown)]
        errors, still, lost, rows = [], [], [], []
        for clip in range(len(self.clips)):
            video = self._decode(made, clip)
            error, frozen, missed = self._follow(video, clip)
            errors.append(error)
            still.append(frozen)
            lost.append(missed)
            if clip < self.shown:
                rows += [self._draw(video, clip), self._draw(self._true[clip], clip)]
        figures = _figures(*(np.concatenate(parts) for parts in (errors, still, lost)))
        self.sheet = contact_sheet(np.concatenate(rows), len(self.numbers))
        return figures, self.sheet

    def pictures(self) -> dict[str, np.ndarray]:
        """The sheet of the last ``look``, in the form of ``Stage.pictures``."""
        return {} if self.sheet is None else {"made": self.sheet}

    @torch.no_grad()
    def _decode(self, latents: Tensor, clip: int) -> np.ndarray:
        """One clip, uint8 (T, H, W, 3)."""
        with torch.autocast(latents.device.type, enabled=False):  # as in streams, whatever precision the stage uses
            return to_pictures(self.decoder.decode(latents[clip : clip + 1].float())[0])

    def _tracks(self, clip: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions (T, M, 2), zero where unknown, and visibility (T, M)."""
        visible = self.clips.visible[clip].cpu().numpy()
        return np.nan_to_num(self.clips.positions[clip].float().cpu().numpy()), visible

    def _follow(self, video: np.ndarray, clip: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """End-point errors of the points found; and for every counted point and frame, the error of a point that does
        not move, and whether the tracker has lost the point."""
        positions, visible = self._tracks(clip)
        counted = moved_frames(positions, visible, LEAST_MOTION) & visible[:1]
        chosen = _some(np.flatnonzero(counted.any(axis=0)), self.points)
        true, counted = positions[:, chosen], counted[:, chosen]
        if not len(chosen):
            return np.zeros(0), np.zeros(0), np.zeros(0, bool)
        found = self.tracker.track(video, true[0])
        errors = end_point_error(found.positions, found.visible, true, counted)
        still = np.broadcast_to(true[:1], true.shape)
        return errors, end_point_error(still, counted, true, counted), ~found.visible[counted]

    def _draw(self, frames: np.ndarray, clip: int) -> np.ndarray:
        """The sheet's frames, from a whole video or already selected, with some tracks drawn on them."""
        frames = frames if len(frames) == len(self.numbers) else frames[self.numbers]
        positions, visible = (part[self.numbers] for part in self._tracks(clip))
        chosen = _some(np.flatnonzero(visible.any(axis=0)), DRAWN)
        scale = max(1, -(-LEGIBLE // min(frames.shape[1:3])))
        return draw_tracks(frames, positions[:, chosen], visible[:, chosen], scale=scale, trail=len(frames))


def _some(index: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` of the indices, evenly spaced."""
    return index[np.unique(np.linspace(0, len(index) - 1, min(most, len(index))).round().astype(int))]


def _figures(errors: np.ndarray, still: np.ndarray, lost: np.ndarray) -> dict[str, float]:
    """``epe_px``: mean end-point error in pixels of the points found, omitted if none was. ``epe_frozen_px``: the error
    of not moving at all. ``lost``: share of points that the tracker lost. Empty if no track moves."""
    if not len(still):
        return {}
    found = {"epe_px": float(errors.mean())} if len(errors) else {}
    return found | {"epe_frozen_px": float(still.mean()), "lost": float(lost.mean())}
