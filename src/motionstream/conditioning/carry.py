"""Picture content carried along the tracks (``carry_content``): what a small model need not invent.

Three candidate pictures are made for every frame to come: the source moved by the *nearest* visible track, by the
nearest track that moves *otherwise*, and the source left where it is (*static*). They are encoded; a small network
mixes them per cell into a mean and says how far it may be off (a standard deviation). The transformer sees all of it
as further channels and predicts around the mean, see ``model/motion_model.py``.

Content is taken from where and when a track begins: the given picture for tracks that start with the stream, the last
generated frame for a drag that starts later. Legend: B batch, K sources, T frames, N tracks, G grid places, s cell.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.conditioning.track_head import group_frames
from motionstream.config import CARRY_CANDIDATES, CARRY_FEATURES, CarryConfig

FAR = 1e6


@dataclass(frozen=True)
class CarrySource:
    """Where content comes from.

    ``pictures`` (B, K, 3, H, W) in [−1, 1]; ``index`` (B, N) the picture each track begins in; ``start`` (B, N, 2)
    its place there in pixels; ``static`` (B, T) the picture that unspecified content is left in, frame by frame.
    """

    pictures: Tensor
    index: Tensor
    start: Tensor
    static: Tensor


@dataclass(frozen=True)
class Carried:
    """``candidates`` (B, 3, 3, T, H, W): candidate, colour; ``features`` (B, 8, T, G_h, G_w) on the look-up grid."""

    candidates: Tensor
    features: Tensor


@dataclass(frozen=True)
class Prior:
    """A Gaussian guess of the clean latents, both (B, C, F, h, w)."""

    mean: Tensor
    std: Tensor

    def detach(self) -> Prior:
        return Prior(self.mean.detach(), self.std.detach())

    def negative_log_likelihood(self, x0: Tensor) -> Tensor:
        """Per element, up to a constant; what the prior is trained by."""
        return 0.5 * ((x0 - self.mean) / self.std) ** 2 + self.std.log()


def _grid_places(size: tuple[int, int], grid: int, device: torch.device) -> Tensor:
    """Centres (G, 2) of the look-up cells in pixels, x and y."""
    y = torch.arange(size[0] // grid, device=device) * grid + (grid - 1) / 2
    x = torch.arange(size[1] // grid, device=device) * grid + (grid - 1) / 2
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1)


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """values (B, T, N, …) at index (B, T, G) → (B, T, G, …)."""
    shape = index.shape + values.shape[3:]
    return values.gather(2, index.reshape(index.shape + (1,) * (values.ndim - 3)).expand(shape))


@torch.no_grad()
def carry(positions: Tensor, visible: Tensor, source: CarrySource, *, grid: int = 4) -> Carried:
    """Move the source pictures along the tracks.

    Args:
        positions: (B, T, N, 2) pixels. visible: bool (B, T, N). N = 0, or nothing visible, carries nothing: every
            candidate is the static one.
        source: where content comes from. grid: pixels between look-up places.
    """
    batch, frames, count, _ = positions.shape
    height, width = source.pictures.shape[-2:]
    places = _grid_places((height, width), grid, positions.device)
    shape = (batch, frames, len(places))
    static = source.static[:, :, None].expand(shape)
    still = torch.zeros(*shape, 2, device=positions.device)
    near, far = (still, static, torch.full(shape, FAR, device=positions.device)), None
    if count:
        near, far = _nearest_tracks(positions, visible, source, places, static)
    far = far or near
    maps = [near, far, (still, static, None)]
    candidates = torch.stack([_warp(source.pictures, move, index, grid) for move, index, _ in maps], dim=1)
    features = torch.cat([_describe(near[0], near[2]), _describe(far[0], far[2])], dim=-1)
    features = features.transpose(2, 3).transpose(1, 2).unflatten(3, (height // grid, width // grid))
    return Carried(candidates, features)


Chosen = tuple[Tensor, Tensor, Tensor]
"""Per look-up place: displacement (B, T, G, 2), source index (B, T, G), distance in pixels (B, T, G)."""


def _nearest_tracks(
    positions: Tensor, visible: Tensor, source: CarrySource, places: Tensor, static: Tensor
) -> tuple[Chosen, Chosen]:
    """The nearest visible track of every place, and the nearest one that moves otherwise."""
    clean = torch.where(visible[..., None], positions, 0.0)
    moves = torch.where(visible[..., None], positions - source.start[:, None], 0.0)
    index = source.index[:, None].expand(visible.shape)
    square = (places**2).sum(-1)[:, None] + (clean**2).sum(-1)[:, :, None] - 2 * places @ clean.transpose(-1, -2)
    square = torch.where(visible[:, :, None], square.clamp(min=0), FAR**2)

    def choose(square: Tensor) -> Chosen:
        distance, best = square.min(dim=-1)
        found = distance < FAR**2
        move = torch.where(found[..., None], _pick(moves, best), 0.0)
        return move, torch.where(found, _pick(index, best), static), distance.sqrt()

    near = choose(square)
    # "otherwise" means by more than a pixel: |m_n − m|² expanded, so that no (G, N, 2) tensor is made
    differ = (near[0] ** 2).sum(-1, keepdim=True) + (moves**2).sum(-1)[:, :, None] - 2 * near[0] @ moves.mT
    return near, choose(torch.where(differ > 1, square, FAR**2))


def _describe(move: Tensor, distance: Tensor) -> Tensor:
    """Features (B, T, G, 4) of a chosen track: closeness at two scales, displacement."""
    near = torch.stack([torch.exp(-distance / 8), torch.exp(-distance / 32)], dim=-1)
    return torch.cat([near, move / 16], dim=-1)


def _warp(pictures: Tensor, move: Tensor, index: Tensor, grid: int) -> Tensor:
    """Sample the sources at x − move: (B, K, 3, H, W) → (B, 3, T, H, W). Sources are stacked into one tall picture."""
    batch, sources, _, height, width = pictures.shape
    frames = move.shape[1]
    tall = pictures.transpose(1, 2).reshape(batch, 3, sources * height, width)

    def to_pixels(x: Tensor) -> Tensor:
        x = x.unflatten(2, (height // grid, width // grid))
        return x.repeat_interleave(grid, dim=2).repeat_interleave(grid, dim=3)

    offset = to_pixels(move)
    x = torch.arange(width, device=move.device) - offset[..., 0]
    y = torch.arange(height, device=move.device)[:, None] - offset[..., 1]
    x = x.clamp(0, width - 1)
    y = y.clamp(0, height - 1) + to_pixels(index) * height
    where = torch.stack([2 * (x + 0.5) / width - 1, 2 * (y + 0.5) / (sources * height) - 1], dim=-1)
    sampled = F.grid_sample(
        tall, where.reshape(batch, frames * height, width, 2), padding_mode="border", align_corners=False
    )
    return sampled.unflatten(2, (frames, height))


class CarryPrior(nn.Module):
    """Mixes the encoded candidates per cell and says how sure it is. Works frame by frame: nothing to remember."""

    def __init__(self, config: CarryConfig, latent_channels: int, *, spatial: int, temporal: int) -> None:
        super().__init__()
        self.config = config
        self.spatial = spatial
        self.temporal = temporal
        hidden, summary = config.hidden_channels, 16
        self.summary = nn.Conv2d(latent_channels, summary, 1)
        self.inlet = nn.Conv2d(CARRY_CANDIDATES * summary + 3 + CARRY_FEATURES, hidden, 3, padding=1)
        self.middle = nn.Conv2d(hidden, hidden, 3, padding=1)
        self.mix = nn.Conv2d(hidden, CARRY_CANDIDATES, 3, padding=1)
        self.spread = nn.Conv2d(hidden, latent_channels, 1)
        assert self.mix.bias is not None and self.spread.bias is not None
        nn.init.zeros_(self.mix.weight)
        nn.init.zeros_(self.mix.bias)
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
        flat = candidates.transpose(2, 3).transpose(1, 2).flatten(0, 1)  # (B F, 3, C, h, w)
        near, far, static = flat.unbind(1)
        gaps = [(near - static), (far - static), (near - far)]
        inputs = [self.summary(x) for x in (near, far, static)]
        inputs += [gap.abs().mean(dim=1, keepdim=True) for gap in gaps]
        inputs.append(features.transpose(1, 2).flatten(0, 1))
        hidden = F.silu(self.inlet(torch.cat(inputs, dim=1)))
        hidden = F.silu(self.middle(hidden)) + hidden
        weights = self.mix(hidden).softmax(dim=1)
        mean = (weights[:, :, None] * flat).sum(dim=1)
        std = self.spread(hidden).clamp(-6, 1.5).exp() + self.config.min_std
        shape = (batch, frames)
        return Prior(mean.unflatten(0, shape).transpose(1, 2), std.unflatten(0, shape).transpose(1, 2))
