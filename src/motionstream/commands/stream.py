"""``motionstream stream``: generates a video with the few-step student, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from motionstream.commands.video import VideoCommand

if TYPE_CHECKING:
    import numpy as np

    from motionstream.config import ModelConfig
    from motionstream.pipeline import MotionStreamPipeline
    from motionstream.session.recording import Recording
    from motionstream.tracks import Tracks


@dataclass(frozen=True, kw_only=True)
class StreamCommand(VideoCommand):
    """The options of ``motionstream stream``."""

    HELP: ClassVar[str] = """\
Stream a video in which things in a photograph move as you drag them.

Examples:
  motionstream stream photo.jpg --drag 0.3,0.5:0.7,0.5 -o out.mp4
  motionstream stream photo.jpg --drag 40,64:90,64 --pin 10,10 --pin 110,10 --seconds 4
  motionstream stream photo.jpg --drag 64,64:150,64 --prompt "night falls" --preview sheet.png
  motionstream stream photo.jpg --orbit 20,0 --dolly 0.2 --depth depth.png --drag 0.3,0.5:0.5,0.5
  motionstream stream first_frame.png --tracks tracks.npz --causal c3s1w2 --seed 7
  motionstream stream photo.jpg --session session.jsonl

The numbers of a drag or pin are fractions of the fitted picture, i.e. of the video's frame, if all are at most 1, or if
the start is a decimal fraction, as in 0.3,0.5:1.2,0.5. Otherwise they are pixels of the picture at the model's size
(--size; 128x128 for nano), however large the video is (--scale)."""

    session: Annotated[Path | None, tyro.conf.arg(metavar="FILE.jsonl")] = None
    """Apply a recorded session to this photograph: gestures, prompts, numbers of steps. For the session's own frames
    see motionstream replay."""

    scale: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Make frames 1 to 4 times as large as the model's, with the photograph's own detail in carried content. By default
    2 for models that carry content (nano), 1 for others."""

    def shown_at(self, config: ModelConfig) -> int:
        """The enlargement of the frames. Raises ValueError if the model does not support it."""
        from motionstream.scene import check_scale, usual_scale

        scale = usual_scale(config) if self.scale is None else self.scale
        check_scale(config, scale)
        return scale

    def given(self) -> Tracks | None:
        """The tracks of a file or a session."""
        if self.session is None:
            return super().given()
        if self.tracks is not None:
            raise ValueError(f"--tracks {self.tracks} and --session {self.session} both give tracks; choose one")
        return self._recording(self.session).tracks()

    def make(
        self, pipeline: MotionStreamPipeline, picture: np.ndarray, tracks: Tracks, say: Callable[[int, int], object]
    ) -> Iterator[np.ndarray]:
        """Yield the frames chunk by chunk, in memory that does not grow with the video's length."""
        if self.session is None:
            scale = self.shown_at(pipeline.config)
            made = pipeline.chunks(picture, tracks, self.prompt, self.seed, size=tracks.size, scale=scale)
        else:
            made = self._perform(self._recording(self.session), pipeline, picture, tracks)
        done = 0
        for frames in made:
            done += len(frames)
            say(done, tracks.length)
            yield frames

    def _perform(
        self, recording: Recording, pipeline: MotionStreamPipeline, picture: np.ndarray, tracks: Tracks
    ) -> Iterator[np.ndarray]:
        """The frames along ``tracks``, with the session's changes of prompt and steps at their times.

        A given --prompt replaces all prompts of the session.
        """
        from motionstream.session.commands import Prompt
        from motionstream.session.take import apply

        changes = [(at, one) for at, one in recording.changes() if not (self.prompt and isinstance(one, Prompt))]
        prompt = self.prompt or recording.header.prompt
        scale = self.shown_at(pipeline.config)
        stream = pipeline.stream(
            picture, prompt, self.seed, steps=recording.header.steps, size=tracks.size, scale=scale
        )
        done = 0
        while done < tracks.length:
            while changes and changes[0][0] <= done / stream.fps + 1e-6:
                apply(stream, changes.pop(0)[1])
            frames = stream.step(tracks.frames(done, min(done + stream.next_frames, tracks.length)))
            yield frames[: tracks.length - done]
            done += len(frames)

    def _recording(self, path: Path) -> Recording:
        from motionstream.session.recording import Recording

        return Recording.read(path)
