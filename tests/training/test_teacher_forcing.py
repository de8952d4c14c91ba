"""The teacher-forced stage: what its loss counts, what learns from it, and that draws depend on the step alone."""

from dataclasses import replace

import pytest
import torch

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.config import CausalConfig
from motionstream.data.procedural import render
from motionstream.data.textures import TextureBank
from motionstream.model.attention import TeacherForced
from motionstream.model.flow import add_noise
from motionstream.model.motion_model import Conditions
from motionstream.presets import preset
from motionstream.tracks.sampling import TrackMix
from motionstream.training.clips.prepared import PreparedClips
from motionstream.training.clips.rendered import prepare
from motionstream.training.diffusion import teacher_forcing
from motionstream.training.diffusion.flow_matching import decibels, evaluate_loss, make_conditions
from motionstream.training.diffusion.teacher import TeacherConfig, TeacherStage
from motionstream.training.diffusion.teacher_forcing import TeacherForcingStage, teacher_forced_loss, twice
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.loop.run import Run
from motionstream.training.loop.stage import TrainConfig
from motionstream.training.recipes import nano as nano_recipes

CLIPS = 4


class Fixed:
    """A source that knows no other clips."""

    def __init__(self, clips: PreparedClips) -> None:
        self.clips, self.batch = clips, len(clips)

    def at(self, step, samples=None):
        samples = range(self.batch) if samples is None else samples
        part = slice(samples.start, samples.stop)
        tensors = {name: value[part] for name, value in self.clips.tensors().items()}
        return PreparedClips(**tensors, captions=self.clips.captions[part])


def make_trainee(noise=0.0) -> Trainee:
    torch.manual_seed(0)
    trainee = Trainee(preset("debug"))
    with torch.no_grad():
        for parameter in trainee.parameters():
            parameter.add_(noise * torch.randn(parameter.shape))
    return trainee


@pytest.fixture(scope="module")
def clips() -> PreparedClips:
    recipe = nano_recipes.debug()
    rendered = render(recipe.data.scene, CLIPS, 1, TextureBank(()))
    autoencoder = LinearAutoencoder(recipe.model.autoencoder)
    mix = TrackMix(dense=1.0, random=0.0, drags=0.0)
    return prepare(rendered, make_trainee().model, autoencoder, mix, torch.Generator().manual_seed(0))


def make_stage(clips, noise=0.0, settings=None, seed=0) -> TeacherForcingStage:
    return TeacherForcingStage(make_trainee(noise), Fixed(clips), clips, settings, seed=seed)


def drawn(clips, seed=0):
    """Levels by chunk and noise."""
    generator = torch.Generator().manual_seed(seed)
    t = (0.1 + 0.9 * torch.rand(len(clips), 4, generator=generator)).repeat_interleave(3, dim=1)
    return t, torch.randn(clips.latents.shape, generator=generator)


def test_it_learns(clips, tmp_path):
    stage = make_stage(clips, noise=0.02, settings=TeacherConfig(shift=3.0, text_dropout=0, motion_dropout=0))
    run = Run(stage, TrainConfig(steps=40, lr=3e-3, warmup=1, ema=0.5), tmp_path)
    before = run.validate()
    for _ in range(40):
        run.update()
    after = run.validate()
    assert after["loss"] < 0.9 * before["loss"]
    assert after["rollout_db"] > before["rollout_db"]
    assert {"rollout_db", "rollout_drift_db", "carried_db"} < set(after)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["teacher", "forcing"])
def test_validation_takes_one_clip_at_a_time_and_finds_what_all_at_once_do(kind, clips, monkeypatch):
    stage = make_stage(clips, noise=0.02)
    if kind == "teacher":
        stage = TeacherStage(stage.trainee, stage.pool, clips, seed=0)
    model, taken, forward = stage.model, set(), stage.model.forward

    def watched(noisy, *given):
        taken.add(len(noisy))
        return forward(noisy, *given)

    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", watched)
        found = stage.validate(stage.module)
    assert taken == ({1} if kind == "teacher" else {1, 2})  # each clip is there clean and noisy
    generator = torch.Generator().manual_seed(1)
    if kind == "teacher":
        t, name = torch.linspace(0.1, 1, CLIPS)[:, None].expand(-1, 12), "loss_tracks"
    else:
        t, name = stage._levels(torch.rand(CLIPS, 4, generator=generator)), "loss"
    noise = torch.randn(clips.latents.shape, generator=generator)
    conditions = make_conditions(model, stage.text, clips, generator)
    if kind == "teacher":
        loss = evaluate_loss(model, clips.latents, t, noise, conditions)
    else:
        loss = teacher_forced_loss(model, clips.latents, t, noise, conditions, model.config.causal)
    assert found[name] == pytest.approx(loss.item(), rel=1e-5)
    assert found["carried_db"] == pytest.approx(decibels(conditions.prior.mean, clips.latents), abs=1e-4)


class Knowing:
    """A model that answers the given velocity, but for one frame of one clip."""

    config = preset("wan2.2-debug")

    def __init__(self, velocity, clip, frame):
        self.velocity, self.clip, self.frame, self.asked = velocity, clip, frame, None

    def __call__(self, noisy, t, conditions, context):
        self.asked = noisy, t, conditions, context
        velocity = torch.cat([torch.zeros_like(self.velocity), self.velocity])
        velocity[self.clip, :, self.frame] += 3
        return velocity


def test_the_loss_is_the_noisy_clips_alone_and_not_their_picture():
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 2, 5, 6, 4, 4, generator=generator)
    t = torch.tensor([[0.3] * 3 + [0.8] * 3, [0.5] * 3 + [0.9] * 3])
    conditions = Conditions(torch.randn(2, 3, 4, generator=generator), torch.randn(2, 7, 6, 4, 4, generator=generator))
    causal = CausalConfig.parse("c3s1w1")

    def loss(clip, frame, **more):
        model = Knowing(noise - x0, clip, frame)
        return teacher_forced_loss(model, x0, t, noise, conditions, causal, **more).item(), model.asked

    for clip in range(2):
        assert loss(clip, 4)[0] < 1e-9, "a clean clip"
        assert loss(2 + clip, 0)[0] < 1e-9, "the picture"
        # 3² in one of the five frames that count, in one of two clips
        assert loss(2 + clip, 4)[0] == pytest.approx(9 / 5 / 2, rel=1e-4)
    assert loss(2, 4, weight=torch.full_like(t, 0.5))[0] == pytest.approx(9 / 5 / 4, rel=1e-4)
    gone = torch.tensor([True, False])
    value, (noisy, times, told, context) = loss(2, 0, without_image=gone)
    assert value == pytest.approx(9 / 6 / 2, rel=1e-4)  # no picture: its frame counts
    assert isinstance(context, TeacherForced) and context.causal == causal
    assert times[:2].abs().max() == 0
    torch.testing.assert_close(noisy[:2], x0, atol=0, rtol=0)
    torch.testing.assert_close(noisy[2:, :, 1:], add_noise(x0, noise, t)[:, :, 1:])
    assert times[2, 0] == pytest.approx(0.3) and times[3, 0] == 0
    for part in (told.text, told.channels):
        torch.testing.assert_close(part[:2], part[2:], atol=0, rtol=0)


@pytest.mark.parametrize(("pattern", "seen"), [("c3s1w1", [0, 2]), ("c3s0w2", [1, 2])])
def test_the_clean_pass_learns_from_the_noisy_chunks(clips, pattern, seen):
    """The last chunk's loss reaches the keys of the clean chunks that it sees, and of them alone."""
    trainee, (t, noise) = make_trainee(0.1), drawn(clips)
    conditions = make_conditions(trainee.model, trainee.text, clips, torch.Generator().manual_seed(0))
    both = torch.cat([clips.latents, add_noise(clips.latents, noise, t)]).requires_grad_()
    context, keys = TeacherForced(CausalConfig.parse(pattern)), []
    attend = context.attend

    def listen(layer, query, key, value, grid):
        key.retain_grad()
        keys.append(key)
        return attend(layer, query, key, value, grid)

    context.attend = listen
    velocity = trainee.model(both, torch.cat([torch.zeros_like(t), t]), twice(conditions), context)
    velocity[len(clips) :, :, 9:].square().sum().backward()

    def reached(gradient, dim):
        """Chunks of the clean clips, then of the noisy ones, that a gradient arrives at."""
        chunks = [half.chunk(4, dim=dim) for half in gradient.chunk(2)]
        return [[n for n, chunk in enumerate(half) if chunk.abs().max() > 0] for half in chunks]

    assert reached(keys[-1].grad, 1) == [seen, [3]]
    clean, noisy = reached(both.grad, 2)
    assert set(seen) < set(clean) and 3 not in clean and noisy == [3]  # through two layers, what those have seen


def test_the_prior_stays_and_all_else_learns(clips):
    stage = make_stage(clips, noise=0.05)
    stage.loss(0)[0].backward()
    without = {name for name, p in stage.module.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    frozen = (".carry_prior.", ".pixel_mixer.")
    assert without == {name for name, _ in stage.module.named_parameters() if any(part in name for part in frozen)}


def test_draws_depend_on_the_step_alone(clips, monkeypatch):
    asked = []
    real = teacher_forcing.teacher_forced_loss

    def listen(model, x0, t, noise, conditions, causal, **more):
        asked.append((t, noise, causal, conditions.text))
        return real(model, x0, t, noise, conditions, causal, **more)

    monkeypatch.setattr(teacher_forcing, "teacher_forced_loss", listen)
    first, second = make_stage(clips), make_stage(clips)
    losses = [first.loss(step)[0].item() for step in range(12)]
    assert second.loss(7)[0].item() == losses[7] and first.loss(3)[0].item() == losses[3]
    assert make_stage(clips, seed=1).loss(3)[0].item() != losses[3]
    patterns = {str(causal) for _, _, causal, _ in asked[:12]}
    assert len(patterns) > 4
    for t, _, causal, _ in asked[:12]:
        chunks = t.unflatten(1, (-1, causal.chunk_frames))
        assert (chunks == chunks[:, :, :1]).all() and len(chunks[:, :, 0].unique()) > 12, "a level for each chunk"
        assert t.min() >= 0.02 and t.max() <= 1


def test_resuming_and_accumulating_change_nothing(clips, tmp_path):
    config = TrainConfig(steps=6, lr=1e-3, warmup=1)
    settings = TeacherConfig(shift=3.0, text_dropout=0.5, motion_dropout=0.5)
    straight = Run(make_stage(clips, 0.02, settings), config, tmp_path / "straight")
    losses = [straight.update()["loss"] for _ in range(6)]
    cut = Run(make_stage(clips, 0.02, settings), config, tmp_path / "cut")
    for _ in range(3):
        cut.update()
    cut.save()
    resumed = Run(make_stage(clips, 0.5, settings), config, tmp_path / "cut")
    assert [resumed.update()["loss"] for _ in range(3)] == losses[3:]
    torch.testing.assert_close(resumed.average, straight.average, atol=0, rtol=0)

    parts = Run(make_stage(clips, 0.02, settings), replace(config, accumulate=2), tmp_path / "parts")
    assert [parts.update()["loss"] for _ in range(6)] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(parts.average, straight.average, atol=1e-4, rtol=1e-3)


def test_what_cannot_be_trained_is_refused(clips):
    with pytest.raises(ValueError, match=r"image_dropout = 0\.1: debug carries the picture's content"):
        make_stage(clips, settings=TeacherConfig(image_dropout=0.1))
    short = {k: v[:, :, :11] if k == "latents" else v for k, v in clips.tensors().items()}
    with pytest.raises(ValueError, match="11 latent frames do not divide into chunks of 3: choose a multiple"):
        make_stage(PreparedClips(**short, captions=clips.captions))
