"""Properties of devices: peak speed, from the data sheet or measured, and memory use."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

PEAK_TFLOPS = {
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 NVL": 835,
    "NVIDIA GH200 480GB": 989,
    "NVIDIA H200": 989,
    "NVIDIA H200 NVL": 835,
    "NVIDIA B200": 2250,
    "NVIDIA L40S": 362,
    "NVIDIA L40": 181,
    "NVIDIA L4": 121,
    "NVIDIA A10": 125,
    "NVIDIA A40": 150,
    "NVIDIA GeForce RTX 3090": 71,
    "NVIDIA GeForce RTX 4090": 165,
    "NVIDIA GeForce RTX 5090": 210,
}
"""Peak of dense bf16 products with float32 accumulation, from NVIDIA's data sheets and white papers (half of figures
"with sparsity"), for devices whose names identify the exact part."""


@dataclass(frozen=True)
class Peak:
    """A device's peak in operations per second, and the source of the number."""

    flops: float
    source: Literal["data sheet", "measured"]


def data_sheet_tflops(device: torch.device, dtype: torch.dtype) -> float | None:
    """The data sheet's peak of a known CUDA device in bf16; otherwise None."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    return PEAK_TFLOPS.get(torch.cuda.get_device_name(device))


def peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """The data sheet's peak if known, otherwise the measured speed of large matrix products."""
    known = data_sheet_tflops(device, dtype)
    if known is not None:
        return Peak(known * 1e12, "data sheet")
    return Peak(matmul_tflops(device, dtype) * 1e12, "measured")


@torch.no_grad()
def matmul_tflops(device: torch.device, dtype: torch.dtype, side: int | None = None, repeats: int = 20) -> float:
    """Measured TFLOPS of products of random square matrices, a practical upper bound.

    On CUDA the mean of all ``repeats``, timed on the device; elsewhere the best, since other programs interfere.
    ``side``: 8192 on CUDA and 1024 elsewhere when None.
    """
    on_cuda = device.type == "cuda"
    side = side or (8192 if on_cuda else 1024)
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = a @ b
    work = 2 * side**3 / 1e12
    if not on_cuda:
        return work / min(_seconds_of_product(a, b, out) for _ in range(repeats))
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    for _ in range(repeats):
        torch.matmul(a, b, out=out)
    ended.record()
    ended.synchronize()
    return repeats * work / (began.elapsed_time(ended) / 1e3)


@cache
def bfloat16_pays(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster than in float32. Measured on CPUs, many of which emulate the format and
    are a hundred times slower."""
    if device.type != "cpu":
        return True
    half, whole = (matmul_tflops(device, dtype, side=256, repeats=8) for dtype in (torch.bfloat16, torch.float32))
    return half > whole


def _seconds_of_product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> float:
    synchronise(a.device)
    began = time.perf_counter()
    torch.matmul(a, b, out=out)
    synchronise(a.device)
    return time.perf_counter() - began


def synchronise(device: torch.device) -> None:
    """Wait until a device has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


class DeviceMemory:
    """Peak memory that torch's allocator allocated and reserved on a CUDA device; not available for others.

    The peak of the first chunks, mainly of the encoders, is separated from that of streaming.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._allocated = self._reserved = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def begin_anew(self) -> None:
        """Begin the phase that counts as ``streaming``."""
        if self.device.type == "cuda":
            self._allocated = max(self._allocated, torch.cuda.max_memory_allocated(self.device))
            self._reserved = max(self._reserved, torch.cuda.max_memory_reserved(self.device))
            torch.cuda.reset_peak_memory_stats(self.device)

    def result(self) -> dict[str, float] | None:
        """Peaks in MB, overall and while ``streaming``; None without a CUDA device."""
        if self.device.type != "cuda":
            return None
        streaming = torch.cuda.max_memory_allocated(self.device)
        self.begin_anew()
        values = {"peak_allocated": self._allocated, "peak_reserved": self._reserved, "streaming": streaming}
        return {name: round(value / 1e6, 1) for name, value in values.items()}


def memory_mb() -> float:
    """Current resident memory of this process in MB (10⁶ bytes)."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:  # macOS has no /proc
        shown = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
        return int(shown.stdout) * 1024 / 1e6


def peak_memory_mb() -> float:
    """Peak resident memory of this process in MB, including loading of the model."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def machine_line(result: dict[str, Any]) -> str:
    """A readable line about the machine of a result that has ``environment``'s entries."""
    device = "" if result["device"] == "cpu" else f"{result['device']}, "
    load = f"load {result['load_average_before']} before, " if "load_average_before" in result else ""
    return (
        f"{device}{result['processor']}, {result['threads']} of {result['cores']} threads, {load}"
        f"torch {result['versions']['torch']}, commit {result['commit'] or 'unknown'}"
    )
