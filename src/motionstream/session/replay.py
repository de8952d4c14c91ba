"""Generates a recording's frames again: the same, bit for bit, or with other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from motionstream.pipeline import MotionStreamPipeline
from motionstream.session.commands import Command, Prompt, Steps
from motionstream.session.recording import Recording
from motionstream.session.take import Entry, Shot, Take


class Replay:
    """Generates a recording's chunks again, one per `step`; afterwards ``take`` can continue from there.

    The frames equal the streamed ones, bit for bit, with the same weights on the same machine (other processors,
    numbers of threads or versions of torch round differently).

    Args:
        seed, steps, prompt: replace the recording's; recorded changes of steps or prompt are then ignored.
        record: called with the entry of every chunk, see `Take`.

    Raises:
        ValueError: the model cannot generate this recording's frames.
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
        """Number of remaining chunks."""
        return len(self.recording.entries) - self.take.chunk

    def step(self) -> Shot:
        """Generate the next chunk. ValueError naming the chunk if the recording asks for something impossible."""
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
        """Generate all remaining chunks."""
        while self.left:
            yield self.step()
