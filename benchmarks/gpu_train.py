"""Training speed on a GPU: the stages at full size with random weights, with options that save memory.

    python benchmarks/gpu_train.py
    python benchmarks/gpu_train.py --presets wan2.1-debug --steps 1 --output /tmp/results

The most important runs come first. Each has its own process and writes a JSON file, so that one that runs out of memory
or time does not affect the others.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PRESETS = ("wan2.1-1.3b", "wan2.2-5b")
LEAST = 45
"""Remaining seconds below which no further run is started."""


@dataclass(frozen=True)
class Run:
    """One measurement: ``motionstream bench train`` with these options."""

    name: str
    options: tuple[str, ...]

    def path(self, folder: Path, preset: str) -> Path:
        return folder / f"train-{preset}-{self.name}.json"


RUNS = (
    Run("teacher-recompute", ("--stage", "teacher", "--recompute")),
    Run("teacher-recompute-compile", ("--stage", "teacher", "--recompute", "--compile")),
    Run("self-forcing-recompute", ("--stage", "self-forcing", "--recompute")),
    Run("teacher-lora-recompute", ("--stage", "teacher", "--recompute", "--lora", "64")),
    Run("causal-recompute", ("--stage", "causal", "--recompute")),
    Run("teacher", ("--stage", "teacher")),
    Run("self-forcing-lora-recompute", ("--stage", "self-forcing", "--recompute", "--lora", "64")),
)


def main(words: Sequence[str] | None = None) -> int:
    """Do the runs that fit into the time; returns 1 if nothing could be measured, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=PRESETS, metavar="PRESET", help="models to measure")
    parser.add_argument("--steps", type=int, default=6, help="measured updates of each run")
    parser.add_argument("--seconds", type=float, default=570, help="time limit of all runs (%(default)s)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"), help="folder for the results")
    arguments = parser.parse_args(words)
    arguments.output.mkdir(parents=True, exist_ok=True)
    until, measured = time.monotonic() + arguments.seconds, 0
    for run in RUNS:
        for preset in arguments.presets:
            left = until - time.monotonic()
            if left < LEAST:
                print(f"{preset} {run.name}: no time left")
                continue
            measured += measure(preset, run, arguments.steps, arguments.output, left)
    return 0 if measured else 1


def measure(preset: str, run: Run, steps: int, folder: Path, seconds: float) -> bool:
    """Do one run in its own process and print its figures or its last error line; returns whether it has a result."""
    path = run.path(folder, preset)
    command = [sys.executable, "-m", "motionstream", "bench", "train", "--preset", preset, *run.options]
    command += ["--steps", str(steps), "--output", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        print(f"{preset} {run.name}: stopped after {seconds:.0f} s", flush=True)
        return False
    if done.returncode or not path.is_file():
        print(f"{preset} {run.name}: {done.stderr.strip().splitlines()[-1:]}", flush=True)
        return False
    result = json.loads(path.read_text())
    step, share = result["step_ms"]["p50"], result["compute"].get("share")
    memory = (result["device_memory_mb"] or {"peak_allocated": result["memory_mb"]["peak"]})["peak_allocated"]
    print(f"{preset} {run.name}: {step:.0f} ms a step, share of peak {share}, memory {memory} MB", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main())
