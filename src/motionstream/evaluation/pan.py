"""``motionstream evaluate pan``: the quality of a stream whose camera leaves the first view for good.

A camera pans over a flat scene, the first frame of a held-out rendered clip. All motion is known exactly, but content
that comes into view is up to the model, so the stream is measured against itself:

- **PSNR** of every frame against the frame ``LAG`` earlier, moved as the camera moved, where they overlap: does
  generated content stay the same while it crosses the picture?
- **EPE** in pixels, from the exact positions, of a grid of points of that earlier frame, found by a template tracker; a
  lost point scores as if it had not moved.

The same scenes are streamed with the first chunk as a permanent attention sink, as in the paper, which names that as a
limitation, and with a sink that is refreshed once less than half of its view is left (``Stream.adaptive``). Intervals
are 95 %, by resampling scenes; the comparison is on the same scenes, over the last seconds.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from motionstream.environment import environment
from motionstream.evaluation.drift import by_second
from motionstream.evaluation.report import console, finish, table
from motionstream.evaluation.scenes import held_out_clip
from motionstream.media.files import check_output
from motionstream.metrics import end_point_error, paired_bootstrap, psnr
from motionstream.pipeline import MotionStreamPipeline
from motionstream.tracks import Tracks, grid_points
from motionstream.tracks.camera import PAN_SPEED, CameraMove, LiveCamera
from motionstream.tracks.template import TemplateTracker

LAG = 12
"""Distance in frames between compared frames: one chunk."""
LAST_SECONDS = 5
POINTS = 6
"""Points per side of the tracked grid."""
LINES = ("fixed sink", "adaptive sink")


def evaluate_pan(
    model: str = "nano",
    *,
    seconds: float = 20.0,
    clips: int = 16,
    seed: int = 0,
    output: Path | None = None,
    untrained: bool = False,
) -> dict[str, Any]:
    """Measure pans. Prints a table and, last, the result as one JSON line; returns it.

    Raises ValueError for an invalid length, number, model or output file.
    """
    if not (math.isfinite(seconds) and seconds > LAST_SECONDS):
        raise ValueError(f"seconds = {seconds}; the last {LAST_SECONDS} s are measured; give more")
    if clips < 1:
        raise ValueError(f"clips = {clips}; give at least one")
    if output is not None:
        check_output(output, [".json"])
    clock = time.perf_counter()
    pipeline = MotionStreamPipeline.from_pretrained(model, untrained=untrained)
    curves: dict[str, dict[str, list[np.ndarray]]] = {line: {"psnr": [], "epe": []} for line in LINES}
    refreshes = []
    with Progress(console=Console(stderr=True)) as bar:
        for index in bar.track(range(clips), description="scenes"):
            picture = held_out_clip(pipeline.config, index, seed).video[0]
            for line in LINES:
                video, offsets, count = pan_stream(pipeline, picture, index, seconds, seed, adaptive=line != LINES[0])
                for key, values in measure(video, offsets, pipeline.config.fps).items():
                    curves[line][key].append(values)
                refreshes += [count] if line != LINES[0] else []
    fixed, adaptive = (curves[line] for line in LINES)
    result: dict[str, Any] = {
        "script": "motionstream evaluate pan",
        "settings": {"model": model, "seconds": seconds, "clips": clips, "seed": seed, "lag": LAG},
        "lines": {
            line: {key: [value and value.to_dict() for value in by_second(rows)] for key, rows in found.items()}
            for line, found in curves.items()
        },
        "refreshes": {"mean": float(np.mean(refreshes)), "by_scene": refreshes},
        "last_seconds": {
            "seconds": LAST_SECONDS,
            "adaptive_minus_fixed": {
                key: paired_bootstrap(_last(adaptive[key]), _last(fixed[key])).to_dict() for key in ("psnr", "epe")
            },
        },
        "seconds": round(time.perf_counter() - clock, 1),
        "environment": environment(pipeline.model.device),
    }
    _show(result)
    finish(result, output)
    return result


def pan_stream(
    pipeline: MotionStreamPipeline, picture: np.ndarray, index: int, seconds: float, seed: int, *, adaptive: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """Stream one pan: frames uint8 (T, H, W, 3), the first view's displacement in the picture (T, 2) in pixels, and the
    number of sink refreshes. The direction depends on the seed and the scene's index."""
    angle = float(np.random.default_rng([seed, index]).uniform(0, 2 * np.pi))
    way = np.array([math.cos(angle), math.sin(angle)])
    stream = pipeline.stream(picture, seed=seed)
    stream.adaptive = adaptive
    camera = LiveCamera(np.ones(stream.size, np.float32), stream.size, stream.fps)
    camera.move(CameraMove(pan=(float(way[0]), float(way[1]))))
    frames = []
    while stream.frame < seconds * stream.fps:
        frames.append(stream.step(camera.cut(Tracks.empty(stream.next_frames, stream.size, stream.fps))))
        stream.settle()
    video = np.concatenate(frames)
    speed = PAN_SPEED * min(stream.size) / stream.fps
    return video, -way * speed * np.arange(len(video))[:, None], stream.refreshes


def measure(video: np.ndarray, offsets: np.ndarray, fps: float) -> dict[str, np.ndarray]:
    """PSNR and EPE of every second (S,), NaN for a second without a frame that has one ``LAG`` earlier."""
    second = round(fps)
    count = len(video) // second
    found = {"psnr": np.full(count, np.nan), "epe": np.full(count, np.nan)}
    tracker = TemplateTracker()
    for index in range(count):
        rows = [row for row in range(index * second, (index + 1) * second) if row >= LAG]
        if rows:
            found["psnr"][index] = np.mean([_overlap_psnr(video, offsets, row) for row in rows])
            found["epe"][index] = _errors(video[rows[-1] - LAG : rows[-1] + 1], offsets[1], tracker)
    return found


def _overlap_psnr(video: np.ndarray, offsets: np.ndarray, row: int) -> float:
    """PSNR of a frame against the one ``LAG`` earlier, moved with the camera, where they overlap."""
    import cv2

    x, y = (float(value) for value in offsets[row] - offsets[row - LAG])
    height, width = video.shape[1:3]
    moved = cv2.warpAffine(video[row - LAG], np.array([[1, 0, x], [0, 1, y]]), (width, height), flags=cv2.INTER_CUBIC)
    column, line = np.arange(width), np.arange(height)[:, None]
    both = (column >= x) & (column <= width - 1 + x) & (line >= y) & (line <= height - 1 + y)
    return float(psnr(video[row : row + 1], moved[None], both[None]))


def _errors(frames: np.ndarray, step: np.ndarray, tracker: TemplateTracker) -> float:
    """Mean error in the last frame of the first frame's points, of those that stay inside; ``step``: (2,) motion in
    pixels per frame."""
    size = (frames.shape[1], frames.shape[2])
    points = grid_points(size, POINTS)
    true = points + step * np.arange(len(frames))[:, None, None]
    inside = np.all((true[-1] >= 8) & (true[-1] <= np.array(size[::-1]) - 9), axis=-1)
    tracks = tracker.track(frames, points[inside])
    ends = [0, len(frames) - 1]
    counted = np.stack([np.zeros(inside.sum(), bool), np.ones(inside.sum(), bool)])
    return float(end_point_error(tracks.positions[ends], tracks.visible[ends], true[ends][:, inside], counted).mean())


def _last(rows: list[np.ndarray]) -> list[float]:
    return [float(np.nanmean(row[-LAST_SECONDS:])) for row in rows]


def _show(result: dict[str, Any]) -> None:
    out, lines = console(), result["lines"]
    length = len(lines[LINES[0]]["psnr"])
    shown = sorted({round(k) for k in np.linspace(0, length - 1, min(6, length))})
    for key, title in (
        ("psnr", "PSNR in dB against a chunk before, moved along"),
        ("epe", "EPE in pixels over a chunk"),
    ):
        rows = {
            line: ["-" if (value := found[key][k]) is None else f"{value['value']:.2f}" for k in shown]
            for line, found in lines.items()
        }
        out.print(table(title, [f"{k + 1} s" for k in shown], rows))
    for key, value in result["last_seconds"]["adaptive_minus_fixed"].items():
        out.print(f"adaptive - fixed, last {LAST_SECONDS} s, {key}: {value}")
    out.print(f"refreshes of a scene: {result['refreshes']['mean']:.1f}")
