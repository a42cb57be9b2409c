"""The keys of a recipe as `--help` lists them."""

import re
from enum import StrEnum
from typing import get_args

from pydantic import BaseModel

from glczoo.recipe.schema import Recipe

__all__ = ["describe"]


def describe(schema: type[BaseModel] = Recipe, prefix: str = "") -> str:
    """The keys of a recipe with their types, defaults and meaning: one line each.

    `schema`: of the keys; `prefix`: what stands before each.
    """
    lines = []
    for key, field in schema.model_fields.items():
        inner = field.annotation
        sections = [t for t in (inner, *get_args(inner)) if isinstance(t, type) and issubclass(t, BaseModel)]
        nested = [describe(section, f"{prefix}{key}.") for section in sections]
        if inner in sections:
            lines += nested
            continue
        default = "required" if field.is_required() else f"default {field.default}"
        lines.append(f"  {prefix}{key}  ({_type_name(inner)}; {default})")
        if field.description:
            lines.append(f"      {field.description}")
        lines += nested
    return "\n".join(lines)


def _type_name(annotation: object) -> str:
    """A type without the modules it comes from, `null` for None; of an enumeration, its values."""
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return f"Literal{[str(value) for value in annotation]}"
    name = re.sub(r"typing\.|<class '(\w+)'>|glczoo\.\w+\.\w+\.", r"\1", str(annotation))
    return name.replace("NoneType", "null")
