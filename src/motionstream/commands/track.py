"""``motionstream track``: extracts tracks from a video."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from motionstream.commands.common import check_paths, free_name, progress

if TYPE_CHECKING:
    from motionstream.tracks.tracker import Tracker

MAX_GRID = 100


@dataclass(frozen=True)
class TrackCommand:
    """The options of ``motionstream track``."""

    HELP: ClassVar[str] = """\
Track a grid of points through a video and save the tracks.

Examples:
  motionstream track clip.mp4 -o tracks.npz
  motionstream track clip.mp4 --grid 20 --tracker template --limit 48
  motionstream track clip.mp4 --tracker cotracker-online --cotracker co-tracker scaled_online.pth
  motionstream stream photo.jpg --tracks tracks.npz"""

    video: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="VIDEO")]
    """The video."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="TRACKS.npz")] = None
    """The tracks; by default the video's name with .npz, in this folder."""
    grid: int = 50
    """Points per side; 50, as in the paper, gives 2500 tracks."""
    tracker: Literal["lucas-kanade", "template", "cotracker", "cotracker-online"] = "lucas-kanade"
    """Optical flow, for natural video; template matching, slower, for small rendered video with soft shapes; or
    CoTracker3 from your own files, which processes the video at once (cotracker) or in windows, with less memory
    (cotracker-online)."""
    cotracker: Annotated[tuple[Path, Path] | None, tyro.conf.arg(metavar="REPOSITORY CHECKPOINT")] = None
    """CoTracker's code and weights; by default those in torch.hub's cache."""
    device: str | None = None
    """Device of CoTracker: cpu, cuda, cuda:1 or mps; by default auto, which takes CUDA, else MPS, else the CPU."""
    limit: Annotated[int | None, tyro.conf.arg(metavar="FRAMES")] = None
    """Stop after this many frames."""

    def run(self) -> None:
        """Check the options, read the video, track groups of points, save."""
        if not 1 <= self.grid <= MAX_GRID:
            raise ValueError(f"--grid is {self.grid}; give 1 to {MAX_GRID} points a side")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit is {self.limit}; give at least 1 frame")
        if not self._joint and (self.cotracker or self.device):
            given = "--cotracker" if self.cotracker else "--device"
            raise ValueError(f"{given} has no effect with --tracker {self.tracker}; add --tracker cotracker")
        output = self.output or free_name(f"{self.video.stem}.npz")
        check_paths([self.video], [output])
        from motionstream.media.files import check_output
        from motionstream.media.videos import read_video
        from motionstream.tracks import Tracks, grid_points
        from motionstream.tracks.tracks import check_counts

        check_output(output, (".npz",))
        tracker = self._tracker()
        with progress() as bars:
            bars.add_task(f"reading {self.video}", total=None)
            video, fps = read_video(self.video, limit=self.limit)
        size = (video.shape[1], video.shape[2])
        points = grid_points(size, self.grid)
        check_counts(len(video), len(points))
        parts = []
        # Trackers of independent points may run in groups, for the progress bar; few, since each reads all frames.
        group = len(points) if self._joint else max(64, -(-len(points) // 16))
        with progress() as bars:
            for start in bars.track(range(0, len(points), group), description="tracking"):
                parts.append(tracker.track(video, points[start : start + group], fps))
        tracks = Tracks.merge(parts, renumber=True)
        tracks.save(output)
        kept = tracks.visible[-1].mean()
        print(
            f"{output}: {tracks.count} tracks over {tracks.length} frames of {size[1]}x{size[0]} at {fps:g} fps, "
            f"{kept:.0%} of them seen to the end"
        )

    @property
    def _joint(self) -> bool:
        """Whether the tracker must see all points together."""
        return self.tracker.startswith("cotracker")

    def _tracker(self) -> Tracker:
        from motionstream.tracks.tracker import make_tracker

        if not self._joint:
            return make_tracker(self.tracker)
        from motionstream.components import Placement

        files = None if self.cotracker is None else (str(self.cotracker[0]), str(self.cotracker[1]))
        return make_tracker(self.tracker, files, str(Placement(device=self.device or "auto").torch_device))
