"""``motionstream edit``: edits a picture by dragging; the video's last frame is the edited picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from motionstream.commands.common import free_name, load_pipeline, parse_size, progress
from motionstream.commands.video import KeptFrames, VideoCommand


@dataclass(frozen=True, kw_only=True)
class EditCommand(VideoCommand):
    """The options of ``motionstream edit``."""

    HELP: ClassVar[str] = """\
Edit a photograph by dragging: a video follows the drag and holds at its end; the last frame becomes the edited
photograph, at the photograph's own size.

Unchanged areas keep the photograph's own pixels; changed areas come from the enlarged last frame, with the photograph's
fine detail moved along.

Examples:
  motionstream edit photo.jpg --drag 0.3,0.5:0.5,0.5 -o edited.png
  motionstream edit photo.jpg --drag 0.3,0.5:0.5,0.5 --select --transition there.mp4
  motionstream edit photo.jpg --dolly 0.3 --pin 10,10 --seconds 2"""

    DEFAULT_SECONDS: ClassVar[float] = 1.5

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="EDITED.png")] = None
    """The edited photograph; by default the photograph's name with -edited.png, in this folder."""
    seconds: Annotated[float | None, tyro.conf.arg(metavar="S")] = None
    """Duration of the drag in seconds, including the hold at its end (--reach); by default that of the tracks, or
    1.5."""
    transition: Annotated[Path | None, tyro.conf.arg(metavar="OUT.mp4")] = None
    """Also write the video that leads to the edited photograph, at the model's size."""

    def run(self) -> None:
        """Check the options, drag, save the last frame."""
        from motionstream.media.files import check_output
        from motionstream.media.pictures import PICTURE_SUFFIXES, fit, has_transparency, read_picture, write_picture
        from motionstream.media.videos import VIDEO_SUFFIXES, write_video
        from motionstream.model.backends import use_backend

        output = self.output or free_name(f"{self.image.stem}-edited.png")
        self.check(output, PICTURE_SUFFIXES, self.transition)
        if self.transition is not None:
            check_output(self.transition, VIDEO_SUFFIXES)
        photograph = read_picture(self.image)
        if has_transparency(self.image):
            print(f"{self.image}: what is transparent is laid on white, also in the edited picture")
        given = self.given()
        pipeline = load_pipeline(self.model, untrained=self.untrained, causal=self.causal, options=self)
        config, wanted = pipeline.config, parse_size(self.size)
        size = config.nearest_size(*photograph.shape[:2]) if wanted is None else config.checked_size(wanted)
        picture, fitting = fit(photograph, size)
        tracks = self.all_tracks(config, given, fitting, photograph, picture, pipeline.model.draw)
        if tracks.count == 0:
            raise ValueError("nothing is asked to move; give --drag, --tracks or a camera")
        print(f"{self.image}: {fitting.describe()}")
        from motionstream.editing import edit_picture

        with use_backend(self.backend), progress() as bars:
            bars.add_task(str(config.name), total=None)
            edit = edit_picture(pipeline, photograph, tracks, self.prompt, self.seed)
        write_picture(output, edit.picture)
        print(f"{output}: {edit.picture.shape[1]}x{edit.picture.shape[0]}, after {tracks.length} frames")
        if self.transition is not None:
            write_video(self.transition, edit.transition, config.fps)
            print(f"{self.transition}: the {tracks.length} frames that lead there")
        kept = KeptFrames(tracks.length)
        kept.add(edit.transition)
        self.write_extras(kept, tracks)
