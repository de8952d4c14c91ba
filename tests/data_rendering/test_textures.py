"""Textures: in range, seeded, varied, and cut from the photographs that were asked for."""

import numpy as np
import pytest
import torch

from motionstream.data import photographs, textures
from motionstream.data.draws import Draws
from motionstream.data.textures import TextureBank, recolour, spectral_noise

SIZE = (40, 56)


def test_textures_are_in_range_seeded_and_have_something_to_follow() -> None:
    bank = TextureBank()
    drawn = bank.draw(Draws(1), 60, SIZE)
    assert drawn.shape == (60, 3, *SIZE)
    assert drawn.min() >= 0 and drawn.max() <= 1
    assert torch.equal(drawn, bank.draw(Draws(1), 60, SIZE))
    assert not torch.equal(drawn, bank.draw(Draws(2), 60, SIZE))
    assert drawn.flatten(1).std(1).min() > 0.02
    assert len({tuple(texture.mean((1, 2)).tolist()) for texture in drawn}) == 60


def test_no_textures_and_no_photographs_are_allowed() -> None:
    assert TextureBank().draw(Draws(0), 0, SIZE).shape == (0, 3, *SIZE)
    assert TextureBank(names=()).draw(Draws(0), 3, SIZE, photograph_probability=1.0).std() > 0


def test_unknown_photograph_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown photograph 'barbara'"):
        TextureBank(("coins", "barbara"))


def test_only_the_named_photographs_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = photographs.load

    def recorded(name: str) -> np.ndarray:
        read.append(name)
        return load(name)

    monkeypatch.setattr(photographs, "load", recorded)
    TextureBank().draw(Draws(0), 12, SIZE, photograph_probability=1.0)
    assert set(read) == set(photographs.TRAIN)


def test_crops_lie_inside_the_photograph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A photograph that is a ramp of x and y: no crop may reach its border, where it would be mirrored."""
    y, x = torch.meshgrid(torch.linspace(0, 255, 300), torch.linspace(0, 255, 400), indexing="ij")
    ramp = torch.stack((x, y, x), -1).byte().numpy()
    monkeypatch.setattr(photographs, "load", lambda _: ramp)
    bank = TextureBank(("coins",))
    crops = bank.draw(Draws(3), 40, SIZE, photograph_probability=1.0, mixture_probability=0.0, recolour_probability=0.0)
    # Inside, neighbours differ by the same step everywhere; a mirrored border would turn its sign.
    step = crops[:, :2, :, 2:] - crops[:, :2, :, :-2]
    middle = step.mean((2, 3), keepdim=True)
    assert ((step - middle).abs() < 0.02).all()
    spread = crops.amax((2, 3)) - crops.amin((2, 3))
    assert spread.max() > 0.5 and spread.min() < 0.2, "crops of many scales were expected"


def test_recolouring_keeps_structure_and_changes_colour() -> None:
    pictures = TextureBank(("astronaut",)).draw(
        Draws(0), 16, SIZE, photograph_probability=1.0, mixture_probability=0.0, recolour_probability=0.0
    )
    changed = recolour(Draws(1), pictures)
    assert changed.min() >= 0 and changed.max() <= 1
    assert ((changed - pictures).abs().mean((1, 2, 3)) > 0.02).all()


@pytest.mark.parametrize("generate", textures._GENERATORS)
def test_generators_fill_the_size_asked_for(generate: object) -> None:
    assert callable(generate)
    noise = torch.Generator().manual_seed(0)
    drawn = generate(Draws(0), 5, SIZE, noise)
    assert drawn.shape == (5, 3, *SIZE)
    assert drawn.min() >= 0 and drawn.max() <= 1
    assert (drawn.flatten(1).std(1) > 0).all()


def test_a_larger_exponent_gives_smoother_noise() -> None:
    def roughness(exponent: float) -> float:
        field = spectral_noise(Draws(0), 4, 1, (64, 64), torch.Generator().manual_seed(0), (exponent, exponent))
        assert field.mean().abs() < 1e-4 and field.std() == pytest.approx(1, abs=0.01)
        return float(field.diff(dim=-1).square().mean())

    assert roughness(0.5) > 1.5 * roughness(1.2) > 2 * roughness(2.0)
