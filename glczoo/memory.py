"""How much memory there is, and how sizes are written."""

from pathlib import Path

import psutil

__all__ = ["available_memory", "size_text"]

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def available_memory() -> int:
    """Bytes that a process may still take: of the machine, or of the container that it runs in."""
    available = int(psutil.virtual_memory().available)
    for file in _LIMITS:
        try:
            limit = Path(file).read_text("ascii").strip()
        except OSError:
            continue
        if limit.isdecimal():
            available = min(available, int(limit))
    return available


def size_text(number: float) -> str:
    """Bytes as people say them: 340 MB, 1.2 GB."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if number >= 10 or unit == "bytes" else f"{number:.1f} {unit}"
