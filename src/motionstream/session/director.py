"""The director turns a viewer's gestures into the tracks of one chunk after another.

It is independent of clocks and transport: the same commands with the same times and cuts give the same tracks, bit for
bit. Recordings rely on that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from motionstream.session.commands import Camera, Command, Erase, Followed, Move, Path, Pin, Press, Release, Select
from motionstream.session.followed import unpack_points
from motionstream.tracks import LiveTracks, Tracks
from motionstream.tracks.camera import CameraMove, LiveCamera
from motionstream.tracks.depth import plain_prior
from motionstream.tracks.masks import filled
from motionstream.tracks.tracks import MAX_POINTS
from motionstream.tracks.transfer import FIRST_ID, point_spacing

MOST_MASKS = 32
"""Number of selected objects that are remembered; beyond this the oldest are forgotten."""
CAMERA, FOLLOWED = -1, -2
"""The overlay's numbers for points moved by the camera and for points of a followed source; gestures are numbered from
0."""


@dataclass(frozen=True)
class TrackGroup:
    """``count`` consecutive points of the overlay that belong to one gesture."""

    gesture: int
    kind: str  # press | pin | path | camera | follow
    count: int


@dataclass(frozen=True, eq=False)
class Held:
    """An active gesture: its number in `LiveTracks`, the kind of command that began it, and the ids of its points."""

    number: int
    kind: str
    ids: np.ndarray


class Director:
    """Holds the gestures and the camera of one stream. ``size``: (height, width). Times are seconds on any one clock.
    ``depth``: the picture's depth map, (height, width); a generic prior when None."""

    def __init__(self, size: tuple[int, int], fps: float, depth: np.ndarray | None = None) -> None:
        self._live = LiveTracks(size, fps)
        self._depth = depth
        self._camera: LiveCamera | None = None  # from its first command on
        self._masks: dict[int, np.ndarray] = {}  # by the selection's number, oldest first
        self._followed: Tracks | None = None  # a source's points in the next chunk
        self.next_followed_id = FIRST_ID  # no followed point has had this id or a later one
        self._last_cut: float | None = None
        self._held: dict[int, Held] = {}  # by the viewer's number, oldest first
        self._shown: dict[int, Held] = {}  # the gestures of the last cut
        self._latest: dict[int, float] = {}  # the viewer's number → its last time

    @property
    def gestures(self) -> tuple[tuple[int, str], ...]:
        """The viewer's number and the kind (press, pin or path) of every active gesture, oldest first."""
        return tuple((number, held.kind) for number, held in self._held.items())

    def obey(self, command: Command) -> bool:
        """Carry out a command about tracks; False if it had no effect because its gesture has ended.

        Raises ValueError with the reason if it is impossible; then nothing has changed.
        """
        match command:
            case Press() | Path():
                if command.gesture in self._held:
                    raise ValueError(f"gesture {command.gesture} exists already; give each one a new number")
                number = self._begin(command)
                self._held[command.gesture] = Held(number, command.name, self._live.track_ids(number))
            case Move() | Release():
                return self._follow(command)
            case Camera():
                self._move_camera(command)
            case Followed():
                self._followed = unpack_points(command.points, self._live.size, self._live.fps)
                self.next_followed_id = max(self.next_followed_id, int(self._followed.ids.max(initial=0)) + 1)
            case Select():
                if command.outline is None:
                    raise ValueError(f"selection {command.request} has no outline")
                self._remember(command.request, filled(command.outline, self._live.size))
            case Erase():
                if command.gesture not in self._held:
                    raise ValueError(f"there is no gesture {command.gesture} to erase")
                self._live.erase(self._held[command.gesture].number)
                self._forget_finished()
            case _:
                raise AssertionError(f"{command.name} is not about gestures")
        return True

    def cut(self, frames: int, now: float) -> Tracks:
        """The tracks of the next ``frames`` frames; ``now``: the time of the cut, on the commands' clock.

        ValueError if a followed source's points are for another number of frames.
        """
        followed, self._followed = self._followed, None
        if followed is not None and followed.length != frames:
            raise ValueError(f"{followed.length} frames of a followed source for a chunk of {frames}")
        tracks = self._live.cut(frames, now)
        if followed is not None:
            tracks = Tracks.merge([_beside(followed, tracks), tracks])
        if self._camera is not None:
            hands = [held.ids for held in self._held.values() if held.kind == "press"]
            tracks = self._camera.cut(tracks, now, pointed=np.concatenate([[], *hands]).astype(int).tolist())
        self._last_cut = now
        self._shown = dict(self._held)
        self._forget_finished()
        return tracks

    def _remember(self, number: int, mask: np.ndarray) -> None:
        self._masks.pop(number, None)
        self._masks[number] = mask
        while len(self._masks) > MOST_MASKS:
            del self._masks[next(iter(self._masks))]

    def mask(self, number: int) -> np.ndarray:
        """The mask of a selected object; ValueError if there is none with this number."""
        if number not in self._masks:
            raise ValueError(f"there is no object {number}; select it first")
        return self._masks[number]

    def overlay(self, tracks: Tracks, most: int) -> tuple[np.ndarray, tuple[TrackGroup, ...]]:
        """Points to draw over the frames of the last cut, float32 (T, N, 2), NaN where not visible, and their groups.
        ``most``: largest number of points; more are thinned evenly."""
        if tracks.count > most:
            tracks = tracks.select(np.linspace(0, tracks.count - 1, most).round().astype(int))
        # A cut's tracks are in this order: the scene's, a followed source's, then gesture by gesture, oldest first.
        counts = [
            (CAMERA, "camera", int((tracks.ids < 0).sum())),
            (FOLLOWED, "follow", int((tracks.ids >= FIRST_ID).sum())),
        ]
        counts += [(key, held.kind, int(np.isin(tracks.ids, held.ids).sum())) for key, held in self._shown.items()]
        assert sum(count for *_, count in counts) == tracks.count
        groups = tuple(TrackGroup(number, kind, count) for number, kind, count in counts if count)
        return np.where(tracks.visible[..., None], tracks.positions, np.float32(np.nan)), groups

    def _begin(self, command: Press | Path) -> int:
        """Begin a gesture; returns its number in `LiveTracks`."""
        spacing, radius = command.spacing, command.radius
        mask = None if command.object is None else self.mask(command.object)
        match command:
            case Pin():
                return self._live.pin(command.x, command.y, spacing=spacing, radius=radius, mask=mask)
            case Press():
                time = self._time(command)
                return self._live.drag(command.x, command.y, spacing=spacing, radius=radius, mask=mask, time=time)
            case Path():
                return self._live.path(
                    command.points,
                    start=command.delay,
                    duration=command.duration,
                    speed=command.speed,
                    ease=command.ease,
                    release_at_end=command.release,
                    spacing=spacing,
                    radius=radius,
                    mask=mask,
                )

    def _move_camera(self, command: Camera) -> None:
        size, fps = self._live.size, self._live.fps
        if self._camera is None:
            depth = plain_prior(size) if self._depth is None else self._depth
            self._camera = LiveCamera(depth, size, fps, joined=self._last_cut)
        self._camera.move(CameraMove(command.pan, command.orbit, command.dolly, command.zoom), command.time)

    def _follow(self, command: Move | Release) -> bool:
        if command.gesture not in self._held:  # its press was refused, or the sample crossed an erasure
            return False
        held = self._held[command.gesture]
        if isinstance(command, Move):
            self._live.move(held.number, command.x, command.y, self._time(command))
        else:
            self._live.release(held.number, None if held.kind == "pin" else self._time(command))
        return True

    def _time(self, command: Press | Move | Release) -> float:
        """A command's time, not before the gesture's last, since viewers' clocks are only estimated."""
        moment = max(command.time, self._latest.get(command.gesture, -math.inf))
        self._latest[command.gesture] = moment
        return moment

    def _forget_finished(self) -> None:
        alive = set(self._live.gestures)
        self._held = {number: held for number, held in self._held.items() if held.number in alive}
        self._latest = {number: moment for number, moment in self._latest.items() if number in self._held}


def _beside(followed: Tracks, gestures: Tracks) -> Tracks:
    """A source's points without those near a gesture's points, since gestures take precedence."""
    reach = point_spacing(followed.size)
    near = np.zeros(followed.count, bool)
    for frame in range(followed.length):
        held = gestures.positions[frame][gestures.visible[frame]]
        apart = np.hypot(*(followed.positions[frame][:, None] - held[None]).transpose(2, 0, 1))
        near |= (apart <= reach).any(axis=1)  # false for hidden points, which are NaN
    return followed.select(np.flatnonzero(~near)[: MAX_POINTS - gestures.count])
