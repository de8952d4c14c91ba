"""Which tracks move together: by similarities, with what rests in the middle of what turns, and two things apart."""

import numpy as np
import pytest

from motionstream.carry.grouping import DENSE, Moving, groups, misfit, others

NOWHERE = np.zeros(0, int)


def grid(left: float, top: float, count: int = 3, step: float = 5.0) -> np.ndarray:
    x, y = np.meshgrid(np.arange(count), np.arange(count))
    return np.stack([left + step * x, top + step * y], axis=-1).reshape(-1, 2)


def turned(start: np.ndarray, angle: float, shift: complex = 0j, size: float = 1.0) -> np.ndarray:
    """How places move that turn about their middle, and are shifted."""
    z = start @ (1, 1j)
    move = (size * np.exp(1j * angle) - 1) * (z - z.mean()) + shift
    return np.stack([move.real, move.imag], axis=-1)


def found(start: np.ndarray, move: np.ndarray) -> list[list[int]]:
    return [rows.tolist() for rows in groups(Moving(start, move, np.zeros(len(start), int), move))]


def test_tracks_that_move_together_are_grouped_and_those_that_rest_are_not():
    start = np.array([(10, 10), (20, 10), (80, 80), (84, 80), (50, 50), (15, 12)], np.float32)
    move = np.array([(9, 0), (9, 1), (0, -8), (0, -8), (0.5, 0), (-9, 0)], np.float32)
    found = groups(Moving(start, move, np.zeros(6, int), move))
    assert [rows.tolist() for rows in found] == [[0, 1], [2, 3], [5]]
    found = groups(Moving(start, move, np.array([0, 1, 0, 0, 0, 0]), move))
    assert sorted(rows.tolist() for rows in found) == [[0], [1], [2, 3], [5]], "of another picture"


def test_none_and_very_many_tracks_are_on_nothing():
    assert groups(Moving(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int), np.zeros((0, 2)))) == []
    many = np.random.default_rng(0).uniform(0, 90, (DENSE + 1, 2))
    assert groups(Moving(many, np.full_like(many, 5), np.zeros(len(many), int), np.full_like(many, 5))) == []


@pytest.mark.parametrize("angle", [0.2, 0.9, 2.5])
def test_what_turns_is_one_thing_with_the_middle_that_rests(angle):
    start = np.concatenate([grid(30, 30), [(60.0, 35.0), (40.0, 8.0)]])
    move = np.concatenate([turned(start[:9], angle), np.zeros((2, 2))])
    assert np.hypot(*move[4]) < 1e-9
    assert misfit(start[:9], move[:9]) < 1e-6
    assert found(start, move) == [list(range(9))], "the pins beside it are not of it"


def test_two_things_side_by_side_are_two_though_they_hardly_part():
    """One turns, the other is shifted; where they touch they part by less than tracks of one thing may."""
    start = np.concatenate([grid(10, 10), grid(24, 10)])
    move = np.concatenate([turned(start[:9], 0.3, 2.3 + 0j), np.full((9, 2), (2.3, 0.0))])
    assert np.abs(move[5] - move[12]).max() < 2, "or nothing is shown here"
    assert sorted(found(start, move)) == [list(range(9)), list(range(9, 18))]


def test_what_bends_a_little_goes_with_the_nearest():
    start = grid(10, 10, count=4)
    move = np.full((16, 2), (6.0, 0.0))
    move[15] += (1.5, 1.0)
    assert found(start, move) == [list(range(16))]
    assert found(np.flip(start, axis=0), np.flip(move, axis=0)) == [list(range(16))]


def test_a_track_that_just_begins_to_move_waits_for_those_around_it():
    start = grid(30, 30)
    slow = turned(start, 0.16)  # corners go by 1.1, the others by less
    assert found(start, slow) == [list(range(9))]
    one = np.where(np.arange(9)[:, None] == 8, 1.02 * slow / np.hypot(*slow[8]), 0.7 * slow)
    assert found(start, one) == [], "alone it would be cut out of its own thing"
    assert found(start, np.where(np.arange(9)[:, None] == 8, (3.0, 0.0), 0.0)) == [[8]]


def test_tracks_that_follow_anothers_motion_far_away_are_their_own():
    start = np.concatenate([grid(5, 5), grid(80, 80)])
    assert found(start, np.full((18, 2), (5.0, 1.0))) == [list(range(9)), list(range(9, 18))]


def test_tracks_that_rest_or_part_are_on_something_else():
    start = np.array([(10, 10), (20, 10), (30, 10), (40, 10), (50, 10), (60, 10)], np.float32)
    move = np.array([(9, 0), (9, 0), (0, 0), (9, 1), (-9, 0), (np.nan, np.nan)], np.float32)
    now = Moving(start, move, np.zeros(6, int), move)
    assert others(now, np.array([0, 1]), NOWHERE).tolist() == [2, 4]
    assert others(now, np.array([0, 1]), np.array([3])).tolist() == [2, 3, 4]
    elsewhere = Moving(start, move, np.array([0, 0, 1, 0, 0, 0]), move)
    assert others(elsewhere, np.array([0, 1]), NOWHERE).tolist() == [4], "in another picture"
