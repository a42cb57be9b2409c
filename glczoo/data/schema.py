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
                nearest = _nearest(".".join(str(part) for part in item["loc"]), _keys(schema))
                hint = f"; did you mean {nearest!r}?" if nearest else ""
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


def _keys(schema: type[BaseModel], before: str = "") -> list[str]:
    """All keys of a schema and of the schemas inside it, such as `data` and `data.tables`."""
    keys = []
    for name, field in schema.model_fields.items():
        keys.append(before + name)
        for inner in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys += _keys(inner, f"{before}{name}.")
    return keys


def _nearest(unknown: str, keys: list[str]) -> str | None:
    """The key that was probably meant: of the same section where one is near, else of any."""
    section, _, last = unknown.rpartition(".")
    siblings = [key for key in keys if key.rpartition(".")[0] == section]
    elsewhere = [key for key in keys if key.rpartition(".")[2] == last]
    for candidates in (elsewhere, siblings, keys):
        names = {key.rpartition(".")[2]: key for key in reversed(candidates)}
        if near := difflib.get_close_matches(last, names, n=1, cutoff=0.5):
            return names[near[0]]
    return None
