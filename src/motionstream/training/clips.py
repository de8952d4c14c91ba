"""Rendered clips made ready for a stage: encoded, conditioned, kept in a pool that is refreshed while it is used.

Rendering and encoding cost about as much as a training step, so a clip is used several times, each time with other
ids, noise and dropout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from motionstream.autoencoder.linear import DecoderState, LinearAutoencoder
from motionstream.conditioning.carry import CarrySource
from motionstream.config import ModelConfig
from motionstream.data.procedural import Clips, SceneConfig, render
from motionstream.data.textures import TextureBank
from motionstream.model.motion_model import CarriedLatents, MotionInput, MotionModel
from motionstream.tracks.sampling import TrackMix, chunk_starts, sample_tracks
from motionstream.training.distributed import keyed_generator, rank, world_size
from motionstream.training.logs import data_wait


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
            positions=self.positions.masked_fill(rows[:, None, None, None], torch.nan),
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


class _Rendered(Dataset):
    """Prepared clips by (lane, number): each depends on its key alone. Runs in worker processes."""

    def __init__(
        self,
        config: ModelConfig,
        scene: SceneConfig,
        mix: TrackMix,
        autoencoder: LinearAutoencoder,
        textures: tuple[str, ...],
        seed: int,
    ) -> None:
        self.config, self.scene, self.mix, self.autoencoder = config, scene, mix, autoencoder
        self.textures, self.seed = textures, seed
        self._made: tuple[MotionModel, TextureBank] | None = None

    def __getitem__(self, key: Key) -> tuple[Key, PreparedClips]:
        if self._made is None:
            # weights are drawn here that nobody uses: leave the caller's random numbers as they were
            with torch.random.fork_rng(devices=[]):
                self._made = MotionModel(self.config), TextureBank(self.textures)
        model, bank = self._made
        generator = keyed_generator("clip", self.seed, *key)
        seed = int(torch.randint(2**62, (), generator=generator))
        return key, prepare(render(self.scene, 1, seed, bank), model, self.autoencoder, self.mix, generator).half()


Key = tuple[int, int]
"""lane, number of the clip in it"""


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _unchanged(item: Any) -> Any:
    return item


class ClipPool:
    """Prepared clips, each used several times before it is replaced.

    Every sample of the batch has a lane, a pool of its own: at each step one of the lane's clips, chosen at random;
    every ``reuse`` steps a fresh clip takes the oldest one's place. Which clip that is depends on (seed, step, sample)
    alone, so the position in the data is the step: a resumed run, and one on several ranks, sees what an uninterrupted
    one on a single rank sees. Clips are rendered when first needed, by workers, in the order of need.

    Args:
        size: clips kept, all lanes together. batch: lanes, that is, samples of a global batch.
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
        self.batch, self.reuse, self.seed, self.workers = batch, reuse, seed, workers
        self._depth = max(1, size // batch)
        self._source = _Rendered(config, scene, mix, autoencoder, textures, seed)
        self._kept: dict[Key, PreparedClips] = {}
        self._rendered: Iterator[tuple[Key, PreparedClips]] | None = None
        self._drawn = 0

    def at(self, step: int, samples: range | None = None) -> PreparedClips:
        """The clips of ``samples`` (None: of the whole batch) at a step, float32.

        Any step may be asked for; going on from one to the next finds the clips rendered ahead. Raises ValueError for
        samples that the pool does not have.
        """
        samples = range(self.batch) if samples is None else samples
        if not 0 <= samples.start < samples.stop <= self.batch:
            raise ValueError(f"samples {samples.start}:{samples.stop} are not among the pool's {self.batch}")
        keys = [self._key(step, sample) for sample in samples]
        with data_wait:
            for key in keys:
                if key not in self._kept:
                    self._kept[key] = self._render(key, step, samples)
        # widened before joining: autocast refuses half precision on the CPU
        clips = PreparedClips.join([self._kept[key].float() for key in keys])
        self._kept = {key: clip for key, clip in self._kept.items() if key[1] >= self._oldest(step)}
        return clips

    def draw(self, generator: torch.Generator | None = None) -> PreparedClips:
        """The next step's clips, from 0 on; ``generator`` is not used. For what need not go on where it stopped."""
        self._drawn += 1
        return self.at(self._drawn - 1)

    def _newest(self, step: int) -> int:
        return 1 + step // self.reuse

    def _oldest(self, step: int) -> int:
        return max(0, self._newest(step) - self._depth + 1)

    def _key(self, step: int, sample: int) -> Key:
        generator = keyed_generator("draw", self.seed, step, sample)
        number = torch.randint(self._oldest(step), self._newest(step) + 1, (), generator=generator)
        return sample, int(number)

    def _needs(self, step: int, samples: range) -> Iterator[Key]:
        """Clips to render, in the order of need, from ``samples`` of a step on: this rank's of all steps to come."""
        size = self.batch // world_size()
        lanes = range(rank() * size, (rank() + 1) * size)
        if samples.start not in lanes or samples[-1] not in lanes:
            lanes = samples
        seen = set(self._kept)
        waiting = range(samples.start, lanes.stop)
        while True:
            for key in (self._key(step, sample) for sample in waiting):
                if key not in seen:
                    seen.add(key)
                    yield key
            step, waiting = step + 1, lanes
            seen = {key for key in seen if key[1] >= self._oldest(step)}

    def _render(self, key: Key, step: int, samples: range) -> PreparedClips:
        """The clip from the workers, which are told anew what is needed where the caller has jumped."""
        if self._rendered is not None:
            made, clip = next(self._rendered)
            if made == key:
                return clip
        ahead = max(2, 4 * self.batch // max(1, self.workers))
        loader = DataLoader(
            self._source,
            batch_size=None,
            sampler=self._needs(step, range(key[0], samples.stop)),
            num_workers=self.workers,
            prefetch_factor=ahead if self.workers else None,
            worker_init_fn=_one_thread,
            collate_fn=_unchanged,
            generator=torch.Generator(),  # else it takes a number from the global one, which a resumed run would miss
        )
        self._rendered = iter(loader)
        made, clip = next(self._rendered)
        assert made == key, f"rendered clip {made}, needed {key}"
        return clip
