"""Describes the hardware, versions and command behind a measurement, in the same form for every result."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from motionstream import __version__


def _program() -> str:
    """The name of the called program; `python -m motionstream` counts as `motionstream`."""
    name = Path(sys.argv[0]).name
    return "motionstream" if name == "__main__.py" else name


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Hardware, versions, commit, command and time of a measurement."""
    on_gpu = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else torch.device(device).type,
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "motionstream": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": version("diffusers"),
            **(_cuda_versions() if on_gpu else {}),
        },
        "commit": commit(),
        "command": shlex.join([_program(), *sys.argv[1:]]),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cuda_versions() -> dict[str, str | None]:
    cudnn = torch.backends.cudnn.version()
    return {"cuda": torch.version.cuda, "cudnn": None if cudnn is None else str(cudnn), "driver": _driver()}


def _driver() -> str | None:
    """The version of NVIDIA's kernel driver, None if unknown."""
    try:
        found = re.search(r"Kernel Module\D*([\d.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        return None
    return found[1] if found else None


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str | None:
    """The commit of this package's source, with "+" if it was modified since; None outside a checkout."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # a site-packages folder inside another repository is no checkout of this one
        if not git("ls-files", "--", Path(__file__).name):
            return None
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None
