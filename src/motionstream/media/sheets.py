"""Draws tracks on frames, and frames side by side: what people look at to judge a video."""

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from motionstream.media.pictures import check_frames


def draw_tracks(
    frames: np.ndarray, positions: np.ndarray, visible: np.ndarray, *, scale: int = 1, trail: int = 12
) -> np.ndarray:
    """Draw tracks: a dot at each visible point and a line along its path in the last `trail` frames.

    `frames`: uint8 (T, H, W, 3). `positions`: (T, N, 2) in their pixels. `visible`: bool (T, N). The result is `scale`
    times as large, for legibility: uint8 (T, H scale, W scale, 3). Lines are interrupted where a point is hidden.
    """
    check_frames(frames)
    length, count = visible.shape
    if length != len(frames) or positions.shape != (length, count, 2) or scale < 1:
        sizes = f"positions {positions.shape}, visible {visible.shape}, scale {scale}"
        raise ValueError(f"cannot draw {sizes} on {len(frames)} frames: give (T, N, 2), (T, N) and 1 or more")
    # Hues at steps of the golden ratio, so that consecutive points differ strongly, however many there are.
    colours = [[255 * c for c in colorsys.hsv_to_rgb(i * 0.618034 % 1, 0.85, 1)] for i in range(count)]
    places = np.clip((np.nan_to_num(positions) + 0.5) * scale - 0.5, -1e5, 1e5)
    fixed = np.round(places * 16).astype(int).tolist()  # OpenCV's sub-pixel form: 4 fractional bits
    thin, radius = max(1, scale // 2), round(16 * max(1.5, 1.25 * scale))
    drawn = np.repeat(np.repeat(frames, scale, axis=1), scale, axis=2)
    for now, canvas in enumerate(drawn):
        for then in range(max(1, now - trail + 1), now + 1):
            for i in np.flatnonzero(visible[then] & visible[then - 1]):
                cv2.line(canvas, fixed[then - 1][i], fixed[then][i], colours[i], thin, cv2.LINE_AA, 4)
        for i in np.flatnonzero(visible[now]):
            cv2.circle(canvas, fixed[now][i], radius + 16, (0, 0, 0), -1, cv2.LINE_AA, 4)  # an outline
            cv2.circle(canvas, fixed[now][i], radius, colours[i], -1, cv2.LINE_AA, 4)
    return drawn


def contact_sheet(frames: np.ndarray, columns: int, *, times: Sequence[float] | None = None) -> np.ndarray:
    """Arrange frames uint8 (T, H, W, 3) row by row in one picture, labelled with their `times` (T seconds)."""
    check_frames(frames)
    if columns < 1 or (times is not None and len(times) != len(frames)):
        raise ValueError(f"columns = {columns}, times = {times}: from 1, and one for each frame")
    gap, columns, (height, width) = 2, min(columns, len(frames)), frames.shape[1:3]
    rows = -(-len(frames) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(max(9, height // 12))
    for number, frame in enumerate(frames):
        x, y = (number % columns) * (width + gap), (number // columns) * (height + gap)
        sheet.paste(Image.fromarray(frame), (x, y))
        if times is not None:
            label = f"{times[number]:.2f} s"
            pen.text((x + 3, y + 1), label, "white", font, stroke_width=1, stroke_fill="black")
    return np.array(sheet)
