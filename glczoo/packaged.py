"""What travels with glczoo: recipes, regions' descriptions, studies, the template of cards, and the sample.

In a clone all but the sample lie at the top, in an installed package inside of it. The sample is a small
region of an invented world and a model trained on it: where a run or a region is named, `sample` names them.
"""

import difflib
import re
import shutil
import sys
from pathlib import Path
from typing import Literal

from glczoo.errors import GlczooError
from glczoo.files import first_process, lock, whole

__all__ = ["SAMPLE", "copy_recipes", "folder", "locate", "locate_model", "recipes", "sample"]

SAMPLE = "sample"
"""What the packaged region and the packaged model are called."""


def folder(name: Literal["recipes", "model_cards"]) -> Path:
    """Where the recipes or the model cards lie."""
    inside = Path(__file__).parent / name
    return inside if inside.is_dir() else Path(__file__).parents[1] / name


def sample(part: Literal["model", "region"]) -> Path:
    """The folder of the packaged model (a published one, see `hub.publish`), or of the region it knows.

    `part`: which of them.
    """
    return Path(__file__).parent / SAMPLE / part


def locate_model(name: str | Path) -> str | Path:
    """A run as it is named, or, for `sample` where no run of that name is here, the packaged model."""
    is_run = any((Path(name) / file).is_file() for file in ("config.json", "recipe.yaml"))
    return sample("model") if str(name) == SAMPLE and not is_run else name


def locate(path: str | Path) -> Path:
    """A file as it is named, or, where nothing is there, the packaged one of that name.

    `step2`, `step2.yaml` and `recipes/step2.yaml` name the same packaged recipe; that it is taken is printed.
    `sample` names the region that travels with glczoo, unless a folder of that name here holds a region.

    Args:
        path: of a recipe, a study, a region.yaml or its folder.

    Returns:
        The packaged file if there is one and `path` does not exist, else `path`.
    """
    path = Path(path)
    if str(path) == SAMPLE and not (path.is_file() or (path / "region.yaml").is_file()):
        return sample("region")
    if path.exists() or path.is_absolute() or ".." in path.parts:
        return path
    name = path.relative_to("recipes") if path.parts[:1] == ("recipes",) else path
    packaged = folder("recipes") / (name if name.suffix == ".yaml" else f"{name}.yaml")
    if not packaged.is_file():
        return path
    if first_process():
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


def copy_recipes(target: Path, only: str | None = None) -> list[Path]:
    """Copy packaged files to a folder, to edit them.

    Args:
        target: folder, made where it is not there.
        only: the name of one of them, such as `step2` or `regions/glc23.yaml`; None: all.

    Raises:
        GlczooError: there is no such file, or all of them, or one with other text, are there already; nothing
            is copied.
    """
    names = [_packaged_name(only)] if only else list(recipes())
    with lock(target / names[-1], wait=True):
        return _copied(target, names)


def _copied(target: Path, names: list[str]) -> list[Path]:
    """Copy files where no other process does; those that are there were copied before a kill."""
    there = [name for name in names if (target / name).exists()]
    source = folder("recipes")
    if len(there) < len(names):
        there = [name for name in there if (target / name).read_bytes() != (source / name).read_bytes()]
    if there:
        shown = ", ".join(there[:3]) + (" and others" if len(there) > 3 else "")
        raise GlczooError(
            f"{shown} {'are' if len(there) > 1 else 'is'} there already",
            where=target,
            remedy="Name another folder: nothing is overwritten.",
        )
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        with whole(target / name) as partial:
            shutil.copyfile(source / name, partial)
    return [target / name for name in names]


def _packaged_name(name: str) -> str:
    """A packaged file by its name, with or without `recipes/` and `.yaml`."""
    plain, names = name.removeprefix("recipes/"), list(recipes())
    for spelling in (plain, f"{plain}.yaml"):
        if spelling in names:
            return spelling
    near = difflib.get_close_matches(plain, [each.removesuffix(".yaml") for each in names], 3)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    raise GlczooError(
        f"no packaged recipe is called {name}",
        remedy=f"{hint}`glczoo recipes` lists them; `glczoo recipes copy --to {name}` copies all there.",
    )


def _sentence(path: Path) -> str:
    """The first sentence of a file's opening comment."""
    lines = [line for line in path.read_text("utf-8").splitlines()[:3] if not line.startswith("#!")]
    text = " ".join(line.removeprefix("# ") for line in lines[:2] if line.startswith("# "))
    sentence = re.match(r".+?[.?…](?=  | [A-Z]|$)", text)
    return sentence[0] if sentence else text.partition(": ")[0] + "."
