"""A recording becomes frames again: the same, bit for bit, or those of other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from motionstream.pipeline import MotionStreamPipeline
from motionstream.session.commands import Command, Prompt, Steps
from motionstream.session.recording import Recording
from motionstream.session.take import Entry, Shot, Take


class Replay:
    """Makes a recording's chunks again, one `step` at a time; afterwards ``take`` can go on from there.

    The frames are those that were streamed, bit for bit, where the weights and the machine are the same (other
    processors, numbers of threads or versions of torch round differently).

    Args:
        seed, steps, prompt: instead of the recording's; its own changes of steps or prompt are then left out.
        record: told of every chunk, as by `Take`.

    Raises:
        ValueError: a recording whose frames this model cannot make.
    """

    def __init__(
        self,
        pipeline: MotionStreamPipeline,
        recording: Recording,
        *,
        seed: int | None = None,
        steps: int | None = None,
        prompt: str | None = None,
        record: Callable[[Entry], object] = lambda entry: None,
    ) -> None:
        header, config = recording.header, pipeline.config
        if config.fps != header.fps:
            raise ValueError(
                f"the recording has {header.fps:g} frames a second, {config.name} makes {config.fps:g}; drive a new "
                "stream with it: motionstream stream IMAGE --session FILE"
            )
        self.recording = recording
        self._left_out: tuple[type[Command], ...] = tuple(
            kind for kind, value in ((Prompt, prompt), (Steps, steps)) if value is not None
        )
        stream = pipeline.stream(
            header.picture,
            header.prompt if prompt is None else prompt,
            header.seed if seed is None else seed,
            steps=header.steps if steps is None else steps,
            size=header.size,
            scale=header.scale,
        )
        self.take = Take(stream, record, depth=header.depth)

    @property
    def left(self) -> int:
        """How many chunks are still to be made."""
        return len(self.recording.entries) - self.take.chunk

    def step(self) -> Shot:
        """Make the next chunk. ValueError, naming it, where the recording asks for what cannot be done."""
        assert self.left
        entry = self.recording.entries[self.take.chunk]
        try:
            for command in entry.commands:
                if not isinstance(command, self._left_out):
                    self.take.obey(command)
            made = self.take.stream.next_frames
            if made != entry.frames:
                raise ValueError(f"it has {entry.frames} frames, this model makes {made} at once")
            return self.take.make(entry.cut)
        except ValueError as error:
            raise ValueError(f"the recording's chunk {entry.chunk} cannot be made: {error}") from error

    def shots(self) -> Iterator[Shot]:
        """All chunks that are left."""
        while self.left:
            yield self.step()
