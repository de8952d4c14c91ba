"""Stores a session's frames as they are generated: raw H.264 (Annex B), appended chunk by chunk.

Every chunk begins with an IDR frame and the encoder delays nothing, so the file can be read up to the last complete
chunk, during the session and after a crash.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from motionstream.media.files import atomic_path
from motionstream.media.videos import VIDEO_SUFFIXES
from motionstream.yuv import mark_bt709, to_rgb, to_yuv

SUFFIX = ".h264"
MAX_BYTES = 2**30  # per film
CRF = 16  # looks lossless; same as `motionstream stream`


def frame_rate(fps: float) -> Fraction:
    """The rate as a fraction that containers can store; 1001 is the denominator of the NTSC rates."""
    return Fraction(fps).limit_denominator(1001)


class Film:
    """Encodes frames of one ``size`` (height, width; both even) and appends them to a new file, up to ``most`` bytes.

    Raises OSError if the file cannot be written, and ValueError if it has become too long.
    """

    def __init__(self, path: Path, size: tuple[int, int], fps: float, most: int = MAX_BYTES) -> None:
        self.path, self.most = path, most
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._size = 0
        context = av.CodecContext.create("libx264", "w")
        context.height, context.width = size
        context.framerate, context.time_base = frame_rate(fps), 1 / frame_rate(fps)
        mark_bt709(context)
        # forced-idr: decoders can begin at the key frames requested below; one thread, to leave the others to the model
        context.options = {
            "crf": str(CRF),
            "preset": "veryfast",
            "tune": "zerolatency",
            "forced-idr": "1",
            "threads": "1",
        }
        self._encoder, self._reformatter = context, VideoReformatter()
        self._frames = 0

    def append(self, frames: np.ndarray) -> None:
        """Write one chunk, uint8 (T, H, W, 3)."""
        packets = []
        for number, picture in enumerate(frames):
            frame = to_yuv(picture, self._reformatter)
            frame.pts, self._frames = self._frames, self._frames + 1
            frame.pict_type = PictureType.I if number == 0 else PictureType.NONE
            packets += [bytes(packet) for packet in self._encoder.encode(frame)]
        data = b"".join(packets)
        if self._size + len(data) > self.most:
            raise ValueError(f"the film has reached {self.most // 2**20} MB")
        self._size += self._file.write(data)
        self._file.flush()

    def close(self) -> None:
        """Close the file. Complete chunks are in it already; data that a full disk refused is dropped."""
        with contextlib.suppress(OSError):  # closing flushes again, which may fail; the file is closed anyway
            self._file.close()


def frames_of(film: Path) -> Iterator[np.ndarray]:
    """The frames of a film, uint8 (H, W, 3), one by one."""
    reformatter = VideoReformatter()
    with av.open(str(film), format="h264") as container:
        for frame in container.decode(video=0):
            yield to_rgb(frame, reformatter)


def write_mp4(film: Path, fps: float, path: Path) -> None:
    """Write a film as MP4 without re-encoding; whole or not at all."""
    with (
        atomic_path(path, VIDEO_SUFFIXES) as temporary,
        av.open(str(film), format="h264") as source,
        av.open(str(temporary), "w", "mp4", options={"movflags": "faststart"}) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        base = 1 / frame_rate(fps)
        packets = (packet for packet in source.demux(video=0) if packet.size)
        for number, packet in enumerate(packets):
            packet.stream, packet.time_base = stream, base
            packet.pts = packet.dts = number
            packet.duration = 1
            target.mux(packet)
