"""Recipes as files: read with `key.sub=value` overrides, kept in a run's folder, read again from there."""

import os
from pathlib import Path
from typing import Any

import yaml

from glczoo.data.schema import parse, read_yaml
from glczoo.errors import GlczooError, MissingError
from glczoo.files import whole
from glczoo.packaged import locate
from glczoo.recipe.schema import Recipe, long_form
from glczoo.yaml_text import parse_yaml, shown

__all__ = [
    "RENAMED",
    "override",
    "read_recipe",
    "read_run_recipe",
    "recipe_text",
    "renamed",
    "write_recipe",
    "write_run_recipe",
]

RENAMED = {
    "data.surveys": "data.tables",
    "decoding.surveys": "decoding.tune_on",
    "tensorboard": "trackers",
}
"""Keys of earlier releases. Recipes that people write are refused with the new key named."""


def read_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe, here or packaged (see `packaged.locate`), and apply `key.sub=value` overrides.

    Raises:
        MissingError: no such recipe, or the region it names is nowhere.
        GlczooError: every mistake of the file and of the overrides, one a line.
    """
    path = locate(path)
    recipe = parse(Recipe, override(read_yaml(path), overrides or []), str(path), RENAMED)
    here, beside = Path(recipe.region), path.parent / recipe.region
    overridden = any(text.startswith("region=") for text in overrides or [])
    places = [here, beside] if overridden else [beside, here]  # a recipe speaks of its own folder first
    region = next((place for place in places if _is_region(place)), None) or locate(recipe.region)
    if not region.exists():
        raise MissingError(f"{path}: region {recipe.region} is neither here nor at {beside}")
    return recipe.model_copy(update={"region": str(region)})


def _is_region(place: Path) -> bool:
    return place.is_file() or (place / "region.yaml").is_file()


def override(data: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Write `key.sub=value` overrides into a recipe's values, and return them.

    `top_k=20` is short for `decoding={rule: top_k, value: 20}`, here and in a recipe.

    `data`: as the YAML file has it; changed in place.

    Raises:
        GlczooError: an override is not valid YAML, has no key or no `=`, or names a key inside of a value.
    """
    long_form(data)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            example = "write key=value, for example optimizer.lr=5e-4"
            raise GlczooError(f"{shown(text)!r} is no override; {example}")
        target = data
        *parents, last = key.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise GlczooError(f"{shown(text)!r}: {shown(parent)} holds a value, it has no keys inside")
        target[last] = parse_yaml(value, shown(text))
        long_form(data)
    return data


def read_run_recipe(folder: Path) -> tuple[Recipe, int]:
    """The resolved recipe of a run, and by how many processes it was trained.

    A region that was named relative to the working directory is found from any other.

    Raises:
        MissingError: the folder holds no recipe.
        GlczooError: the recipe is damaged.
    """
    config = renamed(read_yaml(folder / "recipe.yaml"))
    processes, from_run = config.pop("processes", 1), config.pop("region_from_run", None)
    if not isinstance(processes, int) or processes < 1:
        raise GlczooError(
            f"processes: a number above 0, given {shown(processes)}", where=folder / "recipe.yaml"
        )
    recipe = parse(Recipe, config, str(folder / "recipe.yaml"))
    if isinstance(from_run, str) and not (folder / "region.yaml").exists():  # else it was published
        region = Path(os.path.normpath(folder.resolve() / from_run))
        if os.path.exists(region):
            here = Path.cwd()
            region = region.relative_to(here) if region.is_relative_to(here) else region
            recipe = recipe.model_copy(update={"region": str(region)})
    return recipe, processes


def renamed(config: dict[str, Any]) -> dict[str, Any]:
    """A recipe that a run or a published model keeps, with keys of earlier releases under today's names."""
    for old, new in RENAMED.items():
        *parents, old_key = old.split(".")
        section = config
        for parent in parents:
            section = section.get(parent) or {}
        if isinstance(section, dict) and old_key in section:
            value = section.pop(old_key)
            section[new.split(".")[-1]] = _today(old, value)
    return config


def _today(key: str, value: Any) -> Any:
    """The value of a renamed key in the form of today."""
    if key == "tensorboard":
        return ["tensorboard"] if value else []
    return value


def write_run_recipe(folder: Path, recipe: Recipe, processes: int) -> None:
    """Keep the resolved recipe, and the number of processes, in a run's folder.

    A region that is named relative to the working directory is kept relative to the run too: project and
    runs may be moved together, and commands given from anywhere.
    """
    values = recipe.model_dump(mode="json") | {"processes": processes}
    region = Path(recipe.region)
    if not region.is_absolute() and region.exists():
        from_run = os.path.relpath(region.resolve(), folder.resolve())
        values["region_from_run"] = Path(from_run).as_posix()
    write_recipe(folder / "recipe.yaml", values)


def write_recipe(path: Path, values: dict[str, Any]) -> None:
    """Write a recipe that `read_recipe` reads."""
    with whole(path) as partial:
        partial.write_text(recipe_text(values), "utf-8")


def recipe_text(values: dict[str, Any]) -> str:
    """What `write_recipe` writes."""
    return yaml.safe_dump(values, sort_keys=False)
