"""``motionstream evaluate compare``: models, numbers of steps and kinds of guidance on the same held-out clips.

Clips, tracks ("as people drag") and columns are those of ``evaluate rendered``. Every way of making the video is a row.
It is compared, paired over clips, with the first row and with the first model's carried picture, that is, without the
transformer's change. With an ``effect``, which only the caption tells, the pixels that it changes are measured as in
``evaluate captions``, and clips that do not show it are left out.

A distilled model streams, with the requested number of steps; any other is sampled as a teacher, over the whole clip.
Kinds of guidance (paper, section 3.1) apply to teachers: plain (one evaluation per step), text, motion, and joint
(equation 2).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track as progress

from motionstream.config import MAX_STEPS, ModelConfig
from motionstream.environment import environment
from motionstream.evaluation import baselines
from motionstream.evaluation.captions import SHOWN, briefly, changed
from motionstream.evaluation.rendered import CEILING, FROZEN, LEAST_PIXELS, MIXTURE, WARP, RenderedRow
from motionstream.evaluation.report import console, finish, table
from motionstream.evaluation.scenes import EFFECTS, FRAMES, EvaluationClip, held_out_clip
from motionstream.media.files import check_output
from motionstream.metrics import Interval, paired_bootstrap
from motionstream.pipeline import MotionStreamPipeline
from motionstream.tracks.template import TemplateTracker

GUIDANCE = ("plain", "text", "motion", "joint")
EFFECT = "effect"
"""Name of the region that an effect changes."""
REFERENCES = (CEILING, FROZEN, WARP, MIXTURE)


Make = Callable[[EvaluationClip], np.ndarray | None]


@dataclass
class ComparedRow(RenderedRow):
    """One way of making the video: a row of ``evaluate rendered``, and the seconds per clip."""

    name: str = ""
    seconds: list[float] = field(default_factory=list)

    def measure(self, make: Make, clip: EvaluationClip) -> None:
        """Make one clip and add its numbers, unless ``make`` returns None."""
        began = time.perf_counter()
        video = make(clip)
        if video is None:
            return
        self.seconds.append(time.perf_counter() - began)
        self.add(video, clip, TemplateTracker())

    def to_dict(self) -> dict[str, Any]:
        """The summary, with every clip's PSNR, so that rows of other runs over the same clips can be compared."""
        took = round(float(np.median(self.seconds)), 3)
        return {**self.summary(), "seconds_a_clip": took, "psnr_by_clip": [round(value, 4) for value in self.psnr]}


def evaluate_compare(
    models: Sequence[str] = ("nano",),
    *,
    steps: Sequence[int] = (),
    guidance: Sequence[str] = (),
    clips: int = 16,
    seed: int = 0,
    speed: float = 6.0,
    frames: int = FRAMES,
    effect: str | None = None,
    output: Path | None = None,
    untrained: bool = False,
) -> dict[str, Any]:
    """Compare. Prints tables and, last, the result as one JSON line; returns it.

    Args:
        models: presets or folders. steps: numbers of steps for students; by default each model's own.
        guidance: kinds from ``GUIDANCE``; every model is then sampled as a teacher, once per kind.
        clips, seed, speed: see ``evaluate rendered``. frames: per clip, 1 + 4k. effect: one of ``EFFECTS``, told alone.
        output: a .json file. untrained: accept random weights.

    Raises ValueError for incompatible arguments, or if a model cannot be loaded or the output not be written.
    """
    if steps and guidance:
        raise ValueError("steps are the student's and guidance is the teacher's: give one of them")
    for count in steps:
        if not 1 <= count <= MAX_STEPS:
            raise ValueError(f"steps = {count}; a student takes 1 to {MAX_STEPS}")
    for kind in guidance:
        if kind not in GUIDANCE:
            raise ValueError(f"guidance {kind!r}; there are {', '.join(GUIDANCE)}")
    if frames < 5 or frames % 4 != 1:
        raise ValueError(f"frames = {frames}: clips have 1 + 4k frames, at least 5; give 21 or 45")
    if effect is not None and effect not in EFFECTS:
        raise ValueError(f"effect {effect!r}; there are {', '.join(EFFECTS)}")
    if clips < 1 or not models:
        raise ValueError(f"clips = {clips}, models = {list(models)}: give at least one of each")
    if output is not None:
        check_output(output, [".json"])
    clock = time.perf_counter()
    ways: list[ComparedRow] = []
    references: dict[str, ComparedRow] = {}
    for name in dict.fromkeys(models):
        pipeline = MotionStreamPipeline.from_pretrained(name, untrained=untrained, needs=("teacher",))
        own, known = _ways(name, pipeline, steps, guidance, seed), bool(references)
        rows = {label: ComparedRow(name=label) for label, _ in own}
        errors = Console(stderr=True)
        for index in progress(range(clips), str(name), console=errors, disable=not sys.stderr.isatty()):
            clip = _clip(pipeline.config, index, seed, speed, frames, effect)
            if clip is None:
                continue
            for label, make in own:
                rows[label].measure(make, clip)
            for label, make in () if known else _references(pipeline):
                references.setdefault(label, ComparedRow(name=label)).measure(make, clip)
        references = {label: row for label, row in references.items() if row.psnr}
        ways += rows.values()
    if not ways[0].psnr:
        raise ValueError(f"none of the {clips} clips shows {effect}; give more clips or another seed")
    result = {
        "script": "motionstream evaluate compare",
        "settings": {"clips": clips, "seed": seed, "speed": speed, "frames": frames, "effect": effect},
        "ways": {way.name: way.to_dict() for way in ways},
        "references": {name: row.to_dict() for name, row in references.items()},
        "comparisons": [
            *(compared(way, ways[0]) for way in ways[1:]),
            *(compared(way, references[MIXTURE]) for way in ways if MIXTURE in references),
        ],
        "seconds": round(time.perf_counter() - clock, 1),
        "environment": environment(pipeline.model.device),
    }
    _show(result)
    finish(result, output)
    return result


def _clip(
    config: ModelConfig, index: int, seed: int, speed: float, frames: int, effect: str | None
) -> EvaluationClip | None:
    """A held-out clip; with an effect that its caption tells alone and whose pixels are a region, or None if it does
    not show it."""
    clip = held_out_clip(config, index, seed, speed, effect, frames=frames)
    if effect is None:
        return clip
    mask = np.zeros(clip.video.shape[:3], bool)
    mask[-SHOWN:] = changed(clip.video, held_out_clip(config, index, seed, speed, frames=frames).video)
    told = replace(clip, caption=briefly(effect, clip.caption), regions={**clip.regions, EFFECT: mask})
    return told if mask.sum() >= LEAST_PIXELS else None


def _ways(
    name: str, pipeline: MotionStreamPipeline, steps: Sequence[int], guidance: Sequence[str], seed: int
) -> list[tuple[str, Make]]:
    """The rows of one model: names and functions that make a clip."""
    if guidance:
        return [(f"{name} {kind}", _teacher(pipeline, kind, seed)) for kind in guidance]
    if "causal" not in pipeline.stages and "teacher" in pipeline.stages:
        return [(f"{name} (teacher)", _teacher(pipeline, "plain", seed))]
    if not steps:
        return [(name, _student(pipeline, None, seed))]
    return [(f"{name} {k} step{'s' * (k > 1)}", _student(pipeline, k, seed)) for k in dict.fromkeys(steps)]


def _student(pipeline: MotionStreamPipeline, steps: int | None, seed: int) -> Make:
    def make(clip: EvaluationClip) -> np.ndarray:
        stream = pipeline.stream(clip.video[0], clip.caption, seed, steps=steps)
        made = []
        while stream.frame < len(clip.video):
            stop = min(stream.frame + stream.next_frames, len(clip.video))
            made.append(stream.step(clip.drags.frames(stream.frame, stop)))
        return np.concatenate(made)[: len(clip.video)]

    return make


def _teacher(pipeline: MotionStreamPipeline, kind: str, seed: int) -> Make:
    own = pipeline.config.sampler
    weights = {"text": (own.text_guidance, 0.0), "motion": (0.0, own.motion_guidance)}
    text, motion = weights.get(kind, (own.text_guidance, own.motion_guidance))
    sampler = replace(own, text_guidance=text, motion_guidance=motion)
    guided = kind != "plain"
    return lambda clip: pipeline.teacher(clip.video[0], clip.drags, clip.caption, seed, sampler=sampler, guided=guided)


def _references(pipeline: MotionStreamPipeline) -> Iterator[tuple[str, Make]]:
    makes: tuple[Make, ...] = (
        lambda clip: baselines.coded(pipeline, clip.video),
        lambda clip: baselines.frozen(clip.video),
        lambda clip: baselines.warped(pipeline, clip.video, clip.drags),
        lambda clip: baselines.carried_mixture(pipeline, clip.video, clip.drags),
    )
    return zip(REFERENCES, makes, strict=True)


def compared(way: ComparedRow, other: ComparedRow) -> dict[str, Any]:
    """``way`` minus ``other`` on the same clips, with 95 % intervals; None if no point moved."""
    moving = any(len(errors) for errors in way.errors)
    difference: dict[str, Interval | None] = {
        "psnr": paired_bootstrap(way.psnr, other.psnr),
        "background": paired_bootstrap(way.background, other.background),
        "epe_mean": paired_bootstrap(way.errors, other.errors) if moving else None,
        "epe_median": paired_bootstrap(way.errors, other.errors, reduce=np.median) if moving else None,
        "blocks": paired_bootstrap(way.blocks, other.blocks),
    }
    if EFFECT in way.regions:
        difference[f"psnr_{EFFECT}"] = paired_bootstrap(way.regions[EFFECT], other.regions[EFFECT])
    found: dict[str, Any] = {"of": way.name, "minus": other.name}
    return found | {name: value and value.to_dict() for name, value in difference.items()}


def _show(result: dict[str, Any]) -> None:
    out = console()
    columns = {
        "psnr": "PSNR",
        "psnr_background": "backgr.",
        **({f"psnr_{EFFECT}": "effect"} if result["settings"]["effect"] else {}),
        "epe_median": "EPE med.",
        "epe_mean": "EPE mean",
        "lost": "lost",
        "blocks": "blocks",
        "seconds_a_clip": "s a clip",
    }
    rows = {
        name: ["-" if row[key] is None else f"{row[key]:.2f}" for key in columns]
        for name, row in (result["references"] | result["ways"]).items()
    }
    shown = len(next(iter(result["ways"].values()))["psnr_by_clip"])
    title = f"{shown} held-out clips, conditioned as people drag"
    out.print(table(title, list(columns.values()), rows))
    parts = {"psnr": "PSNR (dB)", "epe_mean": "EPE mean (px)", "blocks": "blocks"}
    if result["settings"]["effect"]:
        parts = {f"psnr_{EFFECT}": "effect (dB)"} | parts
    differences = {
        f"{pair['of']} - {pair['minus']}": ["-" if pair[p] is None else str(Interval(**pair[p])) for p in parts]
        for pair in result["comparisons"]
    }
    out.print(table("paired 95 % intervals, clips resampled", list(parts.values()), differences))
