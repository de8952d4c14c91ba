import io
import os
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motionstream.tracks import MAX_FRAMES, MAX_POINTS, Tracks

SIZE = (60, 80)


def random_tracks(frames: int = 7, points: int = 5, seed: int = 0, size: tuple[int, int] = SIZE) -> Tracks:
    """Points in and around the picture, some invisible, of which some are NaN."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-20, 100, (frames, points, 2)).astype(np.float32)
    visible = rng.random((frames, points)) < 0.7
    positions[~visible & (rng.random((frames, points)) < 0.5)] = np.nan
    return Tracks(positions, visible, size, 24.0, ids=rng.permutation(50)[:points])


def assert_same(a: Tracks, b: Tracks) -> None:
    np.testing.assert_array_equal(a.positions, b.positions)
    np.testing.assert_array_equal(a.visible, b.visible)
    np.testing.assert_array_equal(a.ids, b.ids)
    assert (a.size, a.fps) == (b.size, b.fps)


def huge(*shape: int, dtype: type = np.float32) -> np.ndarray:
    """An array of any shape that takes no memory."""
    return np.broadcast_to(np.zeros((), dtype), shape)


# The container


def test_arrays_are_read_only_copies_of_the_documented_types():
    positions, visible = np.zeros((2, 3, 2)), np.ones((2, 3), bool)
    tracks = Tracks(positions, visible, [10, 20], 24)
    positions[:], visible[:] = 5, False
    assert tracks.positions.dtype == np.float32 and not tracks.positions.any()
    assert tracks.visible.dtype == np.bool_ and tracks.visible.all()
    assert tracks.ids.dtype == np.int64 and tracks.ids.tolist() == [0, 1, 2]
    assert tracks.size == (10, 20) and (tracks.length, tracks.count) == (2, 3)
    for array in (tracks.positions, tracks.visible, tracks.ids):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert repr(tracks) == "Tracks(2 frames, 3 points, size=(10, 20), fps=24)"


@pytest.mark.parametrize("value, shown", [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e39, "inf")])
def test_a_visible_point_that_is_nowhere_is_named(value: float, shown: str):
    positions = np.zeros((5, 9, 2))
    positions[3, 7, 1] = value
    with pytest.raises(ValueError, match=rf"positions\[frame 3, point 7\] is {shown} but visible"):
        Tracks(positions, np.ones((5, 9), bool), SIZE)
    visible = np.ones((5, 9), bool)
    visible[3, 7] = False
    assert Tracks(positions, visible, SIZE).count == 9


@pytest.mark.parametrize(
    "change, message",
    [
        ({"positions": np.zeros((4, 3))}, r"shape \(4, 3\)"),
        ({"positions": np.zeros((4, 3, 3))}, r"shape \(4, 3, 3\)"),
        ({"positions": np.zeros((0, 3, 2)), "visible": np.zeros((0, 3), bool)}, "0 frames"),
        ({"positions": np.zeros((4, 3, 2), complex)}, "complex128"),
        ({"visible": np.ones((4, 2), bool)}, r"visible has shape \(4, 2\)"),
        ({"visible": np.ones((4, 3))}, "visible is float64"),
        ({"size": (60,)}, r"size is \(60,\)"),
        ({"size": (60, 0)}, r"size is \(60, 0\)"),
        ({"size": (60.0, 80)}, r"size is \(60.0, 80\)"),
        ({"size": 60}, "size is 60"),
        ({"fps": 0}, "fps is 0"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": "24"}, "fps is '24'"),
        ({"ids": np.arange(2)}, "ids is int64"),
        ({"ids": np.arange(3.0)}, "ids is float64"),
        ({"ids": np.array([4, 5, 4])}, "points 0 and 2 have the same id 4"),
    ],
)
def test_errors_name_what_is_wrong(change: dict, message: str):
    good = {"positions": np.zeros((4, 3, 2)), "visible": np.ones((4, 3), bool), "size": SIZE, "fps": 24.0}
    with pytest.raises(ValueError, match=message):
        Tracks(**(good | change))


@pytest.mark.parametrize(
    "frames, points, message",
    [
        (2, MAX_POINTS + 1, "10001 points"),
        (MAX_FRAMES + 1, 1, "100001 frames"),
        (MAX_FRAMES, MAX_POINTS, "positions"),
    ],
)
def test_too_much_is_refused_before_it_is_copied(frames: int, points: int, message: str):
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        Tracks(huge(frames, points, 2), huge(frames, points, dtype=bool), SIZE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


# Files


def test_file_round_trip(tmp_path):
    tracks = random_tracks()
    tracks.save(tmp_path / "a.npz")
    assert_same(Tracks.load(tmp_path / "a.npz"), tracks)
    assert sorted(np.load(tmp_path / "a.npz").files) == ["fps", "ids", "positions", "size", "visible"]
    assert os.listdir(tmp_path) == ["a.npz"]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(frames=st.integers(1, 6), points=st.integers(0, 6), seed=st.integers(0, 1000))
def test_file_round_trip_of_any_tracks(tmp_path_factory, frames: int, points: int, seed: int):
    path = tmp_path_factory.mktemp("tracks") / "t.npz"
    tracks = random_tracks(frames, points, seed)
    tracks.save(path)
    assert_same(Tracks.load(path), tracks)


def test_ids_are_optional_and_unknown_keys_are_ignored(tmp_path):
    positions = np.ones((2, 3, 2), np.float64)
    arrays = {"positions": positions, "visible": np.ones((2, 3), bool), "size": [9, 8], "fps": [30.0]}
    np.savez(tmp_path / "a.npz", **arrays, note=np.array("hello"))
    tracks = Tracks.load(tmp_path / "a.npz")
    assert tracks.ids.tolist() == [0, 1, 2] and tracks.size == (9, 8) and tracks.fps == 30


@pytest.mark.parametrize("key", ["positions", "visible", "size", "fps"])
def test_a_missing_key_names_the_file_and_the_key(tmp_path, key: str):
    arrays = {"positions": np.ones((2, 3, 2)), "visible": np.ones((2, 3), bool), "size": [9, 8], "fps": 30.0}
    del arrays[key]
    np.savez(tmp_path / "some.npz", **arrays)
    with pytest.raises(ValueError, match=rf"some\.npz has no key '{key}'"):
        Tracks.load(tmp_path / "some.npz")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"visible": np.ones((2, 4), bool)}, "visible has shape"),
        ({"positions": np.full((2, 3, 2), np.nan)}, r"positions\[frame 0, point 0\] is nan"),
        ({"positions": np.array([[["a", "b"]]])}, "positions of type <U1"),
        ({"positions": np.array([None, {}])}, "positions of type object"),
        ({"size": [9, 8, 7]}, r"size of shape \(3,\)"),
        ({"size": [9, -8]}, r"size is \(9, -8\)"),
        ({"fps": [1.0, 2.0]}, r"fps of shape \(2,\)"),
        ({"ids": np.arange(4)}, r"ids of shape \(4,\)"),
        ({"ids": np.zeros(3, int)}, "same id 0"),
    ],
)
def test_bad_contents_name_the_file_and_the_reason(tmp_path, change: dict, message: str):
    arrays = {"positions": np.ones((2, 3, 2)), "visible": np.ones((2, 3), bool), "size": [9, 8], "fps": 30.0}
    np.savez(tmp_path / "some.npz", **(arrays | change))
    with pytest.raises(ValueError, match=rf"some\.npz.*{message}"):
        Tracks.load(tmp_path / "some.npz")


@pytest.mark.parametrize("shape", [(MAX_FRAMES + 1, 1), (1, MAX_POINTS + 1), (MAX_FRAMES, MAX_POINTS)])
def test_a_file_that_claims_too_much_is_refused_by_its_header(tmp_path, shape: tuple[int, int]):
    def header(*shape: int, dtype: str) -> bytes:
        file = io.BytesIO()
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        return file.getvalue()

    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("positions.npy", header(*shape, 2, dtype="<f4"))
        archive.writestr("visible.npy", header(*shape, dtype="|b1"))
        archive.writestr("size.npy", header(2, dtype="<i8"))
        archive.writestr("fps.npy", header(dtype="<f8"))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb\.npz is refused: .*(at most|more than)"):
        Tracks.load(tmp_path / "bomb.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_files_that_are_not_tracks(tmp_path):
    (tmp_path / "text.npz").write_text("not a zip file")
    with pytest.raises(ValueError, match=r"text\.npz is not a readable \.npz file"):
        Tracks.load(tmp_path / "text.npz")
    with pytest.raises(FileNotFoundError, match="absent"):
        Tracks.load(tmp_path / "absent.npz")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_damaged_file_is_a_value_error(tmp_path_factory, data: st.DataObject):
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    random_tracks().save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        Tracks.load(path)
    except ValueError as error:
        assert "damaged.npz" in str(error)


def test_saving_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    tracks = random_tracks()
    tracks.save(path)

    def fail(file, **arrays):
        file.write(b"half of a file")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(OSError, match="disk full"):
        random_tracks(seed=1).save(path)
    assert os.listdir(tmp_path) == ["a.npz"]
    assert_same(Tracks.load(path), tracks)


def test_saving_elsewhere_than_npz_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a\.npy does not end in \.npz"):
        random_tracks().save(tmp_path / "a.npy")


# Geometry


def test_inside_is_the_area_of_the_pixels():
    edge = np.float32(79.5)
    x = np.array(
        [
            -0.5,
            np.nextafter(np.float32(-0.5), np.float32(-1)),
            np.nextafter(edge, np.float32(0)),
            edge,
            np.nan,
        ]
    )
    positions = np.stack([x, np.full(5, 30)], axis=-1)[None]
    tracks = Tracks(positions, np.array([[True] * 4 + [False]]), SIZE)
    assert tracks.inside()[0].tolist() == [True, False, True, False, False]
    assert tracks.clipped().visible[0].tolist() == [True, False, True, False, False]
    swapped = Tracks(positions[..., ::-1], tracks.visible, SIZE[::-1])
    assert swapped.inside()[0].tolist() == [True, False, True, False, False]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), height=st.integers(1, 2000), width=st.integers(1, 2000))
def test_resizing_there_and_back(seed: int, height: int, width: int):
    tracks = random_tracks(seed=seed)
    there = tracks.resize((height, width))
    assert there.size == (height, width)
    np.testing.assert_allclose(there.resize(SIZE).positions, tracks.positions, atol=1e-3)
    np.testing.assert_array_equal(there.visible, tracks.visible)


def test_resizing_keeps_the_edges_and_follows_pixels():
    # The corners of the picture's area, and the centre of pixel (1, 2), which becomes a block of 3 x 2.
    positions = np.array([[[-0.5, -0.5], [79.5, 59.5], [1, 2]]])
    tracks = Tracks(positions, np.ones((1, 3), bool), SIZE).resize((120, 240))
    np.testing.assert_allclose(tracks.positions[0], [[-0.5, -0.5], [239.5, 119.5], [4, 4.5]])


# Time


def test_resampling_is_linear_in_time_and_keeps_latent_lengths():
    times = np.arange(49) / 24
    positions = np.stack([times * 30, 50 - times * 10], axis=-1)[:, None]
    tracks = Tracks(positions, np.ones((49, 1), bool), SIZE, 24).resample(16)
    assert tracks.length == 33 and tracks.fps == 16  # 4k + 1 stays 4k + 1
    times = np.arange(33) / 16
    np.testing.assert_allclose(tracks.positions[:, 0, 0], times * 30, atol=1e-4)
    np.testing.assert_allclose(tracks.positions[:, 0, 1], 50 - times * 10, atol=1e-4)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), frames=st.integers(1, 20), fps=st.floats(1, 200))
def test_resampling_makes_no_visible_nan_and_ends_where_it_did(seed: int, frames: int, fps: float):
    tracks = random_tracks(frames, seed=seed)
    other = tracks.resample(fps)  # Tracks themselves refuse a visible NaN
    rest = (tracks.length - 1) / 24 - (other.length - 1) / fps
    assert -1e-6 / fps <= rest < 1 / fps
    np.testing.assert_array_equal(other.visible[0], tracks.visible[0])
    assert_same(tracks.resample(24.0), tracks)


def test_resampling_takes_the_nearest_frame_where_a_point_is_hidden():
    x = np.array([0, 10, np.nan, 30, 40])
    tracks = Tracks(np.stack([x, x], -1)[:, None], np.isfinite(x)[:, None], SIZE, 10).resample(40)
    visible = [True] * 4 + [True, True, False, False] + [False] * 3 + [True] + [True] * 5
    # Times 1.0, 1.25 are nearest to frame 1; 1.5 to 2.5 to the hidden one; 2.75 to frame 3.
    visible[10] = True  # 2.5 is as near to both: the later one is taken
    assert tracks.visible[:, 0].tolist() == visible
    assert tracks.positions[5, 0, 0] == 10 and tracks.positions[11, 0, 0] == 30 and tracks.positions[14, 0, 0] == 35


def test_lengthening_is_refused_before_it_is_done():
    tracks = random_tracks()
    tracemalloc.start()
    for lengthen in (lambda: tracks.resample(1e10), lambda: tracks.hold(10**9)):
        with pytest.raises(ValueError, match="at most 100000"):
            lengthen()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1e6


def test_frames_hold_and_join_in_time():
    tracks = random_tracks()
    parts = [tracks.frames(0, 3), tracks.frames(3, 7)]
    order = np.argsort(tracks.ids)
    assert_same(Tracks.join(parts), tracks.select(order))
    held = tracks.hold(4)
    assert_same(held.frames(0, 7), tracks)
    np.testing.assert_array_equal(held.positions[7:], np.repeat(tracks.positions[-1:], 4, 0))
    np.testing.assert_array_equal(held.visible[7:], np.repeat(tracks.visible[-1:], 4, 0))
    assert_same(tracks.hold(0), tracks)
    for start, stop in [(0, 8), (-1, 3), (3, 3), (5, 2)]:
        with pytest.raises(ValueError, match=f"{start}..{stop}"):
            tracks.frames(start, stop)
    with pytest.raises(ValueError, match="-1"):
        tracks.hold(-1)


def test_join_matches_points_by_id():
    a = Tracks(np.full((2, 2, 2), 1), np.ones((2, 2), bool), SIZE, ids=np.array([7, 3]))
    b = Tracks(np.full((1, 2, 2), 2), np.ones((1, 2), bool), SIZE, ids=np.array([9, 7]))
    joined = Tracks.join([a, b])
    assert joined.ids.tolist() == [3, 7, 9]
    assert joined.visible.tolist() == [[True, True, False]] * 2 + [[False, True, True]]
    assert joined.positions[:, 1, 0].tolist() == [1, 1, 2]


# Points


def test_merge_and_select_are_inverse():
    a, b = random_tracks(points=3, seed=1), random_tracks(points=2, seed=2)
    merged = Tracks.merge([a, b], renumber=True)
    assert merged.ids.tolist() == [0, 1, 2, 3, 4]
    for part, index in ((a, [0, 1, 2]), (b, [3, 4])):
        back = merged.select(index)
        np.testing.assert_array_equal(back.positions, part.positions)
        np.testing.assert_array_equal(back.visible, part.visible)
    assert_same(merged.select(np.array([False, False, False, True, True])), merged.select([-2, -1]))
    assert merged.select([]).count == 0


def test_merge_and_select_refuse_what_does_not_fit():
    tracks = random_tracks()
    with pytest.raises(ValueError, match="same id"):
        Tracks.merge([tracks, tracks])
    with pytest.raises(ValueError, match="differ in length: 7 and 3"):
        Tracks.merge([tracks, tracks.frames(0, 3)], renumber=True)
    with pytest.raises(ValueError, match="differ in size"):
        Tracks.merge([tracks, tracks.resize((8, 8))], renumber=True)
    with pytest.raises(ValueError, match="no tracks given"):
        Tracks.merge([])
    many = Tracks(huge(1, 6000, 2), huge(1, 6000, dtype=bool), SIZE)
    with pytest.raises(ValueError, match="12000 points"):
        Tracks.merge([many, many], renumber=True)
    with pytest.raises(ValueError, match="no point 5 among 5"):
        tracks.select([0, 5])
    with pytest.raises(ValueError, match="same id"):
        tracks.select([1, 1])
    with pytest.raises(ValueError, match=r"mask of shape \(4,\)"):
        tracks.select(np.ones(4, bool))


def test_empty_tracks_go_through_everything(tmp_path):
    empty = Tracks.empty(9, SIZE, 16)
    assert (empty.length, empty.count, empty.fps) == (9, 0, 16)
    empty.save(tmp_path / "e.npz")
    assert_same(Tracks.load(tmp_path / "e.npz"), empty)
    other = random_tracks(9)
    assert empty.resize((8, 8)).resample(24).hold(3).frames(2, 5).clipped().select([]).count == 0
    assert_same(Tracks.merge([Tracks.empty(9, SIZE), other]), other)
    assert Tracks.join([empty, empty]).length == 18
