"""nano's autoencoder: exactness of the linear part, streaming equals whole."""

import pytest
import torch

from motionstream.autoencoder.linear import (
    NOISE,
    SLOW,
    EncoderState,
    LinearAutoencoder,
    as_around,
    cosine_basis,
    from_blocks,
    slowly,
    to_blocks,
)
from motionstream.component_config import LinearAutoencoderConfig


def video(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, frames, 16, 24, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


def autoencoder(channels: int = 20, *, random_decoder: bool = True) -> LinearAutoencoder:
    torch.manual_seed(0)
    model = LinearAutoencoder(LinearAutoencoderConfig(channels, 16, 1))
    model.fit(to_blocks(video(33), first=True).transpose(0, 1).flatten(1).T)
    if random_decoder:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.05)
    return model


def test_blocks_round_trip():
    torch.testing.assert_close(from_blocks(to_blocks(video(12), first=False)), video(12), atol=0, rtol=0)
    padded = from_blocks(to_blocks(video(9), first=True))
    torch.testing.assert_close(padded[:, :, 3:], video(9), atol=0, rtol=0)
    torch.testing.assert_close(padded[:, :, 0], video(9)[:, :, 0], atol=0, rtol=0)


def test_all_components_lose_nothing():
    model = autoencoder(768, random_decoder=False)
    decoded, _ = model.decode(model.encode(video(9))[0])
    torch.testing.assert_close(decoded, video(9), atol=1e-4, rtol=0)


def test_before_any_fit_smooth_pictures_survive():
    torch.testing.assert_close(cosine_basis(768) @ cosine_basis(768).T, torch.eye(768), atol=1e-5, rtol=0)
    model = LinearAutoencoder(LinearAutoencoderConfig(48, 16, 1))
    ramp = torch.linspace(-0.8, 0.8, 24).expand(1, 3, 9, 16, 24)
    decoded, _ = model.decode(model.encode(ramp)[0])
    assert (decoded - ramp).abs().max() < 0.05


def test_components_are_those_that_keep_most():
    x = to_blocks(video(33), first=True).transpose(0, 1).flatten(1).T
    model = autoencoder(20, random_decoder=False)
    torch.testing.assert_close(model.basis @ model.basis.T, torch.eye(20), atol=1e-4, rtol=0)
    latents, _ = model.encode(video(33))
    linear = model.decode_linear(latents).transpose(0, 1).flatten(1).T
    singular = torch.linalg.svdvals((x - x.mean(0)).double())
    torch.testing.assert_close((linear - x).double().square().sum(), singular[20:].square().sum(), rtol=1e-3, atol=0)
    assert abs(latents.square().mean().item() - 1) < 0.2


@torch.no_grad()
def test_chunk_by_chunk_equals_whole_and_the_past_ignores_the_future():
    model = autoencoder()
    latents, _ = model.encode(video(33))
    assert latents.shape == (2, 20, 9, 2, 3)
    begun, state = model.encode(video(33)[:, :, :9])
    parts = [begun, model.encode(video(33)[:, :, 9:], state)[0]]
    torch.testing.assert_close(torch.cat(parts, dim=2), latents)

    whole, _ = model.decode(latents)
    assert whole.shape == video(33).shape
    frames, state = [], None
    for start in (0, 3, 6):
        chunk, state = model.decode(latents[:, :, start : start + 3], state)
        frames.append(chunk)
    assert [f.shape[2] for f in frames] == [9, 12, 12]
    torch.testing.assert_close(torch.cat(frames, dim=2), whole, atol=1e-5, rtol=1e-5)
    latents[:, :, 6:] += 1
    torch.testing.assert_close(model.decode(latents)[0][:, :, :21], whole[:, :, :21], atol=1e-6, rtol=0)


@torch.no_grad()
def test_what_the_code_has_lost_is_put_back():
    model, shown = autoencoder(), video(21)
    latents, _ = model.encode(shown)
    lost = model.lost(shown, latents, first=True)
    assert lost.abs().max() > 0.1
    whole, _ = model.decode(latents, None, lost)
    torch.testing.assert_close(whole, shown, atol=1e-5, rtol=0)
    begun, state = model.decode(latents[:, :, :3], None, lost[:, :, :3])
    later, _ = model.decode(latents[:, :, 3:], state, lost[:, :, 3:])
    torch.testing.assert_close(torch.cat([begun, later], dim=2), whole)

    moved = latents + 0.02 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    change = from_blocks(model.decode_linear(moved) - model.decode_linear(latents))[:, :, 3:]
    torch.testing.assert_close(model.decode(moved, None, lost)[0], shown + change, atol=1e-5, rtol=0)


def test_wrong_number_of_frames_is_refused():
    with pytest.raises(ValueError, match="10 frames"):
        autoencoder().encode(video(10))
    with pytest.raises(ValueError, match="4k frames go on"):
        autoencoder().encode(video(9), EncoderState())


def test_what_is_added_by_the_cell_comes_without_steps_and_what_is_not_changed_exactly():
    torch.manual_seed(0)
    autoencoder = LinearAutoencoder(LinearAutoencoderConfig(latent_channels=8, decoder_channels=8, decoder_blocks=1))
    autoencoder.basis.copy_(torch.linalg.qr(torch.randn(768, 8)).Q.T)
    autoencoder.basis[0] = 768**-0.5  # one latent is the cell's brightness
    picture = 0.4 * torch.rand(1, 3, 5, 32, 32) - 0.2
    around = autoencoder.encode_part(picture, first=True)
    detail = autoencoder.lost(picture, around, first=True)
    same, _ = autoencoder.decode(around, None, detail, around)
    torch.testing.assert_close(same, picture, atol=1e-5, rtol=0)
    noisy = around.clone()
    noisy[:, 0] += 0.9 * NOISE * 768**0.5
    torch.testing.assert_close(autoencoder.decode(noisy, None, detail, around)[0], picture, atol=1e-5, rtol=0)
    darker = around.clone()
    darker[:, 0, :, :, 2:] -= 0.3 * 768**0.5
    come = 1 - (1 - 1 / SLOW) ** torch.arange(4, 9)[:, None, None]  # the first frame was coded as four
    for carried, step, less in ((None, 0.3, 0.0), (around, 0.05 * come.max(), NOISE)):
        added = autoencoder.decode(darker, None, detail, carried)[0] - picture
        there = 0.3 if carried is None else 0.3 * come
        assert added[..., :8].abs().max() < 1e-5 and (added[..., 24:] + there - less).abs().max() < 1e-4
        assert abs(added.diff(dim=-1).abs().max() - step) < 0.02


def test_what_is_added_goes_on_from_around_where_it_is_a_guess():
    """It gets darker everywhere by 0.4, and a guess of three cells is yellow: they get darker like the rest."""
    added = torch.full((1, 3, 8, 64, 96), -0.4)
    added[:, :2, 4:, 16:40, 40:64] = 0.6
    unsure = torch.zeros(1, 1, 2, 8, 12)
    unsure[:, :, 1, 2:5, 5:8] = 1
    torch.testing.assert_close(as_around(added, unsure), torch.full_like(added, -0.4), atol=0.02, rtol=0)
    assert torch.equal(as_around(added, torch.zeros_like(unsure)), added)


def test_where_all_is_a_guess_what_is_added_is_added_evenly():
    torch.manual_seed(0)
    added = 0.3 + 0.1 * torch.randn(1, 3, 4, 64, 64)
    even = as_around(added, torch.ones(1, 1, 1, 8, 8))
    torch.testing.assert_close(even, torch.full_like(even, 0.3), atol=0.02, rtol=0)


def test_what_is_added_comes_slowly_and_the_same_in_parts():
    torch.manual_seed(0)
    added = torch.randn(2, 3, 12, 8, 16)
    whole, first = slowly(added, None), slowly(added[:, :, :5], None)
    torch.testing.assert_close(torch.cat([first, slowly(added[:, :, 5:], first[:, :, -1])], dim=2), whole)
    plain, now = [], torch.zeros(2, 3, 8, 16)
    for frame in added.unbind(2):
        now = now + (frame - now) / SLOW
        plain.append(now)
    torch.testing.assert_close(whole, torch.stack(plain, dim=2))
    sawtooth = torch.tensor([13.0, 20.0, 22.0]).repeat_interleave(4).repeat(10).view(1, 1, -1, 1, 1)
    assert slowly(sawtooth, None)[:, :, -12:].flatten().diff().abs().max() < 0.6, "it was 9"
