"""The nodes. Their inputs and outputs are plain values and `Tracks`; they need nothing of ComfyUI.

ComfyUI's IMAGE is a float tensor (B, H, W, 3) in 0..1: a picture is one of them, a video many. Tracks are for one of
the model's sizes; the sampler fits the picture to it as `motionstream stream` does.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import numpy as np
import torch

from motionstream import MotionStreamPipeline, Tracks
from motionstream.media.pictures import Fit
from motionstream.tracks import drag_tracks, parse_drag, parse_pin, pin_tracks
from motionstream.tracks.camera import CameraWay, camera_tracks
from motionstream.tracks.depth import check_depth, fit_depth, plain_prior

CATEGORY = "MotionStream"
TRACKS = "MOTIONSTREAM_TRACKS"
SIZE: dict[str, Any] = {
    "width": ("INT", {"default": 128, "min": 16, "max": 4096}),
    "height": ("INT", {"default": 128, "min": 16, "max": 4096}),
}
LENGTH: dict[str, Any] = {
    "frames": ("INT", {"default": 72, "min": 1, "max": 10_000}),
    "fps": ("FLOAT", {"default": 24.0, "min": 1.0, "max": 120.0}),
}


class LoadTracks:
    """Tracks from a file that `motionstream track`, `camera` or the studio wrote."""

    CATEGORY: ClassVar[str] = CATEGORY
    RETURN_TYPES: ClassVar[tuple[str, ...]] = (TRACKS,)
    FUNCTION: ClassVar[str] = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"path": ("STRING", {"default": "tracks.npz"})}}

    def load(self, path: str) -> tuple[Tracks]:
        return (Tracks.load(path),)


class DragTracks:
    """Drags and pins, one a line: "x0,y0:x1,y1" or "x,y", in fractions of the fitted picture or in its pixels."""

    CATEGORY: ClassVar[str] = CATEGORY
    RETURN_TYPES: ClassVar[tuple[str, ...]] = (TRACKS,)
    FUNCTION: ClassVar[str] = "draw"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        gestures = ("STRING", {"multiline": True, "default": "0.3,0.5:0.7,0.5\n0.1,0.9"})
        reach = {"spacing": ("FLOAT", {"default": 8.0, "min": 1.0}), "radius": ("FLOAT", {"default": 16.0, "min": 0.0})}
        return {"required": {"gestures": gestures, **SIZE, **LENGTH, **reach}}

    def draw(
        self, gestures: str, width: int, height: int, frames: int, fps: float, spacing: float, radius: float
    ) -> tuple[Tracks]:
        size, parts = (height, width), []
        for line in (line.strip() for line in gestures.splitlines()):
            if ":" in line:
                ends = parse_drag(line, size)
                parts.append(drag_tracks(*ends, frames, size, fps, spacing=spacing, radius=radius))
            elif line:
                parts.append(pin_tracks([parse_pin(line, size)], frames, size, fps, spacing=spacing, radius=radius))
        return (Tracks.merge(parts, renumber=True) if parts else Tracks.empty(frames, size, fps),)


class CameraTracks:
    """A camera that moves before the picture, over tracks of objects; `depth` (far is bright) or a plain guess."""

    CATEGORY: ClassVar[str] = CATEGORY
    RETURN_TYPES: ClassVar[tuple[str, ...]] = (TRACKS,)
    FUNCTION: ClassVar[str] = "move"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        way = {
            name: ("FLOAT", {"default": default, "min": low, "max": high, "step": 0.01})
            for name, default, low, high in (
                ("pan_x", 0.0, -20.0, 20.0),
                ("pan_y", 0.0, -20.0, 20.0),
                ("yaw", 0.0, -3600.0, 3600.0),
                ("pitch", 0.0, -3600.0, 3600.0),
                ("dolly", 0.0, -20.0, 0.99),
                ("zoom", 1.0, 0.05, 20.0),
            )
        }
        return {"required": {"objects": (TRACKS,), **way}, "optional": {"depth": ("IMAGE",)}}

    def move(
        self,
        objects: Tracks,
        pan_x: float,
        pan_y: float,
        yaw: float,
        pitch: float,
        dolly: float,
        zoom: float,
        depth: torch.Tensor | None = None,
    ) -> tuple[Tracks]:
        way = CameraWay((pan_x, pan_y), (yaw, pitch), dolly, zoom)
        near = plain_prior(objects.size)
        if depth is not None:
            values = check_depth(depth[0].mean(dim=-1).cpu().numpy())
            near = fit_depth(values, Fit((values.shape[0], values.shape[1]), objects.size))
        return (camera_tracks(near, way, objects),)


class Sample:
    """A picture and tracks become video, chunk by chunk, by a MotionStream model."""

    CATEGORY: ClassVar[str] = CATEGORY
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)
    FUNCTION: ClassVar[str] = "sample"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "tracks": (TRACKS,),
                "model": ("STRING", {"default": "nano"}),
                "prompt": ("STRING", {"multiline": True, "default": ""}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**31 - 1}),
                "untrained": ("BOOLEAN", {"default": False}),
            }
        }

    def sample(
        self, image: torch.Tensor, tracks: Tracks, model: str, prompt: str, seed: int, untrained: bool
    ) -> tuple[torch.Tensor]:
        picture = (image[0].cpu().numpy() * 255 + 0.5).clip(0, 255).astype(np.uint8)
        pipeline = load(model, untrained)
        video = pipeline(picture, tracks.resample(pipeline.config.fps), prompt, seed, size=tracks.size)
        return (torch.from_numpy(video).float() / 255,)


@functools.lru_cache(maxsize=1)
def load(model: str, untrained: bool) -> MotionStreamPipeline:
    """The last model stays loaded between runs."""
    return MotionStreamPipeline.from_pretrained(model, untrained=untrained)


NODE_CLASS_MAPPINGS = {
    "MotionStreamLoadTracks": LoadTracks,
    "MotionStreamDragTracks": DragTracks,
    "MotionStreamCameraTracks": CameraTracks,
    "MotionStreamSample": Sample,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "MotionStreamLoadTracks": "Load tracks",
    "MotionStreamDragTracks": "Drags and pins",
    "MotionStreamCameraTracks": "Camera over a picture",
    "MotionStreamSample": "Stream a video along tracks",
}
