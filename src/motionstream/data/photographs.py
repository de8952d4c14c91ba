"""The photographs that scikit-image ships inside its wheel, the only pictures the embedded model may learn
from.

They are read from the installed package's folder; nothing is ever downloaded. TRAIN may be trained on,
HELD_OUT is kept for validation and for figures, and a name in neither is refused. Pictures for which
scikit-image records no terms (the motorcycles, the moon) are left out of both.
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

# What scikit-image 0.26 records about each picture's origin and terms (skimage/data/_fetchers.py).
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
    """The folder of pictures in the installed scikit-image, which itself is not imported."""
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
            pixels.setflags(write=False)  # the cache hands out this very array
            return pixels
    raise ValueError(f"photograph {name!r} is not in {folder()}: install scikit-image >= 0.24 from its wheel")


def load(name: str) -> np.ndarray:
    """The photograph `name` as uint8 (H, W, 3); grey pictures have three equal channels.

    Raises ValueError for a name in neither TRAIN nor HELD_OUT and where scikit-image does not ship the file.
    """
    return _read(name).copy()
