"""Each step that led to a run, on the same surveys: does the paper's order hold here?

Paper: Ung, Kojima, Wada, CLEF 2023, Table 4.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator

from glczoo.data.region import Region
from glczoo.data.splits import spatial_blocks
from glczoo.decoding import Rule
from glczoo.errors import GlczooError
from glczoo.evaluation.evaluate import Evaluation, Row, rows_of
from glczoo.json_text import read_json
from glczoo.metrics import bootstrap
from glczoo.runs.lineage import Step
from glczoo.runs.run import Run

__all__ = ["PAPER", "Claim", "History", "StepRow", "StepTable", "history_of", "step_table", "study_of"]

PAPER = {"2": 0.059, "1+2": 0.073, "1": 0.200, "2+3": 0.226, "1+2+3": 0.254}
"""Table 4, FusResNet50 on GeoLifeCLEF 2023: per-sample F1 of the public test set, worst first."""

# Which of the paper's steps a model has behind it, by the tables that it was trained on one after the other.
_BEHIND = {
    ("pa",): "1",
    ("po",): "2",
    ("pa", "po"): "1+2",
    ("po", "pa"): "2+3",
    ("pa", "po", "pa"): "1+2+3",
}


@dataclass(frozen=True)
class History:
    """How a run came about, as far as it is known."""

    runs: list[Run]  # whose weights are here, the last of `steps`
    steps: list[Step]
    missing: str  # why there are no steps


@dataclass(frozen=True)
class StepRow:
    """A step, and its own score where its weights are here and comparable."""

    name: str
    member: str
    tables: list[str]
    loss: str
    epochs: int
    forest: bool  # fitted at once: the paper has none
    validation_f1: float | None
    behind: str = ""  # the paper's steps up to here, such as 1+2
    rule: str = ""
    f1: float | None = None
    f1_expected: float | None = None
    auc: float | None = None


@dataclass(frozen=True)
class Claim:
    """Two of the paper's rows: by how much the better one leads there and here."""

    better: str
    worse: str
    paper: float
    gain: float
    low: float
    high: float
    holds: Literal["yes", "no", "cannot be told apart"]


@dataclass(frozen=True)
class StepTable:
    """Every step with its score, and what the paper claims of them."""

    rows: list[StepRow]
    claims: list[Claim]


def history_of(run: Run) -> History:
    """The steps that led to a run, and the earlier runs that are here."""
    runs = [run]
    try:
        if not run.brings_history:  # else the steps' weights are not here
            while before := runs[0].before:
                runs.insert(0, before)
        return History(runs, run.lineage, "")
    except FileNotFoundError as error:
        return History(runs, [], str(error))


def step_table(
    history: History,
    evaluation: Evaluation,
    part: Literal["train", "validation", "test"] | None,
    region: Region,
    size_km: float,
    *,
    batch_size: int,
    accelerator: Accelerator,
) -> StepTable:
    """Each step with its own score on the surveys of an evaluation of the last.

    Steps whose weights are not here, that know other bands or species, or that may have trained on some of
    these surveys are listed without a score.

    Args:
        history: of the run that was evaluated.
        evaluation: of the run alone.
        part: of the split; None: surveys that no step can have seen.
        region: where the surveys are.
        size_km: side of the blocks that intervals resample.
        batch_size: points in a batch.
        accelerator: where models predict.
    """
    rows = [_row(step) for step in history.steps]
    samples = evaluation.samples
    f1_each = {}
    first = len(rows) - len(history.runs)
    known = first >= 0 and not any(row.member for row in rows)
    last = history.runs[-1]
    target = samples.targets(torch.arange(len(samples)), len(last.species))
    found = torch.from_numpy(samples.richness())
    for number, run in enumerate(history.runs, first) if known else ():
        own, expected = evaluation.own, evaluation.expected
        if run is not last:
            here = run.on(region)
            if not _comparable(here, last, samples.ids, part):
                continue
            model = here.model
            probabilities = model.probabilities(samples, batch_size=batch_size, accelerator=accelerator)
            scored = rows_of(model.name, probabilities, target, model.rules(), samples.datasets, found)
            own, expected = scored[0], _by_rule(scored, Rule.EXPECTED_F1)
        tables = tuple(table for row in rows[: number + 1] for table in row.tables)
        behind = "" if rows[number].forest else _BEHIND.get(tables, "")
        f1_each[behind] = own.f1_each
        rows[number] = replace(
            rows[number],
            behind=behind,
            f1=own.f1,
            rule=str(own.decoding),
            f1_expected=expected.f1,
            auc=own.summary["auc"],
        )
    blocks = torch.from_numpy(spatial_blocks(samples, size_km))
    claims = [
        _claim(worse, better, f1_each[better] - f1_each[worse], blocks)
        for worse, better in pairwise(behind for behind in PAPER if behind in f1_each)
    ]
    return StepTable(rows, claims)


def _by_rule(rows: Sequence[Row], rule: Rule) -> Row:
    return next(row for row in rows if row.decoding.rule is rule)


def _row(step: Step) -> StepRow:
    recipe = step.recipe
    return StepRow(
        name=recipe.name,
        member=step.member,
        tables=list(recipe.data.tables),
        loss=recipe.loss.name,
        epochs=recipe.epochs,
        forest=recipe.model == "forest_glc23",
        validation_f1=step.validation_f1,
    )


def _comparable(run: Run, last: Run, ids: np.ndarray, part: Any) -> bool:
    """Whether an earlier step has the same bands and species, and held the surveys out too."""
    same_bands = run.config.glczoo.band_names == last.config.glczoo.band_names
    if not same_bands or not np.array_equal(run.species.ids, last.species.ids):
        return False
    if part is None or "pa" not in run.recipe.data.tables:
        return True
    return bool(np.isin(ids, run.samples(part).ids).all())


def _claim(worse: str, better: str, gain: torch.Tensor, blocks: torch.Tensor) -> Claim:
    low, high = bootstrap(gain, blocks)
    holds: Literal["yes", "no", "cannot be told apart"] = "cannot be told apart"
    if low > 0:
        holds = "yes"
    elif high < 0:
        holds = "no"
    return Claim(better, worse, PAPER[better] - PAPER[worse], float(gain.mean()), low, high, holds)


def study_of(folder: Path) -> dict[str, Any] | None:
    """The table of the study that trained the run, at RUNS/STUDY/seedN/REGION/MODEL/RUN."""
    above = folder.resolve().parents
    if len(above) < 4 or not above[2].name.startswith("seed") or not (above[3] / "table.json").is_file():
        return None
    path = above[3] / "table.json"
    table = read_json(path)
    if not isinstance(table, dict):
        raise GlczooError("it is not the table of a study", where=path)
    return table | {"path": os.path.relpath(path)}  # the page may be sent to others
