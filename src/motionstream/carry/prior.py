"""A Gaussian prior of the clean latents: its mean is the carried picture's latents, its deviation is predicted.

Legend: B batch, T frames, G grid places, C latent channels, F latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.conditioning.track_head import group_frames
from motionstream.config import CARRY_CANDIDATES, CARRY_FEATURES, CarryConfig


@dataclass(frozen=True)
class Prior:
    """Mean and standard deviation of the clean latents, both (B, C, F, h, w)."""

    mean: Tensor
    std: Tensor

    def detach(self) -> Prior:
        return Prior(self.mean.detach(), self.std.detach())

    def negative_log_likelihood(self, x0: Tensor) -> Tensor:
        """Per element, up to a constant; the prior's training loss."""
        return 0.5 * ((x0 - self.mean) / self.std) ** 2 + self.std.log()


class CarryPrior(nn.Module):
    """Predicts the carried candidate's standard deviation per cell and channel. Frame by frame, so without state."""

    def __init__(self, config: CarryConfig, latent_channels: int, *, spatial: int, temporal: int) -> None:
        super().__init__()
        self.config = config
        self.spatial = spatial
        self.temporal = temporal
        hidden, summary = config.hidden_channels, 16
        self.summary = nn.Conv2d(latent_channels, summary, 1)
        self.inlet = nn.Conv2d(CARRY_CANDIDATES * summary + 3 + CARRY_FEATURES, hidden, 3, padding=1)
        self.middle = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.spread = nn.Conv2d(hidden, latent_channels, 1)
        assert self.spread.bias is not None
        nn.init.zeros_(self.spread.weight)
        nn.init.constant_(self.spread.bias, -0.7)  # a deviation of one half before anything is learned

    def pool(self, features: Tensor, *, first: bool) -> Tensor:
        """Features (B, 8, T, G_h, G_w) on the look-up grid → (B, 8, F, h, w) on the latents'."""
        x = group_frames(features, self.temporal, first=first, mode="replicate").mean(dim=3)
        factor = self.spatial // self.config.grid
        return F.avg_pool3d(x, (1, factor, factor))

    def forward(self, candidates: Tensor, features: Tensor) -> Prior:
        """Encoded candidates (B, 3, C, F, h, w) and pooled features (B, 8, F, h, w) → the prior."""
        batch, _, _, frames, *_ = candidates.shape
        mean = candidates[:, self.config.carried]
        flat = candidates.transpose(2, 3).transpose(1, 2).flatten(0, 1)  # (B F, 3, C, h, w)
        near, far, static = flat.unbind(1)
        gaps = [(near - static), (far - static), (near - far)]
        inputs = [self.summary(x) for x in (near, far, static)]
        inputs += [gap.abs().mean(dim=1, keepdim=True) for gap in gaps]
        inputs.append(features.transpose(1, 2).flatten(0, 1))
        hidden = F.silu(self.inlet(torch.cat(inputs, dim=1)))
        hidden = F.silu(self.middle(hidden)) + hidden
        std = self.spread(hidden).clamp(-6, 1.5).exp() + self.config.min_std
        return Prior(mean, std.unflatten(0, (batch, frames)).transpose(1, 2))
