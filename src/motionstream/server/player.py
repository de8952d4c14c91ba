"""The worker's side of one session: its take, and the schedule of its chunks."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from motionstream.server.follower import Follower
from motionstream.server.session import Accepted, Chunk, Continued, Failed, Limits, Replaying, Selected, Session
from motionstream.session.commands import (
    Command,
    Follow,
    Followed,
    Move,
    Pause,
    Release,
    Resume,
    Select,
    Unfollow,
    WebcamFrame,
)
from motionstream.session.followed import pack_points
from motionstream.session.library import Log
from motionstream.session.replay import Replay
from motionstream.session.take import Entry, Take, find
from motionstream.tracks.masks import outline

MARGIN = 0.03
"""Seconds by which a chunk is generated ahead of its deadline, for encoding and transport."""

RECENT = 8
"""Number of recent chunks; the slowest of them estimates the next one's cost."""


class Player:
    """Carries out commands and generates chunks, each just before the previous one has been played.

    That is as late as possible, so that a chunk follows the pointer's latest motion.
    """

    def __init__(
        self,
        session: Session,
        take: Take,
        limits: Limits,
        clock: Callable[[], float],
        *,
        replay: Replay | None = None,
        log: Log | None = None,
    ) -> None:
        """``replay``: generates the recording that ``take`` continues. ``log``: stores the session."""
        self.session, self.take, self.limits, self.clock = session, take, limits, clock
        self._log = log
        self._follower: Follower | None = None
        self._finder = ThreadPoolExecutor(1, "motionstream-finder")
        self._finding: deque[Future[Select]] = deque()
        take.record = self._record
        self.paused_at: float | None = None
        self._watched = True
        self._began = clock()
        self._played_until = self._began  # when the viewer will have played everything generated so far
        self._playing = 0.0  # duration of the last chunk in seconds
        self._costs: deque[tuple[float, float]] = deque(maxlen=RECENT)  # seconds until the frames, and in total
        self._resting: dict[int, Move] = {}  # gesture → the pointer's latest position while paused
        self._sent: float | None = None
        self._replay = replay
        self._replayed = (self._began, 0.0)  # when the last replayed chunk was finished, and its cost in seconds
        if replay is not None and not replay.left:
            self._go_on()

    def close(self) -> None:
        """End the session: finish its recording and stop following."""
        self._unfollow()
        self._finder.shutdown(wait=False, cancel_futures=True)
        self._end_log()

    def _end_log(self) -> None:
        if self._log is not None:
            log, self._log = self._log, None
            log.close()

    @property
    def still(self) -> bool:
        """Whether no chunks are wanted: the stream is paused, or nobody watches."""
        return self.paused_at is not None or not self._watched

    def watch(self, watched: bool) -> None:
        """Set whether anybody watches. A viewer that returns has nothing left to play."""
        if watched and not self._watched:
            self._played_until = self.clock()
            self.paused_at = None if self.paused_at is None else self._played_until
            self._follow_anew()
        self._watched = watched

    def due(self, active: int) -> float:
        """When to begin the next chunk, with ``active`` streams taking turns; infinity while `still`."""
        if self.still:
            return math.inf
        if self._replay is not None:
            # At once if nobody else streams; otherwise half of the device's time, after live chunks that are due.
            moment, cost = self._replayed
            return moment + (cost if active > 1 else 0.0)
        own, whole = (max(costs) for costs in zip(*self._costs, strict=True)) if self._costs else (0.0, 0.0)
        ahead = MARGIN + own + whole * (active - 1)
        # Never more than a chunk ahead, so that an engine that cannot keep up does not also accumulate old frames.
        return self._played_until - min(ahead, self._playing)

    # --------------------------------------------------------------------------------------------- commands

    def obey(self, command: Command) -> None:
        """Carry out one command, or tell the viewer why it is refused."""
        gesture = getattr(command, "gesture", None)
        try:
            accepted = self._carry_out(replace(command, time=self._take_time(command.time)))
        except ValueError as error:
            self.session.put(Failed(str(error), command.name, gesture))
            return
        if command.sent is not None and not isinstance(command, WebcamFrame):  # these do not count for the delay
            self._sent = command.sent if self._sent is None else max(self._sent, command.sent)
        if accepted:
            self.session.put(Accepted(command.name, self.take.stream.frame, gesture))

    def _carry_out(self, command: Command) -> bool:
        """Carry out a command; returns whether to acknowledge it (not pointer samples, which are too many, nor commands
        without effect)."""
        if self._replay is not None:
            raise ValueError(f"cannot {command.name} yet: the recording is still being replayed; wait")
        match command:
            case Pause():
                self.paused_at = self.clock() if self.paused_at is None else self.paused_at
                return True
            case Resume():
                self._resume()
                return True
            case Move():
                held = (command.gesture, "press") in self.take.director.gestures
                if self.paused_at is not None and held:  # only the final position matters
                    self._resting[command.gesture] = command
                else:
                    self.take.obey(command)
                return False
            case Follow():
                self._follow(command)
                return True
            case WebcamFrame():
                if self._follower is None:
                    raise ValueError("no webcam is followed; follow one first")
                self._follower.look(command)
                return False
            case Unfollow():
                if self._follower is None:
                    raise ValueError("nothing is followed")
                self._unfollow()
                return True
            case Release():
                self._apply_resting(command.gesture)
            case Select():
                # In another thread, since the stream would otherwise stop for the 0.2 s that it takes.
                looking = self._finder.submit(find, command, self.take.seen(), self.take.stream.model.draw)
                self._finding.append(looking)
                looking.add_done_callback(lambda _: self.session.wake())
                return False
        if getattr(command, "object", None) is not None:
            self.collect(wait=True)  # its selection may still be running
        return self.take.obey(command)

    def collect(self, *, wait: bool = False) -> None:
        """Apply the results of finished selections, or with ``wait`` of all selections."""
        while self._finding and (wait or self._finding[0].done()):
            try:
                found = self._finding.popleft().result()
                self.take.obey(found)
            except ValueError as error:
                self.session.put(Failed(str(error), "select"))
                continue
            mask = self.take.director.mask(found.request)
            self.session.put(Selected(found.request, found.request, outline(mask).tolist(), int(mask.sum())))

    def _resume(self) -> None:
        if self.paused_at is None:
            return
        self._played_until += self.clock() - self.paused_at  # playback stopped for as long
        self.paused_at = None
        self._follow_anew()
        for gesture in list(self._resting):
            self._apply_resting(gesture)

    def _apply_resting(self, gesture: int) -> None:
        if gesture in self._resting:
            self.take.obey(self._resting.pop(gesture))

    def _follow(self, command: Follow) -> None:
        def complain(words: str) -> None:
            self.session.put(Failed(words, command.name))

        follower = Follower(command, self.take.stream, self.take.director.next_followed_id, complain)
        self._unfollow()
        self._follower, self.session.look = follower, follower.look

    def _unfollow(self) -> None:
        self.session.look = None
        if self._follower is not None:
            self._follower.close()
            self._follower = None

    def _follow_anew(self) -> None:
        if self._follower is not None:
            self._follower.begin_anew()

    def _take_time(self, moment: float) -> float:
        """Convert a time from the engine's clock to the take's, clamped to the past and rounded to microseconds."""
        return round(min(max(moment, self._began), self.clock()) - self._began, 6)

    # ----------------------------------------------------------------------------------------------- chunks

    def make(self) -> None:
        """Generate the next chunk, pass it on, and then do the remaining work (storing, clean pass)."""
        if self._replay is not None:
            self._make_again(self._replay)
            return
        begun = self.clock()
        chunk, settled = self.take.chunk, self.take.stream.timings.settle
        moment = self._take_time(begun)
        if self._follower is not None:
            points = self._follower.cut(self.take.stream.next_frames)
            if points.count:  # there may be no webcam frame yet
                self.take.obey(Followed(time=moment, points=pack_points(points)))
        shot = self.take.make(moment)
        made = self.clock()
        sent, self._sent = self._sent, None
        positions, groups = self.take.director.overlay(shot.tracks, self.limits.overlay_points)
        fps = self.take.stream.fps
        stages = {**vars(self.take.stream.timings), "settle": settled}
        self.session.put(
            Chunk(chunk, shot.first, fps, shot.frames, made - begun, positions, groups, sent, stages=stages)
        )
        self._playing = len(shot.frames) / fps
        self._played_until = max(self._played_until, made) + self._playing
        if self._log is not None:
            self._log.show(shot.frames)
        self.take.settle()
        self._costs.append((made - begun, self.clock() - begun))

    def _make_again(self, replay: Replay) -> None:
        """Generate the next chunk of the recording that this stream continues."""
        begun = self.clock()
        shot = replay.step()
        if self._log is not None:
            self._log.show(shot.frames)
        self.take.settle()
        self.session.put(Replaying(self.take.chunk, len(replay.recording.entries)))
        self._replayed = (self.clock(), self.clock() - begun)
        if not replay.left:
            self._go_on()

    def _go_on(self) -> None:
        """End the replay: from now on the viewer steers, and the clock continues from the recording's last cut."""
        assert self._replay is not None
        entries, self._replay = self._replay.recording.entries, None
        last = entries[-1].cut if entries else 0.0
        self._played_until = self.clock()
        self._began = self._played_until - last
        for gesture, kind in self.take.director.gestures:
            if kind == "press":  # no pointer holds it any more
                self.take.obey(Release(time=last, gesture=gesture))
        stream = self.take.stream
        held = tuple(one for one in self.take.director.gestures if one[1] != "press")
        self.session.put(Continued(self.take.chunk, stream.frame, stream.prompt, stream.steps, held))

    def _record(self, entry: Entry) -> None:
        """Record a chunk's entry; on an error the viewer is notified and the stream continues without a recording."""
        if self._log is None:
            return
        try:
            self._log.append(entry)
        except (OSError, ValueError) as error:
            self._end_log()
            self.session.put(Failed(f"the recording ends here: {error}"))
