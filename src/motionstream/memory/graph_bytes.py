"""Measures the memory of a training step, with its backward pass, by running the real modules on the meta device.

As in ``live_bytes``, but with gradients. On the meta device torch has neither autocast nor CUDA's fused kernels, so
both are emulated. Autocast: products and convolutions get bf16 operands, and copies of weights are cached. Fused
kernels: attention saves its operands, its output and one number per row; RMS norm saves its input and one number per
row. For devices other than CUDA, attention materializes its scores, and the norms are torch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from motionstream.memory.live_bytes import LiveBytes, nbytes
from motionstream.model.backends import use_backend
from motionstream.model.transformer import ConditionEmbedder

CAST = ("linear", "conv2d", "conv3d", "matmul", "__matmul__", "scaled_dot_product_attention")
"""The functions used by the models that autocast runs in half precision."""


@dataclass(frozen=True)
class StepBytes:
    """Bytes of a loss and its backward pass, without the weights' gradients.

    ``saved``: alive after the forward, that is, inputs and tensors saved for the backward pass, without weights and
    their copies. ``casts``: half-precision copies of weights; ``held_casts``: those also saved for the backward pass.
    ``forward``, ``backward``: additional bytes at the worst moment of each.
    """

    saved: int
    casts: int
    held_casts: int
    forward: int
    backward: int


def step_bytes(module: nn.Module, loss: Callable[[], Tensor], *, bf16: bool, recompute: bool, device: str) -> StepBytes:
    """Run ``loss`` of ``module`` (on the meta device) and its backward pass.

    Args:
        recompute: checkpoint the module's transformer blocks, as ``training.distributed.tune_blocks`` does.
        device: "cuda", or another device, without fused kernels.
    """
    hooks = [
        parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    try:
        with _checkpointed(module, recompute, bf16, device), torch.device("meta"), LiveBytes() as live:
            with _kernels(module, bf16, device) as cache:
                value = loss()
                casts, held = nbytes(cache.values()), live.live
                forward = live.peak - held
                cache.clear()  # autocast's cache ends with the forward; the graph holds the copies that it needs
            kept = live.live
            live.peak = kept
            torch.autograd.backward(value)
            return StepBytes(held - casts, casts, casts - (held - kept), forward, live.peak - kept)
    finally:
        for hook in hooks:
            hook.remove()


def inference_bytes(module: nn.Module, run: Callable[[], Tensor], *, bf16: bool, device: str) -> int:
    """Peak bytes while ``run`` runs ``module`` (on the meta device) without gradients, including inputs and copies of
    weights."""
    with torch.device("meta"), LiveBytes() as live, _kernels(module, bf16, device), torch.no_grad():
        run()
    return live.peak


@contextmanager
def _kernels(module: nn.Module, bf16: bool, device: str) -> Iterator[dict[int, Tensor]]:
    """Emulate the kernels and autocast; yields the copies of weights, by the weights' ids."""
    casting = _Autocast(module)
    fused, cast = (_FusedKernels() if device == "cuda" else nullcontext()), (casting if bf16 else nullcontext())
    with use_backend("sdpa" if device == "cuda" else "plain"), fused, cast:
        yield casting.cache


@contextmanager
def _checkpointed(module: nn.Module, recompute: bool, bf16: bool, device: str) -> Iterator[None]:
    """Recompute blocks in the backward pass, within a new autocast context."""

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _kernels(module, bf16, device)

    blocks: list[Any] = [block for part in module.modules() for block in getattr(part, "blocks", [])]
    for block in blocks if recompute else []:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=contexts)
    try:
        yield
    finally:
        for block in blocks if recompute else []:
            del block.forward


class _Autocast(TorchFunctionMode):
    """Converts operands of products and convolutions to bf16, except in the time embeddings of ``module``, which
    disable autocast; ``cache`` has the copies of weights, by their id."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.cache: dict[int, Tensor] = {}
        embedders = [part for part in module.modules() if isinstance(part, ConditionEmbedder)]
        self._off = {id(p) for e in embedders for part in (e.time_embedder, e.time_proj) for p in part.parameters()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in CAST or not self._off.isdisjoint(map(id, args)):
            return func(*args, **(kwargs or {}))
        return func(*map(self._cast, args), **{name: self._cast(value) for name, value in (kwargs or {}).items()})

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(torch.bfloat16)
        if id(value) not in self.cache:
            self.cache[id(value)] = value.to(torch.bfloat16)
        return self.cache[id(value)]


class _FusedKernels(TorchFunctionMode):
    """Emulates the memory use of CUDA's attention and RMS norm."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return _Attention.apply(*args[:3])
        if func is F.rms_norm:  # its weight arrives as a keyword
            return _Norm.apply(args[0], kwargs["weight"])
        return func(*args, **(kwargs or {}))


def _float32(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    # explicit device, since the default device is not set in the backward pass
    return torch.empty(shape, dtype=torch.float32, device=like.device)


class _Attention(torch.autograd.Function):
    """(B, heads, L, dim): saves its operands, its output and the log-sum-exp of each row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, _float32(query, query.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query, key, value, *_ = ctx.saved_tensors
        sum_of_query = _float32(query, query.shape)
        answer = tuple(torch.empty_like(operand) for operand in (query, key, value))
        del sum_of_query
        return answer


class _Norm(torch.autograd.Function):
    """Over the last axis: saves its input and one number per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, _float32(x, x.shape[:-1]))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)
