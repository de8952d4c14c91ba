"""Small models' autoencoder: principal components of blocks of pixels × 4 frames, refined by a small residual decoder.

A linear code is cheap to fit and to run, so carried content can be encoded at every chunk. The first frame of a stream
is coded as four copies of itself, so that a still picture has the same latent in every latent frame.

Legend: p pixels per side of a block (8 in ``nano``, 4 in ``nano-ids``), V = 12 p² values of a block, C latent channels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.component_config import LinearAutoencoderConfig
from motionstream.residual import ResidualBlock

GROUP = 4


def cosine_basis(count: int, patch: int) -> Tensor:
    """The ``count`` smoothest cosines of a block, orthonormal rows (count, V): the basis before ``fit``."""

    def cosines(size: int) -> Tensor:
        n = torch.arange(size, dtype=torch.float64)
        rows = torch.cos(torch.pi / size * (n + 0.5) * n[:, None])
        return rows / rows.norm(dim=1, keepdim=True)

    grey = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]], dtype=torch.float64)
    colour = grey / grey.norm(dim=1, keepdim=True)
    whole = torch.einsum("ac,bg,dp,eq->abdecgpq", colour, cosines(GROUP), cosines(patch), cosines(patch))
    a, b, d, e = torch.meshgrid(*(torch.arange(n) for n in (3, GROUP, patch, patch)), indexing="ij")
    roughness = 3.0 * (a > 0) + 3.0 * b + d + e
    order = roughness.flatten().argsort(stable=True)[:count]
    return whole.reshape(roughness.numel(), -1)[order].float()


class EncoderState(NamedTuple):
    """Marks that the stream has begun; a linear code needs no other state."""


class DecoderState(NamedTuple):
    """The last latent frame of the previous chunk."""

    latent: Tensor


def to_blocks(video: Tensor, patch: int, *, first: bool) -> Tensor:
    """Video (B, 3, T, H, W) → (B, V, F, H/p, W/p): one column per block of ``patch``² pixels × 4 frames. Any other
    number of channels will do as well."""
    if first:
        video = torch.cat([video[:, :, :1].expand(-1, -1, GROUP - 1, -1, -1), video], dim=2)
    if video.shape[2] % GROUP:
        frames = video.shape[2] - (GROUP - 1) * first
        rule = "1 + 4k frames begin a stream" if first else "4k frames go on with one"
        raise ValueError(f"{frames} frames cannot be encoded: {rule}")
    x = video.unflatten(4, (-1, patch)).unflatten(3, (-1, patch)).unflatten(2, (-1, GROUP))
    # B c F g H p W q → B (c g p q) F H W
    return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)


def from_blocks(blocks: Tensor, channels: int = 3) -> Tensor:
    """The inverse of ``to_blocks``, with padding kept: (B, V, F, h, w) → (B, channels, 4F, p h, p w)."""
    patch = math.isqrt(blocks.shape[1] // (channels * GROUP))
    x = blocks.unflatten(1, (channels, GROUP, patch, patch)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


class LinearAutoencoder(nn.Module):
    """A linear code and a residual decoder over the current and the previous latent frame.

    ``basis`` (C, V) has orthonormal rows, ``mean`` (V,), ``scale`` (C,) the divisor of each latent.
    """

    basis: Tensor
    mean: Tensor
    scale: Tensor

    def __init__(self, config: LinearAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_channels = config.latent_channels
        self.register_buffer("basis", cosine_basis(config.latent_channels, config.patch))
        self.register_buffer("mean", torch.zeros(config.block_values))
        self.register_buffer("scale", torch.ones(config.latent_channels))
        channels = config.decoder_channels
        self.inlet = nn.Conv2d(2 * config.latent_channels, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(channels) for _ in range(config.decoder_blocks)))
        self.outlet = nn.Conv2d(channels, config.block_values, 1)
        # before training, the decoder equals the linear one
        nn.init.zeros_(self.outlet.weight)
        assert self.outlet.bias is not None
        nn.init.zeros_(self.outlet.bias)

    @torch.no_grad()
    def fit(self, blocks: Tensor) -> float:
        """Set the basis to the principal components of ``blocks`` (samples, V); returns the variance kept, 0..1."""
        mean = blocks.mean(dim=0)
        centred = (blocks - mean).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(blocks))
        values, vectors = values.flip(0), vectors.flip(1)
        kept = self.latent_channels
        scale = values[:kept].clamp(min=1e-8) ** self.config.scale_exponent
        # one common factor makes the latents' mean square 1, whatever the exponent
        scale = scale * (values[:kept] / scale**2).mean().sqrt()
        self.basis.copy_(vectors[:, :kept].T)
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        return float(values[:kept].sum() / values.sum())

    def blocks_of(self, video: Tensor, *, first: bool) -> Tensor:
        """A video's blocks, see ``to_blocks``."""
        return to_blocks(video, self.config.patch, first=first)

    def encode(self, video: Tensor, state: EncoderState | None = None) -> tuple[Tensor, EncoderState]:
        """Video (B, 3, T, H, W) in [−1, 1] → latents (B, C, F, H/p, W/p) and the state for the next call."""
        return self.encode_part(video, first=state is None), EncoderState()

    def encode_part(self, video: Tensor, *, first: bool) -> Tensor:
        """Latents of any part of a stream; needs no state, so carried content can be encoded at every chunk."""
        blocks = self.blocks_of(video, first=first)
        weight = self.basis / self.scale[:, None]
        bias = weight @ self.mean
        return F.conv3d(blocks, weight[:, :, None, None, None], -bias)

    def decode_linear(self, latents: Tensor) -> Tensor:
        """Decode by the linear code alone: (B, C, F, h, w) → blocks (B, V, F, h, w)."""
        weight = (self.basis * self.scale[:, None]).T
        return F.conv3d(latents, weight[:, :, None, None, None], self.mean)

    def lost(self, video: Tensor, latents: Tensor, *, first: bool) -> Tensor:
        """A video (B, 3, T, H, W) minus the linear decoding of its ``latents``: blocks (B, V, F, h, w)."""
        return self.blocks_of(video, first=first) - self.decode_linear(latents)

    def decode(self, latents: Tensor, state: DecoderState | None = None) -> tuple[Tensor, DecoderState]:
        """Latents (B, C, F, h, w) → video (B, 3, T, p h, p w) in [−1, 1] and the state for the next chunk.

        Without a state the latents begin the stream and T = 4F − 3; with one, T = 4F. Models that carry content decode
        around the carried picture instead, see ``carry/showing.py``.
        """
        previous = latents[:, :, :1] if state is None else state.latent
        before = torch.cat([previous, latents[:, :, :-1]], dim=2)
        pair = torch.cat([latents, before], dim=1).transpose(1, 2).flatten(0, 1)
        hidden = self.blocks(self.inlet(pair))
        residual = self.outlet(F.silu(hidden)).unflatten(0, (latents.shape[0], -1)).transpose(1, 2)
        video = from_blocks(self.decode_linear(latents) + residual).clamp(-1, 1)
        return (video if state is not None else video[:, :, GROUP - 1 :]), DecoderState(latents[:, :, -1:])
