"""Textures for rendered scenes: augmented crops of photographs, and generated ones, so that models do not
memorise the few photographs.

Textures are float tensors (n, 3, H, W) in [0, 1]. Their parameters are drawn on the CPU, white noise on the
rendering device.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from motionstream.data import photographs
from motionstream.data.draws import Draws

LARGEST_CROP_SCALE = 1.5
SMALLEST_CROP_SCALE = 0.25  # a whole photograph of 512 pixels in a picture of 128
PYRAMID_LEVELS = 3

# Kinds of generated textures and their probabilities.
GENERATED_WEIGHTS = {"noise": 0.3, "pattern": 0.35, "gradient": 0.1, "cells": 0.25}


def _pyramid(name: str, device: torch.device) -> list[Tensor]:
    """The photograph at full, half and quarter size, each (1, 3, H, W) in [0, 1]."""
    picture = torch.from_numpy(photographs.load(name)).to(device).permute(2, 0, 1)[None].float() / 255
    levels = [picture]
    for _ in range(PYRAMID_LEVELS - 1):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return levels


class TextureBank:
    """Draws textures from photographs and from generators.

    names: photographs to crop; without any, all textures are generated. device: of the textures.
    Raises ValueError for an unknown photograph.
    """

    def __init__(self, names: Sequence[str] = photographs.TRAIN, device: torch.device | str = "cpu") -> None:
        self.names = tuple(names)
        self.device = torch.device(device)
        self._pyramids = [_pyramid(name, self.device) for name in self.names]

    def draw(
        self,
        draws: Draws,
        count: int,
        size: tuple[int, int],
        photograph_probability: float = 0.5,
        mixture_probability: float = 0.15,
        recolour_probability: float = 0.6,
    ) -> Tensor:
        """`count` textures of `size` (height, width): float32 (count, 3, height, width) in [0, 1].

        photograph_probability: share of crops of photographs, at random rotation and scale.
        mixture_probability: share made of two textures, one showing through holes in the other.
        recolour_probability: share of photographs whose colours are changed.
        """
        if count == 0:  # several operations do not support empty batches
            return torch.zeros(0, 3, *size, device=self.device)
        noise = torch.Generator(self.device).manual_seed(draws.seed())
        mixed = draws.chance(mixture_probability, count).nonzero()[:, 0]
        total = count + len(mixed)
        textures = torch.empty(total, 3, *size, device=self.device)

        cut = draws.chance(photograph_probability if self.names else 0.0, total)
        kinds = draws.choice(tuple(GENERATED_WEIGHTS.values()), total)
        self._photographs(draws, textures, cut.nonzero()[:, 0])
        for kind, generate in enumerate(_GENERATORS):
            chosen = (~cut & (kinds == kind)).nonzero()[:, 0]
            if len(chosen):
                textures[chosen.to(self.device)] = generate(draws, len(chosen), size, noise)

        changed = (cut & draws.chance(recolour_probability, total)).nonzero()[:, 0].to(self.device)
        textures[changed] = recolour(draws, textures[changed])
        if len(mixed):
            mask = spectral_noise(draws, len(mixed), 1, size, noise, exponent=(1.8, 2.4))
            holes = (mask * 4 - 1).sigmoid()
            target = mixed.to(self.device)
            textures[target] = torch.lerp(textures[target], textures[count:], holes)
        return _enliven(textures[:count])

    def _photographs(self, draws: Draws, textures: Tensor, chosen: Tensor) -> None:
        """Fill textures[chosen] with crops at random position, scale and mirroring; two thirds are nearly upright."""
        count, size = len(chosen), textures.shape[-2:]
        which = draws.integers(0, max(len(self.names) - 1, 0), count)
        place = draws.uniform(0.0, 1.0, count, 2)
        share = draws.uniform(0.0, 1.0, count) ** 2  # favours small scales, which are sharper and show whole things
        turn = torch.where(draws.chance(0.67, count), draws.uniform(-0.1, 0.1, count), draws.angle(count))
        mirror = 1 - 2 * draws.chance(0.5, count).float()
        for i in range(count):
            levels = self._pyramids[int(which[i])]
            height, width = levels[0].shape[-2:]
            # The smallest scale at which the rotated crop still fits into the photograph.
            cos, sin = abs(math.cos(turn[i])), abs(math.sin(turn[i]))
            reach = (size[1] * cos + size[0] * sin, size[1] * sin + size[0] * cos)
            least = max(SMALLEST_CROP_SCALE, reach[0] / (width - 1), reach[1] / (height - 1))
            scale = least * max(LARGEST_CROP_SCALE / least, 1.0) ** float(share[i])
            level = min(max(round(-math.log2(scale)), 0), PYRAMID_LEVELS - 1)
            half = (0.5 * reach[0] / scale, 0.5 * reach[1] / scale)
            centre = [
                (side - 1) / 2 + (2 * float(place[i, axis]) - 1) * max((side - 1) / 2 - half[axis], 0.0)
                for axis, side in enumerate((width, height))
            ]
            grid = _crop_grid(size, centre, 1 / scale, float(turn[i]), float(mirror[i]), (height, width))
            sampled = F.grid_sample(levels[level], grid.to(self.device), padding_mode="reflection", align_corners=False)
            textures[int(chosen[i])] = sampled[0]


def _crop_grid(
    size: Sequence[int],
    centre: Sequence[float],
    step: float,
    turn: float,
    mirror: float,
    source: tuple[int, int],
) -> Tensor:
    """Positions of a crop's pixels in the photograph: (1, height, width, 2) for grid_sample with
    align_corners=False.

    centre (x, y) and step, the distance between neighbouring pixels, are in the photograph's pixels.
    """
    y = (torch.arange(size[0]) - (size[0] - 1) / 2)[:, None] * step
    x = (torch.arange(size[1]) - (size[1] - 1) / 2)[None] * (step * mirror)
    cos, sin = math.cos(turn), math.sin(turn)
    across = centre[0] + cos * x - sin * y
    down = centre[1] + sin * x + cos * y
    return torch.stack(((2 * across + 1) / source[1] - 1, (2 * down + 1) / source[0] - 1), -1)[None]


def recolour(draws: Draws, textures: Tensor) -> Tensor:
    """Randomly change the colours of textures (n, 3, H, W) in [0, 1]: hue, saturation, gain, offset, gamma.

    Grey pictures get a tint.
    """
    count, device = len(textures), textures.device
    grey = torch.full((3, 3), 1 / 3)
    # A rotation about the grey axis (Rodrigues' formula) changes the hue, scaling perpendicular to it the saturation.
    # Half of the hues stay near the original, so that natural colours remain the most frequent.
    angle = torch.where(draws.chance(0.5, count, 1, 1), 0.4 * draws.normal(count, 1, 1), draws.angle(count, 1, 1))
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    hue = angle.cos() * (torch.eye(3) - grey) + angle.sin() * cross
    matrix = grey + draws.uniform(0.3, 1.5, count, 1, 1) * hue + 0.08 * draws.normal(count, 3, 3)
    matrix = matrix * draws.uniform(0.7, 1.2, count, 3, 1)
    offset = draws.uniform(-0.12, 0.12, count, 3, 1, 1)
    inverted = draws.chance(0.1, count)
    matrix[inverted], offset[inverted] = -matrix[inverted], offset[inverted] + 1
    gamma = draws.log_uniform(0.6, 1.6, count, 1, 1, 1)
    mixed = torch.einsum("nij,njhw->nihw", matrix.to(device), textures) + offset.to(device)
    return mixed.clamp(0, 1).pow(gamma.to(device))


def _enliven(textures: Tensor, mean: float = 0.2, deviation: float = 0.05) -> Tensor:
    """Increase brightness and contrast of textures (n, 3, H, W) too dark or flat to be seen or tracked."""
    spread, level = torch.std_mean(textures.mean(1), dim=(1, 2))
    gain = (deviation / spread.clamp(min=1e-4)).clamp(1.0, 3.0)[:, None, None, None]
    level = level[:, None, None, None]
    return ((textures - level) * gain + level.clamp(min=mean)).clamp(0, 1)


def palette(draws: Draws, count: int, colours: int) -> Tensor:
    """Random colours (count, colours, 3) in [0, 1]: per palette a common tint, varied in hue and brightness."""
    base = draws.uniform(0.0, 1.0, count, 1, 3)
    own = draws.uniform(0.0, 1.0, count, colours, 3)
    mixed = torch.lerp(base.expand_as(own), own, draws.uniform(0.2, 1.0, count, 1, 1))
    return (mixed * draws.uniform(0.5, 1.2, count, colours, 1)).clamp(0, 1)


def spectral_noise(
    draws: Draws,
    count: int,
    channels: int,
    size: tuple[int, int],
    noise: torch.Generator,
    exponent: tuple[float, float] = (0.7, 1.8),
) -> Tensor:
    """Noise with amplitude ~ frequency ** -exponent: (count, channels, H, W), mean 0, standard deviation 1."""
    height, width = (-(-side // 32) * 32 for side in size)  # sizes with small prime factors, for the transform
    white = torch.randn(count, channels, height, width, device=noise.device, generator=noise)
    fy = torch.fft.fftfreq(height, device=noise.device)[:, None]
    fx = torch.fft.rfftfreq(width, device=noise.device)[None]
    squared = fy.square() + fx.square()  # cycles per pixel, squared
    # Flat below three periods per texture, so that no slow wave dominates the detail; and decaying towards
    # half a cycle per pixel, which sub-pixel shifts could not preserve.
    slope = -0.5 * squared.clamp(min=9.0 / max(height, width) ** 2).log()
    fade = -(squared / 0.4**2).square()
    power = draws.uniform(*exponent, count, 1, 1, 1).to(noise.device)
    field = torch.fft.irfft2(torch.fft.rfft2(white) * (power * slope + fade).exp(), s=(height, width))
    field = field[..., : size[0], : size[1]]
    deviation, mean = torch.std_mean(field, dim=(2, 3), keepdim=True)
    return (field - mean) / deviation


def _noise(draws: Draws, count: int, size: tuple[int, int], noise: torch.Generator) -> Tensor:
    """Clouds, stone, grain: coloured spectral noise, sometimes folded into veins."""
    device = noise.device
    field = spectral_noise(draws, count, 3, size, noise)
    folded = draws.chance(0.3, count, 1, 1, 1).to(device)
    field = torch.where(folded, 2 * field.abs() - 1.5, field)
    # One strong direction in colour space, close to brightness as in most real surfaces, and two weaker ones.
    axes = draws.normal(count, 3, 3) + torch.tensor((1.5, 0.0, 0.0))
    axes = axes / axes.norm(dim=1, keepdim=True) * torch.tensor((1.0, 0.35, 0.2))
    strength = draws.log_uniform(0.06, 0.3, count, 1, 1)
    mean = palette(draws, count, 1)[:, 0, :, None, None] * 0.7 + 0.15
    return (torch.einsum("nij,njhw->nihw", (axes * strength).to(device), field) + mean.to(device)).clamp(0, 1)


def _coordinates(draws: Draws, count: int, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixel coordinates (count, H, W), randomly rotated and shifted, sometimes slightly bent."""
    y = torch.arange(size[0], device=device, dtype=torch.float32)[:, None]
    x = torch.arange(size[1], device=device, dtype=torch.float32)[None]
    angle = draws.angle(count, 1, 1).to(device)
    shift = draws.uniform(0.0, 100.0, 2, count, 1, 1).to(device)
    u = angle.cos() * x - angle.sin() * y + shift[0]
    v = angle.sin() * x + angle.cos() * y + shift[1]
    bend = (draws.uniform(0.0, 6.0, count, 1, 1) * draws.chance(0.5, count, 1, 1)).to(device)
    wave = (2 * math.pi / draws.uniform(40.0, 120.0, count, 1, 1)).to(device)
    return u + bend * (wave * v).sin(), v + bend * (wave * u).cos()


def _overlay(draws: Draws, textures: Tensor, noise: torch.Generator) -> Tensor:
    """Add grain, so that flat areas can be tracked."""
    count = len(textures)
    grain = spectral_noise(draws, count, 1, (textures.shape[-2], textures.shape[-1]), noise, (0.5, 1.5))
    return (textures + draws.uniform(0.01, 0.08, count, 1, 1, 1).to(noise.device) * grain).clamp(0, 1)


def _pattern(draws: Draws, count: int, size: tuple[int, int], noise: torch.Generator) -> Tensor:
    """Stripes, checks and dots in two colours, with edges one pixel wide."""
    device = noise.device
    u, v = _coordinates(draws, count, size, device)
    period = draws.log_uniform(8.0, 40.0, count, 1, 1).to(device)
    duty = draws.uniform(-0.5, 0.5, count, 1, 1).to(device)
    wave_u, wave_v = (2 * math.pi * u / period).sin(), (2 * math.pi * v / period).sin()
    sharpness = period / (2 * math.pi)  # turns a wave's value near zero into pixels from the edge
    cell_u, cell_v = (side / period - (side / period).round() for side in (u, v))
    radius = (0.2 + 0.2 * (duty + 0.5)) * period
    fields = torch.stack(
        (
            (wave_u + duty) * sharpness,
            wave_u * wave_v * sharpness,
            radius - (cell_u.square() + cell_v.square()).sqrt() * period,
        )
    )
    kind = draws.choice((0.4, 0.3, 0.3), count).to(device)
    field = fields[kind, torch.arange(count, device=device)]
    colours = palette(draws, count, 2).to(device)[..., None, None]
    share = (0.5 + field).clamp(0, 1)[:, None]
    return _overlay(draws, torch.lerp(colours[:, 0], colours[:, 1], share), noise)


def _gradient(draws: Draws, count: int, size: tuple[int, int], noise: torch.Generator) -> Tensor:
    """A smooth gradient between three colours, with grain."""
    device = noise.device
    u, v = _coordinates(draws, count, size, device)
    u, v = (side - side.mean((1, 2), keepdim=True) for side in (u, v))
    round_ = draws.chance(0.4, count, 1, 1).to(device)
    field = torch.where(round_, (u.square() + v.square()).sqrt(), u + 0.5 * max(size))
    along = (field / max(size)).clamp(0, 1)[:, None] * 2
    first, second, third = palette(draws, count, 3).to(device)[..., None, None].unbind(1)
    blend = torch.lerp(first, second, along.clamp(max=1))
    return _overlay(draws, torch.lerp(blend, third, (along - 1).clamp(min=0)), noise)


def _cells(draws: Draws, count: int, size: tuple[int, int], noise: torch.Generator) -> Tensor:
    """Voronoi cells, each of one colour: stones, tiles, patches."""
    device, sites = noise.device, 48
    y = torch.arange(size[0], device=device, dtype=torch.float32)
    x = torch.arange(size[1], device=device, dtype=torch.float32)
    spread = draws.uniform(1.0, 2.0, count, 1, 1)  # the more sites lie outside, the larger the cells inside
    place = (draws.uniform(-0.5, 0.5, count, sites, 2) * spread + 0.5) * torch.tensor((size[1], size[0]))
    place = place.to(device)
    down = (y - place[..., 1:]).square()
    across = (x - place[..., :1]).square()
    # A softmax over the sites antialiases the edges: between sites 20 pixels apart they are about a pixel wide.
    logits = -0.12 * (down[..., :, None] + across[..., None, :])  # n, sites, H, W
    weights = logits.softmax(1)
    colours = palette(draws, count, sites).to(device)
    return _overlay(draws, torch.einsum("nshw,nsc->nchw", weights, colours), noise)


_GENERATORS: tuple[Callable[[Draws, int, tuple[int, int], torch.Generator], Tensor], ...] = (
    _noise,
    _pattern,
    _gradient,
    _cells,
)
