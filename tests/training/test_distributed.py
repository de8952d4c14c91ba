"""Two processes train what one trains; sharding, recomputation and compilation change nothing but where things are."""

import multiprocessing
import os
import resource
import socket
import traceback
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from torch import nn

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.autoencoder.tiny import TinyAutoencoder
from motionstream.carry.outliner import Outliner
from motionstream.carry.pixel_mixer import PixelMixer
from motionstream.component_config import LinearAutoencoderConfig
from motionstream.config import CausalConfig
from motionstream.data.procedural import render
from motionstream.data.textures import TextureBank
from motionstream.model.attention import BlockCausal
from motionstream.model.motion_model import MotionModel
from motionstream.presets import preset
from motionstream.sampler.rollout import Rollout
from motionstream.training import sources, stages
from motionstream.training.clips.rendered import ClipPool
from motionstream.training.clips.videos import rendered_clips
from motionstream.training.diffusion.causal_init import CausalStage
from motionstream.training.diffusion.flow_matching import make_conditions
from motionstream.training.diffusion.lora import LoraSettings, add_lora
from motionstream.training.diffusion.self_forcing import SelfForcingConfig, SelfForcingStage
from motionstream.training.diffusion.teacher import TeacherStage
from motionstream.training.diffusion.teacher_forcing import TeacherForcingStage
from motionstream.training.diffusion.trajectories import TrajectoryStore, make_trajectories
from motionstream.training.loop import distributed
from motionstream.training.loop.checkpoint import Checkpoints
from motionstream.training.loop.run import Run, TrainConfig, train
from motionstream.training.loop.stage import Stage
from motionstream.training.parts.autoencoder import DecoderStage, GeneratedDecoderStage
from motionstream.training.parts.looking import LookStage
from motionstream.training.parts.mixer import MixerStage
from motionstream.training.parts.outlining import OutlineStage
from motionstream.training.parts.tiny_autoencoder import TinyDecoderStage, TinyTraining
from motionstream.training.recipes import nano as nano_recipes
from motionstream.training.recipes import recipe as recipes

fork = multiprocessing.get_context("fork")
RECIPE = nano_recipes.debug()
BATCH = 4
CONFIG = TrainConfig(steps=3, lr=1e-3, warmup=1, log_every=1, checkpoint_every=10, validate_every=3)


def quiet(text):
    pass


def _process(answers, rank, ranks, port, work, arguments):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    try:
        with distributed.process_group():
            torch.save((work(*arguments), None), answers / f"{rank}")
    except BaseException:
        torch.save((None, traceback.format_exc()), answers / f"{rank}")


def together(work, *arguments, ranks=2):
    """What ``work`` answers on every rank, in a process each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with TemporaryDirectory() as folder:
        answers = Path(folder)
        processes = [
            fork.Process(target=_process, args=(answers, r, ranks, port, work, arguments), daemon=True)
            for r in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            process.kill()  # a rank that waits for one that failed
        found = [torch.load(path, weights_only=False) for path in sorted(answers.iterdir())]
    errors = [error for _, error in found if error is not None]
    assert not errors and len(found) == ranks, "\n".join(errors)
    return [answer for answer, _ in found]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The autoencoder's weights, held-out clips and the teacher's trajectories, for stages to be made of."""
    folder = tmp_path_factory.mktemp("data")
    own = RECIPE.own_autoencoder
    recipe = replace(
        RECIPE,
        batch=BATCH,
        autoencoder=replace(own, train=replace(own.train, steps=1)),
        mixer=replace(RECIPE.mixer, train=replace(RECIPE.mixer.train, steps=1), look=None),
    )
    stages.train_autoencoder(recipe, folder, say=quiet)
    stages.train_mixer(recipe, folder, say=quiet)
    trainee = make_trainee()
    store = TrajectoryStore(make_trajectories(trainee, make_pool(folder), folder / "t", count=16, seed=0, say=quiet))
    return folder, sources.validation_clips(recipe, folder), store


def make_trainee(seed=0):
    torch.manual_seed(seed)
    trainee = sources.Trainee(RECIPE.model)
    with torch.no_grad():  # it begins at zero, where the blocks get no gradient
        trainee.model.transformer.proj_out.weight.normal_(std=0.2)
    return trainee


def make_pool(folder):
    autoencoder = sources.load_autoencoder(RECIPE, folder)
    settings = {"size": 8, "batch": BATCH, "reuse": 2, "seed": 3, "workers": 0}
    settings["mixer"] = sources.load_mixer(RECIPE, folder)
    return ClipPool(RECIPE.model, RECIPE.data.scene, recipes.TrackMix(), autoencoder, stages.TRAIN, **settings)


def make_stage(kind, data):
    folder, validation, store = data
    trainee = make_trainee()
    if kind == "autoencoder":
        scene = replace(RECIPE.data.scene, frames=9)
        autoencoder = sources.load_autoencoder(RECIPE, folder).requires_grad_(True)
        return DecoderStage(autoencoder, scene, stages.TRAIN, stages.HELD_OUT, batch=BATCH, seed=5)
    if kind == "tiny":
        return make_tiny_stage()
    if kind == "mixer":
        return make_mixer_stage()
    if kind == "look":
        mixer = make_mixer()
        return LookStage(
            mixer, RECIPE.data.scene, recipes.TrackMix(), stages.TRAIN, stages.HELD_OUT, batch=BATCH, seed=5, workers=0
        )
    if kind == "outline":
        torch.manual_seed(0)
        pictures = {"batch": BATCH, "seed": 7, "workers": 0}  # with different numbers of grasps on two ranks
        return OutlineStage(Outliner((8, 16)), RECIPE.data.scene, stages.TRAIN, stages.HELD_OUT, **pictures)
    if kind == "decoder":
        autoencoder = sources.load_autoencoder(RECIPE, folder).requires_grad_(True)
        return GeneratedDecoderStage(autoencoder, store, batch=BATCH, seed=5)
    if kind == "teacher-forcing":
        return TeacherForcingStage(trainee, make_pool(folder), validation, seed=5)
    if kind == "lora":
        add_lora(trainee.model, LoraSettings(rank=4, base_dtype="bfloat16"))
    if kind in ("teacher", "lora"):
        return TeacherStage(trainee, make_pool(folder), validation, seed=5)
    if kind == "self-forcing":
        networks = trainee, make_trainee(1), make_trainee(1)
        settings = SelfForcingConfig(critic_updates=1, sinks=(0, 1), windows=(1, 2))
        autoencoder = sources.load_autoencoder(RECIPE, folder)
        return SelfForcingStage(
            *networks, make_pool(folder), validation, None, settings, seed=5, autoencoder=autoencoder
        )
    assert isinstance(store, TrajectoryStore)
    return CausalStage(trainee, store, validation, batch=BATCH, seed=5)


def make_mixer():
    torch.manual_seed(0)
    carry = RECIPE.model.carry
    return PixelMixer(carry.mixer, grid=carry.grid)


def make_mixer_stage():
    scene = replace(RECIPE.data.scene, frames=9)
    settings = {"chunks": [0], "batch": BATCH, "frames": 2, "seed": 5, "workers": 0}
    return MixerStage(make_mixer(), scene, recipes.TrackMix(), stages.TRAIN, stages.HELD_OUT, **settings)


def make_tiny_stage():
    """A decoder and, from the second step on, its discriminator in turns."""
    autoencoder = LinearAutoencoder(LinearAutoencoderConfig(latent_channels=16, decoder_channels=8, decoder_blocks=1))
    scene = replace(RECIPE.data.scene, frames=9)
    draw, held_out = rendered_clips(scene, TextureBank(())), render(scene, 2, 1, TextureBank(())).video
    settings = TinyTraining(
        batch=BATCH, adversarial_weight=0.5, adversarial_start=1, adversarial_ramp=1, discriminator_channels=8
    )
    return TinyDecoderStage(TinyAutoencoder(preset("wan2.1-debug").tiny_decoder), autoencoder, draw, held_out, settings)


def train_stage(kind, data, target, config=CONFIG):
    """Losses of the first steps, whose turns they were, averaged weights, number of parts sharded, validation."""
    # Adam makes steps of rounding: gradients that are differences of networks, or of weights in half precision
    if kind in ("self-forcing", "lora"):
        config = replace(config, lr=1e-4)
    run = Run(make_stage(kind, data), config, target)
    losses, turns = [], []
    while run.step < config.steps:
        turns.append(run.player().name)
        losses.append(run.update()["loss"])
    sharded = sum(map(distributed.is_sharded, run.stage.module.parameters()))
    return losses, turns, run.average, sharded, run.validate()


SHARDED = {"shard": True, "recompute": True}
OFFLOADED = {**SHARDED, "offload_frozen": True, "offload_optimiser": True}
WAYS = {
    "autoencoder": {"whole": {}},
    "mixer": {"whole": {}},
    "look": {"whole": {}},
    "outline": {"whole": {}},
    "teacher": {"whole": {}, "sharded": SHARDED},
    "lora": {"whole": {}, "sharded": SHARDED},
    "teacher-forcing": {"whole": {}},
    "causal": {"whole": {}, "sharded": SHARDED},
    "self-forcing": {"whole": {}, "sharded and offloaded": OFFLOADED},
    "decoder": {"whole": {}},
    "tiny": {"whole": {}},
}


def train_ways(kind, data, target):
    return {
        name: train_stage(kind, data, target / name, replace(CONFIG, **changes)) for name, changes in WAYS[kind].items()
    }


@pytest.mark.parametrize("kind", WAYS)
def test_two_processes_have_the_losses_of_one(kind, data, tmp_path):
    expected, turns, weights, _, figures = train_stage(kind, data, tmp_path / "alone")
    assert len(set(expected)) == 3 and torch.isfinite(torch.tensor(expected)).all()
    assert len(set(turns)) == (2 if kind in ("self-forcing", "tiny") else 1)
    near = {"abs": 2e-4 if kind == "lora" else 1e-5}
    first, second = together(train_ways, kind, data, tmp_path)
    for name, (losses, _, average, sharded, together_figures) in first.items():
        assert losses == second[name][0]
        assert losses == pytest.approx(expected, **near)
        assert (sharded > 0) == ("sharded" in name)
        for key, value in weights.items():
            torch.testing.assert_close(
                average[key], value, atol=2e-4, rtol=0, msg=lambda text, key=key: f"{key}: {text}"
            )
        assert together_figures == pytest.approx(figures, abs=2e-2)
    if kind not in ("autoencoder", "teacher-forcing", "self-forcing", "tiny"):  # whose own tests split a batch
        half = replace(CONFIG, accumulate=2)
        assert train_stage(kind, data, tmp_path / "half", half)[0] == pytest.approx(expected, **near)


PAPERS = {**SHARDED, "bf16": True, "frozen_dtype": "bfloat16", "betas": (0.0, 0.999), "clip": 10.0}
"""How Self-Forcing is trained in full size (``recipes.wan.paper_self_forcing``)."""


def train_as_in_the_paper(data, target):
    """What ``train_stage`` answers, and of every cache that was made: clips, whether the student was in shards by then
    and autocast on."""
    caches, make = [], MotionModel.make_cache

    def watched(model, batch, *size):
        caches.append((batch, any(map(distributed.is_sharded, model.parameters())), torch.is_autocast_enabled("cpu")))
        return make(model, batch, *size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MotionModel, "make_cache", watched)
        found = train_stage("self-forcing", data, target, replace(CONFIG, **PAPERS))
    return found, caches


def test_self_forcing_as_in_the_paper_is_the_same_on_two_processes_and_never_whole(data, tmp_path):
    (expected, turns, weights, _, figures), _ = train_as_in_the_paper(data, tmp_path / "alone")
    assert set(turns) == {"module", "opponent"}
    began = make_stage("self-forcing", data).module.state_dict()
    moved = torch.cat([(value - began[key]).flatten() for key, value in weights.items()]).abs().mean()
    for (losses, _, average, sharded, found), caches in together(train_as_in_the_paper, data, tmp_path / "two"):
        # a batch's gradients are rounded to half precision, and Adam makes whole steps of the smallest
        assert sharded > 0 and losses == pytest.approx(expected, rel=1e-3)
        off = torch.cat([(average[key] - value).flatten() for key, value in weights.items()]).abs()
        assert off.mean() < 0.01 * moved and off.max() < 2e-4
        assert found == pytest.approx(figures, abs=2e-2)
        # of the two validation clips before the first step, one by one; of the steps; of the validation at the end
        assert [batch for batch, _, _ in caches] == [1, 1, 2, 2, 2, 1, 1]
        assert {(shards, autocast) for _, shards, autocast in caches} == {(True, True)}


def save_two_and_go_on(data, target):
    """For each kind of writing: the loss of step 2, the step resumed from, the loss of step 2 after resuming."""
    found = []
    for background in (False, True):
        config = replace(CONFIG, shard=True, background_checkpoints=background)
        run = Run(make_stage("causal", data), config, target / str(background))
        for _ in range(2):
            run.update()
            run.save()
        last = run.update()["loss"]  # while the second is being written
        run.checkpoints.wait()
        resumed = Run(make_stage("causal", data), config, target / str(background))
        found.append((last, resumed.step, resumed.update()["loss"]))
    return found


def resume_in_shards(data, target):
    run = Run(make_stage("causal", data), replace(CONFIG, shard=True), target)
    run.save()
    return run.update()["loss"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_sharded_run_resumes_exactly_and_on_another_number_of_ranks(data, tmp_path):
    first, second = together(save_two_and_go_on, data, tmp_path)
    assert first == second
    for last, step, again in first:
        assert step == 2 and again == last == first[0][0]
    folder = tmp_path / "False"
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint.previous.sharded", "checkpoint.sharded"]

    with pytest.warns(UserWarning, match="was on 2 ranks, this is on 1"):
        alone = Run(make_stage("causal", data), CONFIG, folder)
    assert alone.step == 2 and alone.update()["loss"] == pytest.approx(last, abs=1e-5)
    fresh = Run(make_stage("causal", data), CONFIG, tmp_path / "fresh")
    fresh.step = 2
    assert abs(fresh.update()["loss"] - last) > 1e-4

    # from one file to shards again; what is older is forgotten each time
    alone.save()
    assert sorted(p.name for p in folder.glob("check*")) == ["checkpoint.pt"]
    back = together(resume_in_shards, data, folder)
    assert sorted(p.name for p in folder.glob("check*")) == ["checkpoint.sharded"]
    assert back[0] == pytest.approx(alone.update()["loss"], abs=1e-5)
    part = next(folder.glob("checkpoint.sharded/*.distcp"))
    part.write_bytes(part.read_bytes()[:-7])
    with pytest.warns(UserWarning, match=r"checkpoint\.sharded is damaged \(.*has not its"), pytest.raises(ValueError):
        Checkpoints(folder).load(dict)


def fill_the_disk(data, target):
    """A checkpoint, then one that does not fit: what is said, and the step resumed from."""
    config = replace(CONFIG, shard=True)
    run = Run(make_stage("causal", data), config, target)
    run.update()
    run.save()
    run.update()
    largest = max(path.stat().st_size for path in target.glob("checkpoint.sharded/*"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, before[1]))  # no file can grow beyond
    try:
        with pytest.raises(OSError, match="intact: make room") as caught:
            run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    return str(caught.value), Run(make_stage("causal", data), config, target).step


def test_a_disk_that_is_full_in_the_middle_of_a_sharded_checkpoint_leaves_the_one_before(data, tmp_path):
    for said, step in together(fill_the_disk, data, tmp_path):
        assert "checkpoint.sharded" in said and step == 1


class Unlucky(Stage):
    """Meets a loss that is not finite on the second rank only."""

    def __init__(self):
        super().__init__(nn.Linear(2, 1))

    def loss(self, step):
        loss = self.module(torch.ones(2)).square().sum()
        return loss * (float("nan") if distributed.rank() == 1 and step == 1 else 1), {"rank": distributed.rank()}

    def validate(self, module):
        return {}


def stop_together(target):
    stage = Unlucky()
    with pytest.raises(FloatingPointError, match="step 1"):
        train(stage, TrainConfig(steps=3), target, say=quiet)
    return stage.module.weight.detach()


def test_ranks_stop_together_with_the_same_finite_weights(tmp_path):
    first, second = together(stop_together, tmp_path)
    torch.testing.assert_close(first, second, atol=0, rtol=0)
    assert torch.isfinite(first).all()
    assert {p.name for p in tmp_path.glob("bad_batch*")} == {"bad_batch.rank0.pt", "bad_batch.rank1.pt"}


def average_some():
    used, unused, half = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    used.grad = torch.full((2,), float(distributed.rank()))
    if distributed.rank() == 0:
        half.grad = torch.ones(2)
    distributed.average_gradients([used, unused, half])
    norm = distributed.clip_gradients([used, unused, half], 0.5)
    names = distributed.mean_over_ranks({"a": float(distributed.rank())} | ({"b": 4.0} if distributed.rank() else {}))
    return used.grad, unused.grad, half.grad, norm.item(), names


def test_gradients_are_averaged_where_any_rank_has_one():
    for used, unused, half, norm, names in together(average_some):
        # means are 1/2 in four places: the norm is 1, and is halved
        assert unused is None and norm == pytest.approx(1)
        torch.testing.assert_close(torch.cat([used, half]), torch.full((4,), 0.25), atol=1e-5, rtol=0)
        assert names == {"a": 0.5, "b": 4.0}


def gradients(trainee, data, how):
    """Of a whole clip in one forward, or of two chunks on the rolling cache."""
    clips = data[1].take([0, 1])
    conditions = make_conditions(trainee.model, trainee.text, clips, torch.Generator().manual_seed(0))
    if how == "cached":
        model = trainee.model
        state = Rollout(model, times=(0.9, 0.5), seed=0, first_latent=clips.latents[:, :, :1])
        size = model.config.causal.chunk_frames
        made = [state.step(conditions.frames(k * size, (k + 1) * size)) for k in range(4)]
        loss = torch.cat(made, dim=2).square().mean()
    else:
        context = BlockCausal(CausalConfig(3, 1, 1)) if how == "causal" else None
        noisy = torch.randn(clips.latents.shape, generator=torch.Generator().manual_seed(1))
        loss = trainee.model(noisy, torch.full((2,), 0.7), conditions, context).square().mean()
    loss.backward()
    return {name: p.grad.clone() for name, p in trainee.named_parameters() if p.grad is not None}


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize(("how", "compiled"), [("whole", True), ("whole", False), ("causal", False), ("cached", True)])
def test_tuned_blocks_have_the_names_and_gradients_of_plain_ones(data, how, compiled):
    plain, other = make_trainee(), make_trainee()
    calls = []
    block = other.model.transformer.blocks[0]
    inner = block.attn1.self_attention
    block.attn1.self_attention = lambda *args: (calls.append(1), inner(*args))[1]
    distributed.tune_blocks(other, recompute=True, compiled=compiled, backend="eager")
    assert list(other.state_dict()) == list(plain.state_dict())
    expected, found = gradients(plain, data, how), gradients(other, data, how)
    assert set(found) == set(expected) and "model.transformer.blocks.0.attn1.to_k.weight" in found
    assert max(value.abs().max() for value in expected.values()) > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    if not (compiled and how == "whole"):  # once more in the backward pass; on the cache, 8 steps and 3 clean passes
        assert len(calls) == {"cached": 8 + 3 + 8}.get(how, 2)
