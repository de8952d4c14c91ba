"""training/diffusion/lora.py: precisions of frozen and trained weights, no change at first, Self-Forcing on top."""

import copy
from dataclasses import replace

import pytest
import torch

from motionstream.presets import preset
from motionstream.training.diffusion.lora import LoraSettings, add_lora, merged
from motionstream.training.diffusion.self_forcing import SelfForcingConfig
from motionstream.training.loop.run import Run, TrainConfig
from motionstream.training.planning.workload import Workload, make_stage, make_trainee

pytest.importorskip("peft")
CPU = torch.device("cpu")


def make_model(whole=("patch_embedding",), base="bfloat16"):
    torch.manual_seed(0)
    trainee = make_trainee(preset("wan2.1-debug"), CPU)
    with torch.no_grad():  # zero in a new model
        trainee.model.transformer.proj_out.weight.normal_(std=0.2)
    plain = copy.deepcopy(trainee.model)
    add_lora(trainee.model, LoraSettings(rank=2, alpha=2.0, whole=whole, base_dtype=base))
    return plain, trainee.model


def inputs(model):
    config = model.config.transformer
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, config.in_channels, 3, 4, 4, generator=generator)
    return latents, torch.tensor([0.5]), torch.randn(1, 5, config.text_dim, generator=generator)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("whole", [("patch_embedding",), ("patch_embedding", "norm_k", "ffn.net.2"), ()])
def test_mixed_precision_is_near_the_plain_model(whole, autocast):
    plain, thin = make_model(whole)
    latents, t, text = inputs(plain)
    expected = plain.transformer(latents, t, text)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = thin.transformer(latents.to(thin.dtype), t, text.to(thin.dtype))
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).norm() < 0.03 * expected.norm()


def test_what_is_trained_has_master_weights():
    _, thin = make_model()
    trained = {name: p.dtype for name, p in thin.transformer.named_parameters() if p.requires_grad}
    frozen = [p.dtype for p in thin.transformer.parameters() if not p.requires_grad]
    assert set(trained.values()) == {torch.float32} and torch.bfloat16 in frozen
    assert all("patch_embedding" in name or ".lora_" in name for name in trained)
    assert all(p.requires_grad for p in thin.track_head.parameters())


def test_merging_adds_the_thin_matrices():
    plain, thin = make_model(base="float32")
    with torch.no_grad():
        for name, parameter in thin.named_parameters():
            if ".lora_B" in name:
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    latents, t, text = inputs(plain)
    expected = thin.transformer(latents, t, text)
    assert not torch.allclose(expected, plain.transformer(latents, t, text), atol=1e-3)
    plain.load_state_dict(merged(thin.state_dict(), LoraSettings(rank=2, alpha=2.0, base_dtype="float32")))
    torch.testing.assert_close(plain.transformer(latents, t, text), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bf16", [False, True])
def test_self_forcing_trains_low_rank(tmp_path, bf16):
    config = replace(preset("wan2.1-debug"), clip_frames=45)
    work = Workload(config, "self-forcing", batch=1, lora=2, rollouts=SelfForcingConfig(critic_updates=1))
    stage = make_stage(work, CPU, tmp_path / "data")
    before = {name: p.detach().clone() for name, p in stage.module.named_parameters()}
    run = Run(stage, TrainConfig(steps=2, lr=1e-2, warmup=1, bf16=bf16), tmp_path / "run")
    losses = [run.update()["loss"] for _ in range(2)]
    assert torch.isfinite(torch.tensor(losses)).all()
    changed = {name for name, p in stage.module.named_parameters() if not torch.equal(p, before[name])}
    assert any(".lora_" in name for name in changed) and any("patch_embedding" in name for name in changed)
    assert all(p.requires_grad for name, p in stage.module.named_parameters() if name in changed)
