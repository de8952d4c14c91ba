"""Delay from the pointer to the picture in a real browser, for a circular drag in the studio, measured by its page.

    python benchmarks/browser_delay.py --seconds 60

A server of the embedded model and a headless Chromium (``pip install playwright``, and the system's browser) share
this machine; the pointer moves sixty times a second. A delay is the time from the latest movement that a chunk follows
until its frame is shown, as reported by the page (``received``, docs/protocol.md).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from motionstream.environment import environment
from motionstream.media.files import atomic_path
from motionstream.server.measure import serving

RESULTS = Path(__file__).parent / "results" / "nano-browser.json"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
RATE = 60.0
WARM_UP = 5.0  # seconds that are not measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="nano")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        parser.error(f"no browser: install Chromium (one of {', '.join(BROWSERS)})")
    with serving(arguments.preset, 1, untrained=False) as address:
        result = drag_in(browser, address, arguments.seconds)
    found = {"benchmark": "browser", "preset": arguments.preset, **result, **environment("cpu")}
    with atomic_path(arguments.output) as path:
        path.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(result))


def drag_in(browser: str, address: str, seconds: float) -> dict[str, Any]:
    """Open the page at ``address``, drag for ``seconds``, and return the delays that the page reported."""
    from playwright.sync_api import sync_playwright

    said: list[tuple[float, dict[str, Any]]] = []

    def hear(message: str | bytes) -> None:
        if isinstance(message, str):
            said.append((time.monotonic(), json.loads(message)))

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": 1180, "height": 720})
        page.on("websocket", lambda socket: socket.on("framesent", hear))
        page.goto(address)
        page.wait_for_selector("#gallery [aria-selected=true]")
        page.wait_for_selector("#stage[aria-busy=false]")
        box = page.locator("#stage").bounding_box()
        assert box is not None, "the stage is shown"
        begin = time.monotonic()
        page.mouse.move(*_circle(box, 0.0))
        page.mouse.down()
        while (now := time.monotonic() - begin) < WARM_UP + seconds:
            page.mouse.move(*_circle(box, now))
            page.wait_for_timeout(1000 / RATE)
        page.mouse.up()
        chromium.close()
    counted = [(moment, one) for moment, one in said if one.get("type") == "received" and moment > begin + WARM_UP]
    delays = [one["delay"] for _, one in counted if "delay" in one]
    if len(delays) < 2:
        raise SystemExit("the page reported no delays: does it stream in this browser at all?")
    (first, start), (last, end) = counted[0], counted[-1]
    return {
        "seconds": round(last - first, 1),
        "fps": round((end["frame"] - start["frame"]) / (last - first), 2),
        "pointer_to_pixel_ms": {f"p{p}": round(1e3 * float(np.percentile(delays, p)), 1) for p in (50, 95)},
        "chunks": len(delays),
    }


def _circle(box: Any, moment: float) -> tuple[float, float]:
    """The pointer's position, which circles the stage's centre once in five seconds."""
    angle, radius = 2 * math.pi * moment / 5, 0.15 * min(box["width"], box["height"])
    return box["x"] + box["width"] / 2 + radius * math.cos(angle), box["y"] + box["height"] / 2 + radius * math.sin(
        angle
    )


if __name__ == "__main__":
    main()
