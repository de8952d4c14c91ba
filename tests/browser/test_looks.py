"""The page's states in light and dark, on a laptop and a phone: nothing overlaps, jumps or is cut off.

With ``--screenshots`` the pictures of docs/studio are made here.
"""

from typing import Any

import pytest

LAPTOP, PHONE = {"width": 1280, "height": 760}, {"width": 390, "height": 844}
PLACES = "['stage', 'start', 'pause', 'timeline', 'tools', 'gallery', 'prompt', 'seed']"


def boxes(visitor: Any) -> dict[str, list[float]]:
    """Where the parts of the page are."""
    return visitor.page.evaluate(
        f"Object.fromEntries({PLACES}.map(id => {{ const box = document.getElementById(id).getBoundingClientRect();"
        " return [id, [box.x, box.y + scrollY, box.width, box.height].map(Math.round)]; }))"
    )


def check_it_fits(visitor: Any, *, page_scrolls: bool = False) -> None:
    assert visitor.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut off sideways"
    higher = visitor.page.evaluate("document.documentElement.scrollHeight > innerHeight")
    assert page_scrolls or not higher, "the panel scrolls, and the page stays where it is"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_laptop(visit, until, scheme: str) -> None:
    visitor = visit(viewport=LAPTOP, color_scheme=scheme)
    visitor.choose("Cat")
    visitor.page.fill("#seed", "1")
    visitor.page.evaluate("document.querySelector('.panel').scrollTo(0, 0)")
    if scheme == "light":
        visitor.snap("ready")
    before = boxes(visitor)
    visitor.tool("pin")
    for corner in ((12, 12), (115, 12), (12, 115), (115, 115)):
        visitor.click(*corner)
    visitor.tool("path")
    visitor.stroke((80, 103), (82, 101), (84, 102), (83, 105))
    visitor.tool("press")
    visitor.stroke((50, 60), (60, 64), let_go=False)
    until(lambda: visitor.has_dot("press", 60, 64) and len(visitor.dots("path")), "all are in the stream")
    visitor.wait_for_frame(60)
    visitor.snap(f"streaming-{scheme}")
    visitor.page.mouse.up()
    visitor.key(" ")
    visitor.wait_for_state("Paused")
    if scheme == "dark":
        visitor.snap("paused")
    visitor.tool("press")
    assert boxes(visitor) == before, "nothing has jumped"
    check_it_fits(visitor)
    visitor.key("?")
    visitor.page.wait_for_selector("dialog[open]")
    if scheme == "dark":
        visitor.snap("help")


@pytest.mark.parametrize("size", [(1280, 600), (1024, 768), (1920, 1080)])
def test_a_screen_of_another_size(visit, size: tuple[int, int]) -> None:
    visitor = visit(viewport=dict(zip(("width", "height"), size, strict=True)))
    visitor.tool("path")
    check_it_fits(visitor)
    header = visitor.page.locator("header").bounding_box()
    visitor.page.click("#steps label:nth-child(2)")
    assert visitor.page.locator("header").bounding_box() == header


def test_a_phone(visit, until) -> None:
    visitor = visit(viewport=PHONE, color_scheme="dark", has_touch=True, is_mobile=True, device_scale_factor=2)
    check_it_fits(visitor, page_scrolls=True)
    before = boxes(visitor)
    assert before["stage"][2] == PHONE["width"], "the picture is as wide as the phone"
    assert before["pause"][1] + before["pause"][3] <= PHONE["height"], "the stream's buttons are seen without scrolling"
    for slider in ("radius", "spacing", "dolly", "zoom"):
        assert visitor.page.is_visible(f"#{slider}"), slider
    visitor.page.evaluate("document.getElementById('pad').scrollIntoView()")
    stage, pad = (visitor.page.locator(id).bounding_box() for id in ("#stage", "#pad"))
    assert stage["y"] >= 0 and stage["y"] + stage["height"] <= pad["y"] <= PHONE["height"] - pad["height"], (
        "both are seen"
    )
    visitor.page.evaluate("scrollTo(0, 0)")
    visitor.tool("path")
    assert visitor.page.is_visible("#duration") and visitor.page.is_visible("#delay")
    visitor.tool("pin")
    visitor.page.touchscreen.tap(*visitor.place(30, 30))
    assert visitor.has_dot("pin", 30, 30)
    visitor.page.tap("#start")
    visitor.wait_for_frame(9)
    assert boxes(visitor) == before, "nothing has jumped"
    visitor.snap("phone")


def test_a_narrow_phone(visit) -> None:
    visitor = visit(viewport={"width": 320, "height": 640}, has_touch=True, is_mobile=True)
    visitor.page.tap("#start")
    visitor.wait_for_frame(12)
    visitor.look_at(1)
    check_it_fits(visitor, page_scrolls=True)
    visitor.page.evaluate("document.getElementById('state').textContent = 'Not connected'")
    for id in ("theme", "points", "reset", "clock", "now"):
        box = visitor.page.locator(f"#{id}").bounding_box()
        assert box["x"] + box["width"] <= 320, id
    pause, reset = (visitor.page.locator(id).bounding_box() for id in ("#pause", "#reset"))
    assert abs(pause["y"] - reset["y"]) < 8, "the stream's buttons are in one row"


def test_the_theme_is_chosen_and_kept(visit) -> None:
    visitor = visit(color_scheme="light")
    colour = "getComputedStyle(document.body).backgroundColor"
    light = visitor.page.evaluate(colour)
    visitor.page.click("#theme")
    dark = visitor.page.evaluate(colour)
    assert dark != light
    visitor.page.reload()
    visitor.wait_for_state("Ready")
    assert visitor.page.evaluate(colour) == dark
