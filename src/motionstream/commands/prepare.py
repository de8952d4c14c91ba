"""``motionstream prepare``: videos become a data set to train on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from motionstream.commands.common import check_positive, parse_size, progress
from motionstream.component_config import Precision, TextPlacement

if TYPE_CHECKING:
    from motionstream.data.encode import PrepareSettings
    from motionstream.data.prepare import Execution
    from motionstream.data.sources import Filters, SourceVideo

MEBIBYTE = 2**20


@dataclass(frozen=True)
class PrepareCommand:
    """The options of ``motionstream prepare``."""

    HELP: ClassVar[str] = """\
Turn videos into shards to train on: latents, point tracks, text and image tokens.

Run again with the same options, it goes on where it was stopped. Videos that cannot be used are skipped; report.jsonl
says why. The format, and what every step does, is in docs/data.md.

Examples:
  motionstream prepare videos data/nano
  motionstream prepare OpenVid/video data/openvid --csv OpenVid/OpenVid-1M.csv --model wan-folder --workers 8
  motionstream prepare prompts.txt data/made --generate wan2.1-t2v-14b --videos made --model wan-folder"""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """The folder of the videos; with --generate, a text file with one prompt a line."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """The folder to write; new, empty, or one to go on with."""
    model: str = "nano"
    """For whom: an embedded model's name or a model's folder. Its autoencoder and encoders are used."""
    untrained: bool = False
    """Take a preset's random parts where it has no weights: for tests alone."""
    csv: Annotated[Path | None, tyro.conf.arg(metavar="FILE.csv")] = None
    """A table with the columns video (a path inside SOURCE) and caption, as OpenVid-1M's; without it, every video in
    SOURCE, with the text of a .txt file of the same name as caption."""
    generate: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Make the videos first, with diffusers' WanPipeline from this folder."""
    videos: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Where --generate writes the videos; without it, DST-videos."""
    steps: int = 50
    """Steps of --generate."""
    guidance: float = 5.0
    """Text guidance of --generate."""
    seed: int = 0
    """Of --generate: prompt i is made with seed + i."""

    size: Annotated[str | None, tyro.conf.arg(metavar="WxH")] = None
    """Of the clips, such as 832x480; without it the model's own. Videos are scaled and cropped to it."""
    clips_per_video: int = 1
    """Cut at most so many clips from a video, one after the other."""
    tracker: Literal["lucas-kanade", "template", "cotracker", "cotracker-online"] = "lucas-kanade"
    """Optical flow; template matching, slower, for small rendered video; or CoTracker3 from files of yours, which sees
    a clip at once (cotracker) or in windows, in less memory (cotracker-online)."""
    cotracker: Annotated[tuple[Path, Path] | None, tyro.conf.arg(metavar="REPOSITORY CHECKPOINT")] = None
    """Where CoTracker's code and weights are; without it where torch.hub keeps them."""
    grid: int = 50
    """Tracked points a side; 50, as in the paper, makes 2500 tracks."""

    captions: Literal["required", "optional"] | None = None
    """Whether a video without caption is skipped; without it, with --csv alone."""
    aspect: Annotated[str | None, tyro.conf.arg(metavar="W:H")] = None
    """Skip videos of another shape; "any" takes all. Without it 16:9 with --csv, else any."""
    aspect_tolerance: float = 0.02
    """How far, relatively, the shape may be off."""
    min_frames: int = 81
    """Skip videos with fewer frames, where the table counts them. Every video must fill a clip besides."""
    min_fps: float = 0.0
    """Skip slower videos; below the model's rate frames are repeated."""
    at_least: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="COLUMN=NUMBER")] = ()
    """Skip videos for which a column of the table is less, such as "aesthetic score=5"."""

    unit: int = 64
    """Videos done together by one process; at most these are lost when it is stopped."""
    shard_size: Annotated[int, tyro.conf.arg(metavar="MIB")] = 512
    """The most a shard may have."""
    workers: int = 0
    """Processes; 0 works in this one. With --ray: actors, 0 one for every GPU or CPU."""
    ray: bool = False
    """Work on a Ray cluster; SOURCE and DST must be visible to all its nodes."""
    device: str = "auto"
    """cpu, cuda, cuda:1 or mps; auto takes CUDA, else MPS, else the CPU. Workers take the CUDA devices in turn."""
    dtype: Precision | None = None
    """Precision of the autoencoder and encoders; without it the model's own."""
    text_encoder: TextPlacement = "released"
    """released frees it after a unit's captions; resident keeps it; int8 has 8-bit weights; cpu encodes there."""
    tile: int | None = None
    """Side of the autoencoder's tiles in latent cells: less memory; without it whole frames."""

    def run(self) -> None:
        """Check everything, generate if asked to, prepare with a bar, say what came of it."""
        self._check()
        from motionstream.data.encode import find_model
        from motionstream.data.prepare import REPORT, prepare

        settings, execution = self._settings(), self._execution()
        find_model(settings)  # before videos are listed or made
        videos = self._generated(settings, execution) if self.generate else self._listed()
        with progress() as bars:
            task = bars.add_task("preparing", total=len(videos))
            manifest = prepare(
                videos, self.target, settings, execution, say=lambda done, total: bars.update(task, completed=done)
            )
        counts = manifest["counts"]
        why = f" ({self.target / REPORT} says why)" if counts["skipped"] else ""
        print(
            f"{self.target}: {counts['samples']} clips in {len(manifest['shards'])} shards "
            f"({counts['bytes'] / MEBIBYTE:.1f} MiB), {counts['skipped']} of {counts['videos']} videos skipped{why}"
        )

    def _check(self) -> None:
        if self.generate and self.csv:
            raise ValueError("--generate makes its own captions; leave out --csv")
        if self.videos and not self.generate:
            raise ValueError("--videos is where --generate writes; give the videos' folder as SOURCE")
        if self.cotracker and not self.tracker.startswith("cotracker"):
            raise ValueError(f"--cotracker has no effect with --tracker {self.tracker}; add --tracker cotracker")
        if self.at_least and not self.csv:
            raise ValueError("--at-least compares columns of a table; name it with --csv")
        check_positive("--shard-size", self.shard_size, "mebibytes")
        check_positive("--steps", self.steps, "steps")

    def _settings(self) -> PrepareSettings:
        from motionstream.data.encode import PrepareSettings

        return PrepareSettings(
            model=self.model,
            untrained=self.untrained,
            size=parse_size(self.size),
            clips_per_video=self.clips_per_video,
            tracker=self.tracker,
            cotracker=None if self.cotracker is None else (str(self.cotracker[0]), str(self.cotracker[1])),
            grid=self.grid,
            filters=self._filters(),
            unit_videos=self.unit,
            shard_bytes=self.shard_size * MEBIBYTE,
        )

    def _filters(self) -> Filters:
        from motionstream.data.sources import Filters

        table = self.csv is not None
        return Filters(
            min_frames=self.min_frames if table else 0,
            min_fps=self.min_fps,
            aspect=parse_aspect(self.aspect or ("16:9" if table else "any")),
            aspect_tolerance=self.aspect_tolerance,
            at_least=tuple(parse_minimum(text) for text in self.at_least),
            require_caption=table if self.captions is None else self.captions == "required",
        )

    def _execution(self) -> Execution:
        from motionstream.components import Placement
        from motionstream.data.prepare import Execution

        placement = Placement(device=self.device, dtype=self.dtype, text_encoder=self.text_encoder, tile=self.tile)
        if not self.ray:  # whose nodes may have what this machine lacks
            placement.torch_device.type  # noqa: B018 - for its error
        return Execution(workers=self.workers, ray=self.ray, placement=placement)

    def _listed(self) -> list[SourceVideo]:
        from motionstream.data.sources import videos_of_folder, videos_of_table

        if self.csv is None:
            return videos_of_folder(self.source)
        return videos_of_table(self.csv, self.source, [parse_minimum(text)[0] for text in self.at_least])

    def _generated(self, settings: PrepareSettings, execution: Execution) -> list[SourceVideo]:
        from motionstream.data.encode import find_model
        from motionstream.data.sources import WanTextToVideo, generate_videos, read_prompts

        assert self.generate is not None
        config, _ = find_model(settings)
        prompts = read_prompts(self.source)
        folder = self.videos or self.target.with_name(f"{self.target.name}-videos")
        made: dict[str, Any] = {"size": settings.size or config.size, "frames": config.clip_frames}
        made |= {"steps": self.steps, "guidance": self.guidance}
        make = WanTextToVideo.from_folder(self.generate, str(execution.placement.torch_device), **made)
        with progress() as bars:
            task = bars.add_task("generating", total=len(prompts))
            videos = generate_videos(
                prompts, folder, make, config.fps, seed=self.seed, say=lambda done: bars.update(task, completed=done)
            )
        make.release()  # before the autoencoder and the encoders need the room
        return videos


def parse_aspect(text: str) -> float | None:
    """``16:9`` → 1.777…; ``any`` → None."""
    if text == "any":
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None or 0 in (int(match[1]), int(match[2])):
        raise ValueError(f'--aspect is {text!r}; write it like 16:9, or "any"')
    return int(match[1]) / int(match[2])


def parse_minimum(text: str) -> tuple[str, float]:
    """``aesthetic score=5`` → ("aesthetic score", 5.0)."""
    match = re.fullmatch(r"\s*(.+?)\s*=\s*(-?\d+(?:\.\d+)?)\s*", text)
    if match is None:
        raise ValueError(f"--at-least is {text!r}; write it like 'aesthetic score=5'")
    return match[1], float(match[2])
