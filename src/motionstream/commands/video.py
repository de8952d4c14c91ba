"""Common part of ``motionstream stream``, ``teacher`` and ``edit``: options for a photograph and gestures, and the
writing of a video file."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from motionstream.commands.camera_options import CameraOptions
from motionstream.commands.common import (
    PlacementOptions,
    check_paths,
    check_positive,
    free_name,
    load_pipeline,
    parse_size,
    progress,
)

if TYPE_CHECKING:
    import numpy as np

    from motionstream.config import ModelConfig
    from motionstream.media.pictures import Fit
    from motionstream.pipeline import MotionStreamPipeline
    from motionstream.tracks import Tracks
    from motionstream.tracks.masks import Draw

KEPT_FRAMES = 240
"""Maximum number of frames kept for the preview and the check of the corners, however long the video is."""


@dataclass(frozen=True, kw_only=True)
class VideoCommand(CameraOptions, PlacementOptions):
    """The common options; each verb implements how frames are made."""

    NEEDS: ClassVar[tuple[str, ...] | None] = None
    DEFAULT_SECONDS: ClassVar[float] = 3.0

    image: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGE")]
    """Any photograph; it is scaled and cropped to the model's size."""
    drag: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="X0,Y0:X1,Y1")] = ()
    """Drag the content at X0,Y0 to X1,Y1 (which may lie outside the picture), in fractions of the fitted picture or in
    pixels of --size."""
    select: bool = False
    """Drag the whole object at the start point, found by GrabCut, instead of a disc."""
    pin: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="X,Y")] = ()
    """Keep the content at X,Y in place."""
    tracks: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """Follow these tracks, resized and resampled for the model. Drags and pins are added to them."""
    transfer: Annotated[Path | None, tyro.conf.arg(metavar="VIDEO")] = None
    """Transfer the motion of this video to the photograph. Drags and pins are added to it."""
    align: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="SX,SY:DX,DY")] = ()
    """Place pixel SX,SY of --transfer's video at pixel DX,DY of the fitted picture; two pairs also rotate and scale the
    video. By default the video covers the picture."""
    prompt: str = ""
    """A sentence describing what happens."""
    seconds: Annotated[float | None, tyro.conf.arg(metavar="S")] = None
    """Length of the video in seconds; by default that of the tracks, or 3."""
    seed: int = 0
    """Seed of the noise; equal seeds give equal frames."""
    radius: Annotated[float, tyro.conf.arg(metavar="PX")] = 16.0
    """Radius around its start that a drag or pin holds, in pixels of --size."""
    spacing: Annotated[float, tyro.conf.arg(metavar="PX")] = 8.0
    """Distance between the points of a drag's or pin's grid, in pixels of --size."""
    reach: float = 0.75
    """Fraction of the time after which a drag has reached its end; it then holds."""
    model: str = "nano"
    """An embedded model, a preset, a folder or file with weights, or a repository on the Hugging Face hub
    (owner/name)."""
    untrained: bool = False
    """Accept untrained weights, whose video is meaningless."""
    causal: Annotated[str | None, tyro.conf.arg(metavar="c3s1w1")] = None
    """Attention pattern: latent frames per chunk, sink chunks, window chunks; by default the model's own."""
    backend: str = "auto"
    """Attention backend, see motionstream doctor; auto takes the fastest that runs."""
    size: Annotated[str | None, tyro.conf.arg(metavar="WxH")] = None
    """The model's working size; by default its size with the shape nearest to the photograph's."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="OUT.mp4")] = None
    """The video; by default the photograph's name with .mp4, in this folder."""
    preview: Annotated[Path | None, tyro.conf.arg(metavar="SHEET.png")] = None
    """Also write a sheet of eight frames with the tracks drawn."""
    save_tracks: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """Also write the tracks that were followed."""

    def given(self) -> Tracks | None:
        """The tracks of a file, of any size and rate; drags, pins and the camera are added later."""
        return None if self.tracks is None else _load_tracks(self.tracks)

    def make(
        self, pipeline: MotionStreamPipeline, picture: np.ndarray, tracks: Tracks, say: Callable[[int, int], object]
    ) -> Iterator[np.ndarray]:
        """Yield the frames uint8 (n, H, W, 3) along ``tracks``; ``say`` receives the work done and the total."""
        raise AssertionError("the verbs say how")

    def shown_at(self, config: ModelConfig) -> int:
        """Enlargement of the frames relative to the model's size."""
        return 1

    def run(self) -> None:
        """Check the options, then generate and write."""
        from motionstream.media.pictures import fit, read_picture
        from motionstream.media.videos import VIDEO_SUFFIXES, VideoWriter

        output = self.output or free_name(f"{self.image.stem}.mp4")
        self.check(output, VIDEO_SUFFIXES)
        from motionstream.model.backends import use_backend

        picture = read_picture(self.image)
        given = self.given()
        pipeline = load_pipeline(
            self.model, untrained=self.untrained, causal=self.causal, options=self, needs=self.NEEDS
        )
        config, wanted = pipeline.config, parse_size(self.size)
        size = config.nearest_size(*picture.shape[:2]) if wanted is None else config.checked_size(wanted)
        scale, (fitted, fitting) = self.shown_at(config), fit(picture, size)
        tracks = self.all_tracks(config, given, fitting, picture, fitted, pipeline.model.draw)
        print(f"{self.image}: {fitting.describe()}{f', shown {scale} times as large' if scale > 1 else ''}")
        _say_untrained(pipeline)
        kept, clock, stopped = KeptFrames(KEPT_FRAMES), 0.0, False
        frame_size = (scale * size[0], scale * size[1])
        with use_backend(self.backend), VideoWriter(output, frame_size, config.fps) as writer, progress() as bars:
            bar = bars.add_task(str(config.name), total=tracks.length)
            started = time.perf_counter()
            try:
                for frames in self.make(
                    pipeline, picture, tracks, lambda done, of: bars.update(bar, completed=done, total=of)
                ):
                    clock += time.perf_counter() - started  # generation only, without writing the file
                    writer.write(frames)
                    kept.add(frames)
                    started = time.perf_counter()
            except KeyboardInterrupt:
                if kept.count == 0:
                    raise
                stopped = True  # keep the frames: they may be an hour's work
        if stopped:
            print(f"{output}: stopped after {kept.count} of {tracks.length} frames, which are kept")
            raise KeyboardInterrupt
        self.write_extras(kept, tracks)
        seconds, rate = tracks.length / config.fps, tracks.length / clock
        print(f"{output}: {tracks.length} frames, {seconds:.2f} s, made at {rate:.1f} fps")
        print(describe_corners(kept, tracks))

    def check(self, output: Path, suffixes: Sequence[str], *others: Path | None) -> None:
        """Refuse invalid options and paths; ``output`` and ``others`` are files to be written."""
        from motionstream.media.files import check_output
        from motionstream.media.pictures import PICTURE_SUFFIXES

        check_positive("--seconds", self.seconds, "seconds")
        if not 0 < self.reach <= 1:
            raise ValueError(f"--reach is {self.reach:g}; give a part of the time, above 0 and at most 1")
        self.way()
        if self.align and self.transfer is None:
            raise ValueError("--align has no effect without --transfer VIDEO")
        if self.select and not self.drag:
            raise ValueError("--select has no effect without --drag")
        inputs = [self.image, self.tracks, self.depth, self.transfer]
        check_paths(inputs, [output, self.preview, self.save_tracks, *others])
        check_output(output, suffixes)
        if self.preview is not None:
            check_output(self.preview, PICTURE_SUFFIXES)
        if self.save_tracks is not None:
            check_output(self.save_tracks, (".npz",))

    def all_tracks(
        self,
        config: ModelConfig,
        given: Tracks | None,
        fitting: Fit,
        photograph: np.ndarray,
        picture: np.ndarray,
        draw: Draw | None,
    ) -> Tracks:
        """All requested tracks, merged: from a file, transferred from a video, drags, pins, all moved by the camera.
        ``draw`` helps to find dragged objects. New camera points begin with chunks of ``config``'s length."""
        from motionstream.tracks import Tracks, drag_tracks, parse_drag, parse_pin, pin_tracks
        from motionstream.tracks.camera import camera_tracks
        from motionstream.tracks.masks import select_object

        size, fps, way = fitting.size, config.fps, self.way()
        chunks = config.chunk_video_frames(0), config.chunk_video_frames(1)
        parts = [] if given is None else [adapt_tracks(given, fitting, fps)]
        frames = self._frames(fps, parts[0].length if parts else None)
        if self.transfer is not None:
            parts.append(transferred(self.transfer, self.align, frames, size, fps, chunks))
        pins = [parse_pin(text, size) for text in self.pin]
        for text in self.drag:
            start, end = parse_drag(text, size)
            mask = select_object(picture, start, draw=draw) if self.select else None
            held = drag_tracks(
                start, end, frames, size, fps, reach=self.reach, spacing=self.spacing, radius=self.radius, mask=mask
            )
            parts.append(held)
        if pins:
            parts.append(pin_tracks(pins, frames, size, fps, spacing=self.spacing, radius=self.radius))
        if not parts and way is None:
            print("no --drag, --pin, --tracks, --transfer or camera: nothing is asked to move")
        tracks = Tracks.merge(parts, renumber=True) if parts else Tracks.empty(frames, size, fps)
        return tracks if way is None else camera_tracks(self.depth_of(photograph, fitting), way, tracks, chunks=chunks)

    def _frames(self, fps: float, tracked: int | None) -> int:
        """Length of the video in frames; ``tracked``: length of the tracks from a file."""
        from motionstream.tracks import MAX_FRAMES

        if self.seconds is None and tracked is not None:
            return tracked
        seconds = self.DEFAULT_SECONDS if self.seconds is None else self.seconds
        if seconds * fps > MAX_FRAMES:
            raise ValueError(f"--seconds is {seconds:g}; at most {MAX_FRAMES / fps:g} at {fps:g} fps")
        frames = max(1, round(seconds * fps))
        if tracked not in (None, frames):
            raise ValueError(
                f"--seconds {seconds:g} is {frames} frames, but the tracks given last {tracked}; leave --seconds out "
                "to take theirs"
            )
        return frames

    def write_extras(self, kept: KeptFrames, tracks: Tracks) -> None:
        """Write the preview and the tracks if requested."""
        from motionstream.media.pictures import write_picture

        if self.preview is not None:
            write_picture(self.preview, draw_preview(kept, tracks))
            print(f"{self.preview}: the preview, with the tracks drawn in")
        if self.save_tracks is not None:
            tracks.save(self.save_tracks)
            print(f"{self.save_tracks}: {tracks.count} tracks")


class KeptFrames:
    """At most ``limit`` evenly spaced frames of a video, and the last one, in bounded memory."""

    def __init__(self, limit: int) -> None:
        self.limit, self.every, self.count = limit, 1, 0
        self._frames: dict[int, np.ndarray] = {}
        self._last: np.ndarray | None = None

    def add(self, frames: np.ndarray) -> None:
        """Add the next frames of the video, uint8 (T, H, W, 3)."""
        for frame in frames:
            if self.count % self.every == 0:
                self._frames[self.count] = frame.copy()
            if len(self._frames) > self.limit:
                self.every *= 2
                self._frames = {number: f for number, f in self._frames.items() if number % self.every == 0}
            self._last, self.count = frame, self.count + 1

    def select(self, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Indices int (n,) and frames uint8 (n, H, W, 3) of at most ``most`` kept frames, including first and last."""
        import numpy as np

        assert self._last is not None
        frames = {**self._frames, self.count - 1: self._last}
        numbers = np.array(sorted(frames))
        if most is not None and len(numbers) > most:
            numbers = numbers[np.linspace(0, len(numbers) - 1, most).round().astype(int)]
        return numbers, np.stack([frames[number] for number in numbers])


def _load_tracks(path: Path) -> Tracks:
    from motionstream.tracks import Tracks

    try:
        return Tracks.load(path)
    except OSError as error:
        raise ValueError(f"cannot read the tracks {path}: {error.strerror}; check the name") from error


def adapt_tracks(tracks: Tracks, fitting: Fit, fps: float) -> Tracks:
    """Adapt tracks of any size and rate to the fitted picture (``fitting.size``) at ``fps``; prints what it changes.

    Tracks with the photograph's shape are scaled and cropped like the photograph, so that they stay on the same
    content; tracks of any other shape are stretched to the frame.
    """
    from motionstream.media.pictures import Fit

    (height, width), (rows, columns) = fitting.original, tracks.size
    old, new = f"{columns}x{rows}", f"{fitting.size[1]}x{fitting.size[0]}"
    if tracks.size != fitting.size:
        # A tolerance, since a photograph's thumbnail has its shape only up to rounding to whole pixels.
        if math.isclose(height * columns, width * rows, rel_tol=0.01):
            print(f"tracks of a {old} picture scaled and cropped to {new}, as the photograph was")
            positions = Fit(tracks.size, fitting.size).to_fitted(tracks.positions)
            tracks = dataclasses.replace(tracks, positions=positions, size=fitting.size)
        else:
            print(f"tracks of a {old} picture stretched to {new}")
            tracks = tracks.resize(fitting.size)
    if tracks.fps != fps:
        before = tracks.length
        tracks_fps, tracks = tracks.fps, tracks.resample(fps)
        print(f"tracks resampled from {tracks_fps:g} to {fps:g} fps: {before} frames become {tracks.length}")
    return tracks


def transferred(
    video: Path, pairs: Sequence[str], frames: int, size: tuple[int, int], fps: float, chunks: tuple[int, int]
) -> Tracks:
    """Tracks of ``frames`` frames from the motion of a video file; prints what was tracked. ``chunks``: frames of the
    first chunk and of every later one."""
    from motionstream.media.videos import read_video
    from motionstream.tracks.transfer import LARGEST, parse_pair, transfer_tracks

    places = [parse_pair(text) for text in pairs]
    # at the size used for tracking, unless pairs refer to the video's own pixels
    source, rate = read_video(video, fps=fps, limit=frames, side=None if places else LARGEST)
    if len(source) < frames:
        print(f"{video} ends after {len(source)} of {frames} frames; points then hold")
    tracks = transfer_tracks(source, rate, source.shape[1:3], size, frames, fps, pairs=places, chunks=chunks)
    print(f"{video}: {tracks.count} points of it move the picture, {tracks.visible[-1].sum()} of them to the end")
    return tracks


def draw_preview(kept: KeptFrames, tracks: Tracks) -> np.ndarray:
    """A sheet of eight frames with the tracks drawn, uint8 (H, W, 3)."""
    from motionstream.media.sheets import contact_sheet, draw_tracks

    numbers, frames = kept.select(8)
    tracks = tracks.resize(frames.shape[1:3])
    positions, visible = tracks.positions[numbers], tracks.visible[numbers]
    scale = max(1, 256 // max(frames.shape[1:3]))
    drawn = draw_tracks(frames, positions, visible, scale=scale, trail=len(frames))
    return contact_sheet(drawn, 4, times=[number / tracks.fps for number in numbers.tolist()])


def describe_corners(kept: KeptFrames, tracks: Tracks) -> str:
    """A line on how far the content of undragged corners has moved by the last frame.

    This reveals videos that follow a drag by moving the whole picture.
    """
    import numpy as np

    from motionstream.tracks.tracker import TemplateTracker

    _, frames = kept.select()
    height, width = frames.shape[1:3]
    tracks = tracks.resize((height, width))
    inset = min(12, height // 4, width // 4)
    corners = {
        f"{row} {column}": (x, y)
        for row, y in (("top", inset), ("bottom", height - 1 - inset))
        for column, x in (("left", inset), ("right", width - 1 - inset))
    }
    found = TemplateTracker().track(frames, np.array(list(corners.values()), np.float32))
    moving = _moving_points(tracks)
    measured, skipped = [], []
    for index, (name, place) in enumerate(corners.items()):
        if len(moving) and np.hypot(*(moving - place).T).min() < inset:
            skipped.append(f"{name} is near a drag")
        elif not found.visible[-1, index]:
            skipped.append(f"{name} {'was lost' if found.visible[0, index] else 'has no texture'}")
        else:
            measured.append(f"{name} {np.hypot(*(found.positions[-1, index] - place)):.1f} px")
    left_out = f" ({', '.join(skipped)})" if skipped else ""
    return f"corners moved {', '.join(measured) or 'unknown'}{left_out}"


def _moving_points(tracks: Tracks) -> np.ndarray:
    """All positions (n, 2) of tracks that move further than a pixel, which excludes pins."""
    import numpy as np

    places = np.where(tracks.visible[..., None], tracks.positions, np.nan)
    shown = tracks.visible.any(axis=0)
    places = places[:, shown]
    extent = np.nanmax(places, axis=0) - np.nanmin(places, axis=0) if shown.any() else np.zeros((0, 2))
    points = places[:, (extent > 1).any(axis=-1)].reshape(-1, 2)
    return np.asarray(points[np.isfinite(points).all(axis=-1)])


def _say_untrained(pipeline: MotionStreamPipeline) -> None:
    from motionstream.loading import STAGES

    missing = [stage for stage in STAGES if stage not in pipeline.stages]
    if missing:
        print(f"{pipeline.config.name} is untrained (missing: {', '.join(missing)}): its video means little")
