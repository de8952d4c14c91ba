"""What an outliner is shown, pixel by pixel, and that it draws for streams."""

import itertools

import numpy as np
import torch

from motionstream.carry.outliner import DOT, FARTHEST, SHOWN, UNLIKEST, Outliner, show
from motionstream.carry.pixel_mixer import PixelMixer
from motionstream.config import MixerConfig

H, W = 24, 32


def picture() -> torch.Tensor:
    return 2 * torch.rand(3, H, W, generator=torch.Generator().manual_seed(0)) - 1


def test_what_is_shown_is_told_pixel_by_pixel():
    on, off = torch.tensor([(3.2, 4.4), (20.0, 11.0), (-5.0, 90.0)]), torch.tensor([(30.0, 2.0)])
    shown = show(picture(), on, off)
    assert shown.shape == (SHOWN, H, W) and torch.equal(shown[:3], picture())

    def smooth(x: int, y: int) -> torch.Tensor:
        return picture()[:, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].mean(dim=(1, 2))

    for channel, points in ((3, [(3, 4), (20, 11), (0, H - 1)]), (6, [(30, 2)])):  # what is outside is at the border
        for y, x in itertools.product(range(0, H, 3), range(0, W, 3)):
            distance = min(np.hypot(x - px, y - py) for px, py in points)
            unlike = min(float((smooth(x, y) - smooth(*point)).norm()) for point in points)
            wanted = [distance < DOT, 2 * min(distance, FARTHEST) / FARTHEST, min(unlike, UNLIKEST)]
            told = torch.tensor([float(value) for value in wanted])
            torch.testing.assert_close(shown[channel : channel + 3, y, x], told, atol=1e-5, rtol=0)


def test_where_nothing_is_known_it_is_as_far_as_can_be():
    shown = show(picture(), torch.tensor([(3.0, 4.0)]), torch.zeros(0, 2))
    assert shown[6:].flatten(1).unique(dim=1).flatten().tolist() == [0.0, 2.0, UNLIKEST]


def test_a_mixer_draws_where_it_has_learnt_to():
    config = MixerConfig(look_widths=(8, 8), mix_widths=(8, 8), outline_widths=(8, 8, 8), features=4, heads=2)
    assert config.multiple == 8
    mixer = PixelMixer(config, grid=4)
    assert isinstance(mixer.outliner, Outliner) and mixer.draw is not None
    pixels = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
    point = np.array([(3.0, 4.0)])
    drawn = mixer.draw(pixels, point, np.zeros((0, 2)))
    assert drawn.shape == (H, W) and drawn.dtype == np.float32 and 0 < drawn.min() < drawn.max() < 1
    shown = show(torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1, torch.tensor([(3.0, 4.0)]), torch.zeros(0, 2))
    np.testing.assert_array_equal(drawn, mixer.outliner(shown[None])[0].sigmoid().detach())
    assert mixer.draw(pixels[:21, :13], point, point).shape == (21, 13), "of a size that the network does not have"
    assert PixelMixer(MixerConfig(look_widths=(8, 8), mix_widths=(8, 8), features=4, heads=2), grid=4).draw is None
