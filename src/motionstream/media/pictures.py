"""Reads pictures safely, upright and in sRGB, writes them, and fits them to a size.

Pictures are uint8 `H W 3`, RGB; `size` is (height, width). Points are (x, y) in pixels with (0, 0) the centre of the
top-left pixel.
"""

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from motionstream.media.files import atomic_path, check_input

MAX_PIXELS = 50_000_000  # per picture or frame
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def check_frames(frames: np.ndarray) -> None:
    """Raise ValueError unless they are uint8 (T, H, W, 3) and not empty."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(f"pictures must be uint8 (..., height, width, 3), not {frames.dtype} {frames.shape}")


def by(size: tuple[int, ...]) -> str:
    """A size (height, width, …) as people write it: "640x480"."""
    return f"{size[1]}x{size[0]}"


def read_picture(path: str | Path) -> np.ndarray:
    """Read a JPEG, PNG, WebP, BMP, TIFF or GIF (first frame) as uint8 (H, W, 3) RGB.

    Converted as by ``rgb_of``: upright, in sRGB, transparency on white. Raises ValueError naming the path and the
    remedy if the file is missing, no picture, damaged, or has more than MAX_PIXELS pixels (checked in its header,
    before decoding).
    """
    check_input(path)
    try:
        with warnings.catch_warnings():
            # Pillow only warns up to twice its own limit; ours is lower, and is an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=PICTURE_FORMATS)
    except Image.DecompressionBombError as error:
        raise too_large(path, "".join(re.findall(r"\((\d+ pixels)\)", str(error)))) from error
    except Exception as error:  # a damaged header makes Pillow's plugins raise almost anything
        known = ", ".join(PICTURE_FORMATS)
        remedy = "a phone's HEIC, or AVIF; export it as JPEG" if _is_heif(path) else f"no picture; give one of {known}"
        raise ValueError(f"cannot read {path}: it is {remedy}") from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise too_large(path, f"{image.width}x{image.height} pixels")
        try:
            return rgb_of(image)
        except Exception as error:  # as above
            raise ValueError(f"cannot read {path}: the picture is damaged ({error}); save it anew") from error


def _is_heif(path: str | Path) -> bool:
    """Whether a file is HEIF or AVIF, in which phones store photographs."""
    with open(path, "rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"heif", b"mif1", b"msf1", b"avif")


def too_large(path: str | Path, pixels: str) -> ValueError:
    """The error for a file with more than ``MAX_PIXELS`` a picture or frame; ``pixels`` says how many."""
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
    check_frames(picture[None])
    with atomic_path(path, PICTURE_SUFFIXES) as temporary:
        Image.fromarray(picture).save(temporary, quality=95)


@dataclass(frozen=True)
class Fit:
    """The transformation that scales a picture of size `original` to cover `size` and crops it to the centre."""

    original: tuple[int, int]  # (height, width)
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if min(self.size) < 1 or min(self.original) < 1:
            raise ValueError(f"cannot fit {by(self.original)} to {by(self.size)}: sides start at 1 pixel")

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
        photograph = f"{by(self.original)} photograph"
        if scaled != self.original:
            photograph += f" scaled to {by(scaled)}"
        if scaled != self.size:
            return f"cropped to the middle {by(self.size)} of the {photograph}"
        return photograph if scaled != self.original else f"{photograph} used as it is"


def fit(picture: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, Fit]:
    """Scale a picture (H, W, 3) to cover `size`, antialiased, and crop it to the centre; also returns the `Fit`."""
    check_frames(picture[None])
    fitting = Fit(picture.shape[:2], size)
    if fitting.original == size:
        return picture.copy(), fitting
    height, width = fitting.original
    # Resampling directly from the exact box keeps the scale uniform, since nothing is rounded to whole pixels in
    # between. (max: Pillow refuses a box that a rounding error puts outside of the picture.)
    left, top = (max(side / fitting.scale, 0.0) for side in fitting.crop)
    box = (left, top, width - left, height - top)
    return np.array(Image.fromarray(picture).resize(size[::-1], Image.Resampling.LANCZOS, box)), fitting
