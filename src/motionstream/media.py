"""Reads pictures and videos safely, writes them atomically, and draws overlays and contact sheets.

Axes: pictures are uint8 `H W 3`, videos uint8 `T H W 3`, both RGB; `size` is (height, width). Points are
(x, y) in pixels with (0, 0) the centre of the top-left pixel.
"""

import colorsys
import io
import os
import re
import secrets
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps

from motionstream.yuv import mark_bt709, to_rgb, to_yuv

MAX_PIXELS = 50_000_000  # per picture or frame
MAX_FRAMES = 10_000  # per video read at once
MAX_VIDEO_PIXELS = 1_000_000_000  # per video read at once: 3 GB of memory

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
VIDEO_SUFFIXES = (".mp4",)
# Only self-contained formats: a playlist could name other files or addresses.
VIDEO_CONTAINERS = "mov,mp4,matroska,webm,avi,gif,mpegts"

Timed = Iterator[tuple[float, np.ndarray]]  # frames with their times in seconds


def check_output(path: str | Path, suffixes: Sequence[str] = ()) -> Path:
    """Refuse a file that cannot be written, before anything is computed for it.

    Returns the path with links resolved. Raises ValueError naming the path and the remedy.
    """
    if suffixes and Path(path).suffix.lower() not in suffixes:
        raise ValueError(f"cannot write {path}: unknown suffix; end the name in {' or '.join(suffixes)}")
    try:
        target = Path(path).resolve()
        if target.is_dir():
            raise ValueError(f"cannot write {path}: it is a folder; name a file inside it")
        if not target.parent.is_dir():
            raise ValueError(f"cannot write {path}: there is no folder {target.parent}; create it first")
        if target.exists() and not (target.is_file() and os.access(target, os.W_OK)):
            raise ValueError(f"cannot write {path}: it is write-protected or no file; choose another name")
        # Only trying reveals missing permissions, read-only disks and too long names.
        probe = _temporary(target)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; choose another place") from error
    return target


def _temporary(target: Path) -> Path:
    # In the same folder, so that the rename is atomic; the suffix at the end, since writers choose formats by it.
    return target.with_name(f".{target.stem[:32]}.{secrets.token_hex(4)}.tmp{target.suffix}")


@contextmanager
def atomic_path(path: str | Path, suffixes: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` if the body succeeds.

    If the body raises, the temporary file is removed and an older file at `path` is kept. Raises ValueError before the
    body runs if `path` cannot be written or has none of the `suffixes` (if any are given).
    """
    target = check_output(path, suffixes)
    temporary = _temporary(target)
    try:
        yield temporary
        assert temporary.is_file(), f"nothing was written to {temporary}"
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _check_input(path: str | Path) -> None:
    try:
        if not Path(path).is_file():
            raise ValueError(f"cannot read {path}: there is no such file; check the name")
        Path(path).open("rb").close()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; check its name and permissions") from error


def _check_frames(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(f"pictures must be uint8 (..., height, width, 3), not {frames.dtype} {frames.shape}")


def _by(size: tuple[int, ...]) -> str:
    return f"{size[1]}x{size[0]}"


def read_picture(path: str | Path) -> np.ndarray:
    """Read a JPEG, PNG, WebP, BMP, TIFF or GIF (first frame) as uint8 (H, W, 3) RGB.

    Converted as by ``rgb_of``: upright, in sRGB, transparency on white. Raises ValueError naming the path and the
    remedy if the file is missing, no picture, damaged, or has more than MAX_PIXELS pixels (checked in its header,
    before decoding).
    """
    _check_input(path)
    try:
        with warnings.catch_warnings():
            # Pillow only warns up to twice its own limit; ours is lower, and is an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=PICTURE_FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(path, "".join(re.findall(r"\((\d+ pixels)\)", str(error)))) from error
    except Exception as error:  # a damaged header makes Pillow's plugins raise almost anything
        known = ", ".join(PICTURE_FORMATS)
        remedy = "a phone's HEIC, or AVIF; export it as JPEG" if _is_heif(path) else f"no picture; give one of {known}"
        raise ValueError(f"cannot read {path}: it is {remedy}") from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large(path, f"{image.width}x{image.height} pixels")
        try:
            return rgb_of(image)
        except Exception as error:  # as above
            raise ValueError(f"cannot read {path}: the picture is damaged ({error}); save it anew") from error


def _is_heif(path: str | Path) -> bool:
    """Whether a file is HEIF or AVIF, in which phones store photographs."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heif", b"mif1", b"msf1", b"avif")


def _too_large(path: str | Path, pixels: str) -> ValueError:
    return ValueError(f"cannot read {path}: {pixels}, more than {MAX_PIXELS:,}; scale it down first")


def has_transparency(path: str | Path) -> bool:
    """Whether a picture file has transparent pixels."""
    with Image.open(path, formats=PICTURE_FORMATS) as image:
        return image.has_transparency_data and int(np.asarray(image.convert("RGBA"))[..., 3].min()) < 255


def rgb_of(image: Image.Image) -> np.ndarray:
    """A Pillow image as uint8 (H, W, 3): EXIF rotation applied, an embedded colour profile converted to sRGB,
    transparency composed onto white, 16-bit grey reduced to 8 bits."""
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("floating-point pixels are not supported")
    if image.mode.startswith("I"):  # 16 bits per pixel, which Pillow's own conversion would clip at 255
        grey = np.clip(np.asarray(image) / 257 + 0.5, 0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    image = _in_srgb(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.array(image.convert("RGB"))


def _in_srgb(image: Image.Image) -> Image.Image:
    """Convert from an embedded colour profile (phones and cameras use wide gamuts) to sRGB; an unreadable profile is
    ignored."""
    stored = image.info.get("icc_profile")
    if not stored:
        return image
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(stored))
        if "srgb" in ImageCms.getProfileDescription(profile).lower():
            return image
        kind = "RGBA" if image.has_transparency_data else "RGB"
        if image.mode in ("P", "PA", "LA", "1"):
            image = image.convert(kind)
        converted = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=kind)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image
    assert converted is not None  # None only for in-place conversion
    return converted


def write_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write uint8 (H, W, 3) as PNG, JPEG or WebP by the suffix, whole or not at all, or raise ValueError."""
    _check_frames(picture[None])
    with atomic_path(path, PICTURE_SUFFIXES) as temporary:
        Image.fromarray(picture).save(temporary, quality=95)


@dataclass(frozen=True)
class Fit:
    """The transformation that scales a picture of size `original` to cover `size` and crops it to the centre."""

    original: tuple[int, int]  # (height, width)
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if min(self.size) < 1 or min(self.original) < 1:
            raise ValueError(f"cannot fit {_by(self.original)} to {_by(self.size)}: sides start at 1 pixel")

    @property
    def scale(self) -> float:
        """Fitted pixels per original pixel, the same for both axes."""
        return max(self.size[0] / self.original[0], self.size[1] / self.original[1])

    @property
    def crop(self) -> tuple[float, float]:
        """Fitted pixels cropped at (the left, the top)."""
        (height, width), scale = self.original, self.scale
        return (width * scale - self.size[1]) / 2, (height * scale - self.size[0]) / 2

    def to_fitted(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., 2) of the original to the fitted picture; cropped ones are outside of it."""
        return (points + 0.5) * self.scale - np.asarray(self.crop) - 0.5

    def to_original(self, points: np.ndarray) -> np.ndarray:
        """Map points (..., 2) of the fitted picture back to the original."""
        return (points + 0.5 + np.asarray(self.crop)) / self.scale - 0.5

    def describe(self) -> str:
        """A phrase for users; sizes are width x height."""
        scaled = (round(self.original[0] * self.scale), round(self.original[1] * self.scale))
        photograph = f"{_by(self.original)} photograph"
        if scaled != self.original:
            photograph += f" scaled to {_by(scaled)}"
        if scaled != self.size:
            return f"cropped to the middle {_by(self.size)} of the {photograph}"
        return photograph if scaled != self.original else f"{photograph} used as it is"


def fit(picture: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, Fit]:
    """Scale a picture (H, W, 3) to cover `size`, antialiased, and crop it to the centre; also returns the `Fit`."""
    _check_frames(picture[None])
    fitting = Fit(picture.shape[:2], size)
    if fitting.original == size:
        return picture.copy(), fitting
    height, width = fitting.original
    # Resampling directly from the exact box keeps the scale uniform, since nothing is rounded to whole pixels in
    # between. (max: Pillow refuses a box that a rounding error puts outside of the picture.)
    left, top = (max(side / fitting.scale, 0.0) for side in fitting.crop)
    box = (left, top, width - left, height - top)
    return np.array(Image.fromarray(picture).resize(size[::-1], Image.Resampling.LANCZOS, box)), fitting


class VideoWriter:
    """Write H.264 (yuv420p, BT.709) in a fragmented MP4, as a context manager.

        with VideoWriter("out.mp4", size=(128, 128), fps=24) as writer:
            writer.write(frames)

    The file gets its name if the body succeeds and is removed if it raises. Meanwhile the temporary file is playable up
    to the last key frame (one per second), also after the process was killed. The constructor raises ValueError for a
    path, size or rate that cannot be written, before anything is generated.
    """

    def __init__(self, path: str | Path, size: tuple[int, int], fps: float, *, crf: int = 16) -> None:
        """`size`: (height, width), both even. `crf`: from 0 (lossless) to 51 (worst); 16 looks lossless."""
        if any(side % 2 or not 2 <= side <= 8192 for side in size):
            raise ValueError(f"video of {_by(size)}: both sides must be even, 2 to 8192; scale or crop it")
        if not 0 < fps <= 1000:
            raise ValueError(f"fps = {fps}: give a rate above 0 and at most 1000")
        if not 0 <= crf <= 51:
            raise ValueError(f"crf = {crf}: choose from 0 (lossless) to 51 (worst)")
        check_output(path, VIDEO_SUFFIXES)
        self.path, self.size, self.fps, self.crf = path, (size[0], size[1]), fps, crf
        self.frames = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(self.path, VIDEO_SUFFIXES))
            options = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}
            self._container = stack.enter_context(av.open(str(temporary), "w", "mp4", options=options))
            # 1001: the denominator of the NTSC rates (24000/1001 and the like)
            rate = Fraction(self.fps).limit_denominator(1001)
            self._stream = self._container.add_stream("libx264", rate=rate)
            self._stream.height, self._stream.width = self.size
            # One key frame, hence one fragment, per second; no reordered frames, which would need edit lists.
            self._stream.options = {"crf": str(self.crf), "g": str(max(1, round(self.fps))), "bf": "0"}
            mark_bt709(self._stream.codec_context)
            self._reformatter = VideoReformatter()
            self._stack = stack.pop_all()
        return self

    def write(self, frames: np.ndarray) -> None:
        """Append frames, uint8 (T, H, W, 3) or one (H, W, 3), of the writer's size."""
        frames = frames[None] if frames.ndim == 3 else frames
        _check_frames(frames)
        if frames.shape[1:3] != self.size:
            raise ValueError(f"frames of {_by(frames.shape[1:3])} in a video of {_by(self.size)}: scale them")
        for picture in frames:
            self._container.mux(self._stream.encode(to_yuv(picture, self._reformatter)))
        self.frames += len(frames)

    def __exit__(self, *failure: Any) -> None:
        if failure[0] is not None:
            self._stack.__exit__(*failure)
            return
        with self._stack:  # an error here also removes the file
            if self.frames == 0:
                raise ValueError(f"cannot write {self.path}: a video needs at least one frame")
            self._container.mux(self._stream.encode(None))


def write_video(path: str | Path, frames: np.ndarray, fps: float, *, crf: int = 16) -> None:
    """Write uint8 (T, H, W, 3) as MP4, whole or not at all; raises ValueError as `VideoWriter` does."""
    _check_frames(frames)
    with VideoWriter(path, frames.shape[1:3], fps, crf=crf) as writer:
        writer.write(frames)


def read_video(
    path: str | Path, *, fps: float | None = None, limit: int | None = None, side: int | None = None
) -> tuple[np.ndarray, float]:
    """Read a video as (uint8 (T, H, W, 3), frames per second), upright.

    `fps`: resample by time stamps (phones vary their rate) to what a player would show; without it, frames are as
    stored, with their average rate. `limit`: most frames to read. `side`: longer side to which frames are reduced. A
    truncated file (a recording cut by a crash) gives its complete frames and a warning. Raises ValueError naming the
    path and the remedy if there is no file or no video, or if it exceeds MAX_FRAMES or MAX_VIDEO_PIXELS.
    """
    if any(each is not None and not each > 0 for each in (fps, limit, side)):
        raise ValueError(f"fps = {fps}, limit = {limit}, side = {side}: all must be above 0")
    _check_input(path)
    try:
        options = {"format_whitelist": VIDEO_CONTAINERS, "protocol_whitelist": "file"}
        with av.open(str(path), options=options) as container:
            return _read_frames(path, container, fps, limit, side)
    except av.FFmpegError as error:
        raise ValueError(f"cannot read {path}: it is no video or damaged; convert it to MP4") from error


def _read_frames(
    path: str | Path, container: InputContainer, fps: float | None, limit: int | None, side: int | None
) -> tuple[np.ndarray, float]:
    stream = container.streams.video[0] if container.streams.video else None
    native = float((stream and (stream.average_rate or stream.guessed_rate)) or 0)
    if stream is None or stream.codec_context is None or native == 0:
        # A truncated file may open but have no stream, or one without a rate or decoder.
        raise ValueError(f"cannot read {path}: it holds no video or is cut short; copy or convert it again")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MAX_PIXELS:
        raise _too_large(path, f"frames of {width * height} pixels")
    scale = min(1.0, (side or MAX_PIXELS) / max(width, height, 1))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    most = min(MAX_FRAMES, MAX_VIDEO_PIXELS // (size[0] * size[1]))
    timed = _decode(path, container, native, None if scale == 1 else size)
    frames: list[np.ndarray] = []
    for frame in (frame for _, frame in timed) if fps is None else resample(timed, fps, 1 / native):
        if len(frames) == limit:
            break
        if len(frames) == most:
            raise ValueError(f"cannot read {path}: more than {most} frames; cut it, or set a limit")
        frames.append(frame)
    if not frames:
        raise ValueError(f"cannot read {path}: no frame can be decoded; copy or convert it again")
    return np.stack(frames), fps or native


def _decode(path: str | Path, container: InputContainer, native: float, size: tuple[int, int] | None) -> Timed:
    """Frames of the first video stream, upright, in `size` (width, height), with their times in seconds."""
    reformatter = VideoReformatter()
    width, height = size or (None, None)  # by default the first frame's, for all: a stream may change its size
    try:
        for number, frame in enumerate(container.decode(video=0)):
            width, height = width or frame.width, height or frame.height
            picture = to_rgb(frame, reformatter, width, height)
            time = number / native if frame.time is None else float(frame.time)
            yield time, np.rot90(picture, round(frame.rotation / 90))  # both count counter-clockwise
    except av.FFmpegError as error:
        warnings.warn(f"{path} breaks off: {error.strerror}; read as far as it goes", stacklevel=2)


def resample(timed: Timed, fps: float, last: float) -> Iterator[np.ndarray]:
    """Frames at constant `fps`: each input frame is shown until the next one's time, the final one `last` seconds."""
    slack = min(1e-3, 0.25 / fps)  # some containers round times to milliseconds
    start, end, count = 0.0, 0.0, 0
    shown = None
    for time, frame in timed:
        start = time if shown is None else start
        while shown is not None and count / fps < time - start - slack:
            yield shown
            count += 1
        shown, end = frame, time + last
    while shown is not None and count / fps < end - start - slack:
        yield shown
        count += 1


def draw_tracks(
    frames: np.ndarray, positions: np.ndarray, visible: np.ndarray, *, scale: int = 1, trail: int = 12
) -> np.ndarray:
    """Draw tracks: a dot at each visible point and a line along its path in the last `trail` frames.

    `frames`: uint8 (T, H, W, 3). `positions`: (T, N, 2) in their pixels. `visible`: bool (T, N). The result is `scale`
    times as large, for legibility: uint8 (T, H scale, W scale, 3). Lines are interrupted where a point is hidden.
    """
    _check_frames(frames)
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
    _check_frames(frames)
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
