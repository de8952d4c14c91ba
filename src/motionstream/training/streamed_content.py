"""The content that a stream would carry for prepared clips, chunk by chunk: a ``CarryMemory`` for each clip."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.carry.memory import CarryMemory
from motionstream.model.motion_model import CarriedLatents, MotionInput, MotionModel
from motionstream.tracks import Tracks


class StreamedContent:
    """Of one clip, whose tracks are known beforehand.

    ``picture``: (3, H, W) in [−1, 1], the given one. ``positions`` (T, N, 2), NaN where there is no track, ``visible``
    (T, N), and ``start`` (N, 2) where each began in the frame before its first chunk. One that is back behind a mask
    begins anew where it is then, as in a stream.
    """

    def __init__(
        self,
        model: MotionModel,
        autoencoder: LinearAutoencoder,
        picture: Tensor,
        positions: Tensor,
        visible: Tensor,
        start: Tensor,
    ) -> None:
        self.model, self.autoencoder = model, autoencoder
        self.positions, self.visible, self.start = positions, visible, start
        self._first = positions.isfinite().all(dim=-1).int().argmax(dim=0).cpu().numpy()
        self.size = picture.shape[1], picture.shape[2]
        see = None if model.pixel_mixer is None else model.pixel_mixer.see
        self._memory = CarryMemory(picture[None], see, draw=model.draw)

    def motion(self, frames: slice, last: Tensor | None = None) -> MotionInput:
        """The tracks of some frames, a chunk, with where their content comes from; asked for in order. ``last``
        (3, H, W): what was carried to the frame before them, None for those that begin the clip."""
        if last is not None:
            self._memory.last = last[None]
        positions, visible, device = self.positions[frames], self.visible[frames], self.positions.device
        rows = positions.isfinite().all(dim=-1).any(dim=0).nonzero()[:, 0]
        positions, visible = positions[:, rows], visible[:, rows]
        tracks = Tracks(positions.cpu().numpy(), visible.cpu().numpy(), self.size, ids=np.asarray(rows.cpu()))
        born = self._first[tracks.ids, None] >= frames.start
        begun_at = np.where(born, self.start[rows].cpu().numpy(), tracks.beginnings())
        with torch.no_grad():
            source = self._memory.source(tracks, device, begun_at)
        ids = torch.zeros(1, len(rows), dtype=torch.long, device=device)  # of the track head, which is not asked
        return MotionInput(positions[None], visible[None], ids, size=self.size, first=last is None, source=source)

    @torch.no_grad()
    def carried(self, motion: MotionInput) -> CarriedLatents:
        """What is carried along the tracks of a chunk."""
        with torch.autocast(motion.positions.device.type, enabled=False):
            carried = self.model.encode_carried(motion, self.autoencoder)
        assert carried is not None
        return carried
