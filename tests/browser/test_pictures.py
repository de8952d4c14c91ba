"""Pictures from everywhere a visitor has them; and what is said about files that are none."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image


def drawn() -> Image.Image:
    """Red above blue."""
    pixels = np.zeros((200, 200, 3), np.uint8)
    pixels[:100, :, 0] = pixels[100:, :, 2] = 220
    return Image.fromarray(pixels)


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def huge(side: int) -> bytes:
    """A picture whose header says side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    written = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def is_drawn(picture: np.ndarray) -> bool:
    top, bottom = picture[20, 64].astype(int), picture[100, 64].astype(int)
    return top[0] > 180 > 60 > top[2] and bottom[2] > 180 > 60 > bottom[0]


def test_a_file_is_opened(visitor, until) -> None:
    visitor.open_file("flag.png", png(drawn()))
    until(lambda: is_drawn(visitor.picture()), "the picture is on the stage")
    visitor.key("Enter")
    visitor.wait_for_frame(3)
    assert is_drawn(visitor.picture()), "and streams"


def test_what_is_sent_is_said_and_what_is_cropped(visitor, until) -> None:
    before = visitor.page.inner_text("#fitted")
    visitor.page.evaluate(
        "() => { window.notes = []; const note = document.getElementById('fitted');"
        " new MutationObserver(() => notes.push(note.textContent)).observe(note, { childList: true }); }"
    )
    visitor.open_file("notes.txt", b"this is no picture")
    visitor.message()
    assert visitor.page.evaluate("notes") == ["Sending…", before]
    visitor.open_file("a flag that hangs from a wall.png", png(drawn().resize((200, 400))))
    visitor.wait("document.getElementById('fitted').textContent.includes('flag')")
    said = (
        "Cropped to the middle 128x128 of the 200x400 photograph scaled to 128x256. a flag that hangs from a wall.png"
    )
    assert visitor.page.inner_text("#fitted") == said
    assert visitor.page.evaluate("(note => note.scrollWidth <= note.clientWidth)(document.getElementById('fitted'))")
    visitor.problems.clear()  # the browser notes the refused request, which was the point


@pytest.mark.parametrize("how", ["paste", "drop"])
def test_a_picture_is_pasted_or_dropped(visitor, until, how: str) -> None:
    visitor.page.evaluate(
        """([how, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], "flag.png", { type: "image/png" }));
            const init = { bubbles: true, cancelable: true };
            document.dispatchEvent(how === "drop"
                ? new DragEvent("drop", { ...init, dataTransfer: data })
                : new ClipboardEvent("paste", { ...init, clipboardData: data }));
        }""",
        [how, list(png(drawn()))],
    )
    until(lambda: is_drawn(visitor.picture()), "the picture is on the stage")


def test_the_camera_takes_one(visitor, until) -> None:
    visitor.page.click("#photograph")
    visitor.wait("document.getElementById('camera-view').videoWidth > 0")
    visitor.page.click("#camera-take")
    yellow = (250, 220, 40)  # the disc before the fake camera
    until(
        lambda: (np.abs(visitor.picture().astype(int) - yellow).max(-1) < 60).sum() > 100,
        "what the camera sees is on the stage",
    )
    assert visitor.page.evaluate("document.getElementById('camera-view').srcObject") is None, "the camera is off"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("notes.txt", b"this is no picture"),
        ("half.png", png(drawn())[:200]),
        ("empty.png", b""),
        ("huge.png", huge(20_000)),
    ],
)
def test_a_file_that_is_no_picture_is_told_and_the_stream_goes_on(visitor, name: str, content: bytes) -> None:
    visitor.key("Enter")
    visitor.wait_for_frame(1)
    visitor.open_file(name, content)
    message = visitor.message()
    assert len(message) > 20 and message.endswith(".") and "/" not in message, message
    visitor.snap("error")
    visitor.wait_for_frame(visitor.frame + 12)
    visitor.problems.clear()  # the browser notes the refused request, which was the point


def test_a_reload_loses_nothing_that_was_prepared(visitor, until) -> None:
    visitor.open_file("flag.png", png(drawn()))
    until(lambda: is_drawn(visitor.picture()), "the picture is on the stage")
    visitor.page.fill("#prompt", "a flag")
    visitor.page.fill("#seed", "12")
    visitor.tool("pin")
    visitor.click(30, 30)
    visitor.click(90, 90)
    visitor.page.reload()
    visitor.wait_for_state("Ready")
    until(lambda: is_drawn(visitor.picture()), "it is on the stage again")
    visitor.wait("document.querySelector('#gallery [aria-selected=true]')?.title === 'flag.png'")
    assert [visitor.page.input_value(field) for field in ("#prompt", "#seed")] == ["a flag", "12"]
    assert visitor.has_dot("pin", 30, 30) and visitor.has_dot("pin", 90, 90)
    visitor.key("Control+z")
    assert not visitor.has_dot("pin", 90, 90), "what was done can still be undone"
    visitor.key("Enter")
    visitor.wait_for_frame(3)
    visitor.page.reload()
    visitor.wait_for_state("Streaming")
    visitor.wait("document.querySelector('#gallery [aria-selected=true]')?.title === 'flag.png'")
    assert [visitor.page.input_value(field) for field in ("#prompt", "#seed")] == ["a flag", "12"]
    visitor.key("Enter")
    visitor.wait_for_state("Ready")
    assert len(visitor.dots("pin")) == 13, "the pin has the size it had"
