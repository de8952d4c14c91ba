"""What tracks bring along beside their ids (``ModelConfig.latents_along_tracks``): the latents from where they began.

Not in the paper, whose ids say only that this cell and that one are the same; what is there has to be found by
attention, which takes a small model very long to learn (docs/log.md). Wan-Move (arXiv 2512.08765) copies the
picture's latents along trajectories in place of ids; here a track has both. One that is there from the start brings the
given picture's latents, a later one those of the last latent frame before its chunk, which a stream has made itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from motionstream.conditioning.track_head import group_frames, track_map
from motionstream.tracks import Tracks


def latents_at(latents: Tensor, places: Tensor, cell: int) -> Tensor:
    """Latents (B, C, h, w) at pixels (B, N, 2), between cells by distance; beyond the border, the border's: (B, N, C).
    Zero where a place is not a number. ``cell``: pixels per cell."""
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
    """The tracks' ``content`` (B, N, C) in the cells where they are seen, mean of the frames of a latent frame in which
    one is: float32 (B, C, F, h, w), zero where none is.

    ``positions``, ``visible``, ``size``, ``cell`` as of ``track_map``; ``group``: frames of a latent frame; ``first``
    as of ``TrackHead``.
    """
    told = torch.cat([content.float(), torch.ones_like(content[..., :1])], dim=-1)
    maps = track_map(positions, visible, told, size=size, cell=cell)
    summed = group_frames(maps, group, first=first).sum(dim=3)
    return summed[:, :-1] / summed[:, -1:].clamp(min=1)


class TrackContent:
    """Of one stream: remembers what each of its tracks brought along.

    ``latent``: (1, C, h, w), the given picture's. ``last`` is set to the last latent frame whenever a chunk is made.
    """

    def __init__(self, latent: Tensor, cell: int) -> None:
        self.last, self._cell = latent, cell
        self._known: dict[int, Tensor] = {}

    def of(self, tracks: Tracks) -> Tensor:
        """Of a chunk's tracks, (1, N, C); asked for in order."""
        ids = tracks.ids.tolist()
        self._known = {track: content for track, content in self._known.items() if track in ids}
        new = [row for row, track in enumerate(ids) if track not in self._known and tracks.visible[:, row].any()]
        places = torch.from_numpy(tracks.beginnings()[new].astype(np.float32)).to(self.last.device)
        found = latents_at(self.last, places[None], self._cell)[0]
        self._known |= {ids[row]: content for row, content in zip(new, found, strict=True)}
        nothing = self.last.new_zeros(self.last.shape[1], dtype=torch.float32)
        rows = [self._known.get(track, nothing) for track in ids]
        return torch.stack(rows)[None] if rows else nothing[None, None][:, :0]
