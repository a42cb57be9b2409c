"""How good are runs, each and together? Per-sample F1 (eq. 3), macro F1, macro AUC, set size.

The ensemble is the mean of the members' probabilities (Ung et al. 2023, Figure 3).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from glczoo.data.occurrences import Samples
from glczoo.data.region import Region
from glczoo.data.truth import read_test_samples
from glczoo.decoding import Decoding, Rule
from glczoo.errors import GlczooError
from glczoo.memory import announce
from glczoo.metrics import macro_auc, sample_f1, set_summary
from glczoo.models.ensemble import mean_probabilities
from glczoo.runs.run import Run
from glczoo.runs.scoring import default_accelerator
from glczoo.runs.split import Part, Tables
from glczoo.runs.trained import TrainedModel

__all__ = ["Evaluation", "Row", "evaluate", "markdown", "readable", "rows_of"]


@dataclass(frozen=True)
class Row:
    """How good a model's sets are by one rule, and its probabilities."""

    model: str
    decoding: Decoding
    f1_each: Tensor  # float[N], of every survey
    summary: dict[str, float]  # f1, f1_macro, size, size_bias, size_error, auc, auc_species

    @property
    def f1(self) -> float:
        """The mean over surveys (eq. 3)."""
        return self.summary["f1"]

    def to_json(self) -> dict[str, Any]:
        """The columns of a table."""
        return {"model": self.model, "rule": str(self.decoding), **self.summary}


@dataclass(frozen=True)
class Evaluation:
    """Runs, and their ensemble where there are several, on the surveys of a region."""

    region: str
    part: str  # of the split, or the table of the truth
    samples: Samples
    rows: list[Row]  # of each model its own rule first, then those that were tuned, and expected F1
    probabilities: Tensor  # float32[N, K] of the run, or of the ensemble

    @property
    def own(self) -> Row:
        """The run, or the ensemble, by its own rule."""
        return next(row for row in self.rows if row.model == self.rows[-1].model)

    @property
    def expected(self) -> Row:
        """The run, or the ensemble, by sets of the highest expected F1."""
        return next(
            row
            for row in self.rows
            if row.model == self.rows[-1].model and row.decoding.rule is Rule.EXPECTED_F1
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "region": self.region,
            "part": self.part,
            "surveys": len(self.samples),
            "species_per_survey": float(self.samples.richness().mean()),
            "rows": [row.to_json() for row in self.rows],
        }


def evaluate(
    runs: Sequence[str | Path | Run],
    *,
    part: Part | None = None,
    region: Region | None = None,
    truth: Path | None = None,
    k: int | None = None,
    batch_size: int = 256,
    accelerator: Accelerator | None = None,
) -> Evaluation:
    """Evaluate runs and, if there are several, their ensemble, by every set-size rule.

    Args:
        runs: folders of finished runs, or `hf-hub:ORG/NAME`, that share a vocabulary.
        part: which surveys of the split of the first run's recipe; the held-out fold if it has one, else the
            validation surveys.
        region: where the surveys are; the first run's if None.
        truth: table of the species of one of the region's test tables, which is scored instead of a part (see
            `truth.read_test_samples`).
        k: predict this many species; by the rule stored with each run if None.
        batch_size: points in a batch.
        accelerator: several processes share the work, all return the same.

    Raises:
        MissingError: a run or data are missing.
        GlczooError: the runs do not fit each other or the region, or the part has no surveys.
    """
    accelerator = accelerator or default_accelerator()
    tables = Tables()
    opened = [Run.find(run, tables=tables).on(region) for run in runs]
    model, first = TrainedModel.ensemble([run.model for run in opened]), opened[0]
    part = part or ("validation" if first.recipe.data.split == "random" else "test")
    if truth is not None:
        samples = read_test_samples(first.region, truth, first.species)
    else:
        samples = first.samples(part)
    if not len(samples):
        board = first.folder / "leaderboard.json"
        advice = "give another part"
        if board.is_file():
            advice = f"it was fitted on all of them, and {board} has its scores out of fold"
        raise GlczooError(f"there are no {part} surveys in the split of {first.name}; {advice}")
    samples = readable(first, model, samples)
    if accelerator.is_main_process:
        _announce(model, samples, batch_size, accelerator)
    target = samples.targets(torch.arange(len(samples)), len(model.species))
    found = torch.from_numpy(samples.richness())
    own = Decoding(Rule.TOP_K, k) if k is not None else None
    rows: list[Row] = []

    def members() -> Iterator[Tensor]:
        for member in model.each:
            probabilities = member.probabilities(
                samples, first.region, batch_size=batch_size, accelerator=accelerator
            )
            rules = member.rules(own)
            rows.extend(rows_of(member.name, probabilities, target, rules, samples.datasets, found))
            yield probabilities

    probabilities = mean_probabilities(members(), model.weights)
    if len(model.each) > 1:
        name = f"ensemble of {len(model.each)}"
        rows += rows_of(name, probabilities, target, model.rules(own), samples.datasets, found)
    where = str(truth) if truth else part
    return Evaluation(first.region.name, where, samples, rows, probabilities)


def _announce(model: TrainedModel, samples: Samples, batch_size: int, accelerator: Accelerator) -> None:
    """Say what memory an evaluation takes: probabilities of a member, of all, and what was found."""
    channels = max(len(member.bands) for member in model.each)
    parts = {
        "weights": sum(p.numel() * p.element_size() for m in model.each for p in m.model.parameters()),
        "a batch": 4.0 * min(batch_size, len(samples)) * channels * model.patch_size**2,
        "probabilities": 4.0 * 3 * len(samples) * len(model.species),
    }
    announce(f"evaluation of {len(samples):,} samples", parts, on_device=accelerator.device.type != "cpu")


def readable(run: Run, model: TrainedModel, samples: Samples) -> Samples:
    """Those of the samples that can be read by every member, where the run's recipe leaves out the others."""
    if run.recipe.data.incomplete == "error" or not len(samples):
        return samples
    kept = [member.open(run.region).complete(samples, "surveys", drop=True) for member in model.each]
    return samples.subset(np.all(kept, axis=0))


def rows_of(
    name: str,
    probabilities: Tensor,
    target: Tensor,
    rules: Sequence[Decoding],
    sources: np.ndarray | None,
    found: Tensor | None = None,
) -> list[Row]:
    """A model by each rule that it may predict by.

    Args:
        name: of the model.
        probabilities: [N, K].
        target: [N, K], 1 where a species was found.
        rules: the model's own first (see `TrainedModel.rules`).
        sources: the data set of every survey, str[N]; None: not known.
        found: as in `metrics.sample_f1`.
    """
    auc, species = macro_auc(probabilities, target)  # of the probabilities: the same by every rule
    rows = []
    for rule in rules:
        mask = rule(probabilities, sources)
        summary = {**set_summary(mask, target, found), "auc": auc, "auc_species": species}
        rows.append(Row(name, rule, sample_f1(mask, target, found), summary))
    return rows


def markdown(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """A table of rows. `columns` maps keys to headings; fractions get three digits."""

    def cell(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    table = [list(columns.values())] + [[cell(row.get(key, "")) for key in columns] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    lines = []
    for line in table:
        cells = zip(line, widths, strict=True)
        texts = [text.rjust(width) if i else text.ljust(width) for i, (text, width) in enumerate(cells)]
        lines.append("| " + " | ".join(texts) + " |")
    rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
