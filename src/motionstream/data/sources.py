"""Sources of training videos: an OpenVid-style table, a folder, or a text-to-video pipeline (paper, appendix D).

Listing a source does not open videos. Problems of a single video appear when it is read, and only that video is
skipped; problems of the source raise ValueError here.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from motionstream.data.json_files import first_difference, read_json, write_text
from motionstream.media.videos import write_video

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".gif", ".ts")
FRAME_COLUMNS = ("frame", "frames", "num_frames")
"""Names of the column with the number of frames; in OpenVid-1M it is ``frame``."""
WIDESCREEN = 16 / 9


@dataclass(frozen=True)
class SourceVideo:
    """A video and what is known about it before it is opened. ``name``: its path within the source."""

    path: Path
    name: str
    caption: str
    columns: dict[str, str] = field(default_factory=dict)
    """Further columns of the table."""


@dataclass(frozen=True)
class Filters:
    """Criteria for keeping videos; others are skipped with a reason."""

    min_frames: int = 0
    """Minimum number of frames according to the table, if it has such a column. (Every video must also fill a clip.)"""
    min_fps: float = 0.0
    """Minimum frame rate. Videos with a lower rate than the model's get repeated frames; this can exclude them."""
    aspect: float | None = None
    """Width / height of the upright video; None accepts every shape, cropped to the centre."""
    aspect_tolerance: float = 0.02
    """Relative: 0.02 around 16:9 accepts 1.742 to 1.813."""
    at_least: tuple[tuple[str, float], ...] = ()
    """Columns of the table with minimum values, such as ("aesthetic score", 5.0)."""
    require_caption: bool = False

    def __post_init__(self) -> None:
        if self.min_frames < 0 or not 0 <= self.min_fps < math.inf:
            raise ValueError(f"min_frames = {self.min_frames}, min_fps = {self.min_fps}: give 0 or more")
        if self.aspect is not None and not 0 < self.aspect < math.inf:
            raise ValueError(f"aspect = {self.aspect}: give width / height, above 0")
        if not 0 <= self.aspect_tolerance < 1:
            raise ValueError(f"aspect_tolerance = {self.aspect_tolerance}: give 0 to below 1")

    def refuse(self, video: SourceVideo) -> str | None:
        """The reason for skipping a video, judged without opening it; None keeps it."""
        if self.require_caption and not video.caption.strip():
            return "it has no caption"
        counted = next((name for name in FRAME_COLUMNS if name in video.columns), None)
        minima = [*self.at_least, *([(counted, float(self.min_frames))] if counted and self.min_frames else [])]
        for column, least in minima:
            try:
                value = float(video.columns.get(column, ""))
            except ValueError:
                return f"{column} is {video.columns.get(column, '')!r}, not a number"
            if not value >= least:  # NaN is refused
                return f"{column} is {value:g}, at least {least:g} is asked for"
        return None

    def refuse_shape(self, height: int, width: int, fps: float) -> str | None:
        """The reason for skipping a video of this upright size and frame rate; None keeps it."""
        if self.aspect is not None and abs(width / height / self.aspect - 1) > self.aspect_tolerance:
            return f"{width}x{height} is {width / height:.3f} wide, {self.aspect:.3f} is asked for"
        if fps < self.min_fps:
            return f"it has {fps:g} fps, at least {self.min_fps:g} is asked for"
        return None


def videos_of_table(table: Path, folder: Path, needs: Sequence[str] = ()) -> list[SourceVideo]:
    """The videos listed in a CSV file with the columns ``video`` (a path within ``folder``) and ``caption``.

    ``needs``: further required columns. Raises ValueError naming a missing file or column.
    """
    _check_folder(folder)
    csv.field_size_limit(2**24)
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or []
            for column in ("video", "caption", *needs):
                if column not in columns:
                    raise ValueError(f"{table} has no column {column!r}; it has {', '.join(columns) or 'none'}")
            videos = [_of_row(folder, row) for row in rows if row["video"]]
    except OSError as error:
        raise ValueError(f"cannot read {table}: {error.strerror}; check its name") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read {table}: it is no CSV file in UTF-8 ({error})") from error
    if not videos:
        raise ValueError(f"{table} lists no videos; it needs a row for each")
    return videos


def _of_row(folder: Path, row: dict[str, Any]) -> SourceVideo:
    # DictReader fills short rows with None, and puts surplus values of long rows under the key None
    values = {name: value or "" for name, value in row.items() if name is not None}
    name = values.pop("video")
    return SourceVideo(folder / name, name, values.pop("caption").strip(), values)


def videos_of_folder(folder: Path) -> list[SourceVideo]:
    """All videos in a folder and its subfolders, sorted by name; captions are .txt files of the same name, if any."""
    _check_folder(folder)
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not found:
        raise ValueError(f"{folder} holds no videos; it needs {', '.join(VIDEO_SUFFIXES)} files")
    return [SourceVideo(path, str(path.relative_to(folder)), _caption_beside(path)) for path in found]


def _caption_beside(video: Path) -> str:
    path = video.with_suffix(".txt")
    return path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"cannot read {folder}: there is no such folder; name the folder of the videos")


def fingerprint(videos: Sequence[SourceVideo]) -> dict[str, Any]:
    """Number of videos and a hash of their names and captions, which identify a source."""
    digest = hashlib.sha256()
    for video in videos:
        digest.update(json.dumps([video.name, video.caption]).encode())
    return {"videos": len(videos), "sha256": digest.hexdigest()}


def read_prompts(path: Path) -> list[str]:
    """Read a file with one prompt per line, ignoring empty lines. Raises ValueError if there is none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read {path}: give a text file with one prompt a line ({error})") from error
    prompts = [line for line in lines if line]
    if not prompts:
        raise ValueError(f"{path} holds no prompts; give one a line")
    return prompts


class TextToVideo(Protocol):
    """Generates a video uint8 (T, H, W, 3) from a prompt, reproducibly for a seed."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings, besides prompt and seed, that affect the videos, as JSON values."""
        ...

    def __call__(self, prompt: str, seed: int) -> np.ndarray: ...


@dataclass(frozen=True)
class WanTextToVideo:
    """diffusers' ``WanPipeline`` as ``TextToVideo``; the paper's synthetic videos are from Wan 2.1 14B (appendix D)."""

    pipeline: Any
    size: tuple[int, int]
    frames: int
    steps: int = 50
    guidance: float = 5.0
    negative_prompt: str = ""
    name: str = ""

    @classmethod
    def from_folder(cls, folder: Path, device: str, **settings: Any) -> WanTextToVideo:
        """Load the pipeline in bfloat16 from a local folder in diffusers' format. Nothing is downloaded."""
        import torch
        from diffusers import WanPipeline

        try:
            with warnings.catch_warnings():
                # deprecated in favour of dtype in newer versions, but the only name in older ones
                warnings.filterwarnings("ignore", "`torch_dtype`", FutureWarning)
                pipeline = WanPipeline.from_pretrained(str(folder), torch_dtype=torch.bfloat16, local_files_only=True)
        except (OSError, ValueError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ValueError(
                f"{folder} is no folder of a WanPipeline ({reason}); download one of diffusers'"
            ) from error
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline.to(device), name=folder.name, **settings)

    @property
    def settings(self) -> dict[str, Any]:
        """See TextToVideo."""
        values = {name: value for name, value in vars(self).items() if name != "pipeline"}
        return values | {"size": list(self.size)}

    def __call__(self, prompt: str, seed: int) -> np.ndarray:
        """See TextToVideo."""
        import torch

        made = self.pipeline(
            prompt=prompt,
            negative_prompt=self.negative_prompt,
            height=self.size[0],
            width=self.size[1],
            num_frames=self.frames,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).frames[0]
        assert made.ndim == 4 and made.shape[-1] == 3, f"a video is T H W 3, not {made.shape}"
        return (np.clip(made, 0, 1) * 255).round().astype(np.uint8)

    def release(self) -> None:
        """Free the pipeline's GPU memory."""
        import torch

        self.pipeline.to("cpu")
        torch.cuda.empty_cache()


def generate_videos(
    prompts: Sequence[str],
    folder: Path,
    make: TextToVideo,
    fps: float,
    *,
    seed: int = 0,
    say: Callable[[int], object] = lambda done: None,
) -> list[SourceVideo]:
    """Generate a video with a caption file for every prompt, keeping existing ones, and list them.

    Prompt i uses the seed ``seed + i``. Raises ValueError if the folder was made with other settings or prompts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_settings(folder / "generation.json", json.loads(json.dumps({"seed": seed, "fps": fps, **make.settings})))
    videos = []
    for index, prompt in enumerate(prompts):
        path = folder / f"{index:06d}.mp4"
        caption = path.with_suffix(".txt")
        if path.exists():
            if _caption_beside(path) != prompt:
                raise ValueError(f"{path} was made of another prompt; name another folder for these")
        else:
            frames = make(prompt, seed + index)
            # the caption first, so that every video has one
            write_text(caption, prompt + "\n")
            write_video(path, frames, fps, crf=10)
        videos.append(SourceVideo(path, path.name, prompt))
        say(index + 1)
    return videos


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    if not path.exists():
        write_text(path, json.dumps(settings, indent=2) + "\n")
        return
    before = read_json(path)
    difference = first_difference(before, settings)
    if difference:
        raise ValueError(f"{path.parent} was generated with {difference}; use the same, or another folder")
