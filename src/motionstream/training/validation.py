"""What validation shows of made latents: pictures beside the true ones, and how far points end from their tracks.

Both need a decoder. Axes: B clips, T frames, M tracks; pixels are (x, y), (0, 0) the centre of the top-left one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from motionstream.autoencoder.base import StreamingAutoencoder
from motionstream.media import contact_sheet, draw_tracks
from motionstream.metrics import end_point_error, moved_frames
from motionstream.scene import to_pictures
from motionstream.tracks.template import TemplateTracker
from motionstream.tracks.tracker import Tracker
from motionstream.training.clips import PreparedClips

LEAST_MOTION = 4.0
"""Pixels from its start at which a point counts as moved, as in ``motionstream evaluate rendered``."""
DRAWN = 16
"""Tracks drawn on a clip at most: dots must not hide what is under them."""
LEGIBLE = 128
"""Pixels a side below which the frames of a sheet are enlarged."""


class ClipView:
    """Held-out clips to look at and to follow points in; made once a stage, asked at every validation.

    Args:
        decoder: of ``clips``' latents; any autoencoder that streams.
        points: of moving tracks followed in a clip at most, evenly chosen among those seen in frame 0: tracks that
            begin later have no place in the given picture to start from.
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
        """The frames shown."""
        self.sheet: np.ndarray | None = None
        """Of the last look."""
        self._true: list[np.ndarray] = []

    def look(self, made: Tensor) -> tuple[dict[str, float], np.ndarray]:
        """Figures and the sheet of ``made`` (B, C, F, h, w), the clips' latents as a model makes them.

        Figures: ``epe_px``, ``epe_frozen_px``, ``lost``, see ``_figures``.
        Row by row: a clip as made, some of its tracks drawn on, and below as it should be; uint8 (H, W, 3).
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
        """The last look's sheet, as a stage hands it to the loop."""
        return {} if self.sheet is None else {"made": self.sheet}

    @torch.no_grad()
    def _decode(self, latents: Tensor, clip: int) -> np.ndarray:
        """One clip, uint8 (T, H, W, 3)."""
        with torch.autocast(latents.device.type, enabled=False):  # as streams decode, whatever the stage trains in
            return to_pictures(self.decoder.decode(latents[clip : clip + 1].float())[0])

    def _tracks(self, clip: int) -> tuple[np.ndarray, np.ndarray]:
        """positions (T, M, 2), zeros where nothing is known, and visible (T, M)."""
        visible = self.clips.visible[clip].cpu().numpy()
        return np.nan_to_num(self.clips.positions[clip].float().cpu().numpy()), visible

    def _follow(self, video: np.ndarray, clip: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Errors of the points found, and for every point and frame that counts: the error of standing still, and
        whether the tracker has lost it."""
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
        """The frames shown, of a whole video or those alone, with some tracks drawn on."""
        frames = frames if len(frames) == len(self.numbers) else frames[self.numbers]
        positions, visible = (part[self.numbers] for part in self._tracks(clip))
        chosen = _some(np.flatnonzero(visible.any(axis=0)), DRAWN)
        scale = max(1, -(-LEGIBLE // min(frames.shape[1:3])))
        return draw_tracks(frames, positions[:, chosen], visible[:, chosen], scale=scale, trail=len(frames))


def _some(index: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, evenly chosen."""
    return index[np.unique(np.linspace(0, len(index) - 1, min(most, len(index))).round().astype(int))]


def _figures(errors: np.ndarray, still: np.ndarray, lost: np.ndarray) -> dict[str, float]:
    """``epe_px``, mean end-point error in pixels of the points found, left out where none was; ``epe_frozen_px``, what
    not moving at all scores; ``lost``, the share that the tracker lost. Nothing where no track moves."""
    if not len(still):
        return {}
    found = {"epe_px": float(errors.mean())} if len(errors) else {}
    return found | {"epe_frozen_px": float(still.mean()), "lost": float(lost.mean())}
