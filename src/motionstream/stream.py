"""Generates one endless video, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.carry.showing import decode_carried
from motionstream.components import Components
from motionstream.device_timing import StageClock
from motionstream.model.motion_model import Conditions, MotionModel
from motionstream.pixels import to_pictures
from motionstream.sampler.rollout import Rollout, times_of
from motionstream.scene import Picture, Scene
from motionstream.tracks import Tracks
from motionstream.tracks.first_view import FirstView

KEPT_VIEW = 0.5
"""An adaptive stream replaces its attention sink when less than this share of the sink's view is in the picture."""


@dataclass
class Timings:
    """Seconds of the last step by part; ``latency`` is from the call to the frames."""

    conditions: float = 0.0
    generate: float = 0.0
    decode: float = 0.0
    settle: float = 0.0

    @property
    def latency(self) -> float:
        return self.conditions + self.generate + self.decode


class Stream:
    """``step`` makes the next chunk; the same seed gives the same frames however the stream is paced.

    Tracks are given in the model's ``size``; frames have ``frame_size``, ``scale`` times that. At a scale above 1,
    carried content has the given picture's own detail, and the model's changes are enlarged.

    ``prompt`` may be set at any time and takes effect with the next chunk. ``settle`` does the clean pass early: call
    it after sending a chunk; otherwise ``step`` does it.

    ``adaptive``, which may be set at any time, refreshes the attention sink automatically (the paper's future work,
    appendix F): when, according to the tracks, less than ``KEPT_VIEW`` of the sink's view is left in the picture, the
    last chunk becomes the sink. ``refreshes`` counts these.
    """

    def __init__(
        self,
        model: MotionModel,
        parts: Components,
        image: Picture,
        prompt: str,
        seed: int,
        *,
        times: tuple[float, ...],
        size: tuple[int, int] | None = None,
        scale: int = 1,
    ) -> None:
        self.model, self.parts, self.prompt = model, parts, prompt
        self.scene, self.scale = Scene(model, parts, image, seed, size, scale), scale
        self.size, self.fps = self.scene.size, self.scene.fps
        self.frame_size = scale * self.size[0], scale * self.size[1]
        self.picture, self.fit = self.scene.picture, self.scene.fit
        self.timings = Timings()
        self.adaptive = False
        self.refreshes = 0
        self._view = FirstView(self.size)
        self._chunks_made = 0
        self._seed = seed
        self._rollout = Rollout(model, times=times, seed=seed, first_latent=self.scene.image.latent)
        self._decoder_state: Any = None
        self._frames_made = 0
        self._last: tuple[Tensor, Tensor | None]

    @property
    def steps(self) -> int:
        """Denoising steps per chunk. May be set at any time, 1 to 4, and takes effect with the next chunk."""
        return len(self._rollout.times)

    @steps.setter
    def steps(self, steps: int) -> None:
        self._rollout.times = times_of(self.model.config.sampler.student_times, steps)

    @property
    def chunk(self) -> int:
        """Index of the chunk that ``step`` makes next; a restart does not reset it."""
        return self._chunks_made

    @property
    def frame(self) -> int:
        """Index of the first frame of the next chunk; a restart does not reset it."""
        return self._frames_made

    @property
    def next_frames(self) -> int:
        """Number of frames of the next chunk: 9, then 12, and 9 again after a restart."""
        return self.model.config.chunk_video_frames(self._rollout.chunk)

    @torch.no_grad()
    def step(
        self, tracks: Tracks | None = None, *, on_frames: Callable[[np.ndarray], object] | None = None
    ) -> np.ndarray:
        """Make the next chunk, uint8 (``next_frames``, *``frame_size``, 3).

        ``tracks``: positions for these frames, in the stream's ``size``. Fewer frames hold their last positions; None
        leaves everything unspecified. ``tracks.ids`` identifies tracks across chunks. ``on_frames`` is called with the
        frames of each latent frame as soon as they are decoded, before the next are.
        """
        frames = self.next_frames
        tracks = self._whole_chunk(tracks, frames)
        clock = StageClock(self.model.device)
        self._refresh_if_due()
        conditions = self.scene.conditions(tracks, self.prompt, first=self._rollout.chunk == 0)
        clock.mark("conditions")
        latents = self._rollout.step(conditions)
        clock.mark("generate")
        pictures: list[np.ndarray] = []
        size = latents.shape[2] if on_frames is None else 1
        for at in range(0, latents.shape[2], size):
            part, state = conditions.frames(at, at + size), self._decoder_state
            video, self._decoder_state = self.parts.decode(latents[:, :, at : at + size], state, part.carried)
            shown = video
            if conditions.fine is not None:
                shown = conditions.fine.show(video, sum(map(len, pictures)))
            pictures.append(to_pictures(shown))
            if on_frames is not None:
                on_frames(pictures[-1])
        self._last = video[:, :, -1], None if conditions.fine is None else shown[:, :, -1]
        self.scene.carry.last, self.scene.carry.last_fine = self._carried(conditions, frames)
        self.scene.content.last = latents[:, :, -1]
        clock.mark("decode")
        self.timings = Timings(**clock.read())
        self._frames_made += frames
        self._chunks_made += 1
        self._view.add(tracks)
        return np.concatenate(pictures)

    def _carried(self, conditions: Conditions, frames: int) -> tuple[Tensor, Tensor | None]:
        """The chunk's last carried picture, also in fine resolution: the source for later tracks. Unlike the shown
        frame it lacks the transformer's change, which would otherwise be added again in later chunks."""
        end = conditions.frames(conditions.channels.shape[2] - 1, conditions.channels.shape[2])
        if end.carried is None:
            return self._last
        assert isinstance(self.parts.autoencoder, LinearAutoencoder)
        picture = decode_carried(self.parts.autoencoder, end.carried)
        fine = None if end.fine is None else end.fine.carry.picture(frames - 1, frames)[:, :, 0].clamp(-1, 1)
        return picture[:, :, -1], fine

    @torch.no_grad()
    def restart(self, seed: int | None = None) -> None:
        """Restart from the last frame as the given picture: new sink, cache and decoder state; same prompt and steps.

        The next chunk begins with that frame again, as the autoencoder reproduces it. Tracks continue, with content
        taken from it. ``seed``: of the noise from now on, unchanged if None. Has no effect before the first chunk.
        """
        if self._frames_made == 0:
            return
        self._seed = self._seed if seed is None else seed
        self.scene.begin_anew(*self._last)
        self._rollout = Rollout(
            self.model, times=self._rollout.times, seed=self._seed, first_latent=self.scene.image.latent
        )
        self._decoder_state = None
        self._view.reset()

    def refresh_sink(self) -> None:
        """Replace the attention sink by the last chunks of the window. The video continues without a cut.

        Raises ValueError if the model's window is shorter than its sink, or before both are full.
        """
        self.settle()
        self._rollout.cache.refresh_sink()
        self._view.reset()

    def _refresh_if_due(self) -> None:
        """Adaptive refresh, once sink and window are full."""
        causal = self._rollout.cache.causal
        full = self._rollout.chunk >= causal.sink_chunks + causal.window_chunks
        if self.adaptive and causal.sink_chunks and full and self._view.share < KEPT_VIEW:
            self.refresh_sink()
            self.refreshes += 1

    @torch.no_grad()
    def settle(self) -> None:
        """Write the last chunk's clean keys and values to the cache now rather than in the next ``step``."""
        clock = StageClock(self.model.device)
        self._rollout.settle()
        clock.mark("settle")
        self.timings.settle = clock.read()["settle"]

    def _whole_chunk(self, tracks: Tracks | None, frames: int) -> Tracks:
        if tracks is None:
            return Tracks.empty(frames, self.size, self.fps)
        if not 1 <= tracks.length <= frames:
            raise ValueError(f"the tracks have {tracks.length} frames, this chunk takes 1 to {frames} (next_frames)")
        return tracks.hold(frames - tracks.length) if tracks.length < frames else tracks
