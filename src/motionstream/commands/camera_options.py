"""The options that say how a camera moves before a photograph, of the verbs that take them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from motionstream.commands.common import check_numbers

if TYPE_CHECKING:
    import numpy as np

    from motionstream.media import Fit
    from motionstream.tracks.camera import CameraWay


@dataclass(frozen=True, kw_only=True)
class CameraOptions:
    """Where the camera goes in the course of the clip; all of it at once."""

    pan: Annotated[str | None, tyro.conf.arg(metavar="X,Y")] = None
    """The camera goes so far to the right and down, in the picture's shorter sides."""
    orbit: Annotated[str | None, tyro.conf.arg(metavar="YAW,PITCH")] = None
    """The camera swings around what it looks at, so many degrees to the right and downwards."""
    dolly: Annotated[float, tyro.conf.arg(metavar="SHARE")] = 0.0
    """The camera comes nearer by this share of the distance, below 1; negative goes back."""
    zoom: Annotated[float, tyro.conf.arg(metavar="FACTOR")] = 1.0
    """The camera enlarges by this factor; below 1 it shows more."""
    camera_ease: Literal["smooth", "linear"] = "smooth"
    """Whether the camera starts and stops gently."""
    depth: Annotated[Path | None, tyro.conf.arg(metavar="MAP.png|npy")] = None
    """How far away everything is: a 16-bit PNG or a .npy of the photograph's shape. Without it a plain guess: the
    middle nearest, and the bottom nearer than the top."""
    inverse_depth: bool = False
    """What is bright in --depth is near, as in the pictures that depth networks make."""
    depth_model: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Ask a depth-estimation model of transformers in this folder (Depth Anything, DPT, ZoeDepth) instead."""

    def way(self) -> CameraWay | None:
        """The camera's way, or None where none is asked for. Raises ValueError for values that do not work."""
        from motionstream.tracks.camera import CameraWay

        pan, orbit = (
            (0.0, 0.0) if text is None else check_numbers(f"--{name}", text)
            for name, text in (("pan", self.pan), ("orbit", self.orbit))
        )
        way = CameraWay(pan, orbit, self.dolly, self.zoom, self.camera_ease)
        if self.depth is not None and self.depth_model is not None:
            raise ValueError("--depth and --depth-model both say how far away things are; give one of them")
        if self.inverse_depth and self.depth is None:
            raise ValueError("--inverse-depth has no effect without --depth MAP")
        told = {"--depth": self.depth is not None, "--depth-model": self.depth_model is not None}
        told["--camera-ease linear"] = self.camera_ease == "linear"
        without = [name for name, given in told.items() if given]
        if way.rests and without:
            raise ValueError(f"{without[0]} has no effect without --pan, --orbit, --dolly or --zoom")
        return None if way.rests else way

    def depth_of(self, picture: np.ndarray, fitting: Fit) -> np.ndarray:
        """The depth map of a photograph uint8 (H, W, 3), fitted as it was; says where it comes from."""
        from motionstream.tracks.depth import DepthModel, fit_depth, plain_prior, read_depth

        if self.depth is not None:
            return fit_depth(read_depth(self.depth, inverse=self.inverse_depth), fitting)
        if self.depth_model is not None:
            return fit_depth(DepthModel(self.depth_model)(picture), fitting)
        print("depth: a plain guess, the middle nearest and the bottom nearer than the top; --depth gives a map")
        return plain_prior(fitting.size)
