"""The content that a stream would carry for a prepared clip, chunk by chunk, with a ``CarryMemory``."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.carry.memory import CarryMemory
from motionstream.model.motion_model import CarriedLatents, MotionInput, MotionModel
from motionstream.tracks import Tracks


class StreamedContent:
    """The carried content of one clip, whose tracks are known in advance.

    ``picture``: the given one, (3, H, W) in [−1, 1]. ``positions`` (T, N, 2), NaN where there is no track. ``visible``
    (T, N). ``start`` (N, 2): positions in the frame before each track's first chunk. A track that returns after being
    masked begins anew where it returns, as in a stream.
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
        """The tracks of a chunk's frames with the source of their content; call in order. ``last`` (3, H, W): the
        carried frame before them; None for the first chunk."""
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
        ids = torch.zeros(1, len(rows), dtype=torch.long, device=device)  # only the track head uses ids
        return MotionInput(positions[None], visible[None], ids, size=self.size, first=last is None, source=source)

    @torch.no_grad()
    def carried(self, motion: MotionInput) -> CarriedLatents:
        """The content carried along the tracks of a chunk."""
        with torch.autocast(motion.positions.device.type, enabled=False):
            carried = self.model.encode_carried(motion, self.autoencoder)
        assert carried is not None
        return carried
