"""What a model card and a report say of a run: every held-out part of its split, with intervals and by group.

Intervals are 95 % of a bootstrap over surveys. Species are grouped by how often the training samples of all
tables name them (tenths of the species, those never named apart), surveys by their source. A number that does
not exist is None.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.decoding import Decoding
from glczoo.errors import GlczooError
from glczoo.evaluation.evaluate import readable
from glczoo.metrics import (
    SpeciesScores,
    bootstrap,
    frequency_parts,
    macro_auc,
    means_by,
    sample_f1,
    sample_recall,
    species_scores,
)
from glczoo.runs.run import Run
from glczoo.runs.scoring import default_accelerator
from glczoo.runs.split import Part

__all__ = [
    "DecileScore",
    "PartScore",
    "RuleScore",
    "SourceScore",
    "SpeciesScore",
    "held_out_scores",
    "part_score",
    "training_counts",
]


@dataclass(frozen=True)
class RuleScore:
    """The sets of one rule."""

    rule: str
    f1: float
    f1_low: float
    f1_high: float
    size: float  # species in a set on average
    recall: float | None = None  # share of a survey's species in the set, on average


@dataclass(frozen=True)
class DecileScore:
    """Species that the training samples name about equally often."""

    name: str
    species: int
    f1: float | None
    auc: float | None
    pr_auc: float | None = None
    tss: float | None = None
    boyce: float | None = None


@dataclass(frozen=True)
class SpeciesScore:
    """One species with presences enough to compare its scores (see `metrics.SpeciesScores`)."""

    name: str
    surveys: int  # that observed it
    predicted: int  # surveys
    f1: float
    auc: float
    pr_auc: float
    tss: float
    boyce: float | None


@dataclass(frozen=True)
class SourceScore:
    """Surveys of one data set."""

    name: str
    surveys: int
    f1: float
    f1_low: float
    f1_high: float


@dataclass(frozen=True)
class PartScore:
    """One part of the split; the model's own rule comes first."""

    part: str
    surveys: int
    species_per_survey: float
    rules: list[RuleScore]
    auc: float | None
    auc_low: float | None
    auc_high: float | None
    auc_species: int
    deciles: list[DecileScore]
    sources: list[SourceScore]
    pr_auc: float | None = None  # as auc, means over species
    tss: float | None = None
    boyce: float | None = None
    species: list[SpeciesScore] = field(default_factory=list)  # the most observed first

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "PartScore":
        """What `to_json` wrote.

        Raises:
            KeyError, TypeError: it is something else.
        """
        inner = {
            "rules": [RuleScore(**rule) for rule in values["rules"]],
            "deciles": [DecileScore(**decile) for decile in values["deciles"]],
            "sources": [SourceScore(**source) for source in values["sources"]],
            "species": [SpeciesScore(**species) for species in values.get("species", [])],
        }
        return cls(**{**values, **inner})


def held_out_scores(
    run: Run, *, batch_size: int = 256, accelerator: Accelerator | None = None
) -> list[PartScore]:
    """A run on every held-out part of its split.

    Raises:
        MissingError: the run or data are missing.
        GlczooError: no surveys are held out, or the region is not the model's.
    """
    accelerator = accelerator or default_accelerator()
    model = run.model
    trained_on = training_counts(run.records(), len(model.species))
    rules = model.rules()
    scores = []
    parts: tuple[Part, ...] = ("validation", "test")
    for part in parts:
        samples = readable(run, model, run.samples(part))
        if len(samples):
            probabilities = model.probabilities(samples, batch_size=batch_size, accelerator=accelerator)
            scores.append(part_score(part, probabilities, samples, rules, trained_on, model.species))
    if not scores:
        raise GlczooError(
            f"{run.folder} has no held-out surveys: its recipe validates on none and region "
            f"{run.region.name} has no split; a model card needs results"
        )
    return scores


def training_counts(records: Mapping[Any, np.ndarray], number: int) -> np.ndarray:
    """How often the training samples of all tables name every species, int64[K].

    `records`: classes of each table's training samples; `number`: K.
    """
    return np.sum([np.zeros(number, np.int64), *records.values()], axis=0)


def part_score(
    part: str,
    probabilities: Tensor,
    samples: Samples,
    rules: Sequence[Decoding],
    trained_on: np.ndarray,
    vocabulary: SpeciesIndex,
) -> PartScore:
    """One part of the split: surveys predicted with probabilities[N, K] by each of the rules.

    `trained_on`: int64[K], how often the training samples name every species of the vocabulary.
    """
    target = samples.targets(torch.arange(len(samples)), probabilities.shape[1])
    found = torch.from_numpy(samples.richness())
    masks = {str(rule): rule(probabilities, samples.datasets) for rule in rules}
    f1 = {rule: sample_f1(mask, target, found) for rule, mask in masks.items()}
    auc, auc_species = macro_auc(probabilities, target)
    low, high = bootstrap(
        lambda drawn: macro_auc(probabilities[drawn], target[drawn])[0], torch.arange(len(samples)), n=200
    )
    first = str(rules[0])
    each = species_scores(masks[first], probabilities, target)
    means = each.means()
    return PartScore(
        part=part,
        surveys=len(samples),
        species_per_survey=float(samples.richness().mean()),
        rules=[
            RuleScore(
                rule,
                float(f1[rule].mean()),
                *bootstrap(f1[rule]),
                size=float(mask.sum(1).double().mean()),
                recall=float(sample_recall(mask, target, found).mean()),
            )
            for rule, mask in masks.items()
        ],
        auc=_defined(auc),
        auc_low=_defined(low),
        auc_high=_defined(high),
        auc_species=auc_species,
        deciles=_deciles(each, trained_on),
        sources=_sources(samples, f1[first]),
        **{name: _defined(means[name]) for name in ("pr_auc", "tss", "boyce")},
        species=_species(each, vocabulary),
    )


def _species(each: SpeciesScores, vocabulary: SpeciesIndex) -> list[SpeciesScore]:
    known = (~each.auc.isnan()).nonzero()[:, 0]
    order = known[each.presences[known].argsort(descending=True, stable=True)]
    return [
        SpeciesScore(
            vocabulary.label(k),
            int(each.presences[k]),
            int(each.predicted[k]),
            float(each.f1[k]),
            float(each.auc[k]),
            float(each.pr_auc[k]),
            float(each.tss[k]),
            _defined(float(each.boyce[k])),
        )
        for k in order.tolist()
    ]


def _deciles(each: SpeciesScores, trained_on: np.ndarray) -> list[DecileScore]:
    parts = min(10, len(trained_on))
    groups = frequency_parts(torch.from_numpy(trained_on), parts)
    names = ("f1", "auc", "pr_auc", "tss", "boyce")
    rows = means_by({name: getattr(each, name) for name in names}, groups)
    return [
        DecileScore(
            f"{int(row['group']) + 1} of {parts}",
            int(row["number"]),
            **{name: _defined(row[name]) for name in names},
        )
        for row in rows
    ]


def _sources(samples: Samples, f1: Tensor) -> list[SourceScore]:
    scores = []
    for number, name in enumerate(samples.dataset_names):
        own = f1[torch.from_numpy(samples.dataset == number)]
        if len(own):
            scores.append(SourceScore(name or "not named", len(own), float(own.mean()), *bootstrap(own)))
    return scores


def _defined(number: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(number) else number
