"""The options for a camera motion over a photograph, shared by several verbs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from motionstream.commands.common import check_numbers

if TYPE_CHECKING:
    import numpy as np

    from motionstream.media.pictures import Fit
    from motionstream.tracks.camera import CameraWay


@dataclass(frozen=True, kw_only=True)
class CameraOptions:
    """The camera's motion over the clip; all components happen at once."""

    pan: Annotated[str | None, tyro.conf.arg(metavar="X,Y")] = None
    """Move the camera right and down by this much, in shorter sides of the picture."""
    orbit: Annotated[str | None, tyro.conf.arg(metavar="YAW,PITCH")] = None
    """Swing the camera around its target by this many degrees, to the right and downwards."""
    dolly: Annotated[float, tyro.conf.arg(metavar="SHARE")] = 0.0
    """Move the camera nearer by this share of the distance, below 1; negative moves back."""
    zoom: Annotated[float, tyro.conf.arg(metavar="FACTOR")] = 1.0
    """Enlarge by this factor; below 1 the camera shows more."""
    camera_ease: Literal["smooth", "linear"] = "smooth"
    """smooth: the camera starts and stops gently; linear: it has constant speed."""
    depth: Annotated[Path | None, tyro.conf.arg(metavar="MAP.png|npy")] = None
    """Depth map: a 16-bit PNG or a .npy of the photograph's shape. By default a simple guess: the centre is nearest,
    and the bottom nearer than the top."""
    inverse_depth: bool = False
    """Bright means near in --depth, as in the output of depth networks."""
    depth_model: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """Folder with a depth-estimation model of transformers (Depth Anything, DPT, ZoeDepth), instead of --depth."""

    def way(self) -> CameraWay | None:
        """The camera's motion, or None if it does not move. Raises ValueError for invalid values."""
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
        """The depth map of a photograph uint8 (H, W, 3), fitted like the photograph; prints a note if it is a guess."""
        from motionstream.tracks.depth import DepthModel, fit_depth, plain_prior, read_depth

        if self.depth is not None:
            return fit_depth(read_depth(self.depth, inverse=self.inverse_depth), fitting)
        if self.depth_model is not None:
            return fit_depth(DepthModel(self.depth_model)(picture), fitting)
        print("depth: a plain guess, the middle nearest and the bottom nearer than the top; --depth gives a map")
        return plain_prior(fitting.size)
