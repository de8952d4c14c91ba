"""The memory of a streaming model, by part and by moment.

Weights and caches are counted, and activations measured by running the model's own modules once on the meta device
(``live_bytes.py``). Only ``OVERHEAD`` is assumed.

The peak is the resident memory plus the largest of the moments: encoding the prompt (which may change during the
stream, so everything else is present), encoding the picture, generating a chunk, writing its keys and values, decoding
it. The track head's map and carried content are smaller than any of these and ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.autoencoder.tiling import TileGrid
from motionstream.autoencoder.tiny import TinyAutoencoder
from motionstream.autoencoder.wan import WanAutoencoder
from motionstream.carry.prior import Prior
from motionstream.carry.showing import CarriedPicture, decode_around
from motionstream.component_config import (
    CLIPConfig,
    DecoderChoice,
    LinearAutoencoderConfig,
    TextConfig,
    TextPlacement,
    TinyAutoencoderConfig,
    UMT5Config,
    WanAutoencoderConfig,
)
from motionstream.conditioning import image as clip
from motionstream.conditioning import umt5
from motionstream.conditioning.pretrained import optional_import
from motionstream.conditioning.text import HashedTextEncoder
from motionstream.config import CausalConfig, ModelConfig
from motionstream.memory.live_bytes import dry_run, nbytes, peak_of, weights_of
from motionstream.model.attention import Cached
from motionstream.model.motion_model import Conditions, MotionModel
from motionstream.model.precision import cast_with_islands
from motionstream.pixels import to_bytes

MIB, GIB = 2**20, 2**30

OVERHEAD = {"cuda": GIB, "mps": GIB // 2, "cpu": GIB}
"""Memory besides tensors in bytes, assumed, not measured. On CUDA: the context (about half), workspaces of cuBLAS and
cuDNN, and fragmentation; on the CPU: Python and its libraries."""


@dataclass(frozen=True)
class Budget:
    """Memory in bytes. ``resident``: throughout the stream, by part. ``moments``: additional memory of each moment."""

    resident: dict[str, int]
    moments: dict[str, int]

    @property
    def peak(self) -> int:
        """The memory that the device must have."""
        return sum(self.resident.values()) + self.moments[self.worst]

    @property
    def worst(self) -> str:
        """The moment that needs the most memory."""
        return max(self.moments, key=lambda name: self.moments[name])

    @property
    def sum(self) -> int:
        """The total of all parts and moments, although moments never coincide: a change that lowers it saves memory
        somewhere, even if not at the peak."""
        return sum(self.resident.values()) + sum(self.moments.values())

    def __str__(self) -> str:
        """The parts at the worst moment, largest first."""
        items = {**self.resident, self.worst: self.moments[self.worst]}
        ordered = sorted(items.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {gib(size)}" for name, size in ordered if size >= 10 * MIB)


def gib(size: float) -> str:
    """Format bytes in GiB."""
    return f"{size / GIB:.1f} GiB"


def estimate(
    config: ModelConfig,
    *,
    size: tuple[int, int] | None = None,
    causal: CausalConfig | None = None,
    decoder: DecoderChoice = "full",
    text_encoder: TextPlacement = "released",
    image_encoder: Literal["resident", "released", "cpu"] = "released",
    offload_blocks: bool = False,
    batch: int = 1,
    tile: int | None = None,
    device: str = "cuda",
) -> Budget:
    """The memory of ``batch`` streams of a model.

    Args:
        size: (height, width) of the video; the model's own when None. causal: attention pattern; the model's when None.
        decoder: "tiny" decodes with the tiny autoencoder; the full one stays, since it encodes the picture.
        offload_blocks: the transformer's blocks are in CPU memory, two at a time on the device.
        tile: side of the full autoencoder's tiles in latent cells; the model's own setting when None.
        device: "cuda", "mps" or "cpu". On the CPU, text_encoder "cpu" and ``offload_blocks`` have no effect.

    Raises:
        ValueError: the model lacks an autoencoder or the tiny decoder, or the size is impossible for the latents.
    """
    # portrait and landscape need the same, so measure only one
    height, width = sorted(size or config.size)
    config = replace(config, size=(height, width), sizes=(), causal=causal or config.causal)
    autoencoder = config.autoencoder
    if autoencoder is None:
        raise ValueError(f"model {config.name!r} has no autoencoder: its memory cannot be estimated")
    if decoder == "tiny" and config.tiny_decoder is None:
        raise ValueError(f"model {config.name!r} has no tiny decoder: use decoder='full'")
    if tile is not None and isinstance(autoencoder, WanAutoencoderConfig):
        autoencoder = replace(autoencoder, tile=tile)
    tiny = config.tiny_decoder if decoder == "tiny" else None

    parts = _transformer_parts(_bare(config), batch)
    encoding = _encoding(autoencoder, config.latent_size, config.spatial_compression, batch, config.dtype)
    chunk = (batch, config.latent_channels, config.causal.chunk_frames, *config.latent_size)
    decoding = _decoding(autoencoder if tiny is None else tiny, chunk, config.dtype)
    waiting = config.transformer.num_layers - 2 if offload_blocks and device != "cpu" else 0
    resident = {
        "transformer": parts["transformer"] - max(0, waiting) * parts["block"],
        "conditioning": parts["conditioning"],
        "key-value cache": parts["cache"],
        "autoencoder": encoding["weights"],
        "tiny decoder": 0 if tiny is None else decoding["weights"],
        "state of the decoder": decoding["state"],
        "overhead": OVERHEAD[device],
    }
    moments = {
        "generating": parts["generating"],
        "writing the cache": parts["settling"],
        "decoding": decoding["activations"],
        "encoding the picture": encoding["activations"],
    }
    encoders = (("text encoder", config.text, text_encoder), ("image encoder", config.image_encoder, image_encoder))
    for name, encoder, place in encoders:
        if encoder is None or (place == "cpu" and device != "cpu"):
            continue
        weights, activations = _encoder(encoder, config.transformer.text_dim, config.dtype, place == "int8")
        stays = place == "resident" or isinstance(encoder, TextConfig)
        resident[name] = weights if stays else 0
        moments[f"running the {name}"] = activations + (0 if stays else weights)
    return Budget(resident, moments)


def _bare(config: ModelConfig) -> ModelConfig:
    """Drop settings that do not affect the transformer, so that cached counts are shared."""
    return replace(config, name="", autoencoder=config.autoencoder if config.carry else None, tiny_decoder=None)


@lru_cache(maxsize=64)
def _transformer_parts(config: ModelConfig, batch: int) -> dict[str, int]:
    """Bytes of the transformer, one of its blocks, the conditioning and the cache, and of the two moments."""
    layers = config.transformer.num_layers
    whole, model = _motion_model(config, layers), _motion_model(config, min(2, layers))  # layers need the same memory
    caches = [part.make_cache(batch, config.latent_size) for part in (whole, model)]
    for cache in caches:
        cache.chunks = config.causal.sink_chunks + config.causal.window_chunks  # full
    return {
        "transformer": weights_of(whole.transformer),
        "block": weights_of(whole.transformer.blocks[0]),
        "conditioning": weights_of(whole) - weights_of(whole.transformer),
        "cache": caches[0].nbytes,
        "generating": peak_of(lambda: model(*transformer_input(config, batch), Cached(caches[1]))),
        "settling": peak_of(caches[0].commit),
    }


def _motion_model(config: ModelConfig, layers: int) -> MotionModel:
    with torch.device("meta"):
        model = MotionModel(replace(config, transformer=replace(config.transformer, num_layers=layers)))
    cast_with_islands(model, getattr(torch, config.dtype))
    return model.requires_grad_(False)


def transformer_input(config: ModelConfig, batch: int) -> tuple[Tensor, Tensor, Conditions]:
    """Noisy latents, times and conditions of a chunk, uninitialised, on the default device."""

    def latents(channels: int) -> Tensor:
        return torch.empty(batch, channels, config.causal.chunk_frames, *config.latent_size)

    transformer, encoder = config.transformer, config.image_encoder
    prior = None
    if config.carry is not None or config.still_std is not None:
        prior = Prior(latents(config.latent_channels), latents(config.latent_channels))
    conditions = Conditions(
        text=torch.empty(batch, 1 if config.text is None else config.text.tokens, transformer.text_dim),
        channels=latents(transformer.in_channels - config.latent_channels),
        image=None if encoder is None else torch.empty(batch, encoder.tokens, encoder.hidden_size),
        prior=prior,
    )
    return latents(config.latent_channels), torch.empty(batch, config.causal.chunk_frames), conditions


Autoencoder = LinearAutoencoderConfig | WanAutoencoderConfig | TinyAutoencoderConfig


def _on_meta(build: Callable[[], nn.Module], dtype: str) -> Any:
    with torch.device("meta"):
        module = build()
    return module.to("meta", getattr(torch, dtype)).eval().requires_grad_(False)


@lru_cache(maxsize=8)
def _autoencoder(config: Autoencoder, dtype: str) -> Any:
    if isinstance(config, LinearAutoencoderConfig):
        return _on_meta(lambda: LinearAutoencoder(config), dtype)
    if isinstance(config, TinyAutoencoderConfig):
        return _on_meta(lambda: TinyAutoencoder(config), dtype)
    return _on_meta(lambda: WanAutoencoder(replace(config, tile=None)), dtype)


def _tiles(config: Autoencoder, size: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """Number of tiles for latents of ``size``, and the size of one."""
    if not isinstance(config, WanAutoencoderConfig):
        return 1, size
    grid = TileGrid.of(size, config.tile, config.tile_overlap)
    (top, bottom), (left, right) = grid.rows[0], grid.columns[0]
    return len(grid), (bottom - top, right - left)


@lru_cache(maxsize=64)
def _decoding(config: Autoencoder, chunk: tuple[int, ...], dtype: str) -> dict[str, int]:
    """Bytes of an autoencoder's weights, of its decoder's state between chunks, and of decoding a chunk.

    ``chunk``: (B, C, F, h, w). The previous chunk's state stays until the next one is complete. One tile is measured;
    while the last tile is decoded, results and states of the others are present.
    """
    autoencoder = _autoencoder(config, dtype)
    tiles, tile = _tiles(config, (chunk[3], chunk[4]))
    with dry_run() as live:
        latents = torch.empty(*chunk[:3], *tile)
        # nano's autoencoder decodes around a carried picture, as in every stream
        detail = None
        if isinstance(config, LinearAutoencoderConfig):
            detail = torch.empty(chunk[0], config.block_values, chunk[2], *tile)
        linear = detail is not None
        carried = CarriedPicture(latents, detail)

        def decode(state: Any) -> tuple[Tensor, Any]:
            return decode_around(autoencoder, latents, carried, state) if linear else autoencoder.decode(latents, state)

        video, state = decode(None)
        del video
        kept = live.live - nbytes([latents])
        live.peak = live.live
        video, following = decode(state)
        activations = live.peak - kept
        live.peak = live.live
        to_bytes(video)
        pictures = live.peak - kept
        del following
    if tiles > 1:
        coded = 2 * nbytes([latents]) + video.numel() * getattr(torch, dtype).itemsize
        activations += (tiles - 1) * (kept + coded)
        frame = nbytes([video]) * chunk[3] * chunk[4] // (tile[0] * tile[1])  # of all tiles joined
        # after joining and clamping, with the last tile present twice; or while converting to 8 bits
        pictures = tiles * kept + max((tiles + 1) * coded + 2 * frame, 3 * frame)
    return {
        "weights": weights_of(autoencoder),
        "state": tiles * kept,
        "activations": max(activations, pictures),
    }


@lru_cache(maxsize=64)
def _encoding(config: Autoencoder, size: tuple[int, int], scale: int, batch: int, dtype: str) -> dict[str, int]:
    """Bytes of an autoencoder's weights and of encoding a picture. ``size``: of its latents."""
    autoencoder = _autoencoder(config, dtype)
    tiles, (height, width) = _tiles(config, size)
    with dry_run() as live:
        picture = torch.empty(batch, 3, 1, height * scale, width * scale)
        result = autoencoder.encode(picture)
        activations, kept = live.peak, live.live
        del result
    return {"weights": weights_of(autoencoder), "activations": activations + (tiles - 1) * kept}


@lru_cache(maxsize=64)
def _encoder(config: TextConfig | UMT5Config | CLIPConfig, dim: int, dtype: str, int8: bool) -> tuple[int, int]:
    """Bytes of a text or image encoder, and of encoding one full-length sentence or one picture."""
    if isinstance(config, TextConfig):
        return weights_of(_on_meta(lambda: HashedTextEncoder(config, dim), "float32")), 0
    transformers = optional_import("transformers")
    if isinstance(config, UMT5Config):
        settings = umt5.transformers_config(config)
        encoder = _on_meta(lambda: transformers.UMT5EncoderModel(settings), dtype)
        activations = peak_of(lambda: encoder(input_ids=torch.zeros(1, config.tokens, dtype=torch.long)))
    else:
        settings, shape = clip.transformers_config(config), (1, 3, config.image_size, config.image_size)
        encoder = _on_meta(lambda: transformers.CLIPVisionModel(settings), dtype)
        pixels = {"dtype": getattr(torch, dtype)}
        activations = peak_of(lambda: encoder(torch.empty(shape, **pixels), output_hidden_states=True))
    return (int8_weights(encoder) if int8 else weights_of(encoder)), activations


def int8_weights(module: nn.Module) -> int:
    """Bytes of a module after ``to_int8``: 8-bit linear weights and one scale per row."""
    linear = [layer.weight for layer in module.modules() if isinstance(layer, nn.Linear)]
    scales = sum(weight.shape[0] * weight.element_size() for weight in linear)
    return weights_of(module) - nbytes(linear) + sum(weight.numel() for weight in linear) + scales
