"""How large what is read may become: bombs that unpack to terabytes are refused before they are unpacked.

The limits are far beyond what tables of records are: text is packed 5 to 50 times, and a download of all
records of GBIF is a few hundred gigabytes.
"""

import io
import zipfile
from collections.abc import Callable
from typing import IO, Any

from glczoo.errors import GlczooError
from glczoo.memory import available_memory, size_text

__all__ = ["LONGEST_LINE", "counted", "refuse_bomb", "refuse_more_than_memory"]

LONGEST_LINE = 2**26
"""Bytes: 67 MB."""
_FREE = 2**28  # bytes that may be unpacked whatever they were packed in
_MOST_TIMES = 200  # how many times its packed size a table may be
_LARGEST = 2**40  # bytes of one table


def counted(opened: Callable[[], IO[bytes]], packed: int, where: str) -> Callable[[], IO[bytes]]:
    """The same stream, which stops where more comes out of it than was ever packed in so few bytes.

    Args:
        opened: opens the unpacked bytes.
        packed: bytes that they are packed in.
        where: the file, for a message.
    """

    def open_counted() -> IO[bytes]:
        return io.BufferedReader(_Counted(opened(), max(_FREE, _MOST_TIMES * packed), where), 2**18)

    return open_counted


def refuse_bomb(info: zipfile.ZipInfo, where: str) -> None:
    """Refuse a member of a zip archive that says itself that it is larger than any table.

    `info`: what the archive says of the member.

    Raises:
        GlczooError: it is.
    """
    if info.file_size > min(_LARGEST, max(_FREE, _MOST_TIMES * info.compress_size)):
        packed = f"{where}: {info.filename} is packed in {size_text(info.compress_size)}"
        raise GlczooError(_bomb(packed, info.file_size))


def refuse_more_than_memory(least: int, what: str) -> None:
    """Refuse what needs more memory than there is.

    Args:
        least: bytes that it takes at the least.
        what: the file and what it holds, for a message.

    Raises:
        GlczooError: there is not so much.
    """
    if least > (there := available_memory()):
        raise GlczooError(
            f"{what} take at least {size_text(least)} of memory, and {size_text(there)} are left: read part "
            "of it, or save the columns that are needed as CSV"
        )


class _Counted(io.RawIOBase):
    """A stream that counts what is read from it."""

    def __init__(self, stream: IO[bytes], most: int, where: str) -> None:
        self._stream = stream
        self._most = most
        self._where = where
        self._done = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._done += len(data)
        if self._done > self._most:
            raise GlczooError(_bomb(f"{self._where} is packed very small", self._done))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


def _bomb(what: str, size: int) -> str:
    return (
        f"{what} and unpacks to {size_text(size)} or more: no table is packed so far, it may be made to fill "
        "memory and disk. If it is a table, unpack it yourself and name that file"
    )
