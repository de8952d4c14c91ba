"""Encodes a followed source's points in one chunk as text, for commands and recordings.

Frames of a video or webcam are never part of a session. Only the points tracked in them are recorded, and a take uses
exactly the decoded text, so a replay needs no source. The text is base64 of zlib of: numbers of frames and points
(int32); the points' ids minus FIRST_ID (int32); visibility (uint8, T x N); positions (int32, T x N x 2) in 1/64 pixel,
as differences between frames. All little-endian.
"""

from __future__ import annotations

import base64
import binascii
import struct
import zlib

import numpy as np

from motionstream.tracks import Tracks
from motionstream.tracks.tracks import MAX_POINTS
from motionstream.tracks.transfer import FIRST_ID

STEPS = 64  # per pixel
MAX_FRAMES = 100  # per chunk
MAX_TEXT = 8 * 2**20  # characters: far more than any model's chunk needs
MAX_BYTES = 16 * 2**20  # unpacked: more than MAX_FRAMES frames of MAX_POINTS points
FARTHEST = 2**20  # largest coordinate in pixels

_HEAD = struct.Struct("<ii")


def pack_points(tracks: Tracks) -> str:
    """Encode a chunk's tracks, all of transferred points. Hidden points are stored at their last visible position."""
    assert tracks.count == 0 or tracks.ids.min() >= FIRST_ID
    visible = tracks.visible
    steps = np.where(visible[..., None], np.nan_to_num(tracks.positions) * STEPS, 0).round().astype("<i4")
    for frame in range(1, len(steps)):
        steps[frame] = np.where(visible[frame, :, None], steps[frame], steps[frame - 1])
    parts = (
        _HEAD.pack(tracks.length, tracks.count),
        (tracks.ids - FIRST_ID).astype("<i4").tobytes(),
        visible.astype(np.uint8).tobytes(),
        np.diff(steps, axis=0, prepend=np.zeros_like(steps[:1])).astype("<i4").tobytes(),
    )
    return base64.b64encode(zlib.compress(b"".join(parts))).decode()


def unpack_points(text: str, size: tuple[int, int], fps: float) -> Tracks:
    """Decode a text to tracks; ``size``: (height, width). ValueError with the reason if it is damaged."""
    data = _inflate(text)
    if len(data) < _HEAD.size:
        raise ValueError("the followed points are damaged: they are cut short")
    frames, points = _HEAD.unpack_from(data)
    if not (1 <= frames <= MAX_FRAMES and 0 <= points <= MAX_POINTS):
        raise ValueError(f"the followed points are damaged: {frames} frames of {points} points")
    whole = _HEAD.size + points * (4 + 9 * frames)
    if len(data) != whole:
        raise ValueError(f"the followed points are damaged: {len(data)} bytes where {whole} should be")
    ids = np.frombuffer(data, "<i4", points, _HEAD.size).astype(np.int64) + FIRST_ID
    seen = np.frombuffer(data, np.uint8, frames * points, _HEAD.size + 4 * points).reshape(frames, points) != 0
    places = np.frombuffer(data, "<i4", offset=_HEAD.size + points * (4 + frames)).reshape(frames, points, 2)
    positions = np.cumsum(places, axis=0, dtype=np.int64) / STEPS
    if ids.min(initial=FIRST_ID) < FIRST_ID or np.abs(positions).max(initial=0) > FARTHEST:
        raise ValueError("the followed points are damaged: numbers out of range")
    return Tracks(np.where(seen[..., None], positions, np.nan).astype(np.float32), seen, size, fps, ids)


def _inflate(text: str) -> bytes:
    try:
        inflater = zlib.decompressobj()
        data = inflater.decompress(base64.b64decode(text, validate=True), MAX_BYTES)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise ValueError(f"the followed points are damaged ({error})") from None
    if not inflater.eof:
        raise ValueError("the followed points are damaged: they are cut short or too many")
    return data
