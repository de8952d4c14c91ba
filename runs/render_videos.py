"""Rendered scenes as video files with captions, to try the preparation of videos without any at hand.

python runs/render_videos.py FOLDER --count 12 --frames 48
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from motionstream.data.photographs import TRAIN
from motionstream.data.procedural import SceneConfig, render
from motionstream.data.textures import TextureBank
from motionstream.media.videos import write_video


@dataclass(frozen=True)
class Options:
    """What to render."""

    folder: tyro.conf.Positional[Path]
    """Made if it is not there; files of the same names are replaced."""
    count: int = 12
    frames: int = 48
    size: int = 128
    """Height and width in pixels."""
    seed: int = 0
    fps: Annotated[float, tyro.conf.arg(metavar="RATE")] = 24.0


def main(options: Options) -> None:
    """Write ``00000.mp4``, ``00000.txt`` and so on."""
    options.folder.mkdir(parents=True, exist_ok=True)
    scene = SceneConfig(height=options.size, width=options.size, frames=options.frames, fps=options.fps)
    bank = TextureBank(TRAIN)
    for index in range(options.count):
        clip = render(scene, 1, options.seed + index, bank)
        write_video(options.folder / f"{index:05d}.mp4", clip.video[0].permute(1, 2, 3, 0).numpy(), options.fps)
        (options.folder / f"{index:05d}.txt").write_text(clip.captions[0] + "\n")
    print(f"{options.folder}: {options.count} videos")


if __name__ == "__main__":
    main(tyro.cli(Options))
