"""Total and free memory of this machine's devices."""

from __future__ import annotations

import os
from pathlib import Path

import torch

CGROUPS = (
    ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""For cgroup versions 2 and 1: folder, limit, usage, and the entry of ``memory.stat`` for reclaimable page cache."""


def machine_memory(device: torch.device | str) -> tuple[int, int]:
    """(total, free) bytes of a device of this machine."""
    device = torch.device(device)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return total, max(0, total - torch.mps.driver_allocated_memory())
    return processor_memory()


def processor_memory(root: Path = Path("/")) -> tuple[int, int]:
    """(total, free) bytes of main memory within the cgroup's limit; page cache counts as free.

    ``root``: the folder of ``proc`` and ``sys``. Without these, all memory counts as free.
    """
    try:
        lines = (line.partition(":") for line in (root / "proc/meminfo").read_text().splitlines())
        entries = {name: int(rest.split()[0]) * 1024 for name, _, rest in lines}
        total, free = entries["MemTotal"], entries["MemAvailable"]
    except (OSError, KeyError):
        total = free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder, limit_file, used_file, cached in CGROUPS:
        try:
            limit = int((root / folder / limit_file).read_text())  # "max" is no limit
            used = int((root / folder / used_file).read_text())
            stat = dict(line.split() for line in (root / folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        total = min(total, limit)
        free = min(free, max(0, limit - used + int(stat.get(cached, 0))))
    return total, free
