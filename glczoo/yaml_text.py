"""YAML that anybody may have written: plain values of bounded size and depth, or an error of one line."""

import re
from typing import Any

import yaml

from glczoo.errors import GlczooError

__all__ = ["parse_yaml", "shown"]

_CHARACTERS = 500_000  # a hundred times the longest region.yaml; PyYAML reads them in five seconds
_VALUES = 100_000  # after aliases are followed: nine lines of them can stand for a billion
_DEPTH = 20
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def parse_yaml(text: str, where: str) -> Any:
    """Values of a YAML text: mappings, lists, strings, numbers, dates, null.

    Args:
        text: of a file, or of the value behind a key's `=`.
        where: the file or the override, for messages.

    Raises:
        GlczooError: the text is not YAML, has tags that YAML 1.1 does not know, holds characters that cannot
            be printed, or stands for more values than a recipe or a region can have.
    """
    if len(text) > _CHARACTERS:
        raise GlczooError(f"{len(text):,} characters are too many, {_CHARACTERS:,} are allowed", where=where)
    try:
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        reason = shown(error.problem or error.context or "it cannot be read")
        raise GlczooError(f"this is not valid YAML: {place}{reason}", where=where) from None
    except yaml.YAMLError as error:  # a character that YAML forbids
        raise GlczooError(f"this is not valid YAML: {shown(str(error))}", where=where) from None
    except RecursionError:
        raise GlczooError("this YAML is nested too deeply", where=where) from None
    except (ValueError, OverflowError, TypeError) as error:  # 2020-13-45, a number of 10,000 digits
        raise GlczooError(f"a value is no {shown(str(error))}", where=where) from None
    _check(values, where)
    return values


def shown(value: object, width: int = 100) -> str:
    """A value in one line of a message, cut where it is long. `width`: letters at most."""
    try:
        text = value if isinstance(value, str) else repr(value)
    except RecursionError:
        text = f"a {type(value).__name__}"
    text = " ".join(_UNPRINTABLE.sub("�", text[: 4 * width]).split())
    return text if len(text) <= width else f"{text[:width]}…"


def _check(values: Any, where: str) -> None:
    """Refuse what is too deep, too much, or cannot be printed; aliases count as often as they are used."""
    number = 0
    stack = [(values, 0)]
    while stack:
        value, depth = stack.pop()
        number += 1
        if number > _VALUES:
            raise GlczooError(f"it stands for more than {_VALUES:,} values", where=where)
        if depth > _DEPTH:
            raise GlczooError(f"it is nested deeper than {_DEPTH} levels", where=where)
        if isinstance(value, dict):
            stack += [(inner, depth + 1) for pair in value.items() for inner in pair]
        elif isinstance(value, list | set | tuple):
            stack += [(inner, depth + 1) for inner in value]
        elif isinstance(value, str) and (found := _UNPRINTABLE.search(value)):
            raise GlczooError(
                f"{shown(value)!r} holds the character {ord(found[0]):#06x}, which cannot be printed",
                where=where,
            )
        elif isinstance(value, bytes):
            raise GlczooError("it holds bytes (!!binary), text is expected", where=where)
