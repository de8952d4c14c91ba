"""Estimates the memory of training on one GPU before anything is allocated.

Weights, and for trained ones gradients, AdamW's moments and averages, are counted in float32, as the training loop
keeps them. Activations are measured on the meta device (``activations.py``, ``graph_bytes.py``). Assumed are
``OVERHEAD`` and, with FSDP2, that two blocks of a network are gathered at a time. Offloaded parts (``offload_frozen``,
``offload_optimiser``) and the decoder that renders validation clips do not count.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import torch

from motionstream.component_config import TextConfig
from motionstream.conditioning.text import HashedTextEncoder
from motionstream.config import CausalConfig, ModelConfig
from motionstream.memory.activations import Measure, StageKind, step_memory
from motionstream.memory.budget import OVERHEAD, Budget, gib
from motionstream.memory.live_bytes import weights_of
from motionstream.model.motion_model import MotionModel
from motionstream.model.precision import cast_with_islands

LARGEST = {"teacher": (0, 0), "causal": (2, 3), "self-forcing": (1, 1)}
"""The largest sink and window, in chunks, that each stage draws in the paper's setup."""


@dataclass(frozen=True)
class TrainingSetup:
    """A training setup. ``batch``: clips per GPU in one forward (a micro-batch)."""

    config: ModelConfig
    stage: StageKind = "teacher"
    batch: int = 1
    frames: int | None = None
    """Length of the clips in frames, in whole chunks, for the teacher in whole latent frames; None: the model's own."""
    ranks: int = 1
    shard: bool = False
    recompute: bool = False
    bf16: bool = True
    accumulate: int = 1
    trainable: int | None = None
    """Number of trained parameters if not all are."""
    base_dtype: Literal["float32", "bfloat16"] | None = None
    """Precision of the transformer's weights beside which LoRA trains others (``trainable``); None: no LoRA."""
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of Self-Forcing's frozen teacher."""
    offload_frozen: bool = False
    offload_optimiser: bool = False
    memory: tuple[int, int] | None = None
    """The largest sink and window that the stage draws, in chunks; None: those of ``LARGEST``."""

    def __post_init__(self) -> None:
        for name in ("batch", "ranks", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.stage not in ("teacher", "causal", "self-forcing"):
            raise ValueError(f"stage = {self.stage!r}: give teacher, causal or self-forcing")
        frames = self.config.clip_frames if self.frames is None else self.frames
        # the teacher attends to all frames at once, so its clips may have any number of latent frames
        whole = (
            self.config.frames_of(self.latent_frames) if self.stage == "teacher" else self.config.whole_chunks(frames)
        )
        if frames < 1 or whole != frames:
            raise ValueError(f"frames = {frames}: give whole chunks of {self.config.name}, such as its clip_frames")

    @property
    def latent_frames(self) -> int:
        frames = self.config.clip_frames if self.frames is None else self.frames
        return (frames - 1) // self.config.temporal_compression + 1

    @property
    def pattern(self) -> CausalConfig:
        sink, window = LARGEST[self.stage] if self.memory is None else self.memory
        return CausalConfig(self.config.causal.chunk_frames, sink, window)

    @property
    def divided(self) -> int:
        """Number of ranks among which the transformers are sharded."""
        return self.ranks if self.shard else 1


def training_budget(setup: TrainingSetup, *, device: str = "cuda") -> Budget:
    """The memory of one GPU: ``resident`` throughout the run, ``moments`` in addition during a step.

    Args:
        device: "cuda", or "cpu", where attention keeps its scores.
    """
    counts = _counts(_bare(setup.config))
    own, trained = _trained_bytes(counts, setup)
    resident = {
        "weights": own,
        "moments of AdamW": 0 if setup.offload_optimiser else 2 * trained,
        "averaged weights": trained,
        "overhead": OVERHEAD[device],
    }
    if setup.stage == "self-forcing":
        frozen = _frozen_bytes(counts, setup)
        resident |= {"critic": own, "moments of its AdamW": resident["moments of AdamW"], "frozen teacher": frozen}
    networks = 3 if setup.stage == "self-forcing" else 1
    if setup.divided > 1:
        resident["gathered blocks"] = networks * counts["root"] + 4 * counts["block"]  # with their gradients

    measure = Measure(_bare(setup.config), setup.batch, setup.latent_frames, setup.recompute, setup.bf16, device)
    step = step_memory(measure, setup.stage, setup.pattern)
    # gradients replace activations, unless they exist already, from an earlier micro-batch or chunk
    early = setup.accumulate > 1 or setup.stage == "self-forcing"
    moments = {
        "forward and backward": step.peak + trained if early else max(step.peak, step.end + trained),
        "the optimiser's step": trained + (trained if device == "cuda" else 0),  # on CUDA for all parameters at once
        "validating": trained + step.validation,  # the trained weights are kept while the averages replace them
    }
    if setup.ranks > 1 and not setup.shard:
        moments["averaging the gradients"] = 2 * trained
    return Budget(resident, moments)


def training_remedy(setup: TrainingSetup, free: int, *, device: str = "cuda") -> str:
    """A sentence: that a setup fits into ``free`` bytes of a GPU, or the mildest changes with which it does.

    Added one by one in this order, then those that are not needed are removed again: recomputation, fewer clips at a
    time, bfloat16 for the frozen teacher, sharding, more GPUs, AdamW's moments in CPU memory, training a hundredth of
    the parameters (LoRA).
    """

    def peak(chosen: dict[str, Any]) -> int:
        return training_budget(replace(setup, **chosen), device=device).peak

    needed = peak({})
    if needed <= free:
        return f"it fits: {gib(needed)} of {gib(free)}"
    chosen: dict[str, Any] = {}
    for name, value in _ladder(setup):
        if peak(chosen) > free:
            chosen[name] = value
    advice = "nothing here makes it fit: take fewer frames, a smaller size or a smaller model"
    if peak(chosen) <= free:
        for name in reversed(list(chosen)):  # the harshest first
            others = {key: value for key, value in chosen.items() if key != name}
            if peak(others) <= free:
                chosen = others
        advice = f"with {', '.join(_words(setup, chosen))} it needs {gib(peak(chosen))}"
    return f"it needs {gib(needed)} of {gib(free)}; {advice}"


def _ladder(setup: TrainingSetup) -> list[tuple[str, Any]]:
    steps: list[tuple[str, Any]] = []
    if not setup.recompute:
        steps.append(("recompute", True))
    steps += [("batch", setup.batch // 2**n) for n in range(1, setup.batch.bit_length()) if setup.batch // 2**n]
    if setup.stage == "self-forcing" and setup.frozen_dtype == "float32":
        steps.append(("frozen_dtype", "bfloat16"))
    if not setup.shard:
        steps.append(("shard", True))
    steps += [("ranks", ranks) for ranks in (2, 4, 8, 16, 32, 64) if ranks > setup.ranks]
    if not setup.offload_optimiser:
        steps.append(("offload_optimiser", True))
    if setup.trainable is None:
        steps.append(("trainable", sum(_counts(_bare(setup.config))[name] for name in ("transformer", "rest")) // 400))
    return steps


def _words(setup: TrainingSetup, chosen: dict[str, Any]) -> list[str]:
    if chosen.get("ranks") == setup.ranks or (chosen.get("shard") and not {**vars(setup), **chosen}["ranks"] > 1):
        chosen = {name: value for name, value in chosen.items() if name != "shard"}
    said = {
        "recompute": "activation checkpointing (recompute)",
        "batch": f"{chosen.get('batch')} at a time",
        "frozen_dtype": "the teacher in bfloat16 (frozen_dtype)",
        "shard": "sharded transformers (shard)",
        "ranks": f"{chosen.get('ranks')} GPUs",
        "offload_optimiser": "the moments in the computer's memory (offload_optimiser)",
        "trainable": f"{(chosen.get('trainable') or 0) / 1e6:.0f} M parameters trained alone (LoRA)",
    }
    return [said[name] for name in chosen]


# ------------------------------------------------------------------------------------------------- what stays


def _bare(config: ModelConfig) -> ModelConfig:
    """Drop settings that do not affect training, and set float32, so that cached counts are shared."""
    autoencoder = config.autoencoder if config.carry else None
    return replace(config, name="", sizes=(), autoencoder=autoencoder, tiny_decoder=None, dtype="float32")


def _model(config: ModelConfig, layers: int) -> MotionModel:
    with torch.device("meta"):
        return MotionModel(replace(config, transformer=replace(config.transformer, num_layers=layers)))


@lru_cache(maxsize=64)
def _counts(config: ModelConfig) -> dict[str, int]:
    """Float32 bytes of the transformer, of one block, of its parts outside blocks (root) and of all other parts (rest);
    and bytes of transformer and block in bfloat16, except parts that stay in float32."""
    model = _model(config, config.transformer.num_layers)
    transformer, block = weights_of(model.transformer), weights_of(model.transformer.blocks[0])
    text = 0
    if isinstance(config.text, TextConfig):
        with torch.device("meta"):
            text = weights_of(HashedTextEncoder(config.text, config.transformer.text_dim))
    counts = {
        "transformer": transformer,
        "block": block,
        "root": transformer - config.transformer.num_layers * block,
        "rest": weights_of(model) - transformer + text,
    }
    cast_with_islands(model.transformer, torch.bfloat16)
    return counts | {"half": weights_of(model.transformer), "half block": weights_of(model.transformer.blocks[0])}


def _trained_bytes(counts: dict[str, int], setup: TrainingSetup) -> tuple[int, int]:
    """Of one trained network: its weights, and those that are trained. Only the transformer is sharded."""
    transformer = counts["half" if setup.base_dtype == "bfloat16" else "transformer"]
    own = transformer // setup.divided + counts["rest"]
    trained = own if setup.trainable is None else 4 * setup.trainable // setup.divided
    # the few weights that LoRA trains in place are counted twice
    return own + (0 if setup.base_dtype is None else trained), trained


def _frozen_bytes(counts: dict[str, int], setup: TrainingSetup) -> int:
    half = setup.frozen_dtype == "bfloat16"
    transformer, block = (counts["half"], counts["half block"]) if half else (counts["transformer"], counts["block"])
    if setup.offload_frozen:
        blocks = setup.config.transformer.num_layers * block
        transformer = transformer - blocks + (0 if setup.divided > 1 else 2 * block)
    return transformer // setup.divided + counts["rest"]
