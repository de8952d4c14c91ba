"""``motionstream evaluate drift``: does a long stream keep its quality while drags are released and resumed?

In a held-out rendered scene, drags follow the sprites' true motion and are released; then new tracks drag them the same
way back and are released again, and so on. So half of the drags take their content from generated frames rather than
the given picture. Pins are never released. The stream uses the public pipeline, chunk by chunk. All true positions are
known:

- **PSNR** of the still region, the pixels that no sprite ever covers (the camera is still), against the given picture,
  second by second.
- **EPE**, the mean distance in pixels of points on the dragged sprites from their true positions, wherever these are 4
  px or more from their beginnings. A template tracker searches for their patches of the given picture, anew in every
  turn, so that a stream may regain a lost point; a lost point scores as if it had not moved.

Each model is a line per attention pattern, with and without a sink (the paper's reason for sinks, section 3.2).
Intervals are 95 %, by resampling clips; comparisons are on the same clips, over the last seconds. **Decline** compares
a line's last seconds with its first ones.

Turns have a fixed length in frames, that of chunks of three latent frames, for all patterns, so that every line follows
the same motion. For chunks that end elsewhere (those of seven latent frames), drags must be held throughout.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from motionstream.config import CausalConfig
from motionstream.environment import environment
from motionstream.evaluation import baselines
from motionstream.evaluation.report import console, drift_figure, finish, table
from motionstream.evaluation.scenes import FRAMES, EvaluationClip, scenes
from motionstream.media.files import atomic_path, check_output
from motionstream.metrics import Interval, drift_curve, end_point_error, paired_bootstrap
from motionstream.pipeline import MotionStreamPipeline
from motionstream.tracks import Tracks
from motionstream.tracks.template import TemplateTracker
from motionstream.tracks.tracker import Tracker

PATTERNS = ("c3s1w1", "c3s0w1")
TURN_LATENTS = 3
CHUNKS_A_TURN = 4
"""Chunks of ``TURN_LATENTS`` latent frames per turn: one released, the others there or back. 2 seconds for nano."""
LAST_SECONDS = 4
"""Two turns, there and back, so that the first and the last seconds show the same motion."""


@dataclass
class DriftRow:
    """One model with one attention pattern; per clip, values by second."""

    model: str
    causal: str
    stages: tuple[str, ...]
    psnr: list[np.ndarray] = field(default_factory=list)
    """PSNR of the still region in dB, (seconds,) per clip."""
    epe: list[np.ndarray] = field(default_factory=list)
    """Mean error per second in pixels, (seconds,) per clip, NaN if nothing has moved."""
    latency: list[float] = field(default_factory=list)
    """Seconds from the call to the frames, for every chunk but a stream's first."""
    pace: list[float] = field(default_factory=list)
    """Frames per second of each stream, without its first chunk."""

    @property
    def name(self) -> str:
        return f"{self.model} {self.causal}".strip()

    def to_dict(self) -> dict[str, Any]:
        """Means over clips with intervals, second by second, and every clip's mean over the last seconds; None without
        a value."""
        return {
            "model": self.model,
            "causal": self.causal,
            "stages": list(self.stages),
            "psnr": [value and value.to_dict() for value in by_second(self.psnr)],
            "epe": [value and value.to_dict() for value in by_second(self.epe)],
            "last_seconds_by_clip": {
                "psnr": [_or_none(value) for value in last(self.psnr)],
                "epe": [_or_none(value) for value in last(self.epe)],
            },
            "decline": decline(self),
            "latency": round(float(np.median(self.latency)), 4) if self.latency else None,
            "fps": round(float(np.median(self.pace)), 2) if self.pace else None,
        }


def evaluate_drift(
    models: Sequence[str] = ("nano",),
    causal: Sequence[str] = PATTERNS,
    *,
    seconds: float = 20.0,
    clips: int = 16,
    seed: int = 0,
    held: bool = False,
    mixture: bool = False,
    output: Path | None = None,
    figure: Path | None = None,
    untrained: bool = False,
    speed: float = 6.0,
) -> dict[str, Any]:
    """Measure drift. Prints a table and, last, the result as one JSON line; returns it.

    Args:
        models: presets or folders; the others are compared with the first. causal: attention patterns.
        seconds: length of each stream. clips: number of scenes, skipping those without points to follow.
        seed: selects the scenes, 0..999, and the models' noise. speed: mean travel of a sprite in pixels per 12 frames.
        held: never release the drags, so that no content is taken from generated frames.
        mixture: also stream the first model's carried picture, without the transformer's change, as a baseline.
        output: a .json file for the result. figure: a .png file of the curves, drawn by matplotlib.
        untrained: accept random weights.

    Raises ValueError for an invalid length, number, model or output file.
    """
    if not (math.isfinite(seconds) and seconds >= LAST_SECONDS):
        raise ValueError(
            f"seconds = {seconds}; drift is measured over the last {LAST_SECONDS} s; give at least as many"
        )
    if clips < 1 or not models or not causal:
        raise ValueError(f"clips = {clips}, models = {models}, causal = {causal}: give at least one of each")
    for pattern in () if held else causal:
        _check_turns(pattern)
    for path, kinds in ((output, [".json"]), (figure, [".png"])):
        if path is not None:
            check_output(path, kinds)
    clock = time.perf_counter()
    lines: list[DriftRow] = []
    reference = DriftRow("the autoencoder alone", "", ())
    with Progress(console=Console(stderr=True)) as bar:
        for line, pipeline in _lines(models, causal, untrained=untrained, mixture=mixture):
            found = scenes(pipeline.config, clips, seed, speed, slice(_farthest(_later(pipeline)) + 1))
            for clip in bar.track(found, clips, description=line.name):
                measure(line, pipeline, clip, seconds, seed, held=held)
                if not lines:
                    measure_coded(reference, pipeline, clip, seconds)
            lines.append(line)
    result: dict[str, Any] = {
        "script": "motionstream evaluate drift",
        "settings": {"seconds": seconds, "clips": clips, "seed": seed, "speed": speed, "held": held},
        "lines": [line.to_dict() for line in lines],
        "reference": reference.to_dict(),
        "last_seconds": {"seconds": LAST_SECONDS, "comparisons": comparisons(lines)},
        "seconds": round(time.perf_counter() - clock, 1),
        "environment": environment(pipeline.model.device),
    }
    if figure is not None:
        with atomic_path(figure, [".png"]) as path:
            drift_figure(result, path)
    _show(result)
    finish(result, output)
    return result


def _lines(
    models: Sequence[str], causal: Sequence[str], *, untrained: bool, mixture: bool
) -> Iterator[tuple[DriftRow, MotionStreamPipeline]]:
    """The pipelines to stream, one after the other, with an empty line for each."""
    for name in dict.fromkeys(models):
        for pattern in dict.fromkeys(causal):
            pipeline = MotionStreamPipeline.from_pretrained(name, untrained=untrained, causal=pattern)
            yield DriftRow(str(name), pattern, pipeline.stages), pipeline
    if mixture:
        pipeline = MotionStreamPipeline.from_pretrained(models[0], untrained=untrained, causal=causal[0])
        if pipeline.model.carry_prior is None:
            raise ValueError(f"{models[0]} carries no content: leave out mixture")
        with torch.no_grad():  # an output of zero leaves the carried picture unchanged
            for parameter in pipeline.model.transformer.proj_out.parameters():
                parameter.zero_()
        yield DriftRow(f"carried mixture of {models[0]}", causal[0], pipeline.stages), pipeline


def measure(
    line: DriftRow, pipeline: MotionStreamPipeline, clip: EvaluationClip, seconds: float, seed: int, *, held: bool
) -> None:
    """Stream one scene for ``seconds`` and add its curves to ``line``."""
    frames, times = [], []
    for made, latency, settling in drag_stream(pipeline, clip, seconds, seed, held=held):
        frames.append(made)
        times.append((latency, latency + settling))
    _add(line, pipeline, clip, np.concatenate(frames)[: round(seconds * pipeline.config.fps)])
    if len(times) > 1:
        line.latency += [latency for latency, _ in times[1:]]
        line.pace.append(sum(map(len, frames[1:])) / sum(total for _, total in times[1:]))


def measure_coded(line: DriftRow, pipeline: MotionStreamPipeline, clip: EvaluationClip, seconds: float) -> None:
    """Add the curves of the true video encoded and decoded, as of a perfect model."""
    frames = np.arange(round(seconds * pipeline.config.fps))
    _add(line, pipeline, clip, baselines.coded(pipeline, clip.video)[_schedule(pipeline, frames).frame])


def _add(line: DriftRow, pipeline: MotionStreamPipeline, clip: EvaluationClip, video: np.ndarray) -> None:
    second, still = round(pipeline.config.fps), np.asarray(clip.background.all(axis=0))
    line.psnr.append(drift_curve(video, clip.video[0], still, window=second))
    errors = turn_errors(video, clip, _schedule(pipeline, np.arange(len(video))), TemplateTracker())
    made = [errors[k * second : (k + 1) * second] for k in range(len(video) // second)]
    line.epe.append(np.array([np.nanmean(part) if np.isfinite(part).any() else np.nan for part in made]))


@dataclass(frozen=True)
class Schedule:
    """For each of T frames of the stream: ``turn``, the number of the drag; ``frame``, the clip's frame with the same
    positions; ``dragging``, false while everything but the pins is released. All (T,)."""

    turn: np.ndarray
    frame: np.ndarray
    dragging: np.ndarray


def schedule(frames: np.ndarray, first: int, chunk: int) -> Schedule:
    """The schedule of a stream's ``frames``; ``first`` and ``chunk``: frames of the first chunk and of later ones.

    Every turn but the first begins with a released chunk, then moves frame by frame: the first turn there, the second
    back from there, and so on.
    """
    length = CHUNKS_A_TURN * chunk
    turn, since = np.divmod(frames + chunk - first, length)
    begun = np.where(turn == 0, chunk - first, chunk)
    farthest = _farthest(chunk)
    way = (since - begun).clip(0, farthest)
    shown = np.where(turn % 2 == 0, way, farthest - way)
    return Schedule(turn, shown, since >= begun)


def _farthest(chunk: int) -> int:
    """The last frame of a clip that a turn shows."""
    return min((CHUNKS_A_TURN - 1) * chunk, FRAMES) - 1


def _later(pipeline: MotionStreamPipeline) -> int:
    """Frames per chunk of a turn, except the stream's first."""
    return TURN_LATENTS * pipeline.config.temporal_compression


def _schedule(pipeline: MotionStreamPipeline, frames: np.ndarray) -> Schedule:
    return schedule(frames, pipeline.config.frames_of(TURN_LATENTS), _later(pipeline))


def _check_turns(pattern: str) -> None:
    """Refuse chunks that do not end where turns do: after 3, 6, 9 … latent frames."""
    size = CausalConfig.parse(pattern).chunk_frames
    if TURN_LATENTS % size:
        raise ValueError(
            f"{pattern}: drags are let go after every {CHUNKS_A_TURN * TURN_LATENTS} latent frames, in the middle of a "
            f"chunk of {size}; hold them (--held)"
        )


def _chunks(pipeline: MotionStreamPipeline, seconds: float) -> int:
    """Number of chunks that last at least ``seconds``."""
    first, later = pipeline.config.chunk_video_frames(0), pipeline.config.chunk_video_frames(1)
    return 1 + max(0, math.ceil((seconds * pipeline.config.fps - first) / later))


def drag_stream(
    pipeline: MotionStreamPipeline, clip: EvaluationClip, seconds: float, seed: int, *, held: bool
) -> Iterator[tuple[np.ndarray, float, float]]:
    """Yield uint8 frames for at least ``seconds``, chunk by chunk (9, then 12, H, W, 3), with each chunk's latency and
    the duration of its clean pass in seconds."""
    stream = pipeline.stream(clip.video[0], clip.caption, seed=seed)
    for _ in range(_chunks(pipeline, seconds)):
        now = _schedule(pipeline, np.arange(stream.frame, stream.frame + stream.next_frames))
        frames = stream.step(drags_at(clip.drags, now, held=held))
        stream.settle()
        yield frames, stream.timings.latency, stream.timings.settle


def drags_at(drags: Tracks, now: Schedule, *, held: bool) -> Tracks:
    """The tracks of one chunk: pins, which never move, and the drags of its turn, unless released."""
    moving = np.ptp(drags.positions, axis=0).max(axis=-1) > 0
    ids, present = np.arange(drags.count), np.ones(drags.count, bool)
    if not held:
        ids[moving] += drags.count * (1 + now.turn[0])
        present[moving] = now.dragging[0]
    tracks = Tracks(drags.positions[now.frame], drags.visible[now.frame], drags.size, drags.fps, ids=ids)
    return tracks.select(present)


def turn_errors(video: np.ndarray, clip: EvaluationClip, at: Schedule, tracker: Tracker) -> np.ndarray:
    """Mean error of the followed points in every frame (T,), NaN if none counts.

    In every turn they are tracked from their positions in the given picture, through the turn's frames in the order of
    the clip's.
    """
    errors = np.full(len(video), np.nan)
    for turn in np.unique(at.turn):
        rows = np.flatnonzero((at.turn == turn) & at.dragging)
        if not len(rows):
            continue
        rows = rows[np.argsort(at.frame[rows], kind="stable")]
        found = tracker.track(
            np.concatenate([clip.video[:1], video[rows]]), clip.followed.positions[0], clip.followed.fps
        )
        for row, where in enumerate(rows, start=1):
            frame = at.frame[where]
            counted = clip.counted[frame]
            if counted.any():
                true = clip.followed.positions[[0, frame]]
                seen = found.visible[[0, row]]
                pair = np.stack([np.zeros_like(counted), counted])
                errors[where] = end_point_error(found.positions[[0, row]], seen, true, pair).mean()
    return errors


def by_second(rows: list[np.ndarray]) -> list[Interval | None]:
    """Mean over clips with its interval, for each second; None if no clip has a value."""
    means: list[Interval | None] = []
    for column in np.stack(rows).T:
        there = column[np.isfinite(column)]
        means.append(paired_bootstrap(there, np.zeros_like(there)) if len(there) else None)
    return means


def last(rows: list[np.ndarray]) -> list[float]:
    """Every clip's mean over those of the last seconds that have a value."""
    return [_known_mean(row[-LAST_SECONDS:]) for row in rows]


def _known_mean(row: np.ndarray) -> float:
    known = row[np.isfinite(row)]
    return float(known.mean()) if len(known) else math.nan


def _or_none(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _paired(pairs: Iterable[tuple[float, float]], compare: str = "difference") -> dict[str, float] | None:
    """The interval over clips in which both sides have a value; None without any."""
    known = [pair for pair in pairs if np.isfinite(pair).all()]
    return paired_bootstrap(*zip(*known, strict=True), compare=compare).to_dict() if known else None


def decline(line: DriftRow) -> dict[str, dict[str, float] | None]:
    """The last seconds compared with as many first ones, paired: difference of PSNR in dB, ratio of errors; None if no
    clip has a value."""
    sides = {
        key: [(late, _known_mean(row[:LAST_SECONDS])) for late, row in zip(last(rows), rows, strict=True)]
        for key, rows in (("psnr", line.psnr), ("epe", line.epe))
    }
    return {key: _paired(pairs, "difference" if key == "psnr" else "ratio") for key, pairs in sides.items()}


def comparisons(lines: list[DriftRow]) -> list[dict[str, Any]]:
    """Over the last seconds: every line minus the first line of the same pattern, and minus the first of the same
    model; None if no clip has values of both."""
    found = []
    for line in lines:
        same_pattern = next(other for other in lines if other.causal == line.causal)
        same_model = next(other for other in lines if other.model == line.model)
        for other in (same_pattern, same_model):
            if other is not line:
                found.append(
                    {
                        "of": line.name,
                        "minus": other.name,
                        "psnr_difference": _paired(zip(last(line.psnr), last(other.psnr), strict=True)),
                        "epe_difference": _paired(zip(last(line.epe), last(other.epe), strict=True)),
                    }
                )
    return found


def _show(result: dict[str, Any]) -> None:
    out = console()
    lines = [*result["lines"], result["reference"]]

    def interval(values: dict[str, float] | None) -> str:
        return "-" if values is None else str(Interval(**values))

    seconds = range(len(lines[0]["psnr"]))
    shown = sorted({round(k) for k in np.linspace(0, len(seconds) - 1, min(6, len(seconds)))})
    for key, title in (("psnr", "PSNR in dB of what is still"), ("epe", "EPE in pixels of what is dragged")):
        rows = {}
        for line in lines:
            values = [line[key][k] for k in shown]
            cells = ["-" if value is None else f"{value['value']:.2f}" for value in values]
            rows[f"{line['model']} {line['causal']}".strip()] = cells
        out.print(table(f"{title}, second by second", [f"{k + 1} s" for k in shown], rows))
    rows = {}
    for line in lines:
        change, speed = line["decline"], (line["latency"], line["fps"])
        cells = [interval(change[key]) for key in ("psnr", "epe")]
        cells += ["-" if value is None else f"{value:.2f}" for value in speed]
        rows[f"{line['model']} {line['causal']}".strip()] = cells
    columns = ["PSNR (dB)", "EPE (ratio)", "latency (s)", "fps"]
    out.print(table(f"decline: the last {LAST_SECONDS} seconds against the first", columns, rows))
    differences = {
        f"{pair['of']} - {pair['minus']}": [interval(pair["psnr_difference"]), interval(pair["epe_difference"])]
        for pair in result["last_seconds"]["comparisons"]
    }
    if differences:
        title = f"over the last {LAST_SECONDS} seconds, paired 95 % intervals"
        out.print(table(title, ["PSNR (dB)", "EPE (px)"], differences))
