"""Rendered clips made ready for a stage: encoded, conditioned, kept in a pool that is refreshed while it is used.

Rendering and encoding cost about as much as a training step, so a clip is used several times, each time with other
ids, noise and dropout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from motionstream.autoencoder.linear import DecoderState, LinearAutoencoder
from motionstream.conditioning.carry import CarrySource
from motionstream.config import ModelConfig
from motionstream.data.procedural import Clips, SceneConfig, render
from motionstream.data.textures import TextureBank
from motionstream.model.motion_model import CarriedLatents, MotionInput, MotionModel
from motionstream.tracks.sampling import TrackMix, chunk_starts, sample_tracks


@dataclass(frozen=True)
class PreparedClips:
    """A batch ready for training. ``latents`` (B, C, F, h, w); tracks (B, T, M, …); carried content as the model takes
    it, ``candidates`` (B, 3, C, F, h, w) and ``features`` (B, 8, F, h, w); ``captions``."""

    latents: Tensor
    positions: Tensor
    visible: Tensor
    candidates: Tensor
    features: Tensor
    captions: list[str]

    def __len__(self) -> int:
        return len(self.captions)

    def take(self, index: list[int]) -> PreparedClips:
        chosen = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name != "captions"}
        return PreparedClips(**chosen, captions=[self.captions[i] for i in index])

    @staticmethod
    def join(parts: list[PreparedClips]) -> PreparedClips:
        joined = {
            f.name: torch.cat([getattr(p, f.name) for p in parts])
            for f in fields(PreparedClips)
            if f.name != "captions"
        }
        return PreparedClips(**joined, captions=[c for p in parts for c in p.captions])

    def half(self) -> PreparedClips:
        return replace(
            self,
            latents=self.latents.half(),
            candidates=self.candidates.half(),
            features=self.features.half(),
        )

    def float(self) -> PreparedClips:
        return replace(
            self,
            latents=self.latents.float(),
            candidates=self.candidates.float(),
            features=self.features.float(),
        )

    def without_tracks(self, rows: Tensor) -> PreparedClips:
        """Tracks dropped in the clips where ``rows`` (B,) is true: nothing visible, every candidate the static one."""
        static = self.candidates[:, 2:].expand_as(self.candidates)
        pick = rows.reshape(-1, 1, 1, 1, 1, 1)
        return replace(
            self,
            visible=self.visible & ~rows[:, None, None],
            candidates=torch.where(pick, static, self.candidates),
            features=torch.where(pick[..., 0], torch.zeros_like(self.features), self.features),
        )


def to_float(video: Tensor) -> Tensor:
    """uint8 → [−1, 1]."""
    return video.float() / 127.5 - 1


def chunk_frames(config: ModelConfig, frames: int) -> list[int]:
    """First frames of a clip's chunks at this model's chunk size."""
    return chunk_starts(frames, config.chunk_video_frames(0), config.chunk_video_frames(1))


@torch.no_grad()
def source_pictures(video: Tensor, latents: Tensor, autoencoder: LinearAutoencoder, starts: list[int]) -> Tensor:
    """The pictures content is carried from, (B, K, 3, H, W): the given frame, then the last frame before each later
    chunk as the decoder would have shown it, since a live drag begins on a generated picture."""
    pictures = [video[:, :, 0]]
    for start in starts[1:]:
        latent = autoencoder_frame(start - 1)
        state = DecoderState(latents[:, :, latent - 1 : latent])
        pictures.append(autoencoder.decode(latents[:, :, latent : latent + 1], state)[0][:, :, -1])
    return torch.stack(pictures, dim=1)


def autoencoder_frame(frame: int) -> int:
    """The latent frame that video frame ``frame`` is part of."""
    return (frame + 3) // 4


@torch.no_grad()
def prepare(
    clips: Clips,
    model: MotionModel,
    autoencoder: LinearAutoencoder,
    mix: TrackMix,
    generator: torch.Generator,
) -> PreparedClips:
    """Encode a rendered batch, choose its tracks and carry its content."""
    config = model.config
    video = to_float(clips.video)
    starts = chunk_frames(config, video.shape[2])
    latents, _ = autoencoder.encode(video)
    tracks = sample_tracks(clips.positions, clips.visible, clips.layer, mix, generator, chunks=starts)
    source = CarrySource(
        pictures=source_pictures(video, latents, autoencoder, starts),
        index=tracks.birth,
        start=tracks.start,
        static=static_index(tracks.events, starts, video.shape[2]),
    )
    ids = torch.zeros(tracks.birth.shape, dtype=torch.long, device=video.device)
    motion = MotionInput(tracks.positions, tracks.visible, ids, size=config.size, first=True, source=source)
    carried = model.encode_carried(motion, autoencoder)
    if carried is None:
        empty = torch.zeros(len(video), 3, 0, *latents.shape[2:], device=video.device)
        carried = CarriedLatents(empty, empty[:, 0])
    return PreparedClips(
        latents, tracks.positions, tracks.visible, carried.candidates, carried.features, clips.captions
    )


def static_index(events: Tensor, starts: list[int], frames: int) -> Tensor:
    """Which picture is the static one at every frame (B, T): that of the last chunk with an event."""
    chunks = torch.arange(events.shape[1], device=events.device)
    latest = torch.where(events, chunks, 0).cummax(dim=1).values
    chunk_of_frame = torch.bucketize(torch.arange(frames), torch.tensor(starts), right=True) - 1
    return latest[:, chunk_of_frame.to(events.device)]


class _Rendered(IterableDataset):
    """Endless prepared batches from consecutive seeds; runs in a worker process."""

    def __init__(
        self,
        config: ModelConfig,
        scene: SceneConfig,
        mix: TrackMix,
        autoencoder: LinearAutoencoder,
        textures: tuple[str, ...],
        batch: int,
        seed: int,
    ) -> None:
        self.config, self.scene, self.mix, self.autoencoder = config, scene, mix, autoencoder
        self.textures, self.batch, self.seed = textures, batch, seed

    def __iter__(self) -> Iterator[PreparedClips]:
        torch.set_num_threads(1)
        model = MotionModel(self.config)
        bank = TextureBank(self.textures)
        seed = self.seed
        while True:
            generator = torch.Generator().manual_seed(seed)
            clips = render(self.scene, self.batch, seed, bank)
            yield prepare(clips, model, self.autoencoder, self.mix, generator).half()
            seed += 1


class ClipPool:
    """A pool of prepared clips. ``draw`` gives a random batch; every ``reuse`` draws a fresh rendered batch goes in.

    Args:
        size: clips kept. batch: clips a draw returns, and clips rendered at a time.
        reuse: how often a clip is used on average before it is replaced.
        workers: rendering processes; 0 renders in this one.
    """

    def __init__(
        self,
        config: ModelConfig,
        scene: SceneConfig,
        mix: TrackMix,
        autoencoder: LinearAutoencoder,
        textures: tuple[str, ...],
        *,
        size: int,
        batch: int,
        reuse: int,
        seed: int,
        workers: int = 1,
    ) -> None:
        source = _Rendered(config, scene, mix, autoencoder, textures, batch, seed)
        loader = DataLoader(source, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
        self._fresh = iter(loader)
        self._slots: list[PreparedClips] = []
        self._capacity = max(1, size // batch)
        self.batch, self.reuse = batch, reuse
        self._draws = 0
        self._next = 0

    def draw(self, generator: torch.Generator) -> PreparedClips:
        """A batch mixed from the whole pool, float32."""
        if len(self._slots) < 2 or self._draws % self.reuse == 0:
            fresh = next(self._fresh)
            if len(self._slots) < self._capacity:
                self._slots.append(fresh)
            else:
                self._slots[self._next] = fresh
                self._next = (self._next + 1) % self._capacity
        self._draws += 1
        slots = torch.randint(len(self._slots), (self.batch,), generator=generator).tolist()
        rows = torch.randint(self.batch, (self.batch,), generator=generator).tolist()
        # widened before joining: autocast refuses half precision on the CPU
        return PreparedClips.join([self._slots[s].take([r]).float() for s, r in zip(slots, rows, strict=True)])
