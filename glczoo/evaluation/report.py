"""One page about a run: `glczoo report RUN --out report.html`.

A single HTML file that loads nothing from elsewhere: what the run scores on surveys that it never saw, step
by step beside the paper, where it errs, what it reads of its bands, and how it was made. `evaluate`,
`explain` and `steps` measure, `sections` arranges, `figures` draws, `report.html` (a Jinja template) puts it
together.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from glczoo.data.occurrences import Samples
from glczoo.data.region import Region
from glczoo.data.splits import EARTH_KM
from glczoo.decoding import Rule
from glczoo.errors import GlczooError, MissingError
from glczoo.evaluation.coverage import Coverage, coverage
from glczoo.evaluation.evaluate import Evaluation, evaluate
from glczoo.evaluation.explain import errors_by_block
from glczoo.evaluation.held_out import PartScore, part_score, training_counts
from glczoo.evaluation.odmap import Entry, odmap
from glczoo.evaluation.sections import (
    Extremes,
    Importance,
    Made,
    Responses,
    extremes,
    importance,
    made,
    responses,
    some,
    training_curves,
)
from glczoo.evaluation.steps import PAPER, StepTable, history_of, step_table, study_of
from glczoo.figures import report as drawn
from glczoo.figures.style import svg_uri
from glczoo.files import whole
from glczoo.metrics import reliability, species_scores
from glczoo.runs.run import Run
from glczoo.runs.scoring import default_accelerator
from glczoo.runs.split import Kind, Part

__all__ = ["Report", "refuse_unwritable", "rendered", "report"]

_FREQUENT = 4  # species whose response curves are drawn unless others are asked for
_BLOCKS, _SURVEYS = 10, 10  # along the longer side of the map, at most, and in a block, about


@dataclass(frozen=True)
class Report:
    """What the page holds; pictures are data URIs."""

    name: str
    region: str
    part: str
    where: str  # the surveys, in words
    results: PartScore
    coverage: Coverage
    steps: StepTable
    missing: str  # why there are no steps
    study: dict[str, Any] | None
    ece: float
    species: Extremes
    tables: list[Kind]
    block_km: float
    blocks: int
    pictures: dict[str, str | None]
    importance: Importance | None
    responses: Responses | None
    made: Made
    odmap: list[Entry]  # the protocol of Zurell et al. 2020


def report(
    run: str | Path,
    out: Path,
    *,
    part: Part | None = None,
    region: Region | None = None,
    truth: Path | None = None,
    species: Sequence[str] = (),
    sample: int = 1000,
    batch_size: int = 256,
    command: str | None = None,
    accelerator: Accelerator | None = None,
) -> Report:
    """Write a page about a run on the surveys that `evaluate` scores it by.

    Args:
        run: folder of a finished run, an ensemble or a published model, or `hf-hub:ORG/NAME`.
        out: HTML file to write, replaced if it is there. Written beside and renamed: whole or not there.
        part: which surveys of the split; the held-out fold if there is one, else the validation surveys.
        region: where the surveys are; the run's if None.
        truth: table of the species of a test table of the region, reported on instead of a part.
        species: speciesIds or names to draw response curves of; those with most records if empty.
        sample: draw this many surveys for permutation importance and response curves; 0 leaves them out.
        batch_size: points in a batch.
        command: that made the page, to be printed on it; the call of this function if None.
        accelerator: says on which device the model predicts. One process is enough; the first one writes.

    Raises:
        MissingError: the run, data, or the folder to write to are missing.
        GlczooError: `out` cannot be written or is no .html, a species is unknown, the part has no surveys, or
            the region is not the model's.
    """
    refuse_unwritable(out)
    accelerator = accelerator or default_accelerator()
    opened = Run.find(run).on(region)
    chosen = opened.model.species.find(species)
    evaluation = evaluate([opened], part=part, truth=truth, batch_size=batch_size, accelerator=accelerator)
    command = command or f"glczoo.evaluation.report.report({str(run)!r}, {str(out)!r})"
    page = _measured(opened, str(run), evaluation, truth, chosen, sample, batch_size, command, accelerator)
    if accelerator.is_main_process:
        with whole(out) as partial:
            partial.write_text(rendered(page, "report.html"), "utf-8")
    return page


def _measured(
    run: Run,
    name: str,
    evaluation: Evaluation,
    truth: Path | None,
    chosen: np.ndarray,
    sample: int,
    batch_size: int,
    command: str,
    accelerator: Accelerator,
) -> Report:
    """Everything that the page holds, of the surveys of an evaluation."""
    model, region, samples = run.model, run.region, evaluation.samples
    probabilities, part = evaluation.probabilities, evaluation.part
    target = samples.targets(torch.arange(len(samples)), len(model.species))
    mask = model.decoding(probabilities, samples.datasets)
    each = species_scores(mask, probabilities, target)
    promised = model.decoding.value if model.decoding.rule is Rule.RECALL else None
    records = run.records()
    total = training_counts(records, len(model.species))
    curve = reliability(probabilities, target)
    size_km = _round_km(samples)
    if run.recipe.data.split == "blocks":
        size_km = run.recipe.data.blocks.size_km
    blocks = errors_by_block(samples, evaluation.own.f1_each, size_km)
    history = history_of(run)
    figures = {
        "reliability": drawn.reliability(
            curve.number.numpy(), curve.probability.numpy(), curve.frequency.numpy()
        ),
        "sizes": drawn.set_sizes(mask.sum(1).numpy(), samples.sizes()),
        "auc": drawn.auc_by_records(
            each.auc.numpy(), {kind.upper(): numbers for kind, numbers in records.items()}
        ),
        "map": drawn.block_map(blocks.bounds, blocks.f1, blocks.number, "mean F1 of the surveys"),
    }
    pictures: dict[str, str | None] = {key: svg_uri(figure) for key, figure in figures.items()}
    pictures["training"] = training_curves(history.runs)
    steps = step_table(
        history,
        evaluation,
        None if truth else part,  # type: ignore[arg-type]  # of an evaluation without truth
        region,
        size_km,
        batch_size=batch_size,
        accelerator=accelerator,
    )
    device, explained = accelerator.device, sample >= 2
    if not len(chosen):
        chosen = np.argsort(-total, kind="stable")[:_FREQUENT]
    results = part_score(part, probabilities, samples, model.rules(), total, model.species)
    curves = responses(run, chosen, sample, device) if explained else None
    return Report(
        name=model.name,
        region=evaluation.region,
        part=part,
        where=f"{'surveys of the test table' if truth else part + ' surveys'} of {region.name}",
        results=results,
        coverage=coverage(mask, target, samples, size_km, promised),
        steps=steps,
        missing=history.missing,
        study=study_of(run.folder),
        ece=curve.ece,
        species=extremes(model, each.presences, each.auc, each.f1, list(records.values())),
        tables=list(records),
        block_km=size_km,
        blocks=len(blocks.f1),
        pictures=pictures,
        importance=importance(model, region, some(samples, sample), device) if explained else None,
        responses=curves,
        made=made(run, name, part, history.steps, command),
        odmap=odmap(run, results, curves) if not history.missing else [],
    )


def rendered(page: Any, template: str) -> str:
    """A page, the dataclass of what it holds, by a template of this folder."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"digits": _digits, "interval": _interval}
    return environment.get_template(template).render(**vars(page), paper=PAPER)


def refuse_unwritable(out: Path) -> None:
    """Stop before anything is computed."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise GlczooError(f"the report is an HTML page: name a file that ends in .html, given {out}")
    if not out.parent.is_dir():
        raise MissingError(f"{out}: the folder {out.parent} does not exist; make it first")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        reason = "a folder has that name" if out.is_dir() else f"you may not write in {out.parent}"
        raise GlczooError(f"{out} cannot be written: {reason}; name another file")


def _round_km(samples: Samples) -> float:
    """A round side of blocks: ten of them along the region's longer side, or fewer where surveys are few."""
    high, wide = (np.radians(np.ptp(degrees)) * EARTH_KM for degrees in (samples.lat, samples.lon))
    number = np.clip(np.sqrt(len(samples) / _SURVEYS), 2, _BLOCKS)
    about = max(high, wide * np.cos(np.radians(samples.lat.mean())), 1e-3) / number
    power = 10.0 ** math.floor(math.log10(about))
    return min(step * power for step in (1, 2, 5, 10) if step * power >= about)


def _digits(value: float | None, digits: int = 3) -> str:
    """A number in a table; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _interval(row: Any, key: str) -> str:
    """A number and its interval: the fields KEY, KEY_low and KEY_high."""
    low, high = getattr(row, f"{key}_low"), getattr(row, f"{key}_high")
    ends = "" if low is None or high is None else f" [{_digits(low)}, {_digits(high)}]"
    return _digits(getattr(row, key)) + ends
