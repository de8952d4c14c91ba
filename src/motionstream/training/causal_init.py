"""Causal initialisation (paper, section 3.2): regression on the teacher's ODE trajectories under block-causal masks.

Every step draws a sink and a window size, and a noise level of its own for every chunk: one of the student's levels or
0. Chunks at 0 are clean context as in streaming; they, and the given picture, are left out of the loss. The regression
target is the end of the teacher's trajectory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from motionstream.conditioning.text import HashedTextEncoder
from motionstream.config import CausalConfig
from motionstream.model.attention import BlockCausal
from motionstream.model.flow import velocity_to_x0
from motionstream.model.motion_model import MotionModel
from motionstream.sampler.bidirectional import Guidance, trajectory
from motionstream.sampler.rollout import rollout
from motionstream.training.clips import ClipPool, PreparedClips
from motionstream.training.distributed import SampleDraws, keyed_generator, shard
from motionstream.training.teacher import decibels, make_conditions, x0_loss

SINKS = (0, 1, 2)
WINDOWS = (1, 2, 3)
CLEAN_PROBABILITY = 0.35
SHARD = 16


@torch.no_grad()
def solve(
    model: MotionModel,
    text: HashedTextEncoder,
    clips: PreparedClips,
    generator: torch.Generator,
    *,
    guided: bool = False,
) -> dict[str, Tensor]:
    """The teacher's trajectories on these clips, kept where the student will be asked.

    ``guided``: under joint guidance by the model's own weights (paper, appendix D), at three times the evaluations.

    Returns ``states`` (B, levels, C, F, h, w), x_t at the schedule's times nearest to the student's levels, those
    ``times`` (levels,), and ``x0`` (B, C, F, h, w).
    """
    settings = model.config.sampler
    conditions = make_conditions(model, text, clips, clips.captions, generator)
    guidance = None
    if guided:
        nothing = clips.without_tracks(torch.ones(len(clips), dtype=torch.bool))
        guidance = Guidance(
            no_text=conditions.with_text(text.encode([""] * len(clips))),
            no_motion=make_conditions(model, text, nothing, clips.captions, generator),
            text=settings.text_guidance,
            motion=settings.motion_guidance,
        )
    noise = settings.temperature * torch.randn(clips.latents.shape, generator=generator)
    path = list(
        trajectory(
            model,
            noise,
            conditions,
            steps=settings.teacher_steps,
            shift=settings.shift,
            first_latent=clips.latents[:, :, :1],
            guidance=guidance,
        )
    )
    kept = [min(path[:-1], key=lambda state: abs(state[0] - level)) for level in settings.student_times]
    return {
        "states": torch.stack([x for _, x, _ in kept], dim=1),
        "times": torch.tensor([t for t, _, _ in kept]),
        "x0": path[-1][1],
    }


class TrajectoryStore:
    """Trajectories and the clips they belong to, in half precision."""

    def __init__(self, shards: list[Path]) -> None:
        if not shards:
            raise ValueError("there are no trajectories; make_trajectories writes them")
        self.captions: list[str] = []
        tensors: dict[str, list[Tensor]] = {}
        for path in shards:
            self.captions += path.with_suffix(".txt").read_text().split("\n")
            for name, value in load_file(path).items():
                tensors.setdefault(name, []).append(value)
        self.times = tensors.pop("times")[0]
        self.tensors = {name: torch.cat(parts) for name, parts in tensors.items()}

    def __len__(self) -> int:
        return len(self.captions)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[PreparedClips, Tensor, Tensor]:
        """Random clips with their states (B, levels, C, F, h, w) and ends x0."""
        return self.take(torch.randint(len(self), (batch,), generator=generator).tolist())

    def take(self, rows: list[int]) -> tuple[PreparedClips, Tensor, Tensor]:
        """These clips with their states (B, levels, C, F, h, w) and ends x0."""
        taken = {name: value[rows] for name, value in self.tensors.items()}
        states, x0 = taken.pop("states").float(), taken.pop("x0").float()
        return PreparedClips(**taken, captions=[self.captions[r] for r in rows]).float(), states, x0


def make_trajectories(
    model: MotionModel,
    text: HashedTextEncoder,
    source: ClipPool,
    folder: Path,
    *,
    count: int,
    seed: int,
    bf16: bool = False,
    guided: bool = False,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Solve ``count`` trajectories into shards in ``folder``, for ``TrajectoryStore``; those already there are kept.

    ``guided``: see ``solve``. Returns the shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.eval()
    shards = []
    for index in range(-(-count // SHARD)):
        path = folder / f"{index:05d}.safetensors"
        shards.append(path)
        if path.exists():
            continue
        parts: list[PreparedClips] = []
        solved: list[dict[str, Tensor]] = []
        draws = -(-SHARD // source.batch)
        for draw in range(index * draws, (index + 1) * draws):  # keyed, so that shards solved later are the same
            generator = keyed_generator("trajectories", seed, draw)
            parts.append(source.at(draw))
            with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
                solved.append(solve(model, text, parts[-1], generator, guided=guided))
        clips = PreparedClips.join(parts).half()
        tensors = {f.name: getattr(clips, f.name) for f in fields(clips) if f.name != "captions"}
        tensors |= {name: torch.cat([s[name] for s in solved]).half() for name in ("states", "x0")}
        tensors["times"] = solved[0]["times"]
        path.with_suffix(".txt").write_text("\n".join(clips.captions))
        temporary = path.with_suffix(".tmp")
        save_file({k: v.contiguous() for k, v in tensors.items()}, temporary)
        temporary.replace(path)
        say(f"trajectories {(index + 1) * SHARD} of {count}")
    return shards


class CausalStage:
    """See the module's docstring. Validation rolls out with the cache, as streaming does."""

    def __init__(
        self,
        module: nn.Module,
        model: MotionModel,
        text: HashedTextEncoder,
        store: TrajectoryStore,
        validation: PreparedClips,
        *,
        batch: int,
        seed: int,
    ) -> None:
        self.module, self.model, self.text, self.store, self.batch = module, model, text, store, batch
        self.rng, self.seed = torch.Generator().manual_seed(seed), seed
        self.validation = validation
        self._last: dict[str, Any] = {}

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        samples = shard(self.batch)
        draws = SampleDraws(self.seed, step, samples)
        rows = draws.randint(len(self.store)).tolist()
        self._last = {"rows": rows, "samples": list(samples)}
        clips, states, x0 = self.store.take(rows)
        conditions = make_conditions(self.model, self.text, clips, clips.captions, draws.generators)
        noisy, t = self._mix_levels(states, x0, draws)
        shared = keyed_generator(self.seed, step)
        sink, window = (c[int(torch.randint(len(c), (), generator=shared))] for c in (SINKS, WINDOWS))
        causal = CausalConfig(self.model.config.causal.chunk_frames, sink, window)
        prediction = velocity_to_x0(noisy, self.model(noisy, t, conditions, BlockCausal(causal)), t)
        counted = t > 0
        counted[:, 0] = False  # the given picture, whatever its noise level
        frames = x0_loss(prediction, x0, noisy, t, conditions).mean(dim=(1, 3, 4))
        # a mean for each sample: over the batch, a sample's weight would depend on what it is batched with
        loss = ((frames * counted).sum(1) / counted.sum(1).clamp(min=1)).mean()
        return loss, {"regression": loss.item()}

    def last_batch(self) -> dict[str, Any]:
        return self._last

    def _mix_levels(self, states: Tensor, x0: Tensor, draws: SampleDraws) -> tuple[Tensor, Tensor]:
        """Independent levels per chunk: noisy latents and t (B, F), with 0 for clean chunks and the given picture."""
        levels, frames = states.shape[1], states.shape[3]
        size = self.model.config.causal.chunk_frames
        chunks = frames // size
        level = draws.randint(levels, chunks)
        clean = draws.rand(chunks) < CLEAN_PROBABILITY
        clean[:, -1] &= ~clean.all(dim=1)  # something must be left to learn from
        level, clean = (x.repeat_interleave(size, dim=1) for x in (level, clean))
        t = torch.where(clean, 0.0, self.store.times[level])
        if self.model.config.image_conditioning == "first_latent":
            t[:, 0] = 0
        index = level[:, None, None, :, None, None].expand(-1, 1, *states.shape[2:])
        noisy = states.gather(1, index)[:, 0]
        return torch.where((t > 0)[:, None, :, None, None], noisy, x0), t

    def validate(self, module: nn.Module) -> dict[str, float]:
        """A rollout against the rendered latents, chunk by chunk, in dB beside the carried mean."""
        clips, size = self.validation, self.model.config.causal.chunk_frames
        conditions = make_conditions(self.model, self.text, clips, clips.captions, torch.Generator().manual_seed(1))
        assert conditions.prior is not None
        made = rollout(
            self.model,
            (conditions.frames(k, k + size) for k in range(0, clips.latents.shape[2], size)),
            times=self.model.config.sampler.student_times,
            seed=0,
            first_latent=clips.latents[:, :, :1],
        )
        whole = torch.cat(list(made), dim=2)
        last = slice(-size - 1, None)
        return {
            "rollout_db": decibels(whole, clips.latents),
            "rollout_last_chunk_db": decibels(whole[:, :, last], clips.latents[:, :, last]),
            "carried_db": decibels(conditions.prior.mean, clips.latents),
            "frozen_db": decibels(clips.latents[:, :, :1].expand_as(clips.latents), clips.latents),
        }
