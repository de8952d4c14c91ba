"""The teacher's ODE trajectories, solved once and kept in shards (paper, section 3.2 and appendix D)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from motionstream.checkpoint_files import write_tensors
from motionstream.sampler.bidirectional import trajectory
from motionstream.training.clips import ClipSource, PreparedClips
from motionstream.training.distributed import gather, keyed_generator, rank, world_size
from motionstream.training.flow_matching import make_conditions, null_conditions
from motionstream.training.trainee import Trainee

SHARD = 16
"""Trajectories of a file."""


@torch.no_grad()
def solve(
    teacher: Trainee, clips: PreparedClips, generator: torch.Generator, *, guided: bool = False
) -> dict[str, Tensor]:
    """The teacher's trajectories on these clips, kept where the student will be asked.

    ``guided``: under joint guidance by the model's own weights (paper, appendix D), at three times the evaluations.

    Returns ``states`` (B, levels, C, F, h, w), x_t at the schedule's times nearest to the student's levels, those
    ``times`` (levels,), and ``x0`` (B, C, F, h, w).
    """
    model, text = teacher.model, teacher.text
    settings = model.config.sampler
    conditions = make_conditions(model, text, clips, generator)
    guidance = null_conditions(model, text, clips, conditions, generator) if guided else None
    noise = settings.temperature * torch.randn(clips.latents.shape, generator=generator).to(clips.latents)
    wanted = settings.student_times
    kept: dict[float, tuple[float, Tensor]] = {}
    end = noise
    for now, x, x0 in trajectory(
        model,
        noise,
        conditions,
        steps=settings.teacher_steps,
        shift=settings.shift,
        first_latent=clips.latents[:, :, :1],
        guidance=guidance,
    ):
        end = x0
        for level in wanted if now > 0 else ():
            if level not in kept or abs(now - level) < abs(kept[level][0] - level):
                kept[level] = now, x
    return {
        "states": torch.stack([kept[level][1] for level in wanted], dim=1),
        "times": torch.tensor([kept[level][0] for level in wanted]),
        "x0": end,
    }


class TrajectoryStore:
    """Trajectories and the clips they belong to, read from their files when they are asked for.

    Raises ValueError for a file that is missing or damaged, naming the remedy.
    """

    def __init__(self, shards: list[Path]) -> None:
        if not shards:
            raise ValueError("there are no trajectories; make_trajectories writes them")
        self.captions: list[str] = []
        self._places: list[tuple[Path, int]] = []
        for path in shards:
            try:
                captions = path.with_suffix(".txt").read_text().split("\n")
                with safe_open(path, "pt") as file:
                    self.times: Tensor = file.get_tensor("times")
                    count = file.get_slice("x0").get_shape()[0]
            except (OSError, SafetensorError) as error:
                raise ValueError(f"{path} is missing or damaged ({error}): {_REMEDY}") from error
            if len(captions) != count:
                raise ValueError(f"{path} has {count} trajectories and {len(captions)} captions: {_REMEDY}")
            self.captions += captions
            self._places += [(path, row) for row in range(count)]

    def __len__(self) -> int:
        return len(self.captions)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[PreparedClips, Tensor, Tensor]:
        """Random clips with their states (B, levels, C, F, h, w) and ends x0."""
        return self.take(torch.randint(len(self), (batch,), generator=generator).tolist())

    def take(self, rows: list[int]) -> tuple[PreparedClips, Tensor, Tensor]:
        """These clips with their states (B, levels, C, F, h, w) and ends x0."""
        parts: list[dict[str, Tensor]] = []
        for path, row in (self._places[index] for index in rows):
            with safe_open(path, "pt") as file:
                parts.append({k: _widened(file.get_slice(k)[row : row + 1]) for k in file.keys() if k != "times"})  # noqa: SIM118
        taken: dict[str, Any] = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        states, x0 = taken.pop("states"), taken.pop("x0")
        return PreparedClips(**taken, captions=[self.captions[r] for r in rows]), states, x0


def _widened(value: Tensor) -> Tensor:
    """Before anything is joined: autocast refuses half precision on the CPU."""
    return value.float() if value.dtype == torch.float16 else value


_REMEDY = "delete it and train the causal stage again, which solves it anew"


def make_trajectories(
    teacher: Trainee,
    source: ClipSource,
    folder: Path,
    *,
    count: int,
    seed: int,
    bf16: bool = False,
    guided: bool = False,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Solve ``count`` trajectories into shards in ``folder``, for ``TrajectoryStore``; those already there are kept.

    Ranks share the shards out, and all wait for the last. ``guided``: see ``solve``. Returns the shards.

    Raises RuntimeError on every rank where one of them failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    teacher.eval()
    shards = [folder / f"{index:05d}.safetensors" for index in range(-(-count // SHARD))]
    failure: Exception | None = None
    try:
        for index in range(rank(), len(shards), world_size()):
            if not shards[index].exists():
                draws = -(-SHARD // source.batch)
                first = index * draws
                last = min(first + draws, -(-count // source.batch))
                _solve_shard(teacher, source, shards[index], range(first, last), seed=seed, bf16=bf16, guided=guided)
                say(f"trajectories {min((index + 1) * SHARD, count)} of {count}")
    except Exception as error:  # the others wait: they must be told
        failure = error
    failed = [reason for reason in gather(None if failure is None else str(failure)) if reason is not None]
    if failure is not None:
        raise failure
    if failed:
        raise RuntimeError(f"another rank could not solve its trajectories: {failed[0]}")
    return shards


def _solve_shard(
    teacher: Trainee, source: ClipSource, path: Path, draws: range, *, seed: int, bf16: bool, guided: bool
) -> None:
    device = teacher.model.device
    parts: list[PreparedClips] = []
    solved: list[dict[str, Tensor]] = []
    for draw in draws:  # keyed, so that shards solved later are the same
        generator = keyed_generator("trajectories", seed, draw)
        parts.append(source.at(draw))
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            made = solve(teacher, parts[-1].to(device), generator, guided=guided)
        solved.append({name: value.cpu() for name, value in made.items()})
    clips = PreparedClips.join(parts).half()
    tensors = clips.tensors() | {name: torch.cat([s[name] for s in solved]).half() for name in ("states", "x0")}
    path.with_suffix(".txt").write_text("\n".join(" ".join(caption.split()) for caption in clips.captions))
    write_tensors(path, tensors | {"times": solved[0]["times"]})
