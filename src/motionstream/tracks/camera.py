"""Camera control (paper, section 4.2): a depth map and a camera's path become tracks, live or for a whole clip.

`LiveCamera` is the only mechanism. It keeps 3D points of the scene, a grid over the picture and over areas that come
into view later, and projects them into every frame. Tracks of objects are layered over it: their points move as dragged
*and* with the camera.

A camera that has not moved yet gives no tracks. Points out of view, behind the camera or hidden by nearer ones are
invisible. New points appear in the first frame of a chunk, at their positions in the frame before, since a model takes
their content from there. Directions are those of pixels: x to the right, y down.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from motionstream.tracks.motion import Ease
from motionstream.tracks.projection import DepthScene, Pose
from motionstream.tracks.tracks import Tracks, check_fps, check_size

PAN_SPEED = 0.2  # shorter sides of the picture per second, at the pivot's depth
ORBIT_SPEED = math.radians(20)  # per second
DOLLY_SPEED = ZOOM_SPEED = 0.25  # natural logarithm of the factor per second

CHUNKS = (9, 12)
"""Frames of a stream's first chunk and of every later one. Points that come into view begin with a chunk."""
MOST_POINTS = 6000  # kept in memory; the oldest are dropped first
SPACING = 11.0
"""Pixels between points; at least 1/32 of the picture's shorter side. `nano` takes 0.1 s per chunk to carry content
along these, and 0.25 s with 8 pixels."""
VIEW_GRID = 16


@dataclass(frozen=True)
class CameraMove:
    """Velocities, each from -1 to 1, 0 at rest. At 1:

    pan: the camera moves right (down) by 20 % of the picture's shorter side per second, at its pivot's depth.
    orbit: it swings around the pivot, to the right (downwards), by 20 degrees per second.
    dolly: it approaches the pivot by 22 % of the distance per second, so it never arrives.
    zoom: it enlarges by 28 % per second.
    """

    pan: tuple[float, float] = (0.0, 0.0)
    orbit: tuple[float, float] = (0.0, 0.0)
    dolly: float = 0.0
    zoom: float = 0.0

    def __post_init__(self) -> None:
        for name, value in (("pan", self.pan), ("orbit", self.orbit), ("dolly", self.dolly), ("zoom", self.zoom)):
            numbers = value if isinstance(value, tuple) else (value,)
            wanted = 2 if name in ("pan", "orbit") else 1
            if len(numbers) != wanted or not all(-1 <= number <= 1 for number in numbers):  # also refuses NaN
                raise ValueError(f"camera {name} is {value}; give {wanted} of -1 to 1")

    def vector(self) -> np.ndarray:
        """float64 (6,): pan, orbit, dolly, zoom per second, in the units of `CameraWay.vector`."""
        speeds = (PAN_SPEED, PAN_SPEED, ORBIT_SPEED, ORBIT_SPEED, DOLLY_SPEED, ZOOM_SPEED)
        return np.array([*self.pan, *self.orbit, self.dolly, self.zoom]) * speeds


@dataclass(frozen=True)
class CameraWay:
    """A camera's motion over a whole clip, all components at once, eased.

    pan: right and down, in shorter sides of the picture. orbit: degrees to the right and downwards. dolly: share of the
    distance by which it approaches, below 1; negative moves back. zoom: enlargement factor.
    """

    pan: tuple[float, float] = (0.0, 0.0)
    orbit: tuple[float, float] = (0.0, 0.0)
    dolly: float = 0.0
    zoom: float = 1.0
    ease: Ease = "smooth"

    def __post_init__(self) -> None:
        for name, values, most in (("pan", self.pan, 20), ("orbit", self.orbit, 3600)):
            if len(values) != 2 or not all(abs(value) <= most for value in values):
                raise ValueError(f"camera {name} is {values}; give two numbers within {most}")
        if not -20 <= self.dolly < 1:
            raise ValueError(f"camera dolly is {self.dolly}; give a share of the distance, -20 to below 1")
        if not 0.05 <= self.zoom <= 20:
            raise ValueError(f"camera zoom is {self.zoom}; give a factor of 0.05 to 20")
        if self.ease not in ("linear", "smooth"):
            raise ValueError(f"camera ease is {self.ease!r}; give 'linear' or 'smooth'")

    @property
    def rests(self) -> bool:
        """Whether it does not move at all."""
        return not self.vector().any()

    def vector(self) -> np.ndarray:
        """float64 (6,): pan; orbit in radians; the logarithms of the distance's reduction and of the enlargement."""
        nearer = -math.log1p(-self.dolly)
        return np.array([*self.pan, *(math.radians(angle) for angle in self.orbit), nearer, math.log(self.zoom)])

    def steps(self, frames: int) -> np.ndarray:
        """float64 (frames, 6): each frame's share of `vector`; zero for the first."""
        u = np.arange(frames) / max(frames - 1, 1)
        u = u * u * (3 - 2 * u) if self.ease == "smooth" else u
        return np.diff(u, prepend=0.0)[:, None] * self.vector()


@dataclass(frozen=True)
class Rig:
    """A camera at a `distance` from the point it looks at, `pivot` (3,); angles in radians, 0 for the first view."""

    pivot: tuple[float, float, float]
    distance: float
    yaw: float = 0.0
    pitch: float = 0.0
    zoom: float = 1.0

    def pose(self) -> Pose:
        """The rig's `Pose`, for projection."""
        a, b = self.yaw, self.pitch
        forward = np.array([-math.sin(a) * math.cos(b), -math.sin(b), math.cos(a) * math.cos(b)])
        right = np.array([math.cos(a), 0.0, math.sin(a)])
        down = np.array([-math.sin(b) * math.sin(a), math.cos(b), math.sin(b) * math.cos(a)])
        return Pose(np.stack([right, down, forward]), np.array(self.pivot) - self.distance * forward, self.zoom)

    def advance(self, step: np.ndarray, side: float) -> "Rig":
        """The rig one frame later; `side`: the length a picture's shorter side has at distance 1 and zoom 1."""
        pan_x, pan_y, yaw, pitch, nearer, larger = step.tolist()
        rotation = self.pose().rotation
        way = (pan_x * rotation[0] + pan_y * rotation[1]) * (side * self.distance / self.zoom)
        limit = math.radians(80)  # beyond 90 degrees, left and right would swap
        return Rig(
            pivot=(self.pivot[0] + way[0], self.pivot[1] + way[1], self.pivot[2] + way[2]),
            distance=self.distance * math.exp(-nearer),
            yaw=self.yaw + yaw,
            pitch=min(max(self.pitch + pitch, -limit), limit),
            zoom=self.zoom * math.exp(larger),
        )


class LiveCamera:
    """A camera that gives the tracks of one chunk after another, like `LiveTracks`, and moves objects' tracks with it.

    Args:
        depth: (H, W) of the picture's size, see `depth.py`.
        size: (height, width). fps: frames per second. spacing: pixels between the scene's points.
        joined: for a camera added to a running stream, the time at which the last chunk was cut; None before the first.

    `move` sets velocities, at a time on any clock or from the next cut on; motion between two cuts is spread over the
    next chunk. `steer` follows given steps instead. Ids of its points are negative, those of `LiveTracks` are not.
    """

    def __init__(
        self,
        depth: np.ndarray,
        size: tuple[int, int],
        fps: float = 24.0,
        *,
        spacing: float | None = None,
        joined: float | None = None,
    ) -> None:
        self.size, self.fps = check_size(size), check_fps(fps)
        self.scene = DepthScene(depth, self.size)
        self.spacing = max(SPACING, min(self.size) / 32) if spacing is None else spacing
        if not (math.isfinite(self.spacing) and self.spacing >= 1):
            raise ValueError(f"spacing is {spacing} pixels; give at least 1")
        self.rig = Rig((0.0, 0.0, self.scene.middle), self.scene.middle)
        self.moved = False  # until then it gives no tracks of its own
        self._side = min(self.size) / self.scene.focal
        self._started = joined is not None  # whether a frame was cut
        self._velocity: list[tuple[float | None, np.ndarray]] = [(None, np.zeros(6))]  # since the last cut
        self._clock = joined
        self._points = np.zeros((0, 3))
        self._ids = np.zeros(0, np.int64)
        self._next_id = -1
        self._emitted = np.zeros(0, np.int64)
        self._objects: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # id -> where in space and on the picture it began
        self._fill(self.rig.pose(), np.zeros((0, 2)))

    def move(self, move: CameraMove, time: float | None = None) -> None:
        """Set the velocities from `time` on, or from the next cut on."""
        self._velocity.append((time, move.vector()))

    @property
    def pose(self) -> Pose:
        """The pose in the last frame that was cut."""
        return self.rig.pose()

    def view(self) -> float:
        """Share of the first view that is visible in the last frame cut: the share of a grid over the first picture
        that is in the frame and not hidden. 1 until the camera moves."""
        x, y = ((np.arange(VIEW_GRID) + 0.5) * (side / VIEW_GRID) - 0.5 for side in self.size[::-1])
        places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        points = self.scene.lift(places, self.scene.depth_at(places))
        return float(self.scene.seen(*self.scene.project(points, self.pose), self.pose).mean())

    def cut(self, objects: Tracks, time: float | None = None, *, pointed: Sequence[int] = ()) -> Tracks:
        """The tracks of the next chunk: the scene's, and `objects` layered over them.

        objects: the positions that gestures alone give (`LiveTracks.cut`; `Tracks.empty` for none).
        time: now, on the clock of `move`. pointed: ids of objects' points that a pointer holds: they stay under it; all
        others also move with the camera.
        """
        return self.steer(objects, self._steps(objects.length, time), pointed=pointed)

    def steer(self, objects: Tracks, steps: np.ndarray, *, pointed: Sequence[int] = ()) -> Tracks:
        """`cut` along given steps (frames, 6), as from `CameraWay.steps`."""
        if objects.size != self.size or objects.length != len(steps):
            raise ValueError(
                f"objects of {objects.length} frames at {objects.size}; the camera cuts {len(steps)} at {self.size}"
            )
        before, poses = self.pose, []
        self.moved = self.moved or bool(np.any(steps))
        for step in steps:
            self.rig = self.rig.advance(step, self._side)
            poses.append(self.pose)
        self._anchor(objects, before, poses)
        objects = self._layer(objects, poses, pointed)
        self._started = True
        if not self.moved:
            return objects
        return Tracks.merge([self._background(objects, before, poses), objects])

    def _steps(self, frames: int, time: float | None) -> np.ndarray:
        """The steps (frames, 6) of a chunk: velocities since the last cut, integrated over the times they were set."""
        changes, latest = self._velocity, self._velocity[-1][1]
        self._velocity = [(None, latest)]
        last, self._clock = self._clock, time if time is not None else self._clock
        timed = [moment for moment, _ in changes[1:] if moment is not None]
        if time is None or last is None or time <= last or len(timed) < len(changes) - 1:
            steps = np.repeat(latest[None] / self.fps, frames, axis=0)
        else:
            # Of a longer gap (a paused stream) only the last two chunks' duration is replayed.
            start = max(last, time - 2 * frames / self.fps)
            knots = np.maximum.accumulate(np.clip([start, *timed, time], start, time))
            way = np.concatenate(
                [np.zeros((1, 6)), np.cumsum([v for _, v in changes] * np.diff(knots)[:, None], axis=0)]
            )
            edges = np.linspace(start, time, frames + 1)
            gone = np.stack([np.interp(edges, knots, way[:, axis]) for axis in range(6)], axis=-1)
            steps = np.diff(gone, axis=0) * (frames / self.fps / (time - start))
        if not self._started:
            steps[0] = 0.0  # the stream's first frame is the picture
        return steps

    # ------------------------------------------------------------------------------------------------ the scene

    def _background(self, objects: Tracks, before: Pose, poses: list[Pose]) -> Tracks:
        """Tracks of the scene's points that the last frame shows, except close to objects' points."""
        near_now = objects.positions[0][objects.visible[0]] if objects.count else np.zeros((0, 2))
        self._fill(before, near_now)
        here, depth = self.scene.project(self._points, before)
        shown = self.scene.seen(here, depth, before) & ~_near(here, near_now, self.spacing)
        points, ids = self._points[shown], self._ids[shown]
        positions = np.full((len(poses), len(ids), 2), np.nan)
        visible = np.zeros(positions.shape[:2], bool)
        for frame, pose in enumerate(poses):
            places, depth = self.scene.project(points, pose)
            positions[frame] = places
            visible[frame] = self.scene.seen(places, depth, pose)
            visible[frame] &= ~_near(places, objects.positions[frame][objects.visible[frame]], self.spacing)
        begun = ~np.isin(ids, self._emitted)
        positions[0, begun], visible[0, begun] = here[shown][begun], True
        self._emitted = ids
        positions[~visible] = np.nan
        return Tracks(positions, visible, self.size, self.fps, ids)

    def _fill(self, pose: Pose, taken: np.ndarray) -> None:
        """Add points where the view from `pose` has none; `taken` (n, 2) are places of objects.

        Their depth is the largest among the three nearest points: content at a border is as far as its neighbours, and
        uncovered content lies behind them.
        """
        x, y = (np.arange(self.spacing / 2 - 0.5, side - 0.5, self.spacing) for side in self.size[::-1])
        places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        if not len(self._points):
            depth = self.scene.depth_at(places)
        else:
            here, far = self.scene.project(self._points, pose)
            shown = self.scene.seen(here, far, pose)
            known, far = here[shown], far[shown]
            empty = ~_near(places, np.concatenate([known, taken]), 0.75 * self.spacing)
            places = places[empty]
            if not len(places):
                return
            depth = _farthest_of_nearest(places, known, far) if len(known) else np.full(len(places), self.rig.distance)
        ids = np.arange(self._next_id, self._next_id - len(places), -1)
        self._next_id -= len(places)
        self._ids = np.concatenate([self._ids, ids])[-MOST_POINTS:]
        self._points = np.concatenate([self._points, self.scene.lift(places, depth, pose)])[-MOST_POINTS:]

    # ---------------------------------------------------------------------------------------------- the objects

    def _anchor(self, objects: Tracks, before: Pose, poses: list[Pose]) -> None:
        """Record the 3D points at which new objects begin, and remove the scene's points there, which are part of the
        object."""
        self._objects = {track: self._objects[track] for track in objects.ids.tolist() if track in self._objects}
        new = [row for row, track in enumerate(objects.ids.tolist()) if track not in self._objects]
        new = [row for row in new if objects.visible[:, row].any()]
        if not new:
            return
        begin = [int(np.argmax(objects.visible[:, row])) for row in new]
        starts = objects.positions[begin, new].astype(float)
        here, far = self.scene.project(self._points, before)
        shown = self.scene.seen(here, far, before)
        depth = _nearest(starts, here[shown], far[shown]) if shown.any() else np.full(len(starts), self.rig.distance)
        for number, (row, frame) in enumerate(zip(new, begin, strict=True)):
            one = slice(number, number + 1)
            point = self.scene.lift(starts[one], depth[one], poses[frame])[0]
            self._objects[int(objects.ids[row])] = (point, starts[number])
        kept = ~(shown & _near(here, starts, self.spacing))
        self._points, self._ids = self._points[kept], self._ids[kept]

    def _layer(self, objects: Tracks, poses: list[Pose], pointed: Sequence[int]) -> Tracks:
        """Add to the objects' tracks the camera's shift of the 3D points where they began."""
        mine = np.array([track in self._objects for track in objects.ids.tolist()], bool)
        mine &= ~np.isin(objects.ids, np.asarray(pointed, np.int64))
        if not self.moved or not mine.any():
            return objects
        points, starts = (
            np.stack(part) for part in zip(*(self._objects[int(track)] for track in objects.ids[mine]), strict=True)
        )
        positions, visible = objects.positions.astype(float), objects.visible.copy()
        for frame, pose in enumerate(poses):
            places, _ = self.scene.project(points, pose)
            positions[frame, mine] += places - starts
        visible &= np.isfinite(positions).all(axis=-1)
        return replace(objects, positions=positions, visible=visible).clipped()


def camera_tracks(
    depth: np.ndarray,
    way: CameraWay,
    objects: Tracks,
    *,
    chunks: tuple[int, int] = CHUNKS,
    spacing: float | None = None,
) -> Tracks:
    """Tracks of a whole clip: a camera's `way`, and `objects` (Tracks.empty for none) layered over it.

    Size, length and rate are those of `objects`. Equals a `LiveCamera` cut chunk by chunk; points that come into view
    begin with a chunk. Ids are renumbered.
    """
    camera = LiveCamera(depth, objects.size, objects.fps, spacing=spacing)
    steps, done = way.steps(objects.length), 0
    parts: list[Tracks] = []
    while done < objects.length:
        stop = min(done + chunks[bool(parts)], objects.length)
        parts.append(camera.steer(objects.frames(done, stop), steps[done:stop]))
        done = stop
    return Tracks.merge([Tracks.join(parts)], renumber=True)


def _near(places: np.ndarray, others: np.ndarray, reach: float) -> np.ndarray:
    """bool (N,): which places (N, 2) have one of the others (n, 2) within reach; false for NaN."""
    if not len(others) or not len(places):
        return np.zeros(len(places), bool)
    apart = np.hypot(places[:, None, 0] - others[:, 0], places[:, None, 1] - others[:, 1])
    return np.asarray((apart <= reach).any(axis=1))


def _nearest(places: np.ndarray, known: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """The depth (N,) of the known point (n, 2) nearest to each place (N, 2)."""
    apart = np.hypot(places[:, None, 0] - known[:, 0], places[:, None, 1] - known[:, 1])
    return np.asarray(depth[apart.argmin(axis=1)])


def _farthest_of_nearest(places: np.ndarray, known: np.ndarray, depth: np.ndarray) -> np.ndarray:
    apart = np.hypot(places[:, None, 0] - known[:, 0], places[:, None, 1] - known[:, 1])
    three = np.argsort(apart, axis=1, kind="stable")[:, :3]
    return np.asarray(depth[three].max(axis=1))
