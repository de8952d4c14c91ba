"""``motionstream evaluate long``: does a stream hold together? Drift of what nobody drags, over a minute.

A grid of points on a held-out photograph goes back and forth for the whole stream, beside a pin. Wherever the drag does
not reach, the picture should stay as it was; its PSNR against the stream's own first frame is the drift curve, each
value over one whole swing of the drag. It is drawn with and without an attention sink (the paper's reason for sinks,
section 3.2), for a drag that is held all the time and for one that is let go and taken up again after every swing,
where new content comes from generated frames.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from motionstream.data.photographs import HELD_OUT, load
from motionstream.environment import environment
from motionstream.evaluation.report import finish, table
from motionstream.media import check_output
from motionstream.metrics import drift_curve
from motionstream.pipeline import MotionStreamPipeline
from motionstream.tracks import Tracks, grid_around

PATTERNS = ("c3s1w1", "c3s0w1")
PERIOD = 5.0
"""Seconds of one way there and back; after each, a drag that is not held is let go and taken up again."""
CENTRE, REACH, PIN, RADIUS = (0.35, 0.5), 0.15, (0.85, 0.15), 0.1
"""Where the drag is, how far it goes to the right and back, the pin, the radius of both: in shares of the size."""


def evaluate_long(
    model: str = "nano",
    seconds: float = 60.0,
    seed: int = 0,
    output: Path | None = None,
    untrained: bool = False,
    photograph: str = "chelsea",
    causal: tuple[str, ...] = PATTERNS,
) -> dict[str, Any]:
    """Measure drift over ``seconds``; prints a table and, last, one JSON line; returns what it holds.

    Args:
        model: a preset or a folder. untrained: accept random weights. seed: the model's noise.
        photograph: one of the held-out names. causal: attention patterns to compare, written like c3s1w1.
        output: a .json file to keep the result in.

    Raises ValueError for less than 5 seconds, an unknown photograph, and a model or output that does not work.
    """
    if not (math.isfinite(seconds) and seconds >= PERIOD):
        raise ValueError(f"seconds = {seconds}; drift needs at least {PERIOD:g}, one swing of the drag")
    if photograph not in HELD_OUT:
        raise ValueError(f"photograph {photograph!r} is not held out; give one of {', '.join(HELD_OUT)}")
    if output is not None:
        check_output(output, [".json"])
    clock = time.perf_counter()
    picture = load(photograph)
    curves: dict[str, list[float]] = {}
    with Progress(console=Console(stderr=True)) as bar:
        for pattern in causal:
            pipeline = MotionStreamPipeline.from_pretrained(model, untrained=untrained, causal=pattern)
            for held in (True, False):
                name = f"{pattern}, {'held' if held else 'taken up again'}"
                task = bar.add_task(name, total=seconds)
                made = 0.0
                parts = []
                for frames in drag_stream(pipeline, picture, seconds, seed, held=held):
                    parts.append(frames)
                    made += len(frames) / pipeline.config.fps
                    bar.update(task, completed=made)
                video = np.concatenate(parts)
                window = round(PERIOD * pipeline.config.fps)
                curve = drift_curve(video, video[0], still_region(pipeline.config.size), window=window)
                curves[name] = [round(float(value), 2) for value in curve]
    result: dict[str, Any] = {
        "script": "motionstream evaluate long",
        "model": str(model),
        "settings": {"seconds": seconds, "seed": seed, "photograph": photograph, "period": PERIOD},
        "still_psnr_by_swing": curves,
        "seconds": round(time.perf_counter() - clock, 1),
        "environment": environment(),
    }
    swings = range(len(next(iter(curves.values()))))
    shown = sorted({round(k) for k in np.linspace(0, len(swings) - 1, min(6, len(swings)))})
    rows = {name: [f"{curve[k]:.1f}" for k in shown] for name, curve in curves.items()}
    title = "PSNR in dB of what is not dragged, against the stream's first frame"
    Console().print(table(title, [f"{(k + 1) * PERIOD:g} s" for k in shown], rows))
    finish(result, output)
    return result


def drag_stream(
    pipeline: MotionStreamPipeline, picture: np.ndarray, seconds: float, seed: int, *, held: bool
) -> Iterator[np.ndarray]:
    """Yield uint8 frames (9, then 12, H, W, 3) of a stream whose drag goes back and forth for ``seconds``.

    ``held``: one drag for ever; otherwise let go every ``PERIOD`` seconds, when it is back where it began, for one
    chunk, and then taken up as a new one.
    """
    stream = pipeline.stream(picture, seed=seed)
    total = round(seconds * stream.fps)
    chunk = pipeline.config.chunk_video_frames(1)
    swing = max(2, round(PERIOD * stream.fps / chunk)) * chunk
    while stream.frame < total:
        tracks = drag_at(stream.frame, stream.next_frames, stream.size, swing=swing, held=held)
        yield stream.step(replace(tracks, fps=stream.fps))


def drag_at(first: int, frames: int, size: tuple[int, int], *, swing: int, held: bool) -> Tracks:
    """The drag and the pin in the chunk of ``frames`` frames that begins at frame ``first``.

    ``swing``: frames there and back, a whole number of chunks. A drag that is not held is let go after each, for a
    chunk, in which the pin is alone.
    """
    height, width = size
    radius = RADIUS * min(size)
    spacing = max(2.0, radius / 2)
    dragged = grid_around(CENTRE[0] * width, CENTRE[1] * height, size, spacing=spacing, radius=radius)
    pinned = grid_around(PIN[0] * width, PIN[1] * height, size, spacing=spacing, radius=radius)
    count = len(dragged) + len(pinned)
    ids, present = np.arange(count), np.ones(count, bool)
    elapsed = first + np.arange(frames)
    if not held:
        # the stream's first chunk is shorter: later turns begin that much after a whole number of swings
        turn, since = divmod(first - first % frames, swing)
        ids[: len(dragged)] += count * (turn + 1)
        if turn > 0:
            present[: len(dragged)] = since > 0  # a turn's first chunk has no drag: it was let go
            elapsed = since - frames + np.arange(frames)
            swing -= frames
        elapsed = elapsed.clip(0, swing)
    away = REACH * width * (1 - np.cos(2 * np.pi * elapsed / swing)) / 2
    positions = np.repeat(np.concatenate([dragged, pinned])[None], frames, axis=0)
    positions[:, : len(dragged), 0] += away[:, None]
    return Tracks(positions, np.ones((frames, count), bool), size, ids=ids).select(present)


def still_region(size: tuple[int, int]) -> np.ndarray:
    """bool (H, W): farther from the drag's way than its radius and a margin of half as much again."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    nearest = np.clip(x, CENTRE[0] * width, (CENTRE[0] + REACH) * width)
    return np.asarray(np.hypot(x - nearest, y - CENTRE[1] * height) > 1.5 * RADIUS * min(size) + 2)
