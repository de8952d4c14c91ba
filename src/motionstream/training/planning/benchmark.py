"""Measures how fast a machine trains a model: updates of the actual loop, with random weights, saving nothing."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from motionstream.environment import environment
from motionstream.hardware import DeviceMemory, Peak, machine_line, peak, peak_memory_mb, synchronise
from motionstream.model.backends import choice, use_backend
from motionstream.training.loop import distributed
from motionstream.training.loop.logs import data_wait
from motionstream.training.loop.run import Run
from motionstream.training.planning.workload import Workload, make_stage

WARM_UP = 3
"""Updates before the measurement, or one whole cycle of student and critic updates if that is longer. After them,
blocks are compiled, the optimiser's moments allocated, and the first clips rendered ahead."""


def bench_train(
    work: Workload,
    steps: int = 20,
    *,
    device: torch.device,
    threads: int | None = None,
    backend: str = "auto",
    after_step: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Train ``steps`` updates after a warm-up; returns speed, memory and waiting time as a JSON-serialisable dict.

    ``step_ms``: from the call of ``Run.update`` until the device has finished it; ``updates_ms``: the same for each
    player. ``share``: model FLOPs utilisation (MFU), relative to the peak (``hardware.peak``) of all ranks' devices
    together; for Self-Forcing the operations are the mean over the random exit steps, sinks and windows.
    ``data_wait``: the share of the time in which the first rank waited for clips.

    Raises:
        ValueError: an impossible number of steps or threads, backend or stage.
    """
    if not 1 <= steps <= 1_000_000:
        raise ValueError(f"--steps is {steps}; give 1 to 1000000")
    if threads is not None and not 1 <= threads <= 1024:
        raise ValueError(f"--threads is {threads}; give 1 to 1024")
    if work.shard and distributed.world_size() == 1:
        warnings.warn("--shard has no effect on one process: start several with torchrun", stacklevel=2)
    before, load = torch.get_num_threads(), os.getloadavg()[0]
    dtype = torch.bfloat16 if work.bf16 else torch.float32
    try:
        torch.set_num_threads(threads or before)
        with use_backend(backend), TemporaryDirectory(prefix="motionstream-bench-") as folder:
            memory = DeviceMemory(device)
            run = Run(make_stage(work, device, Path(folder)), work.train, Path(folder) / "run")
            measured = _measure(run, steps, max(WARM_UP, work.cycle), after_step)
            head = work.config.transformer.attention_head_dim
            used = choice(device, dtype, head_dim=head, gradients=True)
        held = distributed.gather((peak_memory_mb(), memory.result()))
        reference, machine = peak(device, dtype), environment(device)
    finally:
        torch.set_num_threads(before)
    return {
        "benchmark": "train",
        "preset": work.config.name,
        "stage": work.stage,
        "data": "rendered" if work.rendered else "synthetic",
        "parameters": _count(run, trained=False),
        "trained_parameters": _count(run, trained=True),
        "size": f"{work.config.size[1]}x{work.config.size[0]}",
        "frames": work.config.clip_frames,
        "batch": work.batch,
        "ranks": distributed.world_size(),
        "dtype": str(dtype).removeprefix("torch."),
        "backend": used,
        **{name: getattr(work, name) for name in ("recompute", "compile", "shard", "lora")},
        **_figures(work, measured, reference),
        # of the rank with the largest
        "memory_mb": {"peak": round(max(process for process, _ in held), 1)},
        "device_memory_mb": max(
            (cuda for _, cuda in held if cuda), key=lambda cuda: cuda["peak_allocated"], default=None
        ),
        "load_average_before": round(load, 2),
        **machine,
    }


def _count(run: Run, *, trained: bool) -> int:
    """Number of parameters of the stage's ``module``, or only of its trained ones."""
    return sum(p.numel() for p in run.stage.module.parameters() if p.requires_grad or not trained)


@dataclass(frozen=True)
class _Measured:
    warm_up: int
    seconds: np.ndarray
    players: list[str]
    waited: float


def _measure(run: Run, steps: int, warm_up: int, after_step: Callable[[], object]) -> _Measured:
    seconds, players = np.zeros(steps), []
    for player in run.players.values():
        player.module.train()
    for index in range(-warm_up, steps):
        if index == 0:
            data_wait.take()
        name = run.player().name
        synchronise(run.device)
        began = time.perf_counter()
        run.update()
        synchronise(run.device)
        if index >= 0:
            seconds[index] = time.perf_counter() - began
            players.append(name)
        after_step()
    return _Measured(warm_up, seconds, players, data_wait.take())


def _figures(work: Workload, measured: _Measured, reference: Peak) -> dict[str, Any]:
    seconds, players = measured.seconds, np.array(measured.players)
    total, steps = float(seconds.sum()), len(seconds)
    each = {name: flops for name, flops in work.flops.items() if name in measured.players}
    done = sum(each[name] for name in measured.players)
    rate = done / total / distributed.world_size()
    return {
        "steps": steps,
        "warm_up_steps": measured.warm_up,
        "step_ms": _spread(seconds),
        "updates_ms": {name: _spread(seconds[players == name]) for name in each},
        "samples_per_s": float(f"{work.batch * steps / total:.4g}"),
        "frames_per_s": float(f"{work.batch * work.config.clip_frames * steps / total:.4g}"),
        "data_wait": round(measured.waited / total, 4),
        "compute": {
            "tflop_per_step": {name: float(f"{flops / 1e12:.5g}") for name, flops in each.items()},
            "tflops": float(f"{rate / 1e12:.4g}"),
            "peak_tflops": float(f"{reference.flops / 1e12:.4g}"),
            "peak_source": reference.source,
            "share": round(rate / reference.flops, 4),
        },
    }


def _spread(seconds: np.ndarray) -> dict[str, float]:
    """Milliseconds: median, 10th and 90th percentile, mean."""
    p10, p50, p90 = np.percentile(seconds, [10, 50, 90])
    values = {"p50": p50, "p10": p10, "p90": p90, "mean": seconds.mean()}
    return {name: round(1e3 * float(value), 3) for name, value in values.items()}


def print_train(result: dict[str, Any]) -> None:
    """Print the result of ``bench_train`` in readable form."""
    compute, device = result["compute"], result["device_memory_mb"]
    switches = [name for name in ("recompute", "compile", "shard") if result[name]]
    switches += [] if result["lora"] is None else [f"LoRA of rank {result['lora']}"]
    kind = ", ".join([result["dtype"], f"{result['backend']} attention", f"{result['data']} clips", *switches])
    clips = f"{result['size']}, {result['frames']} frames, batch {result['batch']}"
    print(f"{result['preset']} {result['stage']} {clips}, {kind}")
    for name, spread in result["updates_ms"].items():
        label = {"module": "update", "opponent": "critic's"}[name]
        print(f"{label:<11} {spread['p50']:.1f} ms ({spread['p10']:.1f} to {spread['p90']:.1f}; median, 10 and 90 %)")
    print(f"throughput  {result['samples_per_s']:.4g} clips/s, {result['frames_per_s']:.4g} frames/s")
    print(
        f"compute     {compute['tflops']:.3g} TFLOP/s a device, {compute['share']:.1%} of {compute['peak_tflops']:.4g} "
        f"({compute['peak_source']}; model operations, nothing that is run again)"
    )
    print(f"data        {result['data_wait']:.1%} of the time waited for clips")
    on_device = "" if device is None else f", on the device {device['peak_allocated']:.0f}"
    print(f"memory      {result['memory_mb']['peak']:.0f} MB at most{on_device}")
    print(f"machine     {machine_line(result)}")
