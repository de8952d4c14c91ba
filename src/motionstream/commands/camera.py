"""``motionstream camera``: turns a camera motion over a photograph into tracks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from motionstream.commands.camera_options import CameraOptions
from motionstream.commands.common import check_paths, check_positive, free_name, parse_size

if TYPE_CHECKING:
    import numpy as np

    from motionstream.tracks import Tracks


@dataclass(frozen=True, kw_only=True)
class CameraCommand(CameraOptions):
    """The options of ``motionstream camera``."""

    HELP: ClassVar[str] = """\
Move a camera in front of a photograph and save the resulting tracks, which follow from the photograph's depth.

Examples:
  motionstream camera photo.jpg --orbit 20,0 -o tracks.npz
  motionstream camera photo.jpg --pan 0.3,0 --dolly 0.2 --seconds 4 --preview sheet.png
  motionstream camera photo.jpg --orbit=-15,5 --depth depth.png --inverse-depth
  motionstream camera photo.jpg --zoom 1.5 --depth-model Depth-Anything-V2-Small-hf
  motionstream stream photo.jpg --tracks tracks.npz

motionstream stream takes the same options and combines the camera with drags. Directions are right and down; a value
that begins with a minus is written with an equals sign."""

    image: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGE")]
    """Any photograph."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="TRACKS.npz")] = None
    """The tracks; by default the photograph's name with .npz, in this folder."""
    seconds: Annotated[float, tyro.conf.arg(metavar="S")] = 3.0
    """Length of the clip in seconds."""
    fps: float = 24.0
    """Frames per second; by default nano's."""
    size: Annotated[str, tyro.conf.arg(metavar="WxH")] = "128x128"
    """Size to which the photograph is scaled and cropped; by default nano's."""
    preview: Annotated[Path | None, tyro.conf.arg(metavar="SHEET.png")] = None
    """Also write a sheet: the depth map, bright where near, and the tracks over the still picture."""

    def run(self) -> None:
        """Check the options, compute the tracks from the depth, save them."""
        from motionstream.media.files import check_output
        from motionstream.media.pictures import PICTURE_SUFFIXES, fit, read_picture, write_picture
        from motionstream.tracks import MAX_FRAMES, Tracks
        from motionstream.tracks.camera import camera_tracks

        output = self.output or free_name(f"{self.image.stem}.npz")
        check_positive("--seconds", self.seconds, "seconds")
        check_positive("--fps", self.fps, "frames a second")
        if self.seconds * self.fps > MAX_FRAMES:
            raise ValueError(f"--seconds is {self.seconds:g}; at most {MAX_FRAMES / self.fps:g} at {self.fps:g} fps")
        way = self.way()
        if way is None:
            raise ValueError("the camera stays where it is; give --pan, --orbit, --dolly or --zoom")
        check_paths([self.image, self.depth], [output, self.preview])
        check_output(output, (".npz",))
        if self.preview is not None:
            check_output(self.preview, PICTURE_SUFFIXES)
        size = parse_size(self.size)
        assert size is not None
        photograph = read_picture(self.image)
        picture, fitting = fit(photograph, size)
        depth = self.depth_of(photograph, fitting)
        objects = Tracks.empty(max(1, round(self.seconds * self.fps)), size, self.fps)
        tracks = camera_tracks(depth, way, objects)
        tracks.save(output)
        print(f"{self.image}: {fitting.describe()}")
        print(f"{output}: {tracks.count} tracks over {tracks.length} frames of {self.size} at {self.fps:g} fps")
        if self.preview is not None:
            write_picture(self.preview, camera_preview(picture, depth, tracks))
            print(f"{self.preview}: the depth map, and where the points go")


def camera_preview(picture: np.ndarray, depth: np.ndarray, tracks: Tracks) -> np.ndarray:
    """A sheet uint8 (H, W, 3): the depth map as inverse depth, then seven frames of the tracks over the picture."""
    import numpy as np

    from motionstream.media.sheets import contact_sheet, draw_tracks

    numbers = np.linspace(0, tracks.length - 1, min(7, tracks.length)).round().astype(int)
    scale = max(1, 256 // max(tracks.size))
    still = np.repeat(picture[None], len(numbers), axis=0)
    drawn = draw_tracks(still, tracks.positions[numbers], tracks.visible[numbers], scale=scale, trail=2)
    near = 1 / depth
    grey = (255 * (near - near.min()) / max(float(np.ptp(near)), 1e-9)).astype(np.uint8)
    first = np.repeat(np.kron(grey, np.ones((scale, scale), np.uint8))[..., None], 3, axis=2)
    times = [0.0, *(number / tracks.fps for number in numbers.tolist())]
    return contact_sheet(np.concatenate([first[None], drawn]), 4, times=times)
