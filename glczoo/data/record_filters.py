"""Which presence-only records to use: the filters that `records:` of a region.yaml asks for, counted."""

import numpy as np
import pandas as pd

from glczoo.data.occurrences import Points
from glczoo.data.places import blank, numbers
from glczoo.data.region import RecordFilters
from glczoo.data.sphere import spatial_blocks, thinned

__all__ = ["filter_columns", "keep_by_columns", "keep_by_place"]

_COLUMNS = {
    "uncertainty": "coordinateUncertaintyInMeters",
    "basis": "basisOfRecord",
    "year": "year",
    "issues": "issue",
}


def filter_columns(filters: RecordFilters | None) -> dict[str, str]:
    """The columns that the filters need, by what they hold."""
    if filters is None:
        return {}
    needed = {
        "uncertainty": filters.max_uncertainty_m is not None or filters.require_uncertainty,
        "basis": bool(filters.basis),
        "year": filters.years is not None,
        "issues": bool(filters.issues),
    }
    named = _COLUMNS | {str(what): column for what, column in filters.columns.items()}
    return {what: named[what] for what, wanted in needed.items() if wanted}


def keep_by_columns(rows: pd.DataFrame, filters: RecordFilters) -> tuple[np.ndarray, dict[str, int]]:
    """Rows to use by what their columns say, bool[n], and how many each filter takes, one after the other.

    `rows`: of the table of records; `filters`: as region.yaml has them.
    """
    keep, taken = np.ones(len(rows), bool), {}
    columns = filter_columns(filters)

    def apply(reason: str, fits: np.ndarray) -> None:
        taken[reason] = int((keep & ~fits).sum())
        np.logical_and(keep, fits, out=keep)

    if "uncertainty" in columns:
        metres, _ = numbers(rows[columns["uncertainty"]])
        if filters.require_uncertainty:
            apply("records.require_uncertainty: not known", ~np.isnan(metres))
        if filters.max_uncertainty_m is not None:
            limit = filters.max_uncertainty_m
            apply(f"records.max_uncertainty_m: above {limit:g} m", ~(metres > limit))
    if "basis" in columns:
        wanted = [_word(value) for value in filters.basis]
        fits = rows[columns["basis"]].astype(str).map(_word).isin(wanted).to_numpy()
        apply(f"records.basis: not {' or '.join(filters.basis)}", fits)
    if filters.years is not None:
        first, last = filters.years
        year, _ = numbers(rows[columns["year"]])
        apply(f"records.years: not in {first} to {last}", (year >= first) & (year <= last))
    if "issues" in columns:
        unwanted = {_word(value) for value in filters.issues}
        column = rows[columns["issues"]]
        codes, distinct = pd.factorize(column.where(~blank(column), ""), use_na_sentinel=False)
        flagged = [bool(unwanted & {_word(flag) for flag in str(v).split(";")}) for v in distinct]
        apply(f"records.issues: {', '.join(filters.issues)}", ~np.array(flagged, bool)[codes])
    return keep, taken


def keep_by_place(
    points: Points, species: np.ndarray, filters: RecordFilters
) -> tuple[np.ndarray, dict[str, int]]:
    """Records to use by where others of their species are, bool[n], and how many each filter takes.

    `filters`: as region.yaml has them.
    """
    keep, taken = np.ones(len(points), bool), {}
    if filters.cell_km is not None and len(points):
        pairs = np.stack([spatial_blocks(points, filters.cell_km), species], axis=1)
        _, first = np.unique(pairs, axis=0, return_index=True)
        keep[:] = False
        keep[first] = True
        taken[f"records.cell_km: another of the species in {filters.cell_km:g} km"] = int((~keep).sum())
    if filters.thin_km is not None:
        some = np.flatnonzero(keep)
        stay = thinned(points.at(some), species[some], filters.thin_km)
        keep[some[~stay]] = False
        taken[f"records.thin_km: another of the species within {filters.thin_km:g} km"] = int((~stay).sum())
    return keep, taken


def _word(value: object) -> str:
    """As GBIF writes its words: HUMAN_OBSERVATION is Human observation and HumanObservation too."""
    return str(value).lower().replace("_", "").replace(" ", "").strip()
