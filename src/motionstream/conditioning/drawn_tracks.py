"""Tracks drawn as coloured marks and encoded like a video: the paper's baseline for its track head (table 3).

Used only by measurements: ``benchmarks/ablations.py`` trains it, ``benchmarks/track_encoding.py`` times it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.conditioning.track_head import TrackHead, track_map

SQUARE = 4
"""Side of a mark in pixels."""


def draw_tracks(positions: Tensor, visible: Tensor, ids: Tensor, size: tuple[int, int]) -> Tensor:
    """A video (B, 3, T, H, W) in [−1, 1] with a square for each track, in its own colour, on black.

    ``positions``: (B, T, N, 2) in pixels. ``visible``: (B, T, N). ``ids``: (B, N), which determine the colours.
    """
    steps = torch.tensor([0.8191725134, 0.6710436067, 0.5497004779], dtype=torch.float64)
    colours = 1.5 * (ids.cpu()[..., None] * steps).frac().float().to(ids.device) - 0.5  # evenly spread, none black
    marked = torch.cat([colours, torch.ones_like(colours[..., :1])], dim=-1)
    small = track_map(positions, visible, marked, size=size, cell=SQUARE)
    drawn = small[:, :3] - (1 - small[:, 3:])
    return drawn.repeat_interleave(SQUARE, dim=3).repeat_interleave(SQUARE, dim=4)


class DrawnTracks(TrackHead):
    """A replacement for ``head``: drawn tracks, encoded by a frozen autoencoder, and a 1×1×1 convolution. Only for the
    linear autoencoder, which has no state between chunks."""

    def __init__(self, head: TrackHead, autoencoder: LinearAutoencoder) -> None:
        super().__init__(head.config, spatial=head.spatial, temporal=head.temporal)
        self.autoencoder = autoencoder.requires_grad_(False)
        self.compress = None  # type: ignore[assignment]  # the autoencoder compresses
        self.project = nn.Conv3d(autoencoder.latent_channels, head.config.out_channels, 1)

    def forward(self, positions: Tensor, visible: Tensor, ids: Tensor, *, size: tuple[int, int], first: bool) -> Tensor:
        """See ``TrackHead``."""
        latents = self.autoencoder.encode_part(draw_tracks(positions, visible, ids, size), first=first)
        return self.project(latents.to(self.project.weight.dtype))
