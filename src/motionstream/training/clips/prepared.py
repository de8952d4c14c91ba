"""Prepared clips, which the diffusion stages train on, and the protocol of their sources.

A ``ClipSource`` provides the clips of a step: ``rendered`` renders them, ``shards`` reads the shards that
``motionstream prepare`` has written.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from motionstream.autoencoder.linear import DecoderState, LinearAutoencoder, from_blocks
from motionstream.carry.pixel_mixer import PixelMixer
from motionstream.carry.relations import CarrySource
from motionstream.conditioning.track_content import latents_at
from motionstream.config import ModelConfig
from motionstream.model.motion_model import CarriedLatents, MotionInput, MotionModel
from motionstream.tracks.sampling import SampledTracks, chunk_starts
from motionstream.training.clips.streamed_content import StreamedContent

_HALVED = ("latents", "candidates", "features", "held", "picture", "detail", "text", "image")


@dataclass(frozen=True)
class PreparedClips:
    """A batch ready for training.

    ``latents`` (B, C, F, h, w). Tracks: ``positions`` (B, T, M, 2), ``visible`` (B, T, M), ``start`` (B, M, 2) and
    ``events`` (B, chunks), see ``SampledTracks``. Carried content, encoded: ``candidates`` (B, 3, C, F, h, w) and
    ``features`` (B, 8, F, h, w), see ``CarriedLatents``; without elements for models that carry none. Only for models
    that carry content: ``held`` (see ``CarriedLatents``), ``picture`` (B, 3, H, W), the given one in [−1, 1], and
    ``detail`` (B, chunks, 3, H, W), the residual that the linear code loses of the content carried to the last frame of
    each chunk. If large encoders ran
    beforehand, ``text`` (B, tokens, width) holds the tokens of the ``captions`` and ``image`` (B, tokens, width) those
    of the first frame; otherwise both are None.

    If the sentence changes within a clip (``light``): from chunk ``switch`` (B,) on it is that of ``later``.
    """

    latents: Tensor
    positions: Tensor
    visible: Tensor
    start: Tensor
    events: Tensor
    candidates: Tensor
    features: Tensor
    captions: list[str]
    held: Tensor | None = None
    picture: Tensor | None = None
    detail: Tensor | None = None
    text: Tensor | None = None
    image: Tensor | None = None
    switch: Tensor | None = None
    later: list[str] | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def tensors(self) -> dict[str, Tensor]:
        """All fields except the sentences, by name, without those that are None."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("captions", "later")}
        return {name: value for name, value in values.items() if value is not None}

    def take(self, index: list[int]) -> PreparedClips:
        """These clips, in this order."""
        chosen: dict[str, Any] = {name: value[index] for name, value in self.tensors().items()}
        later = None if self.later is None else [self.later[i] for i in index]
        return PreparedClips(**chosen, captions=[self.captions[i] for i in index], later=later)

    @staticmethod
    def join(parts: list[PreparedClips]) -> PreparedClips:
        each = [part.tensors() for part in parts]
        joined: dict[str, Any] = {name: torch.cat([tensors[name] for tensors in each]) for name in each[0]}
        later = None if parts[0].later is None else [c for p in parts for c in p.later or []]
        return PreparedClips(**joined, captions=[c for p in parts for c in p.captions], later=later)

    def half(self) -> PreparedClips:
        """For storage: everything in half precision except the tracks."""
        return self._changed({k: v.half() for k, v in self.tensors().items() if k in _HALVED})

    def float(self) -> PreparedClips:
        return self._changed({k: v.float() for k, v in self.tensors().items() if k in _HALVED})

    def to(self, device: torch.device) -> PreparedClips:
        return self._changed({k: v.to(device, non_blocking=True) for k, v in self.tensors().items()})

    def _changed(self, values: dict[str, Any]) -> PreparedClips:
        return replace(self, **values)

    def without_tracks(self, rows: Tensor) -> PreparedClips:
        """Drop the tracks of the clips where ``rows`` (B,) is true: none visible, every candidate the static one."""
        rows = rows.to(self.visible.device)
        static = self.candidates[:, 2:].expand_as(self.candidates)
        pick = rows.reshape(-1, 1, 1, 1, 1, 1)
        return replace(
            self,
            positions=self.positions.masked_fill(rows[:, None, None, None], torch.nan),
            visible=self.visible & ~rows[:, None, None],
            candidates=torch.where(pick, static, self.candidates),
            features=torch.where(pick[..., 0], torch.zeros_like(self.features), self.features),
            held=None if self.held is None else torch.where(pick[..., 0], torch.zeros_like(self.held), self.held),
        )

    def without_text(self, rows: Tensor) -> PreparedClips:
        """Empty the captions (the null condition) of the clips where ``rows`` (B,) is true."""
        captions = ["" if gone else caption for gone, caption in zip(rows.tolist(), self.captions, strict=True)]
        return replace(self, captions=captions)


class ClipSource(Protocol):
    """Where a stage's clips come from. The clips of a step depend on the step alone, so that resuming needs no
    other position in the data, on any number of ranks."""

    batch: int
    """Number of samples of a global batch."""

    def at(self, step: int, samples: range | None = None) -> PreparedClips:
        """The clips of a step for these ``samples`` of the global batch (None: all), float32."""
        ...


def carrying_model(config: ModelConfig, mixer: PixelMixer | None) -> MotionModel:
    """A model on the meta device, except for its pixel mixer: ``assemble`` needs no other weights."""
    with torch.device("meta"):
        model = MotionModel(config)
    model.pixel_mixer = mixer
    return model


def chunk_frames(config: ModelConfig, frames: int) -> list[int]:
    """First frames of a clip's chunks at this model's chunk size."""
    return chunk_starts(frames, config.chunk_video_frames(0), config.chunk_video_frames(1))


@torch.no_grad()
def assemble(
    latents: Tensor,
    pictures: Tensor,
    tracks: SampledTracks,
    captions: list[str],
    model: MotionModel,
    autoencoder: LinearAutoencoder | None,
) -> PreparedClips:
    """Make prepared clips of latents (B, C, F, h, w) and sampled tracks, with carried content if the model uses it.

    ``pictures``: (B, K, 3, H, W) in [−1, 1], the first frame and, for models that carry content, the last frame before
    each later chunk. ``autoencoder``: required for these models, unused for others.
    """
    config, frames = model.config, tracks.positions.shape[1]
    batch, _, *rest = latents.shape
    nothing = latents.new_zeros(batch, 3, 0, *rest)
    carried, detail = CarriedLatents(nothing, nothing[:, 0]), None
    if config.carry is not None:
        assert autoencoder is not None
        starts = [*chunk_frames(config, frames), frames]
        carried = _carried(model, autoencoder, tracks, pictures, [slice(*each) for each in pairwise(starts)])
        chunk, count = config.causal.chunk_frames, latents.shape[2]
        detail = torch.stack([last_detail(carried, end - 1) for end in (*range(chunk, count, chunk), count)], dim=1)
    return PreparedClips(
        latents,
        tracks.positions,
        tracks.visible,
        tracks.start,
        tracks.events,
        carried.candidates,
        carried.features,
        captions,
        carried.held,
        None if config.carry is None else pictures[:, 0],
        detail,
    )


def _carried(
    model: MotionModel, autoencoder: LinearAutoencoder, tracks: SampledTracks, pictures: Tensor, chunks: list[slice]
) -> CarriedLatents:
    """The carried content of clips; ``pictures``: see ``assemble``. Clips in which tracks begin late or are released
    are processed chunk by chunk as in a stream, the others whole in one batch."""
    eventful = streamed(model, autoencoder, tracks, pictures[:, 0])
    plain = [row for row in range(len(pictures)) if row not in eventful]
    parts = dict[int, CarriedLatents]()
    for row, content in eventful.items():
        motions = (content.motion(now, pictures[row, k] if k else None) for k, now in enumerate(chunks))
        parts[row] = _joined([content.carried(motion) for motion in motions], along_time=True)
    if plain:
        positions, visible, start = (x[plain] for x in (tracks.positions, tracks.visible, tracks.start))
        began, static = (torch.zeros_like(x, dtype=torch.long) for x in (visible[:, 0], visible[:, :, 0]))
        size, source = (pictures.shape[3], pictures.shape[4]), CarrySource(pictures[plain, :1], began, start, static)
        made = model.encode_carried(
            MotionInput(positions, visible, began, size=size, first=True, source=source), autoencoder
        )
        assert made is not None and made.held is not None and made.detail is not None
        rows = zip(made.candidates, made.features, made.held, made.detail, strict=True)
        parts |= {row: CarriedLatents(*(x[None] for x in each)) for row, each in zip(plain, rows, strict=True)}
    return _joined([parts[row] for row in range(len(pictures))])


def _joined(parts: list[CarriedLatents], *, along_time: bool = False) -> CarriedLatents:
    """Concatenate parts along the batch, or along time."""
    held = [part.held for part in parts if part.held is not None]
    details = [part.detail for part in parts if part.detail is not None]
    return CarriedLatents(
        torch.cat([part.candidates for part in parts], dim=3 if along_time else 0),
        torch.cat([part.features for part in parts], dim=2 if along_time else 0),
        torch.cat(held, dim=2 if along_time else 0),
        torch.cat(details, dim=2 if along_time else 0),
    )


def streamed(
    model: MotionModel, autoencoder: LinearAutoencoder, tracks: SampledTracks | PreparedClips, pictures: Tensor
) -> dict[int, StreamedContent]:
    """The content that a stream would carry, by row, for the clips in which tracks begin late or are released.
    ``pictures`` (B, 3, H, W): the given ones."""
    rows = tracks.events[:, 1:].any(dim=1).nonzero()[:, 0].tolist()
    parts = (pictures, tracks.positions, tracks.visible, tracks.start)
    return {row: StreamedContent(model, autoencoder, *(part[row] for part in parts)) for row in rows}


def last_detail(carried: CarriedLatents, latent: int) -> Tensor:
    """The residual after the linear code of the last video frame of latent frame ``latent``, (B, 3, H, W)."""
    assert carried.detail is not None
    return from_blocks(carried.detail[:, :, latent : latent + 1])[:, :, -1]


@torch.no_grad()
def source_pictures(first_frame: Tensor, latents: Tensor, autoencoder: LinearAutoencoder, chunk: int) -> Tensor:
    """The pictures that content is carried from, (B, K, 3, H, W), for clips stored as latents: the given frame, then
    the decoded last frame before each later chunk. ``chunk``: latent frames per chunk."""
    pictures = [first_frame]
    for start in range(chunk, latents.shape[2], chunk):
        state = DecoderState(latents[:, :, start - 2 : start - 1]) if start > 1 else None
        pictures.append(autoencoder.decode(latents[:, :, start - 1 : start], state)[0][:, :, -1])
    return torch.stack(pictures, dim=1)


def content_of_clips(clips: PreparedClips, config: ModelConfig) -> Tensor:
    """The latents that the tracks of whole clips copy (``conditioning/track_content.py``), (B, M, C), float32."""
    starts = torch.tensor(chunk_frames(config, clips.positions.shape[1]), device=clips.positions.device)
    begun = clips.positions.isfinite().all(dim=-1).int().argmax(dim=1)
    chunk = torch.bucketize(begun, starts, right=True) - 1
    content = torch.zeros(*clips.start.shape[:2], clips.latents.shape[1], device=begun.device)
    for number in chunk.unique().tolist():
        before = max(0, number * config.causal.chunk_frames - 1)
        found = latents_at(clips.latents[:, :, before], clips.start, config.spatial_compression)
        content = torch.where((chunk == number)[..., None], found, content)
    return content


def static_index(events: Tensor, starts: list[int], frames: int) -> Tensor:
    """Index of the static picture for each frame, (B, T): the latest chunk until then with an event."""
    chunks = torch.arange(events.shape[1], device=events.device)
    latest = torch.where(events, chunks, 0).cummax(dim=1).values
    chunk_of_frame = torch.bucketize(torch.arange(frames), torch.tensor(starts), right=True) - 1
    return latest[:, chunk_of_frame.to(events.device)]
