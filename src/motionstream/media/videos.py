"""Reads and writes videos: uint8 `T H W 3`, RGB; `size` is (height, width)."""

import warnings
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from motionstream.media.files import atomic_path, check_input, check_output
from motionstream.media.pictures import MAX_PIXELS, by, check_frames, too_large
from motionstream.yuv import mark_bt709, to_rgb, to_yuv

MAX_FRAMES = 10_000  # per video read at once
MAX_VIDEO_PIXELS = 1_000_000_000  # per video read at once: 3 GB of memory

VIDEO_SUFFIXES = (".mp4",)
# Only self-contained formats: a playlist could name other files or addresses.
VIDEO_CONTAINERS = "mov,mp4,matroska,webm,avi,gif,mpegts"

Timed = Iterator[tuple[float, np.ndarray]]  # frames with their times in seconds


class VideoWriter:
    """Write H.264 (yuv420p, BT.709) in a fragmented MP4, as a context manager.

        with VideoWriter("out.mp4", size=(128, 128), fps=24) as writer:
            writer.write(frames)

    The file gets its name if the body succeeds and is removed if it raises. Meanwhile the temporary file is playable up
    to the last key frame (one per second), also after the process was killed. The constructor raises ValueError for a
    path, size or rate that cannot be written, before anything is generated.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], fps: float, *, crf: int = 16) -> None:
        """`size`: (height, width), both even. `crf`: from 0 (lossless) to 51 (worst); 16 looks lossless."""
        if any(side % 2 or not 2 <= side <= 8192 for side in size):
            raise ValueError(f"video of {by(size)}: both sides must be even, 2 to 8192; scale or crop it")
        if not 0 < fps <= 1000:
            raise ValueError(f"fps = {fps}: give a rate above 0 and at most 1000")
        if not 0 <= crf <= 51:
            raise ValueError(f"crf = {crf}: choose from 0 (lossless) to 51 (worst)")
        check_output(path, VIDEO_SUFFIXES)
        self.path, self.size, self.fps, self.crf = path, (size[0], size[1]), fps, crf
        self.frames = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path, VIDEO_SUFFIXES))
            options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
            self._container = stack.enter_context(av.open(str(temporary), "w", "mp4", options=options))
            # 1001: the denominator of the NTSC rates (24000/1001 and the like)
            rate = Fraction(self.fps).limit_denominator(1001)
            self._stream = self._container.add_stream("libx264", rate=rate)
            self._stream.height, self._stream.width = self.size
            # One key frame, hence one fragment, per second; no reordered frames, which would need edit lists.
            self._stream.options = {"crf": str(self.crf), "g": str(max(1, round(self.fps))), "bf": "0"}
            mark_bt709(self._stream.codec_context)
            self._reformatter = VideoReformatter()
            self._stack = stack.pop_all()
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append frames, uint8 (T, H, W, 3) or one (H, W, 3), of the writer's size."""
        frames = frames[None] if frames.ndim == 3 else frames
        check_frames(frames)
        if frames.shape[1:3] != self.size:
            raise ValueError(f"frames of {by(frames.shape[1:3])} in a video of {by(self.size)}: scale them")
        for picture in frames:
            self._container.mux(self._stream.encode(to_yuv(picture, self._reformatter)))
        self.frames += len(frames)

    def __exit__(self, *failure: Any) -> None:
        if failure[0] is not None:
            self._stack.__exit__(*failure)
            return
        with self._stack:  # an error here also removes the file
            if self.frames == 0:
                raise ValueError(f"cannot write {self.path}: a video needs at least one frame")
            self._container.mux(self._stream.encode(None))


def write_video(path: str | Path, frames: np.ndarray, fps: float, *, crf: int = 16) -> None:
    """Write uint8 (T, H, W, 3) as MP4, whole or not at all; raises ValueError as `VideoWriter` does."""
    check_frames(frames)
    with VideoWriter(path, frames.shape[1:3], fps, crf=crf) as writer:
        writer.write(frames)


def read_video(
    path: str | Path, *, fps: float | None = None, limit: int | None = None, side: int | None = None
) -> tuple[np.ndarray, float]:
    """Read a video as (uint8 (T, H, W, 3), frames per second), upright.

    `fps`: resample by time stamps (phones vary their rate) to what a player would show; without it, frames are as
    stored, with their average rate. `limit`: most frames to read. `side`: longer side to which frames are reduced. A
    truncated file (a recording cut by a crash) gives its complete frames and a warning. Raises ValueError naming the
    path and the remedy if there is no file or no video, or if it exceeds MAX_FRAMES or MAX_VIDEO_PIXELS.
    """
    if any(each is not None and not each > 0 for each in (fps, limit, side)):
        raise ValueError(f"fps = {fps}, limit = {limit}, side = {side}: all must be above 0")
    check_input(path)
    try:
        options = {"format_whitelist": VIDEO_CONTAINERS, "protocol_whitelist": "file"}
        with av.open(str(path), options=options) as container:
            return _read_frames(path, container, fps, limit, side)
    except av.FFmpegError as error:
        raise ValueError(f"cannot read {path}: it is no video or damaged; convert it to MP4") from error


def _read_frames(
    path: str | Path, container: InputContainer, fps: float | None, limit: int | None, side: int | None
) -> tuple[np.ndarray, float]:
    stream = container.streams.video[0] if container.streams.video else None
    native = float((stream and (stream.average_rate or stream.guessed_rate)) or 0)
    if stream is None or stream.codec_context is None or native == 0:
        # A truncated file may open but have no stream, or one without a rate or decoder.
        raise ValueError(f"cannot read {path}: it holds no video or is cut short; copy or convert it again")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise too_large(path, f"frames of {width * height} pixels")
    scale = min(1.0, (side or MAX_PIXELS) / max(width, height, 1))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    most = min(MAX_FRAMES, MAX_VIDEO_PIXELS // (size[0] * size[1]))
    timed = _decode(path, container, native, None if scale == 1 else size)
    frames: list[np.ndarray] = []
    for frame in (frame for _, frame in timed) if fps is None else resample(timed, fps, 1 / native):
        if len(frames) == limit:
            break
        if len(frames) == most:
            raise ValueError(f"cannot read {path}: more than {most} frames; cut it, or set a limit")
        frames.append(frame)
    if not frames:
        raise ValueError(f"cannot read {path}: no frame can be decoded; copy or convert it again")
    return np.stack(frames), fps or native


def _decode(path: str | Path, container: InputContainer, native: float, size: tuple[int, int] | None) -> Timed:
    """Frames of the first video stream, upright, in `size` (width, height), with their times in seconds."""
    reformatter = VideoReformatter()
    width, height = size or (None, None)  # by default the first frame's, for all: a stream may change its size
    try:
        for number, frame in enumerate(container.decode(video=0)):
            width, height = width or frame.width, height or frame.height
            picture = to_rgb(frame, reformatter, width, height)
            time = number / native if frame.time is None else float(frame.time)
            yield time, np.rot90(picture, round(frame.rotation / 90))  # both count counter-clockwise
    except av.FFmpegError as error:
        warnings.warn(f"{path} breaks off: {error.strerror}; read as far as it goes", stacklevel=2)


def resample(timed: Timed, fps: float, last: float) -> Iterator[np.ndarray]:
    """Frames at constant `fps`: each input frame is shown until the next one's time, the final one `last` seconds."""
    slack = min(1e-3, 0.25 / fps)  # some containers round times to milliseconds
    start, end, count = 0.0, 0.0, 0
    shown = None
    for time, frame in timed:
        start = time if shown is None else start
        while shown is not None and count / fps < time - start - slack:
            yield shown
            count += 1
        shown, end = frame, time + last
    while shown is not None and count / fps < end - start - slack:
        yield shown
        count += 1
