"""Encodes frames: H.264 for browsers that decode it, JPEG for all others."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import av
import numpy as np
import simplejpeg
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from motionstream import wire
from motionstream.yuv import mark_bt709, to_yuv

CODECS = ("h264", "jpeg")  # supported, best first

JPEG_QUALITY = 92
CRF = 16  # looks lossless; a 128x128 stream takes about 0.2 Mbit/s, a 832x480 one 4
KEYFRAME_SECONDS = 10  # between keyframes without a request; up to a chunk more
NEVER = 2**30  # frames: x264's value for no automatic keyframes


@dataclass(frozen=True, eq=False)
class Encoded:
    """``parts``: one per frame. ``keyframes``: indices of those that can be decoded without earlier ones. ``codec``: in
    WebCodecs' form, None for JPEG."""

    kind: int
    parts: tuple[bytes, ...]
    keyframes: tuple[int, ...]
    codec: str | None = None


class Encoder(Protocol):
    """Encodes one stream's frames, in order. Not thread-safe."""

    def encode(self, frames: np.ndarray, *, keyframe: bool) -> Encoded:
        """Encode uint8 (T, H, W, 3); with ``keyframe`` they can be decoded without earlier frames."""
        ...


def make_encoder(codec: str, size: tuple[int, int], fps: float) -> Encoder:
    """An encoder for one of CODECS and frames of ``size`` (height, width)."""
    return H264Encoder(size, fps) if codec == "h264" else JpegEncoder()


class JpegEncoder:
    """Encodes every frame as a JPEG."""

    def encode(self, frames: np.ndarray, *, keyframe: bool) -> Encoded:
        """See `Encoder`."""
        parts = tuple(
            simplejpeg.encode_jpeg(np.ascontiguousarray(frame), quality=JPEG_QUALITY, colorsubsampling="444")
            for frame in frames
        )
        return Encoded(wire.JPEG, parts, tuple(range(len(parts))))


class H264Encoder:
    """x264 without delay: every frame is output as one access unit (Annex B) as soon as it is input.

    Baseline profile (no B-frames), with parameter sets before each keyframe, so that a viewer can join at any of them.
    Keyframes are only at the beginning of chunks, since viewers drop, keep and replay whole chunks.
    """

    def __init__(self, size: tuple[int, int], fps: float) -> None:
        assert all(side % 2 == 0 for side in size), size  # models' sizes are multiples of 8
        rate = Fraction(fps).limit_denominator(1001)
        self._context = context = av.CodecContext.create("libx264", "w")
        context.height, context.width = size
        context.framerate, context.time_base = rate, 1 / rate
        context.thread_count = 1  # leaves the cores to the model
        mark_bt709(context)
        context.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "profile": "baseline",
            "crf": str(CRF),
            "g": str(NEVER),
            "forced-idr": "1",
            "x264-params": "scenecut=0",
        }
        self._reformatter = VideoReformatter()
        self._frames = 0
        self._between = round(KEYFRAME_SECONDS * fps)
        self._due = 0  # from this frame on, the next chunk begins with a keyframe in any case
        self._codec = ""

    def encode(self, frames: np.ndarray, *, keyframe: bool) -> Encoded:
        """See `Encoder`."""
        packets = []
        keyframe = keyframe or self._frames >= self._due
        if keyframe:
            self._due = self._frames + self._between
        for number, picture in enumerate(frames):
            frame = to_yuv(picture, self._reformatter)
            frame.pts, self._frames = self._frames, self._frames + 1
            frame.pict_type = PictureType.I if keyframe and number == 0 else PictureType.NONE
            packets += self._context.encode(frame)
        assert len(packets) == len(frames), "x264 delays frames"
        parts = tuple(bytes(packet) for packet in packets)
        keyframes = tuple(number for number, packet in enumerate(packets) if packet.is_keyframe)
        self._codec = self._codec or codec_string(parts[0])
        return Encoded(wire.H264, parts, keyframes, self._codec)


def codec_string(access_unit: bytes) -> str:
    """``avc1.PPCCLL`` (RFC 6381): profile, constraints and level from a keyframe's sequence parameter set."""
    place = access_unit.find(b"\x00\x00\x01\x67")
    assert place >= 0, "a stream begins with its parameter sets"
    return f"avc1.{access_unit[place + 4 : place + 7].hex()}"
