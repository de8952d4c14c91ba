"""Model configs, as frozen dataclasses that check themselves.

Axes: latents and videos are ``B C T H W``; ``size`` is always (height, width). A *chunk* is the latent frames generated
together; the *sink* the first chunks, always attended to; the *window* the last ones.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, TypeVar

from motionstream.component_config import (
    AutoencoderConfig,
    CLIPConfig,
    LinearAutoencoderConfig,
    Precision,
    TextConfig,
    TextEncoderConfig,
    TinyAutoencoderConfig,
    UMT5Config,
    WanAutoencoderConfig,
    require,
)

T = TypeVar("T")

INPUT_SLICES = ("noise", "tracks", "image", "carry")

MAX_STEPS = 4
"""Most denoising steps per chunk that may be requested of any student."""

CARRY_CANDIDATES = 3
CARRY_FEATURES = 8
"""Candidate pictures per frame of carried content, and channels that describe the chosen tracks."""


@dataclass(frozen=True)
class CausalConfig:
    """The chunks that a chunk attends to while streaming (paper, section 3.2), c3s1w1 in the paper's notation."""

    chunk_frames: int = 3
    sink_chunks: int = 1
    window_chunks: int = 1
    rope: Literal["slot", "absolute"] = "slot"
    """``slot``: a chunk's rope position is its slot in the cache. ``absolute``: its index in the stream, only for the
    paper's sliding-window baseline (c3s0w6)."""

    def __post_init__(self) -> None:
        require(self.chunk_frames >= 1, "chunk_frames", self.chunk_frames, "must be at least 1 latent frame")
        require(self.sink_chunks >= 0, "sink_chunks", self.sink_chunks, "must not be negative")
        require(self.window_chunks >= 0, "window_chunks", self.window_chunks, "must not be negative")
        require(self.rope in ("slot", "absolute"), "rope", self.rope, "must be 'slot' or 'absolute'")
        sunk = self.rope == "slot" or self.sink_chunks == 0
        require(sunk, "sink_chunks", self.sink_chunks, "a sink needs rope='slot' (sinks have no absolute place)")

    @classmethod
    def parse(cls, text: str, rope: Literal["slot", "absolute"] = "slot") -> CausalConfig:
        """``c3s1w1`` → chunk of 3 latent frames, 1 sink chunk, 1 window chunk."""
        match = re.fullmatch(r"c(\d+)s(\d+)w(\d+)", text)
        if match is None:
            raise ValueError(f"attention pattern {text!r}: write it like c3s1w1 (chunk, sink, window)")
        chunk, sink, window = (int(group) for group in match.groups())
        return cls(chunk, sink, window, rope)

    def __str__(self) -> str:
        return f"c{self.chunk_frames}s{self.sink_chunks}w{self.window_chunks}"

    def slot(self, chunk: int) -> int:
        """The slot in which ``chunk`` (from 0) is generated, which is its rope position in chunks."""
        return chunk if self.rope == "absolute" else min(chunk, self.sink_chunks + self.window_chunks)

    def visible_chunks(self, chunk: int) -> list[tuple[int, int]]:
        """(chunk, rope position in chunks) of every chunk that ``chunk`` attends to, itself last."""
        slot = self.slot(chunk)
        sinks = [(j, j) for j in range(min(self.sink_chunks, chunk))]
        first = max(self.sink_chunks, chunk - self.window_chunks)
        return sinks + [(j, slot - (chunk - j)) for j in range(first, chunk)] + [(chunk, slot)]


@dataclass(frozen=True)
class TransformerConfig:
    """Constructor arguments of the transformer, named as in diffusers' ``WanTransformer3DModel``."""

    num_attention_heads: int
    attention_head_dim: int
    in_channels: int
    out_channels: int
    text_dim: int
    ffn_dim: int
    num_layers: int
    patch_size: tuple[int, int, int] = (1, 2, 2)
    freq_dim: int = 256
    cross_attn_norm: bool = True
    eps: float = 1e-6
    image_dim: int | None = None
    added_kv_proj_dim: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "num_attention_heads",
            "in_channels",
            "out_channels",
            "text_dim",
            "ffn_dim",
            "num_layers",
        ):
            value = getattr(self, name)
            require(value >= 1, f"transformer.{name}", value, "must be at least 1")
        head = self.attention_head_dim
        require(head % 2 == 0 and head >= 6, "transformer.attention_head_dim", head, "must be even, at least 6")
        require(self.patch_size[0] == 1, "transformer.patch_size", self.patch_size, "time is never patched")

    @property
    def width(self) -> int:
        return self.num_attention_heads * self.attention_head_dim


@dataclass(frozen=True)
class TrackHeadConfig:
    """The track head (paper, eq. 1): ids on a grid, 4× compression in time, a 1×1×1 convolution."""

    out_channels: int
    id_dim: int = 64
    hidden_channels: int = 64
    id_range: int = 100_000
    """Ids are drawn from 0 … id_range − 1, each at most once per scene."""
    hidden_map: bool = False
    """Add a second map for hidden points. Without it, hidden and unspecified points give the same input, zeros, a
    limitation that the paper names (section 3.1)."""

    offsets: bool = False
    """Add two channels to each map: a track's position within its cell."""

    @property
    def map_channels(self) -> int:
        """Channels of all maps together."""
        return (2 if self.hidden_map else 1) * (self.id_dim + (2 if self.offsets else 0))

    def __post_init__(self) -> None:
        require(self.id_dim % 2 == 0, "track_head.id_dim", self.id_dim, "must be even: sines and cosines")
        require(self.out_channels >= 1, "track_head.out_channels", self.out_channels, "must be at least 1")
        require(self.id_range >= 10_000, "track_head.id_range", self.id_range, "must cover every track of a scene")


@dataclass(frozen=True)
class MixerConfig:
    """The network that mixes candidate pictures pixel by pixel, see ``carry/pixel_mixer.py``. Its U-Nets work at half
    the picture's size and halve it again for every further width."""

    look_widths: tuple[int, ...] = (24, 48, 64, 64)
    """Widths of ``look``, which computes features once per source picture."""
    mix_widths: tuple[int, ...] = (20, 40, 48, 48)
    """Widths of ``mix``, which weighs the candidates, frame by frame."""
    outline_widths: tuple[int, ...] = ()
    """Widths of the outliner, which predicts the mask of a thing once; empty: things are cut out without it."""
    features: int = 16
    """Output channels of ``look``, compared in ``heads`` groups."""
    heads: int = 4

    def __post_init__(self) -> None:
        for name in ("look_widths", "mix_widths", "outline_widths"):
            widths = getattr(self, name)
            require(widths or name == "outline_widths", f"mixer.{name}", widths, "must name at least one width")
            require(all(width >= 1 for width in widths), f"mixer.{name}", widths, "must be at least 1 each")
        require(self.heads >= 1, "mixer.heads", self.heads, "must be at least 1")
        require(
            self.features >= 1 and self.features % self.heads == 0,
            "mixer.features",
            self.features,
            f"must divide into heads = {self.heads}",
        )

    @property
    def multiple(self) -> int:
        """The sides of pictures must be multiples of this."""
        return int(2 ** max(len(self.look_widths), len(self.mix_widths), len(self.outline_widths)))


@dataclass(frozen=True)
class CarryConfig:
    """Picture content carried along the tracks, see ``carry/candidates.py``."""

    grid: int = 2
    """Pixels between the places at which the nearest track is looked up."""
    mixer: MixerConfig | None = None
    """Mixes the candidates pixel by pixel; None: the candidate moved with the nearest track is carried."""
    max_tracks: int = 512
    """More tracks than this are thinned evenly before the look-up, to bound the latency."""
    hidden_channels: int = 96
    min_std: float = 0.02
    """Smallest standard deviation of the prior, in latent units."""

    def __post_init__(self) -> None:
        require(self.grid >= 1, "carry.grid", self.grid, "must be at least one pixel")
        require(self.max_tracks >= 1, "carry.max_tracks", self.max_tracks, "must be at least 1")
        require(self.min_std > 0, "carry.min_std", self.min_std, "must be positive")
        require(self.mixer is None or self.grid % 2 == 0, "carry.grid", self.grid, "must be even to mix pixels")

    @property
    def carried(self) -> int:
        """Index of the carried picture among the candidates: the mixer's, or the one moved with the nearest track."""
        return 0 if self.mixer is None else 1


@dataclass(frozen=True)
class SamplerConfig:
    """Steps and guidance. Times run from 1 (noise) to 0 (clean)."""

    student_times: tuple[float, ...] = (1.0, 0.909, 0.714)
    """Noise levels at which the few-step student is evaluated, one evaluation each."""
    teacher_steps: int = 50
    shift: float = 5.0
    """Timestep shift k of the teacher's schedule, t' = k t / (1 + (k − 1) t)."""
    temperature: float = 1.0
    """Factor on the sampling noise. Below 1 a small model stays nearer its mean: calmer, less varied."""
    text_guidance: float = 3.0
    motion_guidance: float = 1.5
    negative_prompt: str = ""
    """What the teacher's guidance steers away from; the empty sentence is the plain null condition."""

    def __post_init__(self) -> None:
        times = self.student_times
        falling = all(a > b for a, b in pairwise(times))
        ok = len(times) > 0 and falling and times[-1] > 0 and times[0] <= 1
        require(ok, "sampler.student_times", times, "must fall strictly, from at most 1 to above 0")
        require(self.teacher_steps >= 1, "sampler.teacher_steps", self.teacher_steps, "must be at least 1")
        require(0 <= self.temperature <= 1, "sampler.temperature", self.temperature, "must lie in 0..1")
        require(self.shift > 0, "sampler.shift", self.shift, "must be positive")
        weights = (self.text_guidance, self.motion_guidance)
        require(min(weights) >= 0, "sampler guidance", weights, "weights must not be negative")


@dataclass(frozen=True)
class ModelConfig:
    """The complete config of a model. ``inputs`` lists the channel slices of the transformer's input in order.

    Slices: ``noise`` (the noisy latents, always first), ``tracks`` (the track head), ``image`` (for ``concat``: the
    picture's latent in frame 0 and zeros after it, or with ``still_std`` in every frame), ``carry`` (carried content).
    """

    name: str
    size: tuple[int, int]
    fps: float
    latent_channels: int
    inputs: tuple[tuple[str, int], ...]
    transformer: TransformerConfig
    track_head: TrackHeadConfig
    image_conditioning: Literal["first_latent", "concat"] = "first_latent"
    latents_along_tracks: bool = False
    """Fill the image slice of later frames, where tracks are, with the latents from where these began; see
    ``conditioning/track_content.py``. Not in the paper."""
    carry: CarryConfig | None = None
    still_std: float | None = None
    """Predict around a still video: the prior of every latent frame is the given picture's latent, or what tracks bring
    along, with this standard deviation (models that carry content predict around that instead). None: predict the plain
    velocity, like Wan. A network narrower than its tokens' latents cannot predict a velocity, which contains all the
    noise."""
    text: TextEncoderConfig | None = None
    image_encoder: CLIPConfig | None = None
    autoencoder: AutoencoderConfig | None = None
    tiny_decoder: TinyAutoencoderConfig | None = None
    """A small autoencoder for the same latents, whose decoder can replace the full one."""
    causal: CausalConfig = field(default_factory=CausalConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    spatial_compression: int = 8
    temporal_compression: int = 4
    sizes: tuple[tuple[int, int], ...] = ()
    """Further supported (height, width): portrait and square with the same number of pixels."""
    clip_frames: int = 45
    """Length in frames of the training clips; must be whole chunks."""
    dtype: Precision = "float32"
    """Precision of weights and activations, except parts that stay in float32 (``model/precision.py``)."""

    def __post_init__(self) -> None:
        multiple = self.spatial_compression * self.transformer.patch_size[1]
        for size in self.all_sizes:
            fits = len(size) == 2 and all(side > 0 and side % multiple == 0 for side in size)
            require(fits, "size", size, f"height and width must be positive multiples of {multiple}")
        require(self.fps > 0, "fps", self.fps, "must be positive")
        total = sum(width for _, width in self.inputs)
        expected = self.transformer.in_channels
        require(total == expected, "inputs", self.inputs, f"widths add to {total}, the transformer takes {expected}")
        first = self.inputs[0] if self.inputs else None
        require(first == ("noise", self.latent_channels), "inputs", self.inputs, "must begin with the noisy latents")
        widths = dict(self.inputs)
        require(len(widths) == len(self.inputs), "inputs", self.inputs, "names must differ")
        unknown = sorted(set(widths) - set(INPUT_SLICES))
        require(not unknown, "inputs", self.inputs, f"may only name {', '.join(INPUT_SLICES)}")
        require("tracks" in widths, "inputs", self.inputs, "a 'tracks' slice is needed for motion control")
        head = self.track_head.out_channels
        require(widths["tracks"] == head, "track_head.out_channels", head, "must equal the tracks slice")
        require(("carry" in widths) == (self.carry is not None), "carry", self.carry, "needs a 'carry' input slice")
        concat = self.image_conditioning == "concat"
        require(
            ("image" in widths) == concat,
            "image_conditioning",
            self.image_conditioning,
            "'concat' needs an 'image' slice, and only it",
        )
        told = self.latents_along_tracks
        require(concat or not told, "latents_along_tracks", told, "needs an 'image' slice: image_conditioning 'concat'")
        image = widths.get("image", self.latent_channels)
        require(image == self.latent_channels, "inputs", self.inputs, "the image slice is as wide as the latents")
        require(
            self.still_std is None or (self.still_std > 0 and self.carry is None),
            "still_std",
            self.still_std,
            "must be positive, and is not for models that carry content: they predict around that",
        )
        require(
            self.carry is None or isinstance(self.autoencoder, LinearAutoencoderConfig),
            "carry",
            self.carry,
            "needs the linear autoencoder: it is encoded anew at every chunk",
        )
        if isinstance(self.autoencoder, LinearAutoencoderConfig):
            cell, patch = self.spatial_compression, self.autoencoder.patch
            require(patch == cell, "autoencoder.patch", patch, f"must be the model's spatial_compression, {cell}")
        multiple = self.carry.mixer.multiple if self.carry is not None and self.carry.mixer is not None else 1
        fits = all(side % multiple == 0 for size in self.all_sizes for side in size)
        require(fits, "carry.mixer", f"{len(self.all_sizes)} sizes", f"needs sides that are multiples of {multiple}")
        encoder = None if self.image_encoder is None else self.image_encoder.hidden_size
        require(
            encoder == self.transformer.image_dim,
            "image_encoder.hidden_size",
            encoder,
            f"the transformer's image_dim is {self.transformer.image_dim}",
        )
        for part in (self.autoencoder, self.tiny_decoder):
            width = self.latent_channels if part is None else part.latent_channels
            require(
                width == self.latent_channels,
                "autoencoder.latent_channels",
                width,
                f"the model's are {self.latent_channels}",
            )
        whole = self.whole_chunks(self.clip_frames)
        require(whole == self.clip_frames > 0, "clip_frames", self.clip_frames, f"must be whole chunks: {whole} are")
        require(self.dtype in ("float32", "bfloat16"), "dtype", self.dtype, "must be 'float32' or 'bfloat16'")

    @property
    def all_sizes(self) -> tuple[tuple[int, int], ...]:
        """``size`` and ``sizes``, without repetition."""
        return tuple(dict.fromkeys((self.size, *self.sizes)))

    def nearest_size(self, height: int, width: int) -> tuple[int, int]:
        """The supported (height, width) nearest in aspect ratio to a picture's."""
        return min(self.all_sizes, key=lambda size: abs(math.log(size[1] / size[0] * height / width)))

    def checked_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """``size`` (height, width); ValueError if it is impossible for the latents."""
        multiple = self.spatial_compression * self.transformer.patch_size[1]
        if any(side < multiple or side % multiple for side in size):
            raise ValueError(f"size {size[1]}x{size[0]}: width and height of {self.name} are multiples of {multiple}")
        return size

    def latents_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the latents for a (height, width) video."""
        return size[0] // self.spatial_compression, size[1] // self.spatial_compression

    @property
    def latent_size(self) -> tuple[int, int]:
        return self.size[0] // self.spatial_compression, self.size[1] // self.spatial_compression

    def frames_of(self, latent_frames: int) -> int:
        """Number of frames that the first ``latent_frames`` latent frames of a stream stand for."""
        return (latent_frames - 1) * self.temporal_compression + 1

    def whole_chunks(self, frames: int) -> int:
        """``frames`` rounded down to whole chunks: for Wan 2.2's 121 and 241 frames, 117 and 237."""
        latent = (frames - 1) // self.temporal_compression + 1
        return self.frames_of(latent // self.causal.chunk_frames * self.causal.chunk_frames)

    def chunk_video_frames(self, chunk: int) -> int:
        """Number of frames of chunk ``chunk`` (from 0): with the usual sizes 9 for the first, 12 for every other."""
        frames = self.causal.chunk_frames
        return self.frames_of(frames) if chunk == 0 else frames * self.temporal_compression

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of ``to_dict``, from JSON. ValueError names an unknown setting."""
        settings = {k: _build(NESTED[k], v) if k in NESTED and v is not None else v for k, v in values.items()}
        if "inputs" in settings:
            settings["inputs"] = tuple((str(name), int(width)) for name, width in settings["inputs"])
        if "sizes" in settings:
            settings["sizes"] = tuple((int(height), int(width)) for height, width in settings["sizes"])
        return _build(cls, settings)


NESTED: dict[str, tuple[type, ...]] = {
    "transformer": (TransformerConfig,),
    "track_head": (TrackHeadConfig,),
    "carry": (CarryConfig,),
    "text": (TextConfig, UMT5Config),
    "image_encoder": (CLIPConfig,),
    "autoencoder": (LinearAutoencoderConfig, WanAutoencoderConfig),
    "tiny_decoder": (TinyAutoencoderConfig,),
    "causal": (CausalConfig,),
    "sampler": (SamplerConfig,),
}
"""Settings that are configs themselves. Among several types, ``kind`` selects one; without it, the first."""


INNER: dict[type, dict[str, type]] = {CarryConfig: {"mixer": MixerConfig}}
"""Settings within these that are configs, too."""


def _build(choices: type[T] | tuple[type[T], ...], values: dict[str, Any]) -> T:
    cls = choices if isinstance(choices, type) else choices[0]
    if isinstance(choices, tuple) and len(choices) > 1 and "kind" in values:
        kinds = {choice.kind: choice for choice in choices}  # type: ignore[attr-defined]
        if values["kind"] not in kinds:
            raise ValueError(f"kind {values['kind']!r} is unknown; known: {', '.join(sorted(kinds))}")
        cls = kinds[values["kind"]]
    inner = INNER.get(cls, {})
    values = {k: _build(inner[k], v) if k in inner and v is not None else v for k, v in values.items()}
    known = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{cls.__name__} has no setting {unknown[0]!r}; it knows {', '.join(sorted(known))}")
    return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
