"""The teacher's trajectories on disk: as many as were asked for at any batch, and never those of another teacher."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from motionstream.config import ModelConfig
from motionstream.training.clips.prepared import PreparedClips
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.diffusion.trajectories import SHARD, TOGETHER, TrajectoryStore, make_trajectories
from motionstream.training.recipes import nano as nano_recipes

said: list[str] = []


class Numbered:
    """Clips without tracks whose captions are their numbers in the run."""

    def __init__(self, config: ModelConfig, batch: int, seed: int = 0) -> None:
        self.config, self.batch, self.seed = config, batch, seed

    def at(self, step, samples=None):
        samples = range(self.batch) if samples is None else samples
        assert 0 <= samples.start < samples.stop <= self.batch
        return PreparedClips.join([self._clip(step * self.batch + sample) for sample in samples])

    def _clip(self, number):
        generator = torch.Generator().manual_seed(self.seed + number)
        latents = torch.randn(1, self.config.latent_channels, 3, 4, 4, generator=generator)
        return PreparedClips(
            latents,
            torch.full((1, 9, 2, 2), torch.nan),
            torch.zeros(1, 9, 2, dtype=torch.bool),
            torch.zeros(1, 2, 2),
            torch.zeros(1, 1, dtype=torch.bool),
            latents[:, None].expand(-1, 3, -1, -1, -1, -1),
            torch.zeros(1, 8, 3, 4, 4),
            [f"clip  {number}"],
            picture=torch.zeros(1, 3, 32, 32),
        )


@pytest.fixture
def teacher():
    model = nano_recipes.debug().model
    torch.manual_seed(0)
    trainee = Trainee(replace(model, sampler=replace(model.sampler, teacher_steps=3)))
    with torch.no_grad():
        trainee.model.transformer.proj_out.weight.normal_(std=0.2)
    return trainee


def make(teacher, folder, count, *, batch=2, clips=0, **settings):
    said.clear()
    source = Numbered(teacher.model.config, batch, clips)
    return make_trajectories(teacher, source, folder, count=count, say=said.append, **{"seed": 0} | settings)


@pytest.mark.parametrize("batch", [2, 3, 40])
def test_there_are_as_many_as_asked_for_whatever_the_batch(teacher, tmp_path, monkeypatch, batch):
    together = []
    forward = type(teacher.model).forward
    monkeypatch.setattr(
        type(teacher.model),
        "forward",
        lambda self, noisy, *rest, **more: (together.append(len(noisy)), forward(self, noisy, *rest, **more))[1],
    )
    shards = make(teacher, tmp_path, SHARD + 5, batch=batch)
    assert max(together) <= TOGETHER  # a batch of the training would not fit where it is divided among ranks
    store = TrajectoryStore(shards)
    assert store.captions == [f"clip {number}" for number in range(SHARD + 5)]
    clips, states, x0 = store.take([0, SHARD, SHARD + 4])
    expected = [Numbered(teacher.model.config, 1)._clip(number).latents.half() for number in (0, SHARD, SHARD + 4)]
    assert torch.equal(clips.latents, torch.cat(expected).float())
    assert (states[0] - states[1]).abs().max() > 0.1 and (x0[1] - x0[2])[:, 1:].abs().max() > 0.1


def test_the_same_again_solves_nothing_and_more_solves_what_is_missing(teacher, tmp_path):
    first = make(teacher, tmp_path, SHARD + 2)
    before = [path.stat().st_mtime_ns for path in first]
    assert make(teacher, tmp_path, SHARD + 2) == first and said == []
    assert [path.stat().st_mtime_ns for path in first] == before
    more = make(teacher, tmp_path, SHARD + 5)
    assert said == [f"trajectories {SHARD + 5} of {SHARD + 5}"] and len(TrajectoryStore(more)) == SHARD + 5
    first[0].unlink()
    make(teacher, tmp_path, SHARD + 5)
    straight = make(teacher, tmp_path / "straight", SHARD + 5)
    for one, other in zip(more, straight, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_those_of_another_teacher_settings_or_clips_are_refused(teacher, tmp_path):
    shards = make(teacher, tmp_path, 4)
    written = shards[0].read_bytes()
    words = r"delete that folder to solve them anew, and the folders of .*\(causal, self-forcing\)"
    for changes in ({"seed": 1}, {"bf16": True}, {"guided": True}):
        with pytest.raises(ValueError, match=f"another teacher's, or were solved under other settings: {words}"):
            make(teacher, tmp_path, 4, **changes)
    with pytest.raises(ValueError, match=f"of other clips: {words}"):
        make(teacher, tmp_path, 4, clips=100)
    with torch.no_grad():
        next(teacher.model.track_head.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match=f"another teacher's, or .*: {words}"):
        make(teacher, tmp_path, 4)
    assert shards[0].read_bytes() == written
    shards[0].unlink()
    make(teacher, tmp_path, 4)
    assert shards[0].read_bytes() != written


def test_what_damages_a_shard_is_said_with_the_remedy(teacher, tmp_path):
    shards = make(teacher, tmp_path, 4)
    with safe_open(shards[0], "pt") as file:
        assert len(file.metadata()["made_by"]) == 32
        older = {name: file.get_tensor(name) for name in file.keys()} | {"birth": torch.zeros(4, 2)}  # noqa: SIM118
    save_file(older, tmp_path / "older.safetensors")
    (tmp_path / "older.txt").write_text(shards[0].with_suffix(".txt").read_text())
    with pytest.raises(ValueError, match=r"older\.safetensors is of another version \(birth\): delete it and train"):
        TrajectoryStore([tmp_path / "older.safetensors"]).take([0])
    shards[0].write_bytes(shards[0].read_bytes()[:200])
    with pytest.raises(ValueError, match=r"00000\.safetensors is missing or damaged .*: delete it and train"):
        make(teacher, tmp_path, 4)
