"""``motionstream bench``: how fast a model streams, is served, or is trained, on this machine."""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from motionstream.commands.common import PlacementOptions, parse_size, progress

_ANY_MODEL = ("device", "dtype", "threads", "size", "backend")
TAKES = {
    "stream": (
        *_ANY_MODEL,
        "chunks",
        "scale",
        "untrained",
        "causal",
        "decoder",
        "text_encoder",
        "tile",
        "offload_blocks",
    ),
    "serve": ("sessions", "seconds", "minutes", "codec", "untrained"),
    "train": (*_ANY_MODEL, "stage", "steps", "batch", "frames", "data", "recompute", "compile", "shard", "lora"),
}
"""The options of each benchmark, besides those of all."""


@dataclass(frozen=True, kw_only=True)
class BenchCommand(PlacementOptions):
    """The options of ``motionstream bench``."""

    HELP: ClassVar[str] = """\
Measure speed, latency and memory on this machine. The last line of the output is one JSON object.

stream: an endless stream with a moving drag, chunk by chunk.
serve: a server in a process of its own, seen by clients that drag, beside the bare engine.
train: updates of a training stage, with random weights; nothing is kept. Several processes: start it with torchrun.

Examples:
  motionstream bench stream --preset nano --chunks 100
  motionstream bench stream --preset nano --chunks 500 --threads 1 --untrained
  motionstream bench stream --preset wan2.1-1.3b --untrained --device cuda --decoder tiny --backend flash3
  motionstream bench stream --output benchmarks/results/stream.json
  motionstream bench serve --sessions 1 2 4 --output benchmarks/results/nano-serve.json
  motionstream bench train --preset nano --steps 50
  motionstream bench train --preset wan2.1-1.3b --device cuda --recompute --batch 2
  motionstream bench train --preset nano --stage self-forcing --batch 4"""

    name: tyro.conf.Positional[Literal["stream", "serve", "train"]]
    """What to measure."""
    preset: str = "nano"
    """stream, serve: an embedded model, a preset, or a folder with weights; train: a preset."""
    threads: int | None = None
    """Threads of torch; without it torch's own choice."""
    size: Annotated[str | None, tyro.conf.arg(metavar="WxH")] = None
    """Size of the video; without it the model's own."""
    backend: str = "auto"
    """Attention backend, see `motionstream doctor`; auto takes the fastest that runs."""
    chunks: int = 100
    """Of stream: how many chunks; from 210 on, late chunks are compared with early ones."""
    scale: int | None = None
    """Of stream: frames so many times as large as the model sees them; without it as they are usually shown."""
    untrained: bool = False
    """Of stream and serve: accept weights that were not trained: they are as fast."""
    causal: Annotated[str | None, tyro.conf.arg(metavar="c3s1w1")] = None
    """Of stream: another attention pattern than the model's own: latent frames of a chunk, sink chunks, window."""
    sessions: tuple[int, ...] = (1, 2, 4)
    """Of serve: how many streams at a time, one measurement each."""
    seconds: float = 20.0
    """Of serve: how long each is measured, the engine and the server both."""
    minutes: float = 0.0
    """Of serve: then one stream for so long, for the memory."""
    codec: Literal["h264", "jpeg"] = "h264"
    """Of serve: how frames are sent."""
    stage: Literal["teacher", "causal", "self-forcing"] = "teacher"
    """Of train: which stage."""
    steps: int = 20
    """Of train: how many updates are counted, after a warm-up."""
    batch: int | None = None
    """Of train: clips of an update, over all processes; without it 8 of nano, 1 a process of larger models."""
    frames: int | None = None
    """Of train: frames of a clip, whole chunks; without it the model's own."""
    data: Literal["auto", "rendered", "synthetic"] = "auto"
    """Of train: clips rendered meanwhile, as nano is trained on, or random numbers; auto renders for nano alone."""
    recompute: bool = False
    """Of train: activation checkpointing, less memory for one more forward."""
    compile: bool = False
    """Of train: torch.compile the transformer's blocks."""
    shard: bool = False
    """Of train: divide the transformers among the processes (FSDP2)."""
    lora: Annotated[int | None, tyro.conf.arg(metavar="RANK")] = None
    """Of train: train low-rank matrices, the patch embedding and the track head alone."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE.json")] = None
    """Also write the JSON object to a file."""

    @property
    def command(self) -> str:
        """The command line that does this again."""
        counts = {"stream": ("chunks", self.chunks), "serve": ("seconds", self.seconds), "train": ("steps", self.steps)}
        count = counts[self.name]
        words = ["motionstream", "bench", self.name, "--preset", self.preset, f"--{count[0]}", f"{count[1]:g}"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("name", "preset", "output", count[0]) and value != field.default:
                values = [] if value is True else value if isinstance(value, tuple) else [value]
                words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
        return shlex.join(words)

    def run(self) -> None:
        """Check the options, measure, and print the table and the JSON line."""
        from motionstream.media import atomic_path, check_output

        self._check_options()
        if self.output is not None:
            check_output(self.output, (".json",))
        result = {"stream": self._stream, "serve": self._serve, "train": self._train}[self.name]()
        if result is None:
            return
        if self.output is not None:
            with atomic_path(self.output, (".json",)) as temporary:
                temporary.write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps(result))

    def _check_options(self) -> None:
        """Refuse those of the other benchmarks."""
        for field in dataclasses.fields(self):
            others = [f"bench {name}" for name, options in TAKES.items() if field.name in options]
            wrong = others and field.name not in TAKES[self.name] and getattr(self, field.name) != field.default
            if wrong:
                option, do = field.name.replace("_", "-"), "do" if others[1:] else "does"
                raise ValueError(f"bench {self.name} takes no --{option}; only {' and '.join(others)} {do}")

    def _stream(self) -> dict[str, Any]:
        size = parse_size(self.size)
        from motionstream.bench import bench_stream, print_stream

        with progress() as bars:
            bar = bars.add_task("streaming", total=self.chunks)
            result = bench_stream(
                self.preset,
                chunks=self.chunks,
                untrained=self.untrained,
                threads=self.threads,
                after_chunk=lambda: bars.advance(bar),
                size=size,
                causal=self.causal,
                backend=self.backend,
                placement=self.placement(),
                scale=self.scale,
            )
        result["command"] = self.command
        print_stream(result)
        return result

    def _serve(self) -> dict[str, Any]:
        from rich.console import Console

        from motionstream.server.measure import bench_serve, print_serve

        console = Console(stderr=True)
        result = bench_serve(
            self.preset,
            self.sessions,
            self.seconds,
            self.minutes,
            untrained=self.untrained,
            codec=self.codec,
            say=lambda text: console.print(f"measuring {text}"),
        )
        result["command"] = self.command
        print_serve(result)
        return result

    def _train(self) -> dict[str, Any] | None:
        """None in all processes but the first."""
        size, wanted = parse_size(self.size), self.placement().torch_device
        from motionstream.hardware import bfloat16_pays
        from motionstream.training import distributed
        from motionstream.training.benchmark import bench_train, print_train
        from motionstream.training.workload import workload

        with distributed.process_group() as own, progress() as bars:
            work = workload(
                self.preset,
                frames=self.frames,
                size=size,
                batch=self.batch,
                stage=self.stage,
                data=self.data,
                bf16=bfloat16_pays(wanted) if self.dtype is None else self.dtype == "bfloat16",
                recompute=self.recompute,
                compile=self.compile,
                shard=self.shard,
                lora=self.lora,
            )
            bar = bars.add_task("training", total=None)
            result = bench_train(
                work,
                self.steps,
                device=own if distributed.world_size() > 1 and self.device == "auto" else wanted,
                threads=self.threads,
                backend=self.backend,
                after_step=lambda: bars.advance(bar),
            )
            first = distributed.rank() == 0
        if not first:
            return None
        result["command"] = self.command
        print_train(result)
        return result
