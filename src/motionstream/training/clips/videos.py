"""Random video clips without tracks, rendered or cropped from video files.

A clip is a function of (seed, step, sample of the global batch), so resuming needs no position in the data, and the
number of ranks does not matter.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from motionstream.data.procedural import SceneConfig, render
from motionstream.data.textures import TextureBank
from motionstream.media.videos import VIDEO_SUFFIXES, read_video
from motionstream.pixels import to_float
from motionstream.training.loop.distributed import keyed_generator
from motionstream.training.loop.logs import data_wait

DrawClip = Callable[[torch.Generator], Tensor]
"""Draws one random clip (3, T, H, W), T = 1 + 4k, uint8 or float in [−1, 1], using only the given generator."""

UNREADABLE = 20
"""Number of consecutive unusable videos after which to give up."""


def rendered_clips(scene: SceneConfig, bank: TextureBank) -> DrawClip:
    """Whole rendered videos of ``scene`` as clips."""

    def draw(generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(2**31 - 1, (), generator=generator))
        return render(scene, 1, seed, bank).video[0]

    return draw


class VideoFolder:
    """Random square crops of random videos in a folder and its subfolders, scaled down to ``side`` pixels.

    Args:
        frames: per clip; 21 in the paper. side: 144 in the paper.
        reach: clips are taken from the first ``reach`` frames of a video; the rest is not read.

    Raises ValueError for a folder without videos, and after ``UNREADABLE`` consecutive unusable videos.
    """

    def __init__(self, folder: str | Path, *, frames: int = 21, side: int = 144, reach: int = 81) -> None:
        self.paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
        if not self.paths:
            raise ValueError(f"{folder} holds no videos ({', '.join(VIDEO_SUFFIXES)}): name a folder that does")
        if reach < frames:
            raise ValueError(f"reach = {reach}: must be at least the clip's {frames} frames")
        self.frames, self.side, self.reach = frames, side, reach

    def split(self, most: int) -> tuple[VideoFolder, VideoFolder]:
        """Split into training and held-out videos; the latter are the last tenth by name, 1 … ``most`` videos.

        Raises ValueError if there is only one video.
        """
        if len(self.paths) < 2:
            raise ValueError(f"{self.paths[0]} is alone in its folder: one more is needed, to be held out")
        count = max(1, min(most, len(self.paths) // 10))
        parts = copy(self), copy(self)
        parts[0].paths, parts[1].paths = self.paths[:-count], self.paths[-count:]
        return parts

    def __call__(self, generator: torch.Generator) -> Tensor:
        reason = ""
        for _ in range(UNREADABLE):
            path = self.paths[int(torch.randint(len(self.paths), (), generator=generator))]
            try:
                return self._cut(path, generator)
            except ValueError as error:
                reason = str(error)
                warnings.warn(f"{reason}; another is taken", stacklevel=2)
        raise ValueError(f"{UNREADABLE} videos in a row cannot be used, the last because {reason}")

    def _cut(self, path: Path, generator: torch.Generator) -> Tensor:
        video, _ = read_video(path, limit=self.reach)
        length, height, width = video.shape[:3]
        if length < self.frames or min(height, width) < self.side:
            raise ValueError(f"{path} has {length} frames of {height}×{width}, fewer or smaller than a clip")

        def choose(least: int, most: int) -> int:
            return int(torch.randint(least, most + 1, (), generator=generator))

        edge = choose(self.side, min(height, width))
        start, top, left = choose(0, length - self.frames), choose(0, height - edge), choose(0, width - edge)
        square = video[start : start + self.frames, top : top + edge, left : left + edge]
        pictures = torch.from_numpy(square.copy()).permute(0, 3, 1, 2)
        if edge > self.side:
            pictures = F.interpolate(pictures, (self.side, self.side), mode="bilinear", antialias=True)
        return pictures.transpose(0, 1)


class ClipBatches:
    """The clips of a step; with ``workers``, those of the next step are drawn in the background."""

    def __init__(self, draw: DrawClip, *, seed: int, workers: int) -> None:
        self.draw, self.seed = draw, seed
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._begun: dict[tuple[int, int], Future[Tensor]] = {}

    def _clip(self, step: int, sample: int) -> Tensor:
        clip = self.draw(keyed_generator(self.seed, step, sample, "clip"))
        if clip.ndim != 4 or clip.shape[0] != 3 or clip.shape[1] % 4 != 1:
            raise ValueError(f"a clip has shape {tuple(clip.shape)}: draw (3, 1 + 4k frames, height, width)")
        return to_float(clip) if clip.dtype == torch.uint8 else clip.float()

    def at(self, step: int, samples: Sequence[int]) -> Tensor:
        """The clips (B, 3, T, H, W) in [−1, 1], always the same for equal arguments."""
        with data_wait:
            if self._pool is None:
                return torch.stack([self._clip(step, sample) for sample in samples])
            for key in [(now, sample) for now in (step, step + 1) for sample in samples]:
                if key not in self._begun:
                    self._begun[key] = self._pool.submit(self._clip, *key)
            clips = [self._begun[step, sample].result() for sample in samples]
            self._begun = {key: clip for key, clip in self._begun.items() if key[0] > step}
            return torch.stack(clips)
