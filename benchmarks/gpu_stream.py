"""Streaming speed on a GPU: both of the paper's models with random weights, both decoders, all attention backends.

    python benchmarks/gpu_stream.py
    python benchmarks/gpu_stream.py --presets wan2.1-debug wan2.2-debug --chunks 4 --output /tmp/results

The most important runs come first, and each writes a JSON file, so that an interruption keeps earlier results. Every
model has its own process, so that a device failure in one does not stop the other.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from motionstream.pipeline import MotionStreamPipeline

PRESETS = ("wan2.1-1.3b", "wan2.2-5b")
SHORT = 30
"""Chunks per run that only compares speeds."""
NEEDED = ("av", "cv2", "diffusers", "einops", "ftfy", "numpy", "PIL", "rich", "safetensors", "torch", "transformers")


@dataclass(frozen=True)
class Run:
    """One measurement."""

    decoder: str
    backend: str
    chunks: int

    def path(self, folder: Path, preset: str) -> Path:
        return folder / f"stream-{Path(preset).name}-{self.decoder}-{self.backend}-{self.chunks}.json"


def check_environment() -> None:
    """Print what this machine has; exit if a package is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if importlib.util.find_spec("motionstream") is None:
        missing.append("motionstream (pip install -e ., or PYTHONPATH=src)")
    if missing:
        sys.exit(f"missing: {', '.join(missing)}")
    import torch

    from motionstream.model.backends import describe

    name = "no CUDA device: the CPU is measured"
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    print(f"python {sys.version.split()[0]}, torch {torch.__version__}, CUDA {torch.version.cuda}; {name}")
    print("\n".join(describe()), flush=True)


def measure(preset: str, chunks: int, folder: Path, deadline: float) -> int:
    """Do all runs of one model in this process; returns the number of failures."""
    import torch

    from motionstream.bench import bench_pipeline
    from motionstream.components import Placement
    from motionstream.media.files import atomic_path
    from motionstream.pipeline import MotionStreamPipeline

    began = time.time()
    tiny = MotionStreamPipeline.from_pretrained(preset, untrained=True, placement=Placement(decoder="tiny"))
    full = MotionStreamPipeline(tiny.model, replace(tiny.parts, tiny=None), tiny.stages)
    print(f"{preset}: loaded in {time.time() - began:.0f} s", flush=True)
    failed = 0
    done: dict[Run, float] = {}
    for run in plan(tiny, chunks, done, deadline):
        if time.time() > deadline:
            print(f"{preset}: no time for {run}")
            continue
        try:
            pipeline = tiny if run.decoder == "tiny" else full
            result = bench_pipeline(pipeline, run.chunks, backend=run.backend)
        except (RuntimeError, ValueError) as error:  # out of memory, or a missing kernel
            failed += 1
            print(f"{preset}: {run} failed: {' '.join(str(error).split())[:300]}", flush=True)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        done[run] = (result["latency_ms"]["p50"] + result["stages_ms"]["settle"]["p50"]) / 1e3
        result["backend_asked"] = run.backend
        with atomic_path(run.path(folder, preset), (".json",)) as temporary:
            temporary.write_text(json.dumps(result, indent=2) + "\n")
        print(line(result), flush=True)
    return failed


def plan(pipeline: MotionStreamPipeline, chunks: int, done: dict[Run, float], deadline: float) -> Iterator[Run]:
    """The runs of one model, most important first. ``done``: seconds per chunk of the finished runs."""
    from motionstream.model.backends import available, choice

    short, device, dtype = min(SHORT, chunks), pipeline.device, pipeline.model.dtype
    first = Run("tiny", "auto", short)
    yield first
    yield Run("full", "auto", short)
    if chunks > short and first in done:
        # keep a third of the time for the other backends; flex needs a while to compile
        affordable = int((deadline - time.time()) * 2 / 3 / done[first])
        if affordable < chunks:
            print(f"the long run has {affordable} of {chunks} chunks: more would take too long")
        if affordable > short:
            yield Run("tiny", "auto", min(chunks, affordable))
    taken = choice(device, dtype, head_dim=pipeline.config.transformer.attention_head_dim)
    for backend in available(device, dtype):
        if backend != taken:
            yield Run("tiny", backend, short)


def line(result: dict[str, Any]) -> str:
    """A result as one line of text."""
    compute, memory = result["compute"], result["device_memory_mb"]
    share = "" if compute["of_matmul"] is None else f"{compute['of_matmul']:6.1%} of a matrix product, "
    held = result["memory_mb"]["peak"] if memory is None else memory["streaming"]
    late = "" if result["late_over_early"] is None else f", late/early {result['late_over_early']:.3f}"
    return (
        f"{result['preset']:<13}{result['decoder']:<5}{result['backend']:<7}{result['chunks']:>4} chunks "
        f"{result['fps']:7.2f} fps, {result['latency_ms']['p50']:7.1f} ms to the chunk, "
        f"{result['first_frame_ms']['p50']:7.1f} to its first frame, {share}{held:.0f} MB{late}"
    )


def main() -> None:
    """Check the machine, then run one process per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=PRESETS, metavar="PRESET", help="models to measure")
    chunks = "length of the long run, which shows whether late chunks are as fast as early ones; at least 210 for that"
    parser.add_argument("--chunks", type=int, default=300, help=chunks)
    parser.add_argument("--seconds", type=float, default=570, help="time limit of all runs (%(default)s)")
    results = Path(__file__).parent / "results"
    parser.add_argument("--output", type=Path, default=results, help="folder for the results")
    parser.add_argument("--only", metavar="PRESET", help="measure this model in this process")
    parser.add_argument("--deadline", type=float, help="for --only, in seconds since the epoch")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.only:
        deadline = arguments.deadline or float("inf")
        sys.exit(1 if measure(arguments.only, arguments.chunks, arguments.output, deadline) else 0)
    ends = time.time() + arguments.seconds
    check_environment()
    codes = []
    for place, preset in enumerate(arguments.presets):
        deadline = time.time() + (ends - time.time()) / (len(arguments.presets) - place)
        command = [sys.executable, __file__, "--only", preset, "--deadline", str(deadline)]
        command += ["--chunks", str(arguments.chunks), "--output", str(arguments.output)]
        codes.append(subprocess.run(command).returncode)
    sys.exit(1 if any(codes) else 0)


if __name__ == "__main__":
    main()
