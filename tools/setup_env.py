"""Set up .venv in the project's root with everything that constraints.txt pins; `make setup` runs this.

torch goes first and from its pin, so that nothing installed later can pull another build of it: on Linux
without an NVIDIA GPU the CPU build where pip's indexes have one (a tenth of the size), else the default
build. PIP_ARGS in the environment is handed to every pip call (another index, an offline folder of wheels).
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / "constraints.txt"
OLDEST = (3, 11)


def main() -> None:
    if sys.version_info < OLDEST:
        sys.exit(f"Python {platform.python_version()} is too old: {'.'.join(map(str, OLDEST))} or newer is needed")
    create_venv()
    install_torch(torch_pin(), cpu_build=platform.system() == "Linux" and not has_nvidia_gpu())
    pip("install", "--constraint", str(CONSTRAINTS), "--editable", f"{ROOT}[serve,train,wan,dev]")


def create_venv() -> None:
    """Make .venv with this interpreter, anew if there is one of another Python version or a broken one."""
    python = VENV / "bin" / "python"
    if python.exists():
        same = f"import pip, sys; sys.exit(sys.version_info[:2] != {sys.version_info[:2]!r})"
        if subprocess.run([python, "-c", same], capture_output=True).returncode == 0:
            return
    print(f"creating {VENV} with Python {platform.python_version()}", flush=True)
    if subprocess.run([sys.executable, "-m", "venv", "--clear", VENV]).returncode != 0:
        sys.exit(f"{sys.executable} cannot make environments: install its venv module (Debian: python3-venv)")


def torch_pin() -> str:
    """The version of torch in constraints.txt."""
    pins = re.findall(r"^torch==([\d.]+)$", CONSTRAINTS.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(pins) == 1, f"{CONSTRAINTS} pins torch {len(pins)} times"
    return str(pins[0])


def has_nvidia_gpu() -> bool:
    """Whether the driver answers and names a GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        answer = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and "GPU" in answer.stdout


def install_torch(version: str, cpu_build: bool) -> None:
    """Install the pinned torch in the build that fits the machine."""
    if not cpu_build:
        # An index or folder may hold the CPU build as well, and pip would rank it higher.
        pip("install", "--constraint", str(CONSTRAINTS), f"torch=={version},!={version}+cpu")
        return
    # The CPU build is a version of its own, 2.x.y+cpu, which satisfies ==2.x.y for whoever requires that.
    # What it needs itself comes with the rest.
    if not pip("install", "--no-deps", f"torch=={version}+cpu", may_fail=True):
        print(f"no CPU build of torch {version} on pip's indexes: installing the default build", flush=True)
        pip("install", "--constraint", str(CONSTRAINTS), f"torch=={version}")


def pip(*arguments: str, may_fail: bool = False) -> bool:
    """Run pip inside .venv, True if it succeeded. A failure ends the set-up; one that may fail is quiet."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    command += shlex.split(os.environ.get("PIP_ARGS", ""))
    errors = subprocess.DEVNULL if may_fail else None
    code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=errors).returncode
    if code != 0 and not may_fail:
        sys.exit(f"pip failed ({code}), see above; PIP_ARGS hands it further options, such as another index")
    return code == 0


if __name__ == "__main__":
    main()
