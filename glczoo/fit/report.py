"""One page about a fit that has seen every survey: `glczoo report RUN`, by its scores out of fold."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glczoo.data.region import Region
from glczoo.errors import GlczooError
from glczoo.evaluation.held_out import training_counts
from glczoo.evaluation.report import refuse_unwritable, rendered
from glczoo.evaluation.sections import Made, Responses, made, responses
from glczoo.files import whole
from glczoo.fit.leaderboard import Leaderboard
from glczoo.runs.run import Run
from glczoo.runs.scoring import default_accelerator

__all__ = ["FitReport", "report_fit", "seen_whole"]

_FREQUENT = 4  # species whose response curves are drawn unless others are asked for


@dataclass(frozen=True)
class SpeciesRow:
    """A species by its training samples."""

    name: str
    numbers: list[int]  # of each table


@dataclass(frozen=True)
class FitReport:
    """What the page holds; pictures are data URIs."""

    name: str
    region: str
    board: Leaderboard
    rows: list[dict[str, str]]  # of the leaderboard's table, the ensemble last
    verdict: list[str]  # sentences
    tables: list[str]
    species: list[SpeciesRow]  # those with most samples first
    answer: str
    responses: Responses | None
    made: Made


def seen_whole(run: Run) -> Leaderboard | None:
    """The leaderboard of a fit that left no survey to judge it by; None of any other run."""
    board = Leaderboard.load(run.folder)
    if board is None or "pa" not in run.region.tables:
        return None
    split = run.split("pa")
    return None if len(split.validation) or len(split.test) else board


def report_fit(
    run: str | Path,
    out: Path,
    *,
    region: Region | None = None,
    species: Sequence[str] = (),
    sample: int = 1000,
    command: str | None = None,
) -> FitReport:
    """Write a page about a fit by what it compared out of fold.

    Args:
        run: folder of a fit to surveys, or of what was published of it.
        out: HTML file to write, replaced if it is there.
        region: where the surveys are; the run's if None.
        species: speciesIds or names to draw response curves of; those with most samples if empty.
        sample: draw this many surveys for response curves; 0 leaves them out.
        command: that made the page, to be printed on it; the call of this function if None.

    Raises:
        MissingError: the run, data, or the folder to write to are missing.
        GlczooError: `out` cannot be written or is no .html, a species is unknown, or the run is no such fit.
    """
    refuse_unwritable(out)
    opened = Run.find(run).on(region)
    board, model = seen_whole(opened), opened.model
    if board is None:
        raise GlczooError(
            f"{opened.name} is no fit that has seen every survey", remedy="Report it by evaluation.report."
        )
    chosen = model.species.find(species)
    records = opened.records()
    order = np.argsort(-training_counts(records, len(model.species)), kind="stable")
    if not len(chosen):
        chosen = order[:_FREQUENT]
    device = default_accelerator().device
    page = FitReport(
        name=model.name,
        region=opened.region.name,
        board=board,
        rows=board.rows(),
        verdict=board.verdict().splitlines(),
        tables=list(records),
        species=[
            SpeciesRow(model.species.label(k), [int(each[k]) for each in records.values()])
            for k in order.tolist()
        ],
        answer=model.answer,
        responses=responses(opened, chosen, sample, device) if sample >= 2 else None,
        made=made(opened, str(run), "", [], command or f"glczoo.fit.report.report_fit({str(run)!r}, …)"),
    )
    with whole(out) as partial:
        partial.write_text(rendered(page, "fit_report.html"), "utf-8")
    return page
