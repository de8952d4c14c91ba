"""Wan's autoencoders, 2.1 and 2.2, for streams: diffusers' ``AutoencoderKLWan`` with its feature caches held outside.

A causal convolution needs the last two frames of its input. diffusers keeps them inside the module and drops them at
the end of every call; here they are passed in and returned, so that endless streams can share one set of weights.
Latent frames are processed one at a time, so chunks of any length give exactly the whole clip's result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify, unpatchify
from torch import Tensor, nn

from motionstream.autoencoder.tiling import TileGrid
from motionstream.autoencoder.wan_checkpoint import (
    check_config,
    check_state,
    diffusers_arguments,
    read_config,
)
from motionstream.checkpoint_files import read_state
from motionstream.component_config import WanAutoencoderConfig

Cache = tuple[Tensor | str | None, ...]
"""One entry per causal convolution: its last inputs, or diffusers' mark "Rep" after the first frame."""


@dataclass(frozen=True, eq=False)
class WanState:
    """The encoder's or decoder's state of a stream. Immutable: every call returns a new one.

    ``frame``: batch, height and width in latent cells. ``caches``: one per tile of ``grid``.
    """

    part: Literal["encoder", "decoder"]
    frame: tuple[int, int, int]
    grid: TileGrid
    caches: tuple[Cache, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes; it does not grow with the stream."""
        return sum(x.nbytes for cache in self.caches for x in cache if isinstance(x, Tensor))


class WanAutoencoder(nn.Module):
    """Streaming ``AutoencoderKLWan``. Latents are normalised here and nowhere else, always in float32.

    ``tile`` and ``tile_overlap`` (latent cells) may be set at any time and take effect with the next stream. The result
    has the input's dtype. Gradients flow to the call's input, not into the state.
    """

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, config: WanAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_channels = config.latent_channels
        self.tile = config.tile
        self.tile_overlap = config.tile_overlap
        self.vae = AutoencoderKLWan(**diffusers_arguments(config))
        # on the CPU even if the weights are built on the meta device
        for name in ("latents_mean", "latents_std"):
            self.register_buffer(name, self._column(name, torch.device("cpu")), persistent=False)

    def _column(self, name: str, device: torch.device) -> Tensor:
        return torch.tensor(getattr(self.config, name), dtype=torch.float32, device=device)[:, None, None, None]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WanAutoencoder:
        super()._apply(fn, recurse)
        for name in ("latents_mean", "latents_std"):  # restore float32 after .to(bfloat16)
            setattr(self, name, self._column(name, getattr(self, name).device))
        return self

    @classmethod
    def from_config(cls, config: WanAutoencoderConfig) -> WanAutoencoder:
        """Random weights."""
        return cls(config)

    @classmethod
    def from_state(
        cls,
        state: Mapping[str, Tensor],
        config: WanAutoencoderConfig,
        *,
        source: str = "the state",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> WanAutoencoder:
        """From weights under diffusers' names; ``wan_checkpoint.from_official`` converts official weights to them.

        Args:
            source: name of the weights in error messages.

        Raises:
            ValueError: names or shapes differ.
        """
        with torch.device("meta"):
            model = cls(config)
        check_state(state, model.vae.state_dict(), source)
        weights = {name: value.to(device, dtype) for name, value in state.items()}
        model.vae.load_state_dict(weights, assign=True)
        return model.to(device).eval()

    @classmethod
    def load(
        cls,
        folder: str | Path,
        config: WanAutoencoderConfig | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> WanAutoencoder:
        """Load diffusers' ``vae/`` folder: ``config.json`` and safetensors.

        Args:
            config: the required config; None takes the folder's.

        Raises:
            ValueError: files are missing, pickled or damaged; settings or weights differ.
        """
        folder = Path(folder)
        found = read_config(folder)
        if config is not None:
            check_config(found, config, folder / "config.json")
        weights = read_state(folder)
        return cls.from_state(weights, config or found, source=str(folder), dtype=dtype, device=device)

    def save(self, folder: str | Path) -> None:
        """Write a folder that ``load`` and ``AutoencoderKLWan.from_pretrained`` read."""
        self.vae.save_pretrained(folder)

    def encode(self, video: Tensor, state: WanState | None = None) -> tuple[Tensor, WanState]:
        """Video (B, 3, T, H, W) in [−1, 1] → normalised latents (B, C, F, h, w) and the state for the next frames.

        The latents are the posterior's mean. Without a state the video begins a stream and T = 4F − 3; with one,
        T = 4F.

        Raises:
            ValueError: a wrong number of frames, a size that is no multiple of the compression, another stream's state.
        """
        group, scale = self.config.scale_factor_temporal, self.config.scale_factor_spatial
        frames, height, width = video.shape[2:]
        first = state is None
        rest = frames - first
        if rest % group or frames < 1:
            rule = f"1 + {group}k frames begin a stream" if first else f"{group}k frames go on with one"
            raise ValueError(f"{frames} frames cannot be encoded: {rule}")
        if video.shape[1] != 3 or height % scale or width % scale:
            raise ValueError(
                f"a video of {video.shape[1]} channels and {height}×{width} pixels cannot be encoded: it needs 3 "
                f"channels and multiples of {scale} pixels"
            )
        state = self._state("encoder", (video.shape[0], height // scale, width // scale), state)

        x = video.to(self.vae.dtype)
        patch = self.config.patch_size or 1
        x = patchify(x, patch)
        sizes = [1] * first + [group] * (rest // group)
        tiles, caches = [], []
        for crop, cache in zip(state.grid.crops(x, scale // patch), state.caches, strict=True):
            features = list(cache)  # a copy, since diffusers writes into it
            parts = [
                self.vae.quant_conv(self.vae.encoder(x, feat_cache=features, feat_idx=[0]))
                for x in crop.split(sizes, dim=2)
            ]
            tiles.append(torch.cat(parts, dim=2).chunk(2, dim=1)[0])
            caches.append(_detached(features))
        latents = (state.grid.join(tiles) - self.latents_mean) / self.latents_std
        return latents.to(video.dtype), replace(state, caches=tuple(caches))

    def decode(self, latents: Tensor, state: WanState | None = None) -> tuple[Tensor, WanState]:
        """Normalised latents (B, C, F, h, w) → video (B, 3, T, H, W) in [−1, 1] and the state for the next latents.

        Without a state the latents begin a stream and T = 4F − 3; with one, T = 4F.

        Raises:
            ValueError: no latent frames, a wrong number of channels, another stream's state.
        """
        batch, channels, frames, height, width = latents.shape
        if channels != self.latent_channels or frames < 1:
            raise ValueError(
                f"latents of {channels} channels and {frames} frames cannot be decoded: it needs "
                f"{self.latent_channels} channels and at least 1 frame"
            )
        first = state is None
        state = self._state("decoder", (batch, height, width), state)

        z = (latents.float() * self.latents_std + self.latents_mean).to(self.vae.dtype)
        tiles, caches = [], []
        for crop, cache in zip(state.grid.crops(z), state.caches, strict=True):
            features = list(cache)
            parts = [
                self.vae.decoder(
                    self.vae.post_quant_conv(x), feat_cache=features, feat_idx=[0], first_chunk=first and i == 0
                )
                for i, x in enumerate(crop.split(1, dim=2))
            ]
            tiles.append(unpatchify(torch.cat(parts, dim=2), self.config.patch_size or 1))
            caches.append(_detached(features))
        video = state.grid.join(tiles, self.config.scale_factor_spatial).clamp(-1, 1)
        return video.to(latents.dtype), replace(state, caches=tuple(caches))

    def _state(
        self, part: Literal["encoder", "decoder"], frame: tuple[int, int, int], state: WanState | None
    ) -> WanState:
        """The initial state of a stream, or the given one after checking that it is for this part and frame size."""
        if state is None:
            grid = TileGrid.of(frame[1:], self.tile, self.tile_overlap)
            convolutions = sum(isinstance(m, WanCausalConv3d) for m in getattr(self.vae, part).modules())
            return WanState(part, frame, grid, ((None,) * convolutions,) * len(grid))
        if (state.part, state.frame) != (part, frame):
            raise ValueError(
                f"the state is of the {state.part} and (batch, height, width) = {state.frame} latent cells, the input "
                f"of the {part} and {frame}: begin a stream of its own with state=None"
            )
        return state


def _detached(features: list[Tensor | str | None]) -> Cache:
    """Detach the features: a graph attached to the state would grow with the stream."""
    return tuple(x.detach() if isinstance(x, Tensor) else x for x in features)
