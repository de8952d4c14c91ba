"""``motionstream evaluate rendered``: do dragged things follow, on rendered clips with exactly known motion?

Two conditionings of the same clips: "drags" imitates users (a rigid grid on every sprite, one or two pins, the rest
unspecified), "dense" gives up to 256 points anywhere. The columns:

- **PSNR, SSIM** against the true video, mean over clips; **background**: PSNR only where no sprite is or was, since
  moving the whole picture is not following.
- **EPE**, median and mean end-point error in pixels of *followed points*: points on a dragged sprite (conditioning
  points or not), in every frame in which the true point is visible and at least 4 px from its position in frame 0.
  A template tracker finds them in the row's video, starting at their true positions in frame 0. A point that it lost
  scores the frozen error, its true distance from frame 0, as if nothing had moved; **lost** is the share of these.
- **blocks**: brightness differences at the edges of 8-pixel cells relative to those elsewhere (``metrics.blockiness``)
  in the last frame, divided by the true frame's; ideally 1.

The first row is the tracker's floor: its error on the true video itself. The ceiling is the true video encoded and
decoded; "hidden guessed" is the same, except for content hidden in the first frame, which no model can know and which
is taken from the carried picture. A second table measures what a warp cannot do:

- PSNR where sprites have **uncovered** background, near sprites' **edges**, and on sprites that have **turned** or
  grown (``regions``); clips with few such pixels do not count.
- **gain**: the row's PSNR gain over the frozen first frame, as a share of the ceiling's gain; the gains within the
  regions are in the JSON line.
- **pins**: median motion in pixels of the pinned background points, found by the same tracker; **lost**: the share of
  those it could not find, which do not enter the median.
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
from motionstream.evaluation.regions import REGIONS
from motionstream.evaluation.report import console, finish, table
from motionstream.evaluation.scenes import FRAMES, LEAST_MOTION, EvaluationClip, held_out_clip
from motionstream.media.files import check_output
from motionstream.metrics import MAX_PSNR, Interval, blockiness, end_point_error, paired_bootstrap, psnr, ssim
from motionstream.pipeline import MotionStreamPipeline
from motionstream.tracks import Tracks
from motionstream.tracks.tracker import TemplateTracker, Tracker

TRUTH, MODEL, NO_TRACKS, FROZEN = "truth (tracker's floor)", "model", "model without tracks", "frozen first frame"
CODED_FROZEN, WARP, MIXTURE = "frozen, coded", "warp only", "carried mixture"
CEILING, GUESSED = "truth, coded (ceiling)", "truth, hidden guessed"
TARGET = 0.5
"""The target: a model's error below this share of the frozen first frame's."""

PX_OF_SPEED = 1 / 3
"""Target of the median error in pixels per pixel of speed per 12 frames: 2 px at 6, 4 px at 12."""
PINS = 1.0
"""Target of the median motion of pinned points in pixels."""
LEAST_PIXELS = 100
"""Smallest number of a region's pixels, over all frames of a clip, for it to be measured."""

COLUMNS = ("PSNR", "background", "SSIM", "EPE median", "EPE mean", "lost", "blocks")
FORMATS = ("{:.2f}", "{:.2f}", "{:.3f}", "{:.2f}", "{:.2f}", "{:.1%}", "{:.2f}")
REGION_COLUMNS = (*REGIONS, "gain", "pins", "lost")
REGION_FORMATS = ("{:.2f}", "{:.2f}", "{:.2f}", "{:.0%}", "{:.2f}", "{:.1%}")


def _no_regions() -> dict[str, list[float]]:
    return {name: [] for name in REGIONS}


@dataclass
class RenderedRow:
    """One method's numbers, clip by clip: PSNR in dB, NaN without anything to measure. ``errors``: the followed points'
    errors in pixels, ``pins``: the pinned points' motion, one array per clip."""

    psnr: list[float] = field(default_factory=list)
    background: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    errors: list[np.ndarray] = field(default_factory=list)
    lost: list[np.ndarray] = field(default_factory=list)
    blocks: list[float] = field(default_factory=list)
    pins: list[np.ndarray] = field(default_factory=list)
    pins_lost: list[np.ndarray] = field(default_factory=list)
    regions: dict[str, list[float]] = field(default_factory=_no_regions)

    def add(self, video: np.ndarray, clip: EvaluationClip, tracker: Tracker) -> None:
        """Measure one video (T, H, W, 3) against its clip."""
        self.psnr.append(float(psnr(video, clip.video)))
        self.background.append(float(psnr(video, clip.video, clip.background)))
        self.ssim.append(float(ssim(video, clip.video)))
        for name, mask in clip.regions.items():
            enough = mask.sum() >= LEAST_PIXELS
            value = float(psnr(video, clip.video, mask)) if enough else np.nan
            self.regions.setdefault(name, []).append(value)
        true, pinned, count = clip.followed, clip.pinned, clip.followed.count
        found = tracker.track(video, np.concatenate([true.positions[0], pinned.positions[0]]), true.fps)
        positions, seen = found.positions[:, :count], found.visible[:, :count]
        self.errors.append(end_point_error(positions, seen, true.positions, clip.counted))
        self.lost.append(~seen[clip.counted])
        self.blocks.append(blockiness(video[-1:]) / blockiness(clip.video[-1:]))
        # without frame 0, in which every point is at its start
        asked, held = pinned.visible[1:], found.visible[1:, count:]
        moved = np.linalg.norm(found.positions[1:, count:] - pinned.positions[:1], axis=-1)
        self.pins.append(moved[asked & held])
        self.pins_lost.append(~held[asked])

    def summary(self) -> dict[str, float | None]:
        """Means over clips; errors and lost points pooled over all clips. None without anything to measure."""
        values = {
            "psnr": _mean(self.psnr),
            "psnr_background": _mean(self.background),
            "ssim": _mean(self.ssim),
            "epe_median": _pooled(self.errors, np.median),
            "epe_mean": _pooled(self.errors, np.mean),
            "lost": _pooled(self.lost, np.mean),
            "blocks": _mean(self.blocks),
            **{f"psnr_{name}": _mean(values) for name, values in self.regions.items()},
            "pins": _pooled(self.pins, np.median),
            "pins_lost": _pooled(self.pins_lost, np.mean),
        }
        return {name: None if value is None else round(value, 4) for name, value in values.items()}

    def gains(self, frozen: RenderedRow, ceiling: RenderedRow) -> dict[str, float | None]:
        """PSNR gain over the frozen first frame as a share of the ceiling's: "gain" for the whole picture, "gain_…" for
        the regions. None without anything to measure, and for the true video itself."""
        kinds = {"gain": (self.psnr, frozen.psnr, ceiling.psnr)}
        kinds |= {f"gain_{name}": (self.regions[name], frozen.regions[name], ceiling.regions[name]) for name in REGIONS}
        return {name: _share(*(_mean(values) for values in kind)) for name, kind in kinds.items()}

    def cells(self) -> list[str]:
        """The first table's cells."""
        return _cells(FORMATS, list(self.summary().values())[: len(FORMATS)])

    def region_cells(self, gains: dict[str, float | None]) -> list[str]:
        """The second table's cells: the rest of the summary, and the gain of the whole picture."""
        *measured, pins, lost = list(self.summary().values())[len(FORMATS) :]
        return _cells(REGION_FORMATS, [*measured, gains["gain"], pins, lost])


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else None


def _share(own: float | None, least: float | None, most: float | None) -> float | None:
    if own is None or least is None or most is None or most <= least or own >= MAX_PSNR:
        return None
    return round((own - least) / (most - least), 4)


def _pooled(values: list[np.ndarray], reduce: Callable[[np.ndarray], Any]) -> float | None:
    together = np.concatenate(values) if values else np.zeros(0)
    return float(reduce(together)) if len(together) else None


def _cells(formats: tuple[str, ...], values: list[float | None]) -> list[str]:
    return ["-" if value is None else f.format(value) for f, value in zip(formats, values, strict=True)]


RenderedRows = dict[str, RenderedRow]


def evaluate(
    model: str = "nano",
    clips: int = 32,
    seed: int = 0,
    output: Path | None = None,
    untrained: bool = False,
    speed: float = 6.0,
) -> dict[str, Any]:
    """Measure a model on held-out rendered clips. Prints tables and, last, the result as one JSON line; returns it.

    Args:
        model: a preset or a folder. untrained: accept random weights.
        clips: number of clips, of 45 frames each. seed: selects the clips, 0..999, and the model's noise.
        output: a .json file for the result.
        speed: mean travel of a sprite in pixels per 12 frames; each draws 0 to 2 times as much.

    Raises ValueError if the model cannot be loaded, ``clips`` is below 1 or the output cannot be written.
    """
    if clips < 1:
        raise ValueError(f"clips = {clips}; give at least 1")
    if output is not None:
        check_output(output, [".json"])
    pipeline = MotionStreamPipeline.from_pretrained(model, untrained=untrained)
    clock = time.perf_counter()
    drags, dense, points = _measure(pipeline, clips, seed, speed)
    intervals = compare(drags)
    goal, walk = target(intervals), walking(drags[MODEL], speed)
    gains = {name: row.gains(drags[FROZEN], drags[CEILING]) for name, row in drags.items()}
    dense_gains = {name: row.gains(drags[FROZEN], drags[CEILING]) for name, row in dense.items()}
    result: dict[str, Any] = {
        "script": "motionstream evaluate rendered",
        "model": {"name": str(model), "causal": str(pipeline.config.causal), "stages": list(pipeline.stages)},
        "settings": {"clips": clips, "seed": seed, "speed": speed, "frames": FRAMES, "least_motion": LEAST_MOTION},
        "points": points,
        "drags": {name: row.summary() | gains[name] for name, row in drags.items()},
        "dense": {name: row.summary() | dense_gains[name] for name, row in dense.items()},
        "intervals": {name: interval.to_dict() for name, interval in intervals.items()},
        "target": goal,
        "walking": walk,
        "seconds": round(time.perf_counter() - clock, 1),
        "environment": environment(pipeline.model.device),
    }
    _show(drags, dense, points, intervals)
    out = console()
    out.print(table("what a warp cannot do, drags", REGION_COLUMNS, _lines(drags, gains)))
    out.print(table("what a warp cannot do, densely", REGION_COLUMNS, _lines(dense, dense_gains)))
    out.print(f"target, below half the frozen error: {goal['sentence']}", markup=False)
    for line in walk.values():
        out.print(f"target, {line['sentence']}", markup=False)
    finish(result, output)
    return result


def _measure(
    pipeline: MotionStreamPipeline, clips: int, seed: int, speed: float
) -> tuple[RenderedRows, RenderedRows, dict[str, int]]:
    """The rows of both conditionings, and the numbers of clips, points and measured errors."""
    tracker = TemplateTracker()
    drags: RenderedRows = {}
    dense: RenderedRows = {}
    points = {"clips": 0, "points": 0, "errors": 0}
    # no progress bar if it would only fill a log
    errors = Console(stderr=True)
    for index in progress(range(clips), "evaluating", console=errors, disable=not sys.stderr.isatty()):
        clip = held_out_clip(pipeline.config, index, seed, speed)
        points["clips"] += bool(clip.counted.any())
        points["points"] += clip.followed.count
        points["errors"] += int(clip.counted.sum())
        for rows, tracks, everything in ((drags, clip.drags, True), (dense, clip.dense, False)):
            for name, make in _methods(pipeline, clip, tracks, seed, everything).items():
                video = make()
                if video is not None:
                    rows.setdefault(name, RenderedRow()).add(video, clip, tracker)
    return drags, dense, points


def _methods(
    pipeline: MotionStreamPipeline, clip: EvaluationClip, tracks: Tracks, seed: int, everything: bool
) -> dict[str, Callable[[], np.ndarray | None]]:
    """The rows in the order printed. ``everything``: also those that do not depend on the kind of tracks."""
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
    if everything:
        unconditioned[GUESSED] = lambda: baselines.guessed(pipeline, video, tracks, clip.regions["uncovered"])
    return {**unconditioned, **conditioned} if everything else conditioned


def compare(rows: RenderedRows) -> dict[str, Interval]:
    """The model against the other rows: paired 95 % intervals, by resampling clips.

    "psnr: …" and "background: …" are differences in dB (above 0: the model is better), "blocks: …" are differences
    (below 0: the model is better), "epe median: …" and "epe mean: …" are ratios (below 1: the model is better), omitted
    if no point moved. Differences in dB within the regions are against the warp and the carried picture. "psnr gain:
    model / …" is the model's gain over the frozen first frame as a share of the ceiling's.
    """
    model = rows[MODEL]
    found: dict[str, Interval] = {}
    others = [name for name in (FROZEN, NO_TRACKS, WARP, MIXTURE) if name in rows]
    moving = any(len(errors) for errors in model.errors)
    for name in others:
        other = rows[name]
        found[f"psnr: model - {name}"] = paired_bootstrap(model.psnr, other.psnr)
        if name != FROZEN:  # whose still background is exact
            found[f"background: model - {name}"] = paired_bootstrap(model.background, other.background)
        if model.blocks:
            found[f"blocks: model - {name}"] = paired_bootstrap(model.blocks, other.blocks)
        for label, reduce in (("median", np.median), ("mean", np.mean)) if moving else ():
            key = f"epe {label}: model / {name}"
            found[key] = paired_bootstrap(model.errors, other.errors, compare="ratio", reduce=reduce)
        for region in REGIONS if name in (WARP, MIXTURE) else ():
            pairs = [pair for pair in zip(model.regions[region], other.regions[region], strict=True) if _known(pair)]
            if pairs:
                first, second = zip(*pairs, strict=True)
                found[f"{region}: model - {name}"] = paired_bootstrap(first, second)
    if CEILING in rows and FROZEN in rows:
        least, most = np.array(rows[FROZEN].psnr), np.array(rows[CEILING].psnr)
        found[f"psnr gain: model / {CEILING}"] = paired_bootstrap(
            list(np.array(model.psnr) - least), list(most - least), compare="ratio"
        )
    return found


def _known(pair: tuple[float, float]) -> bool:
    return bool(np.isfinite(pair).all())


def walking(model: RenderedRow, speed: float) -> dict[str, dict[str, Any]]:
    """The targets for following at walking speed: "epe", a median error of at most ``PX_OF_SPEED * speed`` pixels, and
    "pins", a median motion of pinned points of at most ``PINS`` pixels. Each with its bound, value, 95 % interval (None
    without anything to measure), whether it is met, and a sentence."""
    asked = {
        "epe": (model.errors, PX_OF_SPEED * speed, f"median EPE at speed {speed:g}"),
        "pins": (model.pins, PINS, "motion of pinned points"),
    }
    found = {}
    for name, (values, bound, words) in asked.items():
        if not any(len(part) for part in values):
            line: dict[str, Any] = {"bound": bound, "value": None, "interval": None, "met": None}
            line["sentence"] = f"{words}: nothing to measure"
        else:
            nothing = [np.zeros_like(part) for part in values]
            interval = paired_bootstrap(values, nothing, reduce=np.median)
            met = interval.value <= bound
            line = {"bound": bound, "value": interval.value, "interval": interval.to_dict(), "met": met}
            line["sentence"] = f"{words} at most {bound:g} px: {interval}, {'met' if met else 'missed'}"
        found[name] = line
    return found


def target(intervals: dict[str, Interval]) -> dict[str, Any]:
    """Whether the model's error is below or above half the frozen first frame's, or its interval lies across it."""
    places: dict[str, str | None] = {}
    parts = []
    for label in ("median", "mean"):
        interval = intervals.get(f"epe {label}: model / {FROZEN}")
        places[label] = None if interval is None else interval.place(TARGET)
        if interval is not None:
            parts.append(f"{label} EPE is {interval} of the frozen error, {places[label]} {TARGET:g}")
    return {"bound": TARGET, **places, "sentence": "; ".join(parts) or "no point moved: nothing to follow"}


def _show(drags: RenderedRows, dense: RenderedRows, points: dict[str, int], intervals: dict[str, Interval]) -> None:
    out = console()
    title = f"conditioned as people drag ({points['points']} followed points in {points['clips']} clips)"
    out.print(table(title, COLUMNS, {name: row.cells() for name, row in drags.items()}))
    out.print(table("conditioned densely", COLUMNS, {name: row.cells() for name, row in dense.items()}))
    lines = {name: [str(interval)] for name, interval in intervals.items()}
    out.print(table("paired bootstrap over clips, drags", ["95 % interval"], lines))


def _lines(rows: RenderedRows, gains: dict[str, dict[str, float | None]]) -> dict[str, list[str]]:
    return {name: row.region_cells(gains[name]) for name, row in rows.items()}
