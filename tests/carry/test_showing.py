"""Frames of latents that were generated around a carried picture."""

import torch

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.carry.showing import NOISE, SLOW, CarriedPicture, as_around, decode_around, decode_carried, slowly
from motionstream.component_config import LinearAutoencoderConfig


def autoencoder() -> LinearAutoencoder:
    """One whose first latent is the cell's brightness."""
    torch.manual_seed(0)
    autoencoder = LinearAutoencoder(LinearAutoencoderConfig(latent_channels=8, decoder_channels=8, decoder_blocks=1))
    autoencoder.basis.copy_(torch.linalg.qr(torch.randn(768, 8)).Q.T)
    autoencoder.basis[0] = 768**-0.5
    return autoencoder


def carried(model: LinearAutoencoder, video: torch.Tensor) -> CarriedPicture:
    around = model.encode_part(video, first=True)
    return CarriedPicture(around, torch.zeros_like(around[:, :1]), model.lost(video, around, first=True))


def test_the_carried_picture_itself_is_shown_exactly_in_parts_too():
    model, video = autoencoder(), 1.6 * torch.rand(2, 3, 21, 16, 24) - 0.8
    picture = carried(model, video)
    assert picture.detail is not None and picture.detail.abs().max() > 0.1
    torch.testing.assert_close(decode_carried(model, picture)[:, :, 3:], video, atol=1e-5, rtol=0)
    whole, _ = decode_around(model, picture.around, picture, None)
    torch.testing.assert_close(whole, video, atol=1e-5, rtol=0)
    begun, state = decode_around(model, picture.around[:, :, :3], picture.frames(0, 3), None)
    later, _ = decode_around(model, picture.around[:, :, 3:], picture.frames(3, 6), state)
    torch.testing.assert_close(torch.cat([begun, later], dim=2), whole)


def test_what_is_added_by_the_cell_comes_without_steps_and_what_is_not_changed_exactly():
    model, video = autoencoder(), 0.4 * torch.rand(1, 3, 5, 32, 32) - 0.2
    picture = carried(model, video)
    noisy = picture.around.clone()
    noisy[:, 0] += 0.9 * NOISE * 768**0.5
    torch.testing.assert_close(decode_around(model, noisy, picture, None)[0], video, atol=1e-5, rtol=0)
    darker = picture.around.clone()
    darker[:, 0, :, :, 2:] -= 0.3 * 768**0.5
    come = 1 - (1 - 1 / SLOW) ** torch.arange(4, 9)[:, None, None]  # the first frame was coded as four
    added = decode_around(model, darker, picture, None)[0] - video
    assert added[..., :8].abs().max() < 1e-5 and (added[..., 24:] + 0.3 * come - NOISE).abs().max() < 1e-4
    assert abs(added.diff(dim=-1).abs().max() - 0.05 * come.max()) < 0.02


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
