"""Turns a video into training clips: reads, resizes, cuts, tracks and encodes it, identically on every executor."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from motionstream.components import Components, Placement, load_components, random_components
from motionstream.config import ModelConfig
from motionstream.data.samples import Sample, used_rows
from motionstream.data.sources import Filters, SourceVideo
from motionstream.loading import locate
from motionstream.media.pictures import Fit, fit
from motionstream.media.videos import read_video
from motionstream.pixels import to_float
from motionstream.presets import preset
from motionstream.tracks.tracker import TRACKERS, Tracker, grid_points, make_tracker

MAX_GRID = 100


@dataclass(frozen=True)
class PrepareSettings:
    """All that samples depend on besides the source videos and the weights."""

    model: str = "nano"
    """A name or folder as for ``MotionStreamPipeline.from_pretrained``; the transformer is not loaded."""
    untrained: bool = False
    """Use random autoencoder and encoders if a preset has no weights, for tests."""
    size: tuple[int, int] | None = None
    """(height, width) of the clips; the model's own when None."""
    clips_per_video: int = 1
    """Maximum number of consecutive clips from the start of a video."""
    tracker: Literal["lucas-kanade", "template", "cotracker", "cotracker-online"] = "lucas-kanade"
    cotracker: tuple[str, str] | None = None
    """CoTracker's repository and checkpoint (offline and online have different ones); None uses torch.hub's cache."""
    grid: int = 50
    """Points per side of the grid tracked from a clip's first frame: 50 × 50 in the paper."""
    filters: Filters = field(default_factory=Filters)
    unit_videos: int = 64
    """Videos processed as one unit, the most that an interruption loses per worker."""
    shard_bytes: int = 512 * 2**20

    def __post_init__(self) -> None:
        if self.tracker not in TRACKERS:
            raise ValueError(f"tracker = {self.tracker!r}: give one of {', '.join(TRACKERS)}")
        if not 1 <= self.grid <= MAX_GRID:
            raise ValueError(f"grid = {self.grid}: give 1 to {MAX_GRID} points a side")
        for name in ("clips_per_video", "unit_videos", "shard_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: give at least 1")


def find_model(settings: PrepareSettings) -> tuple[ModelConfig, Path | None]:
    """The model's config and its folder, None for random parts. Raises ValueError if the model is not found."""
    found = locate(settings.model)
    if found is not None:
        return found.config, found.folder
    if not settings.untrained:
        raise ValueError(
            f"no weights for {settings.model!r}: give an embedded model or a folder with its autoencoder and encoders "
            "(motionstream convert makes one); --untrained takes a preset's random ones"
        )
    return preset(settings.model), None


def weights_fingerprint(folder: Path | None) -> str:
    """A hexadecimal hash that identifies the autoencoder and encoders by their files' sizes, beginnings and ends.

    Hashing whole files would take minutes: UMT5-XXL's have 11 GB.
    """
    if folder is None:
        return "random"
    digest, edge = hashlib.sha256(), 2**20
    kept = ("vae", "text_encoder", "tokenizer", "image_encoder", "autoencoder.safetensors", "text_encoder.safetensors")
    for path in sorted(path for name in kept for path in [folder / name, *(folder / name).rglob("*")]):
        if not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder)} {size} ".encode())
        with open(path, "rb") as file:
            digest.update(file.read(edge))
            file.seek(max(0, size - edge))
            digest.update(file.read(edge))
    return digest.hexdigest()


def read_clips(
    video: SourceVideo, settings: PrepareSettings, config: ModelConfig
) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The clips of a video, uint8 (clip_frames, H, W, 3) at the model's frame rate and size, and common facts for their
    records.

    Frames are selected by time stamp, rotated upright, scaled to cover the size and cropped to the centre. A truncated
    file is used as far as it goes. Raises ValueError with the reason for skipping the video.
    """
    size = settings.size or config.size
    if reason := settings.filters.refuse(video):
        raise ValueError(reason)
    if os.path.isabs(video.name) or ".." in Path(video.name).parts:
        raise ValueError("its path leads out of the source's folder; videos must lie inside")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        first, native = read_video(video.path, limit=1)
        height, width = first.shape[1:3]
        if reason := settings.filters.refuse_shape(height, width, native):
            raise ValueError(reason)
        limit = settings.clips_per_video * config.clip_frames
        frames, _ = read_video(video.path, fps=config.fps, limit=limit)
    broken = next((str(warning.message) for warning in caught if "breaks off" in str(warning.message)), None)
    count = len(frames) // config.clip_frames
    if count == 0:
        cause = f" ({broken})" if broken else ""
        raise ValueError(
            f"it has {len(frames)} frames at {config.fps:g} fps, a clip of {config.name} has "
            f"{config.clip_frames}{cause}"
        )
    fitted = np.stack([fit(frame, size)[0] for frame in frames[: count * config.clip_frames]])
    facts: dict[str, Any] = {
        "video": video.name,
        "fps": native,
        "size": [height, width],
        "fit": Fit((height, width), size).describe(),
        "columns": video.columns,
    }
    return np.split(fitted, count), facts | ({"warning": broken} if broken else {})


class Encoder:
    """A model's autoencoder and encoders, and a tracker, loaded when first used."""

    def __init__(self, settings: PrepareSettings, placement: Placement) -> None:
        self.settings, self.placement = settings, placement
        self.config, self.folder = find_model(settings)

    @cached_property
    def parts(self) -> Components:
        """The parts around the transformer."""
        if self.folder is None:
            return random_components(self.config, self.placement)
        return load_components(self.folder, self.config, self.placement)

    @cached_property
    def tracker(self) -> Tracker:
        """The selected tracker. Raises ValueError if its files are missing."""
        device = str(self.placement.torch_device)
        return make_tracker(self.settings.tracker, self.settings.cotracker, device)

    def load(self) -> None:
        """Load the parts and the tracker now. Raises ValueError if files are missing, damaged or of another model."""
        assert self.parts is not None and self.tracker is not None

    @torch.no_grad()
    def texts(self, sentences: Sequence[str]) -> list[Tensor]:
        """Tokens of each sentence without padding, float16 on the CPU. All sentences are encoded in one call, for which
        the encoder is loaded once."""
        distinct = list(dict.fromkeys(sentences))
        encoded = self.parts.text_encoder.encode(distinct)
        rows = {s: to_half("text tokens", used_rows(row)) for s, row in zip(distinct, encoded, strict=True)}
        return [rows[sentence] for sentence in sentences]

    @torch.no_grad()
    def images(self, pictures: Sequence[Tensor]) -> list[Tensor | None]:
        """Tokens of pictures uint8 (3, H, W), float16 on the CPU; None for each if the model has no image encoder."""
        encoder = self.parts.image_encoder
        if encoder is None or not pictures:
            return [None] * len(pictures)
        tokens = encoder.encode(torch.stack([to_float(picture) for picture in pictures]))
        return [to_half("image tokens", one) for one in tokens]

    @torch.no_grad()
    def latents(self, frames: Tensor) -> Tensor:
        """Latents float16 (C, F, h, w) on the CPU of frames uint8 (3, T, H, W), encoded by chunks to bound memory."""
        parts: list[Tensor] = []
        state, start = None, 0
        while start < frames.shape[1]:
            stop = start + self.config.chunk_video_frames(len(parts))
            chunk = to_float(frames[:, start:stop].to(self.placement.torch_device))[None]
            latents, state = self.parts.autoencoder.encode(chunk, state)
            parts.append(to_half("latents", latents[0]))
            start = stop
        return torch.cat(parts, dim=1)

    def clip(self, frames: np.ndarray, key: str, caption: str, source: dict[str, Any]) -> Sample:
        """Track and encode a clip uint8 (T, H, W, 3); text and image tokens are added later."""
        tracks = self.tracker.track(frames, grid_points(frames.shape[1:3], self.settings.grid), self.config.fps)
        tracks = tracks.clipped()
        video = torch.from_numpy(frames).permute(3, 0, 1, 2)
        return Sample(
            key=key,
            latents=self.latents(video),
            positions=torch.from_numpy(np.nan_to_num(tracks.positions)),
            visible=torch.from_numpy(tracks.visible.copy()),
            text=torch.zeros(0, 0, dtype=torch.float16),
            image=None,
            first_frame=video[:, 0].contiguous(),
            caption=caption,
            fps=self.config.fps,
            source=source,
        )


def to_half(name: str, value: Tensor) -> Tensor:
    """Convert to half precision on the CPU. Raises ValueError, the reason for skipping the video, if a value does not
    fit."""
    half = value.to("cpu", torch.float16)
    if not half.isfinite().all():
        raise ValueError(f"its {name} are not finite in half precision (largest {value.abs().max():g})")
    return half
