"""A study: runs × seeds, and one table of means and spreads. `glczoo study STUDY.yaml`.

Finished runs are skipped and interrupted ones continued: the same command goes on where it was. A study file:

    name: swiss_trees               # runs go to RUNS/NAME/seedN/…
    seeds: [0, 1, 2]
    set: {data.pa_fraction: 0.1}    # overrides for every run
    recipes: ..                     # folder that the runs' recipes lie in (default: the study's own)
    models: {late: {model: fusresnet50_glc23}}  # overrides by a name, which runs give as their `model`
    runs:                           # in this order; each names a recipe, and what it changes in it; those
                                    # whose model is forest_glc23 are fitted as `glczoo forest` does
      s1:   {recipe: ../swiss_trees/step1.yaml}
      s12:  {recipe: ../swiss_trees/step2.yaml, set: {init: s1}}
    pairs: [[step 1+2, step 1]]     # differences to tell, survey by survey, over blocks of `block_km`
    rows:                           # what the table holds: a run, or several as an ensemble
      step 1: [s1]
    anchors: [random_forest]        # tabular models on the values at the points

On the command line `recipes=…`, `seeds=…`, `models.NAME=…` and `block_km=…` replace the study's own, so that
one file serves other regions; any other `key=value` goes to every recipe.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from glczoo.data.occurrences import Samples
from glczoo.data.patch_source import PatchSource
from glczoo.data.region import Region, Strict, parse, read_yaml
from glczoo.data.splits import spatial_blocks
from glczoo.data.tables import read_species
from glczoo.decoding import expected_f1, top_k
from glczoo.evaluation.evaluate import Evaluation, evaluate, markdown
from glczoo.files import whole
from glczoo.metrics import bootstrap, sample_f1, summary
from glczoo.recipe import Recipe, override, read_recipe
from glczoo.runs.split import split_table
from glczoo.train import train
from glczoo.training.fit_forest import fit_forest

__all__ = ["COLUMNS", "Study", "read_study", "run_study"]

COLUMNS = {
    "row": "steps",
    "f1": "F1",
    "f1_expected": "F1, expected",
    "f1_macro": "macro F1",
    "auc": "macro AUC",
    "size": "set size",
    "size_error": "its error",
}


_OWN = ("recipes", "seeds", "models", "block_km")  # what overrides may replace in a study
_FOREST = "random forest on PA, values at the point"


class PlannedRun(Strict):
    """One recipe of a study and what it changes."""

    recipe: str = Field(description="path, relative to the study's recipes")
    model: str | None = Field(default=None, description="one of the study's models")
    set: dict[str, Any] = {}


class Study(Strict):
    """A grid of runs and seeds, and the rows of its table."""

    name: str
    seeds: list[int] = Field(default=[0], min_length=1)
    set: dict[str, Any] = {}
    recipes: str = Field(
        default=".", description="folder of the recipes, relative to the study; an override, to here"
    )
    models: dict[str, dict[str, Any]] = {}
    runs: dict[str, PlannedRun] = Field(min_length=1)
    rows: dict[str, list[str]] = Field(min_length=1)
    pairs: list[tuple[str, str]] = Field(default=[], description="rows (a, b): a - b, paired by survey")
    block_km: float = Field(default=50.0, gt=0, description="side of the blocks that intervals resample")
    anchors: list[Literal["random_forest"]] = []

    def recipe(self, name: str, seed: int, overrides: Sequence[str] = ()) -> Recipe:
        """The recipe of one of its runs. Later ones win: the run's model, its set, the study's, `overrides`.

        Raises:
            FileNotFoundError, ValueError: see `read_recipe`.
        """
        plan = self.runs[name]
        told = (self.models[plan.model] if plan.model else {}) | plan.set | self.set
        own = [f"{key}={json.dumps(value)}" for key, value in told.items()]
        recipe = read_recipe(
            Path(self.recipes) / plan.recipe, [*own, *overrides, f"name={name}", f"seed={seed}"]
        )
        return recipe.model_copy(update={"runs": f"{recipe.runs}/{self.name}/seed{seed}"})


def read_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study; `overrides` replace its own values.

    Raises:
        FileNotFoundError: no such file.
        ValueError: every mistake at once, also a row of runs that are not there.
    """
    told = read_yaml(path)
    told["recipes"] = str(path.parent / str(told.get("recipes", ".")))
    study = parse(Study, override(told, list(overrides)), str(path))
    rows = [*study.rows, *([_FOREST] if study.anchors else [])]
    for what, named, there in (
        ("rows name the runs", {run for row in study.rows.values() for run in row}, list(study.runs)),
        ("runs name the models", {p.model for p in study.runs.values() if p.model}, list(study.models)),
        ("pairs name the rows", {row for pair in study.pairs for row in pair}, rows),
    ):
        if unknown := sorted(named - set(there)):
            raise ValueError(f"{path}: {what} {unknown}, there are {there}")
    return study


def run_study(
    path: Path, overrides: Sequence[str] = (), truth: Path | None = None, jobs: int = 1
) -> dict[str, Any]:
    """Train what is missing, evaluate every row for every seed, and write `table.json` and `table.md`.

    Args:
        path: the study's file.
        overrides: `key=value` for every recipe, or for the study (see above); its own `set` gives way.
        truth: table Id;speciesId of the region's test table, to evaluate on; else the held-out part.
        jobs: processes that train, each a run at a time.

    Returns:
        What `table.json` holds: name, part, surveys, rows (mean and spread over seeds), each (per seed),
        differences (of the pairs: mean over seeds and surveys, 95 % by resampling blocks).
    """
    own = [given for given in overrides if given.split("=")[0].split(".")[0] in _OWN]
    others = [given for given in overrides if given not in own]
    study = read_study(path, own)
    recipes = {
        f"{name} {seed}": study.recipe(name, seed, others) for seed in study.seeds for name in study.runs
    }
    folders = _train_all(recipes, jobs)
    each: list[dict[str, Any]] = []
    f1_each: dict[str, Any] = defaultdict(lambda: {"f1": [], "f1_expected": []})
    for seed in study.seeds:
        for row, members in study.rows.items():
            found = evaluate([folders[f"{name} {seed}"] for name in members], truth=truth)
            told, f1 = _flat(found)
            each.append({"row": row, "seed": seed, **told, "members": len(members)})
            for rule, values in f1.items():
                f1_each[row][rule].append(values)
        if "random_forest" in study.anchors:
            told, f1 = _forest(recipes[f"{next(iter(study.runs))} {seed}"])
            each.append({"row": _FOREST, "seed": seed, **told})
            for rule, values in f1.items():
                f1_each[_FOREST][rule].append(values)
    rows = []
    for name in dict.fromkeys(line["row"] for line in each):
        lines = [line for line in each if line["row"] == name]
        averaged = {key: mean(line[key] for line in lines) for key in COLUMNS if key != "row"}
        spread = {f"{k}_sd": stdev(line[k] for line in lines) if len(lines) > 1 else 0.0 for k in averaged}
        rows.append({"row": name, **averaged, **spread})
    blocks = torch.from_numpy(spatial_blocks(found.samples, study.block_km))
    differences = [_difference(pair, f1_each, blocks) for pair in study.pairs]
    table = {
        "name": study.name, "part": found.part, "surveys": len(found.samples),
        "species_per_survey": float(found.samples.sizes().mean()),
        "seeds": study.seeds, "rows": rows, "each": each,
        "differences": differences, "block_km": study.block_km,
    }  # fmt: skip
    folder = Path(next(iter(recipes.values())).runs).parent
    for file, text in (("table.json", json.dumps(table, indent=1)), ("table.md", table_text(table))):
        with whole(folder / file) as partial:
            partial.write_text(text + "\n", "utf-8")
    return table


def table_text(table: dict[str, Any]) -> str:
    """The table as markdown: means over seeds, ± standard deviations for F1 and AUC; then the differences."""
    shown = []
    for row in table["rows"]:
        line = dict(row)
        for key in ("f1", "f1_expected", "auc"):
            line[key] = f"{row[key]:.3f}" + (f" ± {row[f'{key}_sd']:.3f}" if len(table["seeds"]) > 1 else "")
        shown.append(line)
    text = markdown(shown, COLUMNS)
    if table.get("differences"):
        told = f"\n\nPaired differences in F1 [95 % by resampling blocks of {table['block_km']:g} km]\n\n"
        columns = {"pair": "rows", "f1": "F1", "f1_expected": "F1, expected"}
        text += told + markdown(
            [
                {"pair": f"{line['row']} − {line['minus']}"}
                | {key: "{:+.3f} [{:+.3f}, {:+.3f}]".format(*line[key]) for key in ("f1", "f1_expected")}
                for line in table["differences"]
            ],
            columns,
        )
    return text


def _train(recipe: Recipe) -> Path:
    return fit_forest(recipe) if recipe.model == "forest_glc23" else train(recipe)


def _train_all(recipes: dict[str, Recipe], jobs: int) -> dict[str, Path]:
    """Train recipes, each after those that it starts from or is taught by, in as many processes."""
    if jobs == 1:
        return {key: _train(recipe) for key, recipe in recipes.items()}
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        waiting, done = dict(recipes), {}
        running: dict[Future[Path], str] = {}
        while waiting or running:
            unfinished = {
                (r.runs, r.name) for r in [*waiting.values(), *(recipes[k] for k in running.values())]
            }
            ready = [
                key for key, r in waiting.items()
                if not unfinished & {(r.runs, Path(name).name) for name in r.predecessors}
            ]  # fmt: skip
            for key in ready or ([] if running else list(waiting)):
                running[pool.submit(_train, waiting.pop(key))] = key
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done[running.pop(future)] = future.result()
    return done


def _difference(
    pair: tuple[str, str], f1_each: dict[str, dict[str, list[torch.Tensor]]], blocks: torch.Tensor
) -> dict[str, Any]:
    """Row a - row b of every survey, the mean over seeds, by both rules: mean, low, high."""
    found: dict[str, Any] = {"row": pair[0], "minus": pair[1]}
    for rule in ("f1", "f1_expected"):
        a, b = (torch.stack(f1_each[row][rule]).mean(0) for row in pair)
        found[rule] = [float((a - b).mean()), *bootstrap(a - b, blocks)]
    return found


def _flat(found: Evaluation) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The last model's row by its own rule, with the F1 of expected F1 beside it; and both of each survey."""
    told = {key: value for key, value in found.own.to_json().items() if key != "model"}
    each = {"f1": found.own.f1_each, "f1_expected": found.expected.f1_each}
    return told | {"f1_expected": found.expected.f1}, each


def _forest(recipe: Recipe) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A random forest on the bands' values at the points, trained on the same PA surveys."""
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError:
        raise ValueError("anchors: [random_forest] needs scikit-learn: pip install 'glczoo[study]'") from None
    region = Region.load(recipe.region)
    species = read_species(region)
    source = PatchSource(region, recipe.modalities, 1)
    split = split_table(recipe, region, "pa", species)
    train_on, test_on = split.train, split.test
    forest = RandomForestClassifier(500, min_samples_leaf=2, random_state=recipe.seed, n_jobs=-1)
    known = train_on.targets(torch.arange(len(train_on)), len(species))
    forest.fit(_values(source, train_on), known.numpy())
    probabilities = _forest_probabilities(forest, _values(source, test_on))
    # On its own training surveys a forest is nearly certain: its k is the mean set size instead.
    k = max(1, round(float(train_on.sizes().mean())))
    target = test_on.targets(torch.arange(len(test_on)), len(species))
    result = summary(top_k(probabilities, k), probabilities, target)
    each = {
        "f1": sample_f1(top_k(probabilities, k), target),
        "f1_expected": sample_f1(expected_f1(probabilities), target),
    }
    return {**result, "rule": f"top {k}", "f1_expected": float(each["f1_expected"].mean())}, each


def _values(source: PatchSource, surveys: Samples) -> np.ndarray:
    """Values of every raster band at the points, float32[N, C]; the band's median where there is no data."""
    columns = []
    for stack, (row, col) in zip(source.stacks, source.locate(surveys), strict=True):
        stored = stack.values[row + stack.pad, col + stack.pad]
        values = np.where(stack.missing(stored), np.nan, stored.astype(np.float32))
        columns.append(np.where(np.isnan(values), np.nanmedian(values, axis=0), values))
    return np.concatenate(columns, axis=1)


def _forest_probabilities(forest: Any, values: np.ndarray) -> torch.Tensor:
    """[N, K] of a multi-output forest; a species that the training surveys never hold gets 0."""
    outputs = forest.predict_proba(values)
    columns = [
        p[:, list(c).index(1)] if 1 in c else np.zeros(len(p))
        for p, c in zip(outputs, forest.classes_, strict=True)
    ]
    return torch.from_numpy(np.stack(columns, axis=1)).float()
