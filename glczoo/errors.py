"""Errors that a user can cause: what is wrong, where, and what to do about it."""

from pathlib import Path

__all__ = ["GlczooError", "MissingError"]


class GlczooError(ValueError):
    """Something a user can mend; the command prints it in one line and ends with exit code 1.

    Attributes:
        what: is wrong, with what was given: "there is no band 'bio20'".
        where: the file, folder, key or address that it is about, if `what` does not name it.
        remedy: what to do, a sentence or several.
    """

    def __init__(self, what: str, *, where: str | Path | None = None, remedy: str | None = None) -> None:
        """Hold what the message is made of."""
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
