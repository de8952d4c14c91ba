"""Finished stages → a model's folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from motionstream.autoencoder.tiny import TinyAutoencoder
from motionstream.component_config import TextConfig
from motionstream.components import Components
from motionstream.pipeline import MotionStreamPipeline
from motionstream.training.recipes import Recipe
from motionstream.training.sources import base, begin, finished, load_autoencoder, load_into, parts, weights_path
from motionstream.training.trainee import Trainee


def export(recipe: Recipe, folder: Path, target: Path, through: str | None = None) -> None:
    """Make a model's folder of the finished stages in ``folder``, for ``MotionStreamPipeline.from_pretrained``.

    ``through``: "teacher" or "causal" leaves the later stages out, for comparisons with what they added. Otherwise the
    student is Self-Forcing's where that stage is finished, the causal stage's otherwise; the folder says which.
    It has a tiny decoder where that stage is finished or the base has one, and its config names none otherwise.
    ``target`` is created, or its model replaced (other files in it stay). Everything is written beside it first, so
    that a failure leaves it as it was. Raises ValueError for a stage that is missing and a target that is no model's.
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
        # model.json last: it is what tells a model's folder.
        files = [path for path in Path(temporary).rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.name == "model.json"):
            place = target / path.relative_to(temporary)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)


def _parts(recipe: Recipe, folder: Path, trainee: Trainee) -> Components:
    """What stands around the transformer: trained here, or the base's."""
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
    """Trained here, or the base's; None where there is neither."""
    own = weights_path(folder, "tiny-decoder")
    if own.exists():
        return TinyAutoencoder.load(own, recipe.model.tiny_decoder)
    if recipe.autoencoder is None:
        found = base(recipe)
        path = found.folder / "tiny_decoder.safetensors"
        if path.exists():
            return TinyAutoencoder.load(path, found.config.tiny_decoder)
    return None
