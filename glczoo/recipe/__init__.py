"""A recipe: all that determines a run. Its schema, its reader, and the text of `--help`."""

from glczoo.recipe.keys import describe
from glczoo.recipe.reading import (
    RENAMED,
    override,
    read_recipe,
    read_run_recipe,
    recipe_text,
    renamed,
    write_recipe,
    write_run_recipe,
)
from glczoo.recipe.schema import Loss, Recipe

__all__ = [
    "RENAMED",
    "Loss",
    "Recipe",
    "describe",
    "override",
    "read_recipe",
    "read_run_recipe",
    "recipe_text",
    "renamed",
    "write_recipe",
    "write_run_recipe",
]
