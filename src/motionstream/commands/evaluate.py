"""``motionstream evaluate``: measures the quality of models; each evaluation is a subcommand."""

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
    """Seed of the clips and the noise."""
    untrained: bool = False
    """Accept untrained weights."""


@dataclass(frozen=True, kw_only=True)
class OneModel(Evaluation):
    """The options of an evaluation of one model."""

    model: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(help_behavior_hint="(default: nano)")
    ] = ()
    """An embedded model, or a folder with one."""

    def one_model(self) -> str:
        """The model. The option may be repeated only to be refused: otherwise the last one would silently win."""
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
    """An embedded model, or a folder with one; the others are compared with the first."""

    def models(self) -> tuple[str, ...]:
        """The given models, or nano."""
        return self.model or ("nano",)


@dataclass(frozen=True, kw_only=True)
class OnClips(Evaluation):
    """The options of an evaluation on rendered clips with results in one file."""

    clips: int = 16
    """Number of clips."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE.json")] = None
    """Also write the results to a file."""

    def check(self) -> None:
        """Refuse values that do not work, before a model is loaded."""
        from motionstream.media.files import check_output

        if not 1 <= self.clips <= 100_000:
            raise ValueError(f"--clips is {self.clips}; give 1 to 100000")
        if self.output is not None:
            check_output(self.output, (".json",))


@dataclass(frozen=True, kw_only=True)
class OnMovingClips(OnClips):
    """The same with a choice of speed."""

    speed: float = 6.0
    """Mean speed of moving things, in pixels per 12 frames."""

    def check(self) -> None:
        """Refuse values that do not work, before a model is loaded."""
        super().check()
        check_positive("--speed", self.speed, "pixels per 12 frames")


@dataclass(frozen=True, kw_only=True)
class Rendered(OnMovingClips, OneModel):
    """The options of ``motionstream evaluate rendered``."""

    HELP: ClassVar[str] = """\
Evaluate on held-out rendered clips, whose tracks are known exactly.

Examples:
  motionstream evaluate rendered
  motionstream evaluate rendered --clips 16 --seed 1 --output results.json
  motionstream evaluate rendered --speed 12"""

    clips: int = 32
    """Number of clips."""

    def run(self) -> None:
        """Evaluate. Like all evaluations it prints its own tables."""
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
Measure drift in long streams with repeated drags, with and without an attention sink; several models side by side.

Examples:
  motionstream evaluate drift --seconds 20 --output drift.json --figure drift.png
  motionstream evaluate drift --model nano --model work/nano/model --causal c3s1w1"""

    seconds: float = 20.0
    """Length of the streams in seconds."""
    causal: Annotated[
        tyro.conf.UseAppendAction[tuple[str, ...]],
        tyro.conf.arg(metavar="c3sSwW", help_behavior_hint="(repeatable; default: c3s1w1 and c3s0w1)"),
    ] = ()
    """Attention pattern: latent frames per chunk, sink chunks, window chunks."""
    held: bool = False
    """Never release the drags."""
    mixture: bool = False
    """Also evaluate the first model's carried content without its transformer."""
    figure: Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")] = None
    """Also draw the curves."""

    def run(self) -> None:
        """Evaluate."""
        self.check()
        from motionstream.media.files import check_output

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
Compare several models, numbers of steps, or kinds of the teacher's guidance, on the same rendered clips.

Examples:
  motionstream evaluate compare --model nano --model work/nano/model
  motionstream evaluate compare --steps 1 --steps 2 --steps 3 --steps 4
  motionstream evaluate compare --model work/teacher --guidance plain --guidance text --guidance motion \
--guidance joint
  motionstream evaluate compare --model work/teacher --model nano --effect dark"""

    steps: tyro.conf.UseAppendAction[tuple[int, ...]] = ()
    """Denoising steps per chunk, one row for each; by default the model's own."""
    guidance: tyro.conf.UseAppendAction[tuple[Literal["plain", "text", "motion", "joint"], ...]] = ()
    """Sample like the teacher, whole clips in many steps, with this guidance, one row for each."""
    frames: int = 45
    """Frames per clip; fewer for models that were trained on shorter clips."""
    effect: Literal["dark", "fog", "snow", "tint"] | None = None
    """Measure the pixels that this effect changes, which the prompt tells."""

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
            effect=self.effect,
            output=self.output,
            untrained=self.untrained,
        )


@dataclass(frozen=True, kw_only=True)
class Release(OnMovingClips, SeveralModels):
    """The options of ``motionstream evaluate release``."""

    HELP: ClassVar[str] = """\
Measure what happens when a drag is released, with and without masking its tracks.

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
Evaluate streams whose camera leaves the first scene, with a fixed and with a refreshed attention sink.

Examples:
  motionstream evaluate pan --clips 8 --output pan.json"""

    seconds: float = 20.0
    """Length of the streams in seconds."""

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
Measure the effects of the prompt that tracks cannot express: darkness, fog, snow, a change of colour.

Examples:
  motionstream evaluate captions --clips 8"""

    clips: int = 8
    """Number of clips per effect."""

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
Evaluate on photographs not used in training; writes a sheet for each, a page with all of them and a file with the
results.

Examples:
  motionstream evaluate gallery
  motionstream evaluate gallery --only owl --folder work/owl
  motionstream evaluate gallery --folder docs/gallery"""

    photographs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("examples/photographs")
    """Folder with the photographs, their credits and the edits to try; the default exists in the repository's root."""
    only: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="NAME")] = ()
    """Evaluate only this photograph."""
    folder: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("work/gallery")
    """Folder for sheets, page and results; files of the same names are replaced."""

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
Measure how well a model follows tracks, compared with references that need no model.

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
