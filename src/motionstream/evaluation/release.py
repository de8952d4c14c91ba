"""``motionstream evaluate release``: what happens to a dragged thing when it is released.

The paper masks tracks in the middle of training clips so that things do not jump or vanish when released (section 3.1).
Held-out rendered scenes are dragged along their sprites' true motion, released in the middle of a chunk, and streamed
for two more seconds; pins stay. Each model is measured in three arms:

- **masked**: from the release on, the dragged points are unspecified.
- **after**: they rest until the end of the chunk and are unspecified from the next chunk on.
- **held**: they stay specified at their last position, as if never released.

Ideally everything rests in all arms. **EPE** is the mean distance in pixels of followed points from their positions at
the release, over the two seconds; a point that the tracker lost scores its distance from its start. **Jump** is the
mean change of the picture's pixels, in 8-bit levels, between the last frame with specified drags and the next one;
**unrest** is the same between all other frames from the release on; **still** is the PSNR in dB of pixels that no
sprite ever covered. Jumps are compared at the same frame, at which the one arm releases and **held** does not.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from motionstream.config import ModelConfig
from motionstream.environment import environment
from motionstream.evaluation.report import console, finish, table
from motionstream.evaluation.scenes import EvaluationClip, scenes
from motionstream.media.files import check_output
from motionstream.metrics import Interval, end_point_error, paired_bootstrap, psnr
from motionstream.pipeline import MotionStreamPipeline
from motionstream.tracks import Tracks
from motionstream.tracks.template import TemplateTracker

RELEASE = 39
"""The first frame after the drag, in the middle of nano's fourth chunk."""
SECONDS = 2.0
ARMS = ("masked", "after", "held")
MEASURES = ("epe", "jump", "unrest", "still")


@dataclass
class ReleaseRow:
    """The ``MEASURES`` of one model in one arm, clip by clip. ``let_go``: the first frame without specified drags (in
    "held", that of "masked"); ``changes``: per clip, the mean difference of each frame from ``RELEASE`` on to the one
    before."""

    name: str
    let_go: int = RELEASE
    epe: list[float] = field(default_factory=list)
    changes: list[np.ndarray] = field(default_factory=list)
    still: list[float] = field(default_factory=list)

    def add(self, video: np.ndarray, clip: EvaluationClip) -> None:
        """Measure a stream (T, H, W, 3) that was released at ``RELEASE``."""
        true = clip.followed
        found = TemplateTracker().track(np.concatenate([clip.video[:1], video[1:]]), true.positions[0], true.fps)
        asked = np.repeat(true.positions[RELEASE - 1 : RELEASE], len(video), axis=0)
        asked[0] = true.positions[0]
        counted = np.repeat(clip.counted[RELEASE - 1 : RELEASE], len(video), axis=0)
        counted[:RELEASE] = False
        errors = end_point_error(found.positions, found.visible, asked, counted)
        change = np.abs(np.diff(video[RELEASE - 1 :].astype(np.float32), axis=0)).mean(axis=(1, 2, 3))
        self.epe.append(float(errors.mean()) if len(errors) else np.nan)
        self.changes.append(change)
        background = np.asarray(clip.background.all(axis=0))
        later = video[RELEASE:]
        mask = np.repeat(background[None], len(later), axis=0)
        self.still.append(float(psnr(later, np.repeat(clip.video[:1], len(later), axis=0), mask)))

    def measures(self, let_go: int) -> dict[str, list[float]]:
        """The measures by name, clip by clip; the jump is the change to the frame ``let_go``."""
        at = let_go - RELEASE
        jump = [float(change[at]) for change in self.changes]
        unrest = [float(np.delete(change, at).mean()) for change in self.changes]
        return {"epe": self.epe, "jump": jump, "unrest": unrest, "still": self.still}

    def to_dict(self) -> dict[str, Any]:
        """Means with 95 % intervals."""
        intervals = {name: _difference(values, None) for name, values in self.measures(self.let_go).items()}
        return {"name": self.name, "let_go": self.let_go} | intervals


def evaluate_release(
    models: Sequence[str] = ("nano",),
    *,
    clips: int = 16,
    seed: int = 0,
    speed: float = 6.0,
    output: Path | None = None,
    untrained: bool = False,
) -> dict[str, Any]:
    """Measure all arms of every model. Prints tables and, last, the result as one JSON line; returns it.

    Arguments: see ``evaluate_drift``. Raises ValueError for an invalid number, model or output file.
    """
    if clips < 1 or not models:
        raise ValueError(f"clips = {clips}, models = {list(models)}: give at least one of each")
    if output is not None:
        check_output(output, [".json"])
    clock = time.perf_counter()
    arms: list[ReleaseRow] = []
    with Progress(console=Console(stderr=True)) as bar:
        for name in dict.fromkeys(models):
            pipeline = MotionStreamPipeline.from_pretrained(name, untrained=untrained)
            own = [ReleaseRow(f"{name} {arm}", let_go(pipeline.config, arm)) for arm in ARMS]
            found = scenes(pipeline.config, clips, seed, speed, slice(RELEASE - 1, RELEASE))
            for clip in bar.track(found, clips, description=str(name)):
                for arm, kind in zip(own, ARMS, strict=True):
                    arm.add(stream(pipeline, clip, seed, kind), clip)
            arms += own
    result = {
        "script": "motionstream evaluate release",
        "settings": {"clips": clips, "seed": seed, "speed": speed, "release": RELEASE, "seconds": SECONDS},
        "arms": [arm.to_dict() for arm in arms],
        "comparisons": [compared(arm, arms[k // 3 * 3 + 2]) for k, arm in enumerate(arms) if k % 3 < 2]
        + [compared(arm, arms[0]) for arm in arms[3::3]],
        "seconds": round(time.perf_counter() - clock, 1),
        "environment": environment(pipeline.model.device),
    }
    _show(result)
    finish(result, output)
    return result


def let_go(config: ModelConfig, kind: str) -> int:
    """The first frame without specified drags in the arm ``kind``; for "held", which has none, that of "masked"."""
    first, later = config.chunk_video_frames(0), config.chunk_video_frames(1)
    return first + later * math.ceil((RELEASE - first) / later) if kind == "after" else RELEASE


def stream(pipeline: MotionStreamPipeline, clip: EvaluationClip, seed: int, kind: str) -> np.ndarray:
    """Stream the scene, dragged for ``RELEASE`` frames and released for ``SECONDS``: uint8 (T, H, W, 3)."""
    made, frames = pipeline.stream(clip.video[0], clip.caption, seed=seed), []
    length = RELEASE + round(SECONDS * pipeline.config.fps)
    while made.frame < length:
        now = np.arange(made.frame, made.frame + made.next_frames)
        frames.append(made.step(tracks_at(clip.drags, now, kind)))
    return np.concatenate(frames)[:length]


def tracks_at(drags: Tracks, frames: np.ndarray, kind: str) -> Tracks:
    """The tracks of a chunk: the drags, from ``RELEASE`` on as in the arm ``kind``."""
    shown = np.minimum(frames, RELEASE - 1)
    moving = np.ptp(drags.positions, axis=0).max(axis=-1) > 0
    visible = drags.visible[shown].copy()
    gone = {"masked": frames >= RELEASE, "after": np.full(len(frames), frames[0] >= RELEASE), "held": frames < 0}
    visible[np.ix_(gone[kind], moving)] = False
    tracks = Tracks(drags.positions[shown], visible, drags.size, drags.fps, ids=np.arange(drags.count))
    return tracks.select(visible.any(axis=0) | ~moving)


def compared(arm: ReleaseRow, other: ReleaseRow) -> dict[str, Any]:
    """``arm`` minus ``other`` on the same clips, with 95 % intervals; jumps of both at the frame ``arm.let_go``."""
    own, others = arm.measures(arm.let_go), other.measures(arm.let_go)
    differences = {name: _difference(own[name], others[name]) for name in MEASURES}
    return {"of": arm.name, "minus": other.name} | differences


def _difference(values: list[float], others: list[float] | None) -> dict[str, float] | None:
    pairs = [
        pair for pair in zip(values, others or [0.0] * len(values), strict=True) if np.isfinite(np.array(pair)).all()
    ]
    if not pairs:
        return None
    first, second = zip(*pairs, strict=True)
    return paired_bootstrap(first, second).to_dict()


def _show(result: dict[str, Any]) -> None:
    out = console()

    def cells(row: dict[str, Any]) -> list[str]:
        return ["-" if row[m] is None else str(Interval(**row[m])) for m in MEASURES]

    columns = ("EPE (px)", "jump", "unrest", "still (dB)")
    rows = {arm["name"]: cells(arm) for arm in result["arms"]}
    out.print(table(f"{result['settings']['clips']} scenes let go, means and 95 % intervals", columns, rows))
    rows = {f"{pair['of']} - {pair['minus']}": cells(pair) for pair in result["comparisons"]}
    out.print(table("paired differences", columns, rows))
