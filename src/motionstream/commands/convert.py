"""``motionstream convert``: converts other projects' checkpoints to a MotionStream folder, such a folder to diffusers'
layout, and LPIPS's two files to the one that training reads."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import tyro

from motionstream.commands.common import check_paths
from motionstream.component_config import Precision

if TYPE_CHECKING:
    import torch

    from motionstream.config import ModelConfig
    from motionstream.model.checkpoints import LoadReport

HEAD_SEED = 0
"""Seed of the new track head, so that conversions are reproducible."""

CLASS_NAMES = {
    "vae": ("AutoencoderKLWan",),
    "text_encoder": ("UMT5EncoderModel", "UMT5ForConditionalGeneration", "UMT5Model"),
    "image_encoder": ("CLIPVisionModel", "CLIPVisionModelWithProjection", "CLIPModel"),
}
PLACES = {
    "vae": ("vae", "Wan2.1_VAE.pth", "Wan2.2_VAE.pth"),
    "text_encoder": ("text_encoder", "models_t5_umt5-xxl-enc-bf16.pth"),
    "tokenizer": ("tokenizer", "google/umt5-xxl"),
    "image_encoder": ("image_encoder", "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"),
}
"""Locations of the parts in a repository: diffusers' folders and the official files."""
TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "tokenizer_config.json")


@dataclass(frozen=True)
class ConvertCommand:
    """The options of ``motionstream convert``."""

    HELP: ClassVar[str] = """\
Convert a Wan checkpoint to a MotionStream folder, a MotionStream folder to diffusers' layout, or LPIPS's published
weights to the file that the tiny decoder's training takes.

Autoencoder, encoders and tokenizer are taken from SRC if it contains them; the options name other locations.

Examples:
  motionstream convert motionstream Wan2.1-Fun-1.3B-Control wan-folder --tiny-decoder taew2_1.pth
  motionstream convert motionstream self_forcing_dmd.pt student --preset wan2.1-1.3b
  motionstream convert diffusers wan-folder for-diffusers
  motionstream convert lpips alexnet-owt-7be5be79.pth lpips.safetensors --heads alex.pth"""

    kind: Annotated[tyro.conf.Positional[Literal["motionstream", "diffusers", "lpips"]], tyro.conf.arg(metavar="KIND")]
    """The result: a MotionStream folder, diffusers' layout, or a file of LPIPS."""
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SRC")]
    """A transformer's file or folder (diffusers, official, VideoX-Fun or Self-Forcing), or a MotionStream folder; for
    lpips, torchvision's AlexNet."""
    target: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DST")]
    """The folder to write, for lpips the .safetensors file; nothing is left if the conversion fails."""
    preset: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The resulting model; by default recognised by the checkpoint's sizes."""
    vae: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """The autoencoder: diffusers' vae/ folder or the official file."""
    text_encoder: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """The text encoder: transformers' folder or the official UMT5 file."""
    tokenizer: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """The tokenizer's folder."""
    image_encoder: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """The image encoder of Wan 2.1: transformers' folder or the official CLIP file."""
    tiny_decoder: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """The tiny autoencoder's file (taew2_1, taew2_2)."""
    heads: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Only for lpips: the heads of LPIPS v0.1 on AlexNet."""
    dtype: Precision | None = None
    """Precision of the transformer's weights; by default the preset's, for diffusers the source's."""
    overwrite: bool = False
    """Replace DST if it is a model's folder, or for lpips a file."""

    def _all_parts(self, config: ModelConfig) -> dict[str, Path]:
        """The parts given as options, and those in the source that the model has."""
        found = {}
        for name, places in PLACES.items():
            inside = [self.source / place for place in places if (self.source / place).exists()]
            if inside and (name != "image_encoder" or config.image_encoder is not None):
                found[name] = inside[0]
        return found | self._parts

    @property
    def _parts(self) -> dict[str, Path]:
        """The parts given as options, without the transformer, by their names in our folder."""
        given = {
            "vae": self.vae,
            "text_encoder": self.text_encoder,
            "tokenizer": self.tokenizer,
            "image_encoder": self.image_encoder,
            "tiny_decoder": self.tiny_decoder,
        }
        return {name: path for name, path in given.items() if path is not None}

    def run(self) -> None:
        """Check the options, convert into a temporary folder, rename it."""
        if self.kind == "lpips":
            self._lpips()
            return
        if self.heads is not None:
            raise ValueError(f"--heads has no meaning for convert {self.kind}; only convert lpips takes it")
        self._check()
        from motionstream.model.checkpoints import own_config

        config = own_config(self.source)
        if self.kind == "diffusers":
            if config is None:
                raise ValueError(f"{self.source} is no MotionStream folder (it has no model.json)")
            report = self._diffusers(config)
        else:
            if config is not None:
                raise ValueError(f"{self.source} already is a MotionStream folder; to diffusers: convert diffusers")
            report = self._motionstream()
        print(f"{report}\n{self.target}: written")

    def _lpips(self) -> None:
        """Write LPIPS's two files as one."""
        options = {**self._parts, "preset": self.preset, "dtype": self.dtype}
        given = [name.replace("_", "-") for name, value in options.items() if value is not None]
        if given:
            raise ValueError(f"--{given[0]} has no meaning for convert lpips, which takes --heads alone")
        if self.heads is None:
            raise ValueError("convert lpips needs --heads PATH, the heads of LPIPS v0.1 on AlexNet (alex.pth)")
        check_paths((self.source, self.heads), (self.target,))
        if self.target.exists() and not self.overwrite:
            raise ValueError(f"cannot write {self.target}: it exists; --overwrite replaces it")
        from motionstream.training.parts.perceptual import convert_lpips

        convert_lpips(self.source, self.heads, self.target)
        print(f"{self.target}: written; use it with motionstream train tiny-decoder --lpips {self.target}")

    def _check(self) -> None:
        if self.kind == "diffusers" and (self._parts or self.preset):
            option = next(iter(self._parts), "preset").replace("_", "-")
            raise ValueError(f"--{option} has no meaning for convert diffusers, which writes the transformer alone")
        for path in (self.source, *self._parts.values()):
            if not path.exists():
                raise ValueError(f"{path}: there is no such file or folder")
        if self.target.name in ("", ".", ".."):
            raise ValueError(f"cannot write {self.target}: name the folder to make")
        target = self.target.resolve()
        if self.source.is_dir() and target.is_relative_to(self.source.resolve()):
            raise ValueError(f"cannot write {self.target}: it lies inside {self.source}; choose another place")
        for path in (self.source, *self._parts.values()):
            if path.resolve().is_relative_to(target):
                raise ValueError(
                    f"cannot write {self.target}: {path}, which is read, lies inside; choose another place"
                )
        if target.exists():
            if not self.overwrite:
                raise ValueError(f"cannot write {self.target}: it exists; --overwrite replaces it")
            if not any((target / name).is_file() for name in ("model.json", "transformer/config.json")):
                raise ValueError(f"cannot overwrite {self.target}: it is no model's folder; choose another name")
        if not target.parent.is_dir():
            raise ValueError(f"cannot write {self.target}: there is no folder {target.parent}; create it first")

    def _motionstream(self) -> LoadReport:
        from motionstream.checkpoint_files import give_usual_mode
        from motionstream.model.checkpoints import load_transformer
        from motionstream.presets import preset

        config = preset(self.preset or self._guess())
        if self.dtype is not None:
            config = replace(config, dtype=self.dtype)
        for name in self._parts:
            if name in ("image_encoder", "tiny_decoder") and getattr(config, name) is None:
                raise ValueError(f"--{name.replace('_', '-')}: {config.name} has none")
        with _written_whole(self.target) as folder:
            transformer, report = load_transformer(self.source, config, dtype=_dtype(config.dtype), allow_pickle=True)
            transformer.save_pretrained(folder / "transformer")
            give_usual_mode(folder / "transformer")
            del transformer
            _save_track_head(config, folder / "conditioning.safetensors")
            for name, path in self._all_parts(config).items():
                _save_part(name, path, config, folder)
            # no training stages: the track head is random, and streaming refuses it without --untrained
            settings = {"config": config.to_dict(), "stages": []}
            (folder / "model.json").write_text(json.dumps(settings, indent=2) + "\n")
        return report

    def _guess(self) -> str:
        from motionstream.model.checkpoints import guess_preset, read_state, recognise

        found = recognise(read_state(self.source, allow_pickle=True))
        name = guess_preset(found)
        if name is None:
            raise ValueError(f"{self.source} looks like {found.describe()}: no preset fits; give one with --preset")
        return name

    def _diffusers(self, config: ModelConfig) -> LoadReport:
        from motionstream.checkpoint_files import give_usual_mode
        from motionstream.model.checkpoints import load_transformer

        with _written_whole(self.target) as folder:
            transformer, report = load_transformer(self.source, config, dtype=_dtype(self.dtype))
            transformer.save_pretrained(folder / "transformer")
            give_usual_mode(folder / "transformer")
            settings_file = folder / "transformer" / "config.json"
            settings = json.loads(settings_file.read_text()) | {"_class_name": "WanTransformer3DModel"}
            settings_file.write_text(json.dumps(settings, indent=2) + "\n")
        return report


def _dtype(name: str | None) -> torch.dtype | None:
    import torch

    return None if name is None else {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


@contextlib.contextmanager
def _written_whole(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``folder``, which replaces ``folder`` if the body succeeds."""
    folder = folder.resolve()
    temporary, old = (folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.{end}") for end in ("tmp", "old"))
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            folder.rename(old)
        try:
            temporary.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _save_track_head(config: ModelConfig, path: Path) -> None:
    import torch

    from motionstream.checkpoint_files import write_tensors
    from motionstream.conditioning.track_head import TrackHead

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(HEAD_SEED)
        head = TrackHead(config.track_head, spatial=config.spatial_compression, temporal=config.temporal_compression)
    write_tensors(path, {f"track_head.{name}": value for name, value in head.state_dict().items()})


def _save_part(name: str, path: Path, config: ModelConfig, folder: Path) -> None:
    """Save a part other than the transformer: folders unchanged, official files with their library's names."""
    if name == "tiny_decoder":
        from motionstream.autoencoder.tiny import TinyAutoencoder

        TinyAutoencoder.load(path, config.tiny_decoder, allow_pickle=True).save(folder / "tiny_decoder.safetensors")
    elif path.is_dir():
        _check_folder(name, path)
        shutil.copytree(path, folder / name, copy_function=_link_or_copy)
    elif name == "tokenizer":
        raise ValueError(f"--tokenizer {path}: give the tokenizer's folder")
    elif name == "vae":
        _save_autoencoder(path, config, folder / name)
    else:
        _save_encoder(name, path, config, folder / name)


def _check_folder(name: str, path: Path) -> None:
    option = f"--{name.replace('_', '-')}"
    if name == "tokenizer":
        if not any((path / file).is_file() for file in TOKENIZER_FILES):
            raise ValueError(f"{option} {path}: there is no tokenizer in it (none of {', '.join(TOKENIZER_FILES)})")
        return
    try:
        settings = json.loads((path / "config.json").read_text())
        classes = [settings.get("_class_name"), *(settings.get("architectures") or ())]
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{option} {path}: its config.json is missing or damaged; give the whole folder") from error
    if not set(classes) & set(CLASS_NAMES[name]):
        found = next((str(known) for known in classes if known), "nothing")
        raise ValueError(f"{option} {path}: it holds {found}; give one of {', '.join(CLASS_NAMES[name])}")


def _link_or_copy(source: str, target: str) -> None:
    """Hard-link weights if possible: they have many gigabytes and are never changed in place."""
    if source.endswith(".safetensors"):
        with contextlib.suppress(OSError):
            os.link(os.path.realpath(source), target)
            return
    shutil.copyfile(source, target)


def _save_autoencoder(path: Path, config: ModelConfig, folder: Path) -> None:
    from motionstream.autoencoder.wan import WanAutoencoder
    from motionstream.autoencoder.wan_checkpoint import from_official
    from motionstream.checkpoint_files import give_usual_mode, read_state
    from motionstream.component_config import WanAutoencoderConfig

    if not isinstance(config.autoencoder, WanAutoencoderConfig):
        raise ValueError(f"--vae: {config.name} has no Wan autoencoder")
    state = from_official(read_state(path, allow_pickle=True))
    WanAutoencoder.from_state(state, config.autoencoder, source=str(path)).save(folder)
    give_usual_mode(folder)


def _save_encoder(name: str, path: Path, config: ModelConfig, folder: Path) -> None:
    from motionstream.checkpoint_files import read_state, write_tensors
    from motionstream.component_config import UMT5Config
    from motionstream.conditioning import image, umt5

    state = read_state(path, allow_pickle=True)
    if name == "text_encoder":
        if not isinstance(config.text, UMT5Config):
            raise ValueError(f"--text-encoder: {config.name} has no UMT5 encoder")
        weights, settings = umt5.from_official(state, config.text), umt5.transformers_config(config.text)
    else:
        assert config.image_encoder is not None, "checked with the options"
        weights = image.from_official(state, config.image_encoder)
        settings = image.transformers_config(config.image_encoder)
    folder.mkdir()
    settings.save_pretrained(folder)
    write_tensors(folder / "model.safetensors", weights, metadata={"format": "pt"})
