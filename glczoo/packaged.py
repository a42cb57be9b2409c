"""What travels with glczoo: recipes, descriptions of regions, studies, and the template of cards.

In a clone they lie at the top, in an installed package inside of it.
"""

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Literal

from glczoo.errors import GlczooError
from glczoo.files import lock, whole

__all__ = ["copy_recipes", "folder", "locate", "recipes"]


def folder(name: Literal["recipes", "model_cards"]) -> Path:
    """Where the recipes or the model cards lie."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else Path(__file__).parents[1] / name


def locate(path: str | Path) -> Path:
    """A file as it is named, or, where nothing is there, the packaged one of that name.

    `step2`, `step2.yaml` and `recipes/step2.yaml` name the same packaged recipe. That it is taken is printed.

    Args:
        path: of a recipe, a study, a region.yaml or its folder.

    Returns:
        The packaged file if there is one and `path` does not exist, else `path`.
    """
    path = Path(path)
    if path.exists() or path.is_absolute() or ".." in path.parts:
        return path
    name = path.relative_to("recipes") if path.parts[:1] == ("recipes",) else path
    packaged = folder("recipes") / (name if name.suffix == ".yaml" else f"{name}.yaml")
    if not packaged.is_file():
        return path
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"glczoo: {path} is not here, the packaged {packaged} is taken", file=sys.stderr)
    return packaged


def recipes() -> dict[str, str]:
    """The packaged files by name, such as `step2.yaml`, each with the sentence that it opens with."""
    top = folder("recipes")
    return {
        path.relative_to(top).as_posix(): _sentence(path)
        for path in sorted(top.rglob("*"), key=lambda path: (len(path.relative_to(top).parts), path))
        if path.suffix in (".yaml", ".slurm")
    }


def copy_recipes(target: Path) -> list[Path]:
    """Copy the packaged files to a folder, to edit them.

    Raises:
        GlczooError: all of them, or one with other text, are there already; nothing is copied.
    """
    names = list(recipes())
    with lock(target / names[-1], wait=True):
        return _copied(target, names)


def _copied(target: Path, names: list[str]) -> list[Path]:
    """Copy files where no other process does; those that are there were copied before a kill."""
    there = [name for name in names if (target / name).exists()]
    source = folder("recipes")
    if len(there) < len(names):
        there = [name for name in there if (target / name).read_bytes() != (source / name).read_bytes()]
    if there:
        raise GlczooError(
            f"{', '.join(there[:3])}{' and others' if len(there) > 3 else ''} are there already",
            where=target,
            remedy="Name another folder: nothing is overwritten.",
        )
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with whole(target / name) as partial:
            shutil.copyfile(source / name, partial)
    return [target / name for name in names]


def _sentence(path: Path) -> str:
    """The first sentence of a file's opening comment."""
    lines = [line for line in path.read_text("utf-8").splitlines()[:3] if not line.startswith("#!")]
    text = " ".join(line.removeprefix("# ") for line in lines[:2] if line.startswith("# "))
    sentence = re.match(r".+?[.?…](?=  | [A-Z]|$)", text)
    return sentence[0] if sentence else text.partition(": ")[0] + "."
