"""Cross-validation by spatial blocks: `glczoo crossval RECIPE` trains a recipe once for each fold.

Every survey is judged by the member that did not train on its block, and the members together are an
ensemble that has seen them all. Steps follow each other: `crossval step1.yaml`, then `crossval step2.yaml`,
whose members start from those of the same fold.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from glczoo.data.region import Region
from glczoo.data.splits import spatial_blocks
from glczoo.evaluation.evaluate import evaluate
from glczoo.metrics import bootstrap
from glczoo.recipe import Recipe, read_recipe, write_run_recipe
from glczoo.runs.combine import combine
from glczoo.runs.run import Run, is_finished
from glczoo.train import train

__all__ = ["crossval"]


def crossval(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train a recipe for every fold of `data.blocks`, judge each on its own, and combine them.

    Runs are named NAME-foldN, their ensemble NAME-folds; what is finished is kept. All are normalised by the
    same statistics, of the inputs of all surveys, so that they can be one model. Nothing is left that could
    judge the ensemble but a test table: its recipe holds no survey out.

    Returns:
        rows (fold, surveys, rule, f1, auc, size …), f1 over all surveys (mean, low, high: 95 % by resampling
        blocks), surveys, ensemble (its folder).

    Raises:
        FileNotFoundError, ValueError: see `train`; or the surveys are of fewer blocks than folds.
    """
    recipe = read_recipe(path, [*overrides, "data.split=blocks", "data.statistics=all"])
    region = Region.load(recipe.region)
    members = [_member(recipe, region, fold) for fold in range(recipe.data.blocks.folds)]
    folders = [train(member) for member in members]
    rows, f1 = [], []
    blocks: list[torch.Tensor] = []
    for fold, folder in enumerate(folders):
        found = evaluate([folder], part="test")
        f1.append(found.own.f1_each)
        # Numbers of blocks are a fold's own: no block is in two folds.
        own = spatial_blocks(found.samples, recipe.data.blocks.size_km)
        blocks.append(torch.from_numpy(own) + (int(blocks[-1].max()) + 1 if blocks else 0))
        rows.append({"fold": fold, "surveys": len(found.samples), **found.own.to_json()})
    out = recipe.run_folder(region, f"{recipe.name}-folds")
    if not is_finished(out):
        shutil.rmtree(out, ignore_errors=True)
        combine(folders, out)
        write_run_recipe(out, _without_judges(recipe, out), processes=1)
    each, block = torch.cat(f1), torch.cat(blocks)
    return {
        "rows": rows,
        "f1": [float(each.mean()), *bootstrap(each, block)],
        "surveys": len(each),
        "ensemble": str(out),
    }


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


def _without_judges(recipe: Recipe, ensemble: Path) -> Recipe:
    """Every survey trained some member: no part of the split may be mistaken for a held-out one."""
    decoding = Run.find(ensemble).config.glczoo.decoding.to_json()
    given = {key: decoding[key] for key in ("rule", "value") if decoding[key] is not None}
    told = recipe.model_dump(mode="json") | {"keep": "last", "calibration": None, "decoding": given}
    told["data"] |= {"split": "random", "validation": {"pa": 0.0, "po": 0.0}}
    return Recipe.model_validate(told)
