"""Small models' autoencoder: exactness of the linear part, streaming equals whole."""

import pytest
import torch

from motionstream.autoencoder.linear import (
    EncoderState,
    LinearAutoencoder,
    cosine_basis,
    from_blocks,
    to_blocks,
)
from motionstream.component_config import LinearAutoencoderConfig


def video(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, frames, 16, 24, generator=torch.Generator().manual_seed(seed)) * 1.6 - 0.8


def autoencoder(channels: int = 20, *, patch: int = 8, random_decoder: bool = True) -> LinearAutoencoder:
    torch.manual_seed(0)
    model = LinearAutoencoder(LinearAutoencoderConfig(channels, 16, 1, patch=patch))
    model.fit(model.blocks_of(video(33), first=True).transpose(0, 1).flatten(1).T)
    if random_decoder:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.05)
    return model


@pytest.mark.parametrize("patch", [8, 4])
def test_blocks_round_trip(patch: int):
    blocks = to_blocks(video(12), patch, first=False)
    assert blocks.shape == (2, 12 * patch**2, 3, 16 // patch, 24 // patch)
    torch.testing.assert_close(from_blocks(blocks), video(12), atol=0, rtol=0)
    padded = from_blocks(to_blocks(video(9), patch, first=True))
    torch.testing.assert_close(padded[:, :, 3:], video(9), atol=0, rtol=0)
    torch.testing.assert_close(padded[:, :, 0], video(9)[:, :, 0], atol=0, rtol=0)


@pytest.mark.parametrize("patch", [8, 4])
def test_all_components_lose_nothing(patch: int):
    model = autoencoder(12 * patch**2, patch=patch, random_decoder=False)
    decoded, _ = model.decode(model.encode(video(9))[0])
    torch.testing.assert_close(decoded, video(9), atol=1e-4, rtol=0)


def test_before_any_fit_smooth_pictures_survive():
    for patch, values in ((8, 768), (4, 192)):
        basis = cosine_basis(values, patch)
        torch.testing.assert_close(basis @ basis.T, torch.eye(values), atol=1e-5, rtol=0)
    model = LinearAutoencoder(LinearAutoencoderConfig(48, 16, 1))
    ramp = torch.linspace(-0.8, 0.8, 24).expand(1, 3, 9, 16, 24)
    decoded, _ = model.decode(model.encode(ramp)[0])
    assert (decoded - ramp).abs().max() < 0.05


def test_components_are_those_that_keep_most():
    x = to_blocks(video(33), 8, first=True).transpose(0, 1).flatten(1).T
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


def test_wrong_number_of_frames_is_refused():
    with pytest.raises(ValueError, match="10 frames"):
        autoencoder().encode(video(10))
    with pytest.raises(ValueError, match="4k frames go on"):
        autoencoder().encode(video(9), EncoderState())
