import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from motionstream.components import Placement, random_components
from motionstream.data import prepare as module
from motionstream.data.encode import Encoder, PrepareSettings, read_clips, to_half, weights_fingerprint
from motionstream.data.prepare import Execution, UnitPreparer, prepare, spread
from motionstream.data.samples import pad_text
from motionstream.data.shards import ShardFolder, open_shards
from motionstream.data.sources import Filters, SourceVideo, videos_of_folder
from motionstream.media.pictures import fit
from motionstream.media.videos import read_video, write_video
from motionstream.presets import preset
from motionstream.tracks import grid_points

from .conftest import CPU, SETTINGS, contents, fill, moving


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def report_of(folder):
    return [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()]


def copied(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "set")


def test_a_sample_is_what_the_model_would_see(prepared, videos):
    config, sample = preset("debug"), ShardFolder(prepared, verify=True)[0]
    parts = random_components(config, Placement(device="cpu"))
    frames, _ = read_video(videos / "0.mp4", fps=24, limit=45)
    fitted = np.stack([fit(frame, (32, 32))[0] for frame in frames])
    video = torch.from_numpy(fitted).permute(3, 0, 1, 2)
    assert torch.equal(sample.first_frame, video[:, 0])
    whole, _ = parts.autoencoder.encode(video[None].float() / 127.5 - 1)
    assert sample.latents.dtype == torch.float16 and sample.latents.std() > 0.05
    assert torch.allclose(sample.latents.float(), whole[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(sample.latents.float()[:, 1:], whole[0][:, :-1], rtol=1e-1)  # in this order
    assert sample.caption == "a cat & a dog" and sample.image is None and sample.fps == 24
    text = parts.text_encoder.encode([sample.caption])[0]
    assert len(sample.text) == 4 < len(text)  # words, not places
    assert torch.allclose(pad_text(sample.text, len(text)).float(), text, rtol=1e-3, atol=1e-4)
    source = sample.source
    assert (source["video"], source["clip"], source["fps"], source["size"]) == ("0.mp4", 0, 24.0, [64, 64])


def test_tracks_are_those_of_the_clip(prepared):
    """A pixel a frame at 64 pixels is half a pixel at 32."""
    for sample in (shards := ShardFolder(prepared))[0], shards[2]:
        tracks = sample.tracks
        assert tracks.positions.shape == (45, 36, 2)
        assert np.array_equal(tracks.positions[0], grid_points((32, 32), 6))
        assert np.array_equal(tracks.visible[0], tracks.inside()[0]) and tracks.visible[0].sum() >= 25
        seen = tracks.visible[20]
        assert seen.sum() > 8 and not tracks.visible[-1].all()  # what the motion carries out is lost
        moved = (tracks.positions[20] - tracks.positions[0])[seen]
        assert np.allclose(np.median(moved, axis=0), [10, 0], atol=0.3)
        assert not (tracks.visible & ~tracks.inside()).any()


def test_the_manifest_tells_what_was_done(prepared):
    manifest = manifest_of(prepared)
    assert manifest["complete"] and manifest["counts"]["samples"] == 3
    assert manifest["counts"] | {"bytes": 0} == {"videos": 3, "skipped": 0, "samples": 3, "bytes": 0}
    assert [shard["samples"] for shard in manifest["shards"]] == [2, 1]
    assert manifest["settings"]["grid"] == 6 and manifest["settings"]["model"]["name"] == "debug"
    assert manifest["settings"]["source"]["videos"] == 3 and manifest["versions"]["torch"] == torch.__version__
    assert len({shard["sha256"] for shard in manifest["shards"]}) == 2
    assert report_of(prepared) == []
    modes = {path.stat().st_mode & 0o777 for path in prepared.rglob("*") if path.is_file()}
    assert len(modes) == 1  # nothing is for its owner alone


def test_the_null_condition_is_kept(prepared):
    fixed = ShardFolder(prepared).fixed_text()
    assert fixed["empty"].shape == fixed["negative"].shape == (0, 16)
    shutil.copytree(prepared, copy := prepared.parent / "copy")
    (copy / "fixed_text.safetensors").unlink()
    with pytest.raises(ValueError, match=r"fixed_text\.safetensors is missing"):
        ShardFolder(copy).fixed_text()


def test_a_finished_set_is_left_alone_and_a_lost_part_is_made_again(prepared, videos, tmp_path, monkeypatch):
    folder = copied(prepared, tmp_path)
    before = contents(folder)
    done = []
    made = UnitPreparer.__call__
    monkeypatch.setattr(UnitPreparer, "__call__", lambda self, unit: done.append(unit.number) or made(self, unit))
    prepare(videos_of_folder(videos), folder, SETTINGS, CPU)
    assert done == []
    (folder / "00001-00.tar").unlink()
    (folder / ".00001-00.12345678.tmp.tar").write_bytes(b"of a run that was killed")
    prepare(videos_of_folder(videos), folder, SETTINGS, CPU)
    assert done == [1]
    (folder / "units/00000.json").write_text("{")  # damaged: done anew
    prepare(videos_of_folder(videos), folder, SETTINGS, CPU)
    assert done == [1, 0] and contents(folder) == before


def test_an_interrupted_run_goes_on_to_the_same_bytes(prepared, videos, tmp_path, monkeypatch):
    folder = tmp_path / "set"
    made = UnitPreparer.__call__

    def interrupted(self, unit):
        if unit.number == 1:
            raise KeyboardInterrupt
        return made(self, unit)

    monkeypatch.setattr(UnitPreparer, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(videos_of_folder(videos), folder, SETTINGS, CPU)
    with pytest.raises(ValueError, match="not finished"):
        open_shards(folder)
    assert (folder / "00000-00.tar").exists() and not (folder / "00001-00.tar").exists()
    monkeypatch.setattr(UnitPreparer, "__call__", made)
    said = []
    prepare(videos_of_folder(videos), folder, SETTINGS, CPU, say=lambda *numbers: said.append(numbers))
    assert said == [(2, 3), (3, 3)]
    assert contents(folder) == contents(prepared)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": 7}, "grid = 6, now 7"),
        ({"tracker": "template"}, 'tracker = "lucas-kanade", now "template"'),
        ({"filters": Filters(aspect=1.0)}, r"filters.aspect = null, now 1.0"),
        ({"unit_videos": 3}, "unit_videos = 2, now 3"),
        ({"model": "nano", "untrained": False}, "untrained|size"),
    ],
)
def test_other_settings_are_refused_by_name(prepared, videos, tmp_path, changes, words):
    folder = copied(prepared, tmp_path)
    before = contents(folder)
    with pytest.raises(ValueError, match=words):
        prepare(videos_of_folder(videos), folder, replace(SETTINGS, **changes), CPU)
    assert contents(folder) == before


def test_another_source_precision_or_weights_are_refused(prepared, videos, tmp_path, monkeypatch):
    folder = copied(prepared, tmp_path)
    found = videos_of_folder(videos)
    with pytest.raises(ValueError, match=r"source\.videos = 3, now 2"):
        prepare(found[:2], folder, SETTINGS, CPU)
    with pytest.raises(ValueError, match=r"source\.sha256"):
        prepare([replace(found[0], caption="other"), *found[1:]], folder, SETTINGS, CPU)
    half = Execution(placement=Placement(device="cpu", dtype="bfloat16"))
    with pytest.raises(ValueError, match='dtype = "float32", now "bfloat16"'):
        prepare(found, folder, SETTINGS, half)
    monkeypatch.setattr(module, "weights_fingerprint", lambda parts: "others")
    with pytest.raises(ValueError, match='weights = "random", now "others"'):
        prepare(found, folder, SETTINGS, CPU)


def test_weights_are_told_apart(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/model.safetensors").write_bytes(b"a" * 100)
    (tmp_path / "other.bin").write_bytes(b"1")
    one = weights_fingerprint(tmp_path)
    (tmp_path / "other.bin").write_bytes(b"2")  # no part of what is used
    assert weights_fingerprint(tmp_path) == one
    (tmp_path / "vae/model.safetensors").write_bytes(b"a" * 99 + b"b")
    assert weights_fingerprint(tmp_path) != one != weights_fingerprint(None)


@pytest.fixture
def mixed(tmp_path):
    """Good and bad videos: 0 good, 1 too short, 2 no video, 3 cut short, 4 good, 5 missing."""
    folder = fill(tmp_path / "mixed", (46, 20, 0, 400, 46)[:2])
    (folder / "2.mp4").write_bytes(b"this is no video")
    frames = np.random.default_rng(0).integers(0, 256, (120, 64, 64, 3), np.uint8)
    write_video(folder / "3.mp4", frames, 24)
    whole = (folder / "3.mp4").read_bytes()
    (folder / "3.mp4").write_bytes(whole[: len(whole) // 8])
    write_video(folder / "4.mp4", moving(46, seed=4), 24)
    return folder


def test_bad_videos_are_skipped_with_their_reasons(mixed, tmp_path):
    videos = [*videos_of_folder(mixed), SourceVideo(mixed / "5.mp4", "5.mp4", "")]
    videos += [SourceVideo(mixed / "../x.mp4", "../x.mp4", "")]
    manifest = prepare(videos, tmp_path / "set", replace(SETTINGS, unit_videos=4), CPU)
    reasons = {entry["video"]: entry["reason"] for entry in report_of(tmp_path / "set")}
    assert "it has 20 frames at 24 fps, a clip of debug has 45" in reasons["1.mp4"]
    assert "it is no video or damaged" in reasons["2.mp4"]
    assert "3.mp4" in reasons  # its frames break off before a clip is full
    assert "there is no such file" in reasons["5.mp4"]
    assert "leads out of the source" in reasons["../x.mp4"]
    assert set(reasons) == {"1.mp4", "2.mp4", "3.mp4", "5.mp4", "../x.mp4"}
    assert manifest["counts"]["skipped"] == 5 and manifest["counts"]["samples"] == 2
    shards = ShardFolder(tmp_path / "set")
    assert [shards[index].source["video"] for index in range(2)] == ["0.mp4", "4.mp4"]


def test_captions_can_be_required(videos, tmp_path):
    settings = replace(SETTINGS, filters=Filters(require_caption=True))
    manifest = prepare(videos_of_folder(videos), tmp_path / "set", settings, CPU)
    assert manifest["counts"]["samples"] == 1
    assert [entry["reason"] for entry in report_of(tmp_path / "set")] == ["it has no caption"] * 2


def test_no_usable_video_is_an_error_that_says_why(videos, tmp_path):
    settings = replace(SETTINGS, filters=Filters(aspect=16 / 9))
    with pytest.raises(ValueError, match=r"none of the 3 videos could be used; 3 times: 64x64 is 1.000 wide"):
        prepare(videos_of_folder(videos), tmp_path / "set", settings, CPU)
    assert len(report_of(tmp_path / "set")) == 3
    with pytest.raises(ValueError, match="holds no samples"):
        open_shards(tmp_path / "set")


def test_an_error_of_ours_skips_the_video_and_says_its_kind(videos, tmp_path, monkeypatch):
    track = Encoder.clip

    def broken(self, frames, key, caption, source):
        if source["video"] == "1.mp4":
            raise RuntimeError("decoder gave up")
        return track(self, frames, key, caption, source)

    monkeypatch.setattr(Encoder, "clip", broken)
    prepare(videos_of_folder(videos), tmp_path / "set", SETTINGS, CPU)
    assert report_of(tmp_path / "set") == [{"video": "1.mp4", "reason": "RuntimeError: decoder gave up"}]


@pytest.mark.parametrize("tracker", ["cotracker", "cotracker-online"])
def test_a_missing_tracker_is_no_videos_fault(videos, tmp_path, tracker):
    settings = replace(SETTINGS, tracker=tracker, cotracker=(str(tmp_path / "none"), "none"))
    with pytest.raises(ValueError, match=r"none has no hubconf\.py"):
        prepare(videos_of_folder(videos), tmp_path / "set", settings, CPU)
    assert not list((tmp_path / "set/units").iterdir())


def test_no_memory_ends_the_run(videos, tmp_path, monkeypatch):
    def full(self, *arguments):
        raise MemoryError("no memory")

    monkeypatch.setattr(Encoder, "clip", full)
    with pytest.raises(MemoryError):
        prepare(videos_of_folder(videos), tmp_path / "set", SETTINGS, CPU)


def test_a_full_disk_is_one_line_and_loses_nothing(prepared, videos, tmp_path, monkeypatch):
    from webdataset.writer import TarWriter

    write = TarWriter.write

    def full(self, sample):
        if sample["__key__"].startswith("00000002"):
            raise OSError(28, "No space left on device")
        return write(self, sample)

    monkeypatch.setattr(TarWriter, "write", full)
    with pytest.raises(ValueError, match="disk is full; make room and run the same command again"):
        prepare(videos_of_folder(videos), tmp_path / "set", SETTINGS, CPU)
    assert not list((tmp_path / "set").glob(".*"))
    monkeypatch.setattr(TarWriter, "write", write)
    prepare(videos_of_folder(videos), tmp_path / "set", SETTINGS, CPU)
    assert contents(tmp_path / "set") == contents(prepared)


def test_a_folder_with_other_things_is_refused(videos, tmp_path):
    found = videos_of_folder(videos)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/photo.jpg").write_bytes(b"")
    for folder, words in ((tmp_path / "full", "no prepared data set"), (videos / "0.mp4", "no prepared data set")):
        with pytest.raises(ValueError, match=words):
            prepare(found, folder, SETTINGS, CPU)
    with pytest.raises(ValueError, match="there are no videos"):
        prepare([], tmp_path / "set", SETTINGS, CPU)
    with pytest.raises(ValueError, match="no weights for 'debug'"):
        prepare(found, tmp_path / "set", replace(SETTINGS, untrained=False), CPU)
    with pytest.raises(ValueError, match="multiples of 16"):
        prepare(found, tmp_path / "set", replace(SETTINGS, size=(40, 40)), CPU)
    assert not (tmp_path / "set").exists()


def test_long_videos_give_several_clips_at_the_models_rate(tmp_path):
    write_video(tmp_path / "a.mp4", moving(100, speed=1), 48)  # 50 frames at 24 fps, two pixels a frame
    video, config = SourceVideo(tmp_path / "a.mp4", "a.mp4", ""), preset("debug")
    one = replace(config, clip_frames=21)
    clips, facts = read_clips(video, replace(SETTINGS, clips_per_video=5), one)
    assert [len(clip) for clip in clips] == [21, 21] and facts["fps"] == 48
    assert len(read_clips(video, SETTINGS, one)[0]) == 1
    frames, _ = read_video(tmp_path / "a.mp4")
    expected = np.stack([fit(frame, (32, 32))[0] for frame in frames[::2]])
    assert np.array_equal(np.concatenate(clips), expected[:42]) and not np.array_equal(clips[0], clips[1])


def test_values_that_half_precision_cannot_hold_are_refused():
    assert to_half("latents", torch.tensor([1.5])).dtype == torch.float16
    with pytest.raises(ValueError, match="latents are not finite in half precision"):
        to_half("latents", torch.tensor([1e6]))


def test_workers_take_the_devices_in_turn():
    cpu = Placement(device="cpu")
    assert spread(cpu, 1, 2) is cpu and spread(Placement(device="cuda:1"), 0, 2).device == "cuda:1"
    assert [spread(Placement(device=d), 3, 2).device for d in ("cuda", "auto")] == ["cuda:1", "cuda:1"]
    assert spread(Placement(), 3, 0).device == "auto"


@pytest.mark.parametrize(
    "values",
    [{"tracker": "magic"}, {"grid": 0}, {"grid": 101}, {"clips_per_video": 0}, {"unit_videos": 0}, {"shard_bytes": 0}],
)
def test_settings_are_checked(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        PrepareSettings(**values)
    with pytest.raises(ValueError, match="workers = -1"):
        Execution(workers=-1)
