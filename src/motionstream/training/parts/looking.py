"""Pretrains the pixel mixer's features, by which it decides which pixels belong to one thing, on still pictures.

Which pixels move along with a drag can be learned from single frames, which are much faster to render than clips:
gestures grasp some points of the picture, and every point is compared with the nearest grasped one. The renderer knows
which points are on the same thing. ``mixer.py`` continues the training on clips.

Legend: B batch, G gestures, P points of the renderer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from motionstream.carry.candidates import warp
from motionstream.carry.pixel_mixer import PixelMixer
from motionstream.carry.relations import describe
from motionstream.data.compositing import covering
from motionstream.data.procedural import SceneConfig, draw_scene, render_scene
from motionstream.data.textures import TextureBank
from motionstream.pixels import to_float
from motionstream.tracks.sampling import TrackMix, sample_press, subset
from motionstream.training.clips.keyed_loader import KeyedLoader, of_step
from motionstream.training.loop.distributed import keyed_generator, shard
from motionstream.training.loop.stage import Stage

GESTURES = 4
"""Number of gestures on each picture; the last is on the background."""
MOST_POINTS = 64
"""Largest number of points that a gesture grasps."""
HELD_OUT_SEED = 77_000_000


@dataclass(frozen=True)
class Gestures:
    """``pictures`` (B, 3, H, W) in [−1, 1] with ``points`` (B, P, 2) in pixels. For each gesture and point (B, G, P):
    ``nearest``, the index of the nearest grasped point; its ``distance`` in pixels; and ``same``, whether both are on
    the same thing."""

    pictures: Tensor
    points: Tensor
    nearest: Tensor
    distance: Tensor
    same: Tensor

    @classmethod
    def join(cls, parts: list[Gestures]) -> Gestures:
        """Concatenate batches."""
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})

    def to(self, device: torch.device) -> Gestures:
        return Gestures(**{name: values.to(device) for name, values in vars(self).items()})


def still_pictures(scene: SceneConfig) -> SceneConfig:
    """The same scenes as single frames with at least one thing, and a point for every second pixel in both directions.

    Without parallax: planes in front of the background would be things that the renderer's layers do not include.
    """
    return replace(
        scene,
        frames=1,
        sprites=(max(1, scene.sprites[0]), max(1, scene.sprites[1])),
        background_grid=max(scene.size) // 2,
        sprite_grid=1,
        static_camera_probability=1.0,
        parallax_probability=0.0,
    )


def rendered_gestures(
    scene: SceneConfig,
    radius: tuple[float, float],
    bank: TextureBank,
    seed: int,
    generator: torch.Generator,
    *,
    batch: int = 1,
) -> Gestures:
    """Render pictures and grasp things in them. ``radius``: of a gesture, see ``TrackMix``."""
    drawn = draw_scene(scene, batch, seed, bank)
    clips, lattice = render_scene(drawn, scene), scene.background_grid**2
    places, layer = clips.positions[:, 0, :lattice], clips.layer[:, :lattice]
    covered = covering(drawn.sprites, places[:, None])[:, 0]
    layer = torch.where(covered > 0, covered, layer)
    nearest, distance, same = [], [], []
    for clip in range(batch):
        for gesture in range(GESTURES):
            wanted = layer[clip] == 0 if gesture == GESTURES - 1 else layer[clip] > 0
            area = wanted if wanted.any() else torch.ones_like(wanted)  # things or background may be hidden
            held = sample_press(places[clip], area, layer[clip], radius, generator)
            held = subset(held, MOST_POINTS, generator)
            apart, which = _distances(places[clip], places[clip, held]).min(dim=1)
            nearest.append(held[which])
            distance.append(apart)
            same.append(layer[clip] == layer[clip, held[0]])
    told = [torch.stack(x).unflatten(0, (batch, GESTURES)) for x in (nearest, distance, same)]
    return Gestures(to_float(clips.video)[:, :, 0], places, *told)


def _distances(these: Tensor, those: Tensor) -> Tensor:
    return torch.cdist(these, those, compute_mode="donot_use_mm_for_euclid_dist")


class _Rendered(Dataset):
    """One picture and its gestures for each (step, sample). Runs in worker processes."""

    def __init__(self, scene: SceneConfig, radius: tuple[float, float], textures: tuple[str, ...], seed: int) -> None:
        self.scene, self.radius, self.textures, self.seed = scene, radius, textures, seed
        self._bank: TextureBank | None = None

    def __getitem__(self, key: tuple[int, int]) -> Gestures:
        self._bank = self._bank or TextureBank(self.textures)
        generator = keyed_generator("look", self.seed, *key)
        seed = int(torch.randint(2**62, (), generator=generator))
        return rendered_gestures(self.scene, self.radius, self._bank, seed, generator)


class LookStage(Stage):
    """Trains only ``look`` and ``alike`` of a pixel mixer. See the module's docstring.

    Args:
        scene: configuration of the clips, changed to still pictures here. mix: gives the radius of gestures.
    """

    def __init__(
        self,
        mixer: PixelMixer,
        scene: SceneConfig,
        mix: TrackMix,
        textures: tuple[str, ...],
        held_out: tuple[str, ...],
        *,
        batch: int,
        seed: int,
        workers: int,
    ) -> None:
        super().__init__(nn.ModuleList([mixer.look, mixer.alike]))
        self.mixer, self.batch = mixer, batch
        scene = still_pictures(scene)
        made = _Rendered(scene, mix.radius, textures, seed)
        self._loader: KeyedLoader[tuple[int, int], Gestures] = KeyedLoader(made, workers=workers, ahead=2 * batch)
        generator = torch.Generator().manual_seed(0)
        self.held = rendered_gestures(scene, mix.radius, TextureBank(held_out), HELD_OUT_SEED, generator, batch=64)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        gestures = self._gestures(step).to(next(self.module.parameters()).device)
        return F.binary_cross_entropy_with_logits(self.logits(gestures), gestures.same.float()), {}

    def _gestures(self, step: int) -> Gestures:
        return Gestures.join(of_step(self._loader, step, list(shard(self.batch))))

    def logits(self, gestures: Gestures) -> Tensor:
        """Logits (B, G, P) that a point is on the thing that a gesture grasps."""
        seen = self.mixer.see(gestures.pictures[:, None])
        size = torch.tensor(gestures.pictures.shape[:-3:-1], device=seen.device)
        points = 2 * (gestures.points + 0.5) / size - 1
        here = warp(seen, points[:, None, None])[:, :, 0, 0].mT  # (B, P, C)
        rows = gestures.nearest.flatten(1)[..., None].expand(-1, -1, here.shape[-1])
        there = here.gather(1, rows).unflatten(1, gestures.nearest.shape[1:])
        products = (there * here[:, None]).unflatten(-1, (self.mixer.config.heads, -1)).sum(dim=-1)
        still = torch.zeros(*gestures.distance.shape, 2, device=seen.device)
        logits: Tensor = self.mixer.alike(torch.cat([products, describe(gestures.distance, still)], dim=-1))
        return logits[..., 0].float()

    @torch.no_grad()
    def validate(self, module: nn.Module) -> dict[str, float]:
        """On scenes with held-out photographs: the share of points classified correctly, and the mean intersection over
        union (IoU) of the points found on the grasped things, without the background."""
        gestures = self.held.to(next(module.parameters()).device)
        found, same = self.logits(gestures) > 0, gestures.same
        things = ((found & same).sum(dim=-1) / (found | same).sum(dim=-1))[:, :-1]
        return {"alike_right": float((found == same).float().mean()), "iou": float(things.mean())}
