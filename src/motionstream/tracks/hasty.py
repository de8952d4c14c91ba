"""Augments clean training tracks with the flaws of hasty input, so that clumsy drags are followed, too.

Only the conditioning tracks change, not the video. The paper suggests such an augmentation (limitations); ending tracks
early is ATI's tail dropout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class HastyConfig:
    """Strength of each flaw."""

    jitter: float = 0.0
    """Standard deviation in pixels of a tremble shared by all tracks of a clip, as by the points under one pointer."""
    hold: float = 0.0
    """Probability per clip that the tracks stop for a while and catch up in a burst, as with late pointer events."""
    longest_hold: int = 8
    """Longest hold in frames; the burst after it takes as long."""
    tail_dropout: float = 0.0
    """Probability per track that it ends before the clip does."""

    def __post_init__(self) -> None:
        if not 0 <= self.jitter <= 32:
            raise ValueError(f"jitter = {self.jitter}: must lie in 0..32 pixels")
        for name in ("hold", "tail_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must lie in 0..1")
        if self.longest_hold < 1:
            raise ValueError(f"longest_hold = {self.longest_hold}: must be at least 1 frame")


def make_hasty(
    positions: Tensor, visible: Tensor, config: HastyConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Augment one clip's tracks, positions (T, N, 2) and visible (T, N).

    Positions in frame 0 and in the frame where a track begins never change, since its content is taken from there.
    """
    frames, count = visible.shape
    if frames < 3 or count == 0:
        return positions, visible
    begins = visible & (visible.cumsum(dim=0) == 1)
    if torch.rand((), generator=generator).item() < config.hold:
        told = _told(frames, config.longest_hold, generator).to(positions.device)
        late = told < torch.arange(frames, device=positions.device)
        spared = (begins & late[:, None]).any(dim=0)  # tracks that begin meanwhile
        positions = torch.where(spared[:, None], positions, positions[told])
    if config.jitter > 0:
        tremble = config.jitter * _tremble(frames, generator).to(positions.device)
        positions = torch.where(begins[..., None], positions, positions + tremble[:, None])
    if config.tail_dropout > 0:
        ends = torch.randint(1, frames, (count,), generator=generator)
        stays = torch.rand(count, generator=generator) >= config.tail_dropout
        until = torch.where(stays, frames, ends).to(visible.device)
        there = torch.arange(frames, device=visible.device)[:, None] < until
        visible, positions = visible & there, positions.masked_fill(~there[..., None], torch.nan)
    return positions, visible


def _told(frames: int, longest: int, generator: torch.Generator) -> Tensor:
    """The frame whose positions are given at each frame (T,): one hold, followed by a burst at twice the speed."""
    length = int(torch.randint(1, min(longest, frames - 1) + 1, (), generator=generator))
    start = int(torch.randint(0, frames - length, (), generator=generator))
    now = torch.arange(frames)
    burst = start + 2 * (now - start - length)
    return torch.minimum(now, burst.clamp(min=start))


def _tremble(frames: int, generator: torch.Generator) -> Tensor:
    """Smooth noise (T, 2) of unit standard deviation, zero in frame 0: white noise averaged over five frames."""
    white = torch.randn(2, 1, frames + 4, generator=generator)
    smooth = F.conv1d(white, torch.full((1, 1, 5), 5**-0.5))[:, 0].T
    return torch.cat([torch.zeros(1, 2), smooth[1:]])
