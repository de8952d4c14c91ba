"""Configs of the parts around the transformer: text and image encoders, autoencoders.

``kind`` distinguishes alternatives in files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["float32", "bfloat16"]
"""Precision of weights and activations."""
DecoderChoice = Literal["full", "tiny"]
"""The full autoencoder's decoder, or the tiny one."""
TextPlacement = Literal["resident", "released", "int8", "cpu"]
"""Placement of the text encoder, from the most device memory to the least. ``resident``: stays on the device.
``released``: loaded for a new prompt and freed again. ``int8``: released, with 8-bit linear weights. ``cpu``: encodes
on the CPU."""


def require(condition: bool, setting: str, value: object, rule: str) -> None:
    """Raise a ValueError with the setting, its value and the rule, unless ``condition``."""
    if not condition:
        raise ValueError(f"{setting} = {value!r}: {rule}")


@dataclass(frozen=True)
class TextConfig:
    """The small text encoder of ``nano``: hashed words and character n-grams."""

    tokens: int = 16
    buckets: int = 4096
    kind: Literal["hashed"] = "hashed"

    def __post_init__(self) -> None:
        require(self.tokens >= 1, "text.tokens", self.tokens, "must be at least 1")
        require(self.buckets >= 256, "text.buckets", self.buckets, "must be at least 256")


@dataclass(frozen=True)
class UMT5Config:
    """The UMT5 encoder of Wan; the defaults are UMT5-XXL (5.68B parameters). Names are transformers'."""

    tokens: int = 512
    vocab_size: int = 256_384
    d_model: int = 4096
    d_kv: int = 64
    d_ff: int = 10_240
    num_layers: int = 24
    num_heads: int = 64
    kind: Literal["umt5"] = "umt5"

    def __post_init__(self) -> None:
        require(self.tokens >= 1, "text.tokens", self.tokens, "must be at least 1")
        for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"):
            value = getattr(self, name)
            require(value >= 1, f"text.{name}", value, "must be at least 1")


TextEncoderConfig = TextConfig | UMT5Config


@dataclass(frozen=True)
class CLIPConfig:
    """The CLIP image encoder of Wan 2.1; the defaults are ViT-H/14 (257 tokens of 1280). Names are transformers'."""

    image_size: int = 224
    patch_size: int = 14
    hidden_size: int = 1280
    intermediate_size: int = 5120
    num_hidden_layers: int = 32
    num_attention_heads: int = 16
    projection_dim: int = 1024
    preprocess: Literal["squash", "crop"] = "squash"
    """``squash``: the whole frame is resized to a square, as in the official code. ``crop``: its centre square is used,
    as in diffusers."""

    def __post_init__(self) -> None:
        side, patch = self.image_size, self.patch_size
        require(side % patch == 0, "image_encoder.image_size", side, f"must be a multiple of patch_size {patch}")
        require(
            self.preprocess in ("squash", "crop"), "image_encoder.preprocess", self.preprocess, "'squash' or 'crop'"
        )

    @property
    def tokens(self) -> int:
        """Number of tokens: the class token and one per patch."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class LinearAutoencoderConfig:
    """Small models' autoencoder: principal components of blocks of pixels × 4 frames, and a residual decoder."""

    latent_channels: int = 96
    decoder_channels: int = 192
    decoder_blocks: int = 3
    scale_exponent: float = 0.25
    """Latent c is divided by eigenvalue(c) ** scale_exponent: 0.5 whitens, 0 keeps the variances."""
    patch: int = 8
    """Side of a block in pixels."""
    kind: Literal["linear"] = "linear"

    def __post_init__(self) -> None:
        require(self.patch >= 1, "autoencoder.patch", self.patch, "must be at least 1")
        values = self.block_values
        require(
            1 <= self.latent_channels <= values, "autoencoder.latent_channels", self.latent_channels, f"1 … {values}"
        )
        exponent = self.scale_exponent
        require(0 <= exponent <= 0.5, "autoencoder.scale_exponent", exponent, "must lie in 0 … 0.5")

    @property
    def block_values(self) -> int:
        """Numbers in a block: 768 for 8×8 pixels × 4 frames in three colours."""
        return 3 * 4 * self.patch**2


@dataclass(frozen=True)
class WanAutoencoderConfig:
    """Constructor arguments of diffusers' ``AutoencoderKLWan``; the defaults are Wan 2.1's (8×8×4, 16 channels).

    ``latents_mean`` and ``latents_std`` normalise the latents and are stored only here.
    """

    base_dim: int = 96
    decoder_base_dim: int | None = None
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    is_residual: bool = False
    in_channels: int = 3
    out_channels: int = 3
    patch_size: int | None = None
    scale_factor_temporal: int = 4
    scale_factor_spatial: int = 8
    latents_mean: tuple[float, ...] = ()
    latents_std: tuple[float, ...] = ()
    tile: int | None = None
    """Largest side of a tile in latent cells; None processes whole frames. Tiles bound the memory."""
    tile_overlap: int = 4
    kind: Literal["wan"] = "wan"

    def __post_init__(self) -> None:
        for name in ("latents_mean", "latents_std"):
            value = getattr(self, name)
            require(len(value) == self.z_dim, f"autoencoder.{name}", value, f"needs z_dim = {self.z_dim} numbers")
        require(min(self.latents_std) > 0, "autoencoder.latents_std", self.latents_std, "must be positive")
        overlap = self.tile_overlap
        ok = self.tile is None or (self.tile >= 1 and 0 <= 2 * overlap <= self.tile)
        require(ok, "autoencoder.tile_overlap", overlap, f"must lie in 0 … tile / 2 (tile = {self.tile})")

    @property
    def latent_channels(self) -> int:
        return self.z_dim


@dataclass(frozen=True)
class TinyAutoencoderConfig:
    """The tiny autoencoder (paper, appendix A; the community's TAEHV). The defaults are those of ``taew2_1``.

    ``decoder_channels``: widths of the three stages and of the last layer.
    """

    latent_channels: int = 16
    patch_size: int = 1
    """Side in pixels of the patches that the outermost layers unshuffle: 1 for Wan 2.1, 2 for 2.2."""
    encoder_channels: int = 64
    decoder_channels: tuple[int, int, int, int] = (256, 128, 64, 64)
    blocks: int = 3

    def __post_init__(self) -> None:
        require(self.patch_size >= 1, "tiny_decoder.patch_size", self.patch_size, "must be at least 1")
        require(len(self.decoder_channels) == 4, "tiny_decoder.decoder_channels", self.decoder_channels, "four widths")
        require(self.blocks >= 1, "tiny_decoder.blocks", self.blocks, "must be at least 1")


AutoencoderConfig = LinearAutoencoderConfig | WanAutoencoderConfig
