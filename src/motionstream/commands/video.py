"""What ``motionstream stream`` and ``motionstream teacher`` share: a photograph and gestures become a video file."""

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
    from motionstream.media import Fit
    from motionstream.pipeline import MotionStreamPipeline
    from motionstream.tracks import Tracks
    from motionstream.tracks.masks import Draw

KEPT_FRAMES = 240
"""How many frames are kept for the preview and the check of the corners, however long the video is."""


@dataclass(frozen=True, kw_only=True)
class VideoCommand(CameraOptions, PlacementOptions):
    """The options of both verbs; each of them says how frames are made."""

    NEEDS: ClassVar[tuple[str, ...] | None] = None
    DEFAULT_SECONDS: ClassVar[float] = 3.0

    image: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="IMAGE")]
    """Any photograph; it is scaled and cropped to the model's size."""
    drag: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="X0,Y0:X1,Y1")] = ()
    """Drag what is at X0,Y0 to X1,Y1 (which may lie outside the picture): in fractions of the fitted picture, or in
    pixels of --size."""
    select: bool = False
    """Drags take hold of the whole object under their start, as GrabCut finds it, instead of a disc."""
    pin: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="X,Y")] = ()
    """Keep what is at X,Y where it is."""
    tracks: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """Follow these tracks; resized and resampled to the model. Drags and pins are added to them."""
    transfer: Annotated[Path | None, tyro.conf.arg(metavar="VIDEO")] = None
    """Move as this video does. Drags and pins are added to it."""
    align: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="SX,SY:DX,DY")] = ()
    """This pixel of --transfer's video lies on that pixel of the fitted picture; two of them turn and scale the video,
    too. Without it the video covers the picture."""
    prompt: str = ""
    """A sentence about what happens."""
    seconds: Annotated[float | None, tyro.conf.arg(metavar="S")] = None
    """Length of the video; without it that of the tracks, or 3."""
    seed: int = 0
    """The same seed gives the same frames."""
    radius: Annotated[float, tyro.conf.arg(metavar="PX")] = 16.0
    """How far from its start a drag or pin takes hold; of --size, as all pixels here."""
    spacing: Annotated[float, tyro.conf.arg(metavar="PX")] = 8.0
    """Distance between the points of a drag's or pin's grid."""
    reach: float = 0.75
    """Part of the time by which a drag arrives at its end; it then holds."""
    model: str = "nano"
    """An embedded model, a preset, a folder or file with weights, or a repository of the hub (owner/name)."""
    untrained: bool = False
    """Accept weights that were not trained; their video means little."""
    causal: Annotated[str | None, tyro.conf.arg(metavar="c3s1w1")] = None
    """Another attention pattern than the model's own: latent frames of a chunk, sink chunks, window chunks."""
    backend: str = "auto"
    """Attention backend, see motionstream doctor; auto takes the fastest that runs."""
    size: Annotated[str | None, tyro.conf.arg(metavar="WxH")] = None
    """Size at which the model works; without it the one of its sizes whose shape is nearest to the photograph's."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="OUT.mp4")] = None
    """The video; without it the photograph's name with .mp4, in this folder."""
    preview: Annotated[Path | None, tyro.conf.arg(metavar="SHEET.png")] = None
    """Also write a sheet of eight frames with the tracks drawn in."""
    save_tracks: Annotated[Path | None, tyro.conf.arg(metavar="FILE.npz")] = None
    """Also write the tracks that were followed."""

    def given(self) -> Tracks | None:
        """Tracks that a file has, of whatever size and rate; drags, pins and the camera come on top."""
        return None if self.tracks is None else _load_tracks(self.tracks)

    def make(
        self, pipeline: MotionStreamPipeline, picture: np.ndarray, tracks: Tracks, say: Callable[[int, int], object]
    ) -> Iterator[np.ndarray]:
        """Yield the frames uint8 (n, H, W, 3), all of ``tracks``; ``say`` is told what is done of how much."""
        raise AssertionError("the verbs say how")

    def shown_at(self, config: ModelConfig) -> int:
        """How many times as large as the model sees them frames are made."""
        return 1

    def run(self) -> None:
        """Check everything, then generate and write."""
        from motionstream.media import VIDEO_SUFFIXES, VideoWriter, fit, read_picture

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
                    clock += time.perf_counter() - started  # generation alone, without the file
                    writer.write(frames)
                    kept.add(frames)
                    started = time.perf_counter()
            except KeyboardInterrupt:
                if kept.count == 0:
                    raise
                stopped = True  # what there is may be an hour's work
        if stopped:
            print(f"{output}: stopped after {kept.count} of {tracks.length} frames, which are kept")
            raise KeyboardInterrupt
        self.write_extras(kept, tracks)
        seconds, rate = tracks.length / config.fps, tracks.length / clock
        print(f"{output}: {tracks.length} frames, {seconds:.2f} s, made at {rate:.1f} fps")
        print(describe_corners(kept, tracks))

    def check(self, output: Path, suffixes: Sequence[str], *others: Path | None) -> None:
        """Refuse options that do not work, and files that cannot be written: ``output``, and ``others`` beside it."""
        from motionstream.media import PICTURE_SUFFIXES, check_output

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
        """All that was asked for, as one: what a file gave, the drags, the pins, the camera before all of them.
        ``draw`` helps to find what drags take hold of. What comes into view begins with a chunk of ``config``'s."""
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
        """Length of the video in frames; ``tracked``: that of the tracks from a file."""
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
        """The preview and the tracks, where they are asked for."""
        from motionstream.media import write_picture

        if self.preview is not None:
            write_picture(self.preview, draw_preview(kept, tracks))
            print(f"{self.preview}: the preview, with the tracks drawn in")
        if self.save_tracks is not None:
            tracks.save(self.save_tracks)
            print(f"{self.save_tracks}: {tracks.count} tracks")


class KeptFrames:
    """An even selection of a video's frames, at most ``limit`` and the last one, in bounded memory."""

    def __init__(self, limit: int) -> None:
        self.limit, self.every, self.count = limit, 1, 0
        self._frames: dict[int, np.ndarray] = {}
        self._last: np.ndarray | None = None

    def add(self, frames: np.ndarray) -> None:
        """The next frames of the video, uint8 (T, H, W, 3)."""
        for frame in frames:
            if self.count % self.every == 0:
                self._frames[self.count] = frame.copy()
            if len(self._frames) > self.limit:
                self.every *= 2
                self._frames = {number: f for number, f in self._frames.items() if number % self.every == 0}
            self._last, self.count = frame, self.count + 1

    def select(self, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """int (n,): numbers of at most ``most`` of the frames, first and last among them; uint8 (n, H, W, 3)."""
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
    """Tracks of any size and rate, for the fitted picture (``fitting.size``) at ``fps``; says what it does.

    Tracks made on the photograph, or on a video of its shape, are scaled and cropped as the photograph was, so that
    they stay on what they followed; those of any other shape are stretched to the frame.
    """
    from motionstream.media import Fit

    (height, width), (rows, columns) = fitting.original, tracks.size
    old, new = f"{columns}x{rows}", f"{fitting.size[1]}x{fitting.size[0]}"
    if tracks.size != fitting.size:
        # Sizes are whole pixels: a photograph's thumbnail has its shape but for a rounding.
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
    """Tracks of ``frames`` frames by the motion of a video file, cut in ``chunks``: the first and every later one; says
    what was followed."""
    from motionstream.media import read_video
    from motionstream.tracks.transfer import LARGEST, parse_pair, transfer_tracks

    places = [parse_pair(text) for text in pairs]
    # no larger than it is looked at, unless its own pixels are spoken of
    source, rate = read_video(video, fps=fps, limit=frames, side=None if places else LARGEST)
    if len(source) < frames:
        print(f"{video} ends after {len(source)} of {frames} frames; points then hold")
    tracks = transfer_tracks(source, rate, source.shape[1:3], size, frames, fps, pairs=places, chunks=chunks)
    print(f"{video}: {tracks.count} points of it move the picture, {tracks.visible[-1].sum()} of them to the end")
    return tracks


def draw_preview(kept: KeptFrames, tracks: Tracks) -> np.ndarray:
    """A sheet of eight frames with the tracks drawn, uint8 (H, W, 3)."""
    from motionstream.media import contact_sheet, draw_tracks

    numbers, frames = kept.select(8)
    tracks = tracks.resize(frames.shape[1:3])
    positions, visible = tracks.positions[numbers], tracks.visible[numbers]
    scale = max(1, 256 // max(frames.shape[1:3]))
    drawn = draw_tracks(frames, positions, visible, scale=scale, trail=len(frames))
    return contact_sheet(drawn, 4, times=[number / tracks.fps for number in numbers.tolist()])


def describe_corners(kept: KeptFrames, tracks: Tracks) -> str:
    """One line: how far what was in the corners, where nothing dragged, is from its place in the last frame.

    A video that follows a drag by moving the whole picture shows here.
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
    """Positions (n, 2) at all times of the tracks that go further than a pixel; pins do not."""
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
