"""The binary messages of the streaming protocol (docs/protocol.md), for server and client.

Layout: ``MS``, version (1 byte), kind (1 byte), length of the header (4 bytes, little-endian), header (JSON), positions
of the overlay's points (int16 little-endian, T x N x 2, in 1/8 pixel, x = y = -32768 where hidden), the frames' bytes.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

VERSION = 2

MAGIC = b"MS"
PREFIX = struct.Struct("<2sBBI")
JPEG, WEBCAM, H264 = 1, 2, 3  # kinds of messages

POSITION_STEP = 8  # steps per pixel of positions
HIDDEN = -(2**15)


@dataclass(frozen=True, eq=False)
class Message:
    """``positions`` float32 (T, N, 2), NaN where hidden; ``parts``: the bytes of each of the T frames."""

    kind: int
    header: dict[str, Any]
    positions: np.ndarray
    parts: tuple[bytes, ...]


def pack(kind: int, header: dict[str, Any], positions: np.ndarray, parts: Sequence[bytes]) -> bytes:
    """Write a message; ``frames``, ``points`` and ``sizes``, which reading needs, are added to the header."""
    assert len(positions) == len(parts)
    needed = {"frames": len(parts), "points": positions.shape[1], "sizes": [len(part) for part in parts]}
    text = json.dumps({**header, **needed}, separators=(",", ":")).encode()
    return b"".join([PREFIX.pack(MAGIC, VERSION, kind, len(text)), text, _position_bytes(positions), *parts])


def unpack(data: bytes) -> Message:
    """Read a message. ValueError with the reason if it is invalid."""
    if len(data) < PREFIX.size or data[:2] != MAGIC:
        raise ValueError(f"{len(data)} bytes that do not begin with MS are no message")
    _, version, kind, length = PREFIX.unpack_from(data)
    if version != VERSION:
        raise ValueError(f"the message is of protocol {version}, not {VERSION}")
    place = PREFIX.size + length
    try:
        header = json.loads(data[PREFIX.size : place])
        frames, points, sizes = header["frames"], header["points"], header["sizes"]
        numbers = [frames, points, *sizes]
        if len(sizes) != frames or not all(type(number) is int and 0 <= number <= len(data) for number in numbers):
            raise ValueError(f"{frames} frames of {points} points in {len(sizes)} parts")
        steps = np.frombuffer(data, "<i2", 2 * frames * points, place).reshape(frames, points, 2)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"the message's header is damaged: {error}") from None
    place += steps.nbytes
    ends = place + np.cumsum([0, *sizes])
    if ends[-1] != len(data):
        raise ValueError(f"the message has {len(data)} bytes; its header says {ends[-1]}")
    parts = tuple(data[begin:end] for begin, end in itertools.pairwise(ends))
    hidden = (steps == HIDDEN).all(axis=-1, keepdims=True)
    positions = np.where(hidden, np.float32(np.nan), steps.astype(np.float32) / POSITION_STEP)
    return Message(kind, header, positions, parts)


def _position_bytes(positions: np.ndarray) -> bytes:
    hidden = np.isnan(positions).any(axis=-1, keepdims=True)
    steps = np.clip(np.nan_to_num(positions) * POSITION_STEP, HIDDEN + 1, 2**15 - 1).round()
    return np.where(hidden, HIDDEN, steps).astype("<i2").tobytes()
