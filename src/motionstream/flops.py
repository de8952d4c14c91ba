"""Counts a model's floating-point operations, for comparison with measured times.

Counted as in ``torch.utils.flop_counter``: matrix products, convolutions and attention, a multiply-add being two
operations. Norms, softmax, other element-wise work and the look-up of tracks are not counted. The transformer and the
encoders are given by formulas, which count any attention backend; autoencoders and the small convolutional parts run on
the meta device under torch's counter. Nothing is allocated.

Legend: D width, L tokens, S keys, F latent frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.autoencoder.tiny import TinyAutoencoder
from motionstream.autoencoder.wan import WanAutoencoder
from motionstream.carry.prior import CarryPrior
from motionstream.carry.showing import CarriedPicture, decode_around
from motionstream.component_config import (
    AutoencoderConfig,
    CLIPConfig,
    DecoderChoice,
    LinearAutoencoderConfig,
    TextConfig,
    TextEncoderConfig,
    TinyAutoencoderConfig,
    UMT5Config,
)
from motionstream.conditioning.track_head import TrackHead
from motionstream.config import CARRY_CANDIDATES, CARRY_FEATURES, CausalConfig, ModelConfig, TransformerConfig

Module = TypeVar("Module", bound=nn.Module)
Size = tuple[int, int]
"""(height, width), of the video or of its latents."""


@dataclass(frozen=True)
class ForwardFlops:
    """One evaluation of the transformer. The attentions count only the products of queries, keys and values.

    ``context``: embeddings, keys and values of the text and image tokens. They are the same in every evaluation and
    could be cached, but the model computes them each time.
    """

    self_attention: int
    cross_attention: int
    linear: int
    context: int

    @property
    def total(self) -> int:
        return self.self_attention + self.cross_attention + self.linear + self.context


@dataclass(frozen=True)
class ChunkFlops:
    """One chunk of a stream in steady state, by the stages that ``stream.Timings`` times.

    ``conditions``: track head and carried content. ``decode``: all latent frames of the chunk.
    """

    forward: ForwardFlops
    steps: int
    conditions: int
    decode: int

    @property
    def generate(self) -> int:
        return self.steps * self.forward.total

    @property
    def settle(self) -> int:
        """The clean pass."""
        return self.forward.total

    @property
    def total(self) -> int:
        return self.conditions + self.generate + self.decode + self.settle


@dataclass(frozen=True)
class StartFlops:
    """One-time cost of a stream: ``picture`` through the autoencoder, ``text`` and ``image`` through their encoders."""

    picture: int
    text: int
    image: int


def chunk_flops(config: ModelConfig, *, size: Size | None = None, decoder: DecoderChoice = "full") -> ChunkFlops:
    """One chunk of ``config``'s student once sink and window are full.

    Args:
        size: (height, width) of the video; the model's own when None.

    Raises:
        ValueError: the model lacks the tiny decoder, or any autoencoder.
    """
    causal = config.causal
    visible = len(causal.visible_chunks(causal.sink_chunks + causal.window_chunks))
    tokens = causal.chunk_frames * tokens_per_frame(config, size)
    return ChunkFlops(
        forward=_forward(config, tokens=tokens, keys=visible * tokens, times=causal.chunk_frames),
        steps=len(config.sampler.student_times),
        conditions=_condition_flops(config, size or config.size),
        decode=causal.chunk_frames * decoder_flops(config, size=size, decoder=decoder),
    )


def clip_flops(config: ModelConfig, latent_frames: int, *, size: Size | None = None) -> ForwardFlops:
    """One evaluation of the teacher over a whole clip, with full attention. Guidance takes three."""
    tokens = latent_frames * tokens_per_frame(config, size)
    return _forward(config, tokens=tokens, keys=tokens, times=latent_frames)


def causal_clip_flops(
    config: ModelConfig, latent_frames: int, causal: CausalConfig, *, size: Size | None = None, cached: bool = False
) -> ForwardFlops:
    """One evaluation of every chunk of a clip, each attending to its sink, window and itself, as in training.

    Args:
        latent_frames: in whole chunks of ``causal``, from the beginning of a stream.
        cached: chunk by chunk against the cache, so that every chunk computes the keys and values of the text and image
            tokens; otherwise the whole clip in one forward.
    """
    frame = tokens_per_frame(config, size)
    chunk_tokens, chunks = causal.chunk_frames * frame, latent_frames // causal.chunk_frames
    pairs = sum(len(causal.visible_chunks(chunk)) for chunk in range(chunks))  # (chunk, visible chunk)
    whole = _forward(config, tokens=chunks * chunk_tokens, keys=0, times=latent_frames)
    chunk = _forward(config, tokens=chunk_tokens, keys=chunk_tokens, times=causal.chunk_frames)
    context = whole.context * (chunks if cached else 1)
    return replace(whole, self_attention=pairs * chunk.self_attention, context=context)


def condition_flops(config: ModelConfig, latent_frames: int, *, size: Size | None = None) -> int:
    """The track head, the prior of carried content and the small text encoder over a clip, as in training, where
    carried content is already encoded."""
    text = 0 if not isinstance(config.text, TextConfig) else text_flops(config.text, config.transformer.text_dim)
    return text + _condition_parts(config, latent_frames, size or config.size)


def start_flops(config: ModelConfig, *, size: Size | None = None) -> StartFlops:
    """The encoding before a stream begins; the sentence is assumed to fill all tokens."""
    text = 0 if config.text is None else text_flops(config.text, config.transformer.text_dim)
    image = 0 if config.image_encoder is None else clip_image_flops(config.image_encoder)
    return StartFlops(picture=encode_flops(config, 1, size=size), text=text, image=image)


def encode_flops(config: ModelConfig, frames: int, *, size: Size | None = None) -> int:
    """Encoding ``frames`` video frames, 1 + 4k, by the model's autoencoder."""
    return _encode_flops(_autoencoder_of(config), frames, size or config.size)


def tokens_per_frame(config: ModelConfig, size: Size | None = None) -> int:
    """Tokens of one latent frame of a (height, width) video."""
    height, width = config.latents_of(size or config.size)
    _, rows, columns = config.transformer.patch_size
    return (height // rows) * (width // columns)


def _forward(config: ModelConfig, *, tokens: int, keys: int, times: int) -> ForwardFlops:
    text = 0 if config.text is None else config.text.tokens
    image = 0 if config.image_encoder is None else config.image_encoder.tokens
    return transformer_flops(
        config.transformer, tokens=tokens, keys=keys, times=times, text_tokens=text, image_tokens=image
    )


def transformer_flops(
    config: TransformerConfig, *, tokens: int, keys: int, times: int, text_tokens: int, image_tokens: int = 0
) -> ForwardFlops:
    """One evaluation of ``MotionTransformer`` for a batch of one.

    Args:
        tokens, keys: L queries and the S keys that each attends to, itself included.
        times: number of noise levels: one per latent frame (F) or 1.
        text_tokens, image_tokens: numbers of tokens; 0 image tokens for models without an image branch.
    """
    width, patch = config.width, math.prod(config.patch_size)
    image_dim, added = config.image_dim or 0, config.added_kv_proj_dim or 0
    # multiply-adds from here on, doubled at the end
    block = tokens * (6 * width**2 + 2 * width * config.ffn_dim)  # q, k, v, out; q, out; feed-forward
    ends = tokens * patch * (config.in_channels + config.out_channels) * width
    time = times * (config.freq_dim * width + width**2 + 6 * width**2)
    text = text_tokens * (config.text_dim * width + width**2 + config.num_layers * 2 * width**2)
    image = image_tokens * (image_dim**2 + image_dim * width + config.num_layers * 2 * added * width)
    return ForwardFlops(
        self_attention=2 * config.num_layers * 2 * tokens * keys * width,
        cross_attention=2 * config.num_layers * 2 * tokens * (text_tokens + image_tokens) * width,
        linear=2 * (config.num_layers * block + ends + time),
        context=2 * (text + image),
    )


def text_flops(config: TextEncoderConfig, dim: int) -> int:
    """Encoding one sentence that fills all tokens. ``dim``: width of the small encoder's tokens, unused for UMT5."""
    tokens = config.tokens
    if not isinstance(config, UMT5Config):
        return 2 * tokens * 4 * dim**2
    inner = config.num_heads * config.d_kv
    layer = tokens * (4 * config.d_model * inner + 3 * config.d_model * config.d_ff) + 2 * tokens**2 * inner
    return 2 * config.num_layers * layer


def clip_image_flops(config: CLIPConfig) -> int:
    """Encoding one picture, including the last layer, although only the one before it is used."""
    width, tokens = config.hidden_size, config.tokens
    layer = tokens * (4 * width**2 + 2 * width * config.intermediate_size) + 2 * tokens**2 * width
    patches = (tokens - 1) * 3 * config.patch_size**2 * width
    return 2 * (config.num_hidden_layers * layer + patches)


def decoder_flops(config: ModelConfig, *, size: Size | None = None, decoder: DecoderChoice = "full") -> int:
    """Decoding one latent frame in the middle of a stream."""
    part: AutoencoderConfig | TinyAutoencoderConfig = _autoencoder_of(config)
    if decoder == "tiny":
        if config.tiny_decoder is None:
            raise ValueError(f"model {config.name!r} has no tiny decoder; count the full one")
        part = config.tiny_decoder
    return _decode_flops(part, config.latents_of(size or config.size))


def _autoencoder_of(config: ModelConfig) -> AutoencoderConfig:
    if config.autoencoder is None:
        raise ValueError(f"model {config.name!r} names no autoencoder to count")
    return config.autoencoder


def count(run: Callable[[], object]) -> int:
    """Operations of ``run`` according to torch's counter."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def on_meta(build: Callable[[], Module]) -> Module:
    """Build a module on the meta device, buffers included."""
    with torch.device("meta"):
        return build().to("meta")


def _build_autoencoder(
    config: AutoencoderConfig | TinyAutoencoderConfig,
) -> LinearAutoencoder | WanAutoencoder | TinyAutoencoder:
    if isinstance(config, LinearAutoencoderConfig):
        return on_meta(lambda: LinearAutoencoder(config))
    if isinstance(config, TinyAutoencoderConfig):
        return on_meta(lambda: TinyAutoencoder(config))
    return on_meta(lambda: WanAutoencoder(config))


@lru_cache(maxsize=64)
def _decode_flops(config: AutoencoderConfig | TinyAutoencoderConfig, latent_size: Size) -> int:
    autoencoder = _build_autoencoder(config)
    latent = torch.empty(1, config.latent_channels, 1, *latent_size, device="meta")
    with torch.no_grad():
        _, state = autoencoder.decode(latent)
        if isinstance(autoencoder, LinearAutoencoder):  # decodes around a carried picture, as in every stream
            detail = torch.empty(1, autoencoder.config.block_values, 1, *latent_size, device="meta")
            picture = CarriedPicture(latent, detail)
            return count(lambda: decode_around(autoencoder, latent, picture, None))
    return count(lambda: autoencoder.decode(latent, state))  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def _encode_flops(config: AutoencoderConfig, frames: int, size: Size) -> int:
    autoencoder = _build_autoencoder(config)
    return count(lambda: autoencoder.encode(torch.empty(1, 3, frames, *size, device="meta")))


def _condition_flops(config: ModelConfig, size: Size) -> int:
    """Track head and carried content of a chunk in the middle of a stream."""
    latent_frames = config.causal.chunk_frames
    flops = _condition_parts(config, latent_frames, size)
    if config.carry is None:
        return flops
    autoencoder = _build_autoencoder(_autoencoder_of(config))
    assert isinstance(autoencoder, LinearAutoencoder)
    videos = torch.empty(CARRY_CANDIDATES, 3, latent_frames * config.temporal_compression, *size, device="meta")
    latents = torch.empty(1, config.latent_channels, latent_frames, *config.latents_of(size), device="meta")
    flops += count(lambda: autoencoder.encode_part(videos, first=False))
    return flops + count(lambda: autoencoder.decode_linear(latents))


@lru_cache(maxsize=64)
def _condition_parts(config: ModelConfig, latent_frames: int, size: Size) -> int:
    """Track head and prior for some latent frames, with carried content already encoded."""
    spatial, temporal, cells = config.spatial_compression, config.temporal_compression, config.latents_of(size)
    head = on_meta(lambda: TrackHead(config.track_head, spatial=spatial, temporal=temporal))
    with torch.device("meta"):
        ids = torch.empty(1, head.compress.in_channels, latent_frames * temporal, *cells)
        flops = count(lambda: head.project(head.compress(ids)))
        if config.carry is None:
            return flops
        carry = config.carry
        prior = on_meta(lambda: CarryPrior(carry, config.latent_channels, spatial=spatial, temporal=temporal))
        candidates = torch.empty(1, CARRY_CANDIDATES, config.latent_channels, latent_frames, *cells)
        features = torch.empty(1, CARRY_FEATURES, latent_frames, *cells)
        return flops + count(lambda: prior(candidates, features))
