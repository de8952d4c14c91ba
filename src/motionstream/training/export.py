"""Exports finished training stages as a model folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from motionstream.autoencoder.tiny import TinyAutoencoder
from motionstream.component_config import TextConfig
from motionstream.components import Components
from motionstream.pipeline import MotionStreamPipeline
from motionstream.training.diffusion.trainee import Trainee
from motionstream.training.recipes.recipe import Recipe
from motionstream.training.sources import base, begin, finished, load_autoencoder, load_into, parts, weights_path


def export(recipe: Recipe, folder: Path, target: Path, through: str | None = None) -> None:
    """Export the finished stages in ``folder`` to ``target``, for ``MotionStreamPipeline.from_pretrained``.

    ``through``: "teacher" or "causal" omits the later stages, for comparisons with them. Otherwise the student is
    Self-Forcing's if that stage is finished, else the causal stage's; the exported folder records which. A tiny decoder
    is included if its stage is finished or the base model has one.

    ``target`` is created, or its model replaced (other files in it stay). Everything is first written to a temporary
    folder, so that a failure to write changes nothing. Raises ValueError if a stage is missing, or if ``target`` is a
    file or a folder with other contents than a model.
    """
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / "model.json").is_file()):
        raise ValueError(f"{target} is no model's folder and not empty; name a new one")
    if through not in (None, "teacher", "causal"):
        raise ValueError(f"through {through!r}; give teacher or causal")
    stages = ["teacher"] if through == "teacher" else ["teacher", "causal"]
    if through is None and weights_path(folder, "self-forcing").exists():
        stages.append("self-forcing")
    tiny = _tiny(recipe, folder)
    recipe = replace(recipe, model=replace(recipe.model, tiny_decoder=None if tiny is None else tiny.config))
    trainee = begin(recipe, folder, stages[-1]).to("cpu")
    whole = replace(_parts(recipe, folder, trainee), tiny=tiny)
    pipeline = MotionStreamPipeline(trainee.model, whole, stages=stages)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent) as temporary:
        pipeline.save_pretrained(temporary)
        # model.json last: it marks a folder as a model
        files = [path for path in Path(temporary).rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == "model.json"):
            place = target / path.relative_to(temporary)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)


def _parts(recipe: Recipe, folder: Path, trainee: Trainee) -> Components:
    """The parts around the transformer: trained by this recipe, or the base model's."""
    if recipe.autoencoder is not None:
        autoencoder = load_autoencoder(recipe, folder)
        assert autoencoder is not None
        load_into(autoencoder, finished(folder, "decoder"))
        return Components(autoencoder, trainee.text)
    whole = parts(recipe)
    if isinstance(recipe.model.text, TextConfig):  # trained with the model
        whole.text_encoder = trainee.text
    return whole


def _tiny(recipe: Recipe, folder: Path) -> TinyAutoencoder | None:
    """The tiny decoder trained by this recipe, or the base model's; None if there is neither."""
    own = weights_path(folder, "tiny-decoder")
    if own.exists():
        return TinyAutoencoder.load(own, recipe.model.tiny_decoder)
    if recipe.autoencoder is None:
        found = base(recipe)
        path = found.folder / "tiny_decoder.safetensors"
        if path.exists():
            return TinyAutoencoder.load(path, found.config.tiny_decoder)
    return None
