"""The parts around the transformer: autoencoder, tiny decoder, text encoder, image encoder.

In a model's folder they have the layout of their libraries: ``vae/`` (diffusers), ``text_encoder/``, ``tokenizer/`` and
``image_encoder/`` (transformers), ``tiny_decoder.safetensors`` (TAEHV's names). Those of the embedded model are
``autoencoder.safetensors`` and ``text_encoder.safetensors``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from motionstream.autoencoder.base import StreamingAutoencoder
from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.autoencoder.tiny import TinyAutoencoder
from motionstream.autoencoder.wan import WanAutoencoder
from motionstream.carry.showing import CarriedPicture, decode_around
from motionstream.checkpoint_files import give_usual_mode, read_state, write_tensors
from motionstream.component_config import (
    DecoderChoice,
    LinearAutoencoderConfig,
    Precision,
    TextConfig,
    TextPlacement,
    UMT5Config,
    WanAutoencoderConfig,
)
from motionstream.conditioning.image import CLIPImageEncoder
from motionstream.conditioning.text import HashedTextEncoder, TextEncoder
from motionstream.conditioning.umt5 import UMT5TextEncoder
from motionstream.config import ModelConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Placement:
    """Device, precision and memory-saving options of a model's parts."""

    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``, ``mps``; ``auto`` takes CUDA, else MPS, else the CPU."""
    dtype: Precision | None = None
    """Precision of weights and activations, except parts that stay in float32; the model's own when None."""
    decoder: DecoderChoice = "full"
    text_encoder: TextPlacement = "released"
    tile: int | None = None
    """Side of the autoencoder's tiles in latent cells; None processes whole frames."""
    offload_blocks: bool = False
    """Keep the transformer's blocks in CPU memory and copy each to the device when it runs."""

    def __post_init__(self) -> None:
        decoders, places = get_args(DecoderChoice), get_args(TextPlacement)
        for name, known in (("decoder", decoders), ("text_encoder", places), ("dtype", (None, *DTYPES))):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} = {value!r}: give one of {', '.join(str(k) for k in known if k)}")
        if self.tile is not None and self.tile < 8:
            raise ValueError(f"tile = {self.tile}: give at least 8 latent cells")

    @property
    def torch_device(self) -> torch.device:
        """The torch device; ValueError if this machine has none of that kind."""
        if self.device == "auto":
            mps = torch.backends.mps.is_available()
            return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f"device = {self.device!r}: give auto, cpu, cuda, cuda:N or mps") from error
        here = {"cpu": True, "meta": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not here.get(device.type, False):
            raise ValueError(f"device = {self.device!r}: this machine has none; use auto or cpu")
        return device

    def adapted(self, config: ModelConfig) -> ModelConfig:
        """``config`` in this placement's precision."""
        return config if self.dtype is None else replace(config, dtype=self.dtype)

    def torch_dtype(self, config: ModelConfig) -> torch.dtype:
        """The precision of ``config``'s weights in memory."""
        return DTYPES[self.dtype or config.dtype]


@dataclass
class Components:
    """The parts of one model. ``decoder`` is the tiny autoencoder if there is one, else the full one."""

    autoencoder: StreamingAutoencoder
    text_encoder: TextEncoder
    image_encoder: CLIPImageEncoder | None = None
    tiny: TinyAutoencoder | None = None

    def __post_init__(self) -> None:
        for part in (self.autoencoder, self.text_encoder, self.tiny):
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)

    @property
    def decoder(self) -> StreamingAutoencoder:
        return self.autoencoder if self.tiny is None else self.tiny

    def decode(self, latents: Tensor, state: Any = None, carried: CarriedPicture | None = None) -> tuple[Tensor, Any]:
        """Latents (B, C, F, h, w) → video and the state for the next call. Decodes around a ``carried`` picture if one
        is given, except with the tiny decoder, which ignores it."""
        if carried is None or self.tiny is not None:
            return self.decoder.decode(latents, state)
        assert isinstance(self.autoencoder, LinearAutoencoder)
        return decode_around(self.autoencoder, latents, carried, state)


def random_components(config: ModelConfig, placement: Placement, seed: int = 0) -> Components:
    """Parts with random weights, for tests and benchmarks."""
    device, dtype = placement.torch_device, placement.torch_dtype(config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        autoencoder: LinearAutoencoder | WanAutoencoder
        if isinstance(config.autoencoder, LinearAutoencoderConfig):
            autoencoder = LinearAutoencoder(config.autoencoder).to(device)  # always float32: carried pictures are exact
        elif isinstance(config.autoencoder, WanAutoencoderConfig):
            autoencoder = WanAutoencoder(config.autoencoder).to(device, dtype)
            autoencoder.tile = placement.tile
        else:
            raise ValueError(f"model {config.name!r} names no autoencoder")
        tiny = None
        if placement.decoder == "tiny":
            tiny = _tiny_of(config).to(device, dtype)
        if isinstance(config.text, TextConfig):
            text: TextEncoder = HashedTextEncoder(config.text, config.transformer.text_dim).to(device)
        elif isinstance(config.text, UMT5Config):
            text = UMT5TextEncoder.random(config.text, seed, **_text_settings(config, placement))
        else:
            raise ValueError(f"model {config.name!r} names no text encoder")
        image = None
        if config.image_encoder is not None:
            image = CLIPImageEncoder.random(config.image_encoder, seed, **_image_settings(config, placement))
    return Components(autoencoder, text, image, tiny)


def load_components(folder: Path, config: ModelConfig, placement: Placement) -> Components:
    """Load the parts from a model's folder. ValueError names what is missing or damaged."""
    device, dtype = placement.torch_device, placement.torch_dtype(config)
    autoencoder: StreamingAutoencoder
    if isinstance(config.autoencoder, LinearAutoencoderConfig):
        linear = LinearAutoencoder(config.autoencoder)
        _load_into(linear, folder / "autoencoder.safetensors")
        autoencoder = linear.to(device)
    else:
        assert isinstance(config.autoencoder, WanAutoencoderConfig)
        autoencoder = WanAutoencoder.load(folder / "vae", config.autoencoder, dtype=dtype, device=device)
        autoencoder.tile = placement.tile
    tiny = None
    if placement.decoder == "tiny":
        _tiny_of(config)
        path = folder / "tiny_decoder.safetensors"
        tiny = TinyAutoencoder.load(path, config.tiny_decoder, dtype=dtype, device=device)
    text: TextEncoder
    if isinstance(config.text, TextConfig):
        hashed = HashedTextEncoder(config.text, config.transformer.text_dim)
        _load_into(hashed, folder / "text_encoder.safetensors")
        text = hashed.to(device)
    else:
        assert isinstance(config.text, UMT5Config)
        settings = _text_settings(config, placement)
        text = UMT5TextEncoder.from_folder(folder / "text_encoder", folder / "tokenizer", config.text, **settings)
    image = None
    if config.image_encoder is not None:
        settings = _image_settings(config, placement)
        image = CLIPImageEncoder.from_folder(folder / "image_encoder", config.image_encoder, **settings)
    return Components(autoencoder, text, image, tiny)


def save_components(parts: Components, folder: Path) -> None:
    """Write the parts to ``folder``: the embedded model's as float16, others in their own precision."""
    if isinstance(parts.autoencoder, WanAutoencoder):
        parts.autoencoder.save(folder / "vae")
        give_usual_mode(folder / "vae")
    else:
        _save_half(cast(nn.Module, parts.autoencoder), folder / "autoencoder.safetensors")
    if isinstance(parts.text_encoder, UMT5TextEncoder):
        parts.text_encoder.save(folder / "text_encoder", folder / "tokenizer")
        give_usual_mode(folder / "text_encoder")
    else:
        _save_half(cast(nn.Module, parts.text_encoder), folder / "text_encoder.safetensors")
    if isinstance(parts.image_encoder, CLIPImageEncoder):
        parts.image_encoder.save(folder / "image_encoder")
        give_usual_mode(folder / "image_encoder")
    if parts.tiny is not None:
        parts.tiny.save(folder / "tiny_decoder.safetensors")


def _load_into(module: nn.Module, path: Path) -> None:
    try:
        module.load_state_dict({name: value.float() for name, value in read_state(path).items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{path} is of another model ({reason})") from error


def _save_half(module: nn.Module, path: Path) -> None:
    write_tensors(path, {name: value.half() for name, value in module.state_dict().items()})


def _tiny_of(config: ModelConfig) -> TinyAutoencoder:
    if config.tiny_decoder is None:
        raise ValueError(f"model {config.name!r} has no tiny decoder; use the full one")
    return TinyAutoencoder(config.tiny_decoder)


def _text_settings(config: ModelConfig, placement: Placement) -> dict[str, Any]:
    return {
        "dtype": placement.torch_dtype(config),
        "device": torch.device("cpu") if placement.text_encoder == "cpu" else placement.torch_device,
        "output_device": placement.torch_device,
        "keep": placement.text_encoder == "resident",
        "quantise": "int8" if placement.text_encoder == "int8" else "none",
    }


def _image_settings(config: ModelConfig, placement: Placement) -> dict[str, Any]:
    device = placement.torch_device
    return {"dtype": placement.torch_dtype(config), "device": device, "output_device": device}
