"""Mixes the candidate pictures pixel by pixel: a network decides which candidate each pixel shows.

Mixing per cell of the latents leaves staircases of 8 pixels and half-transparent doubles. A pixel's choice depends on
where the dragged thing ends and on the ground it has uncovered. So one network, ``look``, gives every pixel of the
source pictures a feature vector, similar for pixels of one thing, and a track's pixel is compared with those that may
have moved along. The masks of ``things.py``, to which another network (``outliner.py``) contributes, give the outlines
that this comparison misses. A further network, ``mix``, weighs the candidates by these likenesses and masks, with a
fourth choice for uncovered ground: the colours around the thing that has left, plus a correction. All are small U-Nets
at half the picture's size.

The mixer is trained separately, on pictures with known truth (``training/parts/mixer.py``), and frozen in all other
stages.
Legend: B batch, K sources, T frames, N tracks, h w half the picture's height and width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from motionstream.carry.candidates import Mixture, left_in_place, sampling_points, warp
from motionstream.carry.filling import surroundings
from motionstream.carry.outliner import Outliner
from motionstream.carry.relations import FAR, CarrySource, Chosen, Relations, with_rims
from motionstream.carry.unet import UNet
from motionstream.config import MixerConfig
from motionstream.tracks.masks import Draw

CANDIDATES = 3
CHOICES = CANDIDATES + 1
DESCRIBED = 4
SURROUNDINGS = 3 + 1
BELONGS = 2  # channels per relation: whether a pixel belongs to the thing, and whether that is known
UNLIKELY = -3.0
"""Initial logit of the fourth choice."""
TRUST = 10.0
"""Constant factor of the learned weights of the masks: at the usual scale of weights they would take long to learn."""
SURE = 8.0
"""The network's own logits are clamped to this magnitude, so that masks can outvote it. On a night sky unlike its
training data it reached 25."""
LEFT = 2.0
"""Displacement scale in pixels over which a thing counts as having left its place."""


@dataclass(frozen=True)
class Mixed(Mixture):
    """``alike`` (B, 3, T, h, w): for each relation (near, far, home), the logit that a pixel's content belongs to the
    track's thing."""

    alike: Tensor


class PixelMixer(nn.Module):
    """See the module's docstring. ``forward`` implements ``candidates.Mixer``.

    Args:
        grid: pixels between look-up places, even.
    """

    def __init__(self, config: MixerConfig, *, grid: int) -> None:
        super().__init__()
        assert grid % 2 == 0
        self.config, self.grid = config, grid
        self.look = UNet(3 * 4, config.look_widths, config.features, kernel=3)
        self.alike = nn.Linear(config.heads + DESCRIBED, 1)
        nn.init.zeros_(self.alike.weight[:, -2:])  # a track's displacement says nothing about what belongs to it
        told = CANDIDATES * (config.heads + DESCRIBED + 1)
        self.mix = UNet(
            3 * 4 * CANDIDATES + CANDIDATES + told + SURROUNDINGS + BELONGS * CANDIDATES,
            config.mix_widths,
            4 * (CHOICES + 3),
        )
        self.trust = nn.Conv2d(BELONGS * CANDIDATES + 1, CHOICES, 1, bias=False)
        nn.init.zeros_(self.trust.weight)
        with torch.no_grad():  # pixels of the thing move along, and are gone from where they were
            self.trust.weight[0, 0] = self.trust.weight[1, 2] = self.trust.weight[3, -1] = 0.3
            self.trust.weight[2, -1] = -0.3
        nn.init.zeros_(self.mix.outlet.weight)
        assert self.mix.outlet.bias is not None
        nn.init.zeros_(self.mix.outlet.bias)
        nn.init.constant_(self.mix.outlet.bias[4 * CANDIDATES : 4 * CHOICES], UNLIKELY)
        self.outliner = Outliner(config.outline_widths) if config.outline_widths else None

    def forward(self, candidates: Tensor, relations: Relations, source: CarrySource) -> Mixture:
        """Mix the candidates; without running a network if nothing moves."""
        if source.start.shape[1] == 0 or _all_rests(relations, source):
            return self._untouched(candidates)
        return self.mix_all(candidates, relations, source)

    def see(self, pictures: Tensor) -> Tensor:
        """Features (B, K, C, h, w) of source pictures (B, K, 3, H, W), independent of the tracks."""
        seen: Tensor = self.look(F.pixel_unshuffle(pictures.flatten(0, 1), 2)).float()
        return seen.unflatten(0, pictures.shape[:2])

    @property
    def draw(self) -> Draw | None:
        """The outliner's ``draw``, None without an outliner."""
        return None if self.outliner is None else self.outliner.draw

    def _untouched(self, candidates: Tensor) -> Mixture:
        """The result without any motion: the static picture alone."""
        static = candidates[:, 2]
        batch, _, frames, height, width = static.shape
        weights = static.new_zeros(batch, CHOICES, frames, height, width)
        weights[:, 2] = 1
        return Mixture(static, weights, torch.zeros_like(static))

    def mix_all(self, candidates: Tensor, relations: Relations, source: CarrySource) -> Mixed:
        """Mix candidates (B, 3, 3, T, H, W) from ``candidates.warp_all``."""
        batch, frames = candidates.shape[0], candidates.shape[3]
        told, alike, belongs = self._compare(relations, source)
        coarse = F.avg_pool2d(belongs, 2)
        flat = candidates.permute(0, 3, 1, 2, 4, 5).flatten(0, 1)  # (B T, 3, 3, H, W)
        gaps = torch.stack([(flat[:, a] - flat[:, b]).abs().mean(dim=1) for a, b in ((0, 2), (1, 2), (0, 1))], dim=1)
        seen = F.pixel_unshuffle(flat.flatten(1, 2), 2)
        gone = self._gone(relations.home, alike[:, 2:], belongs[:, -BELONGS:], flat.shape[-2:])
        away = F.avg_pool2d(gone, 2)
        behind = self._behind(flat[:, 2], away, gone * belongs[:, -1:], source)
        around = F.avg_pool2d(behind, 2)
        out = self.mix(torch.cat([seen, F.avg_pool2d(gaps, 2), told, around, away, coarse], dim=1)).float()
        near, far, static, other = (
            TRUST * self.trust(torch.cat([belongs, gone * belongs[:, -1:]], dim=1)).float()
        ).split(1, dim=1)
        # without a far track the second candidate equals the static one, so the mask's verdict on that applies
        alone = _to_pixels(relations.far.distance >= FAR, flat.shape[-2:], self.grid).flatten(0, 1)[:, None]
        known = torch.cat([near, torch.where(alone, static, far), static, other], dim=1)
        logits = F.pixel_shuffle(out[:, : 4 * CHOICES], 2).clamp(-SURE, SURE) + known
        # without a near or home track only the static candidate is allowed, so it is reproduced exactly
        nothing = (relations.near.distance >= FAR) & (relations.home.distance >= FAR)
        nothing = _to_pixels(nothing, flat.shape[-2:], self.grid).flatten(0, 1)[:, None]
        moved = torch.tensor([True, True, False, True], device=logits.device)[:, None, None]
        weights = logits.masked_fill(nothing & moved, -torch.inf).softmax(dim=1)
        fill = F.pixel_shuffle(out[:, 4 * CHOICES :], 2) + behind
        pictures = (weights[:, :CANDIDATES, None] * flat).sum(dim=1) + weights[:, CANDIDATES:] * fill

        def whole(x: Tensor) -> Tensor:
            return x.unflatten(0, (batch, frames)).transpose(1, 2)

        return Mixed(whole(pictures), whole(weights), whole(fill), whole(alike))

    def _compare(self, relations: Relations, source: CarrySource) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of ``mix`` from the relations, (B T, channels, h, w); logits (B T, 3, h, w); and the result of
        ``_belongs`` for each relation, (B T, 6, H, W)."""
        seen = self.see(source.pictures) if source.seen is None else source.seen
        starts, size = self._at_starts(seen, source), source.pictures.shape[-2:]
        told, alike, belongs = [], [], []
        things = None if source.things is None else with_rims(source.things)
        for chosen, moves in ((relations.near, True), (relations.far, True), (relations.home, False)):
            points = sampling_points(chosen, source, grid=self.grid) if moves else None
            here = left_in_place(seen, source.static) if points is None else warp(seen, _halved(points))
            here = here.transpose(1, 2).flatten(0, 1)
            likeness = self._likeness(here, starts, chosen, size)
            features = torch.cat([likeness, self._maps(chosen.describe(), size)], dim=1)
            logit = self.alike(features.movedim(1, -1)).movedim(-1, 1).float()
            told += [features, torch.tanh(logit / 4)]
            alike.append(logit)
            belongs.append(self._belongs(things, source, chosen, points))
        return torch.cat(told, dim=1), torch.cat(alike, dim=1), torch.cat(belongs, dim=1)

    def _belongs(self, things: Tensor | None, source: CarrySource, chosen: Chosen, points: Tensor | None) -> Tensor:
        """Whether each pixel belongs to the chosen track's thing, (B T, 2, H, W): a value from −1 to 1, 0 if unknown,
        and whether it is known. ``things`` (B, K, M, H, W): the masks; ``points``: where to sample them, from
        ``sampling_points``, or None for the static pictures' masks in place."""
        (batch, frames), size = source.static.shape, source.pictures.shape[-2:]
        if things is None or source.thing is None or source.thing.shape[2] == 0:
            return torch.zeros(batch * frames, BELONGS, *size, device=chosen.track.device)
        which = torch.where(chosen.distance < FAR, source.thing.gather(2, chosen.track), -1)
        row = _to_pixels(which, size, self.grid)
        known = (row >= 0).float()[:, None]
        if points is None:
            value = left_in_place(things, source.static).gather(1, row[:, None].clamp(min=0))
        else:
            picture = _to_pixels(chosen.picture, size, self.grid)
            value = _of_thing(_without_border(things), points, picture, row.clamp(min=0))
        return torch.cat([(2 * value - 1) * known, known], dim=1).transpose(1, 2).flatten(0, 1)

    def _gone(self, home: Chosen, alike: Tensor, belongs: Tensor, size: torch.Size) -> Tensor:
        """Probability (B T, 1, H, W) that a pixel of the static picture belongs to a thing that has left; ``alike``
        (B T, 1, h, w): logit that it belongs to the thing of the home track; ``belongs``: the masks' verdict."""
        left = 1 - torch.exp(-home.move.square().sum(dim=-1) / (2 * LEFT**2))
        value, known = belongs.split(1, dim=1)
        told = torch.where(known > 0, (value + 1) / 2, torch.sigmoid(_doubled(alike)))
        return told * _to_pixels(left, size, self.grid).flatten(0, 1)[:, None]

    def _behind(self, static: Tensor, away: Tensor, known: Tensor, source: CarrySource) -> Tensor:
        """The ground that a thing, gone with probability ``away`` (B T, 1, h, w), uncovers in the static picture
        (B T, 3, H, W): its surroundings, or where a mask says so, ``known`` (B T, 1, H, W), the healed picture."""
        around = _doubled(surroundings(F.avg_pool2d(static, 2), away))
        if source.healed is None:
            return around
        healed = left_in_place(source.healed, source.static).transpose(1, 2).flatten(0, 1)
        return torch.lerp(around, healed, known)

    def _at_starts(self, seen: Tensor, source: CarrySource) -> Tensor:
        """Features (B, N, C) at each track's start."""
        sources, height, width = source.pictures.shape[1], *source.pictures.shape[-2:]
        x = source.start[..., 0].clamp(0, width - 1)
        y = source.start[..., 1].clamp(0, height - 1) + source.index * height
        points = torch.stack([2 * (x + 0.5) / width - 1, 2 * (y + 0.5) / (sources * height) - 1], dim=-1)
        return warp(seen, points[:, None, None])[:, :, 0, 0].transpose(1, 2)

    def _likeness(self, here: Tensor, starts: Tensor, chosen: Chosen, size: torch.Size) -> Tensor:
        """Dot products per head (B T, heads, h, w) of the features ``here`` (B T, C, h, w) with those at the chosen
        tracks' starts."""
        heads = self.config.heads
        if starts.shape[1] == 0:
            return here.new_zeros(here.shape[0], heads, *here.shape[2:])
        rows = chosen.track.flatten(1)[..., None].expand(-1, -1, starts.shape[2])
        there = starts.gather(1, rows).unflatten(1, chosen.track.shape[1:])
        # (B T, C, look-up rows, 1, look-up columns, 1), not repeated for every pixel of a look-up place
        there = there.movedim(3, 2).unflatten(3, (size[0] // self.grid, 1, size[1] // self.grid, 1)).flatten(0, 1)
        here = here.unflatten(3, (-1, self.grid // 2)).unflatten(2, (-1, self.grid // 2))
        return (there * here).unflatten(1, (heads, -1)).sum(dim=2).flatten(4, 5).flatten(2, 3)

    def _maps(self, features: Tensor, size: torch.Size) -> Tensor:
        """Features (B, T, G, C) of look-up places → (B T, C, h, w)."""
        maps = features.movedim(3, 2).unflatten(3, (size[0] // self.grid, size[1] // self.grid)).flatten(0, 1)
        return F.interpolate(maps, scale_factor=self.grid // 2, mode="nearest")


def _all_rests(relations: Relations, source: CarrySource) -> bool:
    """Whether every track is where it is in the static picture."""
    near, home = relations.near, relations.home
    here = (near.move == 0).all() & (near.picture == source.static[:, :, None]).all() & (home.move == 0).all()
    return bool(here & (relations.far.distance >= FAR).all())


def _of_thing(things: Tensor, points: Tensor, picture: Tensor, row: Tensor) -> Tensor:
    """Sample masks (B, K, M, H, W) at ``points`` (B, T, H, W, 2) from ``sampling_points``, each pixel from the mask of
    its ``picture`` and ``row``, both (B, T, H, W): (B, 1, T, H, W). Masks are stacked, so that one channel is sampled
    instead of M."""
    sources, rows = things.shape[1:3]
    x, y = points.unbind(-1)
    y = (y + 1) / 2 * sources + picture * (rows - 1) + row  # in heights of one picture, within the stack
    return warp(things.flatten(1, 2)[:, :, None], torch.stack([x, 2 * y / (sources * rows) - 1], dim=-1))


def _without_border(masks: Tensor) -> Tensor:
    """Clear the masks' border pixels: sampling repeats the border outside of a picture, where there is no thing."""
    return F.pad(masks[..., 1:-1, 1:-1], (1, 1, 1, 1))


def _doubled(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


def _halved(points: Tensor) -> Tensor:
    """Average sampling points over 2×2 pixels: (B, T, H, W, 2) → (B, T, h, w, 2). The four share a look-up place, so
    their mean is the point between them."""
    flat = points.flatten(0, 1).permute(0, 3, 1, 2)
    return F.avg_pool2d(flat, 2).permute(0, 2, 3, 1).unflatten(0, points.shape[:2])


def _to_pixels(values: Tensor, size: torch.Size, grid: int) -> Tensor:
    """Values (B, T, G) of look-up places → (B, T, H, W)."""
    maps = values.unflatten(2, (size[0] // grid, size[1] // grid))
    return maps.repeat_interleave(grid, dim=2).repeat_interleave(grid, dim=3)
