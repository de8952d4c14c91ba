"""What the verbs share: where they write, how they show progress, how they check paths and load models."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from motionstream.pipeline import MotionStreamPipeline


def progress() -> Progress:
    """A bar on stderr, where there is a terminal to show it; results alone go to stdout."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True, redirect_stdout=False)


def check_positive(name: str, value: float | None, unit: str) -> None:
    """Refuse zero, negative, infinite and NaN values of an option; None is one not given."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value:g}; give a positive number of {unit}")


def check_paths(inputs: Iterable[Path | None], outputs: Iterable[Path | None]) -> None:
    """Refuse to write over what is read, and two results to one file."""
    taken = {path.resolve() for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        if path.resolve() in taken:
            raise ValueError(f"cannot write {path}: it is an input or another output; choose another name")
        taken.add(path.resolve())


def load_pipeline(model: str, *, untrained: bool = False, causal: str | None = None) -> MotionStreamPipeline:
    """``MotionStreamPipeline.from_pretrained``, where damaged files are the user's mistake, too."""
    from safetensors import SafetensorError

    from motionstream.config import CausalConfig
    from motionstream.pipeline import WEIGHTS, MotionStreamPipeline

    if causal is not None:
        CausalConfig.parse(causal)
    try:
        return MotionStreamPipeline.from_pretrained(model, untrained=untrained, causal=causal)
    except (SafetensorError, KeyError, TypeError, RuntimeError, UnicodeDecodeError) as error:
        if (WEIGHTS / model).is_dir():
            raise  # our own files: not the user's mistake
        reason = f"{type(error).__name__}: {error}"[:200]
        raise ValueError(
            f"cannot load the model {model!r}: its files are damaged or of another model ({reason})"
        ) from error
