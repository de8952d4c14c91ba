"""Data preparation (paper, appendix D): videos → shards of latents, tracks, text and image tokens.

The videos of a source are divided into units of consecutive videos. One process prepares a unit independently and
writes its shards, then a record in ``units/``, so a unit with a record is complete. The next run repeats units without
a record; their bytes do not depend on the process or machine.
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from motionstream import __version__
from motionstream.checkpoint_files import write_tensors
from motionstream.child_processes import end_with_parent
from motionstream.components import Placement
from motionstream.data.encode import Encoder, PrepareSettings, find_model, read_clips, weights_fingerprint
from motionstream.data.json_files import first_difference, read_json, write_text
from motionstream.data.samples import Sample, write_shards
from motionstream.data.shards import FIXED_TEXT, FORMAT, MANIFEST
from motionstream.data.sources import SourceVideo, fingerprint

REPORT = "report.jsonl"
LIBRARIES = ("av", "diffusers", "numpy", "opencv-python-headless", "pillow", "torch", "transformers", "webdataset")


@dataclass(frozen=True)
class Execution:
    """Where to run; ``workers`` and ``ray`` do not affect the output."""

    workers: int = 0
    """Worker processes; 0 works in this process. With Ray: actors; 0 means one per GPU, or per CPU without GPUs."""
    ray: bool = False
    """Run on a cluster with Ray Data. Source and target must be on a file system shared by all nodes."""
    placement: Placement = field(default_factory=Placement)

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers = {self.workers}: give 0 or more")


@dataclass(frozen=True)
class Unit:
    """Consecutive videos of the source, prepared together. ``first``: the first one's number in the source."""

    number: int
    first: int
    videos: tuple[SourceVideo, ...]
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.number:05d}"

    @property
    def record(self) -> Path:
        return self.folder / "units" / f"{self.name}.json"


class UnitPreparer:
    """Prepares units; a unit's record is written last. The model's parts are loaded once."""

    def __init__(self, settings: PrepareSettings, placement: Placement) -> None:
        self.settings = settings
        self.encoder = Encoder(settings, placement)

    def __call__(self, unit: Unit) -> dict[str, Any]:
        """Write the unit's shards and record, and return the record."""
        for leftover in unit.folder.glob(f".{unit.name}-*"):  # from a run that was killed
            leftover.unlink(missing_ok=True)
        self.encoder.load()  # outside the loop, since failures here are not a video's fault
        samples: list[Sample] = []
        skipped: list[dict[str, str]] = []
        for offset, video in enumerate(unit.videos):
            try:
                samples += self._video(unit.first + offset, video)
            except (MemoryError, torch.OutOfMemoryError):
                raise  # not the video's fault: the next one would fail too
            except Exception as error:  # decoders raise all kinds of errors for damaged files
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                skipped.append({"video": video.name, "reason": kind + " ".join(str(error).split())})
        # one encoder after the other, so that the large ones are never in memory together and load once per unit
        texts = self.encoder.texts([sample.caption for sample in samples])
        images = self.encoder.images([sample.first_frame for sample in samples])
        whole = [replace(s, text=t, image=i) for s, t, i in zip(samples, texts, images, strict=True)]
        return self._write(unit, whole, skipped)

    def _video(self, number: int, video: SourceVideo) -> list[Sample]:
        config = self.encoder.config
        clips, facts = read_clips(video, self.settings, config)
        samples = []
        for index, frames in enumerate(clips):
            source = facts | {"clip": index, "start_seconds": index * config.clip_frames / config.fps}
            samples.append(self.encoder.clip(frames, f"{number:08d}-{index:02d}", video.caption, source))
        return samples

    def _write(self, unit: Unit, samples: list[Sample], skipped: list[dict[str, str]]) -> dict[str, Any]:
        try:
            if unit.number == 0:
                self._write_fixed_text(unit.folder / FIXED_TEXT)
            shards = write_shards(unit.folder, unit.name, samples, self.settings.shard_bytes)
            record = {"videos": len(unit.videos), "shards": shards, "skipped": skipped}
            write_text(unit.record, json.dumps(record) + "\n")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ValueError(
                    f"cannot write to {unit.folder}: the disk is full; make room and run the same command again, "
                    "finished shards are kept"
                ) from error
            raise
        return record

    def _write_fixed_text(self, path: Path) -> None:
        """Write the tokens that training needs besides the captions: of the null condition and the negative prompt."""
        sentences = ("", self.encoder.config.sampler.negative_prompt)
        empty, negative = self.encoder.texts(sentences)
        write_tensors(path, {"empty": empty, "negative": negative.clone()})  # the same tensor if both are empty


def prepare(
    videos: Sequence[SourceVideo],
    folder: Path,
    settings: PrepareSettings,
    execution: Execution | None = None,
    *,
    say: Callable[[int, int], object] = lambda done, total: None,
) -> dict[str, Any]:
    """Prepare ``videos`` into ``folder``, keeping units already finished there. Returns the manifest.

    ``say`` is called with the numbers of finished videos and of all videos.

    Raises:
        ValueError: the folder was begun with other settings or another source (naming the first difference), the disk
            is full, a worker died, or no video was usable.
    """
    execution = execution or Execution()
    if not videos:
        raise ValueError("there are no videos; name a folder or a table with some")
    plan = _plan(videos, settings, execution.placement)
    _begin(folder, plan)
    size = settings.unit_videos
    units = [
        Unit(number, first, tuple(videos[first : first + size]), folder)
        for number, first in enumerate(range(0, len(videos), size))
    ]
    records = {unit.number: record for unit in units if (record := _finished(unit)) is not None}
    waiting = [unit for unit in units if unit.number not in records]
    done = sum(record["videos"] for record in records.values())
    say(done, len(videos))
    for number, record in _run(waiting, settings, execution):
        records[number] = record
        done += record["videos"]
        say(done, len(videos))
    return _finish(folder, plan, [records[unit.number] for unit in units])


def _plan(videos: Sequence[SourceVideo], settings: PrepareSettings, placement: Placement) -> dict[str, Any]:
    """The settings for the manifest, as values that survive a round trip through JSON."""
    config, parts = find_model(settings)
    config.checked_size(settings.size or config.size)
    values = {name: value for name, value in asdict(settings).items() if name not in ("model", "cotracker")}
    values |= {"size": settings.size or config.size, "frames": config.clip_frames, "fps": config.fps}
    values |= {"dtype": placement.dtype or config.dtype, "text_int8": placement.text_encoder == "int8"}
    values |= {"tile": placement.tile, "model": config.to_dict(), "weights": weights_fingerprint(parts)}
    return json.loads(json.dumps({"source": fingerprint(videos), **values}))


def _begin(folder: Path, plan: dict[str, Any]) -> None:
    """Create the folder, or check that it was begun with the same plan."""
    path = folder / MANIFEST
    if path.exists():
        before = read_json(path)
        difference = first_difference(before.get("settings"), plan)
        if before.get("format") != FORMAT or difference:
            what = difference or f"format = {before.get('format')}, now {FORMAT}"
            raise ValueError(f"{folder} was begun with {what}; give the same source and options, or another folder")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is no prepared data set; name a new or empty folder")
    try:
        (folder / "units").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make {folder}: {error.strerror}; name another folder") from error
    _write_manifest(folder, plan, [], complete=False)


def _finished(unit: Unit) -> dict[str, Any] | None:
    """The unit's record if its shards exist with the right sizes, else None. Hashes are only compared when shards are
    read with ``verify``."""
    if not unit.record.exists() or (unit.number == 0 and not (unit.folder / FIXED_TEXT).exists()):
        return None
    try:
        record = read_json(unit.record)
        whole = all((unit.folder / s["name"]).stat().st_size == s["bytes"] for s in record["shards"])
    except (ValueError, OSError, KeyError, TypeError):
        return None  # to be repeated
    return record if whole and record["videos"] == len(unit.videos) else None


def _run(units: list[Unit], settings: PrepareSettings, execution: Execution) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number, record) of every unit, in the order of completion."""
    if execution.ray and units:
        from motionstream.data.cluster import run_on_ray

        yield from run_on_ray(units, settings, execution)
    elif execution.workers and units:
        yield from _run_processes(units, settings, execution)
    else:
        preparer = UnitPreparer(settings, execution.placement)
        for unit in units:
            yield unit.number, preparer(unit)


def _run_processes(
    units: list[Unit], settings: PrepareSettings, execution: Execution
) -> Iterator[tuple[int, dict[str, Any]]]:
    context = multiprocessing.get_context("spawn")  # CUDA and threads do not survive a fork
    before = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        min(execution.workers, len(units)),
        mp_context=context,
        initializer=_start_worker,
        initargs=(settings, execution.placement, context.Value("i", 0)),
    )
    try:
        numbers = {pool.submit(_prepare_in_worker, unit): unit.number for unit in units}
        for future in as_completed(numbers):
            yield numbers[future], future.result()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise ValueError(
            "a worker process died, most likely for want of memory; finished shards are kept: run the same command "
            "again with fewer --workers"
        ) from error
    finally:
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()  # its unit is no longer needed; files are written atomically
        pool.shutdown(cancel_futures=True)  # waits for the pool's thread, which reaps the workers


_preparer: UnitPreparer | None = None  # in a worker process


def _start_worker(settings: PrepareSettings, placement: Placement, counter: Any) -> None:
    global _preparer
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    end_with_parent()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with counter.get_lock():
        index, counter.value = counter.value, counter.value + 1
    _preparer = UnitPreparer(settings, spread(placement, index, torch.cuda.device_count()))


def _prepare_in_worker(unit: Unit) -> dict[str, Any]:
    assert _preparer is not None
    return _preparer(unit)


def spread(placement: Placement, worker: int, devices: int) -> Placement:
    """The placement of worker number ``worker``: CUDA devices are assigned in turn unless one is named."""
    meant = placement.device == "cuda" or (placement.device == "auto" and devices > 0)
    return replace(placement, device=f"cuda:{worker % devices}") if meant and devices else placement


def _finish(folder: Path, plan: dict[str, Any], records: list[dict[str, Any]]) -> dict[str, Any]:
    skipped = [entry for record in records for entry in record["skipped"]]
    write_text(folder / REPORT, "".join(json.dumps(entry) + "\n" for entry in skipped))
    manifest = _write_manifest(folder, plan, records, complete=True)
    if not manifest["shards"]:
        reason, times = Counter(entry["reason"] for entry in skipped).most_common(1)[0]
        raise ValueError(
            f"none of the {manifest['counts']['videos']} videos could be used; {times} times: {reason} "
            f"({folder / REPORT} has all). Delete {folder} before the next try"
        )
    return manifest


def _write_manifest(folder: Path, plan: dict[str, Any], records: list[dict[str, Any]], complete: bool) -> Any:
    shards = [shard for record in records for shard in record["shards"]]
    manifest = {
        "format": FORMAT,
        "complete": complete,
        "counts": {
            "videos": sum(record["videos"] for record in records),
            "skipped": sum(len(record["skipped"]) for record in records),
            "samples": sum(shard["samples"] for shard in shards),
            "bytes": sum(shard["bytes"] for shard in shards),
        },
        "settings": plan,
        "versions": {"motionstream": __version__, **{name: _version(name) for name in LIBRARIES}},
        "shards": shards,
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
