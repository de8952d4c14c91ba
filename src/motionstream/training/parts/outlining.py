"""Trains the outliner (``carry/outliner.py``) alone, which predicts the mask of the thing under a drag.

Training uses rendered still pictures with simulated grasps; the renderer knows each thing's mask. Axes: P grasps,
N points of a grasp, M points known to be off the thing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from motionstream.carry.outliner import Outliner, show
from motionstream.data.compositing import covering
from motionstream.data.procedural import SceneConfig, draw_scene, render_scene
from motionstream.data.textures import TextureBank
from motionstream.pixels import to_float
from motionstream.training.clips.keyed_loader import KeyedLoader, of_step
from motionstream.training.loop.distributed import keyed_generator, shard
from motionstream.training.loop.stage import Stage
from motionstream.training.parts.looking import HELD_OUT_SEED, still_pictures

GRASPS = 2
"""Number of grasps of each thing."""
LEAST = 60
"""Smallest area of a thing that is grasped, in pixels of a 128×128 picture."""
RADIUS, MOST_POINTS = (3.0, 16.0), 20
"""Smallest and largest radius of a grasp, in pixels of a 128×128 picture, and the largest number of its points."""
SPILT = 0.4
"""Share of grasps whose points may miss the thing; those of the others are all on it, like its tracks."""
ALONE, OTHERS, OTHERS_RADIUS, OTHER_POINTS = 0.15, 3, 10.0, 9
"""Share of grasps without points off the thing. The others have 1 to ``OTHERS`` groups of 1 to ``OTHER_POINTS`` such
points, within ``OTHERS_RADIUS`` pixels of a 128×128 picture."""
SIZES = (7.0, 0.4)
"""Radius of the smallest things in pixels of a 128×128 picture, and of the largest as a share of the picture's shorter
side. Things in photographs may be larger than clips have room for."""
CROSS_ENTROPY = 2.0
"""Weight of the cross-entropy, relative to the loss of the intersection over union."""


@dataclass(frozen=True)
class Grasps:
    """``shown`` (P, 9, H, W): the outliner's input; ``things``, bool (P, H, W): masks of the grasped things; ``share``
    (P,): one over the number of grasps in the same picture; ``pictures``: number of pictures, including those without
    grasps."""

    shown: Tensor
    things: Tensor
    share: Tensor
    pictures: int

    @classmethod
    def join(cls, parts: list[Grasps]) -> Grasps:
        """Concatenate batches."""
        shown, things, share = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("shown", "things", "share")
        )
        return cls(shown, things, share, sum(part.pictures for part in parts))

    def to(self, device: torch.device) -> Grasps:
        return Grasps(self.shown.to(device), self.things.to(device), self.share.to(device), self.pictures)

    def mean(self, values: Tensor) -> Tensor:
        """Average values of grasps (P,) over the grasps of each picture (0 if it has none), then over pictures. In a
        mean over all grasps, a picture's weight would depend on the others in its part of the batch."""
        return (self.share * values).sum() / self.pictures


def pictures_to_grasp(scene: SceneConfig) -> SceneConfig:
    """The same scenes as single frames, with things of many sizes."""
    side = min(scene.size)
    return replace(still_pictures(scene), background_grid=1, sprite_radius=(SIZES[0] * side / 128, SIZES[1] * side))


def rendered_grasps(
    scene: SceneConfig, bank: TextureBank, seed: int, generator: torch.Generator, *, batch: int = 1
) -> Grasps:
    """Render pictures and grasp each thing in them that is large enough; pictures without any give no grasps."""
    drawn = draw_scene(scene, batch, seed, bank)
    pictures = to_float(render_scene(drawn, scene).video)[:, :, 0]
    height, width = scene.size
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([columns, rows], dim=-1).float().view(1, 1, -1, 2).to(pictures.device)
    layers = covering(drawn.sprites, places.expand(batch, -1, -1, -1)).view(batch, height, width).cpu()
    things: list[Tensor] = []
    shown = [pictures.new_zeros(0, *show(pictures[0], places[0, 0, :0], places[0, 0, :0]).shape)]
    counts: list[int] = []
    for picture, layer in zip(pictures, layers, strict=True):
        before = len(things)
        for level in layer.unique().tolist():
            thing = layer == level
            if level == 0 or thing.sum() < LEAST * height * width / 128**2:
                continue
            for _ in range(GRASPS):
                points = (x.float().to(picture.device) for x in (_grasped(thing, generator), _beside(thing, generator)))
                shown.append(show(picture, *points)[None])
                things.append(thing)
        counts += [len(things) - before] * (len(things) - before)
    found = torch.stack(things) if things else torch.zeros(0, height, width, dtype=torch.bool)
    share = 1 / torch.tensor(counts, dtype=torch.float32)
    return Grasps(torch.cat(shown), found.to(pictures.device), share.to(pictures.device), batch)


def _grasped(thing: Tensor, generator: torch.Generator) -> Tensor:
    """Random points (N, 2) of a grasp of a thing, bool (H, W); at least one is on it."""
    centre = _some(thing, 1, generator)
    radius = RADIUS[0] + (RADIUS[1] - RADIUS[0]) * float(torch.rand((), generator=generator))
    near = _disc(thing, centre[0], radius * min(thing.shape) / 128)
    spilt = float(torch.rand((), generator=generator)) < SPILT
    count = int(torch.randint(1, MOST_POINTS + 1, (), generator=generator))
    points = _some(near if spilt else near & thing, count, generator)
    x, y = points.T
    return points if count > 1 and thing[y, x].any() else centre


def _beside(thing: Tensor, generator: torch.Generator) -> Tensor:
    """Random points (M, 2) known to be off the thing, bool (H, W)."""
    groups: list[Tensor] = []
    if not thing.all() and float(torch.rand((), generator=generator)) >= ALONE:
        for _ in range(int(torch.randint(1, OTHERS + 1, (), generator=generator))):
            centre = _some(~thing, 1, generator)[0]
            near = _disc(thing, centre, OTHERS_RADIUS * min(thing.shape) / 128) & ~thing
            groups.append(_some(near, int(torch.randint(1, OTHER_POINTS + 1, (), generator=generator)), generator))
    return torch.cat(groups) if groups else torch.zeros(0, 2)


def _some(mask: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random pixels (x, y) of a mask, or all if it has fewer."""
    rows, columns = mask.nonzero(as_tuple=True)
    chosen = torch.randperm(len(rows), generator=generator)[:count]
    return torch.stack([columns[chosen], rows[chosen]], dim=-1)


def _disc(like: Tensor, centre: Tensor, radius: float) -> Tensor:
    rows, columns = (torch.arange(side) for side in like.shape)
    return (rows[:, None] - centre[1]) ** 2 + (columns - centre[0]) ** 2 <= radius**2


class _Rendered(Dataset):
    """The grasps in one picture for each (step, sample). Runs in worker processes."""

    def __init__(self, scene: SceneConfig, textures: tuple[str, ...], seed: int) -> None:
        self.scene, self.textures, self.seed = scene, textures, seed
        self._bank: TextureBank | None = None

    def __getitem__(self, key: tuple[int, int]) -> Grasps:
        self._bank = self._bank or TextureBank(self.textures)
        generator = keyed_generator("outline", self.seed, *key)
        seed = int(torch.randint(2**62, (), generator=generator))
        return rendered_grasps(self.scene, self._bank, seed, generator)


class OutlineStage(Stage):
    """See the module's docstring. ``scene``: configuration of the clips, changed to still pictures here; ``batch``:
    number of pictures per step."""

    def __init__(
        self,
        outliner: Outliner,
        scene: SceneConfig,
        textures: tuple[str, ...],
        held_out: tuple[str, ...],
        *,
        batch: int,
        seed: int,
        workers: int,
    ) -> None:
        super().__init__(outliner)
        self.outliner, self.batch = outliner, batch
        scene = pictures_to_grasp(scene)
        made = _Rendered(scene, textures, seed)
        self._loader: KeyedLoader[tuple[int, int], Grasps] = KeyedLoader(made, workers=workers, ahead=2 * batch)
        generator = torch.Generator().manual_seed(0)
        self.held = rendered_grasps(scene, TextureBank(held_out), HELD_OUT_SEED, generator, batch=32)

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        grasps = self._grasps(step).to(next(self.outliner.parameters()).device)
        if len(grasps.things) == 0:  # no grasps in this part of the batch: a loss of 0 with gradients
            return 0 * self.outliner.net.inlet.weight.sum(), {}
        logits, things = self.outliner(grasps.shown), grasps.things.float()
        likely = logits.sigmoid()
        both = (likely * things).sum(dim=(1, 2))
        overlap = (both + 1) / ((likely + things).sum(dim=(1, 2)) - both + 1)
        entropy = F.binary_cross_entropy_with_logits(logits, things, reduction="none").mean(dim=(1, 2))
        return grasps.mean(CROSS_ENTROPY * entropy + 1 - overlap), {}

    def _grasps(self, step: int) -> Grasps:
        return Grasps.join(of_step(self._loader, step, list(shard(self.batch))))

    @torch.no_grad()
    def validate(self, module: nn.Module) -> dict[str, float]:
        """On scenes with held-out photographs: intersection over union (IoU) of predicted and true masks, mean and
        median, and ``found``, the share of grasps with an IoU above ½."""
        grasps = self.held.to(next(module.parameters()).device)
        drawn, things = module(grasps.shown) > 0, grasps.things
        overlap = (drawn & things).sum(dim=(1, 2)) / (drawn | things).sum(dim=(1, 2)).clamp(min=1)
        found = float((overlap > 0.5).float().mean())
        return {"iou": float(overlap.mean()), "iou_median": float(overlap.median()), "found": found}
