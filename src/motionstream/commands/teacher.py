"""``motionstream teacher``: samples the many-step bidirectional model under joint guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from motionstream.commands.common import check_positive
from motionstream.commands.video import VideoCommand

if TYPE_CHECKING:
    import numpy as np

    from motionstream.config import SamplerConfig
    from motionstream.pipeline import MotionStreamPipeline
    from motionstream.tracks import Tracks


@dataclass(frozen=True, kw_only=True)
class TeacherCommand(VideoCommand):
    """The options of ``motionstream teacher``."""

    HELP: ClassVar[str] = """\
Generate a whole clip with the many-step teacher, under joint text and motion guidance.

The student is distilled from the teacher, which is slower, with many steps of three evaluations each, and not endless.
By default it attends to the whole clip; with --causal only to earlier chunks, like the student.

Examples:
  motionstream teacher photo.jpg --drag 0.3,0.5:0.7,0.5 --model MODEL -o out.mp4
  motionstream teacher photo.jpg --tracks tracks.npz --model MODEL --motion-guidance 2 --steps 30
  motionstream teacher photo.jpg --drag 64,64:90,64 --plain --causal c3s1w1"""
    NEEDS: ClassVar[tuple[str, ...] | None] = ("teacher",)

    steps: int | None = None
    """Sampling steps; by default the model's own (50 for Wan)."""
    shift: float | None = None
    """Timestep shift; above 1 more of the steps are near pure noise. By default the model's own."""
    text_guidance: float | None = None
    """Weight w_t of the prompt (the paper's 3.0 for Wan)."""
    motion_guidance: float | None = None
    """Weight w_m of the tracks (the paper's 1.5 for Wan)."""
    negative_prompt: str | None = None
    """Prompt that guidance steers away from; by default the model's own."""
    plain: bool = False
    """No guidance: one evaluation per step."""

    def make(
        self, pipeline: MotionStreamPipeline, picture: np.ndarray, tracks: Tracks, say: Callable[[int, int], object]
    ) -> Iterator[np.ndarray]:
        """Yield all frames at once, after the last step."""
        sampler = self._sampler(pipeline)
        done = 0

        def after_step() -> None:
            nonlocal done
            done += 1
            say(done, sampler.teacher_steps)

        if "causal" in pipeline.stages:
            print(f"{pipeline.config.name} is distilled: these are a student's weights, sampled as a teacher is")
        yield pipeline.teacher(
            picture,
            tracks,
            self.prompt,
            self.seed,
            sampler=sampler,
            guided=not self.plain,
            causal=pipeline.config.causal if self.causal is not None else None,
            size=tracks.size,
            after_step=after_step,
        )

    def _sampler(self, pipeline: MotionStreamPipeline) -> SamplerConfig:
        for option, value in (("--steps", self.steps), ("--shift", self.shift)):
            check_positive(option, value, "steps" if option == "--steps" else "shift")
        chosen: dict[str, Any] = {
            "teacher_steps": self.steps,
            "shift": self.shift,
            "text_guidance": self.text_guidance,
            "motion_guidance": self.motion_guidance,
            "negative_prompt": self.negative_prompt,
        }
        given = {name: value for name, value in chosen.items() if value is not None}
        sampler: SamplerConfig = replace(pipeline.config.sampler, **given)
        if not self.plain and sampler.text_guidance + sampler.motion_guidance == 0:
            raise ValueError("--text-guidance 0 --motion-guidance 0 has no meaning (eq. 2); use --plain")
        return sampler
