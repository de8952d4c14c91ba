"""Trains the pixel mixer to reproduce rendered clips from the content that their tracks carry.

The loss has four terms: the error of the mixed picture; the expected error of a candidate chosen by the weights,
because an average of two wrong candidates is a ghost; the error of the mixer's own colours (``fill``), mainly where no
candidate is right, as on uncovered ground; and the classification of the renderer's points, whose layers are known, by
the likenesses that should tell things apart.

Legend: B batch, K source pictures, F sampled frames, M tracks, P points of the renderer.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from motionstream.carry.candidates import warp_all
from motionstream.carry.pixel_mixer import CANDIDATES, Mixed, PixelMixer
from motionstream.carry.relations import FAR, CarrySource, Relations, relate
from motionstream.carry.things import with_things
from motionstream.data.procedural import Clips, SceneConfig, clear_scene, render
from motionstream.data.textures import TextureBank
from motionstream.pixels import to_float
from motionstream.tracks.masks import Draw
from motionstream.tracks.sampling import SampledTracks, TrackMix, sample_tracks
from motionstream.training.clips.keyed_loader import KeyedLoader, of_step
from motionstream.training.clips.prepared import static_index
from motionstream.training.clips.turns import still_scene
from motionstream.training.loop.distributed import keyed_generator, shard
from motionstream.training.loop.stage import Stage
from motionstream.training.parts.autoencoder import psnr

MOVED, CHANGED = 1.0, 0.08
"""Additional weight of pixels whose static candidate is wrong, and the error above which it is (colours in [−1, 1])."""
CHOICE, ALIKE, NEEDLESS = 0.5, 0.15, 0.02
"""Weights of the expected error of a choice, the likeness loss, and the filling colours where a candidate is right."""


UNKNOWN = 0.15
"""Share of the clips for which the things under the tracks are treated as unknown."""


@dataclass(frozen=True)
class MixerClips:
    """Sampled frames of clips and what their content comes from.

    Tracks: ``positions`` (B, F, M, 2) and ``visible`` (B, F, M), with their ``source``. Target: ``video``
    (B, 3, F, H, W) in [−1, 1]. Renderer's points: ``points`` (B, F, P, 2), their positions in each frame's static
    picture, ``seen`` (B, F, P), whether they are visible there, and ``layer`` (B, P), the layer of their thing;
    ``track_layer`` (B, M): the layer of each track's thing.
    """

    positions: Tensor
    visible: Tensor
    source: CarrySource
    video: Tensor
    points: Tensor
    seen: Tensor
    layer: Tensor
    track_layer: Tensor

    @classmethod
    def join(cls, clips: list[MixerClips]) -> MixerClips:
        """Concatenate batches."""
        sources = [vars(c.source) for c in clips]
        names = [name for name, value in sources[0].items() if value is not None]  # others are for streams only
        source = CarrySource(**{name: torch.cat([s[name] for s in sources]) for name in names})
        names = [field.name for field in fields(cls) if field.name != "source"]
        return cls(source=source, **{name: torch.cat([getattr(c, name) for c in clips]) for name in names})

    def to(self, device: torch.device) -> MixerClips:
        source = self.source.map(lambda x: x.to(device))
        return replace(self, source=source, **{k: v.to(device) for k, v in vars(self).items() if k != "source"})


def take_frames(
    clips: Clips,
    tracks: SampledTracks,
    generator: torch.Generator,
    *,
    chunks: list[int],
    count: int,
    unknown: float = 0.0,
    draw: Draw | None = None,
) -> MixerClips:
    """Take ``count`` random frames of each clip. ``chunks``: first frames of the chunks. ``unknown``: share of clips
    for which the things under the tracks are treated as unknown. ``draw``: the outliner's, to find the things."""
    batch, frames = clips.video.shape[0], clips.video.shape[2]
    rows = torch.arange(batch)[:, None]
    video = to_float(clips.video)
    before = torch.tensor([0, *(start - 1 for start in chunks[1:])])
    static = static_index(tracks.events, chunks, frames)
    picked = torch.stack([torch.randperm(frames - 1, generator=generator)[:count].sort().values + 1 for _ in rows])
    source = CarrySource(video[:, :, before].transpose(1, 2), tracks.birth, tracks.start, static)
    told = torch.rand(batch, 1, 1, generator=generator) >= unknown
    source = with_things(source, tracks.positions, tracks.visible & told, chunks, draw)
    assert source.thing is not None
    static = static[rows, picked]
    source = replace(source, static=static, thing=source.thing[rows, picked])
    began = before[tracks.birth]  # tracks are points of the renderer: the one at a track's start has its layer
    positions, visible = tracks.positions[rows, picked], tracks.visible[rows, picked]
    there = clips.positions[rows, began]  # (B, M, P, 2)
    known = clips.visible[rows, began] & (clips.layer >= 0)[:, None]
    apart = (there - tracks.start[:, :, None]).norm(dim=-1).masked_fill(~known, torch.inf)
    shown = before[static]
    return MixerClips(
        positions,
        visible,
        source,
        video.transpose(1, 2)[rows, picked].transpose(1, 2),
        clips.positions[rows, shown],
        clips.visible[rows, shown] & (clips.layer >= 0)[:, None],
        clips.layer,
        clips.layer.gather(1, apart.argmin(dim=-1)).reshape(batch, -1),
    )


class _Rendered(Dataset):
    """The frames of one clip for each (step, sample). Runs in worker processes."""

    def __init__(
        self,
        scene: SceneConfig,
        mix: TrackMix,
        textures: tuple[str, ...],
        seed: int,
        chunks: list[int],
        count: int,
        draw: Draw | None,
    ) -> None:
        self.scene, self.mix, self.textures, self.seed = scene, mix, textures, seed
        self.settings: dict[str, Any] = {"chunks": chunks, "count": count, "unknown": UNKNOWN, "draw": draw}
        self._bank: TextureBank | None = None

    def __getitem__(self, key: tuple[int, int]) -> MixerClips:
        self._bank = self._bank or TextureBank(self.textures)
        generator = keyed_generator("mixer", self.seed, *key)
        seed = int(torch.randint(2**62, (), generator=generator))
        # every second clip has a still camera, as most streams do: mistakes show most where the ground rests
        scene = still_scene(self.scene) if sum(key) % 2 else self.scene
        return rendered_frames(scene, self.mix, self._bank, seed, generator, **self.settings)


def rendered_frames(
    scene: SceneConfig,
    mix: TrackMix,
    bank: TextureBank,
    seed: int,
    generator: torch.Generator,
    *,
    chunks: list[int],
    count: int,
    batch: int = 1,
    unknown: float = 0.0,
    draw: Draw | None = None,
) -> MixerClips:
    """Render clips, sample tracks, and take ``count`` frames of each clip; see ``take_frames``."""
    clips = render(scene, batch, seed, bank)
    tracks = sample_tracks(clips.positions, clips.visible, clips.layer, mix, generator, chunks=chunks)
    return take_frames(clips, tracks, generator, chunks=chunks, count=count, unknown=unknown, draw=draw)


class MixerStage(Stage):
    """Trains the pixel mixer alone. See the module's docstring."""

    def __init__(
        self,
        mixer: PixelMixer,
        scene: SceneConfig,
        mix: TrackMix,
        textures: tuple[str, ...],
        held_out: tuple[str, ...],
        *,
        chunks: list[int],
        batch: int,
        frames: int,
        seed: int,
        workers: int,
    ) -> None:
        super().__init__(mixer)
        self.mixer, self.batch = mixer, batch
        scene = clear_scene(scene)
        draw = _on_cpu(mixer)
        made = _Rendered(scene, mix, textures, seed, chunks, frames, draw)
        self._loader: KeyedLoader[tuple[int, int], MixerClips] = KeyedLoader(made, workers=workers, ahead=2 * batch)
        plain = replace(still_scene(scene), photograph_probability=1.0)
        drags = replace(mix, dense=0.0, random=0.0, drags=1.0, late_birth=0.0, release=0.0)
        generator = torch.Generator().manual_seed(0)
        bank = TextureBank(held_out)
        self.held = rendered_frames(
            plain, drags, bank, 77_000_001, generator, chunks=chunks, count=frames, batch=16, draw=draw
        )

    def loss(self, step: int) -> tuple[Tensor, dict[str, float]]:
        clips = self._clips(step).to(next(self.mixer.parameters()).device)
        relations, candidates = self._carry(clips)
        mixed = self.mixer.mix_all(candidates, relations, clips.source)
        numbers = {"psnr": psnr(mixed.picture.detach(), clips.video)}
        loss = picture_loss(mixed, candidates, clips.video)
        alike = likeness_loss(mixed, relations, clips, grid=self.mixer.grid)
        return loss + ALIKE * alike, {**numbers, "alike": alike.item()}

    def _clips(self, step: int) -> MixerClips:
        return MixerClips.join(of_step(self._loader, step, list(shard(self.batch))))

    def _carry(self, clips: MixerClips) -> tuple[Relations, Tensor]:
        with torch.no_grad(), torch.autocast(clips.video.device.type, enabled=False):
            relations = relate(clips.positions, clips.visible, clips.source, grid=self.mixer.grid)
            return relations, warp_all(relations, clips.source, grid=self.mixer.grid)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """On drags in scenes of held-out photographs with a still camera: PSNR in dB of the mixed picture, the nearest
        candidate, the static one, and the best candidate at every pixel; and the share of points classified
        correctly."""
        assert isinstance(module, PixelMixer)
        clips = self.held.to(next(module.parameters()).device)
        relations, candidates = self._carry(clips)
        mixed = module.mix_all(candidates, relations, clips.source)
        truth = clips.video
        best = (candidates - truth[:, None]).abs().mean(dim=2, keepdim=True).argmin(dim=1, keepdim=True)
        best = candidates.gather(1, best.expand(-1, -1, *candidates.shape[2:]))[:, 0]
        logits, target, counted = point_logits(mixed, relations, clips, grid=module.grid)
        return {
            "psnr": psnr(mixed.picture.clamp(-1, 1), truth),
            "psnr_nearest": psnr(candidates[:, 0], truth),
            "psnr_static": psnr(candidates[:, 2], truth),
            "psnr_best": psnr(best, truth),
            "alike_right": float(((logits > 0) == target)[counted].float().mean()),
        }


def _on_cpu(mixer: PixelMixer) -> Draw | None:
    """``draw`` of a CPU copy of the outliner with its current weights, for rendering; None without an outliner."""
    return None if mixer.outliner is None else copy.deepcopy(mixer.outliner).cpu().draw


def picture_loss(mixed: Mixed, candidates: Tensor, video: Tensor) -> Tensor:
    """Error of the mixed picture, expected error of a choice, error of the filling colours where they are needed."""
    error = mixed.picture - video
    heed = 1 + MOVED * ((candidates[:, 2] - video).abs().mean(dim=1) > CHANGED)
    heed = heed / heed.mean(dim=(1, 2, 3), keepdim=True)  # per clip, so that the split among ranks does not matter
    each = torch.cat([(candidates - video[:, None]).abs().mean(2), (mixed.fill - video).abs().mean(1, keepdim=True)], 1)
    choice = (heed * (mixed.weights * each).sum(dim=1)).mean()
    needed = each[:, :CANDIDATES].amin(dim=1).detach() + NEEDLESS
    picture = (heed * (2 * error.square() + 0.3 * error.abs()).mean(dim=1)).mean()
    return picture + CHOICE * choice + (needed * each[:, CANDIDATES]).mean()


def point_logits(mixed: Mixed, relations: Relations, clips: MixerClips, *, grid: int) -> tuple[Tensor, Tensor, Tensor]:
    """For the renderer's points in each frame's static picture, each (B, F, P): the logit that a point is on the thing
    of the track that began nearest; whether it is; and whether it counts, which needs a visible point and a track."""
    height, width = clips.video.shape[-2:]
    scale = torch.tensor([2 / width, 2 / height], device=clips.points.device)
    places = ((clips.points + 0.5) * scale - 1).flatten(0, 1)[:, None]
    home = mixed.alike[:, 2].flatten(0, 1)[:, None]
    logits = F.grid_sample(home, places, mode="nearest", align_corners=False)[:, 0, 0].unflatten(
        0, clips.seen.shape[:2]
    )
    column, row = ((clips.points + 0.5) / grid).floor().long().unbind(-1)
    cell = row.clamp(0, height // grid - 1) * (width // grid) + column.clamp(0, width // grid - 1)
    track, distance = (x.gather(2, cell) for x in (relations.home.track, relations.home.distance))
    wanted = clips.layer[:, None] == clips.track_layer.gather(1, track.flatten(1)).view_as(track)
    return logits, wanted, clips.seen & (distance < FAR)


def likeness_loss(mixed: Mixed, relations: Relations, clips: MixerClips, *, grid: int) -> Tensor:
    """Cross-entropy of ``point_logits``, averaged per clip and then over clips, so that the split among ranks does not
    matter."""
    logits, wanted, counted = point_logits(mixed, relations, clips, grid=grid)
    each = F.binary_cross_entropy_with_logits(logits, wanted.float(), reduction="none") * counted
    return (each.sum(dim=(1, 2)) / counted.sum(dim=(1, 2)).clamp(min=1)).mean()
