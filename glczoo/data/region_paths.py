"""Paths that a region's description names: where they lead, and where they lie."""

from pathlib import Path, PurePosixPath
from typing import Any

__all__ = ["find_ignoring_case", "inside", "leads_out"]


_PATHS = ("folder", "file", "more", "packed", "without_species")  # keys of a region


def leads_out(path: str) -> bool:
    """Whether a path is absolute, leads upwards, or means more to GDAL or to a shell than a name."""
    parts = PurePosixPath(path.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or ":" in path or "\0" in path or path.startswith("~")


def inside(content: Any) -> Any:
    """The same with every file and folder that leads out named by its last part.

    `content`: of a YAML file, any mapping, list or value.
    """
    if isinstance(content, dict):
        return {
            key: _named(value)
            if key in ("folder", "file", "more", "packed", "without_species")
            else inside(value)
            for key, value in content.items()
        }
    return [inside(value) for value in content] if isinstance(content, list) else content


def _named(path: str | list[str]) -> str | list[str]:
    if isinstance(path, list):
        return [str(_named(each)) for each in path]
    return PurePosixPath(path.replace("\\", "/")).name.replace(":", "_") if leads_out(path) else path


def find_ignoring_case(folder: Path, parts: tuple[str, ...]) -> Path | None:
    """Walk down from `folder`: the exact name if it is there, else one that differs in letter case.

    `parts`: names of folders, then of the file.
    """
    if not parts:
        return folder
    if parts[0] in ("/", ".."):
        return find_ignoring_case(folder / parts[0], parts[1:])
    if (folder / parts[0]).exists():
        return find_ignoring_case(folder / parts[0], parts[1:])
    if folder.is_dir():
        for entry in sorted(folder.iterdir()):
            if entry.name.lower() == parts[0].lower():
                return find_ignoring_case(entry, parts[1:])
    return None
