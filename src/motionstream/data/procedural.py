"""Rendered training video with exact tracks: layered scenes whose every motion is known.

A background plane and sprites on it, textured from photographs and generators, are seen by a camera that pans
and zooms. Sprites hide one another and the background by their order, so visibility is exact too.

Pixels are (x, y) with (0, 0) the centre of the top-left one. Axes: B clips, M sprites of all clips together,
T frames, N tracks, S side of a sprite's texture.
"""

import json
import math
import platform
import random
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from motionstream.data.captions import STILL, ClipFacts, ObjectFacts, describe
from motionstream.data.compositing import Background, Sprites, composite, refine, to_screen, visibility
from motionstream.data.draws import Draws, Range
from motionstream.data.motion import CameraPaths, SpritePaths, draw_camera, draw_sprites
from motionstream.data.sprites import distance_maps, draw_outlines, grid_points
from motionstream.data.textures import TextureBank


@dataclass(frozen=True)
class SceneConfig:
    """What scenes are like. Lengths in pixels, speeds in pixels per 12 frames, ranges as (least, largest)."""

    height: int = 128
    width: int = 128
    frames: int = 33
    fps: float = 24.0
    sprites: tuple[int, int] = (0, 3)  # number in a clip
    sprite_radius: Range = (9.0, 24.0)
    speed: float = 6.0  # mean travel of a sprite, its rests included; each draws 0 to 2 times as much
    rotation: float = 20.0  # a sprite's largest turn in degrees per 12 frames
    scaling: Range = (0.8, 1.25)  # a sprite's size at the end of the clip, relative to its start
    pan: float = 6.0  # mean length of a pan
    zoom: Range = (0.85, 1.25)  # magnification at the end of the clip
    static_camera_probability: float = 0.5
    photograph_probability: float = 0.55  # of a texture; the others are generated
    mixture_probability: float = 0.15  # of two textures in one
    recolour_probability: float = 0.6  # of a photograph's colours being changed
    dark_probability: float = 0.15
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
        """N, the number of track rows of every clip: the background's, then `sprites[1]` times a sprite's."""
        return self.background_grid**2 + self.sprites[1] * self.sprite_grid**2


@dataclass(frozen=True)
class Clips:
    """A batch of rendered clips and what is true of them."""

    video: Tensor  # uint8 (B, 3, T, H, W)
    positions: Tensor  # float32 (B, T, N, 2) x, y pixels; zero in unused rows
    visible: Tensor  # bool (B, T, N): inside the picture and not hidden by a higher sprite
    layer: Tensor  # int64 (B, N): 0 background, k >= 1 the k-th sprite (higher hides lower), -1 unused row
    captions: list[str]


@dataclass(frozen=True)
class Scene:
    """What a batch of clips shows, before it is drawn."""

    camera: CameraPaths  # on the CPU
    background: Background
    sprites: Sprites
    brightness: Tensor  # float32 (B, T), on the CPU
    captions: list[str]


def _darkness(draws: Draws, batch: int, frames: int, probability: float) -> tuple[Tensor, Tensor]:
    """Brightness of every frame (B, T), and which clips turn dark (B,)."""
    dark = draws.chance(probability, batch)
    ramp = draws.uniform(12.0, 20.0, batch, 1)
    onset = draws.uniform(0.0, 1.0, batch, 1) * (frames - 1 - ramp).clamp(min=1.0)
    rest = draws.uniform(0.25, 0.5, batch, 1)
    progress = ((torch.arange(frames) - onset) / ramp).clamp(0, 1)
    return torch.where(dark[:, None], 1 - (1 - rest) * progress, 1.0), dark


def _background(draws: Draws, camera: CameraPaths, config: SceneConfig, textures: TextureBank) -> Background:
    """One plane per clip, as large as its camera ever sees and all of one size."""
    half = torch.tensor((config.width / 2, config.height / 2)) / camera.zoom[..., None]
    least = (camera.centre - half).amin(1)
    largest = (camera.centre + half).amax(1)
    # Whole pixels of offset and an even excess: the first frame shows the texture unresampled.
    middle = ((least + largest) / 2).round()
    needed = torch.maximum(largest - middle, middle - least).amax(0) * 2
    width, height = (
        side + 2 * math.ceil((float(need) - side) / 2 + 1)
        for side, need in zip((config.width, config.height), needed, strict=True)
    )
    drawn = textures.draw(
        draws,
        len(middle),
        (height, width),
        config.photograph_probability,
        config.mixture_probability,
        config.recolour_probability,
    )
    return Background(refine(drawn).clamp_(0, 1), middle.to(textures.device))


def _paint(draws: Draws, colour: Tensor, distance: Tensor, ground: Tensor) -> tuple[Tensor, Tensor]:
    """Set sprites off against their background and shade them: colours (M, 3, S, S) and their means (M, 3).

    distance (M, S, S): signed distance to the outline; ground (M, 3): mean colour of the clip's background.
    """
    count, device = len(colour), colour.device
    inside = (distance < 0).float()[:, None]

    def mean(picture: Tensor) -> Tensor:
        return (picture * inside).sum((2, 3)) / inside.sum((2, 3)).clamp(min=1)

    own = mean(colour)
    away = own - ground
    needed = (draws.uniform(0.2, 0.5, count, 1) * draws.chance(0.85, count, 1)).to(device)
    # Away from the ground as it already is, and towards the side on which brightness has more room.
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
    draws: Draws, camera: CameraPaths, background: Background, config: SceneConfig, textures: TextureBank
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
    colour = textures.draw(
        draws,
        len(clip),
        (side, side),
        config.photograph_probability,
        config.mixture_probability,
        config.recolour_probability,
    )
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


def _tracks(sprites: Sprites, camera: CameraPaths, config: SceneConfig) -> tuple[Tensor, Tensor]:
    """Positions (B, T, N, 2) of all tracks on the screen and their layers (B, N)."""
    device, (batch, frames) = sprites.centre.device, camera.zoom.shape
    grid, per_sprite = config.background_grid, config.sprite_grid**2
    # The middles of a grid of cells that covers the first frame.
    y, x = ((torch.arange(grid) + 0.5) * (side / grid) - side / 2 for side in (config.height, config.width))
    plane = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
    wide = CameraPaths(camera.centre[:, :, None], camera.zoom[:, :, None])

    positions = torch.zeros(batch, frames, config.tracks, 2, device=device)
    layer = torch.full((batch, config.tracks), -1, device=device)
    positions[:, :, : grid**2] = to_screen(plane, wide, config.size).to(device)
    layer[:, : grid**2] = 0

    placed = sprites.place(sprites.points) * sprites.used[:, None, :, None]
    labels = torch.where(sprites.used, sprites.layer.to(device)[:, None], -1)
    for index, (clip, level) in enumerate(zip(sprites.clip.tolist(), sprites.layer.tolist(), strict=True)):
        rows = slice(grid**2 + (level - 1) * per_sprite, grid**2 + level * per_sprite)
        positions[clip, :, rows] = placed[index]
        layer[clip, rows] = labels[index]
    return positions, layer


def _captions(
    sprites: Sprites, paths: SpritePaths, colours: Tensor, camera: CameraPaths, dark: Tensor, seed: int
) -> list[str]:
    """One sentence per clip."""
    rng = random.Random(seed)
    net = paths.position[:, -1] - paths.position[:, 0]
    moved = (paths.position - paths.position[:, :1]).norm(dim=-1).amax(1) >= STILL
    objects: list[list[ObjectFacts]] = [[] for _ in dark]
    for index, clip in enumerate(sprites.clip.tolist()):
        x, y = net[index].tolist()
        red, green, blue = colours[index].tolist()
        objects[clip].append(ObjectFacts((x, y), bool(moved[index]), (red, green, blue)))
    captions = []
    for clip, facts in enumerate(objects):
        x, y = camera.centre[clip, -1].tolist()
        zoom = float(camera.zoom[clip, -1])
        captions.append(describe(ClipFacts(facts, (x, y), zoom, bool(dark[clip])), rng))
    return captions


def draw_scene(config: SceneConfig, batch: int, seed: int, textures: TextureBank) -> Scene:
    """Everything random about `batch` clips."""
    draws = Draws(seed)
    camera = draw_camera(draws, batch, config.frames, config.pan, config.zoom, config.static_camera_probability)
    brightness, dark = _darkness(draws, batch, config.frames, config.dark_probability)
    background = _background(draws, camera, config, textures)
    sprites, paths, colours = _sprites(draws, camera, background, config, textures)
    captions = _captions(sprites, paths, colours, camera, dark, draws.seed())
    return Scene(camera, background, sprites, brightness, captions)


def render_scene(scene: Scene, config: SceneConfig) -> Clips:
    """Draw the pictures and follow the tracks; nothing here is random."""
    positions, layer = _tracks(scene.sprites, scene.camera, config)
    return Clips(
        video=composite(scene.background, scene.sprites, scene.camera, scene.brightness, config.size),
        positions=positions,
        visible=visibility(scene.sprites, positions, layer, config.size),
        layer=layer,
        captions=scene.captions,
    )


@torch.no_grad()
def render(config: SceneConfig, batch: int, seed: int, textures: TextureBank) -> Clips:
    """`batch` random clips on the device of `textures`. The same arguments and device give the same clips.

    Motion does not depend on the device; the white noise in generated textures does, and with it the colour
    words of captions. Raises ValueError for an empty batch.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    return render_scene(draw_scene(config, batch, seed, textures), config)


def throughput(
    config: SceneConfig, batch: int = 8, seconds: float = 10.0, device: torch.device | str = "cpu"
) -> dict[str, float | int | str]:
    """Rendering speed in frames per second over about `seconds`, with what it was measured on."""
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
