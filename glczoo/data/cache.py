"""What is made once from the user's files and read again in no time (`GLCZOO_CACHE`, ~/.cache/glczoo).

Everything is kept under a name made of its sources' paths, sizes and times of change and of what was asked of
them. One process makes it while others wait, and a killed one leaves nothing half-written under that name.
Any of it may be deleted at any time.
"""

import errno
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from glczoo.errors import GlczooError
from glczoo.files import FULL, lock, lock_file, whole

__all__ = ["fingerprint", "kept", "kept_arrays", "mapped"]

_WORTH_KEEPING = 10_000_000  # bytes: a smaller table is read as fast as its copy


def fingerprint(path: Path) -> tuple[str, int, int]:
    """Path, size and time of change of a file: another one of these is another file."""
    status = path.stat()
    return str(path.resolve()), status.st_size, status.st_mtime_ns


def kept(kind: str, key: object, make: Callable[[Path], None], suffix: str = "", size: int = 0) -> Path:
    """The file or folder that `make(path)` writes, made only if it is not in the cache.

    Args:
        kind: folder of the cache.
        key: JSON values that say what it is made of.
        make: writes a file or folder at the path that it is given.
        suffix: of the file.
        size: bytes that it will take.

    Raises:
        OSError: there is no room for it, or the cache cannot be written.
    """
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24] + suffix
    folder = Path(os.environ.get("GLCZOO_CACHE", Path.home() / ".cache" / "glczoo")) / kind
    target = folder / name
    if target.exists():
        with suppress(OSError):  # of a process that was killed when all was done, or is about to delete it
            lock_file(target).unlink(missing_ok=True)
        return target
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in FULL:
            raise
        remedy = "Name another folder with GLCZOO_CACHE"
        raise GlczooError(
            f"the cache cannot be written: {error.strerror}", where=folder, remedy=remedy
        ) from None
    with lock(target, wait=True):
        if target.exists():  # another process has made it meanwhile
            return target
        if size > (free := shutil.disk_usage(folder).free):
            raise OSError(
                errno.ENOSPC,
                f"{size / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free: make room, crop the "
                "rasters to the region, or name another folder with GLCZOO_CACHE",
                str(folder),
            )
        with whole(target) as partial:
            make(partial)
    return target


def kept_arrays(files: list[Path], question: object, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Arrays read from tables; those of large tables are memory-mapped from the cache, read-only.

    Args:
        files: the tables.
        question: JSON values that say what is read from them, and how.
        make: reads the tables.
    """
    if sum(path.stat().st_size for path in files) < _WORTH_KEEPING:
        return make()

    def write(folder: Path) -> None:
        folder.mkdir()
        for name, array in make().items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)

    folder = kept("tables", [[fingerprint(path) for path in files], question], write)
    return {path.stem: np.asarray(mapped(path, folder)) for path in folder.iterdir()}


def mapped(path: Path, whole: Path) -> np.ndarray:
    """An array of the cache, memory-mapped and read-only.

    Args:
        path: the array's file.
        whole: the file or folder that `kept` gave.

    Raises:
        GlczooError: the file is damaged.
    """
    try:
        return np.load(path, mmap_mode="r")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise GlczooError(f"{path} is damaged ({error}); delete {whole}, it will be built again") from None
