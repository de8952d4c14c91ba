"""Time to encode a clip's tracks: with the track head, or drawn as colours and encoded by the model's autoencoder (the
paper's table 3: 24.8 ms and 1053 ms).

Both encode the same tracks. Floating-point operations are counted at the model's own size and length; times are
measured at ``--size`` and ``--frames``. Weights are random, which affects neither.

    python benchmarks/track_encoding.py                                       # Wan 2.1 1.3B, small enough for a CPU
    python benchmarks/track_encoding.py --size 480 832 --frames 81 --device cuda --dtype bfloat16
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.autoencoder.wan import WanAutoencoder
from motionstream.component_config import LinearAutoencoderConfig
from motionstream.conditioning.drawn_tracks import draw_tracks
from motionstream.conditioning.track_head import TrackHead
from motionstream.config import ModelConfig
from motionstream.device_timing import StageClock
from motionstream.environment import environment
from motionstream.evaluation.report import finish
from motionstream.flops import condition_flops, encode_flops
from motionstream.presets import preset

RESULTS = Path(__file__).parent / "results" / "track-encoding.json"
GRID = 50
"""Tracks per side of the grid, as in the paper."""


def some_tracks(frames: int, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """A moving grid of visible tracks: positions (1, T, N, 2), visible (1, T, N), ids (1, N)."""
    y, x = torch.meshgrid(*(torch.linspace(0, side - 1, GRID) for side in size), indexing="ij")
    places = torch.stack([x, y], dim=-1).reshape(1, 1, -1, 2)
    positions = places + torch.arange(frames)[None, :, None, None] * 0.5
    ids = torch.randperm(100_000, generator=torch.Generator().manual_seed(0))[: GRID * GRID][None]
    return positions.to(device), torch.ones(positions.shape[:3], dtype=torch.bool, device=device), ids.to(device)


def milliseconds(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median time of a call without the first one."""
    times = []
    for _ in range(1 + repeats):
        clock = StageClock(device)
        run()
        clock.mark("run")
        times.append(1e3 * clock.read()["run"])
    return statistics.median(times[1:])


@torch.no_grad()
def measure(
    config: ModelConfig, size: tuple[int, int], frames: int, device: torch.device, dtype: torch.dtype, repeats: int
) -> dict[str, Any]:
    """Times and operations of both encodings. ``frames``: 1 + 4k."""
    kind = config.autoencoder
    assert kind is not None
    built = LinearAutoencoder(kind) if isinstance(kind, LinearAutoencoderConfig) else WanAutoencoder(kind)
    autoencoder = built.to(device, dtype)
    spatial, temporal = config.spatial_compression, config.temporal_compression
    head = TrackHead(config.track_head, spatial=spatial, temporal=temporal).to(device, dtype)
    tracks = some_tracks(frames, size, device)

    def draw() -> Tensor:
        return draw_tracks(*tracks, size).to(dtype)

    by_head = milliseconds(lambda: head(*tracks, size=size, first=True), device, repeats)
    by_picture = milliseconds(lambda: autoencoder.encode(draw()), device, repeats)
    whole = config.clip_frames
    operations = {
        "head": condition_flops(config, (whole - 1) // temporal + 1),
        "drawn": encode_flops(config, whole),
    }
    return {
        "milliseconds": {"head": round(by_head, 2), "drawn": round(by_picture, 2)},
        "times_as_long": round(by_picture / by_head, 1),
        "operations": {**operations, "size": list(config.size), "frames": whole},
    }


def main(options: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wan2.1-1.3b", help="a preset without carried content")
    parser.add_argument("--size", type=int, nargs=2, default=(160, 272), help="height and width for the times")
    parser.add_argument("--frames", type=int, default=9, help="frames for the times, 1 + 4k")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file to write")
    arguments = parser.parse_args(options)
    config = preset(arguments.model)
    if config.carry is not None:
        raise ValueError(f"--model {arguments.model!r} carries content besides: give nano-ids or one of Wan's")
    if arguments.frames < 1 or arguments.frames % 4 != 1 or arguments.repeats < 1:
        raise ValueError(
            f"--frames {arguments.frames}, --repeats {arguments.repeats}: 1 + 4k frames, at least 1 repeat"
        )
    size = config.checked_size(tuple(arguments.size))
    device = torch.device(arguments.device)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[arguments.dtype]
    found = measure(config, size, arguments.frames, device, dtype, arguments.repeats)
    settings = {"model": arguments.model, "size": list(size), "frames": arguments.frames, "dtype": arguments.dtype}
    result = {"benchmark": "track encoding", "settings": settings, **found, "environment": environment()}
    finish(result, arguments.output)


if __name__ == "__main__":
    main()
