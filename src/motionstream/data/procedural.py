"""Rendered training video with exact tracks: layered scenes in which all motion is known.

A camera pans and zooms over a background plane with sprites, textured with photographs and generated patterns. Sprites
hide one another and the background in a fixed order, so visibility is exact too. Optionally, parts of the background
are pulled, sprites bend, nearer planes are in front of the background (parallax), it snows or gets foggy, or a sprite
changes its colour. Each option has its own random generator, so that enabling one does not change the rest of a scene.

Positions are pixels (x, y); (0, 0) is the centre of the top-left pixel. Axes: B clips, M sprites of all clips together,
T frames, N tracks, S side of a sprite's texture.
"""

import json
import math
import platform
import random
import time
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from motionstream.data.bending import draw_bends, draw_pulls
from motionstream.data.captions import STILL, ClipFacts, ObjectFacts, describe
from motionstream.data.compositing import Plane, Sprites, composite, refine, to_screen, visibility
from motionstream.data.draws import Draws, Range
from motionstream.data.motion import CameraPaths, SpritePaths, draw_camera, draw_sprites
from motionstream.data.parallax import draw_depths
from motionstream.data.planes import draw_far, draw_nearer, plane_tracks
from motionstream.data.sprites import distance_maps, draw_outlines, grid_points
from motionstream.data.textures import TextureBank
from motionstream.data.weather import Fog, Snow, draw_darkness, draw_fog, draw_snow, draw_tints


@dataclass(frozen=True)
class SceneConfig:
    """Settings of random scenes. Lengths in pixels, speeds in pixels per 12 frames, ranges as (least, largest)."""

    height: int = 128
    width: int = 128
    frames: int = 33
    fps: float = 24.0
    sprites: tuple[int, int] = (0, 3)  # number per clip
    sprite_radius: Range = (9.0, 24.0)
    speed: float = 6.0  # a sprite's mean speed, rests included; each draws 0 to 2 times as much
    rotation: float = 20.0  # a sprite's maximum rotation in degrees per 12 frames
    scaling: Range = (0.8, 1.25)  # a sprite's size at the end of the clip, relative to its start
    pan: float = 6.0  # mean speed of a pan
    zoom: Range = (0.85, 1.25)  # magnification at the end of the clip
    static_camera_probability: float = 0.5
    photograph_probability: float = 0.55  # of a texture being a photograph; the others are generated
    mixture_probability: float = 0.15  # of a texture being mixed from two
    recolour_probability: float = 0.6  # of a photograph's colours being changed
    dark_probability: float = 0.15
    pull_probability: float = 0.0  # of parts of the background being pulled and twisted, like a turning head
    bend_probability: float = 0.0  # of a sprite bending or waving
    parallax_probability: float = 0.0  # of one or two nearer planes in front of the background; the camera then moves
    snow_probability: float = 0.0
    fog_probability: float = 0.0
    tint_probability: float = 0.0  # of one sprite in the clip changing its colour
    background_grid: int = 20  # tracks per side
    sprite_grid: int = 8

    def __post_init__(self) -> None:
        values = vars(self)
        for name in ("height", "width", "frames", "background_grid", "sprite_grid"):
            least = 16 if name in ("height", "width") else 1
            if values[name] < least:
                raise ValueError(f"{name} must be at least {least}, got {values[name]}")
        for name in ("sprites", "sprite_radius", "scaling", "zoom"):
            low, high = values[name]
            if not 0 <= low <= high < math.inf or (low == 0 and name != "sprites"):
                raise ValueError(f"{name} must be (least, largest), positive and in this order, got {(low, high)}")
        for name in ("speed", "rotation", "pan"):
            if not 0 <= values[name] < math.inf:
                raise ValueError(f"{name} must be finite and not negative, got {values[name]}")
        for name, value in values.items():
            if name.endswith("_probability") and not 0 <= value <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {value}")
        if not 0 < self.fps < math.inf:
            raise ValueError(f"fps must be positive and finite, got {self.fps}")
        if 2 * self.sprite_radius[1] > min(self.height, self.width):
            raise ValueError(
                f"sprite_radius reaches {self.sprite_radius[1]}, too large for a picture of "
                f"{self.height}x{self.width}: use at most {min(self.height, self.width) / 2}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        return self.height, self.width

    @property
    def tracks(self) -> int:
        """N, the number of track rows per clip: the background's, then those of `sprites[1]` sprites."""
        return self.background_grid**2 + self.sprites[1] * self.sprite_grid**2


def rich_scene(scene: SceneConfig) -> SceneConfig:
    """The same scenes with everything besides rigid motion: about half of the clips have pulls or parallax, a third of
    the sprites bend, and about three clips in ten have an effect that only the caption announces."""
    return replace(
        scene,
        pull_probability=0.35,
        bend_probability=0.35,
        parallax_probability=0.2,
        snow_probability=0.1,
        fog_probability=0.1,
        tint_probability=0.1,
    )


def clear_scene(scene: SceneConfig) -> SceneConfig:
    """The same scenes in even light and clear weather, without changes that tracks do not describe."""
    return replace(scene, dark_probability=0.0, snow_probability=0.0, fog_probability=0.0, tint_probability=0.0)


@dataclass(frozen=True)
class Clips:
    """A batch of rendered clips with tracks and captions."""

    video: Tensor  # uint8 (B, 3, T, H, W)
    positions: Tensor  # float32 (B, T, N, 2) x, y pixels; zero in unused rows
    visible: Tensor  # bool (B, T, N): inside the picture and not hidden by a higher sprite or a nearer plane
    layer: Tensor  # int64 (B, N): 0 background, k >= 1 the k-th sprite (higher hides lower), -1 unused row;
    # `sprites[1]` + 1 or more: a pulled part of the background, which can be dragged like a sprite
    captions: list[str]


@dataclass(frozen=True)
class RenderedScene:
    """The contents of a batch of clips before rendering."""

    camera: CameraPaths  # the sprites'; on the CPU
    background: Plane
    nearer: tuple[Plane, ...]  # planes in front of it, from far to near
    sprites: Sprites
    brightness: Tensor  # float32 (B, T), on the CPU
    weather: tuple[Fog | Snow, ...]
    captions: list[str]


def _texture(draws: Draws, count: int, size: tuple[int, int], config: SceneConfig, textures: TextureBank) -> Tensor:
    return textures.draw(
        draws, count, size, config.photograph_probability, config.mixture_probability, config.recolour_probability
    )


def _paint(draws: Draws, colour: Tensor, distance: Tensor, ground: Tensor) -> tuple[Tensor, Tensor]:
    """Make sprites contrast with their background and shade them: colours (M, 3, S, S) and their means (M, 3).

    distance (M, S, S): signed distance to the outline; ground (M, 3): mean colour of the clip's background.
    """
    count, device = len(colour), colour.device
    inside = (distance < 0).float()[:, None]

    def mean(picture: Tensor) -> Tensor:
        return (picture * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)

    own = mean(colour)
    away = own - ground
    needed = (draws.uniform(0.2, 0.5, count, 1) * draws.chance(0.85, count, 1)).to(device)
    # Away from the ground colour along the present difference, biased towards the larger range of brightness.
    room = 0.25 - 0.5 * (ground.mean(1, keepdim=True) > 0.5).float()
    direction = torch.nn.functional.normalize(away + room, dim=1)
    shift = torch.where(away.norm(dim=1, keepdim=True) < needed, ground + direction * needed - own, 0)
    colour = (colour + shift[..., None, None]).clamp(0, 1)

    side = distance.shape[-1]
    axis = torch.linspace(-1, 1, side, device=device)
    light = draws.angle(count, 1, 1).to(device)
    depth = (draws.uniform(0.0, 0.5, count, 1, 1) * draws.chance(0.5, count, 1, 1)).to(device)
    shade = 1 + depth * (light.cos() * axis + light.sin() * axis[:, None])
    width = draws.uniform(1.0, 3.0, count, 1, 1).to(device)
    rim = (draws.uniform(0.2, 0.8, count, 1, 1) * draws.chance(0.35, count, 1, 1)).to(device)
    shade = shade * (1 - rim * (1 + distance / width).clamp(0, 1))
    colour = (colour * shade[:, None]).clamp(0, 1)
    return colour, mean(colour)


def _sprites(
    draws: Draws, camera: CameraPaths, background: Plane, config: SceneConfig, textures: TextureBank
) -> tuple[Sprites, SpritePaths, Tensor]:
    """All sprites of the batch on the bank's device, their world paths and mean colours (M, 3) on the CPU."""
    batch, device = len(camera.zoom), textures.device
    counts = draws.integers(*config.sprites, batch)
    order = torch.arange(1, config.sprites[1] + 1)
    layer, clip = (order[:, None] <= counts).nonzero().unbind(1)
    view = CameraPaths(camera.centre[clip], camera.zoom[clip])
    outlines = draw_outlines(draws, len(clip), config.sprite_radius)
    paths = draw_sprites(draws, view, config.size, config.speed, config.rotation, config.scaling)
    points, used = grid_points(draws, outlines, paths.angle[:, 0], config.sprite_grid)

    radius = outlines.amax(1) if len(clip) else torch.zeros(0)
    side = 2 * math.ceil(float(radius.max()) if len(clip) else 1.0) + 5
    colour = _texture(draws, len(clip), (side, side), config, textures)
    distance = distance_maps(outlines.to(device), side)
    ground = background.texture.mean((2, 3))[clip.to(device)]
    colour, mean = _paint(draws, colour, distance, ground)

    magnification = paths.scale * view.zoom
    turn = torch.stack((paths.angle.cos(), paths.angle.sin()), -1) * magnification[..., None]
    made = Sprites(
        clip=clip,
        layer=layer + 1,
        appearance=torch.cat((refine(colour).clamp_(0, 1), refine(distance[:, None])), 1),
        centre=to_screen(paths.position, view, config.size).to(device),
        turn=turn.to(device),
        reach=radius[:, None] * magnification,
        points=points.to(device),
        used=used.to(device),
    )
    return made, paths, mean.cpu()


def _tracks(scene: RenderedScene, config: SceneConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Screen positions (B, T, N, 2) of all tracks, whether no plane hides them (B, T, N), and layers (B, N)."""
    sprites = scene.sprites
    device, (batch, frames) = sprites.centre.device, scene.camera.zoom.shape
    first, per_sprite = config.background_grid**2, config.sprite_grid**2
    positions = torch.zeros(batch, frames, config.tracks, 2, device=device)
    clear = torch.ones(batch, frames, config.tracks, dtype=torch.bool, device=device)
    layer = torch.full((batch, config.tracks), -1, device=device)
    planes = (scene.background, *scene.nearer)
    positions[:, :, :first], clear[:, :, :first], held = plane_tracks(planes, config.background_grid, config.size)
    layer[:, :first] = torch.where(held >= 0, config.sprites[1] + 1 + held, 0)

    placed = sprites.place(sprites.points) * sprites.used[:, None, :, None]
    labels = torch.where(sprites.used, sprites.layer.to(device)[:, None], -1)
    for index, (clip, level) in enumerate(zip(sprites.clip.tolist(), sprites.layer.tolist(), strict=True)):
        rows = slice(first + (level - 1) * per_sprite, first + level * per_sprite)
        positions[clip, :, rows] = placed[index]
        layer[clip, rows] = labels[index]
    return positions, clear, layer


def _visible(scene: RenderedScene, positions: Tensor, clear: Tensor, layer: Tensor, config: SceneConfig) -> Tensor:
    """Which tracks are visible: bool (B, T, N)."""
    # For occlusion, a pulled part of the background belongs to the background.
    level = torch.where(layer > config.sprites[1], 0, layer)
    return visibility(scene.sprites, positions, level, config.size) & clear


def _captions(
    scene: RenderedScene, paths: SpritePaths, colours: Tensor, dark: Tensor, orbits: Tensor, seed: int
) -> list[str]:
    """One sentence per clip. dark, orbits: bool (B,)."""
    rng = random.Random(seed)
    sprites, camera = scene.sprites, scene.camera
    net = paths.position[:, -1] - paths.position[:, 0]
    moved = (paths.position - paths.position[:, :1]).norm(dim=-1).amax(1) >= STILL
    bent = torch.zeros_like(moved) if sprites.bends is None else (sprites.bends.size.abs().amax(1) >= STILL).cpu()
    objects: list[list[ObjectFacts]] = [[] for _ in dark]
    for index, clip in enumerate(sprites.clip.tolist()):
        x, y = net[index].tolist()
        red, green, blue = colours[index].tolist()
        turns = None if sprites.tints is None else sprites.tints.word(index)
        facts = ObjectFacts((x, y), bool(moved[index]), (red, green, blue), bool(bent[index]), turns)
        objects[clip].append(facts)
    foggy, snowy = ({clip for w in scene.weather if isinstance(w, kind) for clip in w.clips} for kind in (Fog, Snow))
    captions = []
    for clip, things in enumerate(objects):
        x, y = camera.centre[clip, -1].tolist()
        zoom = float(camera.zoom[clip, -1])
        told = ClipFacts(things, (x, y), zoom, bool(dark[clip]), clip in foggy, clip in snowy, bool(orbits[clip]))
        captions.append(describe(told, rng))
    return captions


def _enrich_sprites(
    scene: RenderedScene, colours: Tensor, config: SceneConfig, bending: Draws, tinting: Draws
) -> Sprites:
    """The sprites with bends and changes of colour, if any. colours (M, 3): their mean colours."""
    sprites, device, frames = scene.sprites, scene.sprites.centre.device, config.frames
    radius = sprites.reach[:, 0]  # the magnification in frame 0 is 1
    bends = draw_bends(bending, radius, frames, config.bend_probability)
    if bends is not None:
        magnification = sprites.reach / radius[:, None]
        sprites = replace(sprites, bends=bends.to(device), reach=sprites.reach + bends.reach(radius) * magnification)
    # The change must be visible: the sprite is inside the picture at both ends, and the topmost of those.
    ends = sprites.centre[:, (0, -1)].cpu()
    inside = ((ends >= 0) & (ends <= torch.tensor((config.width - 1, config.height - 1)))).all(-1).all(1)
    tints = draw_tints(tinting, len(scene.brightness), sprites.clip, colours, inside, frames, config.tint_probability)
    return sprites if tints is None else replace(sprites, tints=tints.to(device))


def draw_scene(config: SceneConfig, batch: int, seed: int, textures: TextureBank) -> RenderedScene:
    """Draw everything random about `batch` clips."""
    draws = Draws(seed)
    pulling, bending, parting, snowing, fogging, tinting = (draws.apart(number) for number in range(6))
    camera = draw_camera(draws, batch, config.frames, config.pan, config.zoom, config.static_camera_probability)
    brightness, dark = draw_darkness(draws, batch, config.frames, config.dark_probability)
    depths = draw_depths(parting, camera, config.pan, config.parallax_probability)
    pulls = draw_pulls(pulling, batch, config.frames, config.size, config.pull_probability)
    paint = partial(_texture, config=config, textures=textures)
    far = camera if depths is None else depths.cameras[0]
    background = draw_far(draws, far, pulls, config.size, paint)
    nearer = () if depths is None else draw_nearer(parting, depths, config.size, paint)
    sprites, paths, colours = _sprites(draws, camera, background, config, textures)
    fog = draw_fog(fogging, batch, config.frames, config.size, config.fog_probability)
    snow = draw_snow(snowing, batch, config.size, config.snow_probability)
    weather = tuple(cover for cover in (fog, snow) if cover is not None)
    scene = RenderedScene(camera, background, nearer, sprites, brightness, weather, [])
    scene = replace(scene, sprites=_enrich_sprites(scene, colours, config, bending, tinting))
    orbits = torch.zeros(batch, dtype=torch.bool) if depths is None else depths.orbits
    return replace(scene, captions=_captions(scene, paths, colours, dark, orbits, draws.seed()))


def render_scene(scene: RenderedScene, config: SceneConfig) -> Clips:
    """Draw the pictures and compute the tracks, deterministically."""
    positions, clear, layer = _tracks(scene, config)
    planes = (scene.background, *scene.nearer)
    return Clips(
        video=composite(planes, scene.sprites, scene.brightness, config.size, scene.weather),
        positions=positions,
        visible=_visible(scene, positions, clear, layer, config),
        layer=layer,
        captions=scene.captions,
    )


@torch.no_grad()
def render(config: SceneConfig, batch: int, seed: int, textures: TextureBank) -> Clips:
    """Render `batch` random clips on the device of `textures`. Equal arguments and devices give equal clips.

    Motion does not depend on the device, but the white noise in generated textures does, and therefore the
    captions' colour words. Raises ValueError for an empty batch.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    return render_scene(draw_scene(config, batch, seed, textures), config)


def throughput(
    config: SceneConfig, batch: int = 8, seconds: float = 10.0, device: torch.device | str = "cpu"
) -> dict[str, float | int | str]:
    """Rendering speed in frames per second, measured for about `seconds`, with settings and hardware."""
    textures = TextureBank(device=device)
    render(config, batch, 0, textures)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        count += 1
        render(config, batch, count, textures).video[:, 0, 0, 0, 0].cpu()  # waits for the device
    elapsed = time.perf_counter() - start
    return {
        "script": "python -m motionstream.data.procedural",
        "frames_per_second": round(count * batch * config.frames / elapsed, 1),
        "height": config.height,
        "width": config.width,
        "frames": config.frames,
        "batch": batch,
        "device": torch.cuda.get_device_name(device) if textures.device.type == "cuda" else "cpu",
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    print(json.dumps(throughput(SceneConfig())))
