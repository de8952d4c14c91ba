"""The one-way flow of the design: each package imports only what stands left of it (docs/architecture.md)."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "motionstream"

# Which parts of the package each part may import, itself aside. Imports inside functions and for type
# checking count as well: a dependency is one wherever it is written.
LEFT_OF_PIPELINE = {
    *("component_config", "config", "wan_presets", "presets", "yuv", "media", "pixels", "tracks"),
    *("checkpoint_files", "autoencoder", "conditioning", "carry", "model", "sampler"),
}
ABOVE_PIPELINE = LEFT_OF_PIPELINE | {
    *("environment", "metrics", "components", "loading", "scene", "stream", "pipeline", "data"),
}
ALLOWED: dict[str, set[str]] = {
    "component_config": set(),
    "config": {"component_config"},
    "wan_presets": {"component_config", "config"},
    "presets": {"component_config", "config", "wan_presets"},
    "yuv": set(),
    "media": {"yuv"},
    "pixels": set(),
    "wire": set(),
    "client": {"wire", "yuv"},
    "metrics": {"config"},
    "tracks": {"config", "media"},
    "checkpoint_files": set(),
    "child_processes": set(),
    "residual": set(),
    "autoencoder": {"component_config", "config", "checkpoint_files", "residual"},
    "conditioning": {"component_config", "config", "tracks", "autoencoder", "checkpoint_files"},
    "carry": {"config", "pixels", "tracks", "autoencoder", "conditioning", "residual"},
    "model": {"component_config", "config", "tracks", "conditioning", "carry", "autoencoder", "checkpoint_files"},
    "sampler": {"config", "conditioning", "model"},
    "memory": LEFT_OF_PIPELINE | {"components"},
    "flops": LEFT_OF_PIPELINE,
    "components": LEFT_OF_PIPELINE,
    "device_timing": set(),
    "hardware": {"config", "device_timing"},
    "scene": LEFT_OF_PIPELINE | {"components"},
    "stream": LEFT_OF_PIPELINE | {"components", "device_timing", "scene"},
    "whole_clip": LEFT_OF_PIPELINE | {"scene"},
    "loading": LEFT_OF_PIPELINE | {"components"},
    "pipeline": LEFT_OF_PIPELINE | {"memory", "components", "loading", "scene", "stream", "whole_clip"},
    "session": LEFT_OF_PIPELINE | {"scene", "stream", "pipeline"},
    "editing": LEFT_OF_PIPELINE | {"scene", "pipeline"},
    "data": LEFT_OF_PIPELINE | {"components", "loading", "child_processes"},
    "environment": set(),
    "bench": LEFT_OF_PIPELINE
    | {"components", "scene", "pipeline", "stream", "environment", "memory", "flops", "hardware"},
    # The three that stand furthest right never import one another.
    "training": ABOVE_PIPELINE | {"memory", "flops", "hardware", "device_timing", "child_processes"},
    "evaluation": ABOVE_PIPELINE,
    "server": LEFT_OF_PIPELINE
    | {"environment", "hardware", "wire", "client", "loading", "scene", "stream", "pipeline", "session"},
}
# What the packages inside a part may import of it; its single modules stand right of its packages.
INSIDE: dict[str, dict[str, set[str]]] = {
    "training": {
        "loop": set(),
        "clips": {"loop"},
        "diffusion": {"loop", "clips"},
        "parts": {"loop", "clips", "diffusion"},
        "recipes": {"loop", "diffusion", "parts"},
    }
}
# They tie everything together: the package's own names, and the command line.
FREE = {"__init__", "__main__", "cli", "commands"}

# Seconds to import: `motionstream --help` must not wait for them.
HEAVY = {"torch", "diffusers", "transformers", "cv2", "av", "skimage", "torchmetrics", "fastapi", "uvicorn"}


def modules(source: Path) -> dict[str, Path]:
    """Dotted names under the package ("tracks.gestures", "cli", "__init__") and their files."""
    return {".".join(path.relative_to(source).with_suffix("").parts): path for path in source.rglob("*.py")}


def imported(module: str, path: Path, nodes: list[ast.AST]) -> list[tuple[int, str]]:
    """(line, dotted name) of everything that import statements among `nodes` name, made absolute."""
    package = ["motionstream", *module.split(".")[:-1]]
    names = []
    for node in nodes:
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            names += [(node.lineno, ".".join([*base, alias.name])) for alias in node.names]
    return names


def violations(source: Path) -> list[str]:
    """One sentence for every import that goes against the flow."""
    found = []
    for module, path in sorted(modules(source).items()):
        part = module.split(".")[0]
        if part in FREE:
            continue
        if part not in ALLOWED:
            found.append(f"{module}: not in the table of this test; say what it may import")
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for line, name in imported(module, path, list(ast.walk(tree))):
            root, _, rest = name.partition(".")
            target = rest.split(".")[0]
            # `__version__` alone may come from the package itself: what else is there stands right of all.
            if root != "motionstream" or target == part or rest == "__version__":
                continue
            if target not in ALLOWED[part]:
                found.append(f"{module}:{line} imports {name}, which {part} may not")
    return found


def violations_inside(source: Path) -> list[str]:
    """As ``violations``, among the packages inside a part (``INSIDE``)."""
    found = []
    for module, path in sorted(modules(source).items()):
        part, package, *_ = [*module.split("."), ""]
        allowed = INSIDE.get(part, {}).get(package)
        if allowed is None:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for line, name in imported(module, path, list(ast.walk(tree))):
            target = [*name.split("."), "", ""][:3]
            if target[:2] == ["motionstream", part] and target[2] not in allowed | {package}:
                found.append(f"{module}:{line} imports {name}, which {part}.{package} may not")
    return found


def at_the_top(path: Path) -> list[ast.AST]:
    """The statements that run on import: none inside functions or under `if TYPE_CHECKING`."""
    waiting: list[ast.AST] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    found: list[ast.AST] = []
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        found.append(node)
        waiting += ast.iter_child_nodes(node)
    return found


def heavy_imports(source: Path, module: str) -> list[str]:
    """Which heavy libraries importing a module loads, with the chain of our modules that leads there."""
    known, found = modules(source), []
    waiting, seen = [("__init__", "motionstream"), (module, module)], set()
    while waiting:
        name, chain = waiting.pop()
        if name in seen or name not in known:
            continue
        seen.add(name)
        for _, target in imported(name, known[name], at_the_top(known[name])):
            root, *rest = target.split(".")
            if root in HEAVY:
                found.append(f"{chain} imports {root}")
            if root == "motionstream":  # the module itself, and the packages around it
                for end in range(1, len(rest) + 1):
                    inner = ".".join(rest[:end])
                    waiting += [(inner, f"{chain} > {inner}"), (f"{inner}.__init__", f"{chain} > {inner}")]
    return sorted(set(found))


def write(source: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    return source


def test_the_package_flows_one_way():
    assert modules(SOURCE), f"no modules under {SOURCE}"
    assert not violations(SOURCE), "\n".join(violations(SOURCE))


def test_the_packages_inside_a_part_flow_one_way():
    assert not violations_inside(SOURCE), "\n".join(violations_inside(SOURCE))
    for part, allowed in INSIDE.items():
        assert all((SOURCE / part / package).is_dir() for package in allowed)


def test_imports_against_the_flow_inside_a_part_fail(tmp_path):
    for module, text in {
        "training/loop/run.py": "from motionstream.training.clips import prepared",
        "training/clips/shards.py": "from motionstream.training import sources",
        "training/recipes/wan.py": "from ..stages import run",
    }.items():
        source = write(tmp_path / module.replace("/", "_"), {module: text})
        assert [found.split(" ")[0] for found in violations_inside(source)] == [module[:-3].replace("/", ".") + ":1"]
    fine = "from motionstream.training.loop import run\nfrom .recipe import Recipe\nimport motionstream.config"
    assert violations_inside(write(tmp_path / "fine", {"training/recipes/wan.py": fine})) == []


def test_the_command_line_starts_without_heavy_libraries():
    assert not heavy_imports(SOURCE, "cli"), "\n".join(heavy_imports(SOURCE, "cli"))


def test_the_table_names_only_what_there_is():
    parts = {module.split(".")[0] for module in modules(SOURCE)}
    assert set(ALLOWED) | set().union(*ALLOWED.values()) <= parts


def test_the_table_itself_has_no_circle():
    order: list[str] = []
    while len(order) < len(ALLOWED):
        ready = [part for part, allowed in ALLOWED.items() if part not in order and allowed <= set(order)]
        assert ready, f"a circle among {set(ALLOWED) - set(order)}"
        order += ready
    rightmost = {"training", "evaluation", "server"}
    assert not any(allowed & rightmost for allowed in ALLOWED.values())


def test_imports_with_the_flow_pass(tmp_path):
    source = write(
        tmp_path,
        {
            "__init__.py": "from motionstream.pipeline import Pipeline",
            "cli.py": "import motionstream.server.app",
            "config.py": "import dataclasses\nimport torch",
            "tracks/__init__.py": "",
            "tracks/tracks.py": "from motionstream.config import X\nfrom motionstream import __version__",
            "tracks/gestures.py": "from .tracks import Tracks\nfrom . import tracks\nfrom ..media import fit",
            "training/loop.py": "from motionstream import metrics\nimport motionstream.pipeline as p",
        },
    )
    assert violations(source) == []


def test_imports_against_the_flow_fail(tmp_path):
    for module, text in {
        "config.py": "from motionstream.presets import nano",
        "media.py": "import motionstream.tracks.tracks",
        "tracks/tracks.py": "from motionstream import pipeline",
        "tracks/camera.py": "from motionstream import Tracks",  # the package's names stand right of all
        "tracks/tracker.py": "from ..model import transformer",
        "model/attention.py": "from ..sampler.flow import shift",
        "carry/candidates.py": "def late():\n    import motionstream.model",
        "sampler/flow.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .. import pipeline",
        "metrics.py": "from .training import loop",
        "training/loop.py": "from motionstream.evaluation import report",
        "evaluation/report.py": "from ..server.engine import Engine",
        "server/app.py": "from motionstream.training.loop.run import train",
        "pipeline.py": "from motionstream.cli import main",
    }.items():
        source = write(tmp_path / module.replace("/", "_"), {module: text})
        name = module.removesuffix(".py").replace("/", ".")
        assert len(violations(source)) == 1, module
        assert violations(source)[0].startswith(f"{name}:{text.count(chr(10)) + 1} imports motionstream")


def test_parts_outside_the_table_fail(tmp_path):
    source = write(tmp_path, {"utils.py": "", "helpers/more.py": ""})
    assert [found.split(":")[0] for found in violations(source)] == ["helpers.more", "utils"]


def test_heavy_libraries_are_found_through_our_own_modules(tmp_path):
    light = {
        "__init__.py": "def __getattr__(name):\n    from motionstream import pipeline",
        "pipeline.py": "import torch",
        "cli.py": "import tyro\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n"
        "def main():\n    import cv2\n    from motionstream.pipeline import Pipeline",
    }
    assert heavy_imports(write(tmp_path / "a", light), "cli") == []
    for number, heavy in enumerate(
        [
            {"cli.py": "import torch.nn"},
            {"cli.py": "try:\n    from torch import nn\nexcept ImportError:\n    pass"},
            {"cli.py": "from motionstream.pipeline import Pipeline"},
            {"cli.py": "from . import pipeline"},
            {"cli.py": "class Verb:\n    import torch"},
            {"__init__.py": "from motionstream.pipeline import Pipeline"},
            {"cli.py": "import motionstream.server.app", "server/__init__.py": "import torch"},
        ]
    ):
        found = heavy_imports(write(tmp_path / f"b{number}", {**light, **heavy}), "cli")
        assert len(found) == 1 and found[0].endswith("imports torch"), (heavy, found)
