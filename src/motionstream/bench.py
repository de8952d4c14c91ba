"""Benchmarks: what a machine makes of a model, with everything that is needed to do it again."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from motionstream.environment import environment
from motionstream.pipeline import MotionStreamPipeline, Stream
from motionstream.tracks import LiveTracks

WARM_UP = 10
"""Chunks that are not counted: caches fill, and the allocator finds its size."""
COMPARED = 100
"""Early chunks (after the warm-up) and late chunks that are compared, so many of each."""
STAGES = ("conditions", "generate", "decode", "settle")


def bench_stream(
    preset: str,
    chunks: int = 100,
    untrained: bool = False,
    threads: int | None = None,
    after_chunk: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Stream ``chunks`` chunks with a moving drag; speed, latency and memory as a dict that JSON can hold.

    Latency is from the call of ``step`` to its frames; ``fps`` is frames over latency and settling, which is all that
    a stream costs. The warm-up (WARM_UP chunks, fewer in short runs) counts for neither. From 2 COMPARED + WARM_UP
    chunks on, ``late_over_early`` is the median time of the last COMPARED chunks over that of those after the
    warm-up. ``threads`` is torch's own choice where None. Memory is the process's resident set.
    """
    if not 2 <= chunks <= 1_000_000:
        raise ValueError(f"--chunks is {chunks}; give 2 to 1000000")
    if threads is not None and not 1 <= threads <= 1024:
        raise ValueError(f"--threads is {threads}; give 1 to 1024")
    before = torch.get_num_threads()
    load = os.getloadavg()[0]  # of others: read before we add our own
    try:
        torch.set_num_threads(threads or before)
        used = torch.get_num_threads()
        pipeline = MotionStreamPipeline.from_pretrained(preset, untrained=untrained)
        picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
        stream = pipeline.stream(picture, seed=0)
        measured = _measure(stream, chunks, after_chunk)
    finally:
        torch.set_num_threads(before)
    height, width = stream.size
    return {
        "benchmark": "stream",
        "preset": preset,
        "trained": bool(pipeline.stages),
        "parameters": sum(p.numel() for p in pipeline.model.parameters()),
        "size": f"{width}x{height}",
        "attention": str(pipeline.config.causal),
        **measured,
        **environment(),
        "threads": used,
        "load_average_before": round(load, 2),
    }


def _measure(stream: Stream, chunks: int, after_chunk: Callable[[], object]) -> dict[str, Any]:
    warm_up = min(WARM_UP, chunks // 2)
    live = LiveTracks(stream.size, stream.fps)
    stages = np.zeros((chunks, len(STAGES)))
    latency = np.zeros(chunks)
    frames = np.zeros(chunks, int)
    warm = 0.0
    for chunk in range(chunks):
        _drag(live, chunk)
        tracks = live.cut(stream.next_frames)
        began = time.perf_counter()
        made = stream.step(tracks)
        latency[chunk] = time.perf_counter() - began
        stream.settle()
        frames[chunk] = len(made)
        stages[chunk] = [getattr(stream.timings, stage) for stage in STAGES]
        if chunk == warm_up - 1:
            warm = memory_mb()
        after_chunk()
    total = latency + stages[:, STAGES.index("settle")]
    counted = slice(warm_up, None)
    result: dict[str, Any] = {
        "chunks": chunks,
        "warm_up_chunks": warm_up,
        "frames": int(frames.sum()),
        "fps": round(float(frames[counted].sum() / total[counted].sum()), 2),
        "real_time": round(float(frames[counted].sum() / total[counted].sum() / stream.fps), 3),
        "latency_ms": _spread(latency[counted]),
        "first_chunk_latency_ms": round(1e3 * float(latency[0]), 3),
        "stages_ms": {name: _spread(stages[counted, i]) for i, name in enumerate(STAGES)},
        "memory_mb": {
            "peak": round(peak_memory_mb(), 1),
            "after_warm_up": round(warm, 1),
            "growth": round(memory_mb() - warm, 1),
        },
        "late_over_early": None,
    }
    if chunks >= 2 * COMPARED + WARM_UP:
        early = np.median(total[WARM_UP : WARM_UP + COMPARED])
        result["late_over_early"] = round(float(np.median(total[-COMPARED:]) / early), 4)
    return result


def _drag(live: LiveTracks, chunk: int) -> None:
    """One drag that circles the middle, let go and pressed anew every 20 chunks, as a visitor does."""
    height, width = live.size
    middle, radius = np.array([width, height]) / 2, 0.2 * min(height, width)

    def place(moment: float) -> tuple[float, float]:
        angle = 2 * np.pi * moment / 10
        x, y = middle + radius * np.array([np.cos(angle), np.sin(angle)])
        return float(x), float(y)

    if chunk % 20 == 0:
        for gesture in live.gestures:
            live.release(gesture)
        live.drag(*place(chunk))
    gesture = live.gestures[-1]
    for part in range(1, 5):
        live.move(gesture, *place(chunk + part / 4))


def _spread(seconds: np.ndarray) -> dict[str, float]:
    """Milliseconds: median, 95th percentile, extremes and standard deviation."""
    p50, p95 = np.percentile(seconds, [50, 95])
    values = {"p50": p50, "p95": p95, "min": seconds.min(), "max": seconds.max(), "std": seconds.std()}
    return {name: round(1e3 * float(value), 3) for name, value in values.items()}


def memory_mb() -> float:
    """Resident memory of this process now, in MB (10⁶ bytes)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:  # macOS has no /proc
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
        return int(shown.stdout) * 1024 / 1e6


def peak_memory_mb() -> float:
    """The most resident memory this process ever had, in MB: loading the model included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def print_stream(result: dict[str, Any]) -> None:
    """What ``bench_stream`` found, for people."""
    from rich.console import Console
    from rich.table import Table

    title = f"{result['preset']} {result['size']} {result['attention']}, {result['chunks']} chunks"
    table = Table("ms a chunk", "p50", "p95", "min", "max", "std", title=title)
    rows = {"step to first frame": result["latency_ms"], **result["stages_ms"]}
    for name, spread in rows.items():
        table.add_row(name, *(f"{value:.1f}" for value in spread.values()))
    console = Console()
    console.print(table)
    memory, late = result["memory_mb"], result["late_over_early"]
    lines = [
        f"throughput  {result['fps']:.1f} fps ({result['real_time']:.2f} of real time)",
        f"memory      {memory['peak']:.0f} MB at most, {memory['growth']:+.1f} MB after the warm-up",
        f"late chunks {'not compared (needs 210 chunks)' if late is None else f'{late:.3f} of the time of early ones'}",
        f"machine     {result['processor']}, {result['threads']} of {result['cores']} threads, "
        f"load {result['load_average_before']} before, torch {result['versions']['torch']}, "
        f"commit {result['commit'] or 'unknown'}",
    ]
    print("\n".join(lines))
