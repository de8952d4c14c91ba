"""What the verbs share: where they write, how they show progress, how they check paths and load models."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from motionstream.component_config import DecoderChoice, Precision, TextPlacement

if TYPE_CHECKING:
    from rich.progress import Progress

    from motionstream.components import Placement
    from motionstream.pipeline import MotionStreamPipeline


def progress() -> Progress:
    """A bar on stderr, where there is a terminal to show it; results alone go to stdout."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True, redirect_stdout=False)


def free_name(name: str) -> Path:
    """A file in this folder for what nobody has named: ``name``, or with a number where there is one of that name, for
    it may be somebody's own."""
    path, number = Path(name), 2
    while path.exists():
        path, number = Path(f"{Path(name).stem}-{number}{path.suffix}"), number + 1
    return path


def check_positive(name: str, value: float | None, unit: str) -> None:
    """Refuse zero, negative, infinite and NaN values of an option; None is one not given."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value:g}; give a positive number of {unit}")


def check_numbers(name: str, text: str) -> tuple[float, float]:
    """Two finite numbers written ``x,y``, of an option."""
    from motionstream.tracks import parse_point

    try:
        return parse_point(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check_paths(inputs: Iterable[Path | None], outputs: Iterable[Path | None]) -> None:
    """Refuse to write over what is read, and two results to one file."""
    taken = {path.resolve() for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        if path.resolve() in taken:
            raise ValueError(f"cannot write {path}: it is an input or another output; choose another name")
        taken.add(path.resolve())


@dataclass(frozen=True)
class DeviceOptions:
    """Where a model runs, and how precisely."""

    device: str = "auto"
    """cpu, cuda, cuda:1 or mps; auto takes CUDA, else MPS, else the CPU."""
    dtype: Precision | None = None
    """Precision of weights and activations; without it the model's own."""


@dataclass(frozen=True)
class PlacementOptions(DeviceOptions):
    """Where and in which form a model runs."""

    decoder: DecoderChoice = "full"
    """The full autoencoder's decoder, or the tiny one."""
    text_encoder: TextPlacement = "released"
    """released frees it after a prompt; resident keeps it; int8 has 8-bit weights; cpu encodes on the processor."""
    tile: int | None = None
    """Side of the autoencoder's tiles in latent cells: less memory; without it whole frames."""
    offload_blocks: bool = False
    """Bring the transformer's blocks to the device one by one: least memory, slow."""

    def placement(self) -> Placement:
        """The same as the pipeline takes it."""
        from motionstream.components import Placement

        # the verbs inherit these options: only what a placement has is handed on
        return Placement(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Placement)})


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``832x480`` (width x height) → (480, 832)."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"--size is {text!r}; write it like 832x480 (width x height)")
    return int(match[2]), int(match[1])


def load_pipeline(
    model: str,
    *,
    untrained: bool = False,
    causal: str | None = None,
    options: PlacementOptions | None = None,
    needs: tuple[str, ...] | None = None,
) -> MotionStreamPipeline:
    """``MotionStreamPipeline.from_pretrained``, the pattern checked first: loading takes a while."""
    from motionstream.config import CausalConfig
    from motionstream.loading import STAGES
    from motionstream.pipeline import MotionStreamPipeline

    if causal is not None:
        CausalConfig.parse(causal)
    return MotionStreamPipeline.from_pretrained(
        model,
        untrained=untrained,
        causal=causal,
        placement=None if options is None else options.placement(),
        needs=tuple(STAGES) if needs is None else needs,
    )
