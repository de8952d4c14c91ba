"""How a result is printed and kept: a table, one JSON line, a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from motionstream.media import atomic_path


def table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> Table:
    """A table whose first column names the rows."""
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    made.add_column("", no_wrap=True)
    for column in columns:
        made.add_column(column, justify="right")
    for name, cells in rows.items():
        made.add_row(name, *cells)
    return made


def finish(result: dict[str, Any], output: Path | None) -> None:
    """Print ``result`` as one JSON line, the last; write it to ``output`` (indented) if given, whole or not at all."""
    if output is not None:
        with atomic_path(output, [".json"]) as path:
            path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    print(json.dumps(result, allow_nan=False), flush=True)
