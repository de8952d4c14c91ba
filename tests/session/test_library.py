"""The folder of sessions: kept, bounded, and exported."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from motionstream.media.videos import read_video
from motionstream.session import library as library_module
from motionstream.session.commands import Pin
from motionstream.session.exports import EXPORTS, write_gif
from motionstream.session.film import frames_of
from motionstream.session.library import Library, Log, default_folder
from motionstream.session.recording import Header, Recording
from motionstream.session.take import Entry
from motionstream.tracks import Tracks

PICTURE = np.kron(np.arange(16, 240, 14).reshape(4, 4, 1), np.ones((8, 8, 3))).astype(np.uint8)


def header(fps: float = 24) -> Header:
    return Header(model="debug", weights="0" * 32, fps=fps, seed=0, steps=3, prompt="", picture=PICTURE)


def fill(log: Log, chunks: int) -> None:
    pin = Pin(time=0, gesture=1, x=9, y=9)
    for chunk in range(chunks):
        frames = 9 if chunk == 0 else 12
        log.append(Entry(chunk, frames, chunk / 2, (pin,) if chunk == 0 else ()))
        log.show(np.repeat(np.roll(PICTURE, chunk, 0)[None], frames, 0))


def test_a_session_is_there_while_it_runs_and_after(tmp_path: Path) -> None:
    with Library(tmp_path / "a" / "b") as library:
        log = library.begin(header())
        fill(log, 2)
        assert len(library.recording(log.name).entries) == 2
        assert len(list(frames_of(library.film_path(log.name)))) == 21
        log.close()
        name = log.name
    with Library(tmp_path / "a" / "b") as library:
        assert len(library.recording(name).entries) == 2
        assert len(list(frames_of(library.film_path(name)))) == 21
    assert all(path.stat().st_mode & 0o077 == 0 for path in (tmp_path / "a" / "b").iterdir())


def test_the_oldest_that_have_ended_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(100))
    monkeypatch.setattr(library_module.time, "strftime", lambda form: f"2030-01-01-{next(seconds):06}")
    with Library(tmp_path, sessions=3) as library:
        running = library.begin(header())
        ended = []
        for _ in range(4):
            log = library.begin(header())
            fill(log, 1)
            log.close()
            ended.append(log.name)
        kept = {path.stem for path in tmp_path.iterdir()}
        assert kept == {running.name, *ended[-2:]}
        running.close()
    size = sum(path.stat().st_size for path in tmp_path.glob(f"{ended[-1]}*"))
    with Library(tmp_path, most=size + 10) as library:
        newest = library.begin(header())
        assert {path.stem for path in tmp_path.iterdir()} == {newest.name, ended[-1]}
        newest.close()


def test_servers_of_one_folder_leave_each_other_what_they_write(tmp_path: Path) -> None:
    with Library(tmp_path, sessions=2) as one, Library(tmp_path, sessions=2) as other:
        logs = [one.begin(header()) for _ in range(3)]
        log = other.begin(header())
        assert {path.stem for path in tmp_path.iterdir()} == {each.name for each in (*logs, log)}
        for each in (*logs, log):
            each.close()
        newest = other.begin(header())
        assert len({path.stem for path in tmp_path.iterdir()}) == 2
        newest.close()


def test_names_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_text("{}")
    with Library(tmp_path / "sessions") as library:
        for name in ("../secret", "", "a" * 400, "2026-01-01-000000-0123456789abcdef", "/etc/passwd"):
            with pytest.raises(ValueError, match="there is no session"):
                library.recording(name)
            with pytest.raises(ValueError, match="there is no session"):
                library.film_path(name)


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot keep sessions in"):
        Library(tmp_path / "file" / "sessions")
    with pytest.raises(ValueError, match="0 sessions"):
        Library(tmp_path, sessions=0)


def test_a_temporary_library_leaves_nothing() -> None:
    with Library() as library:
        log = library.begin(header())
        fill(log, 1)
        log.close()
        folder = library.folder
        assert list(folder.iterdir())
    assert not folder.exists()


def test_the_default_folder_is_the_user_s_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_folder() == Path("/state/motionstream/sessions")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/ada")
    assert default_folder() == Path("/home/ada/.local/state/motionstream/sessions")


def test_a_film_that_falls_behind_is_given_up_and_the_recording_is_not(tmp_path: Path) -> None:
    with Library(tmp_path) as library:
        log, go_on = library.begin(header()), threading.Event()
        library.run(go_on.wait)  # type: ignore[arg-type]
        fill(log, library_module.WAITING + 2)
        go_on.set()
        with pytest.raises(ValueError, match="not all of it was kept"):
            library.film_path(log.name)
        fill_one = Entry(library_module.WAITING + 2, 12, 99.0)
        log.append(fill_one)
        log.show(np.zeros((12, 32, 32, 3), np.uint8))
        assert library.recording(log.name).entries[-1] == fill_one
        log.close()


def test_exports(tmp_path: Path) -> None:
    with Library(tmp_path / "sessions") as library:
        log = library.begin(header())
        fill(log, 3)  # it still runs
        paths = {}
        for kind, (suffix, export) in EXPORTS.items():
            paths[kind] = tmp_path / f"out{suffix}"
            export(library, log.name, paths[kind])
        frames, fps = read_video(paths["mp4"])
        assert fps == 24 and len(frames) == 33
        assert np.abs(frames[20].astype(int) - np.roll(PICTURE, 1, 0)).mean() < 8
        tracks = Tracks.load(paths["tracks"])
        assert tracks.length == 33 and tracks.count > 4 and tracks.visible.all()
        assert Recording.read(paths["recording"]).entries == library.recording(log.name).entries
        with Image.open(paths["gif"]) as gif:
            assert gif.size == (32, 32) and gif.n_frames >= 3 and gif.info["loop"] == 0
            total = 0
            for index in range(gif.n_frames):
                gif.seek(index)
                total += gif.info["duration"]
        assert abs(total / 1000 - 33 / 24) < 0.1, "it plays as long as the film"
        log.close()


def test_exports_of_nothing_say_so(tmp_path: Path) -> None:
    with Library(tmp_path / "sessions") as library:
        log = library.begin(header())
        for kind in ("mp4", "gif", "tracks"):
            suffix, export = EXPORTS[kind]
            with pytest.raises(ValueError, match="yet"):
                export(library, log.name, tmp_path / f"out{suffix}")
        log.close()
    with pytest.raises(ValueError, match="there are no frames"):
        write_gif(tmp_path / "a.gif", [], 24)
