"""Frames of latents that were generated around a carried picture."""

import torch

from motionstream.autoencoder.linear import LinearAutoencoder, to_blocks
from motionstream.carry.showing import (
    NOISE,
    SLOW,
    CarriedPicture,
    decode_around,
    decode_carried,
    lights,
    lit,
    slowly,
    without_noise,
)
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
    return CarriedPicture(around, model.lost(video, around, first=True))


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


def test_a_change_is_shown_the_same_in_parts_and_noise_is_not():
    model, video = autoencoder(), 0.4 * torch.rand(1, 3, 21, 32, 32) - 0.2
    picture = carried(model, video)
    noisy = picture.around.clone()
    noisy[:, 0] += 0.9 * NOISE * 768**0.5
    torch.testing.assert_close(decode_around(model, noisy, picture, None)[0], video, atol=1e-5, rtol=0)
    other = picture.around - 0.3 * 768**0.5 * torch.rand(1, 8, 6, 1, 1)
    whole, _ = decode_around(model, other, picture, None)
    assert (whole - video).abs().max() > 0.1
    begun, state = decode_around(model, other[:, :, :2], picture.frames(0, 2), None)
    later, _ = decode_around(model, other[:, :, 2:], picture.frames(2, 6), state)
    torch.testing.assert_close(torch.cat([begun, later], dim=2), whole)


def test_darkness_comes_slowly_over_everything():
    model, video = autoencoder(), 0.4 * torch.rand(1, 3, 41, 32, 32) - 0.2
    picture = carried(model, video)
    darker = picture.around.clone()
    darker[:, 0] -= 0.3 * 768**0.5
    added = decode_around(model, darker, picture, None)[0] - video
    come = 1 - (1 - 1 / SLOW) ** torch.arange(4, 45)[:, None, None]  # the first frame was coded as four
    assert (added + 0.3 * come).abs().max() < 0.03
    assert added.std(dim=(-1, -2)).max() < 0.01, "without steps or grain"


def test_light_is_what_most_of_the_picture_has_in_common():
    """Fog comes over all, and a quarter of the picture turns red at the same time."""
    torch.manual_seed(0)
    seen = (2 * torch.rand(1, 3, 2, 8, 8) - 1).repeat_interleave(8, -1).repeat_interleave(8, -2)
    fog = 0.5 * (0.6 - seen)
    added = fog.clone()
    added[..., :16] = torch.tensor([0.9, -0.8, -0.8])[:, None, None, None] - seen[..., :16]
    nothing = torch.zeros(1, 1, 2, 64, 64)
    light = lights(added, seen, nothing)
    assert light.shape == (1, 2, 2, 4, 3)
    torch.testing.assert_close(lit(seen, light, nothing), fog, atol=0.05, rtol=0)
    assert (lit(seen, lights(fog, seen, nothing), nothing) - fog).abs().max() < 0.03
    flat = torch.full((1, 3, 2, 64, 64), 0.25)
    torch.testing.assert_close(lit(flat, lights(-0.4 * flat, flat, nothing), nothing), -0.4 * flat, atol=0.01, rtol=0)


def turning_red(share: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A picture over which fog comes, while a thing that ends within cells turns red: what is added, seen and held."""
    torch.manual_seed(0)
    seen = (2 * torch.rand(1, 3, 2, 8, 8) - 1).repeat_interleave(8, -1).repeat_interleave(8, -2)
    held = torch.zeros(1, 1, 2, 64, 64)
    held[..., 12:41, 21:50] = 1
    red = torch.tensor([0.7, -0.8, -0.8])[:, None, None, None]
    thing = torch.lerp(seen, red + 0.5 * seen.mean(dim=1, keepdim=True), share * held)
    return thing + 0.5 * (0.6 - thing) - seen, seen, held


def test_what_is_held_turns_red_to_its_outline_and_fog_falls_on_both():
    added, seen, held = turning_red()
    shown = lit(seen, lights(added, seen, held), held)
    assert (shown - added).abs().mean() < 0.02
    assert (shown - added).abs().amax(dim=1, keepdim=True)[held > 0].max() < 0.15
    plain = lit(seen, lights(added, seen, 0 * held), 0 * held)
    assert (plain - added).abs().amax(dim=1, keepdim=True)[held > 0].max() > 0.5, "one map for all would not show it"


def test_mistakes_in_some_cells_of_what_is_held_do_not_colour_it():
    added, seen, held = turning_red(0.0)
    added[..., 16:24, 24:40] += 0.8
    shown = lit(seen, lights(added, seen, held), held)
    assert (shown - turning_red(0.0)[0]).abs().max() < 0.15


def test_a_held_thing_is_shown_in_its_own_colour_by_decoding():
    model, video = autoencoder(), 0.4 * torch.rand(1, 3, 61, 32, 32) - 0.2
    held = torch.zeros(1, 1, 61, 32, 32)
    held[..., 4:20, 9:24] = 1
    picture = carried(model, video)
    brighter = picture.around + model.encode_part(video + 0.5 * held, first=True) - picture.around
    told = CarriedPicture(picture.around, picture.detail, to_blocks(held, 8, first=True))
    added = (decode_around(model, brighter, told, None)[0] - video)[:, :, -1]
    inside = held[:, :, -1].expand_as(added) > 0
    assert (added[inside] - 0.5).abs().max() < 0.06 and added[~inside].abs().max() < 1e-4
    _, state = decode_around(model, brighter[:, :, :7], told.frames(0, 7), None)
    later, _ = decode_around(model, brighter[:, :, 7:], told.frames(7, 16), state)
    torch.testing.assert_close(later[:, :, -1] - video[:, :, -1], added)


def test_small_changes_are_noise_and_large_ones_stay():
    added = torch.tensor([0.0, 0.9 * NOISE, -0.9 * NOISE, 2 * NOISE, -20 * NOISE])
    torch.testing.assert_close(without_noise(added), torch.tensor([0.0, 0.0, 0.0, 1.5 * NOISE, -19.95 * NOISE]))


def test_light_comes_slowly_and_the_same_in_parts():
    torch.manual_seed(0)
    light = torch.randn(2, 12, 2, 4, 3)
    whole, first = slowly(light, None), slowly(light[:, :5], None)
    torch.testing.assert_close(torch.cat([first, slowly(light[:, 5:], first[:, -1])], dim=1), whole)
    plain, now = [], torch.zeros(2, 2, 4, 3)
    for frame in light.unbind(1):
        now = now + (frame - now) / SLOW
        plain.append(now)
    torch.testing.assert_close(whole, torch.stack(plain, dim=1))
    sawtooth = torch.tensor([13.0, 20.0, 22.0]).repeat_interleave(4).repeat(10).view(1, -1, 1, 1, 1)
    assert slowly(sawtooth, None)[:, -12:].flatten().diff().abs().max() < 0.6, "it was 9"
