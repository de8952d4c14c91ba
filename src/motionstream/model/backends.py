"""Attention backends: the same softmax attention by different kernels.

Tensors are (B, tokens, heads, head_dim), without a mask: contexts gather the visible tokens (``model/attention.py``).
The default, "auto", picks for every call

- on the CPU: the plain product if gradients are needed (SDPA's backward is much slower at small sizes), else SDPA;
- on CUDA: FlashAttention 3 if it is installed and supports the inputs, else SDPA. Recent versions of torch prefer
  cuDNN's kernel within SDPA on Hopper and data-centre Blackwell; "cudnn" forces it.

"auto" never picks "flex", which gains nothing without a mask. A backend chosen by name is never replaced: if it cannot
run, that is an error. The choice applies to the whole process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

AUTO = "auto"

HALF = (torch.float16, torch.bfloat16)

CUDNN_VERSION = 91501
"""Older versions are wrong for lengths that are no multiple of 128, and torch's SDPA does not prefer them either
(``sdp_utils.cpp``). A chunk of Wan 2.1 has 4680 tokens."""


@dataclass(frozen=True)
class Inputs:
    """The properties of inputs that decide whether a backend supports them. Defaults: Wan while streaming."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int = 128
    gradients: bool = False


@dataclass(frozen=True)
class Backend:
    """``run`` computes attention; ``obstacle`` returns why it cannot take the inputs, None if it can."""

    run: Callable[[Tensor, Tensor, Tensor], Tensor]
    obstacle: Callable[[Inputs], str | None]
    summary: str


def plain_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The definition, (B, heads, L, dim); the reference for all faster backends."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    return scores.softmax(dim=-1) @ value


def _heads_first(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)


def _plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return plain_attention(*_heads_first(query, key, value)).transpose(1, 2)


def _sdpa(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    q, k, v = _heads_first(query, key, value)
    return scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _cudnn(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return _sdpa(query, key, value)


def _flash3(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out = import_module("flash_attn_interface").flash_attn_func(query, key, value)
    # its first releases also return the log-sum-exp
    return out[0] if isinstance(out, tuple) else out


def _flex(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    q, k, v = _heads_first(query, key, value)
    if q.device.type == "cpu":
        # on the CPU it refuses tensors that require gradients, even within no_grad
        q, k, v = q.detach(), k.detach(), v.detach()
    run = _flex_kernel(q.device.type == "cuda" and not torch.compiler.is_compiling())
    return run(q, k, v).transpose(1, 2)


@cache
def _flex_kernel(compiled: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    kernel: Callable[..., Tensor] = flex_attention
    return torch.compile(kernel, dynamic=False) if compiled else kernel


def _no_obstacle(inputs: Inputs) -> str | None:
    return None


def _cudnn_obstacle(inputs: Inputs) -> str | None:
    if inputs.device.type != "cuda" or torch.version.hip is not None:
        return f"it needs an NVIDIA GPU, the device is {inputs.device}"
    version = torch.backends.cudnn.version()
    if version is None or version < CUDNN_VERSION:
        return f"it needs cuDNN {CUDNN_VERSION} or newer, this is {version}"
    return _half_obstacle(inputs, limit=128)


def _flash3_obstacle(inputs: Inputs) -> str | None:
    missing = _flash3_missing()
    if missing is not None:
        return missing
    if inputs.device.type != "cuda" or torch.version.hip is not None:
        return f"it needs an NVIDIA GPU, the device is {inputs.device}"
    capability = torch.cuda.get_device_capability(inputs.device)
    if capability != (9, 0):
        return f"it needs a Hopper GPU (sm90), this is sm{capability[0]}{capability[1]}"
    return _half_obstacle(inputs, limit=256)


def _half_obstacle(inputs: Inputs, *, limit: int) -> str | None:
    if inputs.dtype not in HALF:
        return f"it needs float16 or bfloat16, the dtype is {str(inputs.dtype).removeprefix('torch.')}"
    if inputs.head_dim > limit or inputs.head_dim % 8:
        return f"it needs heads of 8, 16 … {limit} channels, these have {inputs.head_dim}"
    return None


@cache
def _flash3_missing() -> str | None:
    try:
        import_module("flash_attn_interface").flash_attn_func  # noqa: B018
    except (ImportError, OSError, AttributeError) as error:  # a build for another torch fails in several ways
        return f"the package flash_attn_interface cannot be imported ({str(error).splitlines()[0]})"
    return None


def _flex_obstacle(inputs: Inputs) -> str | None:
    if inputs.device.type not in ("cpu", "cuda"):
        return f"it needs a GPU or the CPU, the device is {inputs.device}"
    if inputs.device.type == "cpu" and inputs.gradients:
        return "it has no gradients on the CPU"
    return None


BACKENDS = {
    "plain": Backend(_plain, _no_obstacle, "the definition; on the CPU the fastest with gradients"),
    "sdpa": Backend(_sdpa, _no_obstacle, "torch picks the kernel"),
    "cudnn": Backend(_cudnn, _cudnn_obstacle, "cuDNN's kernel within SDPA"),
    "flash3": Backend(_flash3, _flash3_obstacle, "FlashAttention 3"),
    "flex": Backend(_flex, _flex_obstacle, "FlexAttention, compiled on CUDA"),
}

_chosen = AUTO


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention, (B, L, heads, dim) × (B, S, heads, dim) → (B, L, heads, dim), by the chosen backend.

    Raises:
        ValueError: the backend was chosen by name and cannot take these inputs.
    """
    gradients = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    name = _resolve(_chosen, query.device, query.dtype, query.shape[-1], gradients)
    return BACKENDS[name].run(query, key, value)


# torch.compile runs it only once, at compile time, so everything it depends on must be an argument
@torch.compiler.assume_constant_result
def _resolve(name: str, device: torch.device, dtype: torch.dtype, head_dim: int, gradients: bool) -> str:
    inputs = Inputs(device, dtype, head_dim, gradients)
    if name == AUTO:
        if device.type == "cpu" and gradients:
            return "plain"
        return "flash3" if device.type == "cuda" and _flash3_obstacle(inputs) is None else "sdpa"
    _check(name, inputs)
    return name


def _check(name: str, inputs: Inputs) -> None:
    if name not in BACKENDS:
        raise ValueError(f"there is no attention backend {name!r}; known: {', '.join([AUTO, *BACKENDS])}")
    reason = BACKENDS[name].obstacle(inputs)
    if reason is not None:
        fit = [other for other, backend in BACKENDS.items() if backend.obstacle(inputs) is None]
        raise ValueError(f"attention backend {name!r} cannot run: {reason}; here run {', '.join([AUTO, *fit])}")


def available(device: torch.device | str, dtype: torch.dtype) -> list[str]:
    """Names of the backends that run on ``device`` with ``dtype``."""
    inputs = Inputs(torch.device(device), dtype)
    return [name for name, backend in BACKENDS.items() if backend.obstacle(inputs) is None]


def choice(device: torch.device | str, dtype: torch.dtype, *, head_dim: int = 128, gradients: bool = False) -> str:
    """The name of the backend that ``attention`` would currently use for such inputs, for reports."""
    return _resolve(_chosen, torch.device(device), dtype, head_dim, gradients)


def _usual() -> Inputs:
    """The usual inputs on this machine: bfloat16 on a GPU, float32 on the CPU."""
    if torch.cuda.is_available():
        return Inputs(torch.device("cuda"), torch.bfloat16)
    return Inputs(torch.device("cpu"), torch.float32)


def set_backend(name: str) -> None:
    """Choose the backend of this process: "auto" or one of ``BACKENDS``.

    Raises:
        ValueError: an unknown name, or a backend that does not run on this machine.
    """
    global _chosen
    if name != AUTO:
        _check(name, _usual())
    _chosen = name


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """``set_backend`` for the duration of a ``with`` block."""
    global _chosen
    before = _chosen
    set_backend(name)
    try:
        yield
    finally:
        _chosen = before


def describe() -> list[str]:
    """One line per backend: a summary, or why it does not run on this machine."""
    inputs = _usual()
    taken = choice(inputs.device, inputs.dtype)
    lines = []
    for name, backend in BACKENDS.items():
        reason = backend.obstacle(inputs)
        mark = f" (taken now, {_chosen})" if name == taken else ""
        lines.append(f"{name:<7} {backend.summary}{mark}" if reason is None else f"{name:<7} not here: {reason}")
    return lines
