"""The Self-Forcing stage: who is trained by what, what is drawn, what is measured, and the command."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from motionstream.checkpoint_files import write_tensors
from motionstream.cli import main
from motionstream.config import CausalConfig
from motionstream.data.procedural import render
from motionstream.data.textures import TextureBank
from motionstream.model.motion_model import MotionModel
from motionstream.pipeline import MotionStreamPipeline
from motionstream.presets import preset
from motionstream.tracks.sampling import TrackMix
from motionstream.training import sources, stages
from motionstream.training.clips.rendered import prepare
from motionstream.training.diffusion.dmd import LOWEST
from motionstream.training.diffusion.flow_matching import decibels, make_conditions
from motionstream.training.diffusion.rollouts import roll_out
from motionstream.training.diffusion.self_forcing import SelfForcingConfig, SelfForcingStage, towards
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.loop.distributed import micro_batch
from motionstream.training.loop.run import Run, TrainConfig
from motionstream.training.recipes import nano as nano_recipes


class Pool:
    """The same clips at every step."""

    def __init__(self, clips):
        self.clips, self.batch = clips, len(clips)

    def at(self, step, samples):
        return self.clips.take(list(samples))


def trainee(config, seed):
    torch.manual_seed(seed)
    made = Trainee(config)
    with torch.no_grad():
        for parameter in (*made.model.transformer.parameters(), made.model.carry_prior.spread.weight):
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def clips():
    recipe = nano_recipes.debug()
    autoencoder = MotionStreamPipeline.from_pretrained("debug", untrained=True).parts.autoencoder
    rendered = render(recipe.data.scene, 2, 5, TextureBank(stages.TRAIN))
    generator = torch.Generator().manual_seed(0)
    return prepare(rendered, MotionModel(recipe.model), autoencoder, TrackMix(drags=0.6), generator)


def make_stage(clips, **settings):
    config = preset("debug")
    student, teacher = trainee(config, 1), trainee(config, 2)
    critic = Trainee(config)
    critic.load_state_dict(teacher.state_dict())
    rollouts = SelfForcingConfig(**({"sinks": (0, 1), "windows": (1, 2)} | settings))
    autoencoder = MotionStreamPipeline.from_pretrained("debug", untrained=True).parts.autoencoder
    return SelfForcingStage(
        student, teacher, critic, Pool(clips), clips, clips, rollouts, seed=0, autoencoder=autoencoder
    )


def trained_parts(network):
    """Names of the parameters with a gradient that is not zero."""
    return {k for k, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def test_each_player_is_trained_by_its_own_loss_alone(clips):
    stage = make_stage(clips, critic_updates=2)
    assert [stage.turn(step) for step in range(6)] == ["opponent", "opponent", "module"] * 2
    patient = make_stage(clips, critic_updates=1, critic_first=4)
    assert [patient.turn(step) for step in range(7)] == ["opponent"] * 5 + ["module", "opponent"]
    for step, player, other in ((0, stage.critic, stage.student), (2, stage.student, stage.critic)):
        loss, numbers = stage.loss(step)
        assert torch.isfinite(loss) and loss.item() > 1e-4
        assert ("dmd" in numbers) == (step == 2) and ("critic" in numbers) == (step == 0)
        loss.backward()
        reached = trained_parts(player)
        assert any("blocks.1.attn1.to_q" in name for name in reached) and any("text.grams" in name for name in reached)
        assert not any("track_head" in name or "carry_prior" in name for name in reached)
        assert not trained_parts(other) and not trained_parts(stage.teacher)
        player.zero_grad()
    assert not any(p.requires_grad for p in stage.teacher.parameters())


def test_what_is_drawn_covers_the_configurations_and_depends_on_the_step(clips):
    stage = make_stage(clips)
    drawn = [stage._draw(step, range(2), clips) for step in range(60)]
    assert {str(d.causal) for d in drawn} == {"c3s0w1", "c3s0w2", "c3s1w1", "c3s1w2"}
    assert {d.exit_step for d in drawn} == {0, 1, 2}
    assert len({tuple(d.seeds) for d in drawn}) == 60
    first = stage.loss(5)[0].item()
    assert stage.loss(11)[0].item() != first and stage.loss(5)[0].item() == first
    assert stage.last_batch()["captions"] == clips.captions


def test_the_drawn_sink_and_window_are_what_the_student_streams_with(clips):
    stage = make_stage(clips)
    drawn = stage._draw(5, range(2), clips)
    with torch.no_grad():
        short, long = (
            stage._generate(clips, replace(drawn, causal=CausalConfig.parse(p))) for p in ("c3s0w1", "c3s1w2")
        )
    torch.testing.assert_close(short[:, :, :6], long[:, :, :6], atol=1e-5, rtol=1e-4)  # two chunks see the same
    assert (short - long)[:, :, 6:].abs().max() > 1e-3


@pytest.mark.parametrize("step", [0, 5])
def test_micro_batches_add_up_to_the_batch(clips, step):
    stage = make_stage(clips)
    player = stage.student if stage.turn(step) == "module" else stage.critic
    whole = stage.loss(step)[0]
    whole.backward()
    expected = {k: p.grad.clone() for k, p in player.named_parameters() if p.grad is not None}
    player.zero_grad()
    parts = []
    for index in range(2):
        with micro_batch(index, 2):
            parts.append(stage.loss(step)[0] / 2)
        parts[-1].backward()
    assert sum(part.item() for part in parts) == pytest.approx(whole.item(), rel=1e-5)
    assert abs(parts[0].item() - parts[1].item()) > 1e-4
    largest = max(gradient.abs().max() for gradient in expected.values())
    for name, parameter in player.named_parameters():
        if name in expected:
            assert (parameter.grad - expected[name]).abs().max() < 1e-4 * largest, name


def test_the_clips_latents_matter_in_the_picture_alone(clips):
    def loss(latents):
        return make_stage(replace(clips, latents=latents)).loss(5)[0].item()

    plain = loss(clips.latents)
    later = torch.cat([clips.latents[:, :, :1], clips.latents[:, :, 1:] + 1], dim=2)
    assert loss(later) == plain
    assert {loss(clips.latents + more) for more in (1, 2, 3)} != {plain}  # by little: this model has learnt nothing


def test_the_scores_see_the_whole_clip_and_only_the_teacher_is_guided(clips, monkeypatch):
    stage = make_stage(clips)
    asked = []

    def watch(name, network):
        forward = network.model.forward

        def spy(noisy, t, conditions, context=None):
            asked.append((name, noisy, t, context))
            return forward(noisy, t, conditions, context)

        monkeypatch.setattr(network.model, "forward", spy)

    for name in ("student", "teacher", "critic"):
        watch(name, getattr(stage, name))
    stage.loss(5)
    scores = [entry for entry in asked if entry[0] != "student"]
    assert [entry[0] for entry in scores] == ["teacher"] * 3 + ["critic"]
    for _, noisy, t, context in scores:
        assert noisy.shape == clips.latents.shape and context is None
        torch.testing.assert_close(noisy[:, :, :1], clips.latents[:, :, :1], atol=0, rtol=0)
        assert (t[:, 0] == 0).all() and (t[:, 1:] == t[:, 1:2]).all() and t[:, 1].min() >= LOWEST
    assert all(entry[3] is not None for entry in asked if entry[0] == "student")
    # guidance is what the teacher adds: without it, teacher and critic are the same network and agree
    gap = stage.loss(5)[1]["score_gap"]
    stage.settings = replace(stage.settings, guided=False)
    assert stage.loss(5)[1]["score_gap"] < 1e-6 < 1e-3 < gap


def test_the_prior_weighs_the_difference(clips, monkeypatch):
    stage = make_stage(clips)
    weighted = stage.loss(5)[0].item()
    monkeypatch.setattr("motionstream.training.diffusion.self_forcing.x0_loss", lambda made, *others: made)
    assert abs(stage.loss(5)[0].item() - weighted) > 1e-3


def test_late_tracks_take_their_content_from_the_rollout_unless_told_otherwise(clips):
    own, prepared = make_stage(clips), make_stage(clips, own_content=False)
    late = clips.events[:, 1:].any(dim=1)
    assert late.any() and prepared.autoencoder is None
    drawn = own._draw(5, range(len(clips)), clips)
    with torch.no_grad():
        off = (own._generate(clips, drawn) - prepared._generate(clips, drawn)).abs().amax(dim=(1, 2, 3, 4))
    assert (off[late] > 1e-2).all() and (off[~late] < 1e-5).all()


def test_regression_alone_needs_neither_teacher_nor_critic(clips, monkeypatch):
    stage = make_stage(clips, score_weight=0, regression_weight=1)
    for network in (stage.teacher, stage.critic):
        monkeypatch.setattr(network.model, "forward", None)
    assert {stage.turn(step) for step in range(12)} == {"module"}
    loss, numbers = stage.loss(5)
    assert set(numbers) == {"exit_step", "regression"} and numbers["regression"] == loss.item() > 0
    loss.backward()
    assert any("blocks.1.attn1.to_q" in name for name in trained_parts(stage.student))
    # it is the distance from the clips' own latents, in the metric of the other stages
    drawn = stage._draw(5, range(len(clips)), clips)
    with torch.no_grad():
        made = stage._generate(clips, drawn)
        stage.pool = Pool(replace(clips, latents=torch.cat([clips.latents[:, :, :1], made[:, :, 1:]], dim=2)))
        assert stage.loss(5)[0].item() == 0


def test_regression_goes_to_the_mean_or_to_what_is_more_often_right():
    """Three clips in five are as carried, at zero; the others are elsewhere, each where it likes."""
    truths = torch.zeros(5, 4, 1, 1, 1)
    truths[3], truths[4] = 3.0, torch.tensor([3.0, -1.0, 2.0, 0.5]).reshape(4, 1, 1, 1)
    found = {}
    for to in ("mean", "median"):
        guess = torch.ones(1, 4, 1, 1, 1, requires_grad=True)
        optimiser = torch.optim.Adam([guess], lr=0.05)
        for _ in range(300):
            optimiser.zero_grad()
            towards((guess - truths) ** 2, to).backward()
            optimiser.step()
        found[to] = guess.detach()
    torch.testing.assert_close(found["mean"], truths.mean(dim=0, keepdim=True), atol=0.01, rtol=0)
    assert found["median"].abs().max() < 0.1


def test_regression_adds_to_distribution_matching(clips):
    matching, both = make_stage(clips), make_stage(clips, regression_weight=0.5)
    loss, numbers = both.loss(5)
    assert numbers["dmd"] == matching.loss(5)[0].item()
    assert loss.item() == pytest.approx(numbers["dmd"] + 0.5 * numbers["regression"])


def test_a_few_updates_bring_the_student_towards_the_teacher(clips):
    """A teacher whose transformer answers nothing is the carried prior itself, a Gaussian. A student moved off begins
    to come back to its mean, the critic learning beside it."""
    stage = make_stage(clips, critic_updates=4, guided=False, own_content=False)
    for network in (stage.student, stage.teacher, stage.critic):
        torch.manual_seed(3)
        network.load_state_dict(Trainee(preset("debug")).state_dict())
    with torch.no_grad():
        stage.student.model.transformer.proj_out.bias.fill_(0.7)

    @torch.no_grad()
    def off():
        """How far the student's mean is from the prior's, in its deviations."""
        drawn = stage._draw(1000, range(2), clips)
        prior = make_conditions(stage.student.model, stage.student.text, clips, stage.rng).prior
        return ((stage._generate(clips, drawn) - prior.mean) / prior.std)[:, :, 1:].mean().item()

    before, critic = off(), []
    players = {
        "module": torch.optim.Adam([p for p in stage.student.parameters() if p.requires_grad], 0.003, (0.0, 0.99)),
        "opponent": torch.optim.Adam([p for p in stage.critic.parameters() if p.requires_grad], 0.003, (0.0, 0.99)),
    }
    for step in range(30):
        optimiser = players[stage.turn(step)]
        optimiser.zero_grad()
        loss, numbers = stage.loss(step)
        loss.backward()
        optimiser.step()
        critic += [numbers["critic"]] if "critic" in numbers else []
    assert before > 0.5 and abs(off()) < 0.9 * before
    assert sum(critic[-4:]) < 0.7 * sum(critic[:4])


def test_validation_stands_beside_the_student_it_began_with(clips, tmp_path):
    config = TrainConfig(steps=2, bf16=True)
    run = Run(make_stage(clips), config, tmp_path)
    before = run.validate()
    assert (
        before["rollout_db"] == before["ode_rollout_db"] and before["long_rollout_db"] == before["ode_long_rollout_db"]
    )
    run.update()
    run._average["model.transformer.proj_out.bias"].add_(0.5)
    after = run.validate()
    assert after["ode_rollout_db"] == before["ode_rollout_db"] and after["rollout_db"] != before["rollout_db"]
    assert after["carried_db"] == before["carried_db"] and "ode_carried_db" not in after
    assert all(p.grad is None for player in run.players.values() for p in player.parameters)  # no room for them
    run.save()
    again = Run(make_stage(clips), config, tmp_path)
    assert again.step == 1 and again.validate() == after


def test_clips_are_validated_one_by_one_as_they_would_be_together(clips):
    stage = make_stage(clips)
    with torch.no_grad():
        figures = stage.validate(stage.module)
        made = roll_out(stage.student, clips, [0, 1], seed=[0, 1], autoencoder=stage.autoencoder)
        prior = make_conditions(stage.student.model, stage.student.text, clips, stage.rng).prior
    assert figures["rollout_db"] == pytest.approx(decibels(made, clips.latents), abs=1e-4)
    assert figures["carried_db"] == pytest.approx(decibels(prior.mean, clips.latents), abs=1e-4)
    assert figures["rollout_drift_db"] == figures["long_rollout_drift_db"] != 0


def test_settings_are_checked(clips):
    with pytest.raises(ValueError, match="critic_updates = 0"):
        SelfForcingConfig(critic_updates=0)
    with pytest.raises(ValueError, match="regression_weight = -1"):
        SelfForcingConfig(regression_weight=-1)
    with pytest.raises(ValueError, match="both 0"):
        SelfForcingConfig(score_weight=0)
    with pytest.raises(ValueError, match="critic_first = -1"):
        SelfForcingConfig(critic_first=-1)
    with pytest.raises(ValueError, match=r"windows = \(\)"):
        SelfForcingConfig(windows=())
    with pytest.raises(ValueError, match="clips of 4 chunks never roll a cache"):
        make_stage(clips, sinks=(2,), windows=(1,))


def test_matching_distributions_without_noise_is_refused(clips, monkeypatch):
    still = replace(preset("debug"), sampler=replace(preset("debug").sampler, temperature=0.0))
    monkeypatch.setitem(globals(), "preset", lambda name: still)
    with pytest.raises(ValueError, match=r"score_weight = 1 at sampler\.temperature = 0 .* a temperature above 0"):
        make_stage(clips)
    make_stage(clips, score_weight=0.0, regression_weight=1.0)


def test_the_command_trains_the_stage_and_export_takes_it(tmp_path, capsys):
    recipe, folder = nano_recipes.debug(), tmp_path / "run"
    folder.mkdir()
    pipeline = MotionStreamPipeline.from_pretrained("debug", untrained=True)
    for stage in ("autoencoder", "decoder"):
        write_tensors(sources.weights_path(folder, stage), pipeline.parts.autoencoder.state_dict())
    write_tensors(sources.weights_path(folder, "mixer"), pipeline.model.pixel_mixer.state_dict())
    train = ["train", "self-forcing", "--recipe", "debug", "--folder", str(folder)]
    assert main(train) == 2 and "train the causal stage first" in capsys.readouterr().err
    for seed, stage in enumerate(("teacher", "causal")):
        write_tensors(sources.weights_path(folder, stage), trainee(recipe.model, seed).state_dict())
    assert main(train) == 0
    lines = [json.loads(line) for line in (folder / "self-forcing" / "log.jsonl").read_text().splitlines()]
    assert [("critic" in line, "dmd" in line) for line in lines if line["kind"] == "train"] == [
        (True, False),
        (False, True),
    ]
    assert lines[-1]["kind"] == "validate" and "ode_long_rollout_drift_db" in lines[-1]
    made = load_file(sources.weights_path(folder, "self-forcing"))
    began = load_file(sources.weights_path(folder, "causal"))
    moved = {name for name, value in made.items() if (value - began[name]).abs().max() > 0}
    assert any("transformer.blocks" in name for name in moved)
    assert not any("track_head" in name or "carry_prior" in name for name in moved)
    target = tmp_path / "model"
    assert main(["train", "export", "--recipe", "debug", "--folder", str(folder), "-o", str(target)]) == 0
    exported = MotionStreamPipeline.from_pretrained(target)
    assert exported.stages == ("teacher", "causal", "self-forcing")
    name = "model.transformer.proj_out.weight"
    torch.testing.assert_close(exported.model.transformer.proj_out.weight, made[name], atol=1e-3, rtol=0)
    assert (made[name] - began[name]).abs().max() > 0
