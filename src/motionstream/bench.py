"""The streaming benchmark: speed, latency and memory of a model on this machine, with all settings to repeat it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from motionstream.component_config import DecoderChoice
from motionstream.components import Placement
from motionstream.environment import environment
from motionstream.flops import chunk_flops
from motionstream.hardware import (
    DeviceMemory,
    data_sheet_tflops,
    machine_line,
    matmul_tflops,
    memory_mb,
    peak_memory_mb,
)
from motionstream.model.backends import choice, use_backend
from motionstream.pipeline import MotionStreamPipeline
from motionstream.scene import usual_scale
from motionstream.stream import Stream
from motionstream.tracks import LiveTracks

WARM_UP = 10
"""Chunks that are not measured, while caches fill and the allocator reaches its size."""
COMPARED = 100
"""Number of early chunks, after the warm-up, and of late chunks to compare."""
STAGES = ("conditions", "generate", "decode", "settle")


def bench_stream(
    preset: str,
    chunks: int = 100,
    untrained: bool = False,
    threads: int | None = None,
    after_chunk: Callable[[], object] = lambda: None,
    *,
    size: tuple[int, int] | None = None,
    causal: str | None = None,
    backend: str = "auto",
    placement: Placement | None = None,
    scale: int | None = None,
) -> dict[str, Any]:
    """Load a model and stream ``chunks`` chunks: ``bench_pipeline`` and the machine's load average before it.

    ``threads``: torch's own choice when None. ``placement``: device, precision and decoder.
    """
    _check_chunks(chunks)
    if threads is not None and not 1 <= threads <= 1024:
        raise ValueError(f"--threads is {threads}; give 1 to 1024")
    before = torch.get_num_threads()
    load = os.getloadavg()[0]  # of other processes, so read it before adding our own
    try:
        torch.set_num_threads(threads or before)
        pipeline = MotionStreamPipeline.from_pretrained(preset, untrained=untrained, causal=causal, placement=placement)
        result = bench_pipeline(pipeline, chunks, size=size, scale=scale, backend=backend, after_chunk=after_chunk)
    finally:
        torch.set_num_threads(before)
    return {**result, "preset": preset, "load_average_before": round(load, 2)}


def bench_pipeline(
    pipeline: MotionStreamPipeline,
    chunks: int = 100,
    *,
    size: tuple[int, int] | None = None,
    scale: int | None = None,
    backend: str = "auto",
    after_chunk: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Stream ``chunks`` chunks with a moving drag; returns speed, latency and memory as a dict of JSON values.

    Stages are timed on the device (``StageClock``). ``latency_ms``: from the call of ``step`` until all frames of the
    chunk are on the host; ``first_frame_ms``: until those of its first latent frame are. ``fps``: frames divided by
    latency plus settling, the whole cost of a stream. None of these includes the warm-up (WARM_UP chunks, fewer in
    short runs). ``late_over_early``, from 2 COMPARED + WARM_UP chunks on: the median time of the last COMPARED chunks
    relative to the COMPARED chunks after the warm-up. Memory: the process's resident set, and torch's on a CUDA device.

    Args:
        size: (height, width); the model's own when None. scale: enlargement of the frames; the usual one when None.
        backend: attention backend (``model/backends.py``).

    Raises:
        ValueError: an invalid number of chunks, size or backend.
    """
    _check_chunks(chunks)
    config, device = pipeline.config, pipeline.device
    size = config.checked_size(size or config.size)
    scale = usual_scale(config) if scale is None else scale
    device_memory = DeviceMemory(device)
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    with use_backend(backend):
        stream = pipeline.stream(picture, seed=0, size=size, scale=scale)
        measured = _measure(stream, chunks, after_chunk, device_memory)
        used = choice(device, pipeline.model.dtype, head_dim=config.transformer.attention_head_dim)
    matmul = matmul_tflops(device, pipeline.model.dtype) if device.type == "cuda" else None
    return {
        "benchmark": "stream",
        "preset": config.name,
        "trained": bool(pipeline.stages),
        "parameters": sum(p.numel() for p in pipeline.model.parameters()),
        "size": f"{size[1]}x{size[0]}",
        "scale": scale,
        "attention": str(config.causal),
        "backend": used,
        "decoder": "full" if pipeline.parts.tiny is None else "tiny",
        "dtype": str(pipeline.model.dtype).removeprefix("torch."),
        "steps": len(config.sampler.student_times),
        **measured,
        "compute": _compute(pipeline, size, measured, matmul),
        **environment(device),
    }


def _check_chunks(chunks: int) -> None:
    if not 2 <= chunks <= 1_000_000:
        raise ValueError(f"--chunks is {chunks}; give 2 to 1000000")


def _measure(
    stream: Stream, chunks: int, after_chunk: Callable[[], object], device_memory: DeviceMemory
) -> dict[str, Any]:
    warm_up = min(WARM_UP, chunks // 2)
    live = LiveTracks(stream.size, stream.fps)
    stages = np.zeros((chunks, len(STAGES)))
    latency, first_frame = np.zeros(chunks), np.zeros(chunks)
    frames = np.zeros(chunks, int)
    warm = 0.0
    shown: list[float] = []  # times at which the frames of each latent frame of a chunk arrived
    for chunk in range(chunks):
        _drag(live, chunk)
        tracks = live.cut(stream.next_frames)
        began = time.perf_counter()
        shown.clear()
        made = stream.step(tracks, on_frames=lambda _: shown.append(time.perf_counter()))
        latency[chunk], first_frame[chunk] = time.perf_counter() - began, shown[0] - began
        stream.settle()
        frames[chunk] = len(made)
        stages[chunk] = [getattr(stream.timings, stage) for stage in STAGES]
        if chunk == warm_up - 1:
            warm = memory_mb()
            device_memory.begin_anew()
        after_chunk()
    growth, on_device = memory_mb() - warm, device_memory.result()
    total = latency + stages[:, STAGES.index("settle")]
    counted = slice(warm_up, None)
    result: dict[str, Any] = {
        "chunks": chunks,
        "warm_up_chunks": warm_up,
        "frames": int(frames.sum()),
        "fps": round(float(frames[counted].sum() / total[counted].sum()), 2),
        "real_time": round(float(frames[counted].sum() / total[counted].sum() / stream.fps), 3),
        "latency_ms": _spread(latency[counted]),
        "first_frame_ms": _spread(first_frame[counted]),
        "first_chunk_latency_ms": round(1e3 * float(latency[0]), 3),
        "stages_ms": {name: _spread(stages[counted, i]) for i, name in enumerate(STAGES)},
        "memory_mb": {
            "peak": round(peak_memory_mb(), 1),
            "after_warm_up": round(warm, 1),
            "growth": round(growth, 1),
        },
        "device_memory_mb": on_device,
        "late_over_early": None,
    }
    if chunks >= 2 * COMPARED + WARM_UP:
        early = np.median(total[WARM_UP : WARM_UP + COMPARED])
        result["late_over_early"] = round(float(np.median(total[-COMPARED:]) / early), 4)
    return result


def _compute(
    pipeline: MotionStreamPipeline, size: tuple[int, int], measured: dict[str, Any], matmul: float | None
) -> dict[str, Any]:
    """Operations of a chunk (TFLOP), per second by stage (TFLOP/s), and relative to two peaks.

    ``share``: of the data sheet's dense bf16 peak, if the device is known. ``of_matmul``: of the measured speed of a
    large matrix product. Both are for the whole chunk; None without a peak.
    """
    parts, device = pipeline.parts, pipeline.device
    decoder: DecoderChoice = "full" if parts.tiny is None else "tiny"
    tile = getattr(parts.autoencoder, "tile", None)
    autoencoder = pipeline.config.autoencoder
    if tile is not None:
        autoencoder = replace(autoencoder, tile=tile)  # type: ignore[type-var]
    flops = chunk_flops(replace(pipeline.config, autoencoder=autoencoder), size=size, decoder=decoder)
    seconds = {name: measured["stages_ms"][name]["p50"] / 1e3 for name in STAGES}
    seconds["total"] = (measured["latency_ms"]["p50"] + measured["stages_ms"]["settle"]["p50"]) / 1e3
    counts = {name: getattr(flops, name) / 1e12 for name in seconds}
    rates = {name: counts[name] / seconds[name] if seconds[name] else None for name in seconds}
    peak = data_sheet_tflops(device, pipeline.model.dtype)
    return {
        "tflop": {name: float(f"{value:.5g}") for name, value in counts.items()},
        "tflops": {name: None if rate is None else float(f"{rate:.4g}") for name, rate in rates.items()},
        "peak_tflops": peak,
        "matmul_tflops": matmul and round(matmul, 1),
        "share": _share(rates["total"], peak),
        "of_matmul": _share(rates["total"], matmul),
    }


def _share(rate: float | None, peak: float | None) -> float | None:
    return None if rate is None or peak is None else round(rate / peak, 4)


def _drag(live: LiveTracks, chunk: int) -> None:
    """A drag that circles the centre, released and pressed again every 20 chunks, as users do."""
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


def print_stream(result: dict[str, Any]) -> None:
    """Print the results of ``bench_stream`` as a table and text."""
    from rich.console import Console
    from rich.table import Table

    kind = f"{result['dtype']}, {result['backend']} attention, {result['decoder']} decoder"
    shown = f" shown {result['scale']} times as large" if result["scale"] > 1 else ""
    title = f"{result['preset']} {result['size']}{shown} {result['attention']}, {kind}, {result['chunks']} chunks"
    table = Table("ms a chunk", "p50", "p95", "min", "max", "std", "TFLOP/s", title=title)
    rates = result["compute"]["tflops"]
    latencies = {"step to first frame": result["first_frame_ms"], "step to whole chunk": result["latency_ms"]}
    for name, spread in {**latencies, **result["stages_ms"]}.items():
        rate = rates.get(name)
        table.add_row(name, *(f"{value:.1f}" for value in spread.values()), "" if rate is None else f"{rate:.3g}")
    console = Console()
    console.print(table)
    memory, late = result["memory_mb"], result["late_over_early"]
    lines = [
        f"throughput  {result['fps']:.1f} fps ({result['real_time']:.2f} of real time)",
        f"compute     {_compute_line(result['compute'])}",
        f"memory      {memory['peak']:.0f} MB at most, {memory['growth']:+.1f} MB after the warm-up"
        + _device_line(result),
        f"late chunks {'not compared (needs 210 chunks)' if late is None else f'{late:.3f} of the time of early ones'}",
        f"machine     {machine_line(result)}",
    ]
    print("\n".join(lines))


def _compute_line(compute: dict[str, Any]) -> str:
    line = f"{compute['tflop']['total']:.3g} TFLOP a chunk at {compute['tflops']['total']:.3g} TFLOP/s"
    if compute["share"] is not None:
        line += f", {compute['share']:.1%} of the data sheet's {compute['peak_tflops']}"
    if compute["of_matmul"] is not None:
        line += f", {compute['of_matmul']:.1%} of the {compute['matmul_tflops']:.0f} of a matrix product"
    return line


def _device_line(result: dict[str, Any]) -> str:
    memory = result["device_memory_mb"]
    return (
        "" if memory is None else f"; on the device {memory['peak_allocated']:.0f}, streaming {memory['streaming']:.0f}"
    )
