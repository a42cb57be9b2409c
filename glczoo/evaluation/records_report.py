"""One page about a run of a region without surveys: `glczoo report RUN`, by records that were held out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glczoo.data.region import Region
from glczoo.evaluation.records import WORTH, RecordsScore, records_score
from glczoo.evaluation.report import refuse_unwritable, rendered
from glczoo.evaluation.sections import Made, Responses, made, responses
from glczoo.figures import report as drawn
from glczoo.figures.style import svg_uri
from glczoo.files import whole
from glczoo.runs.lineage import Step
from glczoo.runs.run import Run
from glczoo.runs.scoring import default_accelerator
from glczoo.training.fit_records import RecordsLeaderboard

__all__ = ["RecordsReport", "report_records"]

_FREQUENT = 4  # species whose response curves are drawn unless others are asked for


@dataclass(frozen=True)
class SpeciesRow:
    """A species by its held-out records."""

    name: str
    auc: float
    records: int


@dataclass(frozen=True)
class RecordsReport:
    """What the page holds; pictures are data URIs."""

    name: str
    region: str
    score: RecordsScore
    worth: str
    ranks: bool  # whether its answers are ranks of suitability
    answer: str
    board: RecordsLeaderboard | None
    species: list[SpeciesRow]  # the worst first
    pictures: dict[str, str]
    responses: Responses | None
    made: Made


def report_records(
    run: str | Path,
    out: Path,
    *,
    region: Region | None = None,
    species: Sequence[str] = (),
    sample: int = 1000,
    batch_size: int = 256,
    command: str | None = None,
) -> RecordsReport:
    """Write a page about a run by the records that were held out.

    Args:
        run: folder of a finished run or a published model, or `hf-hub:ORG/NAME`.
        out: HTML file to write, replaced if it is there.
        region: where the records are; the run's if None.
        species: speciesIds or names to draw response curves of; those with most records if empty.
        sample: draw this many records for response curves; 0 leaves them out.
        batch_size: points in a batch.
        command: that made the page, to be printed on it; the call of this function if None.

    Raises:
        MissingError: the run, data, or the folder to write to are missing.
        GlczooError: `out` cannot be written or is no .html, a species is unknown, or no records are held out.
    """
    refuse_unwritable(out)
    opened = Run.find(run).on(region)
    model = opened.model
    chosen = model.species.find(species)
    score = records_score(opened, batch_size=batch_size)
    counts = opened.records()["po"]
    if not len(chosen):
        chosen = np.argsort(-counts, kind="stable")[:_FREQUENT]
    auc = np.array([score.auc_each.get(str(number), np.nan) for number in model.species.ids.tolist()])
    rows = [
        SpeciesRow(model.species.label(k), float(auc[k]), int(counts[k]))
        for k in np.argsort(auc, kind="stable").tolist()
        if np.isfinite(auc[k])
    ]
    command = command or f"glczoo.evaluation.records_report.report_records({str(run)!r}, {str(out)!r})"
    page = RecordsReport(
        name=model.name,
        region=opened.region.name,
        score=score,
        worth=WORTH,
        ranks=model.answers_ranks,
        answer=model.answer,
        board=RecordsLeaderboard.load(opened.folder),
        species=rows,
        pictures={"auc": svg_uri(drawn.auc_by_records(auc, {"PO": counts}))},
        responses=responses(opened, chosen, sample, default_accelerator().device) if sample >= 2 else None,
        made=made(opened, str(run), "", _by_recipe(opened), command),
    )
    with whole(out) as partial:
        partial.write_text(rendered(page, "records_report.html"), "utf-8")
    return page


def _by_recipe(run: Run) -> list[Step]:
    """The steps that `glczoo.train` repeats; a fit is repeated by its own command."""
    return [] if RecordsLeaderboard.load(run.folder) else run.lineage
