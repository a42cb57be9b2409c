"""One command from region.yaml to a model to trust: `glczoo fit REGION`."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from glczoo.data.region import Region
from glczoo.errors import GlczooError
from glczoo.files import lock
from glczoo.fit.leaderboard import Leaderboard
from glczoo.fit.settings import Fit, read_settings
from glczoo.fit.surveys import claim, fit_surveys
from glczoo.runs.run import is_finished
from glczoo.training.fit_records import RecordsLeaderboard, fit_records

__all__ = ["Fitted", "fit"]


@dataclass(frozen=True)
class Fitted:
    """A run, and how it was chosen."""

    folder: Path
    leaderboard: Leaderboard | RecordsLeaderboard

    def text(self) -> str:
        """The result for people."""
        verbs = "report, map and push take it like any run"
        return f"{self.leaderboard.text()}\n\n{self.folder}: glczoo {verbs}"


def _say(line: str) -> None:
    print(line, flush=True)  # a log is read while the fit goes on


def fit(
    path: str | Path,
    out: Path | None = None,
    minutes: float | None = None,
    jobs: int | None = None,
    overrides: Sequence[str] = (),
    log: Callable[[str], None] = _say,
) -> Fitted:
    """Fit candidates of unlike kinds to a region, and join those that its own data choose.

    A region without surveys is fitted by its presence-only records (see `training.fit_records`). Interrupted,
    the same call goes on where it was.

    Args:
        path: region.yaml, or its folder.
        out: folder of the result; None: runs/REGION/ensemble_glc23/fit.
        minutes: what the fit may take, about; candidates that would not fit are named. None: no bound.
        jobs: threads; None: one for each core.
        overrides: key=value of `settings.Fit`.
        log: prints how far it is.

    Raises:
        MissingError: data are missing.
        ExistsError: `out` holds another fit, or another model.
        GlczooError: a table or an override cannot be read, there are too few surveys for the folds, or none
            and no records, or another process works there.
    """
    region = Region.load(path)
    settings = read_settings(region, overrides)
    if not {"po", "pa"} & set(region.tables):
        raise GlczooError(
            f"region {region.name} has neither surveys nor records: there is nothing to fit to",
            remedy="Name a table of either under tables: in region.yaml",
        )
    by_records = "pa" not in region.tables
    if by_records and (others := [text for text in overrides if not text.startswith("seed=")]):
        raise GlczooError(
            f"region {region.name} has no surveys, and {others} are settings of a fit to surveys",
            remedy="Leave them out: a fit to presence-only records takes seed=N alone.",
        )
    out = out or Path("runs") / region.name / "ensemble_glc23" / "fit"
    with lock(out / "fit.json"):
        return _fit(region, path, out, settings, minutes, jobs, log)


def _fit(
    region: Region,
    path: str | Path,
    out: Path,
    settings: Fit,
    minutes: float | None,
    jobs: int | None,
    log: Callable[[str], None],
) -> Fitted:
    """Fit in a folder in which no other process works."""
    by_records = "pa" not in region.tables
    claim(
        out,
        {
            "region": region.text(),
            "data": str(region.root_path.resolve()),
            "settings": settings.model_dump(mode="json"),
        },
    )
    kept = RecordsLeaderboard.load(out) if by_records else Leaderboard.load(out)
    if is_finished(out) and kept is not None:
        return Fitted(out, kept)
    threads = torch.get_num_threads()
    jobs = jobs or len(os.sched_getaffinity(0))
    torch.set_num_threads(jobs)
    try:
        if by_records:
            seed = settings.seed
            records = fit_records(region, str(path), out, minutes=minutes, jobs=jobs, seed=seed, log=log)
            return Fitted(out, records)
        return Fitted(out, fit_surveys(region, str(path), out, settings, minutes, jobs, log))
    finally:
        torch.set_num_threads(threads)
