"""How much memory there is, and what long work says of it before it starts."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from glczoo.errors import GlczooError

__all__ = ["announce", "available_memory", "require_disk", "size_text"]

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def announce(work: str, parts: Mapping[str, float], *, on_device: bool = False) -> None:
    """Say what memory long work takes, in a line on the screen, before it begins.

    How long it takes is not known before its first batches: then a bar, or a line of the log, says so.

    Args:
        work: what is done, such as "map".
        parts: bytes that are certain, by what takes them.
        on_device: they are taken from an accelerator's memory, which is not looked at.

    Raises:
        GlczooError: the machine has less, whatever else runs on it.
    """
    total = sum(parts.values())
    shares = ", ".join(f"{size_text(size)} {name}" for name, size in parts.items() if size)
    line = f"{work}: at least {size_text(total)} of memory ({shares})"
    print(f"glczoo: {line}; how long it takes is said after the first batches", file=sys.stderr, flush=True)
    if on_device:
        return
    if total > (there := _limited(psutil.virtual_memory().total + psutil.swap_memory().total)):
        raise GlczooError(
            f"{line}, and this machine has {size_text(there)}",
            remedy="Take a smaller batch_size (--batch-size), model or area, or a machine with more.",
        )
    if total > (left := available_memory()):
        print(
            f"glczoo: {size_text(left)} of memory are left: it may be slow, or be ended by the system",
            file=sys.stderr,
            flush=True,
        )


def require_disk(folder: Path, size: float, what: str) -> None:
    """Refuse work whose results have no room on the disk.

    Args:
        folder: where they go; it need not be there.
        size: bytes that are certain.
        what: the results, for a message.

    Raises:
        GlczooError: there is less room.
    """
    place = next(parent for parent in (folder.resolve(), *folder.resolve().parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    if size > free:
        raise GlczooError(
            f"{what} take {size_text(size)}, and {size_text(free)} are free",
            where=folder,
            remedy="Make room, name another place, or take a coarser resolution or fewer species.",
        )


def available_memory() -> int:
    """Bytes that a process may still take: of the machine, or of the container that it runs in."""
    return _limited(psutil.virtual_memory().available)


def _limited(size: int) -> int:
    """No more than the container may have that this runs in."""
    for file in _LIMITS:
        try:
            limit = Path(file).read_text("ascii").strip()
        except OSError:
            continue
        if limit.isdecimal():
            size = min(size, int(limit))
    return size


def size_text(number: float) -> str:
    """Bytes as people say them: 340 MB, 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if number >= 10 or unit == "bytes" else f"{number:.1f} {unit}"
