"""Letting go: which tracks are told when, and that a video that rests where it was let go has no error."""

import json

import numpy as np
import pytest

from motionstream.cli import main
from motionstream.evaluation.release import ARMS, RELEASE, ReleaseRow, compared, let_go, tracks_at
from motionstream.evaluation.scenes import held_out_clip
from motionstream.presets import nano


@pytest.fixture(scope="module")
def clip():
    return held_out_clip(nano(), 1)


def test_arms_let_go_at_once_after_the_chunk_and_never(clip):
    moving = np.ptp(clip.drags.positions, axis=0).max(axis=-1) > 0
    before, during, later = np.arange(21, 33), np.arange(33, 45), np.arange(45, 57)
    for arm in ARMS:
        same = tracks_at(clip.drags, before, arm)
        seen = clip.drags.select(clip.drags.visible[before].any(axis=0) | ~moving)
        assert np.array_equal(same.positions, seen.positions[before])
    told = {arm: tracks_at(clip.drags, during, arm) for arm in ARMS}
    drags = {arm: tracks.select(moving[tracks.ids]) for arm, tracks in told.items()}
    assert drags["masked"].visible[:6].any() and not drags["masked"].visible[6:].any()
    assert np.array_equal(drags["after"].positions, drags["held"].positions)
    assert np.ptp(drags["held"].positions[5:], axis=0).max() == 0 and drags["held"].visible[6:].any()
    gone = {arm: moving[tracks_at(clip.drags, later, arm).ids].sum() for arm in ARMS}
    assert gone["masked"] == gone["after"] == 0 < gone["held"]


def test_what_rests_where_it_was_let_go_has_no_error_and_what_jumps_back_has(clip):
    shown = np.minimum(np.arange(RELEASE + 48), RELEASE - 1)
    rests, back = ReleaseRow("rests"), ReleaseRow("back")
    rests.add(clip.video[shown], clip)
    back.add(clip.video[np.where(np.arange(len(shown)) < RELEASE, shown, 0)], clip)
    still, jumped = rests.measures(RELEASE), back.measures(RELEASE)
    assert rests.epe[0] < 1 and still["jump"] == still["unrest"] == jumped["unrest"] == [0]
    assert back.epe[0] > 4 and jumped["jump"][0] > 0.5
    difference = compared(back, rests)
    assert difference["jump"]["low"] > 0.5 and difference["still"]["value"] == pytest.approx(0, abs=3)


def test_the_jump_is_where_an_arm_lets_go(clip):
    """Of what jumps back with the chunk after the release, as the arm that is told so does."""
    assert [let_go(nano(), arm) for arm in ARMS] == [39, 45, 39]
    frames = np.arange(RELEASE + 48)
    after, held = ReleaseRow("after", let_go(nano(), "after")), ReleaseRow("held")
    after.add(clip.video[np.where(frames < 45, np.minimum(frames, RELEASE - 1), 0)], clip)
    held.add(clip.video[np.minimum(frames, RELEASE - 1)], clip)
    assert after.to_dict()["jump"]["value"] > 0.5 and after.to_dict()["unrest"]["value"] == 0
    assert compared(after, held)["jump"]["value"] == after.to_dict()["jump"]["value"]
    # and what is held is compared at that frame
    held.changes[0][45 - RELEASE] = 3
    assert compared(after, held)["jump"]["value"] == pytest.approx(after.to_dict()["jump"]["value"] - 3)


def test_the_command(tmp_path, capsys):
    output = tmp_path / "release.json"
    assert main(["evaluate", "release", "--model", "debug", "--untrained", "--clips", "1", "-o", str(output)]) == 0
    result = json.loads(output.read_text())
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1]) == result
    assert [arm["name"] for arm in result["arms"]] == ["debug masked", "debug after", "debug held"]
    assert [(pair["of"], pair["minus"]) for pair in result["comparisons"]] == [
        ("debug masked", "debug held"),
        ("debug after", "debug held"),
    ]
