"""The tiny autoencoder (paper, appendix A): the community's TAEHV, streaming.

Structure and parameter names are those of https://github.com/madebyollin/taehv, so ``taew2_1`` and ``taew2_2`` load
unchanged. It has only 2D convolutions; time is handled by memory blocks, which see the previous frame, and by
convolutions that merge or split pairs of frames. A stream's state is the last input of every memory block.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.autoencoder.wan_checkpoint import check_state
from motionstream.checkpoint_files import read_state, write_tensors
from motionstream.component_config import TinyAutoencoderConfig

GROUP = 4
"""Frames per latent frame: 2 × 2, from two of the three stages."""

CELL = 8
"""Spatial compression along each axis, after the patches: 2 × 2 × 2."""

STAGE_GROWTH = (1, 2, 2)
"""Frames that each of the decoder's stages makes from one. The encoder's stages merge them in reverse: 2, 2 and 1."""

Part = Literal["encoder", "decoder"]

Memory = tuple[Tensor, ...]
"""The last input (B, C, h, w) of every memory block, in order."""


@dataclass(frozen=True, eq=False)
class TinyState:
    """The encoder's or decoder's state of a stream. Immutable: every call returns a new one.

    ``frame``: batch, height and width in latent cells.
    """

    part: Part
    frame: tuple[int, int, int]
    memory: Memory

    @property
    def nbytes(self) -> int:
        """Size in bytes; it does not grow with the stream."""
        return sum(x.nbytes for x in self.memory)


class MemoryBlock(nn.Module):
    """A residual block that sees a frame and the one before it, both (B, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * channels, channels), nn.ReLU(), _conv(channels, channels), nn.ReLU(), _conv(channels, channels)
        )

    def forward(self, x: Tensor, past: Tensor) -> Tensor:
        return F.relu(self.conv(torch.cat([x, past], dim=1)) + x)


class TemporalPool(nn.Module):
    """Merge every ``stride`` consecutive frames into one: (B·T, C, h, w) → (B·T / stride, C, h, w)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels * stride, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.unflatten(0, (-1, self.stride)).flatten(1, 2))


class TemporalGrow(nn.Module):
    """Split every frame into ``stride`` frames: (B·T, C, h, w) → (B·T·stride, C, h, w)."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).unflatten(1, (self.stride, -1)).flatten(0, 1)


class SoftClamp(nn.Module):
    """Limits latents to ±3, the range that the decoder was trained on."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def _conv(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def _encoder(config: TinyAutoencoderConfig) -> nn.Sequential:
    width = config.encoder_channels
    layers: list[nn.Module] = [_conv(3 * config.patch_size**2, width), nn.ReLU()]
    for merged in reversed(STAGE_GROWTH):
        layers += [TemporalPool(width, merged), _conv(width, width, stride=2, bias=False)]
        layers += [MemoryBlock(width) for _ in range(config.blocks)]
    return nn.Sequential(*layers, _conv(width, config.latent_channels))


def _decoder(config: TinyAutoencoderConfig) -> nn.Sequential:
    widths = config.decoder_channels
    layers: list[nn.Module] = [SoftClamp(), _conv(config.latent_channels, widths[0]), nn.ReLU()]
    for width, following, growth in zip(widths, widths[1:], STAGE_GROWTH, strict=False):
        layers += [MemoryBlock(width) for _ in range(config.blocks)]
        layers += [nn.Upsample(scale_factor=2), TemporalGrow(width, growth), _conv(width, following, bias=False)]
    return nn.Sequential(*layers, nn.ReLU(), _conv(widths[-1], 3 * config.patch_size**2))


def _run(layers: nn.Sequential, x: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
    """Run frames (B, T, C, H, W) through the layers. Without a memory the stream begins, with zeros as its past."""
    batch = x.shape[0]
    x = x.flatten(0, 1)
    kept: list[Tensor] = []
    for layer in layers:
        if not isinstance(layer, MemoryBlock):
            x = layer(x)
            continue
        frames = x.unflatten(0, (batch, -1))
        before = torch.zeros_like(frames[:, 0]) if memory is None else memory[len(kept)]
        past = torch.cat([before[:, None], frames[:, :-1]], dim=1)
        # a copy, since a view would keep all frames in memory until the next call
        kept.append(frames[:, -1].clone())
        x = layer(x, past.flatten(0, 1))
    return x.unflatten(0, (batch, -1)), tuple(kept)


def _memory(state: TinyState | None, part: Part, frame: tuple[int, int, int]) -> Memory | None:
    """The memory of a stream, None at its beginning."""
    if state is not None and (state.part, state.frame) != (part, frame):
        raise ValueError(
            f"the state is of the {state.part} and (batch, height, width) = {state.frame} latent cells, the input of "
            f"the {part} and {frame}: begin a stream of its own with state=None"
        )
    return None if state is None else state.memory


def _state(part: Part, frame: tuple[int, int, int], memory: Memory | None) -> TinyState:
    assert memory is not None, "a call codes at least one latent frame"
    # detached, since a graph attached to the state would grow with the stream
    return TinyState(part, frame, tuple(x.detach() for x in memory))


class TinyAutoencoder(nn.Module):
    """Implements ``StreamingAutoencoder``; its latents are the normalised ones of the Wan autoencoder it replaces.

    Latent frames are processed one at a time, so that the layers' memory does not depend on the length of a call, and
    chunk by chunk equals whole bit for bit. The result has the input's dtype. Gradients flow to the call's input, not
    into the state. Internally, pictures are in [0, 1].
    """

    def __init__(self, config: TinyAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_channels = config.latent_channels
        self.encoder = _encoder(config)
        self.decoder = _decoder(config)

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def encode(self, video: Tensor, state: TinyState | None = None) -> tuple[Tensor, TinyState]:
        """Video (B, 3, T, H, W) in [−1, 1] → latents (B, C, F, H / 8p, W / 8p) and the state for the next call.

        Without a state the video begins the stream and T = 4F − 3; with one, T = 4F. At the beginning, frame 0 is
        repeated three more times in front, which gives Wan's grouping (0 | 1 … 4 | 5 … 8). The community's code pads at
        the end instead: its groups begin three frames later than Wan's and than its own decoder's, which drops the
        first three frames.

        Raises:
            ValueError: a wrong number of frames, a size that is no multiple of the compression, another stream's state.
        """
        frames, height, width = video.shape[2:]
        cell = CELL * self.config.patch_size
        if height % cell or width % cell:
            raise ValueError(
                f"a video of {height}×{width} pixels cannot be encoded: it needs multiples of {cell} pixels"
            )
        if frames < 1 or (frames + GROUP - 1 if state is None else frames) % GROUP:
            rule = "1 + 4k frames begin a stream" if state is None else "4k frames go on with one"
            raise ValueError(f"{frames} frames cannot be encoded: {rule}")
        frame = (video.shape[0], height // cell, width // cell)
        memory = _memory(state, "encoder", frame)
        if state is None:
            video = torch.cat([video[:, :, :1].expand(-1, -1, GROUP - 1, -1, -1), video], dim=2)
        latents = []
        for group in video.split(GROUP, dim=2):
            pictures = F.pixel_unshuffle((group.transpose(1, 2) + 1) / 2, self.config.patch_size)
            latent, memory = _run(self.encoder, pictures.to(self.dtype), memory)
            latents.append(latent.transpose(1, 2))
        return torch.cat(latents, dim=2).to(video.dtype), _state("encoder", frame, memory)

    def decode(
        self, latents: Tensor, state: TinyState | None = None, *, clamp: bool = True
    ) -> tuple[Tensor, TinyState]:
        """Latents (B, C, F, h, w) → video (B, 3, T, 8ph, 8pw) in [−1, 1] and the state for the next call.

        Without a state the latents begin the stream and T = 4F − 3; with one, T = 4F. ``clamp=False`` is for training:
        a pixel out of range keeps its value and its gradient.

        Raises:
            ValueError: no latent frames, a wrong number of channels, another stream's state.
        """
        batch, channels, frames, height, width = latents.shape
        if channels != self.latent_channels or frames < 1:
            raise ValueError(
                f"latents of {channels} channels and {frames} frames cannot be decoded: it needs "
                f"{self.latent_channels} channels and at least 1 frame"
            )
        frame = (batch, height, width)
        memory = _memory(state, "decoder", frame)
        groups = []
        for latent in latents.split(1, dim=2):
            pictures, memory = _run(self.decoder, latent.transpose(1, 2).to(self.dtype), memory)
            pictures = F.pixel_shuffle(pictures, self.config.patch_size)
            pictures = pictures.clamp(0, 1) if clamp else pictures
            groups.append(pictures.transpose(1, 2).to(latents.dtype) * 2 - 1)
        video = torch.cat(groups, dim=2)
        # the first latent frame stands for one frame: the last of its four
        return (video if state is not None else video[:, :, GROUP - 1 :]), _state("decoder", frame, memory)

    @classmethod
    def load(
        cls,
        path: str | Path,
        config: TinyAutoencoderConfig | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        allow_pickle: bool = False,
    ) -> TinyAutoencoder:
        """Read a file in TAEHV's layout: ``taew2_1``, ``taew2_2``, or one that ``save`` wrote.

        Args:
            path: a .safetensors file; another suffix is a pickle and needs ``allow_pickle``.
            config: the required config; None infers it from the file's shapes, which do not distinguish Wan 2.1's
                latents from others with 16 channels.
            dtype: of the weights in memory.
            device: of the weights.
            allow_pickle: allow a pickle, tensors only (``weights_only``).

        Raises:
            ValueError: the file is missing, incomplete, a pickle or of another kind of model; keys or shapes differ.
        """
        tensors = read_state(path, allow_pickle=allow_pickle)
        if not {"encoder.0.weight", "decoder.1.weight"} <= set(tensors):
            names = ", ".join(sorted(tensors)[:3])
            raise ValueError(f"{path} is no tiny autoencoder in TAEHV's layout (its first keys: {names})")
        config = config or recognise(tensors, path)
        channels = tensors["decoder.1.weight"].shape[1]
        if channels != config.latent_channels:
            known = {16: "taew2_1, for Wan 2.1", 48: "taew2_2, for Wan 2.2"}
            looks, fits = known.get(channels, "another model's"), known.get(config.latent_channels, "its own file")
            raise ValueError(
                f"{path} is for latents of {channels} channels ({looks}), the model's have {config.latent_channels}: "
                f"give it {fits}"
            )
        with torch.device("meta"):
            model = cls(config)
        check_state(tensors, model.state_dict(), str(path))
        model.load_state_dict(tensors, assign=True)
        return model.to(device=device, dtype=dtype).eval()

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file that ``load`` reads, whole or not at all."""
        write_tensors(path, self.state_dict())


def recognise(tensors: dict[str, Tensor], path: str | Path = "the file") -> TinyAutoencoderConfig:
    """Infer the config of tensors in TAEHV's layout from their shapes."""

    def shape(name: str) -> torch.Size:
        if name not in tensors:
            raise ValueError(f"{path} lacks {name}: it is incomplete, or no tiny autoencoder in TAEHV's layout")
        return tensors[name].shape

    blocks = next(n for n in count() if f"decoder.{3 + n}.conv.0.weight" not in tensors)
    stage = blocks + 3  # upsampling, growth and a convolution follow the blocks
    ends = islice(count(2 + stage, stage), len(STAGE_GROWTH))
    widths = (shape("decoder.1.weight")[0], *(shape(f"decoder.{end}.weight")[0] for end in ends))
    width, colours = shape("encoder.0.weight")[:2]
    patch = round((colours / 3) ** 0.5)
    if len(widths) != 4 or blocks == 0 or colours != 3 * patch**2:
        raise ValueError(f"{path} is no tiny autoencoder in TAEHV's layout ({blocks} blocks, {colours} colours)")
    return TinyAutoencoderConfig(
        latent_channels=shape("decoder.1.weight")[1],
        patch_size=patch,
        encoder_channels=width,
        decoder_channels=widths,
        blocks=blocks,
    )
