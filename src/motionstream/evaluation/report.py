"""How a result is printed and kept: what it was measured on, a table, one JSON line, a file."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from motionstream import __version__
from motionstream.media import atomic_path


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """What a number depends on besides the code: hardware, versions, commit, command."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "motionstream": __version__,
        "commit": commit(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str | None:
    """The commit that this package's source is at, with "+" where it was changed since; None outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # a site-packages folder inside somebody else's repository is no checkout of ours
        if not git("ls-files", "--", Path(__file__).name):
            return None
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", "..") else "")
    except (OSError, subprocess.SubprocessError):
        return None


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
