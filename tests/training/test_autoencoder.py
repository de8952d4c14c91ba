"""training/parts/autoencoder.py: what the residual decoder is looked at on is not what it is trained on."""

from types import SimpleNamespace

import pytest
import torch

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.component_config import LinearAutoencoderConfig
from motionstream.training.parts.autoencoder import GeneratedDecoderStage


class Store:
    """Trajectories that remember which of them were taken."""

    def __init__(self, count):
        self.count, self.taken = count, []

    def __len__(self):
        return self.count

    def take(self, rows):
        self.taken += rows
        latents = torch.randn(len(rows), 16, 3, 4, 4, generator=torch.Generator().manual_seed(sum(rows)))
        return SimpleNamespace(latents=latents), None, latents + 0.1


@pytest.mark.parametrize(("count", "batch", "held"), [(6, 2, {4, 5}), (3, 4, {2})])
def test_the_last_trajectories_are_held_out(count, batch, held):
    store = Store(count)
    autoencoder = LinearAutoencoder(LinearAutoencoderConfig(latent_channels=16, decoder_channels=8, decoder_blocks=1))
    stage = GeneratedDecoderStage(autoencoder, store, batch=batch, seed=0)
    assert set(store.taken) == held
    store.taken.clear()
    for step in range(20):
        stage.loss(step)
    assert set(store.taken) == set(range(count)) - held
    assert all(torch.isfinite(torch.tensor(value)) for value in stage.validate(autoencoder).values())
    with pytest.raises(ValueError, match="1 trajectory: one is held out, make at least 2"):
        GeneratedDecoderStage(autoencoder, Store(1), batch=batch, seed=0)
