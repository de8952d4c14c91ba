"""``motionstream prepare``: turns videos into a data set for training."""

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
Turn videos into shards for training: latents, point tracks, text and image tokens.

Running it again with the same options resumes it. Unusable videos are skipped, with reasons in report.jsonl. The format
and all steps are described in docs/data.md.

Examples:
  motionstream prepare videos data/nano
  motionstream prepare OpenVid/video data/openvid --csv OpenVid/OpenVid-1M.csv --model wan-folder --workers 8
  motionstream prepare prompts.txt data/made --generate wan2.1-t2v-14b --videos made --model wan-folder"""

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SOURCE")]
    """The folder of the videos; with --generate, a text file with one prompt per line."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """The folder to write: new, empty, or of a run to be resumed."""
    model: str = "nano"
    """The model to prepare for: an embedded model's name or a model's folder. Its autoencoder and encoders are used."""
    untrained: bool = False
    """Use random autoencoder and encoders if a preset has no weights; only for tests."""
    csv: Annotated[Path | None, tyro.conf.arg(metavar="FILE.csv")] = None
    """A table with the columns video (a path within SOURCE) and caption, like OpenVid-1M's. By default all videos in
    SOURCE, with captions from .txt files of the same names."""
    generate: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Generate the videos first, with diffusers' WanPipeline from this folder."""
    videos: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for the videos of --generate; by default DST-videos."""
    steps: int = 50
    """Sampling steps of --generate."""
    guidance: float = 5.0
    """Text guidance of --generate."""
    seed: int = 0
    """Seed of --generate; prompt i uses seed + i."""

    size: Annotated[str | None, tyro.conf.arg(metavar="WxH")] = None
    """Size of the clips, such as 832x480, to which videos are scaled and cropped; by default the model's own."""
    clips_per_video: int = 1
    """Maximum number of consecutive clips per video."""
    tracker: Literal["lucas-kanade", "template", "cotracker", "cotracker-online"] = "lucas-kanade"
    """Optical flow; template matching, slower, for small rendered video; or CoTracker3 from your own files, which
    processes a clip at once (cotracker) or in windows, with less memory (cotracker-online)."""
    cotracker: Annotated[tuple[Path, Path] | None, tyro.conf.arg(metavar="REPOSITORY CHECKPOINT")] = None
    """CoTracker's code and weights; by default those in torch.hub's cache."""
    grid: int = 50
    """Tracked points per side; 50, as in the paper, gives 2500 tracks."""

    captions: Literal["required", "optional"] | None = None
    """required skips videos without caption; by default required with --csv, otherwise optional."""
    aspect: Annotated[str | None, tyro.conf.arg(metavar="W:H")] = None
    """Skip videos with another aspect ratio; "any" accepts all. By default 16:9 with --csv, otherwise any."""
    aspect_tolerance: float = 0.02
    """Relative tolerance of the aspect ratio."""
    min_frames: int = 81
    """Skip videos with fewer frames according to the table's column, if any. Every video must also fill a clip."""
    min_fps: float = 0.0
    """Skip videos with a lower frame rate; below the model's rate, frames are repeated."""
    at_least: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="COLUMN=NUMBER")] = ()
    """Skip videos with a smaller number in this column of the table, such as "aesthetic score=5"."""

    unit: int = 64
    """Videos that one process handles as a unit, the most that it loses when interrupted."""
    shard_size: Annotated[int, tyro.conf.arg(metavar="MIB")] = 512
    """Maximum size of a shard in MiB."""
    workers: int = 0
    """Worker processes; 0 works in this process. With --ray: actors; 0 means one per GPU, or per CPU without GPUs."""
    ray: bool = False
    """Run on a Ray cluster; SOURCE and DST must be accessible to all nodes."""
    device: str = "auto"
    """cpu, cuda, cuda:1 or mps; auto takes CUDA, else MPS, else the CPU. CUDA devices are assigned to workers in
    turn."""
    dtype: Precision | None = None
    """Precision of the autoencoder and encoders; by default the model's own."""
    text_encoder: TextPlacement = "released"
    """released frees it after a unit's captions; resident keeps it; int8 uses 8-bit weights; cpu runs it on the CPU."""
    tile: int | None = None
    """Side of the autoencoder's tiles in latent cells, to save memory; by default whole frames."""

    def run(self) -> None:
        """Check the options, generate videos if requested, prepare with a progress bar, print a summary."""
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
        if not self.ray:  # Ray's nodes may have devices that this machine lacks
            placement.torch_device.type  # noqa: B018 - to raise its error early
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
        make.release()  # frees memory for the autoencoder and the encoders
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
