"""The teacher's ODE trajectories, solved once and stored in shards (paper, section 3.2 and appendix D)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from motionstream.checkpoint_files import write_tensors
from motionstream.sampler.bidirectional import trajectory
from motionstream.training.clips.prepared import ClipSource, PreparedClips
from motionstream.training.diffusion.flow_matching import make_conditions, null_conditions
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.loop.distributed import agree, gather, keyed_generator, rank, world_size

SHARD = 16
"""Trajectories per file."""
TOGETHER = 4
"""Trajectories solved at a time: a training batch, normally divided among ranks and micro-batches, may not fit."""
MADE_BY = "made_by"
"""Key in a shard's header for the fingerprint of the teacher and settings that made it."""


@torch.no_grad()
def solve(
    teacher: Trainee, clips: PreparedClips, generators: list[torch.Generator], *, guided: bool = False
) -> dict[str, Tensor]:
    """Solve the teacher's trajectories on these clips and keep the states at the student's noise levels.

    ``generators``: one per clip. ``guided``: joint guidance with the model's own weights (paper, appendix D), at three
    times the evaluations.

    Returns ``states`` (B, levels, C, F, h, w), x_t at the schedule's times nearest to the student's levels; these
    ``times`` (levels,); and ``x0`` (B, C, F, h, w).
    """
    model, text = teacher.model, teacher.text
    settings = model.config.sampler
    conditions = make_conditions(model, text, clips, generators)
    guidance = null_conditions(model, text, clips, conditions, generators) if guided else None
    drawn = torch.stack([torch.randn(clips.latents.shape[1:], generator=generator) for generator in generators])
    noise = settings.temperature * drawn.to(clips.latents)
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
    """Trajectories and their clips, read from files on demand.

    Raises ValueError, with the remedy, for a missing or damaged file.
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

    def take(self, rows: list[int]) -> tuple[PreparedClips, Tensor, Tensor]:
        """These clips with their states (B, levels, C, F, h, w) and x0."""
        parts: list[dict[str, Tensor]] = []
        for path, row in (self._places[index] for index in rows):
            with safe_open(path, "pt") as file:
                parts.append({k: _widened(file.get_slice(k)[row : row + 1]) for k in file.keys() if k != "times"})  # noqa: SIM118
        taken: dict[str, Any] = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        states, x0 = taken.pop("states"), taken.pop("x0")
        if unknown := taken.keys() - {field.name for field in fields(PreparedClips)}:
            path = self._places[rows[0]][0]
            raise ValueError(f"{path} is of another version ({', '.join(sorted(unknown))}): {_REMEDY}")
        return PreparedClips(**taken, captions=[self.captions[r] for r in rows]), states, x0


def _widened(value: Tensor) -> Tensor:
    """Convert half precision to float32, since autocast does not support it on the CPU."""
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
    """Solve ``count`` trajectories into shards in ``folder``, for ``TrajectoryStore``; existing shards are kept.

    Trajectory n is of clip n of the source, sample by sample. Shards are divided among the ranks, which all wait for
    the last. ``guided``: see ``solve``. Returns the shards.

    Raises ValueError if existing shards are of another teacher, other settings or other clips; RuntimeError on every
    rank if another rank failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    teacher.eval()
    shards = [folder / f"{index:05d}.safetensors" for index in range(-(-count // SHARD))]
    made_by = agree(lambda: _fingerprint(teacher, seed=seed, bf16=bf16, guided=guided))
    agree(lambda: _check_shards(shards, made_by, source))
    failure: Exception | None = None
    try:
        for index in range(rank(), len(shards), world_size()):
            numbers = range(index * SHARD, min((index + 1) * SHARD, count))
            if _count(shards[index]) != len(numbers):
                tensors, captions = _solve_shard(teacher, source, numbers, seed=seed, bf16=bf16, guided=guided)
                shards[index].unlink(missing_ok=True)  # or a crash would leave it with the new one's captions
                shards[index].with_suffix(".txt").write_text("\n".join(captions))
                write_tensors(shards[index], tensors, {MADE_BY: made_by})
                say(f"trajectories {numbers.stop} of {count}")
    except Exception as error:  # the other ranks are waiting and must learn of it
        failure = error
    failed = [reason for reason in gather(None if failure is None else str(failure)) if reason is not None]
    if failure is not None:
        raise failure
    if failed:
        raise RuntimeError(f"another rank could not solve its trajectories: {failed[0]}")
    return shards


def _fingerprint(teacher: Trainee, *, seed: int, bf16: bool, guided: bool) -> str:
    """A hash of all that a trajectory depends on besides its clip: the teacher's weights and the solver's settings."""
    sampler = teacher.model.config.sampler
    settings = [sampler.teacher_steps, sampler.shift, sampler.temperature, sampler.student_times, seed, bf16]
    if guided:
        settings += [sampler.text_guidance, sampler.motion_guidance, sampler.negative_prompt]
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    for name, value in teacher.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _check_shards(shards: list[Path], made_by: str, source: ClipSource) -> None:
    """Raise ValueError if existing shards were made by another teacher, with other settings or from other clips."""
    there = [path for path in shards if path.exists()]
    for path in there:
        with _opened(path) as file:
            if (file.metadata() or {}).get(MADE_BY) != made_by:
                raise ValueError(_not_ours(path, "another teacher's, or were solved under other settings"))
    if there:
        clips, _, _ = TrajectoryStore(there[:1]).take([0])
        step, sample = divmod(shards.index(there[0]) * SHARD, source.batch)
        expected = source.at(step, range(sample, sample + 1))
        same = clips.captions == [" ".join(caption.split()) for caption in expected.captions]
        for name in ("latents", "positions") if same else ():
            one, other = clips.tensors()[name], expected.tensors()[name]
            # rounding may differ between machines
            same &= one.shape == other.shape and torch.allclose(one, other, atol=0.02, rtol=0.01, equal_nan=True)
        if not same:
            raise ValueError(_not_ours(there[0], "of other clips"))


def _not_ours(path: Path, what: str) -> str:
    return (
        f"the trajectories in {path.parent} are {what}: delete that folder to solve them anew, and the folders of the "
        "stages that were trained on them (causal, self-forcing), or train into another folder"
    )


def _opened(path: Path) -> Any:
    """Open a shard. Raises ValueError if it is missing or damaged."""
    try:
        return safe_open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}): {_REMEDY}") from error


def _count(path: Path) -> int:
    """Number of trajectories in a shard, 0 if it does not exist."""
    if not path.exists():
        return 0
    with _opened(path) as file:
        return int(file.get_slice("x0").get_shape()[0])


def _solve_shard(
    teacher: Trainee, source: ClipSource, numbers: range, *, seed: int, bf16: bool, guided: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """The trajectories with these numbers, in ``TrajectoryStore``'s format, and their captions, one line each."""
    device = teacher.model.device
    parts: list[PreparedClips] = []
    solved: list[dict[str, Tensor]] = []
    for some, clips in _clips(source, numbers):
        generators = [keyed_generator("trajectories", seed, number) for number in some]
        parts.append(clips)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            made = solve(teacher, clips.to(device), generators, guided=guided)
        solved.append({name: value.cpu() for name, value in made.items()})
    whole = PreparedClips.join(parts).half()
    tensors = whole.tensors() | {name: torch.cat([s[name] for s in solved]).half() for name in ("states", "x0")}
    return tensors | {"times": solved[0]["times"]}, [" ".join(caption.split()) for caption in whole.captions]


def _clips(source: ClipSource, numbers: range) -> Iterator[tuple[range, PreparedClips]]:
    """The source's clips with these numbers in order, ``TOGETHER`` at a time."""
    first = numbers.start
    while first < numbers.stop:
        step, sample = divmod(first, source.batch)
        last = min(numbers.stop, (step + 1) * source.batch)
        clips = source.at(step, range(sample, sample + last - first))  # in one call, so that workers prepare the next
        for begin in range(first, last, TOGETHER):
            some = range(begin, min(begin + TOGETHER, last))
            yield some, clips.take([number - first for number in some])
        first = last
