"""Copies latents along tracks from where the tracks began (``ModelConfig.latents_along_tracks``).

Not in the paper, whose random ids only mark cells as the same; their content must be found by attention, which a small
model is very slow to learn (docs/log.md). Wan-Move (arXiv 2512.08765) copies the picture's latents along trajectories
instead of ids; here a track carries both. A track from the start carries the given picture's latents, a later one those
of the last latent frame before its chunk, which the stream generated itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from motionstream.conditioning.track_head import group_frames, track_map
from motionstream.tracks import Tracks


def latents_at(latents: Tensor, places: Tensor, cell: int) -> Tensor:
    """Sample latents (B, C, h, w) bilinearly at pixels (B, N, 2), clamped to the border: (B, N, C). Zero for NaN.
    ``cell``: pixels per cell."""
    sides = cell * torch.tensor([latents.shape[3], latents.shape[2]], device=places.device)
    grid = (2 * places + 1) / sides - 1
    known = grid.isfinite().all(dim=-1)
    grid = torch.where(known[..., None], grid, 0.0)
    found = F.grid_sample(latents.float(), grid[:, None].float(), padding_mode="border", align_corners=False)
    return found[:, :, 0].transpose(1, 2) * known[..., None]


def content_map(
    positions: Tensor,
    visible: Tensor,
    content: Tensor,
    *,
    size: tuple[int, int],
    cell: int,
    group: int,
    first: bool,
) -> Tensor:
    """The tracks' ``content`` (B, N, C) in the cells where they are visible, averaged over those frames of a latent
    frame in which the cell has a track: float32 (B, C, F, h, w), zero without one.

    ``positions``, ``visible``, ``size``, ``cell``: see ``track_map``; ``group``: frames per latent frame; ``first``:
    see ``TrackHead``.
    """
    told = torch.cat([content.float(), torch.ones_like(content[..., :1])], dim=-1)
    maps = track_map(positions, visible, told, size=size, cell=cell)
    summed = group_frames(maps, group, first=first).sum(dim=3)
    return summed[:, :-1] / summed[:, -1:].clamp(min=1)


class TrackContent:
    """Remembers the content that each track of one stream carries.

    ``latent``: (1, C, h, w), the given picture's. After every chunk, set ``last`` to its last latent frame.
    """

    def __init__(self, latent: Tensor, cell: int) -> None:
        self.last, self._cell = latent, cell
        self._known: dict[int, Tensor] = {}

    def of(self, tracks: Tracks) -> Tensor:
        """The content (1, N, C) of a chunk's tracks. Call once per chunk, in order."""
        ids = tracks.ids.tolist()
        self._known = {track: content for track, content in self._known.items() if track in ids}
        new = [row for row, track in enumerate(ids) if track not in self._known and tracks.visible[:, row].any()]
        places = torch.from_numpy(tracks.beginnings()[new].astype(np.float32)).to(self.last.device)
        found = latents_at(self.last, places[None], self._cell)[0]
        self._known |= {ids[row]: content for row, content in zip(new, found, strict=True)}
        nothing = self.last.new_zeros(self.last.shape[1], dtype=torch.float32)
        rows = [self._known.get(track, nothing) for track in ids]
        return torch.stack(rows)[None] if rows else nothing[None, None][:, :0]
