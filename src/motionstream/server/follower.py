"""Follows a source, a video or a webcam, whose motion drives a stream. All tracking runs in the follower's own thread,
so that the event loop never waits for it, and the engine's worker hardly ever.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import simplejpeg

from motionstream.server.sources import Video
from motionstream.session.commands import Follow, WebcamFrame
from motionstream.stream import Stream
from motionstream.tracks import Tracks
from motionstream.tracks.transfer import LiveTransfer, Pair, VideoTransfer

logger = logging.getLogger(__name__)

MOST_WAITING = 4  # largest number of webcam frames waiting to be tracked; further ones are skipped


class Follower:
    """Turns a source into the tracks of one chunk after another, in its own thread, until `close`.

    ``stream``: determines the tracks' size and rate. ``first_id``: see `LiveTransfer`. ``complain``: called in that
    thread with a message about an invalid webcam frame. Raises ValueError for an invalid alignment.
    """

    def __init__(self, command: Follow, stream: Stream, first_id: int, complain: Callable[[str], None]) -> None:
        self._video: Video | None = command.source
        self._source: tuple[int, int] = command.webcam or command.source.frames.shape[1:3]
        self._repeat, self._complain = command.repeat, complain
        self._size, self._fps = stream.size, stream.fps
        self._usual = stream.model.config.chunk_video_frames(1)
        self._pairs: Sequence[Pair] = [((sx, sy), (x, y)) for sx, sy, x, y in command.align]
        self._begin(first_id)
        self._ready: Future[Tracks] | None = None  # a video's tracks for the next chunk
        self._latest = -math.inf  # time of the latest webcam frame
        self._waiting = 0  # webcam frames waiting to be tracked
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "motionstream-follower")

    def look(self, frame: WebcamFrame) -> None:
        """Take a webcam frame, from any thread. ValueError if it is out of order or no webcam is followed."""
        if self._video is not None:
            raise ValueError("a video is followed, not a webcam; follow the webcam first")
        if frame.sent < self._latest:
            raise ValueError(f"a webcam frame of {frame.sent:g} s after one of {self._latest:g} s; send them in order")
        self._latest = frame.sent
        with self._lock:
            if self._waiting >= MOST_WAITING:
                return
            self._waiting += 1
        try:
            self._thread.submit(self._track, frame).add_done_callback(self._tracked)
        except RuntimeError:  # closed meanwhile
            return

    def cut(self, frames: int) -> Tracks:
        """The tracks of the next ``frames`` frames."""
        if self._video is None:
            # Up to the latest frame: a cut beyond it would show motion that has not arrived yet as rest.
            return self._thread.submit(self._live.cut, frames).result()
        ready = self._ready or self._thread.submit(self._next, frames)
        tracks = ready.result()
        self._ready = self._thread.submit(self._next, self._usual)
        return tracks if tracks.length == frames else _hurried(tracks, frames)

    def begin_anew(self) -> None:
        """Restart a webcam with its next frame, so that motion during a pause is not replayed."""
        if self._video is None:
            self._thread.submit(lambda: self._begin(self._live.next_id)).result()

    def close(self) -> None:
        """Stop following."""
        self._thread.shutdown(wait=False, cancel_futures=True)  # without waiting for a frame being tracked

    # ------------------------------------------------------------------------------------------ its own thread

    def _begin(self, first_id: int) -> None:
        self._live = LiveTransfer(self._source, self._size, self._fps, self._pairs, first_id=first_id)
        if self._video is not None:
            self._transfer = VideoTransfer(self._video.frames, self._video.fps, self._live)

    def _next(self, frames: int) -> Tracks:
        if self._repeat and self._transfer.ended:
            self._begin(self._live.next_id)
        return self._transfer.cut(frames)

    def _track(self, frame: WebcamFrame) -> None:
        try:
            self._live.feed(_decode(frame.jpeg, self._source), frame.sent)
        except ValueError as error:
            self._complain(str(error))

    def _tracked(self, done: Future[None]) -> None:
        with self._lock:
            self._waiting -= 1
        if not done.cancelled() and done.exception() is not None:
            logger.error("a webcam frame could not be tracked", exc_info=done.exception())
            self._complain("a webcam frame could not be tracked")


def _decode(jpeg: bytes, size: tuple[int, int]) -> np.ndarray:
    """The pixels of a webcam frame, uint8 (H, W, 3). ValueError if it is no JPEG or has another size."""
    try:
        height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
    except ValueError as error:
        raise ValueError(f"a webcam frame of {len(jpeg)} bytes is no JPEG ({error}); send one") from None
    if (height, width) != size:
        raise ValueError(f"a webcam frame of {width}x{height}, but {size[1]}x{size[0]} were announced; follow it again")
    try:
        return np.asarray(simplejpeg.decode_jpeg(jpeg))
    except ValueError as error:
        raise ValueError(f"a webcam frame is damaged ({error})") from None


def _hurried(tracks: Tracks, frames: int) -> Tracks:
    """Resample tracks of the usual chunk to the number of frames after a restart, so that nothing jumps."""
    index = np.linspace(0, tracks.length - 1, frames).round().astype(int)
    return replace(tracks, positions=tracks.positions[index], visible=tracks.visible[index])
