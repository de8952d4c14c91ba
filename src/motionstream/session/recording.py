"""Recordings: sessions as JSON lines with everything that their frames depend on.

The first line is the header, with the stream's initial state. Every further line is a chunk: the time of its cut and
the commands since the last one, as in the protocol, with ``t`` in seconds since the start. Lines are appended as chunks
are generated, so a crash loses at most the line being written. docs/sessions.md describes the format.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import io
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
from PIL import Image

from motionstream.media.files import atomic_path
from motionstream.scene import MOST_SCALE
from motionstream.session.commands import LIVE, MAX_TIME, Command, from_json, to_json
from motionstream.session.director import Director
from motionstream.session.fields import Number, Text, Whole, read_fields
from motionstream.session.take import SETTINGS, Entry
from motionstream.stream import Stream
from motionstream.tracks import Tracks

FORMAT, VERSION = "motionstream-session", 1
SUFFIX = ".jsonl"
MAX_BYTES = 256 * 2**20  # per file; an hour of dragging takes about ten million
MAX_LINE = 64 * 2**20  # bytes; the header's line contains the picture
MAX_SIDE = 8192  # pixels


@dataclass(frozen=True, kw_only=True, eq=False)
class Header:
    """A stream's initial state. ``picture``: uint8 (sH, sW, 3), in the frames' size, which is ``scale`` s times the
    model's. ``depth``: its depth map, float32 (H, W); a generic prior when None. ``weights``: the pipeline's hash (see
    fingerprint.py)."""

    model: Annotated[str, Text(1000)]
    weights: Annotated[str, Text(64)]
    fps: Annotated[float, Number(0.1, 1000)]
    seed: Annotated[int, Whole(-(2**63), 2**64)]
    steps: Annotated[int, Whole(1, 1000)]
    prompt: Annotated[str, Text(100_000)]
    scale: Annotated[int, Whole(1, MOST_SCALE)] = 1
    picture: np.ndarray
    depth: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) at the model's size, in whose pixels gestures are given."""
        return self.picture.shape[0] // self.scale, self.picture.shape[1] // self.scale

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of the picture and the frames."""
        return self.picture.shape[0], self.picture.shape[1]

    @classmethod
    def of(cls, stream: Stream, seed: int, weights: str, depth: np.ndarray | None = None) -> Header:
        """The header of a stream that has not generated anything yet. ``weights``: from `fingerprint`. ``depth``: the
        take's."""
        return cls(
            model=stream.model.config.name,
            weights=weights,
            fps=stream.fps,
            seed=seed,
            steps=stream.steps,
            prompt=stream.prompt,
            scale=stream.scale,
            picture=stream.picture,
            depth=depth,
        )


@dataclass(frozen=True, eq=False)
class Recording:
    """A recorded session: its header, and an entry for each chunk."""

    header: Header
    entries: tuple[Entry, ...] = ()

    @property
    def frames(self) -> int:
        """Number of frames of the video."""
        return sum(entry.frames for entry in self.entries)

    @classmethod
    def read(cls, path: str | Path) -> Recording:
        """Read a file; an incomplete last line is ignored.

        Raises ValueError naming the file and the line if it cannot be read, is no session, or is damaged.
        """
        try:
            with open(path, "rb") as file:
                return cls._parse(file)
        except OSError as error:
            raise ValueError(f"cannot read {path}: {error.strerror}; check the name") from error
        except ValueError as error:
            raise ValueError(f"cannot read {path}: {error}") from error

    @classmethod
    def _parse(cls, file: IO[bytes]) -> Recording:
        lines = _lines(file)
        try:
            header = _read_header(next(lines))
        except StopIteration:
            raise ValueError("it is empty or cut short; give a file that motionstream recorded") from None
        entries: list[Entry] = []
        for number, line in enumerate(lines, start=2):
            try:
                entry = _read_entry(line)
                if entry.chunk != len(entries):
                    raise ValueError(f"chunk {entry.chunk} comes where chunk {len(entries)} should")
                if entries and entry.cut < entries[-1].cut:
                    raise ValueError(f"it is cut at {entry.cut:g} s, before the last chunk")
            except ValueError as error:
                raise ValueError(f"line {number} is damaged ({error})") from error
            entries.append(entry)
        return cls(header, tuple(entries))

    def write(self, path: str | Path) -> None:
        """Write the file, whole or not at all. ValueError if it cannot be written."""
        with atomic_path(path, (SUFFIX,)) as temporary, open(temporary, "wb") as file:
            file.write(header_line(self.header))
            file.writelines(entry_line(entry) for entry in self.entries)

    def branch(self, chunk: int) -> Recording:
        """The recording before ``chunk``, to continue differently from there. ValueError if there is no such chunk."""
        if not 0 <= chunk <= len(self.entries):
            raise ValueError(f"chunk is {chunk}; the recording has {len(self.entries)} chunks, give 0 to that")
        return Recording(self.header, self.entries[:chunk])

    def tracks(self) -> Tracks:
        """The tracks of all chunks, which its frames followed, made without a model. ValueError without chunks."""
        return Tracks.join(list(self._cuts()))

    def changes(self) -> list[tuple[float, Command]]:
        """The commands about the stream itself (`SETTINGS`), with the seconds of video at which they take effect."""
        frame, found = 0, list[tuple[float, Command]]()
        for entry in self.entries:
            found += [(frame / self.header.fps, one) for one in entry.commands if isinstance(one, SETTINGS)]
            frame += entry.frames
        return found

    def _cuts(self) -> Iterator[Tracks]:
        if not self.entries:
            raise ValueError("the recording has no chunks yet, so no tracks")
        director = Director(self.header.size, self.header.fps, self.header.depth)
        for entry in self.entries:
            for command in entry.commands:
                if not isinstance(command, SETTINGS):
                    director.obey(command)
            yield director.cut(entry.frames, entry.cut)


class Recorder:
    """Appends a running session to a new file, up to ``most`` bytes.

    Raises OSError if the file cannot be written, and ValueError if it has become too long.
    """

    def __init__(self, path: Path, header: Header, most: int = MAX_BYTES) -> None:
        self.path, self.most = path, most
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        lock(self._file)
        self._size = 0
        self._write(header_line(header))

    def append(self, entry: Entry) -> None:
        """Write a chunk; once this returns, a crash of the program does not lose it."""
        self._write(entry_line(entry))

    def close(self) -> None:
        """Close the file. Complete chunks are in it already; data that a full disk refused is dropped."""
        with contextlib.suppress(OSError):  # closing flushes again, which may fail; the file is closed anyway
            self._file.close()

    def _write(self, line: bytes) -> None:
        if self._size + len(line) > self.most:
            raise ValueError(f"the recording has reached {self.most // 2**20} MB")
        self._size += self._file.write(line)
        self._file.flush()


def lock(file: IO[bytes]) -> bool:
    """Lock a file as being written until it is closed; False if it is locked elsewhere.

    The lock keeps servers that share a folder from removing one another's open sessions. On file systems without locks
    nothing is locked and the result is True.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


# -------------------------------------------------------------------------------------------------------- lines


def header_line(header: Header) -> bytes:
    """The first line of a file."""
    png = io.BytesIO()
    Image.fromarray(header.picture).save(png, "PNG", compress_level=1)  # fast, since the stream waits for it
    fields = {name: value for name, value in vars(header).items() if name not in ("picture", "depth")}
    content = {"format": FORMAT, "version": VERSION, **fields, "size": list(header.frame_size)}
    if header.depth is not None:
        content["depth"] = base64.b64encode(zlib.compress(header.depth.astype("<f4").tobytes(), 1)).decode()
    return _line({**content, "picture": base64.b64encode(png.getvalue()).decode()})


def entry_line(entry: Entry) -> bytes:
    """The line of a chunk."""
    return _line({**vars(entry), "commands": to_json(entry.commands)})


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    """The complete lines of a file as JSON objects."""
    total = 0
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), start=1):
        total += len(line)
        if len(line) == MAX_LINE or total > MAX_BYTES:
            raise ValueError(f"line {number} is too long for a session")
        if not line.endswith(b"\n"):  # incomplete, after a crash
            return
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {number} is not JSON ({error}); give a file that motionstream recorded") from None
        if not isinstance(content, dict):
            raise ValueError(f"line {number} is not a JSON object; give a file that motionstream recorded")
        yield content


def _read_header(content: dict[str, Any]) -> Header:
    if content.get("format") != FORMAT:
        raise ValueError("it is no session of MotionStream; give a file that motionstream recorded")
    if content.get("version") != VERSION:
        raise ValueError(f"its version is {content.get('version')!r}, this program reads {VERSION}; update it")
    values = read_fields(Header, content, besides=("format", "version", "size", "picture", "depth"))
    picture = _read_png(content.get("picture"), content.get("size"))
    header = Header(**values, picture=picture)
    if (header.size[0] * header.scale, header.size[1] * header.scale) != header.frame_size:
        raise ValueError(f"its picture's sides are no multiples of its scale {header.scale}")
    return replace(header, depth=_read_depth(content["depth"], header.size)) if content.get("depth") else header


def _read_png(text: Any, size: Any) -> np.ndarray:
    if not isinstance(size, list) or len(size) != 2:
        raise ValueError("size is not [height, width]")
    height, width = (Whole(1, MAX_SIDE).check("size", side) for side in size)
    try:
        image = Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",))
        if image.size == (width, height):  # checked before decoding, so that nothing larger is decoded
            return np.array(image.convert("RGB"))
    except (binascii.Error, TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"its picture is damaged ({type(error).__name__})") from error
    raise ValueError(f"its picture is {image.width}x{image.height}, its size {width}x{height}")


def _read_depth(text: Any, size: tuple[int, int]) -> np.ndarray:
    try:
        inflater, whole = zlib.decompressobj(), 4 * size[0] * size[1]
        data = inflater.decompress(base64.b64decode(text, validate=True), whole + 1)
    except (binascii.Error, TypeError, ValueError, zlib.error) as error:
        raise ValueError(f"its depth map is damaged ({type(error).__name__})") from error
    if len(data) != whole:
        raise ValueError(f"its depth map is not {size[1]}x{size[0]} as its picture")
    depth = np.frombuffer(data, "<f4").reshape(size).astype(np.float32)
    if not (np.isfinite(depth).all() and depth.min() > 0):
        raise ValueError("its depth map is damaged: depth is positive")
    return depth


@dataclass(frozen=True)
class _Chunk:
    """The fields of a chunk's line, except its commands."""

    chunk: Annotated[int, Whole(0, 10**9)]
    frames: Annotated[int, Whole(1, 1000)]
    cut: Annotated[float, Number(0, MAX_TIME)]


def _read_entry(content: dict[str, Any]) -> Entry:
    values = read_fields(_Chunk, content, besides=("commands",))
    messages = content.get("commands")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ValueError("commands is not a list of messages")
    commands = [command for message in messages for command in from_json(message, _recorded)]
    for command in commands:
        if isinstance(command, LIVE):
            raise ValueError(f"{command.name} is not recorded")
    return Entry(**values, commands=tuple(commands))


def _recorded(t: float | None) -> tuple[float, None]:
    if t is None:
        raise ValueError("a command lacks 't'")
    return t, None
