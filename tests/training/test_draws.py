"""What a step draws: dropouts with their chances, each by itself; noise levels as the paper says; no sample by rank."""

from types import SimpleNamespace

import pytest
import torch

from motionstream.model.flow import shift_time
from motionstream.training.clips.prepared import PreparedClips
from motionstream.training.diffusion import teacher, teacher_forcing
from motionstream.training.diffusion.teacher import TeacherConfig, TeacherStage
from motionstream.training.diffusion.teacher_forcing import TeacherForcingStage
from motionstream.training.loop import distributed
from motionstream.training.loop.distributed import micro_batch

BATCH, STEPS = 64, 100
CHANCES = {"text": 0.1, "motion": 0.25, "image": 0.4}
SETTINGS = TeacherConfig(
    shift=3.0, text_dropout=CHANCES["text"], motion_dropout=CHANCES["motion"], image_dropout=CHANCES["image"]
)
FRAMES = 6


class Pool:
    """Clips whose latents tell their number."""

    batch = BATCH

    def at(self, step, samples):
        count = len(samples)
        return PreparedClips(
            (step * BATCH + torch.tensor(samples, dtype=torch.float))
            .reshape(-1, 1, 1, 1, 1)
            .expand(-1, 1, FRAMES, 1, 1),
            torch.zeros(count, 9, 1, 2),
            torch.ones(count, 9, 1, dtype=torch.bool),
            torch.zeros(count, 1, 2),
            torch.zeros(count, 1, dtype=torch.bool),
            torch.zeros(count, 3, 0, FRAMES, 1, 1),
            torch.zeros(count, 0, FRAMES, 1, 1),
            ["words"] * count,
        )


def make_stage(kind, monkeypatch):
    """A stage without a model, and the list of what its losses are computed from."""
    seen = []

    def make_conditions(model, text, clips, generators, without_image):
        ids = torch.stack([torch.rand((), generator=generator) for generator in generators])
        gone = torch.tensor([caption == "" for caption in clips.captions])
        seen.append({"text": gone, "motion": ~clips.visible.any(dim=(1, 2)), "image": without_image, "ids": ids})
        return SimpleNamespace(prior=None)

    def loss(model, x0, t, noise, *_, without_image, weight):
        assert torch.equal(without_image, seen[-1]["image"])
        seen[-1] |= {"number": x0[:, 0, 0, 0, 0], "t": t, "noise": noise.flatten(1), "weight": weight}
        return torch.zeros(())

    causal = SimpleNamespace(chunk_frames=3)
    config = SimpleNamespace(carry=None, causal=causal)
    model = SimpleNamespace(device=torch.device("cpu"), config=config, carry_prior=None)
    module, name, make = {
        "teacher": (teacher, "evaluate_loss", TeacherStage),
        "forcing": (teacher_forcing, "teacher_forced_loss", TeacherForcingStage),
    }[kind]
    monkeypatch.setattr(module, "make_conditions", make_conditions)
    monkeypatch.setattr(module, name, loss)
    held_out = SimpleNamespace(latents=torch.zeros(1, 1, FRAMES, 1, 1))
    return make(SimpleNamespace(model=model, text=None), Pool(), held_out, SETTINGS, seed=7), seen


def joined(seen):
    return {name: torch.cat([step[name] for step in seen]) for name in seen[0]}


@pytest.mark.parametrize("kind", ["teacher", "forcing"])
def test_text_motion_and_picture_are_dropped_by_chance_and_independently(kind, monkeypatch):
    stage, seen = make_stage(kind, monkeypatch)
    for step in range(STEPS):
        stage.loss(step)
    drawn, count = joined(seen), STEPS * BATCH
    assert torch.equal(drawn["number"], torch.arange(count).float())
    for name, chance in CHANCES.items():
        deviation = (chance * (1 - chance) / count) ** 0.5
        assert drawn[name].float().mean().item() == pytest.approx(chance, abs=4 * deviation), name
    columns = [drawn[name].float() for name in CHANCES] + [drawn["ids"], drawn["t"][:, 0], drawn["noise"][:, 0]]
    correlation = torch.corrcoef(torch.stack(columns)) - torch.eye(len(columns))
    assert correlation.abs().max() < 4 / count**0.5
    # from one sample and one step to the next, too
    for name in CHANCES:
        table = drawn[name].float().reshape(STEPS, BATCH)
        for one, other in ((table[1:], table[:-1]), (table[:, 1:], table[:, :-1])):
            assert torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1].abs() < 4 / count**0.5


@pytest.mark.parametrize("kind", ["teacher", "forcing"])
def test_levels_are_uniform_ones_shifted(kind, monkeypatch):
    stage, seen = make_stage(kind, monkeypatch)
    for step in range(STEPS):
        stage.loss(step)
    t = joined(seen)["t"]
    chunks = t.unflatten(1, (-1, 3))
    assert torch.equal(chunks, chunks[..., :1].expand_as(chunks))
    assert torch.equal(chunks[:, 0], chunks[:, 1]) == (kind == "teacher")
    # undone by t = t' / (k − (k − 1) t'), they are uniform
    uniform = (t[:, 0] / (3 - 2 * t[:, 0])).sort().values
    assert (uniform - torch.linspace(0, 1, len(uniform))).abs().max() < 0.025  # Kolmogorov and Smirnov at 0.1 %
    assert t.min() >= 0.02 and t.max() <= 1


@pytest.mark.parametrize("kind", ["teacher", "forcing"])
def test_no_sample_depends_on_its_rank_or_micro_batch(kind, monkeypatch):
    stage, seen = make_stage(kind, monkeypatch)
    stage.loss(3)
    alone = joined(seen)
    seen.clear()
    monkeypatch.setattr(distributed, "world_size", lambda: 4)
    for rank in range(4):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        for index in range(2):
            with micro_batch(index, 2):
                stage.loss(3)
    assert len(seen) == 8 and len(seen[0]["t"]) == BATCH // 8
    for name, value in joined(seen).items():
        assert torch.equal(value, alone[name]), name


def test_the_shift_is_the_papers():
    t = torch.linspace(0, 1, 101)
    for k in (1.0, 3.0, 6.0):
        torch.testing.assert_close(shift_time(t, k), k * t / (1 + (k - 1) * t), atol=0, rtol=0)
    assert torch.equal(shift_time(t, 1.0), t)
    assert shift_time(torch.tensor(0.5), 6.0).item() == pytest.approx(6 / 7)


def test_the_bell_is_one_on_average_most_in_the_middle_and_nothing_at_the_ends():
    t = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    weight = TeacherConfig(weighting="bell").weight(t)
    assert weight.mean().item() == pytest.approx(1, abs=1e-6)
    assert weight.argmax().item() in (49_999, 50_000) and weight.min() >= 0
    ends = TeacherConfig(weighting="bell").weight(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert ends.abs().max() < 1e-12
    assert torch.equal(TeacherConfig().weight(t), torch.ones_like(t))
