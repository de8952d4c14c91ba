"""`Tracks`: points' positions and visibility in every frame, which condition the model and which trackers return.

Pixels are (x, y) with (0, 0) the centre of the top-left pixel, so a picture spans -0.5 <= x < width - 0.5.
Axes: T frames, N points. `size` is always (height, width).
"""

import math
import os
import secrets
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

MAX_POINTS = 10_000
MAX_FRAMES = 100_000
MAX_POSITIONS = 50_000_000  # frames x points: 400 MB of positions; the two caps alone would allow 8 GB

_REQUIRED_KEYS = ("positions", "visible", "size", "fps")
_KEYS = (*_REQUIRED_KEYS, "ids")


@dataclass(frozen=True, eq=False, repr=False)
class Tracks:
    """N points over T frames. Arrays are kept as read-only copies.

    positions: float32 (T, N, 2), x and y in pixels; NaN only where not visible. Points may lie outside the
    picture.
    visible: bool (T, N). A point that is not visible is hidden, out of the picture or not specified.
    size: (height, width) of the picture in pixels.
    fps: frames per second.
    ids: int64 (N,), unique: they identify tracks across the chunks of a stream. Default 0..N-1.

    Raises ValueError naming the offending index or value, and, before anything is copied, for more than
    MAX_FRAMES, MAX_POINTS or MAX_POSITIONS.
    """

    positions: np.ndarray
    visible: np.ndarray
    size: tuple[int, int]
    fps: float = 24.0
    ids: np.ndarray = None  # type: ignore[assignment]  # None requests the default; it is never kept

    def __post_init__(self) -> None:
        positions, visible = np.asarray(self.positions), np.asarray(self.visible)
        _check_arrays(positions, visible)
        size, fps = check_size(self.size), check_fps(self.fps)
        ids = np.arange(visible.shape[1]) if self.ids is None else np.asarray(self.ids)
        _check_ids(ids, visible.shape[1])
        with np.errstate(over="ignore"):  # too large for float32 is infinite, and refused where visible
            positions = _read_only(positions, np.float32)
        _check_visible(positions, visible)
        values = (positions, _read_only(visible, np.bool_), size, fps, _read_only(ids, np.int64))
        for name, value in zip(_KEYS, values, strict=True):
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        return f"Tracks({self.length} frames, {self.count} points, size={self.size}, fps={self.fps:g})"

    @property
    def length(self) -> int:
        """Number of frames, T."""
        return len(self.visible)

    @property
    def count(self) -> int:
        """Number of points, N."""
        return len(self.ids)

    @classmethod
    def empty(cls, frames: int, size: tuple[int, int], fps: float = 24.0) -> "Tracks":
        """Tracks without points: no motion specified."""
        check_counts(frames, 0)
        return cls(np.zeros((frames, 0, 2), np.float32), np.zeros((frames, 0), bool), size, fps)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tracks":
        """Read a file that `save` wrote (or any .npz with positions, visible, size, fps and perhaps ids).

        Every array's header is checked before its data are read; nothing is unpickled.
        Raises OSError where the file cannot be opened and ValueError, naming the file, for anything wrong
        inside it.
        """
        with open(path, "rb") as file:
            values = _read_npz(file, os.fspath(path))
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an .npz file with the keys positions, visible, size, fps and ids, whole or not at all."""
        path = Path(path)
        if path.suffix.lower() != ".npz":
            raise ValueError(f"{path} does not end in .npz; tracks are saved as .npz files")
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            with open(temporary, "xb") as file:
                np.savez_compressed(
                    file,
                    positions=self.positions,
                    visible=self.visible,
                    size=np.array(self.size, np.int64),
                    fps=np.array(self.fps, np.float64),
                    ids=self.ids,
                )
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def frames(self, start: int, stop: int) -> "Tracks":
        """The frames start <= t < stop."""
        if not 0 <= start < stop <= self.length:
            raise ValueError(f"frames {start}..{stop} are not within 0..{self.length}")
        return replace(self, positions=self.positions[start:stop], visible=self.visible[start:stop])

    def select(self, index: ArrayLike) -> "Tracks":
        """Only some of the points, by a bool mask (N,) or distinct integers; their ids are kept."""
        index = np.asarray(index)
        if index.dtype == np.bool_:
            if index.shape != (self.count,):
                raise ValueError(f"mask of shape {index.shape} for {self.count} points; give ({self.count},)")
            index = np.flatnonzero(index)
        index = index.astype(np.int64) if index.size == 0 else index
        if index.ndim != 1 or index.dtype.kind not in "iu":
            raise ValueError(f"index is {index.dtype} {index.shape}; give a bool mask or a list of integers")
        wrong = (index < -self.count) | (index >= self.count)
        if wrong.any():
            raise ValueError(f"there is no point {index[wrong][0]} among {self.count}")
        return replace(self, positions=self.positions[:, index], visible=self.visible[:, index], ids=self.ids[index])

    def inside(self) -> np.ndarray:
        """bool (T, N): which points lie in the picture, visible or not; false for NaN."""
        height, width = self.size
        x, y = self.positions[..., 0], self.positions[..., 1]
        return (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5)

    def clipped(self) -> "Tracks":
        """The same tracks with points out of the picture invisible."""
        return replace(self, visible=self.visible & self.inside())

    def resize(self, size: tuple[int, int]) -> "Tracks":
        """The same tracks for the picture stretched to another (height, width)."""
        size = check_size(size)
        scale = np.array([size[1] / self.size[1], size[0] / self.size[0]])  # x, y
        return replace(self, positions=(self.positions + 0.5) * scale - 0.5, size=size)

    def resample(self, fps: float) -> "Tracks":
        """The same motion at another frame rate: frames at n / fps, from the first up to the last given one.

        Positions are linear in time between two frames in which the point is visible; elsewhere the nearest
        frame's position and visibility are taken, so a NaN never leaks into a visible point.
        """
        fps = check_fps(fps)
        frames = math.floor((self.length - 1) * fps / self.fps + 1e-6) + 1
        check_counts(frames, self.count)
        times = np.minimum(np.arange(frames) * (self.fps / fps), self.length - 1)  # in frames of the source
        before = np.floor(times).astype(int)
        after = np.minimum(before + 1, self.length - 1)
        weight = (times - before)[:, None, None]
        between = self.visible[before] & self.visible[after]
        nearest = np.where(times - before < 0.5, before, after)
        with np.errstate(invalid="ignore"):  # inf - inf where invisible, not used
            linear = self.positions[before] * (1 - weight) + self.positions[after] * weight
        return replace(
            self,
            positions=np.where(between[..., None], linear, self.positions[nearest]),
            visible=self.visible[nearest],
            fps=fps,
        )

    def hold(self, frames: int) -> "Tracks":
        """Append `frames` frames in which every point stays as in the last one."""
        if frames < 0:
            raise ValueError(f"cannot hold for {frames} frames; give 0 or more")
        check_counts(self.length + frames, self.count)
        index = np.minimum(np.arange(self.length + frames), self.length - 1)
        return replace(self, positions=self.positions[index], visible=self.visible[index])

    def beginnings(self) -> np.ndarray:
        """Where each point begins, (N, 2): its position in the first frame if finite, visible or not (a point may enter
        the picture later); otherwise its first visible position."""
        first = self.visible.argmax(axis=0)
        seen: np.ndarray = self.positions[first, np.arange(self.count)]
        known = np.isfinite(self.positions[0]).all(axis=-1, keepdims=True) if self.length else False
        return np.where(known, self.positions[0], seen)

    @staticmethod
    def merge(parts: Sequence["Tracks"], renumber: bool = False) -> "Tracks":
        """All points of several Tracks of the same length, size and fps, as one.

        Their ids must differ, unless `renumber` numbers them from 0.
        """
        _check_alike(parts, ("length", "size", "fps"))
        check_counts(parts[0].length, sum(part.count for part in parts))
        ids = np.concatenate([part.ids for part in parts])
        return replace(
            parts[0],
            positions=np.concatenate([part.positions for part in parts], axis=1),
            visible=np.concatenate([part.visible for part in parts], axis=1),
            ids=np.arange(len(ids)) if renumber else ids,
        )

    @staticmethod
    def join(parts: Sequence["Tracks"]) -> "Tracks":
        """Tracks of consecutive chunks, one after another in time; points are matched by their ids.

        A point that a chunk does not have is invisible there, at NaN.
        """
        _check_alike(parts, ("size", "fps"))
        ids = np.unique(np.concatenate([part.ids for part in parts]))
        length = sum(part.length for part in parts)
        check_counts(length, len(ids))
        positions = np.full((length, len(ids), 2), np.nan, np.float32)
        visible = np.zeros((length, len(ids)), bool)
        start = 0
        for part in parts:
            columns = np.searchsorted(ids, part.ids)
            positions[start : start + part.length, columns] = part.positions
            visible[start : start + part.length, columns] = part.visible
            start += part.length
        return replace(parts[0], positions=positions, visible=visible, ids=ids)


def check_counts(frames: int, points: int) -> None:
    """Refuse tracks that are too large, before anything is allocated."""
    if frames < 1:
        raise ValueError(f"tracks of {frames} frames; they have at least 1")
    if frames > MAX_FRAMES:
        raise ValueError(f"tracks of {frames} frames; at most {MAX_FRAMES} are allowed")
    if points > MAX_POINTS:
        raise ValueError(f"tracks of {points} points; at most {MAX_POINTS} are allowed, so take fewer")
    if frames * points > MAX_POSITIONS:
        raise ValueError(f"{frames} frames x {points} points are more than {MAX_POSITIONS} positions; take fewer")


def check_size(size: Any) -> tuple[int, int]:
    """(height, width) as two positive ints, or ValueError."""
    values = tuple(size) if isinstance(size, tuple | list | np.ndarray) else (size,)
    whole = all(isinstance(value, int | np.integer) and not isinstance(value, bool) for value in values)
    if len(values) != 2 or not whole or min(values) < 1:
        raise ValueError(f"size is {size!r}; give (height, width), two positive integers")
    return int(values[0]), int(values[1])


def check_fps(fps: Any) -> float:
    """Frames per second as a positive float, or ValueError."""
    number = isinstance(fps, int | float | np.integer | np.floating) and not isinstance(fps, bool)
    if not number or not math.isfinite(fps) or fps <= 0:
        raise ValueError(f"fps is {fps!r}; give a positive number of frames per second")
    return float(fps)


def _check_shapes(positions: tuple[int, ...], visible: tuple[int, ...]) -> None:
    if len(positions) != 3 or positions[2] != 2:
        raise ValueError(f"positions has shape {positions}; give (frames, points, 2)")
    if visible != positions[:2]:
        raise ValueError(f"visible has shape {visible}, but positions has {positions}; give {positions[:2]}")
    check_counts(*visible)


def _check_arrays(positions: np.ndarray, visible: np.ndarray) -> None:
    _check_shapes(positions.shape, visible.shape)
    if positions.dtype.kind not in "fiu":
        raise ValueError(f"positions is {positions.dtype}; give real numbers (float32)")
    if visible.dtype != np.bool_:
        raise ValueError(f"visible is {visible.dtype}; give bool")


def _check_ids(ids: np.ndarray, points: int) -> None:
    if ids.shape != (points,) or (points and ids.dtype.kind not in "iu"):
        raise ValueError(f"ids is {ids.dtype} {ids.shape}; give one integer for each of the {points} points")
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < points:
        repeated = unique[counts > 1][0]
        where = np.flatnonzero(ids == repeated)[:2].tolist()
        raise ValueError(f"points {where[0]} and {where[1]} have the same id {repeated}; ids are unique")


def _check_visible(positions: np.ndarray, visible: np.ndarray) -> None:
    wrong = np.argwhere(visible & ~np.isfinite(positions).all(axis=-1))
    if len(wrong):
        frame, point = wrong[0]
        value = next(v for v in positions[frame, point] if not np.isfinite(v))
        raise ValueError(
            f"positions[frame {frame}, point {point}] is {value} but visible; "
            "give it a finite position or mark it invisible"
        )


def _check_alike(parts: Sequence[Tracks], names: tuple[str, ...]) -> None:
    if not parts:
        raise ValueError("no tracks given; give at least one Tracks")
    for name in names:
        for index, part in enumerate(parts):
            if getattr(part, name) != getattr(parts[0], name):
                first, other = getattr(parts[0], name), getattr(part, name)
                raise ValueError(f"tracks 0 and {index} differ in {name}: {first} and {other}")


def _read_only(array: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    copy = np.array(array, dtype=dtype, copy=True)
    copy.setflags(write=False)
    return copy


def _read_npz(file: IO[bytes], name: str) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(file) as archive:
            headers = {key: _read_header(archive, key) for key in _KEYS if f"{key}.npy" in archive.namelist()}
            missing = [key for key in _REQUIRED_KEYS if key not in headers]
            problem = _find_problem(headers) if not missing else f"has no key {missing[0]!r}"
            if problem is None:
                return _read_arrays(archive, list(headers))
    except Exception as error:  # a damaged archive fails in a dozen ways in zipfile, zlib and numpy; all mean this
        reason = str(error) or type(error).__name__
        raise ValueError(f"{name} is not a readable .npz file: {reason}") from error
    raise ValueError(f"{name} {problem}; a file of tracks has positions, visible, size, fps and perhaps ids")


def _read_header(archive: zipfile.ZipFile, key: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of an array, from its first bytes."""
    with archive.open(f"{key}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return shape, dtype


def _find_problem(headers: dict[str, tuple[tuple[int, ...], np.dtype]]) -> str | None:
    """What is wrong with the arrays' shapes and types, known before any is read."""
    for key, (shape, dtype) in headers.items():
        if dtype.kind not in "fiub" or dtype.itemsize > 16:
            return f"has {key} of type {dtype}"
        allowed: dict[str, list[tuple[int, ...]]] = {
            "size": [(2,)],
            "fps": [(), (1,)],
            "ids": [headers["visible"][0][1:]],
        }
        if key in allowed and shape not in allowed[key]:
            return f"has {key} of shape {shape}"
    try:
        _check_shapes(headers["positions"][0], headers["visible"][0])
    except ValueError as error:
        return f"is refused: {error}"
    return None


def _read_arrays(archive: zipfile.ZipFile, keys: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key in keys:
        with archive.open(f"{key}.npy") as member:
            values[key] = np.lib.format.read_array(member, allow_pickle=False)
    return values | {"size": tuple(values["size"].tolist()), "fps": values["fps"].item()}
