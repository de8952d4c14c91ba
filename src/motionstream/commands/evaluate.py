"""``motionstream evaluate``: measure a model; every evaluation is a form of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from motionstream.commands.common import check_positive
from motionstream.commands.verbs import Group, Verb


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The options of all evaluations."""

    seed: int = 0
    """Which clips, and which noise."""
    untrained: bool = False
    """Accept weights that were not trained."""


@dataclass(frozen=True, kw_only=True)
class OneModel(Evaluation):
    """The options of an evaluation of one model."""

    model: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(help_behavior_hint="(default: nano)")
    ] = ()
    """An embedded model, or a folder with one."""

    def one_model(self) -> str:
        """The model. It takes several, as other evaluations do, only to refuse them: the last would win unseen."""
        if len(self.model) > 1:
            raise ValueError(
                f"this evaluation takes one --model, not {len(self.model)}; drift, compare and release take several"
            )
        return self.model[0] if self.model else "nano"


@dataclass(frozen=True, kw_only=True)
class SeveralModels(Evaluation):
    """The options of an evaluation of several models, side by side."""

    model: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(help_behavior_hint="(repeatable; default: nano)")
    ] = ()
    """An embedded model, or a folder with one; the first is what the others are compared with."""

    def models(self) -> tuple[str, ...]:
        """Those that are named, or nano."""
        return self.model or ("nano",)


@dataclass(frozen=True, kw_only=True)
class OnClips(Evaluation):
    """The options of an evaluation on rendered clips, whose numbers are one file."""

    clips: int = 16
    """How many clips."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE.json")] = None
    """Also write the numbers."""

    def check(self) -> None:
        """Refuse values that do not work, before a model is loaded."""
        from motionstream.media import check_output

        if not 1 <= self.clips <= 100_000:
            raise ValueError(f"--clips is {self.clips}; give 1 to 100000")
        if self.output is not None:
            check_output(self.output, (".json",))


@dataclass(frozen=True, kw_only=True)
class OnMovingClips(OnClips):
    """The same where one says how fast things move."""

    speed: float = 6.0
    """Mean travel of what moves, in pixels per 12 frames."""

    def check(self) -> None:
        """Refuse values that do not work, before a model is loaded."""
        super().check()
        check_positive("--speed", self.speed, "pixels per 12 frames")


@dataclass(frozen=True, kw_only=True)
class Rendered(OnMovingClips, OneModel):
    """The options of ``motionstream evaluate rendered``."""

    HELP: ClassVar[str] = """\
On held-out rendered clips, whose tracks are known exactly.

Examples:
  motionstream evaluate rendered
  motionstream evaluate rendered --clips 16 --seed 1 --output results.json
  motionstream evaluate rendered --speed 12"""

    clips: int = 32
    """How many clips."""

    def run(self) -> None:
        """Evaluate; prints its own tables, as all of them do."""
        self.check()
        model = self.one_model()
        from motionstream.evaluation.rendered import evaluate

        evaluate(
            model=model,
            clips=self.clips,
            seed=self.seed,
            output=self.output,
            untrained=self.untrained,
            speed=self.speed,
        )


@dataclass(frozen=True, kw_only=True)
class Drift(OnClips, SeveralModels):
    """The options of ``motionstream evaluate drift``."""

    HELP: ClassVar[str] = """\
Over long streams whose drags are taken up anew, with and without an attention sink; several models side by side.

Examples:
  motionstream evaluate drift --seconds 20 --output drift.json --figure drift.png
  motionstream evaluate drift --model nano --model work/nano/model --causal c3s1w1"""

    seconds: float = 20.0
    """How long the streams are."""
    causal: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(metavar="c3sSwW", help_behavior_hint="(repeatable; default: c3s1w1 and c3s0w1)"),
    ] = ()
    """Attention pattern: latent frames of a chunk, sink chunks, window chunks."""
    held: bool = False
    """Drags are never let go."""
    mixture: bool = False
    """Also stream what the first model carries along, without its transformer."""
    figure: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Also draw the curves."""

    def run(self) -> None:
        """Evaluate."""
        self.check()
        from motionstream.media import check_output

        if self.figure is not None:
            check_output(self.figure, (".png",))
        from motionstream.evaluation.drift import PATTERNS, evaluate_drift

        evaluate_drift(
            self.models(),
            self.causal or PATTERNS,
            seconds=self.seconds,
            clips=self.clips,
            seed=self.seed,
            held=self.held,
            mixture=self.mixture,
            output=self.output,
            figure=self.figure,
            untrained=self.untrained,
        )


@dataclass(frozen=True, kw_only=True)
class Compare(OnMovingClips, SeveralModels):
    """The options of ``motionstream evaluate compare``."""

    HELP: ClassVar[str] = """\
Several models, numbers of steps, or kinds of the teacher's guidance, on the same rendered clips.

Examples:
  motionstream evaluate compare --model nano --model work/nano/model
  motionstream evaluate compare --steps 1 --steps 2 --steps 3 --steps 4
  motionstream evaluate compare --model work/teacher --guidance plain --guidance text --guidance motion \
--guidance joint"""

    steps: tyro.conf.UseAppendAction[tuple[int, ...]] = ()
    """Denoising steps of a chunk, each a row; the model's own without it."""
    guidance: tyro.conf.UseAppendAction[tuple[Literal["plain", "text", "motion", "joint"], ...]] = ()
    """Sample as the teacher, whole clips in many steps, under this guidance, each a row."""
    frames: int = 45
    """Of a clip; fewer for models that were trained on shorter ones."""

    def run(self) -> None:
        """Evaluate."""
        self.check()
        from motionstream.evaluation.compare import evaluate_compare

        evaluate_compare(
            self.models(),
            steps=self.steps,
            guidance=self.guidance,
            clips=self.clips,
            seed=self.seed,
            speed=self.speed,
            frames=self.frames,
            output=self.output,
            untrained=self.untrained,
        )


@dataclass(frozen=True, kw_only=True)
class Release(OnMovingClips, SeveralModels):
    """The options of ``motionstream evaluate release``."""

    HELP: ClassVar[str] = """\
What happens when a drag is let go, masked and not.

Examples:
  motionstream evaluate release --clips 8"""

    def run(self) -> None:
        """Evaluate."""
        self.check()
        from motionstream.evaluation.release import evaluate_release

        evaluate_release(
            self.models(),
            clips=self.clips,
            seed=self.seed,
            speed=self.speed,
            output=self.output,
            untrained=self.untrained,
        )


@dataclass(frozen=True, kw_only=True)
class Pan(OnClips, OneModel):
    """The options of ``motionstream evaluate pan``."""

    HELP: ClassVar[str] = """\
Over streams whose camera leaves the first scene, with its attention sink kept and refreshed.

Examples:
  motionstream evaluate pan --clips 8 --output pan.json"""

    seconds: float = 20.0
    """How long the streams are."""

    def run(self) -> None:
        """Evaluate."""
        self.check()
        model = self.one_model()
        from motionstream.evaluation.pan import evaluate_pan

        evaluate_pan(
            model,
            seconds=self.seconds,
            clips=self.clips,
            seed=self.seed,
            output=self.output,
            untrained=self.untrained,
        )


@dataclass(frozen=True, kw_only=True)
class Captions(OnClips, OneModel):
    """The options of ``motionstream evaluate captions``."""

    HELP: ClassVar[str] = """\
What a sentence brings that no track can say: darkness, fog, snow, another colour.

Examples:
  motionstream evaluate captions --clips 8"""

    clips: int = 8
    """How many clips of each effect."""

    def run(self) -> None:
        """Evaluate."""
        self.check()
        model = self.one_model()
        from motionstream.evaluation.captions import evaluate_captions

        evaluate_captions(
            model,
            clips=self.clips,
            seed=self.seed,
            output=self.output,
            untrained=self.untrained,
        )


@dataclass(frozen=True, kw_only=True)
class Gallery(OneModel):
    """The options of ``motionstream evaluate gallery``."""

    HELP: ClassVar[str] = """\
On photographs that no training has seen; makes a sheet of each, a page of them all and a file of the numbers.

Examples:
  motionstream evaluate gallery
  motionstream evaluate gallery --only owl --folder work/owl
  motionstream evaluate gallery --folder docs/gallery"""

    photographs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("examples/photographs")
    """Photographs, their credits and what is tried on them; the default is there in the root of the repository."""
    only: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME")] = ()
    """Of the photographs only these."""
    folder: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("work/gallery")
    """Where sheets, page and numbers are written; what is there of the same names is replaced."""

    def run(self) -> None:
        """Evaluate."""
        model = self.one_model()
        from motionstream.evaluation.gallery import evaluate_gallery

        evaluate_gallery(
            self.photographs, self.folder, model, names=self.only, seed=self.seed, untrained=self.untrained
        )


class EvaluateCommand(Group):
    """``motionstream evaluate``."""

    HELP: ClassVar[str] = """\
Measure how well a model follows, against references that need no model.

Examples:
  motionstream evaluate rendered
  motionstream evaluate compare --steps 1 --steps 2 --steps 3 --steps 4
  motionstream evaluate drift --help"""

    KINDS: ClassVar[Mapping[str, type[Verb]]] = {
        "rendered": Rendered,
        "drift": Drift,
        "compare": Compare,
        "release": Release,
        "captions": Captions,
        "pan": Pan,
        "gallery": Gallery,
    }
