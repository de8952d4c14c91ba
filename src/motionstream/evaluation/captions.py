"""``motionstream evaluate captions``: the effect of captions that describe changes no track can express.

Held-out rendered scenes in which it gets dark, fog comes in, it snows, or a thing changes colour are streamed with
simulated drags. Measured are the last ``SHOWN`` frames, where the effect is complete, and only the pixels that it
changes: those that differ by more than ``LEAST`` levels from the same scene rendered without it. (No caption says how
strong an effect will be, so no model could reproduce it exactly.) The rows:

- **told**: the model with the scene's caption, which also describes motion. **told briefly**: with the effect alone, as
  users type it. **untold**: with a caption of the same scene without the effect.
- **warp only**: the first frame moved along the tracks. **frozen first frame**: that frame. **truth, coded**: the scene
  through the autoencoder, the best that any model of it could do.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from motionstream.data.captions import TURNS
from motionstream.environment import environment
from motionstream.evaluation import baselines
from motionstream.evaluation.rendered import CEILING, FROZEN, WARP
from motionstream.evaluation.report import console, finish, table
from motionstream.evaluation.scenes import EFFECTS, held_out_clip
from motionstream.media.files import check_output
from motionstream.metrics import Interval, paired_bootstrap, psnr
from motionstream.pipeline import MotionStreamPipeline

SHOWN = 12
LEAST = 4.0
BRIEFLY, TOLD, UNTOLD = "told briefly", "told", "untold"
ROWS = (BRIEFLY, TOLD, UNTOLD, WARP, FROZEN, CEILING)
PHRASES = {"dark": "it gets dark", "fog": "it gets foggy", "snow": "it snows", "tint": "it turns {}"}
"""Brief captions of effects. "It" is what the drags move."""


def evaluate_captions(
    model: str = "nano",
    *,
    clips: int = 8,
    seed: int = 0,
    output: Path | None = None,
    untrained: bool = False,
) -> dict[str, Any]:
    """Measure every effect on ``clips`` scenes. Prints a table and, last, the result as one JSON line; returns it.

    Raises ValueError for an invalid number, model or output file.
    """
    if clips < 1:
        raise ValueError(f"clips = {clips}: give at least one")
    if output is not None:
        check_output(output, [".json"])
    clock = time.perf_counter()
    pipeline = MotionStreamPipeline.from_pretrained(model, untrained=untrained)
    found: dict[str, dict[str, list[float]]] = {effect: {row: [] for row in ROWS} for effect in EFFECTS}
    with Progress(console=Console(stderr=True)) as bar:
        for effect in EFFECTS:
            for index in bar.track(range(clips), description=effect):
                for row, value in measured(pipeline, index, seed, effect).items():
                    found[effect][row].append(value)
    result = {
        "script": "motionstream evaluate captions",
        "model": pipeline.config.name,
        "settings": {"clips": clips, "seed": seed, "shown": SHOWN, "least": LEAST},
        "effects": {effect: summary(rows) for effect, rows in found.items()},
        "seconds": round(time.perf_counter() - clock, 1),
        "environment": environment(pipeline.model.device),
    }
    _show(result)
    finish(result, output)
    return result


def measured(pipeline: MotionStreamPipeline, index: int, seed: int, effect: str) -> dict[str, float]:
    """PSNR in dB by row; empty for a scene that cannot have the effect or does not show it."""
    clip, plain = (held_out_clip(pipeline.config, index, seed, effect=which) for which in (effect, None))
    mask = changed(clip.video, plain.video)
    if not mask.any():
        return {}
    captions = {BRIEFLY: briefly(effect, clip.caption), TOLD: clip.caption, UNTOLD: plain.caption}
    videos = {row: pipeline(clip.video[0], clip.drags, caption, seed) for row, caption in captions.items()} | {
        WARP: baselines.warped(pipeline, clip.video, clip.drags),
        FROZEN: baselines.frozen(clip.video),
        CEILING: baselines.coded(pipeline, clip.video),
    }
    return {row: float(psnr(video[-SHOWN:], clip.video[-SHOWN:], mask)) for row, video in videos.items()}


def briefly(effect: str, caption: str) -> str:
    """The effect alone, as users type it; a new colour's name is taken from the scene's ``caption``."""
    turns = "|".join(turn.removesuffix(" {}") for turn in TURNS)
    colour = re.search(rf"(?:{turns}) (\w+)", caption)
    return PHRASES[effect].format(colour[1] if colour else "")


def changed(video: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """Pixels of the last frames that the effect changes: bool (SHOWN, H, W)."""
    difference = np.abs(video[-SHOWN:].astype(np.float32) - plain[-SHOWN:]).max(axis=-1)
    return np.asarray(difference > LEAST)


def summary(rows: dict[str, list[float]]) -> dict[str, Any]:
    """Mean PSNR of every row, and its gain with a caption of the effect over the other rows, with 95 % intervals over
    clips; None for an effect that no clip had."""
    pairs = [(told, other) for told in (BRIEFLY, TOLD) for other in (UNTOLD, WARP, FROZEN)]
    if not rows[TOLD]:
        return {"clips": 0, "psnr": dict.fromkeys(rows), "intervals": {f"{a} - {b}": None for a, b in pairs}}
    return {
        "clips": len(rows[TOLD]),
        "psnr": {row: round(float(np.mean(values)), 3) for row, values in rows.items()},
        "intervals": {f"{a} - {b}": paired_bootstrap(rows[a], rows[b]).to_dict() for a, b in pairs},
    }


def _show(result: dict[str, Any]) -> None:
    compared = [f"{told} - {WARP}" for told in (BRIEFLY, TOLD)]
    rows = {}
    for effect, found in result["effects"].items():
        values = ["-" if found["psnr"][row] is None else f"{found['psnr'][row]:.2f}" for row in ROWS]
        more = ["-" if x is None else str(Interval(**x)) for x in (found["intervals"][pair] for pair in compared)]
        rows[effect] = [str(found["clips"]), *values, *more]
    title = "PSNR in dB of what the effect changes, paired differences with 95 % intervals"
    console().print(table(title, ("clips", *ROWS, *compared), rows))
