"""How good are runs, each and together? Per-sample F1 (eq. 3), macro F1, macro AUC, set size.

The ensemble is the mean of the members' probabilities (Ung et al. 2023, Figure 3).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.data.region import Region
from glczoo.data.tables import read_test_samples
from glczoo.decoding import Decoding, Rule
from glczoo.metrics import (
    bootstrap,
    frequency_parts,
    macro_auc,
    means_by,
    sample_f1,
    set_summary,
    species_scores,
)
from glczoo.recipe import Recipe, read_run_recipe
from glczoo.runs.run import ask, load_members, locate, mean_decoding, region_of
from glczoo.training.initial_model import split_table

__all__ = ["described", "evaluate", "markdown", "records", "results", "rows_of", "samples_of"]

Part = Literal["train", "validation", "test"]


def evaluate(
    runs: Sequence[str | Path],
    *,
    part: Part | None = None,
    region: Region | None = None,
    truth: Path | None = None,
    k: int | None = None,
    batch_size: int = 256,
    accelerator: Accelerator | None = None,
    each: bool = False,
) -> dict[str, Any]:
    """Evaluate runs and, if there are several, their ensemble, by every set-size rule.

    Args:
        runs: folders of finished runs, or `hf-hub:ORG/NAME`, that share a vocabulary.
        part: which surveys of the split of the first run's recipe; the held-out fold if it has one, else the
            validation surveys.
        region: where the surveys are; the first run's if None.
        truth: table Id;speciesId with the species of the region's test table, scored instead of a part.
        k: answer this many species; by the rule stored with each run if None.
        batch_size: points in a batch.
        accelerator: several processes share the work, all return the same.
        each: also keep what is no JSON value: `points`, the surveys; the F1 of each, `f1_each` of every row;
            and `probabilities`, float32[N, K] of the run or of the ensemble.

    Returns:
        JSON values: region, part, surveys, species_per_survey, and rows of model, rule and the metrics. A
        model's own rule comes first, then those that its validation surveys tuned, and expected F1.

    Raises:
        FileNotFoundError: a run or data are missing.
        ValueError: the runs do not fit each other or the region, or the part has no surveys.
    """
    accelerator = accelerator or Accelerator(cpu=not torch.accelerator.is_available())
    members = load_members(runs)
    folder = locate(runs[0])
    recipe, _ = read_run_recipe(folder)
    region = region or region_of(folder)
    part = part or ("validation" if recipe.data.split == "random" else "test")
    if truth is not None:
        surveys = read_test_samples(region, truth, members[0].species)
    else:
        surveys = samples_of(recipe, region, members[0].species, part)
    if not len(surveys):
        raise ValueError(f"there are no {part} surveys in the split of {runs[0]}; give another part")
    if recipe.data.incomplete == "drop":
        readable = np.all([m.open(region).complete(surveys, "surveys", drop=True) for m in members], axis=0)
        surveys = surveys.subset(readable)
    target, sources = surveys.targets(torch.arange(len(surveys)), len(members[0].species)), surveys.datasets

    rows = []
    own = Decoding(Rule.TOP_K, k) if k else None
    total: Tensor | None = None
    for member in members:
        probabilities = ask(accelerator, member, region, surveys, batch_size)
        total = probabilities if total is None else total + probabilities
        rows += rows_of(member.name, probabilities, target, own or member.decoding, member.tuned, sources)
    if len(members) > 1 and total is not None:
        decoding, tuned = mean_decoding(members)
        name = f"ensemble of {len(members)}"
        rows += rows_of(name, total / len(members), target, own or decoding, tuned, sources)
    if not each:
        rows = [{key: value for key, value in row.items() if key != "f1_each"} for row in rows]
    kept = {"points": surveys, "probabilities": total / len(members)} if each and total is not None else {}
    return kept | {
        "region": region.name,
        "part": str(truth) if truth else part,
        "surveys": len(surveys),
        "species_per_survey": float(surveys.sizes().mean()),
        "rows": rows,
    }


def results(
    run: Path, *, batch_size: int = 256, accelerator: Accelerator | None = None
) -> list[dict[str, Any]]:
    """What a model card says of a run: every held-out part of its split, with intervals and by group.

    Intervals are 95 % of a bootstrap over surveys. Species are grouped by how often the training surveys of
    all tables name them (tenths of the species, those never named apart), surveys by their source.

    Returns:
        JSON values, None where a number is undefined: part, surveys, species_per_survey, rules (rule, f1,
        f1_low, f1_high, size), auc, auc_low, auc_high, auc_species, deciles (name, species, f1, auc), sources
        (name, surveys, f1, f1_low, f1_high).

    Raises:
        FileNotFoundError: the run or data are missing.
        ValueError: no surveys are held out, or the region is not the model's.
    """
    accelerator = accelerator or Accelerator(cpu=not torch.accelerator.is_available())
    model = load_members([run])[0]
    recipe, _ = read_run_recipe(run)
    region = region_of(run)
    nothing = np.zeros(len(model.species), np.int64)
    trained_on = np.sum([nothing, *records(recipe, region, model.species).values()], axis=0)
    rules = model.decoding.others(model.tuned)
    found = []
    for part in ("validation", "test"):
        surveys = samples_of(recipe, region, model.species, part)
        if recipe.data.incomplete == "drop" and len(surveys):
            surveys = surveys.subset(model.open(region).complete(surveys, "surveys", drop=True))
        if len(surveys):
            probabilities = ask(accelerator, model, region, surveys, batch_size)
            found.append({"part": part, **described(probabilities, surveys, rules, trained_on)})
    if not found:
        raise ValueError(
            f"{run} has no held-out surveys: its recipe validates on none and region {region.name} has no "
            "split; a model card needs results"
        )
    return found


def records(recipe: Recipe, region: Region, species: SpeciesIndex) -> dict[str, np.ndarray]:
    """How often the training surveys of each table that the region has, po and pa, name every species.

    int64[K] each.
    """
    return {
        table: np.bincount(
            split_table(recipe, region, table, species).train.species, minlength=len(species)
        )
        for table in ("po", "pa") if table in region.tables
    }  # fmt: skip


def described(
    probabilities: Tensor, surveys: Samples, rules: Sequence[Decoding], trained_on: np.ndarray
) -> dict[str, Any]:
    """One part of `results`: surveys answered with probabilities[N, K] by each of the rules.

    `trained_on`: int64[K], how often the training surveys name every species.
    """
    target = surveys.targets(torch.arange(len(surveys)), probabilities.shape[1])
    masks = {str(rule): rule(probabilities, surveys.datasets) for rule in rules}
    f1 = {rule: sample_f1(mask, target) for rule, mask in masks.items()}
    auc, auc_species = macro_auc(probabilities, target)
    low, high = bootstrap(
        lambda drawn: macro_auc(probabilities[drawn], target[drawn])[0], torch.arange(len(surveys)), n=200
    )
    first = str(rules[0])
    each = species_scores(masks[first], probabilities, target)
    counts, parts = torch.from_numpy(trained_on), min(10, len(trained_on))
    deciles = means_by({"f1": each.f1, "auc": each.auc}, frequency_parts(counts, parts))
    return _plain(
        {
            "surveys": len(surveys),
            "species_per_survey": float(surveys.sizes().mean()),
            "rules": [
                {"rule": rule, "f1": float(f1[rule].mean()), **_interval(f1[rule]),
                 "size": float(mask.sum(1).double().mean())}
                for rule, mask in masks.items()
            ],
            "auc": auc, "auc_low": low, "auc_high": high, "auc_species": auc_species,
            "deciles": [
                {"name": f"{int(row['group']) + 1} of {parts}", "species": row["number"], "f1": row["f1"],
                 "auc": row["auc"]}
                for row in deciles
            ],
            "sources": [
                {"name": name or "not named", "surveys": int(mine.sum()), "f1": float(f1[first][mine].mean()),
                 **_interval(f1[first][mine])}
                for number, name in enumerate(surveys.dataset_names)
                if (mine := torch.from_numpy(surveys.dataset == number)).any()
            ],
        }
    )  # fmt: skip


def _interval(f1: Tensor) -> dict[str, float]:
    low, high = bootstrap(f1)
    return {"f1_low": low, "f1_high": high}


def _plain(value: Any) -> Any:
    """JSON has no NaN: None says that a number does not exist."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def samples_of(recipe: Recipe, region: Region, species: SpeciesIndex, part: Part) -> Samples:
    """The PA surveys of one part of a recipe's split."""
    return getattr(split_table(recipe, region, "pa", species), part)


def markdown(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
    """A table of rows. `columns` maps keys to headings; fractions get three digits."""

    def cell(value: Any) -> str:
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    table = [list(columns.values())] + [[cell(row.get(key, "")) for key in columns] for row in rows]
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(
            text.ljust(width) if i == 0 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ) + " |"
        for line in table
    ]  # fmt: skip
    rule = "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def rows_of(
    name: str, probabilities: Tensor, target: Tensor, decoding: Decoding, tuned: Mapping[str, float],
    sources: np.ndarray | None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of a table: model, rule and the metrics, by each rule that a model may answer by.

    Args:
        name: of the model.
        probabilities: [N, K].
        target: [N, K], 1 where a species was found.
        decoding: the model's own rule, the first row.
        tuned: numbers of the other rules.
        sources: the data set of every survey, str[N]; None: not known.
    """
    auc, species = macro_auc(probabilities, target)  # of the probabilities: the same by every rule
    rows = []
    for rule in decoding.others(tuned):
        mask = rule(probabilities, sources)
        rows.append(
            {
                "model": name,
                "decoding": rule.rule,
                "rule": str(rule),
                **set_summary(mask, target),
                "auc": auc,
                "auc_species": species,
                "f1_each": sample_f1(mask, target),
            }
        )
    return rows
