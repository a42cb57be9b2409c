"""Cross-validation by spatial blocks: `glczoo crossval RECIPE` trains a recipe once for each fold.

Every survey is predicted by the member that did not train on its block, and the members together are an
ensemble that has seen them all. Steps follow each other: `crossval step1.yaml`, then `crossval step2.yaml`,
whose members start from those of the same fold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from glczoo.data.region import Region
from glczoo.data.splits import spatial_blocks
from glczoo.evaluation.evaluate import evaluate, markdown
from glczoo.evaluation.study import Interval
from glczoo.files import lock, whole
from glczoo.recipe import Recipe, read_recipe, write_run_recipe
from glczoo.runs.combine import combine
from glczoo.runs.run import Run, is_finished
from glczoo.train import train

__all__ = ["CrossValidation", "Fold", "crossval"]


@dataclass(frozen=True)
class Fold:
    """One member on the fold that it did not train on."""

    fold: int
    surveys: int
    model: str
    rule: str
    summary: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "fold": self.fold,
            "surveys": self.surveys,
            "model": self.model,
            "rule": self.rule,
        } | self.summary


@dataclass(frozen=True)
class CrossValidation:
    """What a cross-validation found."""

    folds: list[Fold]
    f1: Interval  # over all surveys, by resampling blocks
    surveys: int
    ensemble: Path  # the folder of the members together

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "rows": [fold.to_json() for fold in self.folds],
            "f1": list(self.f1),
            "surveys": self.surveys,
            "ensemble": str(self.ensemble),
        }

    def text(self) -> str:
        """The result for people."""
        columns = {key: key for key in ("fold", "surveys", "rule", "f1", "auc", "size")}
        return (
            f"{markdown([fold.to_json() for fold in self.folds], columns)}\n\n"
            f"F1 of {self.surveys} surveys, each by the member that did not see its block: {self.f1.text()}, "
            f"95 % by resampling blocks\ntheir ensemble: {self.ensemble}"
        )


def crossval(path: Path, overrides: Sequence[str] = ()) -> CrossValidation:
    """Train a recipe for every fold of `data.blocks`, evaluate each on its own, and combine them.

    Runs are named NAME-foldN, their ensemble NAME-folds; what is finished is kept. All are normalised by the
    same statistics, of the inputs of all surveys, so that they can be one model. Nothing is held out of the
    ensemble but a test table: its recipe holds no survey out.

    Raises:
        MissingError, GlczooError: see `train`; or the surveys are of fewer blocks than folds.
    """
    recipe = read_recipe(path, [*overrides, "data.split=blocks", "data.statistics=all"])
    region = Region.load(recipe.region)
    members = [_member(recipe, region, fold) for fold in range(recipe.data.blocks.folds)]
    folders = [train(member) for member in members]
    folds: list[Fold] = []
    f1: list[torch.Tensor] = []
    blocks: list[torch.Tensor] = []
    for number, folder in enumerate(folders):
        found = evaluate([folder], part="test")
        row = found.own
        f1.append(row.f1_each)
        folds.append(Fold(number, len(found.samples), row.model, str(row.decoding), row.summary))
        # Numbers of blocks are a fold's own: no block is in two folds.
        own = spatial_blocks(found.samples, recipe.data.blocks.size_km)
        blocks.append(torch.from_numpy(own) + (int(blocks[-1].max()) + 1 if blocks else 0))
    out = recipe.run_folder(region, f"{recipe.name}-folds")
    with lock(out, wait=True):
        if not is_finished(out):
            with whole(out) as partial:
                combine(folders, partial)
                write_run_recipe(partial, _without_held_out(recipe, partial), processes=1)
    each = torch.cat(f1)
    return CrossValidation(folds, Interval.of(each, torch.cat(blocks)), len(each), out)


def _member(recipe: Recipe, region: Region, fold: int) -> Recipe:
    """The recipe of a fold; it starts from the same fold of the step before, where that was by folds too."""
    before = f"{recipe.init}-fold{fold}"
    blocks = recipe.data.blocks.model_copy(update={"fold": fold})
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}-fold{fold}",
            "init": before if is_finished(recipe.run_folder(region, before)) else recipe.init,
            "data": recipe.data.model_copy(update={"blocks": blocks}),
        }
    )


def _without_held_out(recipe: Recipe, ensemble: Path) -> Recipe:
    """Every survey trained some member: no part of the split may be mistaken for a held-out one."""
    decoding = Run.find(ensemble).config.glczoo.decoding.to_json()
    own = {key: decoding[key] for key in ("rule", "value") if decoding[key] is not None}
    values = recipe.model_dump(mode="json") | {"keep": "last", "calibration": None, "decoding": own}
    values["data"] |= {"split": "random", "validation": {"pa": 0.0, "po": 0.0}}
    return Recipe.model_validate(values)
