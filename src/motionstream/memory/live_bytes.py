"""Measures memory without allocating it: modules run on torch's meta device while live bytes are counted.

Internal copies of two kinds of operations are counted as well: convolutions may convert their operands and result to
another layout (oneDNN and cuDNN do), and so may fused attention, which keeps no scores otherwise. Other workspaces are
not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def nbytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of some tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def weights_of(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return nbytes(module.parameters()) + nbytes(module.buffers())


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors created within it on the meta device: ``live`` at present, and the ``peak``."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._alive: dict[int, ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {tensor.untyped_storage()._cdata for tensor in _meta_tensors((args, kwargs))}
        out = func(*args, **kwargs)
        for tensor in _meta_tensors(out):
            if tensor.untyped_storage()._cdata not in given:
                self._add(tensor.untyped_storage())
        convolution = func is torch.ops.aten.convolution.default
        anew = nbytes(_meta_tensors((args, kwargs, out))) if convolution else 0
        self.peak = max(self.peak, self.live + anew)
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def freed(_: object) -> None:
            self.live -= size
            del self._alive[key]

        self.live += size
        self._alive[key] = ref(storage, freed)


def _meta_tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor) and leaf.is_meta)


class _FusedAttention(TorchFunctionMode):
    """Replaces fused attention, which materializes its scores on the meta device but on no real one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        operands = [torch.empty_like(operand) for operand in args[:3]]
        return torch.empty_like(operands[0])


@contextmanager
def dry_run() -> Iterator[LiveBytes]:
    """Create new tensors on the meta device and count them."""
    with torch.no_grad(), torch.device("meta"), _FusedAttention(), LiveBytes() as live:
        yield live


def peak_of(run: Callable[[], object]) -> int:
    """Peak bytes of ``run``, including its result; its modules must be on the meta device."""
    with dry_run() as live:
        run()
    return live.peak
