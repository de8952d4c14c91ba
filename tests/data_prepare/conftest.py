"""Small videos with a known motion, and sets prepared of them once."""

import numpy as np
import pytest
import torch
from PIL import Image

from motionstream.components import Placement
from motionstream.data.encode import PrepareSettings
from motionstream.data.prepare import Execution, prepare
from motionstream.data.samples import Sample
from motionstream.data.sources import videos_of_folder
from motionstream.media.videos import write_video

CPU = Execution(placement=Placement(device="cpu"))
SETTINGS = PrepareSettings(model="debug", untrained=True, grid=6, unit_videos=2)


def moving(length, seed=0, size=(64, 64), speed=1):
    """A texture that moves `speed` pixels a frame to the right: uint8 (T, H, W, 3)."""
    height, width = size
    small = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 4, 3), np.uint8)
    wide = np.asarray(Image.fromarray(small).resize((2 * width, height), Image.Resampling.BICUBIC))
    return np.stack([np.roll(wide, speed * frame, axis=1)[:, width // 2 : -width // 2] for frame in range(length)])


def fill(folder, lengths=(50, 50, 50), fps=24):
    """Videos 0.mp4, 1.mp4 … of so many frames, all different, the first one with a caption."""
    folder.mkdir()
    for index, length in enumerate(lengths):
        write_video(folder / f"{index}.mp4", moving(length, seed=index), fps)
    (folder / "0.txt").write_text("a cat & a dog\n")
    return folder


def contents(folder):
    """Every file in a folder and its bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fake_sample(index, text_rows=3, image=True):
    """A sample with random contents; its first latent says which it is."""
    generator = torch.Generator().manual_seed(index)
    latents = torch.randn(4, 3, 4, 6, generator=generator).half()
    latents[0, 0, 0, 0] = index
    return Sample(
        key=f"{index:08d}-00",
        latents=latents,
        positions=32 * torch.rand(9, 5, 2, generator=generator),
        visible=torch.rand(9, 5, generator=generator) < 0.7,
        text=torch.randn(text_rows, 8, generator=generator).half(),
        image=torch.randn(2, 8, generator=generator).half() if image else None,
        first_frame=torch.randint(0, 256, (3, 32, 48), generator=generator).to(torch.uint8),
        caption=f"clip „{index}“",
        fps=16.0,
        source={"video": f"{index}.mp4", "clip": 0},
    )


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Three good videos."""
    return fill(tmp_path_factory.mktemp("source") / "videos")


@pytest.fixture(scope="session")
def prepared(videos, tmp_path_factory):
    """They, prepared in one go."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("target") / "set"
    prepare(videos_of_folder(videos), folder, SETTINGS, CPU)
    return folder
