"""The node pack by its plain interface, without ComfyUI, and the example script."""

import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from motionstream.tracks import Tracks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pack() -> ModuleType:
    """Loaded as ComfyUI does: a package by its folder."""
    folder = ROOT / "integrations" / "comfyui"
    spec = importlib.util.spec_from_file_location(
        "comfy_pack", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["comfy_pack"] = module
    spec.loader.exec_module(module)
    return module


def defaults(node: type) -> dict:
    """What a node is given by a workflow that changes nothing."""
    required = node.INPUT_TYPES()["required"]
    return {name: entry[1]["default"] for name, entry in required.items() if len(entry) > 1}


def run(node: type, **values: object) -> object:
    (answer,) = getattr(node(), node.FUNCTION)(**{**defaults(node), **values})
    return answer


def test_every_node_has_what_comfyui_asks_for(pack):
    assert set(pack.NODE_CLASS_MAPPINGS) == set(pack.NODE_DISPLAY_NAME_MAPPINGS)
    for node in pack.NODE_CLASS_MAPPINGS.values():
        assert node.CATEGORY == "MotionStream" and len(node.RETURN_TYPES) == 1
        assert callable(getattr(node, node.FUNCTION))
        assert all(isinstance(entry[0], str) for entry in node.INPUT_TYPES()["required"].values())


def test_a_workflow_drags_moves_the_camera_and_samples(pack, tmp_path):
    nodes = pack.NODE_CLASS_MAPPINGS
    small = {"width": 32, "height": 32, "frames": 12}
    drawn = run(nodes["MotionStreamDragTracks"], gestures="8,8:20,8\n\n0.9,0.9", radius=0.0, **small)
    assert isinstance(drawn, Tracks) and drawn.count == 2 and drawn.positions[-1, 0].tolist() == [20, 8]
    depth = torch.ones(1, 64, 64, 3)
    moved = run(nodes["MotionStreamCameraTracks"], objects=drawn, pan_x=0.25, depth=depth)
    assert moved.positions[-1, -2].tolist() == pytest.approx([12, 8], abs=0.01)  # dragged right, the camera right, too
    moved.save(tmp_path / "t.npz")
    loaded = run(nodes["MotionStreamLoadTracks"], path=str(tmp_path / "t.npz"))
    assert np.array_equal(loaded.positions, moved.positions, equal_nan=True)
    image = torch.rand(1, 40, 60, 3)
    video = run(nodes["MotionStreamSample"], image=image, tracks=loaded, model="debug", untrained=True)
    assert video.shape == (12, 32, 32, 3) and video.dtype == torch.float32 and 0 <= video.min() <= video.max() <= 1


def test_the_example_script_runs(tmp_path, monkeypatch, capsys):
    script = ROOT / "examples" / "pipeline.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script), "--model", "debug", "--untrained"])
    runpy.run_path(str(script), run_name="__main__")
    assert "48 frames" in capsys.readouterr().out and (tmp_path / "coffee.mp4").is_file()
    assert Tracks.load(tmp_path / "tracks.npz").length == 48
