"""``motionstream stream``: the few-step student, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from motionstream.commands.video import VideoCommand

if TYPE_CHECKING:
    import numpy as np

    from motionstream.pipeline import MotionStreamPipeline
    from motionstream.tracks import Tracks


@dataclass(frozen=True, kw_only=True)
class StreamCommand(VideoCommand):
    """The options of ``motionstream stream``."""

    HELP: ClassVar[str] = """\
Stream a video in which things of a photograph move as you drag them.

Examples:
  motionstream stream photo.jpg --drag 0.3,0.5:0.7,0.5 -o out.mp4
  motionstream stream photo.jpg --drag 40,64:90,64 --pin 10,10 --pin 110,10 --seconds 4
  motionstream stream photo.jpg --drag 64,64:150,64 --prompt "night falls" --preview sheet.png
  motionstream stream photo.jpg --orbit 20,0 --dolly 0.2 --depth depth.png --drag 0.3,0.5:0.5,0.5
  motionstream stream first_frame.png --tracks tracks.npz --causal c3s1w2 --seed 7

A drag or pin whose numbers are all at most 1 is in fractions of the fitted picture, which is the frame of the
video; otherwise its numbers are that frame's pixels."""

    def make(
        self, pipeline: MotionStreamPipeline, picture: np.ndarray, tracks: Tracks, say: Callable[[int, int], object]
    ) -> Iterator[np.ndarray]:
        """Chunk by chunk, in bounded memory however long the video is."""
        done = 0
        for frames in pipeline.chunks(picture, tracks, self.prompt, self.seed, size=tracks.size):
            done += len(frames)
            say(done, tracks.length)
            yield frames
