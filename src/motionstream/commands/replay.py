"""``motionstream replay``: generates a recorded session's video again, optionally with other settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from motionstream.commands.common import (
    PlacementOptions,
    check_paths,
    check_positive,
    free_name,
    load_pipeline,
    progress,
)

if TYPE_CHECKING:
    import numpy as np

    from motionstream.session.recording import Recording
    from motionstream.session.replay import Replay

SUFFIXES = (".mp4", ".gif", ".npz")


@dataclass(frozen=True, kw_only=True)
class ReplayCommand(PlacementOptions):
    """The options of ``motionstream replay``."""

    HELP: ClassVar[str] = """\
Generate a recorded session's video again, with the same frames or with other settings.

Examples:
  motionstream replay session.jsonl -o again.mp4
  motionstream replay session.jsonl -o one-step.gif --steps 1
  motionstream replay session.jsonl -o frames.npz --until 4 --seed 9
  motionstream replay session.jsonl --prompt "night falls" --model my-model/

An .npz contains the frames without loss, uint8 (T, H, W, 3), and their rate. To apply the gestures to another picture
or to a model of another frame rate, use motionstream stream IMAGE --session FILE."""

    session: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SESSION")]
    """A session file recorded by `demo` or `serve` (see docs/sessions.md)."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="OUT.mp4|.gif|.npz")] = None
    """The video; by default the session's name with .mp4, in this folder."""
    until: Annotated[float | None, tyro.conf.arg(metavar="S")] = None
    """Stop after this many seconds of video."""
    steps: int | None = None
    """Denoising steps per chunk, 1 to 4, instead of the session's."""
    seed: int | None = None
    """Seed, instead of the session's."""
    prompt: str | None = None
    """Prompt, instead of the session's."""
    model: str | None = None
    """Weights, instead of the session's: a folder, a preset or a repository on the Hugging Face hub."""
    untrained: bool = False
    """Accept untrained weights."""
    causal: Annotated[str | None, tyro.conf.arg(metavar="c3s1w1")] = None
    """The session's attention pattern, if it was not the model's own."""
    save_tracks: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """Also write the tracks that the frames follow."""

    def run(self) -> None:
        """Check the options, then generate and write."""
        output = self.output or free_name(f"{self.session.stem}.mp4")
        self._check(output)
        from motionstream.session.fingerprint import fingerprint
        from motionstream.session.recording import Recording
        from motionstream.session.replay import Replay

        recording = Recording.read(self.session)
        if not recording.entries:
            raise ValueError(f"{self.session} has no chunks: the stream ended before its first")
        name = self.model or recording.header.model
        pipeline = load_pipeline(name, untrained=self.untrained, causal=self.causal, options=self)
        self._compare(recording, pipeline.device.type, fingerprint(pipeline))
        replay = Replay(pipeline, recording, seed=self.seed, steps=self.steps, prompt=self.prompt)
        fps, frames = recording.header.fps, recording.frames
        if self.until is not None:
            frames = min(frames, max(1, round(self.until * fps)))
        _write(output, _frames(replay, frames), recording.header.frame_size, fps, frames)
        print(f"{output}: {frames} frames, {frames / fps:.2f} s")
        if self.save_tracks is not None:
            recording.tracks().frames(0, frames).save(self.save_tracks)
            print(f"{self.save_tracks}: the tracks")

    def _check(self, output: Path) -> None:
        from motionstream.media.files import check_output

        check_positive("--until", self.until, "seconds")
        check_paths([self.session], [output, self.save_tracks])
        check_output(output, SUFFIXES)
        if self.save_tracks is not None:
            check_output(self.save_tracks, (".npz",))

    def _compare(self, recording: Recording, device: str, weights: str) -> None:
        """Print whether the frames will equal those of the session."""
        header = recording.header
        changed = [f"--{name}" for name in ("steps", "seed", "prompt") if getattr(self, name) is not None]
        print(f"{self.session}: {header.model}, {len(recording.entries)} chunks, {recording.frames / header.fps:.2f} s")
        if weights != header.weights:
            print("it was made with other weights, so its frames will differ (--model names those that made it)")
        elif changed:
            print(f"the frames will differ from those that were streamed: {', '.join(changed)}")
        else:
            print(f"the same weights, on {device}: the frames are those streamed if that was on such a machine, too")


def _frames(replay: Replay, most: int) -> Iterator[np.ndarray]:
    """The first ``most`` frames, uint8 (H, W, 3), with a progress bar."""
    done = 0
    with progress() as bars:
        bar = bars.add_task("replay", total=most)
        while done < most:
            for frame in replay.step().frames[: most - done]:
                yield frame
                done += 1
            bars.update(bar, completed=done)


def _write(path: Path, frames: Iterator[np.ndarray], size: tuple[int, int], fps: float, count: int) -> None:
    import numpy as np

    from motionstream.media.files import atomic_path
    from motionstream.media.videos import MAX_VIDEO_PIXELS, VideoWriter
    from motionstream.session.exports import write_gif

    match path.suffix.lower():
        case ".mp4":
            with VideoWriter(path, size, fps) as writer:
                for frame in frames:
                    writer.write(frame)
        case ".gif":
            write_gif(path, frames, fps)
        case _:
            if count * size[0] * size[1] > MAX_VIDEO_PIXELS:
                raise ValueError(f"{count} frames of {size[1]}x{size[0]} are too many for one .npz; give --until")
            with atomic_path(path) as temporary, temporary.open("wb") as file:  # given a name, numpy would append .npz
                np.savez_compressed(file, frames=np.stack(list(frames)), fps=np.float64(fps))
