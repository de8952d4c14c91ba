"""Runs an official size on a CPU with random weights, to check that all parts fit together and measure memory.

The text and image encoders run one after the other and are freed before the transformer is built; then two chunks are
streamed at 160×96. The other large model is only built on the meta device, for exact counts. The last line of the
output is one JSON object, which is also written to a file.

    python benchmarks/full_size.py
    python benchmarks/full_size.py --preset wan2.1-debug --counts wan2.2-debug --output /tmp/full-size.json
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from motionstream.autoencoder.tiny import TinyAutoencoder
from motionstream.autoencoder.wan import WanAutoencoder
from motionstream.bench import memory_mb, peak_memory_mb
from motionstream.component_config import UMT5Config, WanAutoencoderConfig
from motionstream.components import Components, Placement
from motionstream.conditioning import image, umt5
from motionstream.config import ModelConfig
from motionstream.environment import environment
from motionstream.flops import chunk_flops, clip_flops, start_flops, tokens_per_frame
from motionstream.loading import random_model
from motionstream.media.files import atomic_path
from motionstream.model.motion_model import MotionModel
from motionstream.presets import preset
from motionstream.stream import Stream
from motionstream.tracks import drag_tracks

SIZE = (96, 160)
CHUNKS = 2
LIMIT_MB = 24 * 2**30 / 1e6
PROMPT = "a red kite rises over the dunes while the grass below bends in the wind"
RESULTS = Path(__file__).parent / "results" / "full-size-cpu.json"


class Phases:
    """Time and peak resident memory of every phase; a thread samples memory 50 times a second."""

    def __init__(self) -> None:
        self.results: dict[str, dict[str, float]] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure the body."""
        _free()
        before, most, done = memory_mb(), [memory_mb()], threading.Event()

        def look() -> None:
            while not done.wait(0.02):
                most[0] = max(most[0], memory_mb())

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            done.set()
            watcher.join()
        self.results[name] = {
            "seconds": round(seconds, 2),
            "before_mb": round(before, 1),
            "peak_mb": round(max(most[0], memory_mb()), 1),
        }
        print(f"{name:<28} {seconds:8.1f} s   {before:8.0f} → {self.results[name]['peak_mb']:8.0f} MB", flush=True)


def _free() -> None:
    """Return freed memory to the system, so that it does not count for the next phase."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def stream(config: ModelConfig) -> dict[str, Any]:
    """Encode, free, build, and stream CHUNKS chunks; returns the phases and timings."""
    config = replace(config, size=SIZE, sizes=())
    assert isinstance(config.text, UMT5Config) and isinstance(config.autoencoder, WanAutoencoderConfig)
    phases, dtype = Phases(), torch.bfloat16
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1

    text_encoder = umt5.UMT5TextEncoder.random(config.text, seed=0, dtype=dtype)
    with phases.phase("text encoder"):
        tokens = text_encoder.encode([PROMPT])
    assert not text_encoder.resident and tokens.shape == (1, config.text.tokens, config.text.d_model)
    image_encoder = None
    if config.image_encoder is not None:
        image_encoder = image.CLIPImageEncoder.random(config.image_encoder, seed=0, dtype=dtype)
        with phases.phase("image encoder"):
            seen = image_encoder.encode(pixels)
        expected = (1, config.image_encoder.tokens, config.image_encoder.hidden_size)
        assert not image_encoder.resident and seen.shape == expected
    with phases.phase("build transformer"):
        model = random_model(config, Placement(device="cpu", dtype="bfloat16")).eval().requires_grad_(False)
    with phases.phase("build autoencoder"):
        autoencoder = WanAutoencoder(config.autoencoder).to(dtype)
    with phases.phase("encode picture"):
        # the encoders return cached results for this sentence and picture
        parts = Components(autoencoder, text_encoder, image_encoder)
        video = Stream(model, parts, picture, PROMPT, 0, times=config.sampler.student_times, size=SIZE)
    chunks = []
    for chunk in range(CHUNKS):
        tracks = drag_tracks((40.0, 48.0), (120.0, 40.0), video.next_frames, SIZE, config.fps)
        with phases.phase(f"chunk {chunk}"):
            frames = video.step(tracks)
            video.settle()
        assert frames.shape == (config.chunk_video_frames(chunk), *SIZE, 3) and frames.std() > 1
        chunks.append({"frames": len(frames), **{k: round(v, 3) for k, v in asdict(video.timings).items()}})
    peak = peak_memory_mb()
    return {
        "preset": config.name,
        "size": f"{SIZE[1]}x{SIZE[0]}",
        "dtype": "bfloat16",
        "attention": str(config.causal),
        "phases": phases.results,
        "chunks": chunks,
        "peak_memory_mb": round(peak, 1),
        "limit_mb": round(LIMIT_MB, 1),
        "inside_limit": peak < LIMIT_MB,
        "parameters": parameters(config),
    }


def parameters(config: ModelConfig) -> dict[str, int]:
    """Numbers of parameters by part, counted on the meta device."""
    assert isinstance(config.text, UMT5Config) and isinstance(config.autoencoder, WanAutoencoderConfig)
    with torch.device("meta"):
        model, autoencoder = MotionModel(config), WanAutoencoder(config.autoencoder)
        parts: dict[str, torch.nn.Module] = {
            "transformer": model.transformer,
            "track_head": model.track_head,
            "autoencoder": autoencoder,
            "decoder": autoencoder.vae.decoder,
            "text_encoder": transformers.UMT5EncoderModel(umt5.transformers_config(config.text)),
        }
        if config.tiny_decoder is not None:
            parts["tiny_decoder"] = TinyAutoencoder(config.tiny_decoder).decoder
        if config.image_encoder is not None:
            parts["image_encoder"] = transformers.CLIPVisionModel(image.transformers_config(config.image_encoder))
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}


def counts(config: ModelConfig) -> dict[str, Any]:
    """Parameters, tokens and operations of a model at its own size, without allocating it."""
    latent_frames = (config.clip_frames - 1) // config.temporal_compression + 1
    flops = chunk_flops(config)
    return {
        "preset": config.name,
        "size": f"{config.size[1]}x{config.size[0]}",
        "attention": str(config.causal),
        "parameters": parameters(config),
        "tokens_per_latent_frame": tokens_per_frame(config),
        "flop_per_forward": {**asdict(flops.forward), "total": flops.forward.total},
        "flop_per_chunk": {
            **{name: getattr(flops, name) for name in ("conditions", "generate", "settle", "decode", "total")},
            "decode_tiny": chunk_flops(config, decoder="tiny").decode,
        },
        "flop_at_start": asdict(start_flops(config)),
        "flop_per_teacher_evaluation": {
            "latent_frames": latent_frames,
            "total": clip_flops(config, latent_frames).total,
        },
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="wan2.1-1.3b", help="the model that is streamed")
    parser.add_argument("--counts", default="wan2.2-5b", help="the model that is only counted")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file to write")
    arguments = parser.parse_args()
    with torch.no_grad():
        streamed = stream(preset(arguments.preset))
    result = {
        "benchmark": "full size",
        "streamed": streamed,
        "counted": [counts(preset(name)) for name in (arguments.preset, arguments.counts)],
        **environment(),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(arguments.output, (".json",)) as temporary:
        temporary.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{streamed['peak_memory_mb']:.0f} MB at most, of {LIMIT_MB:.0f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
