"""JSON that anybody may have written, or that a power cut has torn: values, or an error of one line."""

import json
from pathlib import Path
from typing import Any

from glczoo.errors import GlczooError
from glczoo.yaml_text import shown

__all__ = ["parse_json", "read_json"]

_LARGEST = 2**26  # bytes; the longest file that glczoo writes, of 10,039 species, has 2 MB


def read_json(path: Path) -> Any:
    """The values of a file.

    Raises:
        FileNotFoundError: there is no such file.
        GlczooError: it is no JSON, or far larger than any that glczoo writes.
    """
    if (size := path.stat().st_size) > _LARGEST:
        raise GlczooError(f"it has {size:,} bytes, {_LARGEST:,} are allowed", where=path)
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: bytes, where: str) -> Any:
    """The values of a text in UTF-8.

    Args:
        text: of a file or of a line.
        where: the file and the line, for the message.

    Raises:
        GlczooError: it is no JSON.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise GlczooError("this JSON is nested too deeply", where=where) from None
    except ValueError as error:  # also of bytes that are no text
        raise GlczooError(f"this is no JSON: {shown(str(error))}", where=where) from None
