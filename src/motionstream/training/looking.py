"""Training what the pixel mixer sees, by itself: which pixels are of one thing.

What goes along with a drag can be asked of a still picture, of which far more are seen in the same time than clips: one
frame is rendered, gestures take hold of some of its points as a press would, and every other point is compared with the
nearest of those. The renderer knows which are of the same thing. ``mixer.py`` goes on from here.

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
from motionstream.tracks.sampling import TrackMix, sample_press, subset
from motionstream.training.clips import to_float
from motionstream.training.distributed import keyed_generator, shard
from motionstream.training.keyed_loader import KeyedLoader, of_step
from motionstream.training.stage import Stage

GESTURES = 4
"""On each picture; the last of them on the background."""
MOST_POINTS = 64
"""That one of them holds."""
HELD_OUT_SEED = 77_000_000


@dataclass(frozen=True)
class Gestures:
    """``pictures`` (B, 3, H, W) in [−1, 1] with ``points`` (B, P, 2) in pixels. For each gesture and point (B, G, P):
    which point it is compared with, ``nearest``, at what ``distance`` in pixels, and whether both are of the ``same``
    thing."""

    pictures: Tensor
    points: Tensor
    nearest: Tensor
    distance: Tensor
    same: Tensor

    @classmethod
    def join(cls, parts: list[Gestures]) -> Gestures:
        """Batches joined into one."""
        return cls(**{name: torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])})

    def to(self, device: torch.device) -> Gestures:
        return Gestures(**{name: values.to(device) for name, values in vars(self).items()})


def still_pictures(scene: SceneConfig) -> SceneConfig:
    """The same scenes as single frames, with things in each, and a point for every second pixel of a row or column.

    Nothing stands before the background: planes nearer than it are things of which the renderer does not tell.
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
    """Render pictures and take hold of things in them. ``radius``: of a gesture, as of a ``TrackMix``."""
    drawn = draw_scene(scene, batch, seed, bank)
    clips, lattice = render_scene(drawn, scene), scene.background_grid**2
    places, layer = clips.positions[:, 0, :lattice], clips.layer[:, :lattice]
    covered = covering(drawn.sprites, places[:, None])[:, 0]
    layer = torch.where(covered > 0, covered, layer)
    nearest, distance, same = [], [], []
    for clip in range(batch):
        for gesture in range(GESTURES):
            wanted = layer[clip] == 0 if gesture == GESTURES - 1 else layer[clip] > 0
            area = wanted if wanted.any() else torch.ones_like(wanted)  # all may be covered, or lie outside
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
    """One picture by (step, sample). Runs in worker processes."""

    def __init__(self, scene: SceneConfig, radius: tuple[float, float], textures: tuple[str, ...], seed: int) -> None:
        self.scene, self.radius, self.textures, self.seed = scene, radius, textures, seed
        self._bank: TextureBank | None = None

    def __getitem__(self, key: tuple[int, int]) -> Gestures:
        self._bank = self._bank or TextureBank(self.textures)
        generator = keyed_generator("look", self.seed, *key)
        seed = int(torch.randint(2**62, (), generator=generator))
        return rendered_gestures(self.scene, self.radius, self._bank, seed, generator)


class LookStage(Stage):
    """The looking part of a pixel mixer by itself. See the module's docstring.

    Args:
        mixer: trained are its ``look`` and ``alike`` alone.
        scene: what clips are like; made still here. mix: how large gestures are.
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
        """That a point is of the thing that a gesture took hold of, (B, G, P)."""
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
        """On held-out photographs: the share of points told apart rightly, and of a thing on which a gesture took hold
        the points found, over those found or its own (IoU)."""
        gestures = self.held.to(next(module.parameters()).device)
        found, same = self.logits(gestures) > 0, gestures.same
        things = ((found & same).sum(dim=-1) / (found | same).sum(dim=-1))[:, :-1]
        return {"alike_right": float((found == same).float().mean()), "iou": float(things.mean())}
