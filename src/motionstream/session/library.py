"""The sessions that a server stores: a folder of recordings and films of bounded size; the oldest are removed first."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np

from motionstream.session import film as films
from motionstream.session import recording as recordings
from motionstream.session.film import Film
from motionstream.session.recording import Header, Recorder, Recording
from motionstream.session.take import Entry

logger = logging.getLogger(__name__)

MAX_SESSIONS = 200
MAX_BYTES = 4 * 2**30
WAITING = 32  # largest number of chunks waiting to be encoded; if disk or CPU fall further behind, the film is dropped


def default_folder() -> Path:
    """The default folder for a user's sessions: ``$XDG_STATE_HOME/motionstream/sessions`` (~/.local/state)."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "motionstream" / "sessions"


class Library:
    """Stores at most ``sessions`` sessions and ``most`` bytes in ``folder`` (a temporary one when None).

    Recordings are written in the caller's thread, films in the library's own, so that encoding does not delay streams.
    Call `close` at the end; it removes a temporary folder. Raises ValueError for an unusable folder.
    """

    def __init__(self, folder: Path | None = None, *, sessions: int = MAX_SESSIONS, most: int = MAX_BYTES) -> None:
        if sessions < 1 or most < 1:
            raise ValueError(f"a library of {sessions} sessions and {most} bytes: give at least 1 of both")
        self._temporary = tempfile.TemporaryDirectory(prefix="motionstream-") if folder is None else None
        self.folder = Path(self._temporary.name) if self._temporary is not None else Path(folder or "")
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise ValueError(f"cannot keep sessions in {self.folder}: {error.strerror}; give another folder") from error
        self.sessions, self.most = sessions, most
        self._open: set[str] = set()
        self._lock = threading.Lock()
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="motionstream-film")

    def begin(self, header: Header) -> Log:
        """Store a new session; if there are too many, the oldest that have ended are removed. OSError as `Recorder`."""
        name = self._new_name()
        try:
            return Log(self, name, header)
        except BaseException:
            self.ended(name)
            raise

    def adopt(self, recording: Recording) -> str:
        """Store a recording from elsewhere, without a film; returns its name. ValueError if it cannot be written."""
        name = self._new_name()
        try:
            recording.write(self.folder / f"{name}{recordings.SUFFIX}")
        finally:
            self.ended(name)
        return name

    def ended(self, name: str) -> None:
        """Mark a session as complete, so that it may be removed."""
        with self._lock:
            self._open.discard(name)

    def recording(self, name: str) -> Recording:
        """The recording so far. ValueError if there is no session of this name."""
        return Recording.read(self._path(name, recordings.SUFFIX))

    def film_path(self, name: str) -> Path:
        """The path of a session's film, with all frames so far. ValueError if there is none."""
        self._encoder.submit(lambda: None).result()  # wait until everything shown so far is encoded
        path = self._path(name, films.SUFFIX)
        if not path.stat().st_size:
            raise ValueError("nothing was filmed yet; wait for the first frames")
        return path

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish pending writes. All sessions must have ended."""
        self._encoder.shutdown()
        if self._temporary is not None:
            self._temporary.cleanup()

    def run(self, act: Callable[..., None], *arguments: object) -> None:
        """Run a function in the library's thread, after all earlier ones."""
        self._encoder.submit(act, *arguments).add_done_callback(_tell)

    def _new_name(self) -> str:
        """A name for a session that is open until `ended`. Names sort by time and cannot be guessed: knowing one is the
        permission to read the session."""
        name = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{secrets.token_hex(8)}"
        with self._lock:
            self._make_room()
            self._open.add(name)
        return name

    def _path(self, name: str, suffix: str) -> Path:
        path = self.folder / f"{name}{suffix}"
        if not re.fullmatch(r"[0-9a-f-]{16,64}", name) or not path.is_file():
            raise ValueError(f"there is no session {name[:64]!r} (any more), or not all of it was kept")
        return path

    def _make_room(self) -> None:
        sizes: dict[str, int] = {}
        for path in self.folder.glob("*"):
            if path.suffix in (recordings.SUFFIX, films.SUFFIX):
                with contextlib.suppress(FileNotFoundError):  # another server may remove files of this folder, too
                    sizes[path.stem] = sizes.get(path.stem, 0) + path.stat().st_size
        for name in sorted(sizes):  # oldest first
            if len(sizes) < self.sessions and sum(sizes.values()) < self.most:
                break
            if name in self._open or _written(self.folder / f"{name}{recordings.SUFFIX}"):
                continue
            for suffix in (recordings.SUFFIX, films.SUFFIX):
                (self.folder / f"{name}{suffix}").unlink(missing_ok=True)
            del sizes[name]


def _written(recording: Path) -> bool:
    """Whether a server, also another one using the folder, is writing it."""
    try:
        with recording.open("r+b") as file:
            return not recordings.lock(file)
    except FileNotFoundError:
        return False


def _tell(done: Future[None]) -> None:
    """Log an error of the library's thread, since nothing waits for its results."""
    if (error := done.exception()) is not None:
        logger.error("a session could not be kept", exc_info=error)


class Log:
    """Stores one session: ``append`` the entry of every chunk, ``show`` its frames."""

    def __init__(self, library: Library, name: str, header: Header) -> None:
        self.library, self.name = library, name
        self._recorder = Recorder(library.folder / f"{name}{recordings.SUFFIX}", header)
        self._film: Film | None = Film(library.folder / f"{name}{films.SUFFIX}", header.frame_size, header.fps)
        self._behind = threading.Semaphore(WAITING)

    def append(self, entry: Entry) -> None:
        """Record a chunk. Raises OSError and ValueError as `Recorder` does."""
        self._recorder.append(entry)

    def show(self, frames: np.ndarray) -> None:
        """Encode a chunk's frames in the background. If the film fails or falls behind, it is removed, since it would
        lack frames."""
        if self._behind.acquire(blocking=False):
            self.library.run(self._encode, frames)
        else:
            self.library.run(self._lose, "it fell behind")

    def close(self) -> None:
        """End the session."""
        self._recorder.close()
        self.library.run(self._finish)
        self.library.ended(self.name)

    def _encode(self, frames: np.ndarray) -> None:
        self._behind.release()
        if self._film is None:
            return
        try:
            self._film.append(frames)
        except (OSError, ValueError, av.FFmpegError) as error:
            self._lose(str(error))

    def _lose(self, why: str) -> None:
        if self._film is not None:
            logger.warning("the film of session %s is given up: %s", self.name, why)
            self._film.path.unlink(missing_ok=True)
            self._finish()

    def _finish(self) -> None:
        if self._film is not None:
            self._film.close()
            self._film = None
