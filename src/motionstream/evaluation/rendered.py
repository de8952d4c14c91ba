"""``motionstream evaluate rendered``: does what is dragged follow, on rendered clips whose motion is known exactly?

Two sets of the same clips: "drags" are conditioned as people drag (a rigid grid on every sprite, one or two pins, the
rest unspecified), "dense" on up to 256 points anywhere. The columns:

- **PSNR, SSIM** against the true video, mean over clips; **background** PSNR only where no sprite is or was, since
  moving the whole picture is not following.
- **EPE**, median and mean end-point error in pixels of *followed points*: points on a dragged sprite (conditioning
  points or not), at every frame at which the true point is visible and at least 4 px from where it was in frame 0.
  A template tracker finds them in the row's video, starting at their true places in frame 0. Where it has lost one, the
  point scores the frozen error, its true distance from frame 0, as if nothing had moved; **lost** is the share of such.

The first row is the tracker's floor: its error on the true video itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track as progress

from motionstream.environment import environment
from motionstream.evaluation import baselines
from motionstream.evaluation.report import finish, table
from motionstream.evaluation.scenes import FRAMES, LEAST_MOTION, EvaluationClip, make_clip
from motionstream.media import check_output
from motionstream.metrics import Interval, end_point_error, paired_bootstrap, psnr, ssim
from motionstream.pipeline import MotionStreamPipeline
from motionstream.tracks import Tracks
from motionstream.tracks.tracker import TemplateTracker, Tracker

TRUTH, MODEL, NO_TRACKS, FROZEN = "truth (tracker's floor)", "model", "model without tracks", "frozen first frame"
CODED_FROZEN, WARP, MIXTURE = "frozen, coded", "warp only", "carried mixture"
CEILING = "truth, coded (ceiling)"
TARGET = 0.5
"""The model's error is to stay below this share of the frozen first frame's."""

COLUMNS = ("PSNR", "background", "SSIM", "EPE median", "EPE mean", "lost")


@dataclass
class Row:
    """One method's numbers, clip by clip. ``errors`` are arrays of followed points' errors, one array a clip."""

    psnr: list[float] = field(default_factory=list)
    background: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    errors: list[np.ndarray] = field(default_factory=list)
    lost: list[np.ndarray] = field(default_factory=list)

    def add(self, video: np.ndarray, clip: EvaluationClip, tracker: Tracker) -> None:
        """Measure one video (T, H, W, 3) against its clip."""
        self.psnr.append(float(psnr(video, clip.video)))
        self.background.append(float(psnr(video, clip.video, clip.background)))
        self.ssim.append(float(ssim(video, clip.video)))
        true = clip.followed
        found = tracker.track(video, true.positions[0], true.fps)
        self.errors.append(end_point_error(found.positions, found.visible, true.positions, clip.counted))
        self.lost.append(~found.visible[clip.counted])

    def summary(self) -> dict[str, float | None]:
        """Means over clips; errors and lost points pooled over all of them, None where no point moved."""
        errors, lost = np.concatenate(self.errors), np.concatenate(self.lost)
        values = {
            "psnr": np.nanmean(self.psnr),
            "psnr_background": np.nanmean(self.background),
            "ssim": np.mean(self.ssim),
            "epe_median": np.median(errors) if len(errors) else None,
            "epe_mean": np.mean(errors) if len(errors) else None,
            "lost": np.mean(lost) if len(lost) else None,
        }
        return {name: None if value is None else round(float(value), 4) for name, value in values.items()}

    def cells(self) -> list[str]:
        """The summary as a table prints it."""
        s = self.summary()
        formats = ("{:.2f}", "{:.2f}", "{:.3f}", "{:.2f}", "{:.2f}", "{:.1%}")
        return ["-" if value is None else f.format(value) for f, value in zip(formats, s.values(), strict=True)]


Rows = dict[str, Row]


def evaluate(
    model: str = "nano",
    clips: int = 32,
    seed: int = 0,
    output: Path | None = None,
    untrained: bool = False,
    speed: float = 6.0,
) -> dict[str, Any]:
    """Measure a model on held-out rendered clips; prints tables and, last, one JSON line; returns what it holds.

    Args:
        model: a preset or a folder. untrained: accept random weights.
        clips: how many, of 45 frames each. seed: which ones, 0..999, and the model's noise.
        output: a .json file to keep the result in.
        speed: mean travel of a sprite in pixels per 12 frames; each draws 0 to 2 times as much.

    Raises ValueError for a model that cannot be loaded, fewer than one clip or an output that cannot be written.
    """
    if clips < 1:
        raise ValueError(f"clips = {clips}; give at least 1")
    if output is not None:
        check_output(output, [".json"])
    pipeline = MotionStreamPipeline.from_pretrained(model, untrained=untrained)
    clock = time.perf_counter()
    drags, dense, points = _measure(pipeline, clips, seed, speed)
    intervals = compare(drags)
    goal = target(intervals)
    result: dict[str, Any] = {
        "script": "motionstream evaluate rendered",
        "model": {"name": str(model), "causal": str(pipeline.config.causal), "stages": list(pipeline.stages)},
        "settings": {"clips": clips, "seed": seed, "speed": speed, "frames": FRAMES, "least_motion": LEAST_MOTION},
        "points": points,
        "drags": {name: row.summary() for name, row in drags.items()},
        "dense": {name: row.summary() for name, row in dense.items()},
        "intervals": {name: interval.to_dict() for name, interval in intervals.items()},
        "target": goal,
        "seconds": round(time.perf_counter() - clock, 1),
        "environment": environment(pipeline.model.device),
    }
    _show(drags, dense, points, intervals, goal["sentence"])
    finish(result, output)
    return result


def _measure(pipeline: MotionStreamPipeline, clips: int, seed: int, speed: float) -> tuple[Rows, Rows, dict[str, int]]:
    """All rows of both sets, and how many clips and points there were to follow."""
    tracker = TemplateTracker()
    drags: Rows = {}
    dense: Rows = {}
    points = {"clips": 0, "points": 0, "errors": 0}
    # where a bar would only fill a log, none is drawn
    errors = Console(stderr=True)
    for index in progress(range(clips), "evaluating", console=errors, disable=not sys.stderr.isatty()):
        clip = make_clip(pipeline.config, index, seed, speed)
        points["clips"] += bool(clip.counted.any())
        points["points"] += clip.followed.count
        points["errors"] += int(clip.counted.sum())
        for rows, tracks, everything in ((drags, clip.drags, True), (dense, clip.dense, False)):
            for name, make in _methods(pipeline, clip, tracks, seed, everything).items():
                video = make()
                if video is not None:
                    rows.setdefault(name, Row()).add(video, clip, tracker)
    return drags, dense, points


def _methods(
    pipeline: MotionStreamPipeline, clip: EvaluationClip, tracks: Tracks, seed: int, everything: bool
) -> dict[str, Callable[[], np.ndarray | None]]:
    """The rows in the order printed. ``everything``: also those that no tracks change."""
    video, caption = clip.video, clip.caption
    none = Tracks.empty(len(video), tracks.size, tracks.fps)
    unconditioned: dict[str, Callable[[], np.ndarray | None]] = {
        TRUTH: lambda: video,
        CEILING: lambda: baselines.coded(pipeline, video),
        FROZEN: lambda: baselines.frozen(video),
        CODED_FROZEN: lambda: baselines.coded(pipeline, baselines.frozen(video)),
        NO_TRACKS: lambda: pipeline(video[0], none, caption, seed),
    }
    conditioned: dict[str, Callable[[], np.ndarray | None]] = {
        WARP: lambda: baselines.warped(pipeline, video, tracks),
        MIXTURE: lambda: baselines.carried_mixture(pipeline, video, tracks),
        MODEL: lambda: pipeline(video[0], tracks, caption, seed),
    }
    return {**unconditioned, **conditioned} if everything else conditioned


def compare(rows: Rows) -> dict[str, Interval]:
    """The model against the other rows: paired 95 % intervals, clips resampled.

    "psnr: …" and "background: …" are differences in dB (above 0: the model is better), "epe median / …" and
    "epe mean / …" ratios (below 1: the model is better), left out where no point moved.
    """
    model = rows[MODEL]
    found: dict[str, Interval] = {}
    others = [name for name in (FROZEN, NO_TRACKS, WARP, MIXTURE) if name in rows]
    moving = any(len(errors) for errors in model.errors)
    for name in others:
        other = rows[name]
        found[f"psnr: model - {name}"] = paired_bootstrap(model.psnr, other.psnr)
        if name != FROZEN:  # which leaves a still background exact
            found[f"background: model - {name}"] = paired_bootstrap(model.background, other.background)
        for label, reduce in (("median", np.median), ("mean", np.mean)) if moving else ():
            key = f"epe {label}: model / {name}"
            found[key] = paired_bootstrap(model.errors, other.errors, compare="ratio", reduce=reduce)
    return found


def target(intervals: dict[str, Interval]) -> dict[str, Any]:
    """Where the model's error lies relative to half the frozen first frame's: below, across or above it."""
    places: dict[str, str | None] = {}
    parts = []
    for label in ("median", "mean"):
        interval = intervals.get(f"epe {label}: model / {FROZEN}")
        places[label] = None if interval is None else interval.place(TARGET)
        if interval is not None:
            parts.append(f"{label} EPE is {interval} of the frozen error, {places[label]} {TARGET:g}")
    return {"bound": TARGET, **places, "sentence": "; ".join(parts) or "no point moved: nothing to follow"}


def _show(drags: Rows, dense: Rows, points: dict[str, int], intervals: dict[str, Interval], sentence: str) -> None:
    console = Console()
    title = f"conditioned as people drag ({points['points']} followed points in {points['clips']} clips)"
    console.print(table(title, COLUMNS, {name: row.cells() for name, row in drags.items()}))
    console.print(table("conditioned densely", COLUMNS, {name: row.cells() for name, row in dense.items()}))
    lines = {name: [str(interval)] for name, interval in intervals.items()}
    console.print(table("paired bootstrap over clips, drags", ["95 % interval"], lines))
    console.print(f"target, below half the frozen error: {sentence}", markup=False)
