"""From YAML to typed values: strict schemas, and mistakes named all at once."""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from glczoo.errors import GlczooError, MissingError
from glczoo.yaml_text import parse_yaml, shown

__all__ = ["Strict", "parse", "read_yaml"]


class Strict(BaseModel):
    """A schema that refuses keys it does not know: a typo must not silently train another model."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        MissingError: there is no such file.
        GlczooError: the file is not YAML, or not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingError(f"there is no file {shown(str(path), 300)}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        reason = f"{error.reason} at byte {error.start}"
        raise GlczooError(f"this is not UTF-8 text: {reason}", where=path) from None
    data = parse_yaml(text, str(path))
    if not isinstance(data, dict):
        raise GlczooError(f"it must hold `key: value` lines, it holds {type(data).__name__}", where=path)
    return data


Schema = TypeVar("Schema", bound=BaseModel)

_MISTAKES = 20  # that are listed
_LENGTH = 1500  # of all that are listed


def parse(
    schema: type[Schema], data: dict[str, Any], where: str, renamed: Mapping[str, str] | None = None
) -> Schema:
    """Check `data` against a schema. `renamed`: keys of earlier releases and what they are called now.

    Raises:
        GlczooError: one line for each mistake, unknown keys with the nearest key that exists.
    """
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        mistakes = []
        for item in error.errors()[:_MISTAKES]:
            key = shown(".".join(str(part) for part in item["loc"]))
            if item["type"] == "extra_forbidden" and (new := (renamed or {}).get(key)):
                mistakes.append(f"the key {key!r} is now {new!r}")
            elif item["type"] == "extra_forbidden":
                nearest = difflib.get_close_matches(str(item["loc"][-1]), _keys(schema), n=1, cutoff=0.5)
                hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
                mistakes.append(f"unknown key {key!r}{hint}")
            elif item["type"] == "missing":
                mistakes.append(f"{key}: this key is missing")
            elif not key:  # a rule between keys: the whole file would be no answer to "given what?"
                mistakes.append(shown(item["msg"].removeprefix("Value error, "), 500))
            else:
                message = shown(item["msg"].removeprefix("Value error, "), 500)
                mistakes.append(f"{key}: {message}, given {shown(repr(item['input']))}")
        while sum(map(len, mistakes)) > _LENGTH:
            mistakes.pop()
        number = error.error_count()
        if number > len(mistakes):
            mistakes.append(f"and {number - len(mistakes):,} more")
        raise GlczooError(f"{number} mistake(s)\n  " + "\n  ".join(mistakes), where=where) from None


def _keys(schema: type[BaseModel]) -> list[str]:
    """All keys of a schema and of the schemas inside it."""
    keys = list(schema.model_fields)
    for field in schema.model_fields.values():
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys += _keys(inner)
    return keys
