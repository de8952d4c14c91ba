import io
import json
import pickle
import tarfile
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from motionstream.data.samples import MEMBERS, pad_text, used_rows, write_shards
from motionstream.data.shards import FORMAT, ShardFolder, open_shards

from .conftest import fake_sample


def number(sample):
    return int(sample.latents[0, 0, 0, 0])


def same(a, b):
    for name, value in vars(a).items():
        other = getattr(b, name)
        equal = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        if not equal or (isinstance(value, torch.Tensor) and value.dtype != other.dtype):
            return False
    return True


def make(folder, samples=10, per_shard=3):
    """A folder of fake samples in shards of `per_shard`, the last one smaller."""
    folder.mkdir()
    shards = []
    for part, first in enumerate(range(0, samples, per_shard)):
        rows = [fake_sample(index) for index in range(first, min(first + per_shard, samples))]
        shards += write_shards(folder, f"{part:05d}", rows, 2**30)
    manifest = {"format": FORMAT, "complete": True, "shards": shards}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path / "set")


@pytest.mark.parametrize("changes", [{}, {"image": False}, {"text_rows": 0}])
def test_a_sample_comes_back_as_it_was(tmp_path, changes):
    sample = fake_sample(1, **changes)
    write_shards(tmp_path, "a", [sample, fake_sample(2)], 2**30)
    manifest = {"format": FORMAT, "complete": True, "shards": write_shards(tmp_path, "a", [sample], 2**30)}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    read = ShardFolder(tmp_path)[0]
    assert same(read, sample) and not same(read, fake_sample(2, **changes))
    assert 0 < read.visible.float().mean() < 1
    assert read.tracks.length == 9 and read.tracks.size == (32, 48) and read.tracks.fps == 16


def test_text_is_kept_without_the_zeros_behind_it():
    text = torch.zeros(6, 4)
    text[0], text[2] = 1, 2  # a zero row inside the sentence belongs to it
    assert used_rows(text).shape == (3, 4)
    assert torch.equal(pad_text(used_rows(text), 6), text)
    assert used_rows(torch.zeros(6, 4)).shape == (0, 4)
    assert torch.equal(pad_text(torch.zeros(0, 4), 6), torch.zeros(6, 4))


def test_shards_have_a_largest_size_and_the_same_bytes_again(tmp_path):
    samples = [fake_sample(index) for index in range(7)]
    whole = write_shards(tmp_path, "whole", samples, 2**30)
    assert [record["samples"] for record in whole] == [7]
    most = whole[0]["bytes"] // 2
    parts = write_shards(tmp_path, "part", samples, most)
    assert sum(record["samples"] for record in parts) == 7 and len(parts) > 1
    assert all((tmp_path / record["name"]).stat().st_size == record["bytes"] <= most for record in parts)
    assert write_shards(tmp_path, "again", samples, most)[0]["sha256"] == parts[0]["sha256"]
    assert len(write_shards(tmp_path, "tiny", samples, 1)) == 7  # never less than a sample
    assert write_shards(tmp_path, "none", [], 1) == []


def test_webdataset_reads_them(folder):
    import webdataset

    found = list(webdataset.WebDataset(str(folder / "00001-00.tar"), shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in found] == [f"{index:08d}-00" for index in (3, 4, 5)]
    assert set(MEMBERS) <= set(found[0]) and found[0]["txt"].decode() == "clip „3“"


def test_the_order_is_a_permutation_of_seed_and_epoch(folder):
    shards = ShardFolder(folder)
    orders = {key: tuple(shards.order(*key)) for key in [(0, 0), (0, 1), (1, 0)]}
    assert len(set(orders.values())) == 3
    assert all(sorted(order) == list(range(10)) for order in orders.values())
    assert tuple(ShardFolder(folder).order(0, 0)) == orders[0, 0]
    # mixed two at a time: the samples of a shard stay near one another
    order = shards.order(0, 0, mix_shards=2)
    assert sorted(order) == list(range(10)) and {int(index) // 3 for index in order[:4]} != set(range(4))
    assert len({int(index) // 3 for index in order[:4]}) <= 2


def test_every_epoch_gives_every_sample_once(folder):
    taken = [number(sample) for sample in open_shards(folder, seed=3, epochs=2)]
    assert sorted(taken[:10]) == sorted(taken[10:]) == list(range(10)) and taken[:10] != taken[10:]
    assert [number(sample) for sample in open_shards(folder, shuffle=False, epochs=1)] == list(range(10))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_out_the_order_of_one(folder, world):
    one = [number(sample) for sample, _ in zip(open_shards(folder, seed=1), range(24), strict=False)]
    ranks = [iter(open_shards(folder, seed=1, rank=rank, world=world)) for rank in range(world)]
    assert [number(next(ranks[step % world])) for step in range(24)] == one


def test_a_stream_goes_on_where_it_was(folder):
    straight = [number(sample) for sample, _ in zip(open_shards(folder, seed=1), range(26), strict=False)]
    stream = open_shards(folder, seed=1)
    taken = [number(sample) for _, sample in zip(range(13), stream, strict=False)]
    state = json.loads(json.dumps(stream.state_dict()))
    assert state["position"] == 13
    # resumed by two ranks, which is allowed
    resumed = [open_shards(folder, seed=1, rank=rank, world=2) for rank in range(2)]
    for stream in resumed:
        stream.load_state_dict(state)
    ranks = [iter(stream) for stream in resumed]
    assert taken + [number(next(ranks[step % 2])) for step in range(13)] == straight
    for other in (open_shards(folder, seed=2), open_shards(make(folder.parent / "other", 9), seed=1)):
        with pytest.raises(ValueError, match="data position"):
            other.load_state_dict(state)


def test_loader_workers_keep_the_order(folder):
    stream = open_shards(folder, seed=1, rank=1, world=2, epochs=2)
    expected = [number(sample) for sample in stream]
    stream.position = 0
    stream.shards[0]  # a file is open, which must not travel to the workers
    assert not pickle.loads(pickle.dumps(stream)).shards._open
    loader = DataLoader(stream, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert [number(sample) for sample in loader] == expected
    assert len(expected) == 10


def test_few_files_are_open_at_a_time(folder):
    shards = ShardFolder(folder, keep_open=2)
    assert [number(shards[int(index)]) for index in shards.order(0, 0)] == shards.order(0, 0).tolist()
    assert len(shards._open) == 2
    with pytest.raises(IndexError):
        shards[10]


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def place(path, member):
    with tarfile.open(path) as archive:
        return archive.getmember(member).offset_data


@pytest.mark.parametrize("kind", [*MEMBERS, "header"])
def test_damage_is_found_when_read_or_verified(folder, kind):
    path = folder / "00001-00.tar"
    offset = 600 if kind == "header" else place(path, f"00000004-00.{kind}") + 3
    flip(path, 5 if kind == "header" else offset)
    shards = ShardFolder(folder)
    with pytest.raises(ValueError, match=r"00001-00.tar is damaged .*delete it and run"):
        [shards[index] for index in (3, 4, 5)]
    assert number(shards[0]) == 0 and number(shards[9]) == 9
    with pytest.raises(ValueError, match=r"00001-00.tar is damaged \(its SHA-256"):
        ShardFolder(folder, verify=True)


def test_a_sound_folder_verifies(folder):
    assert len(open_shards(folder, verify=True).shards) == 10


def test_damage_can_be_skipped(folder):
    flip(folder / "00001-00.tar", place(folder / "00001-00.tar", "00000004-00.safetensors") + 200)
    (folder / "00003-00.tar").unlink()
    with pytest.warns(UserWarning, match=r"00003-00.tar is missing.*replaced by the next"):
        stream = open_shards(folder, shuffle=False, epochs=1, damaged="skip")
    with pytest.warns(UserWarning, match=r"00001-00.tar is damaged") as caught:
        taken = [number(sample) for sample in stream]
    assert len(caught) == 1  # once a shard
    assert taken == [0, 1, 2, 3, 5, 5, 6, 7, 8, 0]


def test_nothing_left_is_an_error(folder):
    for path in folder.glob("*.tar"):
        path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stream = open_shards(folder, damaged="skip")
        with pytest.raises(ValueError, match="no sample in"):
            next(iter(stream))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "manifest.json").unlink(), "no prepared data set"),
        (lambda f: (f / "manifest.json").write_text("{"), "manifest.json is damaged"),
        (lambda f: (f / "manifest.json").write_text("[]"), "another format"),
        (lambda f: (f / "manifest.json").write_text('{"format": 9}'), "another format"),
        (lambda f: edit(f, complete=False), "not finished: run the same"),
        (lambda f: edit(f, shards=[]), "no samples: report.jsonl"),
        (lambda f: (f / "00000-00.tar").unlink(), "00000-00.tar is missing"),
        (lambda f: (f / "00000-00.tar").write_bytes(b"x"), "has 1 of"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(folder, spoil, words):
    spoil(folder)
    with pytest.raises(ValueError, match=words):
        open_shards(folder)


def edit(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


def test_options_that_mean_nothing(folder):
    with pytest.raises(ValueError, match="damaged = 'ignore'"):
        open_shards(folder, damaged="ignore")
    with pytest.raises(ValueError, match="rank = 2, world = 2"):
        open_shards(folder, rank=2, world=2)


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    import webdataset.writer

    def full(self, sample):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(webdataset.writer.TarWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write_shards(tmp_path, "a", [fake_sample(0)], 2**30)
    assert not list(tmp_path.iterdir())


def test_pictures_are_lossless():
    from PIL import Image

    from motionstream.data.samples import to_members

    sample = fake_sample(0)
    picture = np.array(Image.open(io.BytesIO(to_members(sample)["png"])))
    assert np.array_equal(picture, sample.first_frame.permute(1, 2, 0).numpy())
