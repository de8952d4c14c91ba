"""Helpers of the verbs: output names, progress bars, checks of options and paths, loading of models."""

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
    """A progress bar on stderr, shown only in a terminal; stdout is for results."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True, redirect_stdout=False)


def free_name(name: str) -> Path:
    """A default output file in this folder: ``name``, with a number added if it exists, so as not to overwrite the
    user's file."""
    path, number = Path(name), 2
    while path.exists():
        path, number = Path(f"{Path(name).stem}-{number}{path.suffix}"), number + 1
    return path


def check_positive(name: str, value: float | None, unit: str) -> None:
    """Refuse zero, negative, infinite and NaN values of an option; None means not given."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value:g}; give a positive number of {unit}")


def check_numbers(name: str, text: str) -> tuple[float, float]:
    """Parse an option of two finite numbers written ``x,y``."""
    from motionstream.tracks import parse_point

    try:
        return parse_point(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def check_paths(inputs: Iterable[Path | None], outputs: Iterable[Path | None]) -> None:
    """Refuse outputs that would overwrite an input or another output."""
    taken = {path.resolve() for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        if path.resolve() in taken:
            raise ValueError(f"cannot write {path}: it is an input or another output; choose another name")
        taken.add(path.resolve())


@dataclass(frozen=True)
class DeviceOptions:
    """Device and precision of a model."""

    device: str = "auto"
    """cpu, cuda, cuda:1 or mps; auto takes CUDA, else MPS, else the CPU."""
    dtype: Precision | None = None
    """Precision of weights and activations; by default the model's own."""


@dataclass(frozen=True)
class PlacementOptions(DeviceOptions):
    """Device, precision and memory options of a model."""

    decoder: DecoderChoice = "full"
    """The full autoencoder's decoder, or the tiny one."""
    text_encoder: TextPlacement = "released"
    """released frees it after each prompt; resident keeps it; int8 uses 8-bit weights; cpu runs it on the CPU."""
    tile: int | None = None
    """Side of the autoencoder's tiles in latent cells, to save memory; by default whole frames."""
    offload_blocks: bool = False
    """Move the transformer's blocks to the device one by one: least memory, slow."""

    def placement(self) -> Placement:
        """The options as a ``Placement`` for the pipeline."""
        from motionstream.components import Placement

        # the verbs add other options, so copy only the fields of a placement
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
    """``MotionStreamPipeline.from_pretrained``; checks the attention pattern first, since loading takes a while."""
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
