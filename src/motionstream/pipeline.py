"""The public pipeline: a picture, a sentence and tracks in, frames out; at once or chunk by chunk, without an end."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from motionstream.autoencoder.linear import LinearAutoencoder
from motionstream.conditioning.carry import CarrySource
from motionstream.conditioning.text import HashedTextEncoder
from motionstream.config import ModelConfig
from motionstream.media import Fit, fit, read_picture
from motionstream.model.motion_model import MotionInput, MotionModel
from motionstream.model.transformer import MotionTransformer
from motionstream.presets import preset
from motionstream.sampler.rollout import Rollout
from motionstream.tracks import Tracks

WEIGHTS = Path(__file__).parent / "weights"
STAGES = ("teacher", "causal")
"""What a checkpoint must have been through before it may stream."""

Picture = str | Path | np.ndarray | Image.Image


class MotionStreamPipeline:
    """A model with its autoencoder and text encoder.

    ``model`` predicts velocities, ``autoencoder`` and ``text_encoder`` follow their protocols; ``stages`` names the
    training stages the weights went through.
    """

    def __init__(
        self,
        model: MotionModel,
        autoencoder: LinearAutoencoder,
        text_encoder: HashedTextEncoder,
        stages: tuple[str, ...] = (),
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.text_encoder = text_encoder.eval().requires_grad_(False)
        self.stages = stages

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @classmethod
    def from_config(cls, config: ModelConfig, seed: int = 0) -> MotionStreamPipeline:
        """An untrained pipeline with random weights, for tests and benchmarks."""
        if config.autoencoder is None or config.text is None:
            raise ValueError(f"model {config.name!r} needs encoders of its own that this version cannot build")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            text = HashedTextEncoder(config.text, config.transformer.text_dim)
            return cls(MotionModel(config), LinearAutoencoder(config.autoencoder), text)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, untrained: bool = False, causal: str | None = None
    ) -> MotionStreamPipeline:
        """Load a preset's embedded weights or a folder written by ``save_pretrained``.

        Args:
            name: a preset ("nano") or a folder.
            untrained: accept weights that lack a training stage (a preset without weights gets random ones).
            causal: another attention pattern than the model's own, written like c3s1w1.

        Raises:
            ValueError: no such preset or folder, files missing or of another model, stages missing.
        """
        folder = WEIGHTS / name if isinstance(name, str) and (WEIGHTS / name).is_dir() else Path(name)
        if (folder / "model.json").is_file():
            pipeline = cls._load(folder, causal)
        elif untrained:
            pipeline = cls.from_config(_with_causal(preset(str(name)), causal))
        else:
            raise ValueError(
                f"no weights for {str(name)!r}: give the name of an embedded model ({_embedded()}) or a folder with "
                "model.json; --untrained takes a preset's random weights"
            )
        missing = [stage for stage in STAGES if stage not in pipeline.stages]
        if missing and not untrained:
            raise ValueError(
                f"{str(name)!r} has not been through: {', '.join(missing)}. Its video would mean nothing; train it, or "
                "ask for it with --untrained (untrained=True)"
            )
        return pipeline

    @classmethod
    def _load(cls, folder: Path, causal: str | None) -> MotionStreamPipeline:
        settings = json.loads((folder / "model.json").read_text())
        config = _with_causal(ModelConfig.from_dict(settings["config"]), causal)
        pipeline = cls.from_config(config)
        pipeline.model.transformer = MotionTransformer.from_pretrained(
            folder / "transformer", low_cpu_mem_usage=False
        ).float()
        pipeline.model.eval().requires_grad_(False)
        parts: dict[str, torch.nn.Module] = {"autoencoder": pipeline.autoencoder, "text_encoder": pipeline.text_encoder}
        for name, module in parts.items():
            module.load_state_dict(_read_weights(folder / f"{name}.safetensors"))
        conditioning = _read_weights(folder / "conditioning.safetensors")
        result = pipeline.model.load_state_dict(conditioning, strict=False)
        lost = [key for key in result.missing_keys if not key.startswith("transformer.")]
        if lost or result.unexpected_keys:
            raise ValueError(
                f"{folder}/conditioning.safetensors does not fit: missing {lost}, unknown {result.unexpected_keys}"
            )
        pipeline.stages = tuple(settings["stages"])
        return pipeline

    def save_pretrained(self, folder: str | Path) -> None:
        """Write everything to ``folder`` as safetensors in half precision: the transformer as diffusers does."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        half = MotionTransformer.from_config(self.model.transformer.config)
        half.load_state_dict(self.model.transformer.state_dict())
        half.half().save_pretrained(folder / "transformer")
        others = {k: v for k, v in self.model.state_dict().items() if not k.startswith("transformer.")}
        for name, state in (
            ("conditioning", others),
            ("autoencoder", self.autoencoder.state_dict()),
            ("text_encoder", self.text_encoder.state_dict()),
        ):
            save_file({k: v.half().contiguous() for k, v in state.items()}, folder / f"{name}.safetensors")
        settings = {"config": self.config.to_dict(), "stages": list(self.stages)}
        (folder / "model.json").write_text(json.dumps(settings, indent=2) + "\n")

    def stream(
        self, image: Picture, prompt: str = "", seed: int = 0, *, steps: tuple[float, ...] | None = None
    ) -> Stream:
        """Begin an endless stream from ``image`` (a path, uint8 (H, W, 3) or a Pillow picture; fitted and cropped)."""
        return Stream(self, image, prompt, seed, steps=steps or self.config.sampler.student_times)

    def chunks(self, image: Picture, tracks: Tracks, prompt: str = "", seed: int = 0) -> Iterator[np.ndarray]:
        """Stream along given tracks: yields uint8 frames chunk by chunk, ``tracks.length`` frames in all."""
        if tracks.length == 0:
            raise ValueError("the tracks have no frames; give at least one")
        stream = self.stream(image, prompt, seed)
        done = 0
        while done < tracks.length:
            frames = stream.step(tracks.frames(done, min(done + stream.next_frames, tracks.length)))
            yield frames[: tracks.length - done]
            done += len(frames)

    def __call__(self, image: Picture, tracks: Tracks, prompt: str = "", seed: int = 0) -> np.ndarray:
        """Video uint8 (T, H, W, 3) for the T frames of ``tracks``; the same frames as streaming gives."""
        return np.concatenate(list(self.chunks(image, tracks, prompt, seed)))


def _embedded() -> str:
    names = sorted(path.parent.name for path in WEIGHTS.glob("*/model.json"))
    return ", ".join(names) or "none in this build"


def _with_causal(config: ModelConfig, causal: str | None) -> ModelConfig:
    return config if causal is None else replace(config, causal=type(config.causal).parse(causal))


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path} is missing; the folder is not a whole checkpoint")
    return {k: v.float() for k, v in load_file(path).items()}


@dataclass
class Timings:
    """Seconds of the last step: conditions, generation, decoding, and ``latency`` from the call to the frames."""

    conditions: float = 0.0
    generate: float = 0.0
    decode: float = 0.0
    settle: float = 0.0

    @property
    def latency(self) -> float:
        return self.conditions + self.generate + self.decode


class Stream:
    """One endless video. ``step`` makes the next chunk; the same seed gives the same frames however it is paced.

    ``prompt`` may be set at any time and takes effect with the next chunk. ``settle`` does the clean pass early: call
    it once a chunk is on its way; ``step`` does it otherwise.
    """

    def __init__(
        self, pipeline: MotionStreamPipeline, image: Picture, prompt: str, seed: int, *, steps: tuple[float, ...]
    ) -> None:
        self.pipeline = pipeline
        self.prompt = prompt
        config = pipeline.config
        self.size, self.fps = config.size, config.fps
        picture, self.fit = load_picture(image, config.size)
        self.picture = picture
        self.timings = Timings()
        self._first = _to_tensor(picture, pipeline.model.device)
        with torch.no_grad():
            latent = pipeline.autoencoder.encode(self._first[:, :, None])
        self._rollout = Rollout(pipeline.model, times=steps, seed=seed, first_latent=latent)
        self._carry = CarryMemory(self._first)
        numbers = torch.Generator().manual_seed(seed % 2**63)
        self._id_numbers = torch.randperm(config.track_head.id_range, generator=numbers)
        self._decoder_state: Any = None
        self._frames_made = 0

    @property
    def chunk(self) -> int:
        """Index of the chunk that ``step`` makes next."""
        return self._rollout.chunk

    @property
    def frame(self) -> int:
        """Index of the first frame that ``step`` makes next."""
        return self._frames_made

    @property
    def next_frames(self) -> int:
        """How many frames ``step`` makes next: 9, then 12."""
        return self.pipeline.config.chunk_video_frames(self.chunk)

    @torch.no_grad()
    def step(self, tracks: Tracks | None = None) -> np.ndarray:
        """Make the next chunk, uint8 (``next_frames``, H, W, 3).

        ``tracks``: positions for these frames, at the stream's size; fewer frames hold their last positions, None
        leaves everything unspecified. Track identity over chunks is ``tracks.ids``.
        """
        frames = self.next_frames
        tracks = self._checked(tracks, frames)
        model = self.pipeline.model
        clock = time.perf_counter()
        motion = self._motion(tracks)
        text = self.pipeline.text_encoder.encode([self.prompt])
        conditions = model.conditions(motion, text, model.encode_carried(motion, self.pipeline.autoencoder))
        now = time.perf_counter()
        self.timings.conditions, clock = now - clock, now
        latents = self._rollout.step(conditions)
        now = time.perf_counter()
        self.timings.generate, clock = now - clock, now
        video, self._decoder_state = self.pipeline.autoencoder.decode(latents, self._decoder_state)
        self._carry.last = video[:, :, -1]
        made = ((video[0].permute(1, 2, 3, 0) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
        self.timings.decode = time.perf_counter() - clock
        self._frames_made += frames
        return made

    def settle(self) -> None:
        """Write the last chunk's clean keys and values now rather than at the next ``step``."""
        clock = time.perf_counter()
        self._rollout.settle()
        self.timings.settle = time.perf_counter() - clock

    def _checked(self, tracks: Tracks | None, frames: int) -> Tracks:
        if tracks is None:
            return Tracks.empty(frames, self.size, self.fps)
        if tuple(tracks.size) != tuple(self.size):
            raise ValueError(
                f"the tracks are for a {tracks.size[1]}x{tracks.size[0]} picture, the stream is "
                f"{self.size[1]}x{self.size[0]}: use tracks.resize({self.size})"
            )
        if not 1 <= tracks.length <= frames:
            raise ValueError(f"the tracks have {tracks.length} frames, this chunk takes 1 to {frames} (next_frames)")
        return (tracks.hold(frames - tracks.length) if tracks.length < frames else tracks).clipped()

    def _motion(self, tracks: Tracks) -> MotionInput:
        config = self.pipeline.config
        if config.carry is not None and tracks.count > config.carry.max_tracks:
            keep = np.linspace(0, tracks.count - 1, config.carry.max_tracks).round().astype(int)
            tracks = tracks.select(keep)
        device = self.pipeline.model.device
        source = self._carry.source(tracks, device)
        positions = torch.from_numpy(np.nan_to_num(tracks.positions)).to(device)[None]
        visible = torch.from_numpy(tracks.visible.copy()).to(device)[None]
        ids = self._id_numbers[torch.from_numpy(tracks.ids % len(self._id_numbers))].to(device)[None]
        return MotionInput(positions, visible, ids, first=self.chunk == 0, source=source)


class CarryMemory:
    """Remembers where and when each track of a stream began, and the pictures content is taken from.

    Whenever the set of tracks changes between chunks, the last generated frame becomes a new source: for the tracks
    that begin there, and for whatever no track speaks of (a released object stays where it was let go). Pictures that
    nothing refers to any more are dropped, so that memory stays bounded.
    """

    def __init__(self, picture: Tensor) -> None:
        self.last = picture
        self._pictures = {0: picture}
        self._static = 0
        self._births: dict[int, tuple[int, np.ndarray]] = {}
        self._present: set[int] | None = None

    def source(self, tracks: Tracks, device: torch.device) -> CarrySource:
        """The sources of a chunk's tracks; called once a chunk, in order."""
        ids = tracks.ids.tolist()
        shown = np.any(tracks.visible, axis=0)
        begun = [row for row, track in enumerate(ids) if shown[row] and track not in self._births]
        changed = self._present is not None and (bool(begun) or set(ids) != self._present)
        if changed:
            self._static = max(self._pictures) + 1
            self._pictures[self._static] = self.last
        self._present = set(ids)
        for row in begun:
            start = tracks.positions[np.argmax(tracks.visible[:, row]), row]
            self._births[ids[row]] = (self._static, start)
        self._births = {track: birth for track, birth in self._births.items() if track in self._present}
        used = sorted({self._static} | {key for key, _ in self._births.values()})
        self._pictures = {key: self._pictures[key] for key in used}
        births = [self._births.get(track, (self._static, np.zeros(2, np.float32))) for track in ids]
        index = torch.tensor([used.index(key) for key, _ in births], dtype=torch.long, device=device)
        start = torch.from_numpy(np.array([place for _, place in births], np.float32).reshape(-1, 2)).to(device)
        static = torch.full((1, tracks.length), used.index(self._static), dtype=torch.long, device=device)
        pictures = torch.stack([self._pictures[key] for key in used], dim=1)
        return CarrySource(pictures, index[None], start[None], static)


def load_picture(image: Picture, size: tuple[int, int]) -> tuple[np.ndarray, Fit]:
    """Any picture, fitted to ``size``: uint8 (H, W, 3) and how it was scaled and cropped."""
    if isinstance(image, str | Path):
        image = read_picture(image)
    elif isinstance(image, Image.Image):
        image = np.asarray(image.convert("RGB"))
    return fit(image, size)


def _to_tensor(picture: np.ndarray, device: torch.device) -> Tensor:
    """uint8 (H, W, 3) → float (1, 3, H, W) in [−1, 1]."""
    return torch.from_numpy(picture.copy()).to(device).permute(2, 0, 1)[None].float() / 127.5 - 1
