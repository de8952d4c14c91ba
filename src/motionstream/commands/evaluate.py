"""``motionstream evaluate``: measure a model."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

BELONGS = {
    "clips": ("rendered", "drift", "compare", "release", "pan", "captions"),
    "speed": ("rendered", "compare", "release"),
    "seconds": ("drift", "pan"),
    "causal": ("drift",),
    "held": ("drift",),
    "mixture": ("drift",),
    "steps": ("compare",),
    "frames": ("compare",),
    "guidance": ("compare",),
    "output": ("rendered", "drift", "compare", "release", "pan", "captions"),
    "figure": ("drift",),
    "photographs": ("gallery",),
    "only": ("gallery",),
    "folder": ("gallery",),
}
"""Options that are of some evaluations only."""


@dataclass(frozen=True)
class EvaluateCommand:
    """The options of ``motionstream evaluate``."""

    HELP: ClassVar[str] = """\
Measure how well a model follows, against references that need no model.

rendered: on held-out rendered clips, whose tracks are known exactly.
drift: over long streams whose drags are taken up anew, with and without an attention sink; several models side by
side.
compare: several models, numbers of steps, or kinds of the teacher's guidance, on the same rendered clips.
release: what happens when a drag is let go, masked and not.
captions: what a sentence brings that no track can say: darkness, fog, snow, another colour.
pan: over streams whose camera leaves the first scene, with its attention sink kept and refreshed.
gallery: on photographs that no training has seen; makes a sheet of each and a page of them all.

Examples:
  motionstream evaluate rendered
  motionstream evaluate drift --seconds 20 --output drift.json --figure drift.png
  motionstream evaluate drift --model nano --model work/nano/model --causal c3s1w1
  motionstream evaluate rendered --clips 16 --seed 1 --output results.json
  motionstream evaluate rendered --speed 12
  motionstream evaluate compare --steps 1 --steps 2 --steps 3 --steps 4
  motionstream evaluate compare --model work/teacher --guidance plain --guidance text --guidance motion --guidance joint
  motionstream evaluate release --clips 8
  motionstream evaluate pan --clips 8 --output pan.json
  motionstream evaluate captions --clips 8
  motionstream evaluate gallery
  motionstream evaluate gallery --only owl --folder work/gallery"""

    name: tyro.conf.Positional[Literal["rendered", "drift", "compare", "release", "pan", "captions", "gallery"]]
    """Which evaluation."""
    model: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """An embedded model, or a folder with one; nano when none is named. drift, compare and release take several, the
    first being what the others are compared with."""
    clips: int | None = None
    """How many clips: 32 (rendered), 16 (drift, compare, release) or 8 of each effect (captions) without it."""
    speed: float | None = None
    """Mean travel of what moves, in pixels per 12 frames: 6 without it (rendered, compare, release)."""
    seconds: float = 20.0
    """How long the streams are (drift, pan)."""
    causal: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="c3sSwW")] = ()
    """Attention patterns: chunk, sink, window (drift); c3s1w1 and c3s0w1 when none is named."""
    held: bool = False
    """Drags are never let go (drift)."""
    mixture: bool = False
    """Also stream what the first model carries along, without its transformer (drift)."""
    steps: tyro.conf.UseAppendAction[tuple[int, ...]] = ()
    """Denoising steps of a chunk, each a row (compare); the model's own without it."""
    guidance: tyro.conf.UseAppendAction[tuple[Literal["plain", "text", "motion", "joint"], ...]] = ()
    """Sample as the teacher, whole clips in many steps, under this guidance, each a row (compare)."""
    frames: int = 45
    """Of a clip (compare); for models that were trained on shorter ones."""
    seed: int = 0
    """Which clips, and which noise."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE.json")] = None
    """Also write the numbers (all but gallery, whose folder has them)."""
    figure: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Also draw the curves (drift)."""
    photographs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("examples/photographs")
    """Photographs, their credits and what is tried on them, see the one that is there (gallery)."""
    only: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME")] = ()
    """Of the photographs only these (gallery)."""
    folder: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("docs/gallery")
    """Where sheets, page and numbers are written (gallery)."""
    untrained: bool = False
    """Accept weights that were not trained."""

    def run(self) -> None:
        """Check the options, then evaluate; the evaluation prints its own table."""
        self._check_options()
        if self.clips is not None and not 1 <= self.clips <= 100_000:
            raise ValueError(f"--clips is {self.clips}; give 1 to 100000")
        if self.speed is not None and not 0 < self.speed < math.inf:
            raise ValueError(f"--speed is {self.speed:g}; give pixels per 12 frames, more than 0")
        from motionstream.media import check_output

        for path, kind in ((self.output, ".json"), (self.figure, ".png")):
            if path is not None:
                check_output(path, (kind,))
        runs = {
            "rendered": self._rendered,
            "drift": self._drift,
            "pan": self._pan,
            "compare": self._compare,
            "release": self._release,
            "captions": self._captions,
            "gallery": self._gallery,
        }
        runs[self.name]()

    def _check_options(self) -> None:
        """Refuse those of other evaluations, and several models where one is measured."""
        for field in dataclasses.fields(self):
            option, allowed = field.name.replace("_", "-"), BELONGS.get(field.name)
            if allowed is not None and self.name not in allowed and getattr(self, field.name) != field.default:
                raise ValueError(f"evaluate {self.name} takes no --{option}; it is an option of {', '.join(allowed)}")
        if len(self.model) > 1 and self.name in ("rendered", "captions", "pan", "gallery"):
            raise ValueError(f"evaluate {self.name} takes one --model; drift, compare and release take several")

    def _rendered(self) -> None:
        from motionstream.evaluation.rendered import evaluate

        evaluate(
            model=self.model[0] if self.model else "nano",
            clips=self.clips or 32,
            seed=self.seed,
            output=self.output,
            untrained=self.untrained,
            speed=6.0 if self.speed is None else self.speed,
        )

    def _gallery(self) -> None:
        from motionstream.evaluation.gallery import evaluate_gallery

        evaluate_gallery(
            self.photographs,
            self.folder,
            self.model[0] if self.model else "nano",
            names=self.only,
            seed=self.seed,
            untrained=self.untrained,
        )

    def _compare(self) -> None:
        from motionstream.evaluation.compare import evaluate_compare

        evaluate_compare(
            self.model or ("nano",),
            steps=self.steps,
            guidance=self.guidance,
            clips=self.clips or 16,
            seed=self.seed,
            speed=self.speed or 6.0,
            frames=self.frames,
            output=self.output,
            untrained=self.untrained,
        )

    def _release(self) -> None:
        from motionstream.evaluation.release import evaluate_release

        evaluate_release(
            self.model or ("nano",),
            clips=self.clips or 16,
            seed=self.seed,
            speed=self.speed or 6.0,
            output=self.output,
            untrained=self.untrained,
        )

    def _pan(self) -> None:
        from motionstream.evaluation.pan import evaluate_pan

        evaluate_pan(
            self.model[0] if self.model else "nano",
            seconds=self.seconds,
            clips=self.clips or 16,
            seed=self.seed,
            output=self.output,
            untrained=self.untrained,
        )

    def _captions(self) -> None:
        from motionstream.evaluation.captions import evaluate_captions

        evaluate_captions(
            self.model[0] if self.model else "nano",
            clips=self.clips or 8,
            seed=self.seed,
            output=self.output,
            untrained=self.untrained,
        )

    def _drift(self) -> None:
        from motionstream.evaluation.drift import PATTERNS, evaluate_drift

        evaluate_drift(
            self.model or ("nano",),
            self.causal or PATTERNS,
            seconds=self.seconds,
            clips=self.clips or 16,
            seed=self.seed,
            held=self.held,
            mixture=self.mixture,
            output=self.output,
            figure=self.figure,
            untrained=self.untrained,
        )
