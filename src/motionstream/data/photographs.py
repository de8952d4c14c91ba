"""The photographs in scikit-image's wheel, the only pictures that the embedded model is trained on.

They are read from the installed package; nothing is downloaded. TRAIN is for training, HELD_OUT for validation
and figures; other names are refused. Pictures for which scikit-image records no terms (the motorcycles, the
moon) are left out of both.
"""

import functools
import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN = (
    "astronaut",
    "coins",
    "brick",
    "grass",
    "ihc",
    "hubble_deep_field",
    "retina",
)
HELD_OUT = ("chelsea", "coffee", "camera", "rocket", "gravel", "cell")

# Each picture's terms and origin, as recorded by scikit-image 0.26 (skimage/data/_fetchers.py).
LICENCES = {
    "astronaut": "public domain, no known restrictions; NASA, Great Images collection",
    "coins": "no known restrictions; Brooklyn Museum, archives image 51611",
    "brick": "CC0; CC0Textures, Bricks25",
    "grass": "CC0; DeviantArt user linolafett, Grass 01",
    "ihc": "no known restrictions; Center for Microscopy and Molecular Imaging (CMMI)",
    "hubble_deep_field": "free use under NASA's photograph guidelines; HubbleSite release 2012-37",
    "retina": "CC0; Mikael Haggstrom, Wikimedia Commons",
    "chelsea": "CC0; Stefan van der Walt",
    "coffee": "CC0; Rachel Michetti, by courtesy of Pikolo Espresso Bar",
    "camera": "CC0; Lav Varshney",
    "rocket": "public domain; SpaceX, launch of DSCOVR on Falcon 9",
    "gravel": "CC0; CC0Textures, Gravel04",
    "cell": "CC0; Mueller et al., Optics Express 26(8), 2018",
}


def folder() -> Path:
    """The folder of pictures in the installed scikit-image, found without importing it."""
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise ValueError("the photographs ship with scikit-image, which is not installed: pip install scikit-image")
    return Path(spec.origin).parent / "data"


@functools.cache
def _read(name: str) -> np.ndarray:
    if name not in LICENCES:
        raise ValueError(f"unknown photograph {name!r}: use one of {', '.join(TRAIN + HELD_OUT)}")
    for suffix in (".png", ".jpg"):
        path = folder() / (name + suffix)
        if path.is_file():
            with Image.open(path) as picture:
                pixels = np.array(picture.convert("RGB"))
            pixels.setflags(write=False)  # the cache returns this same array
            return pixels
    raise ValueError(f"photograph {name!r} is not in {folder()}: install scikit-image >= 0.24 from its wheel")


def load(name: str) -> np.ndarray:
    """The photograph `name` as uint8 (H, W, 3); grey pictures have three equal channels.

    Raises ValueError if the name is in neither TRAIN nor HELD_OUT, or scikit-image does not contain the file.
    """
    return _read(name).copy()
