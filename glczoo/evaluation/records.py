"""How good a model of presence-only records is, where no surveys can tell: by records that were held out.

A species' held-out records are compared with the other places of records, its target group. That says how
well the model tells where a species is recorded among the places where people look; not how well it does
where nobody looks, and nothing about how many species a place holds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from glczoo.data.region import Region
from glczoo.errors import GlczooError
from glczoo.runs.run import Run
from glczoo.runs.scoring import default_accelerator
from glczoo.runs.split import Tables
from glczoo.runs.trained import TrainedModel
from glczoo.training.fit_records import RecordsLeaderboard
from glczoo.training.held_out_records import species_auc

__all__ = ["WORTH", "RecordsEvaluation", "RecordsScore", "evaluate_records", "records_score"]

WORTH = (
    "AUC of held-out records against the other places of records, the mean over species. Records say where "
    "people look as well as where species grow: it shows how species are told apart among the places that "
    "were visited, not how well the model does elsewhere, nor how many species a place holds. Only surveys "
    "can tell that."
)
"""What a score by presence-only records is worth."""


@dataclass(frozen=True)
class RecordsScore:
    """A model by held-out records."""

    model: str
    held_out: str  # which records, in words
    places: int
    auc: float | None  # mean over species; None: no species has held-out records
    auc_each: dict[str, float]  # by speciesId

    @property
    def species(self) -> int:
        """How many have an AUC."""
        return len(self.auc_each)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class RecordsEvaluation:
    """Runs of a region without surveys, by held-out records."""

    region: str
    scores: list[RecordsScore]

    def text(self) -> str:
        """For people."""
        width = max(len(score.model) for score in self.scores)
        lines = [
            f"{self.region} has no surveys: judged by records that were held out",
            "",
            f"| {'model':{width}} |   AUC | species | places | held out |",
            f"|{'-' * (width + 2)}|------:|--------:|-------:|----------|",
        ]
        for score in self.scores:
            auc = "    –" if score.auc is None else f"{score.auc:.3f}"
            cells = f"{auc} | {score.species:7} | {score.places:6} | {score.held_out}"
            lines.append(f"| {score.model:{width}} | {cells} |")
        return "\n".join([*lines, "", WORTH])

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"region": self.region, "scores": [score.to_json() for score in self.scores]}


def evaluate_records(
    runs: Sequence[str | Path | Run],
    *,
    region: Region | None = None,
    batch_size: int = 256,
    accelerator: Accelerator | None = None,
) -> RecordsEvaluation:
    """Judge runs, and their mean where there are several, by held-out records.

    Args:
        runs: folders of finished runs, or `hf-hub:ORG/NAME`, that share a vocabulary.
        region: where the records are; the first run's if None.
        batch_size: points in a batch.
        accelerator: several processes share the work.

    Raises:
        MissingError: a run or data are missing.
        GlczooError: the runs do not fit each other or the region, or no records are held out.
    """
    tables = Tables()
    opened = [Run.find(run, tables=tables).on(region) for run in runs]
    scores = [records_score(run, batch_size=batch_size, accelerator=accelerator) for run in opened]
    if len(opened) > 1 and all(RecordsLeaderboard.load(run.folder) is None for run in opened):
        together = TrainedModel.ensemble([run.model for run in opened])
        scores.append(_by_validation(opened[0], together, batch_size, accelerator))
    return RecordsEvaluation(opened[0].region.name, scores)


def records_score(run: Run, *, batch_size: int = 256, accelerator: Accelerator | None = None) -> RecordsScore:
    """A run by the records that it was not fitted on: of its folds, or those that validated.

    Raises:
        MissingError: the run or data are missing.
        GlczooError: no records were held out.
    """
    board = RecordsLeaderboard.load(run.folder)
    if board is None:
        return _by_validation(run, run.model, batch_size, accelerator)
    held_out = f"out of fold, {board.blocks} spatial blocks; they chose the candidates: slightly optimistic"
    return RecordsScore(run.name, held_out, board.sites, board.auc, board.species_auc)


def _by_validation(
    run: Run, model: TrainedModel, batch_size: int, accelerator: Accelerator | None
) -> RecordsScore:
    records = run.split("po").validation
    if len(records):
        kept = [member.open(run.region).complete(records, "records", drop=True) for member in model.each]
        records = records.subset(np.all(kept, axis=0))
    if not len(records):
        raise GlczooError(
            f"{run.folder} held out no records: region {run.region.name} has no surveys, and the recipe's "
            "data.validation leaves none of the presence-only records; set data.validation={po: 0.02}"
        )
    answers = model.probabilities(
        records, run.region, batch_size=batch_size, accelerator=accelerator or default_accelerator()
    )
    target = records.targets(torch.arange(len(records)), len(model.species))
    fold = torch.zeros(len(records), dtype=torch.int64)
    auc = species_auc(answers, target, torch.ones_like(target, dtype=torch.bool), fold, [0]).tolist()
    each = {str(model.species.ids[k]): value for k, value in enumerate(auc) if value == value}
    mean = sum(each.values()) / len(each) if each else None
    held_out = "validation records, drawn at random: neighbours of those that trained, so optimistic"
    return RecordsScore(model.name, held_out, len(records), mean, each)
