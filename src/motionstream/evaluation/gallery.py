"""``motionstream evaluate gallery``: photographs that were not in training, each dragged, pinned and filmed.

Three clips of 45 frames per photograph: its **drag** alone, the same with pinned corners (**pinned**), and a **camera**
that approaches and moves aside. There is no true video, so the measures are of where things went, found by the template
tracker by their patches of the photograph (``evaluate rendered`` reports the tracker's own error):

- **follow**: median end-point error in pixels of the points with given motion, wherever that is 4 px or more from their
  start. A point that the tracker lost scores as if it had not moved; **lost** is the share of these.
- **corners**: mean distance in pixels of the corners from their start in the last frame, without those that cannot be
  found (in a blank sky). They should stay, whether pinned or not.
- **blocks**: brightness differences at the edges of 8-pixel cells relative to those elsewhere (``metrics.blockiness``)
  in the last frame, divided by the photograph's; ideally 1.

The baseline is the photograph merely warped along the tracks. Intervals are by resampling photographs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track as progress

from motionstream.environment import environment
from motionstream.evaluation import baselines
from motionstream.evaluation.photographs import Photograph, camera, read_photographs
from motionstream.evaluation.report import console, finish, table
from motionstream.evaluation.scenes import FRAMES, LEAST_MOTION
from motionstream.media.files import atomic_path
from motionstream.media.pictures import fit
from motionstream.media.sheets import contact_sheet, draw_tracks
from motionstream.metrics import blockiness, end_point_error, moved_frames, paired_bootstrap
from motionstream.pipeline import MotionStreamPipeline
from motionstream.scene import usual_scale
from motionstream.tracks import Tracks
from motionstream.tracks.template import TemplateTracker

TRIALS = ("drag", "pinned", "camera")
METHODS = ("model", "warp only")
MEASURES = ("follow", "lost", "corners", "corners_lost", "blocks")
PRINTED = ("follow", "corners", "blocks")
MEASURED = 24
"""Largest number of moving points that are tracked; a camera moves about a hundred."""
SHOWN = (11, 22, 33, 44)
SHEET_SCALE = 1.5
PAGE, NUMBERS = "README.md", "gallery.json"


def evaluate_gallery(
    photographs: Path,
    folder: Path,
    model: str = "nano",
    *,
    names: Sequence[str] = (),
    seed: int = 0,
    untrained: bool = False,
) -> dict[str, Any]:
    """Write a sheet per photograph, a page with all of them and their numbers to ``folder``; prints tables and JSON.

    Args:
        photographs: a folder with ``photographs.json``. names: a selection of these; by default all.
        folder: created if necessary; its files are replaced. model: a preset or a folder. untrained: accept random
            weights.

    Raises ValueError for an invalid folder, name or model.
    """
    chosen = _chosen(read_photographs(photographs), names)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--folder {folder.absolute()} is a file; name a folder")
    if folder.resolve() == photographs.resolve():
        raise ValueError(f"--folder {folder} has the photographs, which sheets would replace; name another one")
    pipeline = MotionStreamPipeline.from_pretrained(model, untrained=untrained)
    folder.mkdir(parents=True, exist_ok=True)
    clock = time.perf_counter()
    rows = {}
    for photograph in progress(chosen, "streaming", console=Console(stderr=True)):
        rows[photograph.name], sheet = make(pipeline, photograph, seed)
        with atomic_path(folder / f"{photograph.name}.jpg") as path:
            Image.fromarray(sheet).save(path, quality=82, optimize=True)
    result = {
        "script": "motionstream evaluate gallery",
        "model": {"name": str(model), "causal": str(pipeline.config.causal), "stages": list(pipeline.stages)},
        "settings": {"seed": seed, "frames": FRAMES, "least_motion": LEAST_MOTION, "size": list(pipeline.config.size)},
        "photographs": rows,
        "means": means(rows),
        "seconds": round(time.perf_counter() - clock, 1),
        "environment": environment(pipeline.model.device),
    }
    with atomic_path(folder / PAGE) as path:
        path.write_text(page(chosen, result), encoding="utf-8")
    _show(result)
    finish(result, folder / NUMBERS)
    return result


def _chosen(photographs: list[Photograph], names: Sequence[str]) -> list[Photograph]:
    known = {photograph.name: photograph for photograph in photographs}
    for name in names:
        if name not in known:
            raise ValueError(f"there is no photograph {name!r}; there are {', '.join(known)}")
    return [known[name] for name in names] or photographs


def make(pipeline: MotionStreamPipeline, photograph: Photograph, seed: int) -> tuple[dict[str, Any], np.ndarray]:
    """The numbers of one photograph by trial and method, and its sheet. The sheet has a row per trial: the photograph
    with the tracks, four of the model's frames, and the warp's last frame."""
    given, scale = photograph.read(), usual_scale(pipeline.config)
    picture, _ = fit(given, pipeline.config.size)
    numbers: dict[str, Any] = {}
    cells = []
    for trial in TRIALS:
        tracks = trial_tracks(trial, photograph, picture.shape[:2], pipeline.config.fps)
        still = np.repeat(picture[None], FRAMES, axis=0)
        seen = pipeline(given, tracks, "", seed, size=picture.shape[:2], scale=scale)
        made = {
            "model": reduced(seen, scale),
            "warp only": baselines.warped(pipeline, still, tracks),
        }
        corners = np.array(photograph.corners(picture.shape[:2]), np.float32).reshape(-1, 2)
        # the camera moves the corners, too, so they are not measured
        asked = corners[:0] if trial == "camera" else corners
        numbers[trial] = {name: measure(video, picture, tracks, asked) for name, video in made.items()}
        cells += [drawn(picture, tracks), *(seen[frame] for frame in SHOWN), made["warp only"][-1]]
    side = [round(SHEET_SCALE * length) for length in picture.shape[1::-1]]
    large = [np.asarray(Image.fromarray(cell).resize(side, Image.Resampling.LANCZOS)) for cell in cells]
    return numbers, contact_sheet(np.stack(large), len(SHOWN) + 2)


def reduced(video: np.ndarray, scale: int) -> np.ndarray:
    """Average frames uint8 (T, sH, sW, 3) down to the model's size, for measuring."""
    frames, height, width, _ = video.shape
    means = video.reshape(frames, height // scale, scale, width // scale, scale, 3).mean(axis=(2, 4))
    return means.round().astype(np.uint8)


def trial_tracks(trial: str, photograph: Photograph, size: tuple[int, int], fps: float) -> Tracks:
    """The tracks of one of the ``TRIALS``."""
    if trial == "camera":
        return camera(FRAMES, size, fps)
    return photograph.dragged(FRAMES, size, fps) if trial == "drag" else photograph.pinned(FRAMES, size, fps)


def measure(video: np.ndarray, picture: np.ndarray, tracks: Tracks, corners: np.ndarray) -> dict[str, float | None]:
    """The ``MEASURES`` of a clip (T, H, W, 3), None if there is nothing to measure.

    ``corners``: (N, 2), points that should stay.
    """
    # the tracker takes its patches from the photograph itself
    shown = np.concatenate([picture[None], video[1:]])
    if tracks.count > MEASURED:
        tracks = tracks.select(np.linspace(0, tracks.count - 1, MEASURED).round().astype(int))
    start = tracks.positions[0]
    found = TemplateTracker().track(shown, np.concatenate([start, corners]), tracks.fps)
    positions, seen = found.positions[:, : len(start)], found.visible[:, : len(start)]
    counted = moved_frames(tracks.positions, tracks.visible, LEAST_MOTION)
    errors = end_point_error(positions, seen, tracks.positions, counted)
    kept = found.visible[-1, len(start) :]
    went = np.linalg.norm(found.positions[-1, len(start) :] - corners, axis=-1)[kept]
    values = {
        "follow": np.median(errors) if len(errors) else None,
        "lost": np.mean(~seen[counted]) if counted.any() else None,
        "corners": went.mean() if len(went) else None,
        "corners_lost": int((~kept).sum()) if len(corners) else None,
        "blocks": blockiness(video[-1:]) / blockiness(picture[None]),
    }
    return {name: None if value is None else round(float(value), 3) for name, value in values.items()}


def drawn(picture: np.ndarray, tracks: Tracks) -> np.ndarray:
    """The photograph with the complete tracks drawn in."""
    frames = np.repeat(picture[None], tracks.length, axis=0)
    return draw_tracks(frames, tracks.positions, tracks.visible, trail=tracks.length)[-1]


def means(rows: dict[str, Any]) -> dict[str, Any]:
    """Means over photographs with 95 % intervals by trial, method and measure, None without a value; and the difference
    of model and warp on the same photographs."""
    found: dict[str, Any] = {}
    for trial in TRIALS:
        both = {name: [row[trial][name] for row in rows.values()] for name in METHODS}
        found[trial] = {name: {m: _mean([values[m] for values in both[name]]) for m in MEASURES} for name in METHODS}
        first, second = (both[name] for name in METHODS)
        found[trial]["model - warp only"] = {
            m: _mean([a[m] - b[m] for a, b in zip(first, second, strict=True) if a[m] is not None and b[m] is not None])
            for m in MEASURES
        }
    return found


def _mean(values: list[float | None]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    return paired_bootstrap(known, [0.0] * len(known)).to_dict() if known else None


def page(photographs: Sequence[Photograph], result: dict[str, Any]) -> str:
    """The page of all sheets, as Markdown."""
    stages = ", ".join(result["model"]["stages"]) or "none"
    lines = [
        "# Gallery",
        "",
        f"Made by `{result['environment']['command']}` with `{result['model']['name']}` ({stages}) at commit "
        f"{result['environment']['commit'] or 'unknown'}. What is seen in it, and what fails, is told in "
        "[../gallery.md](../gallery.md).",
        "",
        "Rows: the drag alone; the same with the corners pinned; a camera that comes nearer and turns aside. Columns: "
        f"the photograph and what is asked, the model's frames {', '.join(map(str, SHOWN))}, and the photograph merely "
        "warped along the tracks, last frame. The model's frames are as `motionstream stream` shows them, finer than "
        "it sees them. Numbers are pixels of the model's size, `blocks` is relative to the photograph; a dash where "
        "the tracker finds nothing to follow.",
        "",
        *_table(
            ["mean [95 %]", *(f"{name}: {m}" for m in PRINTED for name in METHODS)],
            [
                [trial, *(_interval(result["means"][trial][name][m]) for m in PRINTED for name in METHODS)]
                for trial in TRIALS
            ],
        ),
    ]
    for photograph in photographs:
        numbers = result["photographs"][photograph.name]
        said = [
            f"{trial}: follows within {_number(own['follow'])} ({own['lost']:.0%} lost)"
            + ("" if own["corners_lost"] is None else f", corners move {_number(own['corners'])}")
            for trial, own in ((trial, numbers[trial]["model"]) for trial in TRIALS)
        ]
        lines += [
            "",
            f"## {photograph.title}",
            "",
            f"![{photograph.title}: drag, pinned, camera]({photograph.name}.jpg)",
            "",
            f"{'; '.join(said)}. Photograph: {photograph.author}, {photograph.licence}.",
        ]
    return "\n".join(lines) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *rows]]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _interval(value: dict[str, float] | None) -> str:
    return "-" if value is None else f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]"


def _show(result: dict[str, Any]) -> None:
    out = console()
    for trial in TRIALS:
        rows = {}
        for name, numbers in result["photographs"].items():
            rows[name] = [_number(numbers[trial][method][m]) for method in METHODS for m in ("follow", "corners")] + [
                f"{numbers[trial]['model']['lost']:.0%}",
                f"{numbers[trial]['model']['blocks']:.2f}",
            ]
        average = result["means"][trial]
        rows["mean"] = [_interval(average[method][m]) for method in METHODS for m in ("follow", "corners")] + [
            _interval(average["model"][m]) for m in ("lost", "blocks")
        ]
        columns = [f"{method} {m}" for method in METHODS for m in ("follow", "corners")] + ["lost", "blocks"]
        out.print(table(f"{trial}, pixels", columns, rows))
