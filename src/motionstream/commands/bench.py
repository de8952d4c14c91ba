"""``motionstream bench``: how fast a model is on this machine."""

from __future__ import annotations

import dataclasses
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from motionstream.commands.common import PlacementOptions, parse_size, progress


@dataclass(frozen=True, kw_only=True)
class BenchCommand(PlacementOptions):
    """The options of ``motionstream bench``."""

    HELP: ClassVar[str] = """\
Measure speed, latency and memory on this machine. The last line of the output is one JSON object.

stream: an endless stream with a moving drag, chunk by chunk.

Examples:
  motionstream bench stream --preset nano --chunks 100
  motionstream bench stream --preset nano --chunks 500 --threads 1 --untrained
  motionstream bench stream --preset wan2.1-1.3b --untrained --device cuda --decoder tiny --backend flash3
  motionstream bench stream --output benchmarks/results/stream.json"""

    name: tyro.conf.Positional[Literal["stream"]]
    """What to measure."""
    preset: str = "nano"
    """An embedded model, a preset, or a folder with weights."""
    chunks: int = 100
    """How many chunks; from 210 on, late chunks are compared with early ones."""
    threads: int | None = None
    """Threads of torch; without it torch's own choice."""
    untrained: bool = False
    """Accept weights that were not trained: they are as fast."""
    size: Annotated[str | None, tyro.conf.arg(metavar="WxH")] = None
    """Size of the video; without it the model's own."""
    causal: Annotated[str | None, tyro.conf.arg(metavar="c3s1w1")] = None
    """Another attention pattern than the model's own: latent frames of a chunk, sink chunks, window chunks."""
    backend: str = "auto"
    """Attention backend, see `motionstream doctor`; auto takes the fastest that runs."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="FILE.json")] = None
    """Also write the JSON object to a file."""

    @property
    def command(self) -> str:
        """The command line that does this again."""
        words = ["motionstream", "bench", self.name, "--preset", self.preset, "--chunks", str(self.chunks)]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("name", "preset", "chunks", "output") and value != field.default:
                words += [f"--{field.name.replace('_', '-')}", *([] if value is True else [str(value)])]
        return shlex.join(words)

    def run(self) -> None:
        """Check the options, measure, and print the table and the JSON line."""
        from motionstream.media import atomic_path, check_output

        if self.output is not None:
            check_output(self.output, (".json",))
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
            )
        result["command"] = self.command
        print_stream(result)
        if self.output is not None:
            with atomic_path(self.output, (".json",)) as temporary:
                temporary.write_text(json.dumps(result, indent=2) + "\n")
        print(json.dumps(result))
