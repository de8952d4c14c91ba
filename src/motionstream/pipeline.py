"""The public pipeline: from a picture, a sentence and tracks to frames, as a whole clip or an endless stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from motionstream.checkpoint_files import give_usual_mode, write_tensors
from motionstream.component_config import LinearAutoencoderConfig
from motionstream.components import Components, Placement, load_components, random_components, save_components
from motionstream.config import CausalConfig, ModelConfig, SamplerConfig
from motionstream.loading import STAGES, WEIGHTS, load_model, locate, random_model, refuse_missing
from motionstream.memory import check_fits
from motionstream.model.motion_model import MotionModel
from motionstream.model.offload import offload_blocks
from motionstream.model.transformer import MotionTransformer
from motionstream.presets import preset
from motionstream.sampler.rollout import times_of
from motionstream.scene import Picture, Scene
from motionstream.stream import Stream
from motionstream.tracks import LiveTracks, Tracks
from motionstream.whole_clip import make_clip


class MotionStreamPipeline:
    """A model with its autoencoder and encoders.

    ``model`` predicts velocities, ``parts`` holds the autoencoder and the encoders; ``stages`` names the training
    stages that the weights went through.
    """

    def __init__(self, model: MotionModel, parts: Components, stages: Iterable[str] = ()) -> None:
        self.model = model.eval().requires_grad_(False)
        self.parts = parts
        self.stages = tuple(stages)

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    @classmethod
    def from_config(
        cls, config: ModelConfig, seed: int = 0, placement: Placement | None = None
    ) -> MotionStreamPipeline:
        """An untrained pipeline with random weights, for tests and benchmarks."""
        placement = placement or Placement()
        _check_memory(config, placement)
        model = random_model(config, placement, seed)
        return cls(_placed(model, placement), random_components(config, placement, seed))

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        untrained: bool = False,
        causal: str | None = None,
        placement: Placement | None = None,
        needs: tuple[str, ...] = tuple(STAGES),
    ) -> MotionStreamPipeline:
        """Load a model.

        Args:
            name: a preset with embedded weights ("nano"), a folder written by ``save_pretrained`` or ``motionstream
                convert``, a folder of diffusers' or the official Wan files, or the id of a Hugging Face repository
                with such files ("owner/name").
            untrained: accept weights that lack a training stage (a preset without weights gets random ones).
            causal: attention pattern instead of the model's own, such as c3s1w1.
            placement: device, precision, tiny decoder and memory-saving options.
            needs: required training stages; the teacher's sampler needs ("teacher",).

        Raises:
            ValueError: the name is unknown; files are missing, damaged or of another model; stages are missing; or the
                device has too little memory (the message names options that would fit).
        """
        placement = placement or Placement()
        found = locate(name)
        if found is None:
            if not untrained:
                raise ValueError(
                    f"no weights for {str(name)!r}: give the name of an embedded model ({_embedded()}) or a folder "
                    "with model.json; --untrained takes a preset's random weights"
                )
            return cls.from_config(_with_causal(preset(str(name)), causal), placement=placement)
        refuse_missing(str(name), [] if untrained else [stage for stage in needs if stage not in found.stages])
        config = _with_causal(found.config, causal)
        _check_memory(config, placement)
        model = load_model(found, config, placement)
        return cls(_placed(model, placement), load_components(found.folder, config, placement), found.stages)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write everything to ``folder`` as safetensors: float32 weights as float16, others in their own precision.

        The transformer is written as diffusers writes it.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        transformer = self.model.transformer
        if self.model.dtype == torch.float32:
            transformer = MotionTransformer.from_config(self.model.transformer.config)
            transformer.load_state_dict(self.model.transformer.state_dict())
            transformer = transformer.half()
        transformer.save_pretrained(folder / "transformer")
        give_usual_mode(folder / "transformer")
        others = {k: v for k, v in self.model.state_dict().items() if not k.startswith("transformer.")}
        halved = {k: v.half() if v.dtype == torch.float32 else v for k, v in others.items()}
        write_tensors(folder / "conditioning.safetensors", halved)
        save_components(self.parts, folder)
        settings = {"config": self.config.to_dict(), "stages": list(self.stages)}
        (folder / "model.json").write_text(json.dumps(settings, indent=2) + "\n")

    def stream(
        self,
        image: Picture,
        prompt: str = "",
        seed: int = 0,
        *,
        steps: int | None = None,
        size: tuple[int, int] | None = None,
        scale: int = 1,
    ) -> Stream:
        """Begin an endless stream from ``image`` (a path, uint8 (H, W, 3) or a Pillow image; scaled and cropped).

        ``steps``: denoising steps per chunk, 1 to 4; None: as many as the model was distilled to.
        ``size``: (height, width); None: the model's size nearest to the picture's aspect ratio.
        ``scale``: size of the frames relative to ``size``, 1 to 4, in the picture's own detail; above 1 only for models
            that carry content.
        """
        own = self.config.sampler.student_times
        times = own if steps is None else times_of(own, steps)
        return Stream(self.model, self.parts, image, prompt, seed, times=times, size=size, scale=scale)

    def warm_up(self, scale: int = 1) -> None:
        """Stream two chunks of a drag over a random picture, so that one-time work (kernel selection, tables, the first
        mask) does not delay the first user."""
        height, width = self.config.size
        picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        stream = self.stream(picture, scale=scale)
        live, middle = LiveTracks(stream.size, stream.fps), (width / 2, height / 2)
        hand = live.drag(*middle)
        for way in (0, width / 8):
            live.move(hand, middle[0] + way, middle[1])
            stream.step(live.cut(stream.next_frames))
            stream.settle()

    def chunks(
        self,
        image: Picture,
        tracks: Tracks,
        prompt: str = "",
        seed: int = 0,
        *,
        steps: int | None = None,
        size: tuple[int, int] | None = None,
        scale: int = 1,
    ) -> Iterator[np.ndarray]:
        """Stream along given tracks: yields uint8 frames chunk by chunk, ``tracks.length`` frames in all. ``steps``,
        ``size`` and ``scale``: see ``stream``."""
        if tracks.length == 0:
            raise ValueError("the tracks have no frames; give at least one")
        stream = self.stream(image, prompt, seed, steps=steps, size=size, scale=scale)
        done = 0
        while done < tracks.length:
            frames = stream.step(tracks.frames(done, min(done + stream.next_frames, tracks.length)))
            yield frames[: tracks.length - done]
            done += len(frames)

    def __call__(
        self,
        image: Picture,
        tracks: Tracks,
        prompt: str = "",
        seed: int = 0,
        *,
        steps: int | None = None,
        size: tuple[int, int] | None = None,
        scale: int = 1,
    ) -> np.ndarray:
        """Video uint8 (T, H, W, 3) for the T frames of ``tracks``; the same frames as streaming gives. ``steps``,
        ``size`` and ``scale``: see ``stream``."""
        return np.concatenate(list(self.chunks(image, tracks, prompt, seed, steps=steps, size=size, scale=scale)))

    def teacher(
        self,
        image: Picture,
        tracks: Tracks,
        prompt: str = "",
        seed: int = 0,
        *,
        sampler: SamplerConfig | None = None,
        guided: bool = True,
        causal: CausalConfig | None = None,
        size: tuple[int, int] | None = None,
        after_step: Callable[[], object] = lambda: None,
    ) -> np.ndarray:
        """The many-step sampler over the whole clip, under joint guidance; see ``whole_clip.make_clip``."""
        scene = Scene(self.model, self.parts, image, seed, size)
        settings = sampler or self.config.sampler
        return make_clip(scene, tracks, prompt, seed, settings, guided=guided, causal=causal, after_step=after_step)


def _embedded() -> str:
    names = sorted(path.parent.name for path in WEIGHTS.glob("*/model.json"))
    return ", ".join(names) or "none in this build"


def _with_causal(config: ModelConfig, causal: str | None) -> ModelConfig:
    """The config with another attention pattern, and its clip length rounded down to whole chunks of it."""
    if causal is None:
        return config
    pattern = CausalConfig.parse(causal)
    chunks = max(1, ((config.clip_frames - 1) // config.temporal_compression + 1) // pattern.chunk_frames)
    return replace(config, causal=pattern, clip_frames=config.frames_of(chunks * pattern.chunk_frames))


def _check_memory(config: ModelConfig, placement: Placement) -> None:
    """Refuse a model that does not fit in memory before anything is loaded; the embedded model always fits."""
    if not isinstance(config.autoencoder, LinearAutoencoderConfig):
        check_fits(
            placement.adapted(config),
            placement.torch_device,
            decoder=placement.decoder,
            text_encoder=placement.text_encoder,
            tile=placement.tile,
            offload_blocks=placement.offload_blocks,
        )


def _placed(model: MotionModel, placement: Placement) -> MotionModel:
    """The model on its device, or with ``offload_blocks`` its transformer on the CPU, copied block by block."""
    device = placement.torch_device
    if not placement.offload_blocks:
        return model.to(device)
    for part in model.children():
        if part is not model.transformer:
            part.to(device)
    offload_blocks(model.transformer, device)
    return model
