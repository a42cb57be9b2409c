"""Errors that a user can cause: what is wrong, where, and what to do about it."""

import errno
from pathlib import Path

__all__ = ["CheckpointError", "ExistsError", "GlczooError", "MissingError", "of_system"]


_LONGEST = 1500  # letters of what is wrong: a person reads it


class GlczooError(ValueError):
    """Something a user can mend; the command prints it in one line and ends with exit code 1.

    Attributes:
        what: is wrong, with what was given: "there is no band 'bio20'".
        where: the file, folder, key or address that it is about, if `what` does not name it.
        remedy: what to do, a sentence or several.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, remedy: str | None = None) -> None:
        """Hold what the message is made of; of what is very long, such as a thousand columns, both ends."""
        if len(what) > _LONGEST:
            what = f"{what[: _LONGEST // 2]} […] {what[-_LONGEST // 2 :]}"
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where is not None else ""
        if self.remedy is None:
            return place + self.what
        return f"{place}{self.what.removesuffix('.')}. {self.remedy}"


class MissingError(GlczooError, FileNotFoundError):
    """A file or a folder that is needed is not there."""


class ExistsError(GlczooError, FileExistsError):
    """Something stands where a file or a folder is to be written; it is left as it is."""


class CheckpointError(GlczooError, RuntimeError):
    """Weights that are to fill a model cannot be had, or are not its own; PyTorch raises a RuntimeError."""


def of_system(error: OSError) -> GlczooError:
    """What the operating system refused, in a line: the disk is full, or the file may not be read.

    `error`: as Python raised it.
    """
    path = str(error.filename)[-300:] if error.filename is not None else None
    reason = (error.strerror or str(error) or type(error).__name__).splitlines()[0]
    return GlczooError(reason, where=path, remedy=_REMEDIES.get(error.errno or 0))


_ROOM = "Make room and give the same command again; nothing half-written is left."
_ELSEWHERE = "Name another place, or ask who owns it."
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: _ROOM,
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.ENAMETOOLONG: "Shorten it.",
    errno.EMFILE: "Raise the number of open files: ulimit -n.",
}
