"""What a published folder may hold, what each file may do, and whether it is as it was published.

Whoever downloads a model trusts numbers, and nothing else that lies beside them.
"""

import os
import stat
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from glczoo.errors import GlczooError
from glczoo.files import sha256, whole

__all__ = [
    "CARD",
    "PUBLISHED_FILES",
    "SUMS",
    "DamagedError",
    "check_sums",
    "damaged_files",
    "is_listed",
    "listed_files",
    "write_sums",
]

SUMS = "SHA256SUMS"
"""The file of checksums."""
CARD = "README.md"
"""The model card."""

PUBLISHED_FILES = {
    "model.safetensors": "numbers; compared with the architecture before memory is taken",
    "golden.safetensors": "numbers; shapes are compared before memory is taken",
    "config.json": "a schema; names a registered architecture, and arguments that load nothing",
    "metrics.json": "numbers and recipes, by their schemas; printed as text",
    "species.csv": "ids and names; printed as text",
    "region.yaml": "a schema; names files inside of the data folder, of formats that name no other file",
    "recipe.yaml": "a schema; tells how samples are split; what it starts from is not looked for",
    "recipes/*.yaml": "text for people; never read",
    "leaderboard.json": "numbers, and names of letters, digits and a few signs; printed as text",
    CARD: "text for people; never read",
    SUMS: "checksums of the others but the card; other names are refused",
}
"""All that is ever downloaded, loaded or sent: no pickle, no code. And what each file may do."""


class DamagedError(GlczooError):
    """A file is not what was published, or does not belong to the others beside it."""


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS as `sha256sum --check` reads it. The card is left out: people edit it."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names if name not in (SUMS, CARD)]
    with whole(folder / SUMS) as partial:
        partial.write_text("".join(lines), "utf-8")


def check_sums(folder: Path, files: Sequence[str] = tuple(PUBLISHED_FILES)) -> None:
    """Compare files with SHA256SUMS.

    Args:
        folder: of a published model.
        files: patterns of the names to compare.

    Raises:
        DamagedError: there is no SHA256SUMS, or a file is missing, altered or truncated.
    """
    if damaged := damaged_files(folder, files):
        raise DamagedError(f"{folder}: {'; '.join(damaged.values())}; take another copy of the folder")


def damaged_files(folder: Path, files: Sequence[str] = tuple(PUBLISHED_FILES)) -> dict[str, str]:
    """Files that are not as SHA256SUMS lists them, and what is wrong with each.

    `files`: patterns of those to look at.
    """
    try:
        sums = _read_sums(folder)
    except FileNotFoundError:
        return {SUMS: f"it holds no {SUMS}: it was not published with glczoo"}
    except ValueError as error:
        return {SUMS: str(error)}
    damaged = {}
    for name, digest in sums.items():
        if not is_listed(name, files):
            continue
        if not (folder / name).is_file():
            damaged[name] = f"{name} is missing, {SUMS} lists it"
        elif sha256(folder / name) != digest:
            damaged[name] = f"{name} is not the published file (SHA-256 differs)"
    return damaged


def _read_sums(folder: Path) -> dict[str, str]:
    try:
        lines = [line.split("  ", 1) for line in (folder / SUMS).read_text("utf-8").splitlines()]
        sums = {name: digest for digest, name in lines}
    except (ValueError, UnicodeDecodeError):
        raise GlczooError(f"{SUMS} is damaged") from None
    if strangers := [name for name in sums if not is_listed(name)]:
        raise GlczooError(f"{SUMS} lists {strangers}: no part of a published model")
    return sums


def listed_files(folder: Path) -> set[str]:
    """The files of a folder that is to be published: those that SHA256SUMS lists, and the card.

    Hidden files are left out.

    Raises:
        DamagedError: there is no SHA256SUMS, or the folder or one inside of it holds another file, a link, or
            what is no file.
    """
    try:
        known = {*_read_sums(folder), SUMS, CARD}
    except FileNotFoundError:
        raise DamagedError(f"{folder} holds no {SUMS}: it was not published with glczoo") from None
    except ValueError as error:
        raise DamagedError(f"{folder}: {error}") from None
    names, strangers = set(), []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for entry in (*folders, *files):
            path = Path(parent, entry)
            name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
            if entry.startswith("."):
                continue
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = "link" if stat.S_ISLNK(mode) else "special file"
                raise DamagedError(
                    f"{path} is a {kind}: a published folder holds plain files alone; put a copy in its place"
                )
            if stat.S_ISREG(mode):
                names.add(name)
                strangers += [name] if name not in known else []
    if strangers:
        raise DamagedError(
            f"{folder} holds {sorted(strangers)}, which {SUMS} does not list: no part of a published model, "
            "and neither loaded nor sent; remove it"
        )
    return names


def is_listed(name: str, patterns: Sequence[str] = tuple(PUBLISHED_FILES)) -> bool:
    """Whether a name fits a pattern part by part: `*` is no folder, and no name leads upwards.

    `patterns`: with / between their parts.
    """
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).as_posix() != name or name.startswith("/"):
        return False
    split = [PurePosixPath(pattern).parts for pattern in patterns]
    return any(
        len(parts) == len(wanted) and all(fnmatch(a, b) for a, b in zip(parts, wanted, strict=True))
        for wanted in split
    )
