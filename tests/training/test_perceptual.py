"""LPIPS against torchmetrics' with the same weights; what the stand-in sees that L1 does not; the discriminator."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torchmetrics.functional.image import lpips as reference

from motionstream.training.parts.discriminator import PatchDiscriminator, ReplayBuffer, adversarial_loss, judge_loss
from motionstream.training.parts.perceptual import (
    ALEXNET_LAYERS,
    LPIPS,
    ContrastStandIn,
    convert_lpips,
    perceptual_distance,
)


def video(seed: int = 0, *, frames: int = 2, side: int = 40, batch: int = 2) -> torch.Tensor:
    noise = torch.rand(batch, 3, frames, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.avg_pool3d(noise, (1, 3, 3), 1, (0, 1, 1)) * 2


def random_lpips() -> LPIPS:
    """Random features, large enough for every layer to speak; random heads, not negative as the trained ones are."""
    generator, model = torch.Generator().manual_seed(1), LPIPS()
    for name, value in model.state_dict().items():
        drawn = torch.randn(value.shape, generator=generator)
        value.copy_(drawn.abs() if name.startswith("lin") else drawn * (2 / max(value[0].numel(), 9)) ** 0.5)
    return model


def test_lpips_is_that_of_torchmetrics(monkeypatch):
    ours = random_lpips()
    layers: list[nn.Module] = []
    for index in range(12):  # torchvision's AlexNet, without torchvision
        if index in ALEXNET_LAYERS:
            layers.append(ours.features[index])
        else:
            layers.append(nn.MaxPool2d(3, 2) if index in (2, 5) else nn.ReLU())
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda net, pretrained: nn.Sequential(*layers))
    theirs = reference._LPIPS(pretrained=True, pnet_rand=True, net="alex")
    # the published heads, which torchmetrics ships
    heads = {name: value for name, value in theirs.state_dict().items() if name.split(".")[0] in ours._modules}
    ours.load_state_dict(ours.state_dict() | heads)
    first, second = video(0), video(1)
    frames = [x.transpose(1, 2).flatten(0, 1) for x in (first, second)]
    expected = theirs(*frames).flatten().unflatten(0, (2, 2)).mean(dim=1)
    found = ours(first, second)
    assert found.shape == (2,) and found.min() > 0.01 and (found[0] - found[1]).abs() > 1e-4
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    assert (ours(first, first) == 0).all()
    assert not torch.allclose(random_lpips()(first, second), expected, rtol=1e-2), "the heads do not matter"


def test_lpips_files(tmp_path):
    state = random_lpips().state_dict()
    alexnet = {k: v for k, v in state.items() if k.startswith("features.")} | {"classifier.1.weight": torch.zeros(2, 2)}
    heads = {k: v for k, v in state.items() if k.startswith("lin")}
    torch.save(alexnet, tmp_path / "alexnet.pth")
    torch.save(heads, tmp_path / "alex.pth")
    convert_lpips(tmp_path / "alexnet.pth", tmp_path / "alex.pth", tmp_path / "lpips.safetensors")
    loaded = perceptual_distance(tmp_path / "lpips.safetensors")
    assert loaded.name == "lpips" and load_file(tmp_path / "lpips.safetensors").keys() == state.keys()
    assert torch.equal(loaded(video(0), video(1)), random_lpips()(video(0), video(1)))
    assert not any(p.requires_grad for p in loaded.parameters())
    with pytest.raises(ValueError, match="is a pickle"):
        perceptual_distance(tmp_path / "alexnet.pth")
    save_file(heads, tmp_path / "heads.safetensors")
    with pytest.raises(ValueError, match=r"no LPIPS v0\.1.*features\.0\.bias is missing instead of \(64,\), 10 names"):
        LPIPS.load(tmp_path / "heads.safetensors")
    assert perceptual_distance().name == "stand_in"


@pytest.mark.parametrize("distance", [random_lpips(), ContrastStandIn()], ids=["lpips", "stand_in"])
def test_distances_lead_a_picture_to_its_reference(distance):
    target, guess = video(0, batch=1), video(1, batch=1).requires_grad_()
    before = distance(guess, target)
    before.sum().backward()
    assert guess.grad is not None and torch.isfinite(guess.grad).all()
    step = 0.05 * guess.grad / guess.grad.abs().mean()
    assert distance(guess.detach() - step, target) < 0.95 * before.detach()
    assert torch.isfinite(torch.autograd.grad(distance(guess * 0, target * 0).sum(), guess)[0]).all()
    with pytest.raises(ValueError, match="frames of 24×24 are too small"):
        distance(video(side=24), video(side=24))


def test_the_stand_in_prefers_fine_texture_to_blur_where_l1_prefers_blur():
    stand_in, noise = ContrastStandIn(), 0.3 * torch.randn(1, 3, 1, 64, 64)
    texture = noise - F.avg_pool3d(noise, (1, 3, 3), 1, (0, 1, 1))
    elsewhere, blurred = texture.roll((7, 13), (3, 4)), F.avg_pool3d(texture, (1, 5, 5), 1, (0, 2, 2))
    assert F.l1_loss(blurred, texture) < F.l1_loss(elsewhere, texture)
    assert stand_in(elsewhere, texture) < stand_in(blurred, texture)
    # and takes a change of brightness for a small one
    brighter = texture + F.l1_loss(blurred, texture)
    assert stand_in(brighter, texture) < 0.01 * stand_in(blurred, texture)
    assert torch.equal(ContrastStandIn().filters, stand_in.filters)
    gram = stand_in.filters.flatten(1) @ stand_in.filters.flatten(1).T
    torch.testing.assert_close(gram, torch.eye(24), atol=1e-5, rtol=0)


def test_patches_see_their_own_clip_and_all_its_frames():
    model, clips = PatchDiscriminator(8), torch.randn(2, 3, 9, 32, 32)
    verdict = model(clips)
    assert verdict.shape == (2, 3, 2, 2)
    assert model(torch.zeros(1, 3, 21, 144, 144)).shape == (1, 7, 16, 16)
    for frame in range(9):
        changed = clips.clone()
        changed[0, :, frame] += 1
        moved = (model(changed) - verdict).abs().amax(dim=(2, 3)) > 1e-5
        assert moved[0].tolist() == [run == frame // 3 for run in range(3)] and not moved[1].any()
    padded = torch.cat([clips[:, :, :1], clips[:, :, :1], clips[:, :, :7]], dim=2)
    torch.testing.assert_close(model(clips[:, :, :7]), model(padded))
    with pytest.raises(ValueError, match="12 channels"):
        PatchDiscriminator(12)


def test_hinge_losses_on_numbers():
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.5])
    assert judge_loss(real, fake).item() == pytest.approx((0.25 + 0.75) / 2)
    assert judge_loss(fake, real) > judge_loss(real, fake)
    assert adversarial_loss(fake).item() == pytest.approx(1.25)
    assert adversarial_loss(real) < adversarial_loss(fake)


def test_the_discriminator_tells_sharp_from_blurred():
    generator, model = torch.Generator().manual_seed(0), PatchDiscriminator(8, layers=2)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(40):
        sharp = torch.randn(4, 3, 3, 32, 32, generator=generator)
        soft = 3 * F.avg_pool3d(sharp, (1, 3, 3), 1, (0, 1, 1))
        optimiser.zero_grad()
        loss = judge_loss(model(sharp), model(soft))
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.3 and (model(sharp) > 0).float().mean() > 0.9 and (model(soft) < 0).float().mean() > 0.9


def exchanges(buffer: ReplayBuffer, samples: list[int], steps: range) -> list[torch.Tensor]:
    shown = []
    for step in steps:
        fakes = torch.stack([torch.full((3, 1, 2, 2), float(step + 100 * sample)) for sample in samples])
        generators = [torch.Generator().manual_seed(1000 * step + sample) for sample in samples]
        shown.append(buffer.exchange(fakes, samples, generators)[:, 0, 0, 0, 0])
    return shown


def test_replay_mixes_earlier_fakes_of_the_same_sample_and_goes_on_exactly():
    whole = exchanges(ReplayBuffer(3), [0, 1], range(40))
    columns = torch.stack(whole)
    assert (columns[:3] == torch.tensor([[s, s + 100.0] for s in range(3)])).all(), "the history is not full yet"
    now = torch.arange(40.0)[:, None] + torch.tensor([0.0, 100.0])
    earlier = (now - columns)[3:]
    assert (earlier >= 0).all() and 0.3 < (earlier > 0).float().mean() < 0.7
    assert (columns[:, 0] < 50).all() and (columns[:, 1] >= 100).all()
    assert columns[30:][earlier[27:] > 0].fmod(100).max() > 10, "the history stays what it was"

    first = ReplayBuffer(3)
    begun = exchanges(first, [0, 1], range(20))
    state = first.state_dict()
    exchanges(first, [0, 1], range(20, 30))  # what was saved does not change with what follows
    second = ReplayBuffer(3)
    second.load_state_dict(state)
    assert torch.equal(torch.stack(begun + exchanges(second, [0, 1], range(20, 40))), columns)
    # two processes with a sample each show what one with both does
    parts = [torch.stack(exchanges(ReplayBuffer(3), [sample], range(40))) for sample in (0, 1)]
    assert torch.equal(torch.cat(parts, dim=1), columns)

    fakes = torch.randn(2, 3, 1, 2, 2)
    assert ReplayBuffer(0).exchange(fakes, [0, 1], [torch.Generator()] * 2).equal(fakes)
    with pytest.raises(ValueError, match="replay = -1"):
        ReplayBuffer(-1)
