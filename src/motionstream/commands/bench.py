"""``motionstream bench``: measures streaming, serving and training on this machine, each by its own subcommand."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from motionstream.commands.common import DeviceOptions, PlacementOptions, parse_size, progress
from motionstream.commands.verbs import Group, Verb


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Base of all benchmarks: measure, print a table and one line of JSON, and optionally write it. NAME: of the
    subcommand. COUNT: the option with the amount to measure, always part of the recorded command line."""

    NAME: ClassVar[str]
    COUNT: ClassVar[str]

    preset: str = "nano"
    """An embedded model, a preset, or a folder with weights."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE.json")] = None
    """Also write the JSON object to a file."""

    @property
    def command(self) -> str:
        """The command line that repeats this measurement."""
        words = ["motionstream", "bench", self.NAME, "--preset", self.preset, f"--{self.COUNT}"]
        words.append(f"{getattr(self, self.COUNT):g}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("preset", "output", self.COUNT) and value != field.default:
                values = [] if value is True else value if isinstance(value, tuple) else [value]
                words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
        return shlex.join(words)

    def run(self) -> None:
        """Measure, and print the table and the JSON line."""
        from motionstream.media.files import atomic_path, check_output

        if self.output is not None:
            check_output(self.output, (".json",))
        result = self.measure()
        if result is None:
            return
        result["command"] = self.command
        self.show(result)
        if self.output is not None:
            with atomic_path(self.output, (".json",)) as temporary:
                temporary.write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps(result))

    def measure(self) -> dict[str, Any] | None:
        """The results; None in all processes but the first."""
        raise AssertionError("the benchmarks say how")

    def show(self, result: dict[str, Any]) -> None:
        """Print the table."""
        raise AssertionError("the benchmarks say how")


@dataclass(frozen=True, kw_only=True)
class BenchStream(PlacementOptions, Benchmark):
    """The options of ``motionstream bench stream``."""

    HELP: ClassVar[str] = """\
Measure an endless stream with a moving drag, chunk by chunk.

Examples:
  motionstream bench stream --preset nano --chunks 100
  motionstream bench stream --preset nano --chunks 500 --threads 1 --untrained
  motionstream bench stream --preset wan2.1-1.3b --untrained --device cuda --decoder tiny --backend flash3
  motionstream bench stream --output benchmarks/results/stream.json"""
    NAME: ClassVar[str] = "stream"
    COUNT: ClassVar[str] = "chunks"

    chunks: int = 100
    """Number of chunks; from 210 on, late chunks are compared with early ones."""
    threads: int | None = None
    """Threads of torch; by default torch's own choice."""
    size: Annotated[str | None, tyro.conf.arg(metavar="WxH")] = None
    """Size of the video; by default the model's own."""
    scale: int | None = None
    """Enlargement of the frames relative to the model's size; by default the usual one of the model."""
    causal: Annotated[str | None, tyro.conf.arg(metavar="c3s1w1")] = None
    """Attention pattern: latent frames per chunk, sink chunks, window chunks; by default the model's own."""
    backend: str = "auto"
    """Attention backend, see `motionstream doctor`; auto takes the fastest that runs."""
    untrained: bool = False
    """Accept untrained weights, which are as fast."""

    def measure(self) -> dict[str, Any]:
        """Stream and measure."""
        size = parse_size(self.size)
        from motionstream.bench import bench_stream

        with progress() as bars:
            bar = bars.add_task("streaming", total=self.chunks)
            return bench_stream(
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

    def show(self, result: dict[str, Any]) -> None:
        """Print the table."""
        from motionstream.bench import print_stream

        print_stream(result)


@dataclass(frozen=True, kw_only=True)
class BenchServe(Benchmark):
    """The options of ``motionstream bench serve``."""

    HELP: ClassVar[str] = """\
Measure a server in its own process through clients that drag, and for comparison the engine without a server.

Examples:
  motionstream bench serve --sessions 1 2 4 --output benchmarks/results/nano-serve.json
  motionstream bench serve --sessions 1 --seconds 4 --minutes 30"""
    NAME: ClassVar[str] = "serve"
    COUNT: ClassVar[str] = "seconds"

    sessions: tuple[int, ...] = (1, 2, 4)
    """Numbers of simultaneous streams, one measurement each."""
    seconds: float = 20.0
    """Duration of each measurement in seconds, for the engine and the server each."""
    minutes: float = 0.0
    """Then stream one session for this many minutes, to measure the growth of memory."""
    codec: Literal["h264", "jpeg"] = "h264"
    """Encoding of the frames."""
    untrained: bool = False
    """Accept untrained weights, which are as fast."""

    def measure(self) -> dict[str, Any]:
        """Serve and measure."""
        from rich.console import Console

        from motionstream.server.measure import bench_serve

        console = Console(stderr=True)
        return bench_serve(
            self.preset,
            self.sessions,
            self.seconds,
            self.minutes,
            untrained=self.untrained,
            codec=self.codec,
            say=lambda text: console.print(f"measuring {text}"),
        )

    def show(self, result: dict[str, Any]) -> None:
        """Print the table."""
        from motionstream.server.measure import print_serve

        print_serve(result)


@dataclass(frozen=True, kw_only=True)
class BenchTrain(DeviceOptions, Benchmark):
    """The options of ``motionstream bench train``."""

    HELP: ClassVar[str] = """\
Measure updates of a training stage with random weights; nothing is kept. For several processes start it with torchrun.

Examples:
  motionstream bench train --preset nano --steps 50
  motionstream bench train --preset wan2.1-1.3b --device cuda --recompute --batch 2
  motionstream bench train --preset nano --stage self-forcing --batch 4"""
    NAME: ClassVar[str] = "train"
    COUNT: ClassVar[str] = "steps"

    preset: str = "nano"
    """The preset, with random weights."""
    stage: Literal["teacher", "causal", "self-forcing"] = "teacher"
    """The training stage."""
    steps: int = 20
    """Number of measured updates, after a warm-up."""
    batch: int | None = None
    """Clips per update, over all processes; by default 8 for nano, 1 per process for larger models."""
    frames: int | None = None
    """Frames per clip, whole chunks; by default the model's own."""
    size: Annotated[str | None, tyro.conf.arg(metavar="WxH")] = None
    """Size of the video; by default the model's own."""
    data: Literal["auto", "rendered", "synthetic"] = "auto"
    """Clips: rendered during training, as for nano, or synthetic random numbers; auto renders only for nano."""
    threads: int | None = None
    """Threads of torch; by default torch's own choice."""
    backend: str = "auto"
    """Attention backend, see `motionstream doctor`; auto takes the fastest that runs."""
    recompute: bool = False
    """Activation checkpointing: less memory for one more forward pass."""
    compile: bool = False
    """torch.compile the transformer's blocks."""
    shard: bool = False
    """Shard the transformers among the processes (FSDP2)."""
    lora: Annotated[int | None, tyro.conf.arg(metavar="RANK")] = None
    """Train only low-rank matrices of this rank, the patch embedding and the track head."""

    def measure(self) -> dict[str, Any] | None:
        """Train and measure."""
        from motionstream.components import Placement

        size, wanted = parse_size(self.size), Placement(self.device, self.dtype).torch_device
        from motionstream.hardware import bfloat16_pays
        from motionstream.training.loop import distributed
        from motionstream.training.planning.benchmark import bench_train
        from motionstream.training.planning.workload import workload

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
            return result if distributed.rank() == 0 else None

    def show(self, result: dict[str, Any]) -> None:
        """Print the table."""
        from motionstream.training.planning.benchmark import print_train

        print_train(result)


class BenchCommand(Group):
    """``motionstream bench``."""

    HELP: ClassVar[str] = """\
Measure speed, latency and memory on this machine. The last line of the output is one JSON object.

Examples:
  motionstream bench stream --preset nano --chunks 100
  motionstream bench serve --sessions 1 2 4
  motionstream bench train --help"""

    KINDS: ClassVar[Mapping[str, type[Verb]]] = {"stream": BenchStream, "serve": BenchServe, "train": BenchTrain}
