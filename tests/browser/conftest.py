"""A real server with the embedded model, a real browser, and a `Visitor` who does what a person does.

Run them alone with ``pytest tests/browser``; with ``--screenshots docs/studio`` the states on the way are saved.
"""

import base64
import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

REQUIRED = os.environ.get("MOTIONSTREAM_BROWSER") == "required"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0  # seconds for anything to happen, on a machine that does other things as well
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--screenshots", metavar="FOLDER", help="save pictures of the page's states")


def chromium() -> str:
    """The installed browser; without one the tests are skipped, or fail where MOTIONSTREAM_BROWSER=required."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    message = f"no browser: install Chromium (one of {', '.join(BROWSERS)}) to test the page"
    if REQUIRED:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def wait_until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + patience
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {patience:g} seconds"
        time.sleep(0.05)
    return answer


# ------------------------------------------------------------------------------------------------------ fixtures


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One for each file, since Playwright leaves traces in the process: its event loop runs in this thread, where other
    tests want theirs, and its pipes pass to every process that is forked, without whose end it does not end either."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    film = tmp_path_factory.mktemp("camera") / "film.mjpeg"
    film.write_bytes(b"".join(cv2.imencode(".jpg", frame)[1].tobytes() for frame in camera_film()))
    with sync_playwright() as playwright:
        flags = [*FLAGS, f"--use-file-for-fake-video-capture={film}"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


def camera_film() -> list[np.ndarray]:
    """What the fake camera sees: a bright disc on a patterned ground, both of which go from side to side for ever, 1.5
    pixels a frame; BGR 240 x 320."""
    ground = np.random.default_rng(1).integers(40, 140, (20, 28, 3), np.uint8)
    ground = cv2.resize(ground, (380, 240), interpolation=cv2.INTER_CUBIC)
    cv2.circle(ground, (190, 120), 25, (40, 220, 250), -1)
    way = [round(1.5 * step) for step in range(30)]
    return [np.ascontiguousarray(ground[:, 45 - x : 365 - x]) for x in way + way[::-1]]


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The address of ``motionstream demo`` in a process of its own."""
    chromium()  # a model need not be loaded for tests that are skipped
    with serving(free_port()) as address:
        yield address


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.contextmanager
def serving(port: int) -> Iterator[str]:
    """``motionstream demo`` in a process of its own, until the block ends: its address."""
    source = Path(__file__).resolve().parents[2] / "src"
    command = [sys.executable, "-m", "motionstream", "demo", "--no-browser", "--port", str(port)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(source)})
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: process.poll() is not None or is_ready(address), "the server is ready", 100)
        assert process.poll() is None, f"the server ended with {process.returncode}"
        yield address
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE)


def is_ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health") as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.fixture
def visit(browser: Any, server: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., "Visitor"]]:
    """Opens the page as one more visitor, with a browser context's options; errors in the page fail the test."""
    visitors = []

    def visit(path: str = "/", **options: Any) -> Visitor:
        context = browser.new_context(**{"viewport": {"width": 1180, "height": 720}, **options})
        page = context.new_page()
        folder = request.config.getoption("--screenshots", None)
        visitors.append(Visitor(page, Path(folder) if folder else None))
        page.goto(server + path)
        if path == "/":
            visitors[-1].wait_for_state("Ready")
            visitors[-1].wait_for_picture()
        return visitors[-1]

    yield visit
    problems = [problem for visitor in visitors for problem in visitor.problems]
    for visitor in visitors:
        visitor.leave()
    assert problems == []


@pytest.fixture
def serve() -> Callable[[], contextlib.AbstractContextManager[str]]:
    """A server of the test's own, at the same address whenever it runs."""
    port = free_port()
    return lambda: serving(port)


@pytest.fixture
def see(browser: Any) -> Callable[[str], "Visitor"]:
    """Opens the page of another server than the other tests'; what the browser complains of is the test's business."""

    def see(address: str) -> Visitor:
        visitor = Visitor(browser.new_context().new_page(), None)
        visitor.page.goto(address)
        visitor.wait_for_state("Ready")
        visitor.wait_for_picture()
        return visitor

    return see


@pytest.fixture
def visitor(visit: Callable[..., "Visitor"]) -> "Visitor":
    return visit()


# ------------------------------------------------------------------------------------------------------- a person


class Visitor:
    """What a person does with the page and sees on it. Places are x, y in the model's picture (128 × 128)."""

    SIZE = 128

    def __init__(self, page: Any, screenshots: Path | None) -> None:
        self.page, self.screenshots = page, screenshots
        self.problems: list[str] = []
        page.set_default_timeout(PATIENCE * 1000)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.problems.append(message.text))

    # --- doing

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the picture is on the page."""
        box = self.page.locator("#stage").bounding_box()
        return box["x"] + (x + 0.5) / self.SIZE * box["width"], box["y"] + (y + 0.5) / self.SIZE * box["height"]

    def key(self, key: str) -> None:
        self.page.keyboard.press(key)

    def tool(self, name: str) -> None:
        self.page.click(f"[data-tool='{name}'][role=radio]")

    def choose(self, title: str) -> None:
        self.page.click(f"#gallery button[title='{title}']")
        self.wait_for_picture()

    def leave(self) -> None:
        """End the stream, which would wait a while for its visitor to come back, and close the page."""
        if self.page.is_visible("#start") and self.page.inner_text("#start").strip() == "Stop":
            if self.page.locator("dialog[open]").count():
                self.key("Escape")
            self.page.click("#start")
            self.wait_for_state("Ready")
        self.page.context.close()

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.place(x, y))

    def stroke(self, *corners: tuple[float, float], steps: int = 12, let_go: bool = True) -> None:
        """Press at the first place, go to the others, and let go there."""
        self.page.mouse.move(*self.place(*corners[0]))
        self.page.mouse.down()
        for corner in corners[1:]:
            self.page.mouse.move(*self.place(*corner), steps=steps)
        if let_go:
            self.page.mouse.up()

    def open_file(self, name: str, content: bytes) -> None:
        self.page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": content})

    # --- seeing

    def wait(self, script: str) -> None:
        """Until the expression is true. (Playwright's own way evaluates in the page, where its policy forbids that.)"""
        wait_until(lambda: self.page.evaluate(script), script)

    def look_at(self, frame: int) -> None:
        """Scrub back to a frame."""
        self.page.evaluate(
            "frame => { const line = document.getElementById('timeline'); line.value = frame;"
            " line.dispatchEvent(new Event('input')); }",
            frame,
        )
        self.wait_for_state("Paused")
        self.wait(f"document.getElementById('timeline').value === '{frame}'")

    def wait_for_picture(self) -> None:
        """The chosen picture is on the stage."""
        self.wait("document.querySelector('#stage[aria-busy=false]') !== null")
        self.wait("document.querySelector('#gallery [aria-selected=true]') !== null")

    def wait_for_state(self, words: str) -> None:
        self.wait(f"document.getElementById('state').textContent === '{words}'")

    @property
    def frame(self) -> int:
        """Index of the frame shown."""
        return int(self.page.input_value("#timeline"))

    def wait_for_frame(self, index: int) -> None:
        self.wait(f"Number(document.getElementById('timeline').value) >= {index}")

    def picture(self) -> np.ndarray:
        """What the stage shows, without points: uint8 (128, 128, 3)."""
        shown = self._canvas("video")[..., :3]
        return cv2.resize(shown, (self.SIZE, self.SIZE), interpolation=cv2.INTER_AREA)

    def dots(self, kind: str) -> np.ndarray:
        """The centres of the points drawn over it, (N, 2). ``kind``: press, pin, path or follow."""
        names = {"press": "--drag", "pin": "--pin", "path": "--path", "follow": "--follow"}
        colour = self.page.evaluate(
            f"getComputedStyle(document.documentElement).getPropertyValue('{names[kind]}')"
        ).strip()
        rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        overlay = self._canvas("overlay")
        drawn = (np.abs(overlay[..., :3].astype(int) - rgb).max(-1) < 8) & (overlay[..., 3] > 240)
        count, _, boxes, centres = cv2.connectedComponentsWithStats(drawn.astype(np.uint8))
        least = 2 if kind == "follow" else 12  # pixels; those of a followed source are small
        points = [centres[i] for i in range(1, count) if boxes[i, cv2.CC_STAT_AREA] >= least]
        return np.array(points).reshape(-1, 2) * self.SIZE / overlay.shape[1] - 0.5

    def has_dot(self, kind: str, x: float, y: float, within: float = 2.0) -> bool:
        dots = self.dots(kind)
        return bool(len(dots)) and float(np.hypot(*(dots - (x, y)).T).min()) <= within

    def message(self) -> str:
        """The latest sentence that says what is wrong; waits for one."""
        self.page.wait_for_selector(".toast")
        return str(self.page.locator(".toast").last.inner_text()).strip()

    def _canvas(self, id: str) -> np.ndarray:
        url = self.page.evaluate(f"document.getElementById('{id}').toDataURL()")
        return np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGBA"))

    def snap(self, name: str) -> None:
        """Save a picture of the page, where that was asked for."""
        if self.screenshots is None:
            return
        self.screenshots.mkdir(parents=True, exist_ok=True)
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        for bits in (6, 5):  # of a colour: nobody sees it, and the repository stays small
            file = io.BytesIO()
            ImageOps.posterize(picture, bits).save(file, "PNG", optimize=True)
            if file.tell() < 300_000:
                break
        (self.screenshots / f"{name}.png").write_bytes(file.getvalue())


class Sight:
    """Compares pictures by template matching: where has what was around (x, y) gone?"""

    def __init__(self, before: np.ndarray, x: int, y: int, half: int = 11) -> None:
        self.before, self.x, self.y, self.half = before, x, y, half

    def _scores(self, after: np.ndarray, reach: int) -> tuple[np.ndarray, int, int]:
        """Correlation at every place up to ``reach`` pixels away, and where in it the old place is (column, row)."""
        left, top = self.x - self.half, self.y - self.half
        x0, y0 = max(0, left - reach), max(0, top - reach)
        field = after[y0 : top + 2 * self.half + reach, x0 : left + 2 * self.half + reach]
        template = self.before[top : top + 2 * self.half, left : left + 2 * self.half]
        return cv2.matchTemplate(field, template, cv2.TM_CCOEFF_NORMED), left - x0, top - y0

    def moved(self, after: np.ndarray, reach: int = 36) -> tuple[int, int]:
        """The displacement (dx, dy) at which it is found."""
        scores, column, row = self._scores(after, reach)
        y, x = np.unravel_index(scores.argmax(), scores.shape)
        return int(x) - column, int(y) - row

    def stayed(self, after: np.ndarray, reach: int = 12) -> bool:
        """It is still there, and nowhere around as clearly (along an edge it is nearly as clear)."""
        scores, column, row = self._scores(after, reach)
        return bool(scores[row, column] >= max(0.7, scores.max() - 0.05))


@pytest.fixture
def sight() -> type[Sight]:
    """For the tests: the folder is no package."""
    return Sight


@pytest.fixture
def until() -> Callable[..., Any]:
    """`wait_until`, for the tests."""
    return wait_until
