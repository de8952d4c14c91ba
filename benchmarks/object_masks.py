"""How well a click selects an object: IoU on held-out rendered sprites, whose masks are known exactly.

    python benchmarks/object_masks.py --scenes 80 --output benchmarks/results/object-masks.json

Every sprite visible as one connected region of at least 60 pixels is selected once by a click, at a random pixel at
least two pixels inside it, and once by a box; clicks are evaluated with and without `nano`'s outliner. References: a
disc of 16 pixels around the click, which a drag holds without a mask, and the box itself. Scenes of this seed were not
used in developing the method (those of seed 998 were).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from motionstream.data.photographs import HELD_OUT
from motionstream.data.procedural import draw_scene, render_scene
from motionstream.data.textures import TextureBank
from motionstream.environment import environment
from motionstream.evaluation.regions import sprite_cover
from motionstream.evaluation.report import finish
from motionstream.evaluation.scenes import FIRST_SEED, scene_config
from motionstream.metrics import paired_bootstrap
from motionstream.pipeline import MotionStreamPipeline
from motionstream.presets import preset
from motionstream.tracks.masks import select_object

SEED = 999
LEAST = 60


def objects(scenes: int) -> list[tuple[np.ndarray, np.ndarray, tuple[float, float]]]:
    """Pictures uint8 (H, W, 3), each with the mask bool (H, W) of one sprite and a click (x, y) inside it."""
    settings = replace(scene_config(preset("nano"), 6.0), frames=9)
    found = []
    for index in range(scenes):
        scene = draw_scene(settings, 1, FIRST_SEED + SEED * 100_000 + index, TextureBank(HELD_OUT))
        picture = render_scene(scene, settings).video[0, :, 0].permute(1, 2, 0).numpy()
        rng = np.random.default_rng(index)
        for mask in np.moveaxis(sprite_cover(scene, settings)[0] > 127, -1, 0):
            inner = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
            if mask.sum() >= LEAST and inner.any() and cv2.connectedComponents(mask.astype(np.uint8))[0] == 2:
                rows, columns = np.nonzero(inner)
                k = rng.integers(len(rows))
                found.append((picture, mask, (float(columns[k]), float(rows[k]))))
    return found


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / (first | second).sum())


def summary(values: list[float]) -> dict[str, Any]:
    """Mean with its 95 % interval (objects resampled), median, and the shares of good and bad masks."""
    array = np.array(values)
    return {
        "mean": paired_bootstrap(values, [0.0] * len(values)).to_dict(),
        "median": round(float(np.median(array)), 3),
        "above_0.8": round(float((array > 0.8).mean()), 3),
        "below_0.3": round(float((array < 0.3).mean()), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=80)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    draw = MotionStreamPipeline.from_pretrained("nano").model.draw
    scores: dict[str, list[float]] = {
        "click": [],
        "click, colours alone": [],
        "disc of 16 px": [],
        "box": [],
        "the box itself": [],
    }
    taken = 0.0
    for picture, mask, click in objects(options.scenes):
        started = time.process_time()
        scores["click"].append(iou(select_object(picture, point=click, draw=draw), mask))
        taken += time.process_time() - started
        scores["click, colours alone"].append(iou(select_object(picture, point=click), mask))
        y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
        scores["disc of 16 px"].append(iou(np.hypot(x - click[0], y - click[1]) <= 16, mask))
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        edges = (
            columns[0] - 2.5,
            rows[0] - 2.5,
            columns[-1] + 2.5,
            rows[-1] + 2.5,
        )  # slightly too large, as people draw boxes
        scores["box"].append(iou(select_object(picture, box=edges), mask))
        whole = np.zeros_like(mask)
        whole[max(rows[0] - 2, 0) : rows[-1] + 3, max(columns[0] - 2, 0) : columns[-1] + 3] = True
        scores["the box itself"].append(iou(whole, mask))
    result = {
        "script": "benchmarks/object_masks.py",
        "settings": {"scenes": options.scenes, "objects": len(scores["click"]), "seed": SEED},
        "iou": {name: summary(values) for name, values in scores.items()},
        "cpu_seconds_a_click": round(taken / len(scores["click"]), 3),
        "environment": environment(),
    }
    for name, values in result["iou"].items():
        print(f"{name}: {json.dumps(values)}")
    finish(result, options.output)


if __name__ == "__main__":
    main()
