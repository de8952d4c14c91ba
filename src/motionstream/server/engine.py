"""The engine: one worker thread owns the model and runs a few paced streams on it, independent of transport.

Viewers hold a `Session`: they `submit` commands and `take` events, from any thread. Everything else (the pipeline, its
streams and takes) is used only by the worker. Times are seconds on the engine's clock; frames are counted from the
start of a stream; points are (x, y) pixels with (0, 0) the centre of the top-left pixel.
"""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
from collections.abc import Callable

import torch

from motionstream.loading import STAGES
from motionstream.pipeline import MotionStreamPipeline
from motionstream.scene import check_scale, usual_scale
from motionstream.server.host import EngineBusy, Host, ModelInfo, Status
from motionstream.server.player import Player
from motionstream.server.session import Ended, Failed, Limits, Session, Started
from motionstream.session.commands import Stop
from motionstream.session.fingerprint import fingerprint
from motionstream.session.library import Library
from motionstream.session.recording import Header, Recording
from motionstream.session.replay import Replay
from motionstream.session.take import Take
from motionstream.tracks.depth import fit_depth

logger = logging.getLogger(__name__)


class Engine(Host):
    """Runs up to ``limits.sessions`` streams of one model, each at its playback rate; a few more wait in a queue.

    ``load`` makes the pipeline; it runs in the worker, so that the constructor returns at once. For the other arguments
    see `Host`.
    """

    def __init__(
        self,
        load: Callable[[], MotionStreamPipeline],
        limits: Limits | None = None,
        library: Library | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(limits, library, clock)
        self.status: Status = "loading"
        self.problem = ""
        self._load_pipeline = load
        self._pipeline: MotionStreamPipeline | None = None
        self._weights, self._scale = "", 1
        self._players: dict[Session, Player] = {}
        self._woken = False
        self._thread = threading.Thread(target=self._run, name="motionstream-engine", daemon=True)

    def start(self) -> None:
        """Start the worker, which loads the model first."""
        self._thread.start()

    def close(self) -> None:
        """End all sessions and the worker; returns when it has stopped."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def require_ready(self) -> None:
        """See `Host`; also raises if the engine has broken since."""
        if self._pipeline is None:
            reason = f"could not be loaded: {self.problem}" if self.status == "broken" else "is still loading; wait"
            raise EngineBusy(f"the model {reason}")
        if self.status == "broken":
            raise EngineBusy(f"the engine is broken: {self.problem}")

    @property
    def pipeline(self) -> MotionStreamPipeline:
        """The pipeline, for reading its config; only the worker may run it. EngineBusy until the model is loaded."""
        self.require_ready()
        assert self._pipeline is not None
        return self._pipeline

    @property
    def model(self) -> ModelInfo:
        """See `Host`."""
        return ModelInfo(self.pipeline.config, all(stage in self.pipeline.stages for stage in STAGES))

    def wake(self) -> None:
        """Have the worker process commands now rather than when the next chunk is due."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    # ------------------------------------------------------------------------------------- the worker's side

    def _run(self) -> None:
        self.load()
        reason = "the server is stopping"
        try:
            while not self._closing:
                rest = self.turn()
                with self._changed:
                    if not self._woken and not self._closing and rest > 0:
                        self._changed.wait(None if math.isinf(rest) else rest)
                    self._woken = False
        except Exception as error:  # of the engine itself; a session's errors end only that session
            logger.exception("the engine broke")
            self.problem = f"{type(error).__name__}: {error}".splitlines()[0]
            self.status = "broken"
            reason = f"the engine broke ({self.problem})"
        for session in list(self._sessions):
            self._let_go(session, reason)

    def load(self) -> None:
        """Make the pipeline (the worker's first step); the status becomes ready, or broken with a ``problem``."""
        try:
            self._pipeline = self._load_pipeline()
            self._weights = fingerprint(self._pipeline)
            scale, config = self.limits.scale, self._pipeline.config
            self._scale = usual_scale(config, self._pipeline.device) if scale is None else scale
            check_scale(config, self._scale)
            if config.carry is not None or self._pipeline.device.type != "cpu":  # on a CPU other models take minutes
                self._pipeline.warm_up(self._scale)
            self.status = "ready"
        except Exception as error:
            self.problem = str(error) or type(error).__name__
            self.status = "broken"
            logger.error("the model could not be loaded", exc_info=not isinstance(error, ValueError))

    def turn(self) -> float:
        """Carry out submitted commands and generate at most one chunk, the one due first.

        Returns the seconds until there is more to do, infinity if nothing is planned. Only the worker calls this (or a
        test in its place).
        """
        for session in list(self._sessions):
            self._guard(session, self._keep_waiting if self._place(session) > 0 else self._attend)
        for session in self._sessions[self.limits.sessions :]:
            session.tell_place(self._place(session), self.queue_length)
        due = {session: player.due(self._active()) for session, player in self._players.items()}
        if due:
            session = min(due, key=lambda key: due[key])
            if due[session] <= self.clock():
                self._guard(session, self._play)
                return 0.0
        return max(0.0, min(due.values(), default=math.inf) - self.clock())

    def _place(self, session: Session) -> int:
        """A session's place in the queue, from 1; 0 if it may stream. Sessions start in the order of their arrival."""
        return max(0, self._sessions.index(session) + 1 - self.limits.sessions)

    def _keep_waiting(self, session: Session) -> None:
        session.refuse_commands()
        if session.closed:
            self._end(session, "stopped")

    def _active(self) -> int:
        return sum(not player.still for player in self._players.values())

    def _guard(self, session: Session, act: Callable[[Session], None]) -> None:
        """Run a step of a session; an error is reported to that session and ends it, while the others continue."""
        try:
            act(session)
        except Exception as error:
            if not isinstance(error, ValueError):
                logger.exception("a stream failed")
            message = str(error) if isinstance(error, ValueError) else f"the stream failed ({type(error).__name__})"
            session.put(Failed(message, fatal=True))
            self._end(session, message)
            if not isinstance(error, ValueError):
                self._check_device()

    def _check_device(self) -> None:
        """Raise RuntimeError if the device no longer works: after an illegal access, CUDA fails until the process
        ends."""
        torch.ones(1, device=self.pipeline.device).add(1).cpu()

    def _attend(self, session: Session) -> None:
        if session not in self._players and not session.closed:
            self._players[session] = self._begin(session)
        player = self._players.get(session)
        if player is not None:
            player.watch(session.watched)
            player.collect()
        for command in session.commands():
            if isinstance(command, Stop):
                session.closed = True
            elif player is not None:
                player.obey(command)
        if session.closed:
            self._end(session, "stopped")

    def _begin(self, session: Session) -> Player:
        """Start a session's stream, and its recording if there is a library; returns its player."""
        opening, session.opening = session.opening, None
        assert opening is not None
        replay = None
        if isinstance(opening, Recording):
            if opening.header.weights != self._weights:
                raise ValueError(
                    "the recording was made with other weights than this server's: its frames would differ"
                )
            height, width = opening.header.size
            if height * width > max(h * w for h, w in self.pipeline.config.all_sizes):
                raise ValueError(f"the recording's {width}x{height} pixels are more than this server's model makes")
            seed, replay = opening.header.seed, Replay(self.pipeline, opening)
            take = replay.take
        else:
            seed = opening.seed
            scale = self._scale
            stream = self.pipeline.stream(opening.picture, opening.prompt, seed, steps=opening.steps, scale=scale)
            depth = None if opening.depth is None else fit_depth(opening.depth, stream.fit)
            take = Take(stream, depth=depth)
        stream, log, trouble = take.stream, None, ""
        if self.library is not None:
            try:
                log = self.library.begin(Header.of(stream, seed, self._weights, take.depth))
            except OSError as error:
                trouble = f"this session is not recorded: {error.strerror}"
        name = None if log is None else log.name
        session.put(Started(stream.size, stream.fps, seed, stream.steps, name, take.depth is not None))
        if trouble:
            session.put(Failed(trouble))  # after Started: the stream runs without a recording
        return Player(session, take, self.limits, self.clock, replay=replay, log=log)

    def _play(self, session: Session) -> None:
        # Commands that arrived since this turn began, during another stream's chunk, still count for this chunk.
        self._attend(session)
        player = self._players.get(session)
        if player is not None and not player.still:
            player.make()

    def _end(self, session: Session, reason: str) -> None:
        """End the session and free its memory."""
        self._let_go(session, reason)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _let_go(self, session: Session, reason: str) -> None:
        self._forget(session)
        player = self._players.pop(session, None)
        if player is not None:
            player.close()
        session.end(Ended(reason))
