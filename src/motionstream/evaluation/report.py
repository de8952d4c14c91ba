"""Output of results: tables, a JSON line, a file, a figure."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from motionstream.media.files import atomic_path

PARTS = ("value", "low", "high")
DASHES = ("-", "--", ":", "-.")


WIDE = 400


def console() -> Console:
    """For standard output: as wide as the terminal, or wide enough for every table if it goes to a file."""
    return Console(width=None if sys.stdout.isatty() else WIDE)


def table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Table:
    """A table with row names in its first column."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    made.add_column("", overflow="fold", min_width=12)  # of long names, not of figures, lines are broken
    for column in columns:
        made.add_column(column, justify="right", overflow="fold")
    for name, cells in rows.items():
        made.add_row(name, *cells)
    return made


def finish(result: dict[str, Any], output: Path | None) -> None:
    """Print ``result`` as one JSON line, the last output; also write it, indented, to ``output`` if given."""
    if output is not None:
        with atomic_path(output, [".json"]) as path:
            path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    print(json.dumps(result, allow_nan=False), flush=True)


def drift_figure(result: dict[str, Any], path: Path) -> None:
    """Draw the curves of ``evaluate drift`` over time, with their intervals, to a .png file.

    Colours distinguish models, dashes attention patterns. Raises ValueError if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("a figure needs matplotlib: pip install -e '.[train]'") from error
    figure = Figure(figsize=(7, 6), dpi=120, layout="constrained")
    models, patterns = (list(dict.fromkeys(line[key] for line in result["lines"])) for key in ("model", "causal"))
    top, bottom = figure.subplots(2, 1, sharex=True)
    for line in result["lines"]:
        style = {"color": f"C{models.index(line['model'])}", "linestyle": DASHES[patterns.index(line["causal"]) % 4]}
        _band(top, line["psnr"], label=f"{line['model']} {line['causal']}", **style)
        _band(bottom, line["epe"], **style)
    # only in the legend: its curve, far above the others, would flatten them
    best = np.nanmean([np.nan if point is None else point["value"] for point in result["reference"]["psnr"]])
    top.plot([], [], color="grey", label=f"{result['reference']['model']} ({best:.1f} dB)")
    _band(bottom, result["reference"]["epe"], color="grey")
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    top.set_ylabel("PSNR of what is still (dB)")
    bottom.set_ylabel("EPE of what is dragged (px)")
    bottom.set_xlabel("seconds")
    settings = result["settings"]
    top.set_title(f"{settings['clips']} held-out scenes, drags {'held' if settings['held'] else 'taken up anew'}; 95 %")
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(path, metadata={"Software": None})


def _band(axes: Any, points: Sequence[Mapping[str, float] | None], *, color: str, **style: Any) -> None:
    """A curve over the seconds with its interval; gaps where there is no value."""
    known = [point or dict.fromkeys(PARTS, np.nan) for point in points]
    value, low, high = (np.array([point[part] for point in known]) for part in PARTS)
    seconds = 1 + np.arange(len(value))
    axes.plot(seconds, value, color=color, **style)
    axes.fill_between(seconds, low, high, color=color, alpha=0.12, linewidth=0)
