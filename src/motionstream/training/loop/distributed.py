"""Training on several ranks: process group, distribution of samples, sharding, and blocks that save memory.

Training is data parallel: all ranks run the same steps, each on its own samples. Transformers may be sharded (FSDP2);
all other parameters are few, so each rank keeps them whole, and their gradients are averaged here. Random numbers and
data are keyed by (seed, step, sample of the global batch), so that they depend neither on the number of ranks nor on
gradient accumulation.
"""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from motionstream.model.attention import AttentionContext, Cached
from motionstream.model.kv_cache import RollingKVCache
from motionstream.model.transformer import MotionTransformer

T = TypeVar("T")

PATIENCE = timedelta(hours=12)
"""Timeout of collective operations. A shard of a large teacher's trajectories takes hours, and some ranks compute one
more than others. A failed rank does not cause this wait: torchrun then ends the others."""

# ---------------------------------------------------------------------------------------------- the process group


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def device() -> torch.device:
    """The device this rank trains on: the GPU of its local rank, or the CPU if there is no GPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


@contextmanager
def process_group() -> Iterator[torch.device]:
    """Join the process group if torchrun started several processes, and leave it at the end; yields this rank's device.

    gloo transfers tensors on the CPU, NCCL those on GPUs.
    """
    where = device()
    if where.type == "cuda":
        torch.cuda.set_device(where)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield where
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield where
    finally:
        dist.destroy_process_group()


def agree(decide: Callable[[], T]) -> T:
    """The first rank's result of ``decide``, on every rank; an exception is raised on all."""
    if not dist.is_initialized():
        return decide()
    answer: list[Any] = [None, None]
    if rank() == 0:
        try:
            answer[0] = decide()
        except Exception as error:
            answer[1] = error
    dist.broadcast_object_list(answer, src=0)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def gather(value: T) -> list[T]:
    """All ranks' values in rank order, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def mean_over_ranks(numbers: dict[str, float]) -> dict[str, float]:
    """Mean of each number over the ranks that have it."""
    if world_size() == 1:
        return numbers
    found: dict[str, list[float]] = {}
    for one in gather(numbers):
        for name, value in one.items():
            found.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in found.items()}


# ------------------------------------------------------------------------------- samples and their random numbers


@dataclass
class MicroBatch:
    """The loop's current micro-batch, ``index`` of ``count``, and the samples that this rank took for it."""

    index: int
    count: int
    samples: range | None = None


_micro: ContextVar[MicroBatch | None] = ContextVar("micro", default=None)


@contextmanager
def micro_batch(index: int, count: int) -> Iterator[MicroBatch]:
    """Set the current micro-batch, ``index`` of ``count``, for ``shard``, which notes its samples in it."""
    micro = MicroBatch(index, count)
    token = _micro.set(micro)
    try:
        yield micro
    finally:
        _micro.reset(token)


def shard(batch: int) -> range:
    """The samples of a global batch that this rank takes for the current micro-batch. Losses are means over them.

    Raises ValueError if the batch cannot be divided evenly: parts of different sizes would weight samples differently.
    """
    micro = _micro.get() or MicroBatch(0, 1)
    index, count = micro.index, micro.count
    parts = count * world_size()
    if batch % parts:
        raise ValueError(
            f"a batch of {batch} does not divide by {world_size()} ranks × accumulate {count}: choose a multiple of "
            f"{parts}"
        )
    size = batch // parts
    first = (rank() * count + index) * size
    micro.samples = range(first, first + size)
    return micro.samples


def keyed_generator(*key: int | str) -> torch.Generator:
    """A generator on the CPU that depends on ``key`` alone, such as (seed, step) for values that all samples share."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


class SampleDraws:
    """Random numbers for some samples of a step, from a separate generator for each (``generators``).

    All tensors are (samples, *shape), on the CPU. A different ``purpose`` gives independent numbers for the same step.
    """

    def __init__(self, seed: int, step: int, samples: Iterable[int], purpose: str = "") -> None:
        self.generators = [keyed_generator(seed, step, sample, purpose) for sample in samples]

    def rand(self, *shape: int) -> Tensor:
        """Uniform in [0, 1)."""
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators])

    def randn(self, *shape: int) -> Tensor:
        """Standard normal."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators])

    def randint(self, high: int, *shape: int) -> Tensor:
        """Integers 0 … high − 1."""
        return torch.stack([torch.randint(high, shape, generator=g) for g in self.generators])


# -------------------------------------------------------------------------------------- parameters and gradients


def is_sharded(tensor: Tensor) -> bool:
    """Whether the tensor is divided among the ranks."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, sharing memory; any other tensor itself."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from all ranks if sharded; all must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(value: Tensor, like: Tensor) -> Tensor:
    """``value`` on the device of ``like`` and with its sharding; an already sharded value keeps its own."""
    if is_sharded(value) or not isinstance(like, DTensor):
        return value.to(like.device)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def spread(module: nn.Module, *, shard: bool = False, offload: bool = False) -> None:
    """Broadcast the first rank's weights; with ``shard``, also divide the transformers among the ranks (FSDP2, block by
    block).

    FSDP2's own mixed precision is not used: the float32 master weights are sharded and gathered, autocast works as on
    one rank, and the islands of full precision remain. Modules that are already sharded are not changed. ``offload``:
    the ranks keep their parts of a frozen transformer in CPU memory.
    """
    if world_size() == 1 or any(map(is_sharded, module.parameters())):
        return
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor, src=0)
    if not shard:
        return
    # the transformer's outputs are views, but nothing changes them in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = init_device_mesh(next(module.parameters()).device.type, (world_size(),))
    policy = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if offload else OffloadPolicy()
    for part in [part for part in module.modules() if isinstance(part, MotionTransformer)]:
        for block in part.blocks:
            fully_shard(block, mesh=mesh, offload_policy=policy)
        # by default the outermost module keeps its weights whole after a forward, hiding its parts from the loop
        fully_shard(part, mesh=mesh, offload_policy=policy, reshard_after_forward=True)


@torch.no_grad()
def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Average gradients over the ranks in place, except those of sharded parameters, which FSDP2 averages.

    A missing gradient counts as zero if another rank has one; if none has, it stays None, as in a single process.
    """
    mine = [p for p in parameters if not is_sharded(p)]
    if world_size() == 1 or not mine:
        return
    used = torch.tensor([p.grad is not None for p in mine], dtype=torch.float32, device=mine[0].device)
    dist.all_reduce(used)
    mine = [p for p, count in zip(mine, used.tolist(), strict=True) if count]
    if not mine:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in mine]
    flat = torch.cat([g.flatten().float() for g in gradients])
    dist.all_reduce(flat)
    flat /= world_size()
    for parameter, part in zip(mine, flat.split([p.numel() for p in mine]), strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)


@torch.no_grad()
def clip_gradients(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Scale all gradients in place so that their total norm is at most ``limit``; returns the norm before."""
    found = [p.grad for p in parameters if p.grad is not None]
    parts = [local(g) for g in found if is_sharded(g)]
    norm = nn.utils.get_total_norm([g for g in found if not is_sharded(g)])
    if any(map(is_sharded, parameters)):
        square = nn.utils.get_total_norm(parts).to(parameters[0].device) ** 2
        dist.all_reduce(square)
        norm = (norm.to(square.device) ** 2 + square).sqrt()
    nn.utils.clip_grads_with_norm_([p for p in parameters if p.grad is not None and not is_sharded(p)], limit, norm)
    if parts:
        torch._foreach_mul_(parts, torch.clamp(limit / (norm + 1e-6), max=1.0))
    return norm


# ----------------------------------------------------------------------- blocks: less memory, compiled arithmetic


class _PastOfOneLayer:
    """A copy of one layer of a rolling cache, for ``Cached`` to read, in the precision of attention. A block that is
    recomputed in the backward pass, long after the cache has rolled on, must not see newer chunks."""

    def __init__(self, cache: RollingKVCache, layer: int) -> None:
        keys, values, positions = cache.read(layer)
        kind = keys.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else keys.dtype
        self.current_positions = cache.current_positions
        self._past = keys.to(dtype, copy=True), values.to(dtype, copy=True), positions

    def read(self, layer: int) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        return self._past


def _freeze_past(context: AttentionContext, layer: int) -> AttentionContext:
    if not isinstance(context, Cached):
        return context
    assert not context.write, "the cache is written without gradients"
    past: Any = _PastOfOneLayer(context.cache, layer)
    return Cached(past)


def tune_blocks(
    module: nn.Module, *, recompute: bool = False, compiled: bool = False, backend: str = "inductor"
) -> None:
    """Apply activation checkpointing and ``torch.compile`` to every transformer block in ``module``; parameter names
    do not change.

    Call this once, before ``spread`` and after all copies of the module have been made: a later copy would run the
    original's weights.

    Args:
        recompute: keep only the blocks' inputs for the backward pass, and run the blocks again there.
        compiled: compile forwards on whole clips, separately for each shape. Forwards with the rolling cache stay
            eager, because the cache changes between calls.
        backend: of ``torch.compile``.
    """
    if not (recompute or compiled):
        return
    for part in [part for part in module.modules() if isinstance(part, MotionTransformer)]:
        for block in part.blocks:
            if "forward" not in vars(block):  # tuned already
                block.forward = _tuned(block.forward, recompute=recompute, compiled=compiled, backend=backend)


def _tuned(forward: Callable[..., Tensor], *, recompute: bool, compiled: bool, backend: str) -> Callable[..., Tensor]:
    fast = forward
    if compiled:
        # causal initialisation compiles for each sink and window; beyond the limit, torch falls back to eager
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 32)
        fast = torch.compile(forward, dynamic=False, backend=backend)

    @functools.wraps(forward)
    def run(
        x: Tensor, modulation: Tensor, text: Tensor, image: Tensor | None, layer: int, context: Any, grid: Any
    ) -> Tensor:
        cached = isinstance(context, Cached)
        # contexts of whole clips ignore the layer number: a constant one avoids compiling each layer separately
        chosen, number = (forward, layer) if cached else (fast, 0)
        if not (recompute and torch.is_grad_enabled()):
            return chosen(x, modulation, text, image, number, context, grid)
        context = _freeze_past(context, layer)
        return checkpoint(chosen, x, modulation, text, image, number, context, grid, use_reentrant=False)

    return run
