"""A study: runs × seeds, and one table of means and spreads. `glczoo study STUDY.yaml`.

Finished runs are skipped and interrupted ones continued: the same command goes on where it was. A study file:

    name: swiss_trees               # runs go to RUNS/NAME/seedN/…
    seeds: [0, 1, 2]
    set: {data.pa_fraction: 0.1}    # overrides for every run
    recipes: ..                     # folder that the runs' recipes lie in (default: the study's own)
    models: {late: {model: fusresnet50_glc23}}  # overrides by a name, which runs name as their `model`
    runs:                           # in this order; each names a recipe, and what it changes in it; those
                                    # whose model is forest_glc23 are fitted as `glczoo forest` does
      s1:   {recipe: ../swiss_trees/step1.yaml}
      s12:  {recipe: ../swiss_trees/step2.yaml, set: {init: s1}}
    pairs: [[step 1+2, step 1]]     # differences to report, survey by survey, over blocks of `block_km`
    rows:                           # what the table holds: a run, or several as an ensemble
      step 1: [s1]
    anchors: [random_forest]        # a forest on the values at the points, fitted as `glczoo forest` does;
                                    # commonest: everywhere the 25 species that most training surveys found

On the command line `recipes=…`, `seeds=…`, `models.NAME=…` and `block_km=…` replace the study's own, so that
one file serves other regions; any other `key=value` goes to every recipe.
"""

import json
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from glczoo.data.schema import Strict, parse, read_yaml
from glczoo.data.splits import spatial_blocks
from glczoo.errors import GlczooError
from glczoo.evaluation.commonest import commonest_rows
from glczoo.evaluation.evaluate import Evaluation, Row, evaluate, markdown
from glczoo.files import whole, will_write
from glczoo.metrics import bootstrap
from glczoo.packaged import locate
from glczoo.recipe import Recipe, override, read_recipe
from glczoo.runs.run import Run
from glczoo.train import train
from glczoo.training.fit_forest import fit_forest

__all__ = [
    "COLUMNS",
    "Difference",
    "Interval",
    "MeanRow",
    "Score",
    "Study",
    "StudyTable",
    "read_study",
    "run_study",
]

COLUMNS = {
    "row": "steps",
    "f1": "F1",
    "f1_expected": "F1, expected",
    "f1_macro": "macro F1",
    "auc": "macro AUC",
    "size": "set size",
    "size_error": "its error",
}
"""Columns of a study's table, and their titles."""


_OWN = ("recipes", "seeds", "models", "block_km")  # what overrides may replace in a study
_FOREST = "random forest on PA, values at the point"
_FOREST_RUN = "random_forest"
_COMMONEST = "the 25 commonest species"


class PlannedRun(Strict):
    """One recipe of a study and what it changes."""

    recipe: str = Field(description="path, relative to the study's recipes")
    model: str | None = Field(default=None, description="one of the study's models")
    set: dict[str, Any] = Field(default={}, description="keys of this run's recipe, with dots")


class Study(Strict):
    """A grid of runs and seeds, and the rows of its table."""

    name: str = Field(description="folder of the study's runs, inside of runs")
    seeds: list[int] = Field(default=[0], min_length=1, description="every run is trained once by each")
    set: dict[str, Any] = Field(default={}, description="keys of every recipe, with dots")
    recipes: str = Field(
        default=".", description="folder of the recipes, relative to the study; an override, to here"
    )
    models: dict[str, dict[str, Any]] = Field(
        default={}, description="keys that runs of a model share, by a name of your own"
    )
    runs: dict[str, PlannedRun] = Field(min_length=1, description="what to train, by a name of your own")
    rows: dict[str, list[str]] = Field(
        min_length=1, description="lines of the table: a title, and the runs whose mean predicts"
    )
    pairs: list[tuple[str, str]] = Field(default=[], description="rows (a, b): a - b, paired by survey")
    block_km: float = Field(default=50.0, gt=0, description="side of the blocks that intervals resample")
    anchors: list[Literal["random_forest", "commonest"]] = Field(
        default=[],
        description="models that stand beside the rows: a forest of the values at the points, and everywhere "
        "the 25 species that most training surveys found",
    )

    def recipe(self, name: str, seed: int, overrides: Sequence[str] = ()) -> Recipe:
        """The recipe of a run; in rising order count the study, the run's model, its own set, `overrides`.

        Raises:
            MissingError, GlczooError: see `read_recipe`.
        """
        plan = self.runs[name]
        values = self.set | (self.models[plan.model] if plan.model else {}) | plan.set
        own = [f"{key}={json.dumps(value)}" for key, value in values.items()]
        recipe = read_recipe(
            Path(self.recipes) / plan.recipe, [*own, *overrides, f"name={name}", f"seed={seed}"]
        )
        return recipe.model_copy(update={"runs": f"{recipe.runs}/{self.name}/seed{seed}"})

    def forest(self, seed: int, overrides: Sequence[str] = ()) -> Recipe:
        """The recipe of the anchor: a forest on the PA surveys and the modalities of the first run."""
        values = self.recipe(next(iter(self.runs)), seed, overrides).model_dump(mode="json")
        values["data"] |= {"tables": ["pa"], "weights": None, "places": False}
        return Recipe.model_validate(
            values
            | {"name": _FOREST_RUN, "model": "forest_glc23", "model_args": {}, "init": "random"}
            | {"finetune": None, "loss": "bce", "po_loss": None, "pseudo": None}
            | {"keep": "last", "calibration": None, "decoding": {"rule": "top_k", "tune_on": "train"}}
        )

    def members(self) -> dict[str, list[str]]:
        """Every row of the table and the runs that it is the ensemble of, the anchors last."""
        return self.rows | ({_FOREST: [_FOREST_RUN]} if "random_forest" in self.anchors else {})

    @property
    def lines(self) -> list[str]:
        """Every row of the table: the study's own, then the anchors."""
        return [*self.members(), *([_COMMONEST] if "commonest" in self.anchors else [])]


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Tensor, blocks: Tensor) -> "Interval":
        """Of values[N], by resampling blocks of samples; blocks[N] numbers them."""
        return cls(float(values.mean()), *bootstrap(values, blocks))

    def text(self, sign: str = "") -> str:
        """For a table; `sign` is + where a plus is to be shown."""
        return f"{self.mean:{sign}.3f} [{self.low:{sign}.3f}, {self.high:{sign}.3f}]"


@dataclass(frozen=True)
class Score:
    """A row of the table for one seed."""

    row: str
    seed: int
    members: int
    rule: str
    summary: dict[str, float]  # by the model's own rule (see `metrics.summary`)
    f1_each: Tensor  # [N], of every survey
    f1_expected_each: Tensor  # by expected F1

    @property
    def numbers(self) -> dict[str, float]:
        """The summary, and F1 by expected F1."""
        return self.summary | {"f1_expected": float(self.f1_expected_each.mean())}

    def to_json(self) -> dict[str, Any]:
        """What `table.json` keeps."""
        return {
            "row": self.row, "seed": self.seed, "rule": self.rule, **self.numbers, "members": self.members,
        }  # fmt: skip


@dataclass(frozen=True)
class MeanRow:
    """A row of the table: means and standard deviations over seeds, by the keys of `COLUMNS`."""

    row: str
    means: dict[str, float]
    spreads: dict[str, float]

    @classmethod
    def of(cls, scores: Sequence[Score]) -> "MeanRow":
        """Of the scores of one row."""
        keys = [key for key in COLUMNS if key != "row"]
        values = {key: [score.numbers[key] for score in scores] for key in keys}
        spreads = {key: stdev(each) if len(each) > 1 else 0.0 for key, each in values.items()}
        return cls(scores[0].row, {key: mean(each) for key, each in values.items()}, spreads)

    def to_json(self) -> dict[str, Any]:
        """What `table.json` keeps."""
        return {"row": self.row, **self.means, **{f"{key}_sd": sd for key, sd in self.spreads.items()}}


@dataclass(frozen=True)
class Difference:
    """F1 of one row minus that of another, survey by survey, the mean over seeds."""

    row: str
    minus: str
    f1: Interval
    f1_expected: Interval

    @classmethod
    def of(cls, pair: tuple[str, str], scores: Sequence[Score], blocks: Tensor) -> "Difference":
        """Of a pair of rows; blocks[N] numbers the blocks that the surveys lie in."""
        a, b = pair
        own = _mean_f1(scores, a, "f1_each") - _mean_f1(scores, b, "f1_each")
        expected = _mean_f1(scores, a, "f1_expected_each") - _mean_f1(scores, b, "f1_expected_each")
        return cls(a, b, Interval.of(own, blocks), Interval.of(expected, blocks))


def _mean_f1(scores: Sequence[Score], row: str, by: Literal["f1_each", "f1_expected_each"]) -> Tensor:
    """F1 of every survey by one row, [N], the mean over seeds."""
    return torch.stack([getattr(score, by) for score in scores if score.row == row]).mean(0)


@dataclass(frozen=True)
class StudyTable:
    """What a study found."""

    name: str
    part: str
    surveys: int
    species_per_survey: float
    seeds: list[int]
    rows: list[MeanRow]
    each: list[Score]
    differences: list[Difference]
    block_km: float

    def f1(self, row: str) -> float:
        """The mean F1 of a row."""
        return next(line for line in self.rows if line.row == row).means["f1"]

    def to_json(self) -> dict[str, Any]:
        """What `table.json` holds."""
        return vars(self) | {
            "rows": [row.to_json() for row in self.rows],
            "each": [score.to_json() for score in self.each],
            "differences": [vars(difference) for difference in self.differences],
        }

    def markdown(self) -> str:
        """Means over seeds, ± standard deviations for F1 and AUC; then the differences."""
        lines: list[dict[str, Any]] = []
        for row in self.rows:
            line: dict[str, Any] = {"row": row.row, **row.means}
            for key in ("f1", "f1_expected", "auc"):
                spread = f" ± {row.spreads[key]:.3f}" if len(self.seeds) > 1 else ""
                line[key] = f"{row.means[key]:.3f}{spread}"
            lines.append(line)
        text = markdown(lines, COLUMNS)
        if not self.differences:
            return text
        differences = [
            {
                "pair": f"{line.row} − {line.minus}",
                "f1": line.f1.text("+"),
                "f1_expected": line.f1_expected.text("+"),
            }
            for line in self.differences
        ]
        columns = {"pair": "rows", "f1": "F1", "f1_expected": "F1, expected"}
        heading = f"Paired differences in F1 [95 % by resampling blocks of {self.block_km:g} km]"
        return f"{text}\n\n{heading}\n\n{markdown(differences, columns)}"


def read_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study, here or packaged; `overrides` replace its own values.

    Raises:
        MissingError: no such file.
        GlczooError: every mistake at once, also a row of runs that are not there.
    """
    path = locate(path)
    values = read_yaml(path)
    values["recipes"] = str(path.parent / str(values.get("recipes", ".")))
    study = parse(Study, override(values, list(overrides)), str(path))
    for rule, names, known in (
        ("rows name the runs", {run for row in study.rows.values() for run in row}, list(study.runs)),
        ("runs name the models", {p.model for p in study.runs.values() if p.model}, list(study.models)),
        ("pairs name the rows", {row for pair in study.pairs for row in pair}, study.lines),
    ):
        if unknown := sorted(names - set(known)):
            raise GlczooError(f"{path}: {rule} {unknown}, there are {known}")
    if "random_forest" in study.anchors and _FOREST_RUN in study.runs:
        raise GlczooError(f"{path}: the anchor {_FOREST_RUN} needs this name; call the run otherwise")
    return study


def run_study(
    path: Path, overrides: Sequence[str] = (), truth: Path | None = None, jobs: int = 1
) -> StudyTable:
    """Train what is missing, evaluate every row for every seed, and write `table.json` and `table.md`.

    Args:
        path: the study's file.
        overrides: `key=value` for every recipe, or for the study (see above); they win over its own `set`.
        truth: table of the species of a test table, to evaluate on; else the held-out part.
        jobs: processes that train, each a run at a time.
    """
    own = [change for change in overrides if change.split("=")[0].split(".")[0] in _OWN]
    others = [change for change in overrides if change not in own]
    study = read_study(path, own)
    recipes: dict[tuple[str, int], Recipe] = {}
    for seed in study.seeds:
        recipes |= {(name, seed): study.recipe(name, seed, others) for name in study.runs}
        if "random_forest" in study.anchors:
            recipes[_FOREST_RUN, seed] = study.forest(seed, others)
    folder = Path(next(iter(recipes.values())).runs).parent
    will_write(folder, folder=True)
    folders = _train_all(recipes, jobs)
    scores: list[Score] = []
    for seed in study.seeds:
        for row, names in study.members().items():
            found = evaluate([folders[name, seed] for name in names], truth=truth)
            scores.append(_score(row, seed, len(names), found))
        if "commonest" in study.anchors:
            first = folders[next(iter(study.runs)), seed]
            by_number, by_f1 = commonest_rows(Run(first), found.samples, _COMMONEST)
            scores.append(_score_of(_COMMONEST, seed, 1, by_number, by_f1))
    blocks = torch.from_numpy(spatial_blocks(found.samples, study.block_km))
    table = StudyTable(
        name=study.name,
        part=found.part,
        surveys=len(found.samples),
        species_per_survey=float(found.samples.richness().mean()),
        seeds=study.seeds,
        rows=[MeanRow.of([score for score in scores if score.row == row]) for row in study.lines],
        each=scores,
        differences=[Difference.of(pair, scores, blocks) for pair in study.pairs],
        block_km=study.block_km,
    )
    for file, text in (("table.json", json.dumps(table.to_json(), indent=1)), ("table.md", table.markdown())):
        with whole(folder / file) as partial:
            partial.write_text(text + "\n", "utf-8")
    return table


def _score(row: str, seed: int, members: int, found: Evaluation) -> Score:
    """The last model of an evaluation by its own rule, and by expected F1."""
    return _score_of(row, seed, members, found.own, found.expected)


def _score_of(row: str, seed: int, members: int, own: Row, expected: Row) -> Score:
    return Score(row, seed, members, str(own.decoding), own.summary, own.f1_each, expected.f1_each)


def _train(recipe: Recipe) -> Path:
    return fit_forest(recipe) if recipe.model == "forest_glc23" else train(recipe)


def _train_all(recipes: dict[tuple[str, int], Recipe], jobs: int) -> dict[tuple[str, int], Path]:
    """Train recipes, each after those that it starts from or is taught by, in as many processes."""
    if jobs == 1:
        return {key: _train(recipe) for key, recipe in recipes.items()}
    threads = max(1, torch.get_num_threads() // jobs)
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        waiting, done = dict(recipes), {}
        running: dict[Future[Path], tuple[str, int]] = {}
        while waiting or running:
            unfinished = {
                (recipe.runs, recipe.name)
                for recipe in [*waiting.values(), *(recipes[key] for key in running.values())]
            }
            ready = [
                key
                for key, recipe in waiting.items()
                if not unfinished & {(recipe.runs, Path(name).name) for name in recipe.predecessors}
            ]
            for key in ready or ([] if running else list(waiting)):
                running[pool.submit(_train, waiting.pop(key))] = key
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                done[running.pop(future)] = future.result()
    return done
