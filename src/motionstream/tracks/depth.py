"""Depth maps of pictures: from a file, from a local model, or a generic prior.

A depth map is float32 (height, width): the distance along the viewing axis, in any unit, positive everywhere.
`from_inverse` converts relative inverse depth (bright is near), which most networks return.
"""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from motionstream.media.pictures import Fit
from motionstream.tracks.tracks import check_size

MAX_PIXELS = 50_000_000
SUFFIXES = (".png", ".npy")
FAR = 6.0
"""Ratio of the farthest to the nearest depth assumed for relative inverse depth, which leaves it undetermined."""

METRIC_MODELS = ("zoedepth", "depth_pro", "glpn", "prompt_depth_anything")


def plain_prior(size: tuple[int, int]) -> np.ndarray:
    """A generic prior, independent of the picture: ground that comes nearer towards the bottom, and a subject in the
    middle, nearest of all.

    It is smooth, so content bends like a relief and nothing tears. From 1 in the middle to about 1.8 at the top.
    """
    height, width = check_size(size)
    y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
    bump = np.exp(-((x - 0.5) ** 2 + (y - 0.55) ** 2) / (2 * 0.25**2))
    near = 0.6 + 0.25 * y + 0.35 * bump
    return (near[height // 2, width // 2] / near).astype(np.float32)


def from_inverse(inverse: np.ndarray, far: float = FAR) -> np.ndarray:
    """Relative inverse depth (H, W), larger is nearer, scale and shift unknown -> a depth map from 1 to `far`."""
    inverse = np.asarray(inverse, np.float64)
    known = np.isfinite(inverse)
    if inverse.ndim != 2 or not known.any():
        raise ValueError(f"inverse depth of shape {inverse.shape} with no finite value; give (height, width)")
    low, high = inverse[known].min(), inverse[known].max()
    nearness = (inverse - low) / (high - low) if high > low else np.ones_like(inverse)
    return check_depth(1 / (1 / far + (1 - 1 / far) * nearness))


def check_depth(depth: np.ndarray) -> np.ndarray:
    """A depth map as float32 without gaps: values that are not positive or NaN become the nearest known depth, infinity
    becomes ten times the largest one.

    Raises ValueError for another shape, no known depth at all, or more than MAX_PIXELS.
    """
    depth = np.asarray(depth)
    if depth.ndim != 2 or 0 in depth.shape or depth.dtype.kind not in "fiu":
        raise ValueError(f"depth is {depth.dtype} {depth.shape}; give numbers (height, width)")
    if depth.size > MAX_PIXELS:
        raise ValueError(f"depth of {depth.shape[1]}x{depth.shape[0]} pixels, more than {MAX_PIXELS:,}; scale it down")
    depth = depth.astype(np.float64)
    endless = np.isposinf(depth)
    known = np.isfinite(depth) & (depth > 0)
    if not known.any():
        raise ValueError("depth has no positive value; 0 stands for unknown")
    depth[endless] = 10 * depth[known].max()
    known |= endless
    if not known.all():
        depth = depth[_nearest(known)]
    return depth.astype(np.float32)


def _nearest(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns (H, W) of the known pixel nearest to each pixel."""
    import cv2

    _, labels = cv2.distanceTransformWithLabels(
        (~known).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    rows, columns = np.nonzero(known)
    place = np.zeros(int(labels.max()) + 1, int)
    place[labels[known]] = np.arange(len(rows))
    return rows[place[labels]], columns[place[labels]]


def read_depth(path: str | os.PathLike[str], *, inverse: bool = False) -> np.ndarray:
    """A depth map from a .npy file or a 16-bit grey PNG (0: unknown). `inverse`: it holds inverse depth, see above.

    Raises ValueError naming the file for anything that is no depth map; nothing is unpickled.
    """
    path = Path(path)
    try:
        # Memory-mapped, so that a header with a huge shape allocates nothing.
        values = np.load(path, "r", allow_pickle=False) if path.suffix.lower() == ".npy" else _read_png(path)
    except OSError as error:
        reason = error.strerror or "it is no picture or damaged"
        raise ValueError(f"cannot read the depth map {path}: {reason}; give a .npy or a 16-bit PNG") from error
    except ValueError as error:
        raise ValueError(f"cannot read the depth map {path}: {error}; give a .npy or a 16-bit PNG") from error
    if not isinstance(values, np.ndarray):
        values.close()
        raise ValueError(f"cannot read the depth map {path}: it holds several arrays; give one, (height, width)")
    if values.size > MAX_PIXELS:
        raise ValueError(f"{path} has {values.size} pixels, more than {MAX_PIXELS:,}; scale it down")
    values = np.array(values)
    try:
        return from_inverse(values) if inverse else check_depth(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_png(path: Path) -> np.ndarray:
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"unknown suffix {path.suffix!r}")
    try:
        with warnings.catch_warnings():
            # Pillow only warns up to twice its own limit; ours is lower, and is an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path, formats=("PNG",))
    except Image.DecompressionBombError as error:
        raise ValueError(f"more than {MAX_PIXELS:,} pixels; scale it down") from error
    with image:
        if not image.mode.startswith("I"):
            raise ValueError(f"it is a PNG of mode {image.mode}, not 16-bit grey")
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are more than {MAX_PIXELS:,}; scale it down")
        try:
            return np.asarray(image).astype(np.float64)
        except Exception as error:  # damage makes Pillow's plugins raise almost anything
            raise ValueError(f"it is damaged ({error})") from error


class DepthModel:
    """A depth-estimation model of transformers (Depth Anything, DPT, ZoeDepth, ...) in a local folder. Never downloads.

    Relative models return inverse depth, metric ones (METRIC_MODELS, and Depth Anything if its config says so) depth.
    Raises ValueError where transformers is missing or the folder holds no such model.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        try:
            from transformers import AutoImageProcessor, AutoModelForDepthEstimation
        except ImportError as error:
            raise ValueError("a depth model needs transformers: pip install -e '.[wan]'") from error
        if not Path(folder).is_dir():
            raise ValueError(f"there is no folder {folder} with a depth model; download one first, or leave it out")
        try:
            self._processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
            self._model = AutoModelForDepthEstimation.from_pretrained(folder, local_files_only=True).eval()
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder} holds no depth-estimation model of transformers: {error}") from error

    def __call__(self, picture: np.ndarray) -> np.ndarray:
        """The depth map of a picture uint8 (H, W, 3), float32 (H, W)."""
        import torch

        inputs = self._processor(images=Image.fromarray(picture), return_tensors="pt")
        with torch.no_grad():
            answer = self._model(**inputs)
        (found,) = self._processor.post_process_depth_estimation(answer, target_sizes=[picture.shape[:2]])
        values = found["predicted_depth"].float().cpu().numpy()
        config = self._model.config
        kind = getattr(config, "depth_estimation_type", None)
        metric = kind == "metric" or config.model_type in METRIC_MODELS
        return check_depth(values) if metric else from_inverse(values)


def fit_depth(depth: np.ndarray, fitting: Fit) -> np.ndarray:
    """Crop and scale a photograph's depth map, of any resolution but its aspect ratio, as the photograph was.

    Nearest-neighbour sampling: interpolation would invent depths between a thing and its background.
    """
    (rows, columns), (height, width) = depth.shape, fitting.original
    if not 0.98 < rows * width / (columns * height) < 1.02:
        raise ValueError(
            f"a depth map of {columns}x{rows} for a photograph of {width}x{height}; give one of the same shape"
        )
    x, y = (np.arange(side) for side in fitting.size[::-1])
    places = fitting.to_original(np.stack(np.meshgrid(x, y), axis=-1).astype(float))
    scaled = (places + 0.5) * (columns / width, rows / height)
    column = np.clip(np.floor(scaled[..., 0]).astype(int), 0, columns - 1)
    row = np.clip(np.floor(scaled[..., 1]).astype(int), 0, rows - 1)
    return np.asarray(depth[row, column], np.float32)


def align_scale(depth: np.ndarray, points: np.ndarray, known: np.ndarray) -> float:
    """The factor that scales a depth map to a reconstruction (paper, section 4.2: predicted depth to COLMAP's point
    cloud): the median of known over predicted depth, robust to wrong points.

    depth: (H, W). points: (N, 2), pixels (x, y) of points with ``known`` depth (N,); those outside the picture or
    without a positive depth are ignored. Raises ValueError if none is left.
    """
    column, row = np.floor(np.asarray(points) + 0.5).astype(int).T
    known = np.asarray(known, float)
    kept = (row >= 0) & (row < depth.shape[0]) & (column >= 0) & (column < depth.shape[1])
    kept &= np.isfinite(known) & (known > 0)
    if not kept.any():
        raise ValueError(f"none of {len(known)} points of known depth lies in the picture; give at least one")
    return float(np.median(known[kept] / depth[row[kept], column[kept]]))
