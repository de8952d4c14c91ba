"""The pixel mixer: what it must leave alone, what its weights mean, and that it can learn to tell things apart."""

import pytest
import torch

from motionstream.carry.candidates import carry, warp_all
from motionstream.carry.pixel_mixer import PixelMixer
from motionstream.carry.relations import CarrySource, relate
from motionstream.config import MixerConfig

H, W, GRID = 32, 48, 4
CONFIG = MixerConfig(look_widths=(8, 8), mix_widths=(8, 8), features=4, heads=2)


def make_mixer(noise: float = 0.2) -> PixelMixer:
    torch.manual_seed(0)
    mixer = PixelMixer(CONFIG, grid=GRID)
    with torch.no_grad():  # a new one's last layer is zero
        for parameter in mixer.parameters():
            parameter.add_(noise * torch.randn(parameter.shape))
    return mixer


def make_case(batch: int = 2, frames: int = 3, tracks: int = 3, sources: int = 2):
    """Pictures, positions, visibility: the first track of the first clip is hidden."""
    g = torch.Generator().manual_seed(1)
    start = torch.rand(batch, tracks, 2, generator=g) * torch.tensor([W - 1.0, H - 1.0])
    positions = start[:, None] + 3 * torch.randn(batch, frames, tracks, 2, generator=g)
    visible = torch.ones(batch, frames, tracks, dtype=torch.bool)
    if tracks:
        visible[0, :, 0] = False
        positions[0, :, 0] = torch.nan
    source = CarrySource(
        2 * torch.rand(batch, sources, 3, H, W, generator=g) - 1,
        torch.randint(sources, (batch, tracks), generator=g),
        start,
        torch.randint(sources, (batch, frames), generator=g),
    )
    return positions, visible, source


def mix(mixer, positions, visible, source):
    relations = relate(positions, visible, source, grid=GRID)
    return mixer.mix_all(warp_all(relations, source, grid=GRID), relations, source)


def test_without_tracks_the_static_picture_stays_exactly():
    mixer = make_mixer()
    for positions, visible, source in (make_case(tracks=0), make_case()):
        mixed = mix(mixer, positions, torch.zeros_like(visible), source)
        rows = torch.arange(len(source.static))[:, None]
        static = source.pictures[rows, source.static].transpose(1, 2)
        torch.testing.assert_close(mixed.picture, static, atol=1e-5, rtol=0)
        assert (mixed.weights[:, 2] == 1).all()


def test_where_every_track_rests_nothing_is_asked_and_the_static_picture_stays(monkeypatch):
    mixer, (_, visible, source) = make_mixer(), make_case(sources=1)
    visible[:] = True
    asked = []
    monkeypatch.setattr(mixer, "mix_all", lambda *args: asked.append(args) or PixelMixer.mix_all(mixer, *args))
    for move in (0.0, 0.1):  # then one of a clip's tracks moves, in its last frame
        positions = source.start[:, None].expand(-1, visible.shape[1], -1, -1).clone()
        positions[1, -1, 2] += move
        relations = relate(positions, visible, source, grid=GRID)
        mixed = mixer(warp_all(relations, source, grid=GRID), relations, source)
        assert len(asked) == (move > 0)
        same = torch.equal(mixed.picture, source.pictures[:, :1].transpose(1, 2).expand_as(mixed.picture))
        assert same == (move == 0)


def test_a_new_mixer_averages_the_candidates():
    torch.manual_seed(0)
    positions, visible, source = make_case()
    mixed = mix(PixelMixer(CONFIG, grid=GRID), positions, visible, source)
    torch.testing.assert_close(mixed.weights.sum(dim=1), torch.ones_like(mixed.weights[:, 0]))
    assert torch.equal(mixed.weights[:, 0], mixed.weights[:, 1]) and (mixed.weights[1, 3] < 0.02).all()
    assert torch.equal(mixed.weights[1, 0], mixed.weights[1, 2])


def test_only_what_goes_with_a_track_is_gone():
    """All is alike; one track rests and one goes: what is nearer to where that began leaves."""
    start = torch.tensor([[[8.0, 16.0], [40.0, 16.0]]])
    positions = (start + torch.tensor([[0.0, 0.0], [0.0, 12.0]]))[:, None]
    pictures = torch.rand(1, 1, 3, H, W)
    source = CarrySource(pictures, torch.zeros(1, 2).long(), start, torch.zeros(1, 1).long())
    relations = relate(positions, torch.ones(1, 1, 2, dtype=torch.bool), source, grid=GRID)
    alike, unknown = torch.full((1, 1, H // 2, W // 2), 20.0), torch.zeros(1, 2, H, W)
    gone = make_mixer()._gone(relations.home, alike, unknown, pictures.shape[-2:])
    assert (gone[..., : W // 2 - 4] < 1e-6).all() and (gone[..., W // 2 + 4 :] > 0.99).all()
    known = torch.tensor([-1.0, 1.0])[None, :, None, None].expand(1, 2, H, W)
    assert (make_mixer()._gone(relations.home, alike, known, pictures.shape[-2:]) == 0).all()  # whatever is alike


def test_the_masks_of_things_are_where_their_content_is():
    """A thing's mask is asked for where what is carried comes from, and only of the chosen track's thing."""
    start = torch.tensor([[[8.0, 16.0], [40.0, 16.0]]])
    move = torch.tensor([[0.0, 0.0], [0.0, 8.0]])
    things = torch.zeros(1, 1, 3, H, W)
    things[0, 0, 2, 12:20, 36:44] = 1  # around where the second track began
    source = CarrySource(
        torch.rand(1, 1, 3, H, W),
        torch.zeros(1, 2).long(),
        start,
        torch.zeros(1, 1).long(),
        things=things,
        thing=torch.tensor([[[-1, 2]]]),
    )
    relations = relate((start + move)[:, None], torch.ones(1, 1, 2, dtype=torch.bool), source, grid=GRID)
    _, _, belongs = make_mixer()._compare(relations, source)
    near, home = belongs[0, :2], belongs[0, 4:]
    assert (near[:, :, : W // 2 - 4] == 0).all(), "of what the resting track is on nothing is known"
    assert (near[1, :, W // 2 + 4 :] == 1).all() and (home[1, :, W // 2 + 4 :] == 1).all()
    assert near[0, 8 + 16, 40] == 1 and near[0, 8 + 4, 40] == -1, "it has gone down by eight pixels"
    assert home[0, 16, 40] == 1 and home[0, 8 + 16, 40] == -1


def test_clips_do_not_see_one_another_and_frames_stand_alone():
    mixer = make_mixer()
    positions, visible, source = make_case()
    whole = mix(mixer, positions, visible, source).picture
    for clip in range(2):
        for frame in range(3):
            one = CarrySource(
                source.pictures[clip : clip + 1],
                source.index[clip : clip + 1],
                source.start[clip : clip + 1],
                source.static[clip : clip + 1, frame : frame + 1],
            )
            at = slice(clip, clip + 1), slice(frame, frame + 1)
            alone = mix(mixer, positions[at], visible[at], one).picture
            torch.testing.assert_close(alone[:, :, 0], whole[clip : clip + 1, :, frame], atol=1e-4, rtol=1e-4)


def test_weights_say_what_the_picture_is_made_of():
    positions, visible, source = make_case()
    mixer = make_mixer()
    relations = relate(positions, visible, source, grid=GRID)
    candidates = warp_all(relations, source, grid=GRID)
    mixed = mixer.mix_all(candidates, relations, source)
    parts = torch.cat([candidates, mixed.fill[:, None]], dim=1)
    torch.testing.assert_close((mixed.weights[:, :, None] * parts).sum(dim=1), mixed.picture)
    carried = carry(positions, visible, source, grid=GRID, mixer=mixer)
    torch.testing.assert_close(carried.candidates[:, 1], mixed.picture)
    pooled = mixed.weights[:, :, :, :GRID, :GRID].mean(dim=(3, 4))
    torch.testing.assert_close(carried.features[:, 4:, :, 0, 0], pooled)


def test_likeness_compares_a_tracks_start_with_what_may_have_moved_along():
    """A picture of two flat halves: with a look that gives the colour itself, points of the track's half are alike."""
    mixer = PixelMixer(MixerConfig(look_widths=(8,), mix_widths=(8,), features=1, heads=1), grid=GRID)
    mixer.look = torch.nn.Conv2d(12, 1, 1, bias=False)
    with torch.no_grad():
        mixer.look.weight.fill_(1 / 12)
        mixer.alike.weight.zero_()
        mixer.alike.weight[0, 0] = 1.0
        mixer.alike.bias.zero_()
    pictures = torch.ones(1, 1, 3, H, W)
    pictures[..., W // 2 :] = -1
    start = torch.tensor([[[8.0, 16.0]]])
    positions = start[:, None] + torch.tensor([4.0, 0.0])
    index, static = torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)
    mixed = mix(mixer, positions, torch.ones(1, 1, 1, dtype=torch.bool), CarrySource(pictures, index, start, static))
    near, _, home = mixed.alike[0, :, 0]
    assert near[:, : W // 4 + 2].allclose(torch.tensor(1.0)) and near[:, W // 4 + 2 :].allclose(torch.tensor(-1.0))
    assert home[:, : W // 4].allclose(torch.tensor(1.0)) and home[:, W // 4 :].allclose(torch.tensor(-1.0))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"look_widths": ()}, "look_widths"),
        ({"mix_widths": (8, 0)}, "mix_widths"),
        ({"features": 10, "heads": 4}, "features"),
        ({"heads": 0}, "heads"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        MixerConfig(**settings)


def masked_case(left: int, right: int, move: float):
    """One track on a thing from column ``left`` to ``right``, which goes to the right by ``move``."""
    start = torch.tensor([[[(left + right) / 2 - 1.0, 16.0]]])
    things = torch.zeros(1, 1, 1, H, W)
    things[..., 8:24, left:right] = 1
    source = CarrySource(
        torch.rand(1, 1, 3, H, W),
        torch.zeros(1, 1).long(),
        start,
        torch.zeros(1, 1).long(),
        things=things,
        thing=torch.zeros(1, 1, 1).long(),
    )
    return (start + torch.tensor([move, 0.0]))[:, None], torch.ones(1, 1, 1, dtype=torch.bool), source


def test_a_new_mixer_believes_the_masks():
    torch.manual_seed(0)
    mixed = mix(PixelMixer(CONFIG, grid=GRID), *masked_case(8, 16, 16.0))
    weights = mixed.weights[0, :, 0]  # (4, H, W)
    thing, home, ground = weights[:, 14:18, 26:30], weights[:, 14:18, 10:14], weights[:, 28:, 40:]
    assert (thing[0] > 0.9).all(), "the thing is where it was dragged to"
    assert (home[3] > 0.4).all() and (home[2] < 0.1).all(), "and something else where it was"
    assert (ground[0] < 0.1).all() and (ground[2] > 0.4).all(), "the ground stays"


def test_nothing_is_known_of_what_comes_from_outside():
    """A thing at the left border goes to the right: behind it the border would be repeated."""
    positions, visible, source = masked_case(0, 8, 16.0)
    relations = relate(positions, visible, source, grid=GRID)
    _, _, belongs = make_mixer()._compare(relations, source)
    near = belongs[0, 0, 16]
    torch.testing.assert_close(near[17:24], torch.ones(7))
    torch.testing.assert_close(near[:16], -torch.ones(16))
    assert (belongs[0, 4, 16, :8] == 1).all(), "where it was it was up to the border"


def test_a_network_that_is_sure_beyond_reason_does_not_outvote_the_masks():
    """It wants the static picture, or what stands for it where no track moves otherwise, by a hundred."""
    torch.manual_seed(0)
    for choice in (1, 2):
        mixer = PixelMixer(CONFIG, grid=GRID)
        with torch.no_grad():
            mixer.mix.outlet.bias[4 * choice : 4 * choice + 4] = 100.0
            mixer.trust.weight *= 4  # about as far as training brings it
        weights = mix(mixer, *masked_case(8, 16, 16.0)).weights[0, :, 0]
        thing, home, ground = weights[:, 14:18, 26:30], weights[:, 14:18, 10:14], weights[:, 28:, 40:]
        assert (thing[0] > 0.9).all() and (home[3] > 0.9).all(), f"choice {choice}"
        assert (ground[choice] > 0.9).all(), "it is heard where nothing is known"
