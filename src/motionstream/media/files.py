"""Files that are written whole or not at all, and checked before anything is computed for them."""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def check_output(path: str | Path, suffixes: Sequence[str] = ()) -> Path:
    """Refuse a file that cannot be written, before anything is computed for it.

    Returns the path with links resolved. Raises ValueError naming the path and the remedy.
    """
    if suffixes and Path(path).suffix.lower() not in suffixes:
        raise ValueError(f"cannot write {path}: unknown suffix; end the name in {' or '.join(suffixes)}")
    try:
        target = Path(path).resolve()
        if target.is_dir():
            raise ValueError(f"cannot write {path}: it is a folder; name a file inside it")
        if not target.parent.is_dir():
            raise ValueError(f"cannot write {path}: there is no folder {target.parent}; create it first")
        if target.exists() and not (target.is_file() and os.access(target, os.W_OK)):
            raise ValueError(f"cannot write {path}: it is write-protected or no file; choose another name")
        # Only trying reveals missing permissions, read-only disks and too long names.
        probe = _temporary(target)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}; choose another place") from error
    return target


def _temporary(target: Path) -> Path:
    # In the same folder, so that the rename is atomic; the suffix at the end, since writers choose formats by it.
    return target.with_name(f".{target.stem[:32]}.{secrets.token_hex(4)}.tmp{target.suffix}")


@contextmanager
def atomic_path(path: str | Path, suffixes: Sequence[str] = ()) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` if the body succeeds.

    If the body raises, the temporary file is removed and an older file at `path` is kept. Raises ValueError before the
    body runs if `path` cannot be written or has none of the `suffixes` (if any are given).
    """
    target = check_output(path, suffixes)
    temporary = _temporary(target)
    try:
        yield temporary
        assert temporary.is_file(), f"nothing was written to {temporary}"
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_input(path: str | Path) -> None:
    """Raise ValueError unless it is a file that can be read."""
    try:
        if not Path(path).is_file():
            raise ValueError(f"cannot read {path}: there is no such file; check the name")
        Path(path).open("rb").close()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; check its name and permissions") from error
