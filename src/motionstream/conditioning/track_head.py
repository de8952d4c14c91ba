"""The track head (paper, eq. 1 and section 3.1): tracks → channels that are concatenated to the noisy latents.

Each track draws a random id, whose sinusoidal embedding is written into the track's cell in every frame in which it is
visible and inside. If several tracks share a cell the last one wins, on every device. Time is then compressed 4×
(frame 0 alone, then groups of four, so chunk by chunk equals whole clip), followed by a 1×1×1 convolution.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.config import TrackHeadConfig


def embed_ids(ids: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding (…, dim) of integer ids, float32, each of unit mean square."""
    half = dim // 2
    # float64 on the CPU: large ids lose their phase in float32, and not every device has float64
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64) / half)
    angles = ids.cpu()[..., None].double() * frequencies
    return (torch.cat([angles.sin(), angles.cos()], dim=-1).float() * math.sqrt(2)).to(ids.device)


def track_cells(positions: Tensor, visible: Tensor, size: tuple[int, int], cell: int) -> Tensor:
    """Flat cell index (B, T, N) of each track, −1 where it is not visible, outside or NaN."""
    height, width = size
    x, y = positions.unbind(-1)
    inside = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)  # false for NaN
    shown = visible & inside
    x, y = (torch.where(shown, part, 0.0).clamp(min=0) for part in (x, y))
    cells = (y / cell).floor().long() * (width // cell) + (x / cell).floor().long()
    return torch.where(shown, cells, -1)


def track_map(
    positions: Tensor,
    visible: Tensor,
    embeddings: Tensor,
    *,
    size: tuple[int, int],
    cell: int,
    offsets: bool = False,
) -> Tensor:
    """Equation 1: the tracks' embeddings on the latent grid.

    Args:
        positions: (B, T, N, 2) pixels. visible: bool (B, T, N). embeddings: (B, N, dim), ``embed_ids`` of their ids.
        size: (height, width) in pixels. cell: pixels per cell, the autoencoder's spatial compression.
        offsets: append the track's position within its cell, x and y in −1..1. Not in the paper.

    Returns:
        float32 (B, dim or dim + 2, T, height / cell, width / cell); zero where no track is.
    """
    batch, frames, count, _ = positions.shape
    dim = embeddings.shape[-1]
    rows, columns = size[0] // cell, size[1] // cell
    cells = track_cells(positions, visible, size, cell)
    # one extra cell collects hidden tracks; amax does not depend on order, so it is deterministic on every device
    target = torch.where(cells < 0, rows * columns, cells)
    order = torch.arange(count, device=positions.device).expand(batch, frames, count)
    winner = torch.full((batch, frames, rows * columns + 1), -1, device=positions.device)
    winner = winner.scatter_reduce(2, target, order, reduce="amax")[..., :-1]
    embeddings = F.pad(embeddings, (0, 0, 0, 1))  # the last row, index −1, is "no track"
    index = torch.where(winner < 0, count, winner).flatten(1)
    grid = torch.gather(embeddings, 1, index[..., None].expand(-1, -1, dim))
    grid = grid.reshape(batch, frames, rows * columns, dim)
    if offsets:
        places = F.pad(positions, (0, 0, 0, 1)) / cell
        there = torch.gather(places, 2, torch.where(winner < 0, count, winner)[..., None].expand(-1, -1, -1, 2))
        inside = (2 * (there - there.floor()) - 1) * (winner >= 0)[..., None]
        grid = torch.cat([grid, inside], dim=-1)
    return grid.unflatten(2, (rows, columns)).permute(0, 4, 1, 2, 3)


def group_frames(x: Tensor, group: int, *, first: bool, mode: str = "zeros") -> Tensor:
    """Frames (B, C, T, …) → (B, C, T', group, …). With ``first``, frame 0 is alone at the end of its group.

    ``mode``: padding before it, "zeros" or "replicate".
    """
    if first:
        head = x[:, :, :1] if mode == "replicate" else torch.zeros_like(x[:, :, :1])
        x = torch.cat([head.expand(-1, -1, group - 1, *x.shape[3:]), x], dim=2)
    assert x.shape[2] % group == 0, f"{x.shape[2]} frames do not group by {group} (first={first})"
    return x.unflatten(2, (-1, group))


class TrackHead(nn.Module):
    """Temporal compression and a 1×1×1 convolution over the map of equation 1."""

    def __init__(self, config: TrackHeadConfig, *, spatial: int, temporal: int) -> None:
        super().__init__()
        self.config = config
        self.spatial = spatial
        self.temporal = temporal
        kernel = (temporal, 1, 1)
        self.compress = nn.Conv3d(config.map_channels, config.hidden_channels, kernel, stride=kernel)
        self.project = nn.Conv3d(config.hidden_channels, config.out_channels, 1)

    def forward(self, positions: Tensor, visible: Tensor, ids: Tensor, *, size: tuple[int, int], first: bool) -> Tensor:
        """Channels (B, out_channels, F, height / s, width / s).

        ``first``: the frames begin the stream: 1 + 4k of them, frame 0 being a latent frame of its own; otherwise 4k.
        Shapes of the others as in ``track_map``. N = 0 means "no motion specified". A track that is not visible is
        hidden if its position is finite, unspecified if it is NaN.
        """
        shown = [visible]
        if self.config.hidden_map:
            shown.append(~visible & positions.isfinite().all(dim=-1))
        embeddings = embed_ids(ids, self.config.id_dim)
        mapped = partial(track_map, size=size, cell=self.spatial, offsets=self.config.offsets)
        maps = [mapped(positions, which, embeddings) for which in shown]
        grid = torch.cat(maps, dim=1)
        grid = group_frames(grid, self.temporal, first=first).flatten(2, 3)
        return self.project(F.silu(self.compress(grid.to(self.compress.weight.dtype))))
