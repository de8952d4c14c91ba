"""What validation shows: points are followed to where the content went, and the sheet shows made above true."""

import numpy as np
import pytest
import torch
from PIL import Image

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.component_config import LinearAutoencoderConfig
from motionstream.training.clips.prepared import PreparedClips
from motionstream.training.diffusion.validation import ClipView

FRAMES, SIZE = 17, 64


@pytest.fixture(scope="module")
def autoencoder():
    """With two thirds of all components: what is decoded is nearly what was encoded."""
    return LinearAutoencoder(LinearAutoencoderConfig(latent_channels=512, decoder_channels=8, decoder_blocks=1))


def shifted(speed, seed=0):
    """A smooth texture that moves ``speed`` pixels a frame to the right, (3, T, H, W) in [−1, 1]."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (SIZE // 4, SIZE // 2, 3)).astype(np.uint8)
    wide = Image.fromarray(coarse).resize((2 * SIZE, SIZE), Image.Resampling.BICUBIC)
    frames = [
        np.asarray(wide.transform((SIZE, SIZE), Image.Transform.AFFINE, (1, 0, 32 - speed * t, 0, 1, 0), Image.BICUBIC))
        for t in range(FRAMES)
    ]
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1


def clips_of(speeds, autoencoder):
    """Clips of whole pictures moving, with a grid of tracks that say so, NaN where unseen; and the tracks' speeds."""
    latents, _ = autoencoder.encode(torch.stack([shifted(speed, seed) for seed, speed in enumerate(speeds)]))
    grid = torch.tensor([(x, y) for y in (16.0, 32.0, 48.0) for x in (14.0, 26.0, 38.0)])
    time = torch.arange(FRAMES)[:, None, None]
    positions = torch.stack([grid + time * torch.tensor([speed, 0.0]) for speed in speeds])
    visible = (positions[..., 0] < SIZE - 1) & (positions[..., 0] >= 0)
    visible[:, 5, 2] = False  # hidden for a moment
    visible[:, :3, 0] = False  # begins later
    positions = positions.masked_fill(~visible[..., None], torch.nan)
    empty = torch.zeros(len(speeds), 0)
    known = {"latents": latents, "positions": positions, "visible": visible, "captions": [""] * len(speeds)}
    return PreparedClips(**dict.fromkeys(PreparedClips.__dataclass_fields__, empty) | known)


def test_points_are_followed_to_where_the_content_went(autoencoder):
    clips = clips_of([1.0, 0.75], autoencoder)
    view = ClipView(clips, autoencoder)
    figures, _ = view.look(clips.latents)
    assert figures["epe_px"] < 0.1 and figures["lost"] == 0
    # not moving: of points seen 4 … 16 (or 4.5 … 12) px away
    counted = clips.visible & ((clips.positions - clips.positions[:, :1]).norm(dim=-1) >= 4)
    counted &= clips.visible[:, :1]
    still = (clips.positions - clips.positions[:, :1]).norm(dim=-1)[counted]
    assert figures["epe_frozen_px"] == pytest.approx(still.mean().item(), abs=1e-4) and still.mean() > 7

    # content that moves at half the tracks' speed is half as far from them as what does not move at all
    halves = clips_of([0.5, 0.375], autoencoder).latents
    figures, _ = view.look(halves)
    assert figures["epe_px"] == pytest.approx(still.mean().item() / 2, abs=0.1)
    frozen = clips_of([0.0, 0.0], autoencoder).latents
    figures, _ = view.look(frozen)
    assert figures["epe_px"] == pytest.approx(figures["epe_frozen_px"], abs=0.02)


def test_points_that_are_gone_are_lost_and_count_as_if_nothing_had_moved(autoencoder):
    clips = clips_of([1.0], autoencoder)
    gone = clips.latents.clone()
    gone[:, :, 2:] = 0  # grey from frame 5 on
    figures, _ = ClipView(clips, autoencoder).look(gone)
    assert figures["lost"] > 0.9 and 8 < figures["epe_px"] <= figures["epe_frozen_px"] + 0.1


def test_few_points_are_followed_and_none_where_nothing_moves(autoencoder):
    clips = clips_of([1.0, 0.0], autoencoder)
    starts = []

    class Counting:
        def track(self, video, points, fps=24.0):
            starts.append(points)
            return view_tracker.track(video, points, fps)

    view_tracker = ClipView(clips, autoencoder).tracker
    ClipView(clips, autoencoder, points=3, tracker=Counting()).look(clips.latents)
    assert [len(points) for points in starts] == [3]  # the second clip's are not asked for at all
    moving = clips.positions[0, 0, 1:]  # the first begins later
    assert all((moving == torch.tensor(point)).all(dim=-1).any() for point in starts[0])
    nothing = clips_of([0.0], autoencoder)
    figures, sheet = ClipView(nothing, autoencoder).look(nothing.latents)
    assert figures == {} and sheet.dtype == np.uint8


def test_the_sheet_has_made_above_true_with_tracks_in_colour(autoencoder):
    clips = clips_of([1.0, 0.5, 0.0], autoencoder)
    _, sheet = ClipView(clips, autoencoder, shown=2, columns=3).look(torch.zeros_like(clips.latents))
    cell = 2 * SIZE  # enlarged, with gaps of 2 between
    assert sheet.shape == (4 * (cell + 2) - 2, 3 * (cell + 2) - 2, 3)
    rows = [sheet[row * (cell + 2) : row * (cell + 2) + cell].astype(float) for row in range(4)]
    grey = [(np.abs(row - 127.5).max(axis=-1) < 2).mean() for row in rows]
    assert min(grey[0], grey[2]) > 0.8 > 0.2 > max(grey[1], grey[3])
    drawn = np.abs(rows[0] - 127.5).max(axis=-1) > 50
    assert 0.002 < drawn.mean() < 0.2
    # the true frames are those of the video: the first one, at the left, beside the dots
    true = np.asarray(ClipView(clips, autoencoder)._decode(clips.latents, 0))[0].repeat(2, 0).repeat(2, 1)
    assert np.median(np.abs(rows[1][:, :cell] - true)) < 1


def test_what_cannot_be_looked_at_is_said(autoencoder):
    clips = clips_of([1.0], autoencoder)
    with pytest.raises(ValueError, match="points = 0"):
        ClipView(clips, autoencoder, points=0)
    with pytest.raises(ValueError, match="the made latents are"):
        ClipView(clips, autoencoder).look(clips.latents[:, :, :3])
