"""Test tables, and the solution files that say what was found there.

Two forms of truth: a row for each species of a survey (GeoLifeCLEF 2023, Id;speciesId), or a row for each
survey with all its species (GeoLifeCLEF 2024 and 2025, surveyId,target_species_ids). Other columns, such as
Kaggle's Usage, count for nothing: public and private surveys are scored together.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from glczoo.data.occurrences import Points, Samples, SpeciesIndex
from glczoo.data.places import blank
from glczoo.data.point_tables import read_points, row_ids
from glczoo.data.region import Region, Table
from glczoo.data.table_files import TableFile, open_table
from glczoo.data.table_rows import integers
from glczoo.errors import GlczooError

__all__ = ["read_test_points", "read_test_samples", "test_table"]

_SETS = ("target_species_ids", "predictions", "speciesIds")
"""Columns of sets: of GLC24_SOLUTION_FILE.csv, of submissions, of GeoPlant's test_labels_iid.csv."""


def test_table(region: Region, name: str | None = None) -> Table:
    """One of the region's `tests`, or `tables.test` for None.

    Raises:
        GlczooError: there is no such test table.
    """
    tables = _described(region)
    wanted = name or next(iter(tables))
    if wanted not in tables:
        raise GlczooError(
            f"region {region.name} has no test table {wanted!r}",
            remedy=f"It has {', '.join(tables)}; `tests` of region.yaml names them.",
        )
    return tables[wanted]


def read_test_points(region: Region, name: str | None = None) -> Points:
    """The surveys of a test table; a survey that stands there in several rows is one.

    Args:
        region: with a test table.
        name: see `test_table`.

    Raises:
        MissingError: the table is not there.
        GlczooError: there is no such test table, or a survey has two places.
    """
    return _points(region, test_table(region, name))


def _described(region: Region) -> dict[str, Table]:
    """The test tables by name, `test` first.

    Raises:
        GlczooError: the region has none.
    """
    own = {"test": region.table("test")} if "test" in region.tables or not region.tests else {}
    return own | region.tests


def _points(region: Region, table: Table) -> Points:
    path = region.find(*table.file)
    points = read_points(region, path, table)
    _, first, number = np.unique(points.ids, return_index=True, return_inverse=True)
    moved = (np.abs(points.lon - points.lon[first][number]) > 1e-6) | (
        np.abs(points.lat - points.lat[first][number]) > 1e-6
    )
    if moved.any():
        raise GlczooError(
            f"{path}: {len(np.unique(number[moved]))} surveys of the test table have more than one place, "
            f"the first: {table.id} {points.ids[moved][0]}"
        )
    return points if len(first) == len(points) else points.at(np.sort(first))


def read_test_samples(region: Region, truth: Path, vocabulary: SpeciesIndex) -> Samples:
    """The surveys of a test table with their true species.

    Which of the region's test tables it is, the ids of the truth say. Species that the vocabulary lacks count
    in `Samples.unknown`: no model of it can find them, and they were there.

    Args:
        region: with the test tables.
        truth: a table Id;speciesId with a row for each species, where a survey without a row has none; or
            with a row for each survey and its species' ids separated by blanks, of which repeats count once.
        vocabulary: of the model.

    Raises:
        MissingError: a table is not there.
        GlczooError: a column is missing, an id is of no test table, or a table of sets lacks surveys.
    """
    file = open_table(truth)
    tables = _described(region)
    name, table, points, ids = _matching(region, tables, truth, file)
    sets = next((column for column in (table.predicted, *_SETS) if file.find(column)), None)
    if sets is None and not file.find(table.species):
        raise GlczooError(
            f"{truth}: no column holds species: neither {table.species}, one a row, nor {_SETS[0]}, "
            f"separated by blanks; it has {list(file.names)}"
        )
    row = pd.Index(points.ids).get_indexer(pd.Index(ids))
    column = file.read([sets or table.species])[sets or table.species]
    if sets is not None:
        _require_one_row_each(truth, name, table, points, ids)
        each = column.astype(object).where(~blank(column), "").astype(str).str.split()
        row = np.repeat(row, [max(len(ids), 1) for ids in each])
        column = each.explode()  # a survey without species keeps a row, which is blank
    named = ~blank(column)
    pairs = np.unique(np.stack([row[named], integers(column[named], truth)], axis=1), axis=0)
    known = np.isin(pairs[:, 1], vocabulary.ids)
    unknown = np.bincount(pairs[~known, 0], minlength=len(points))
    pairs = pairs[known]
    has_source = points.dataset is not None
    return Samples(
        points.lon,
        points.lat,
        points.patch_id,
        points.ids,
        np.concatenate([[0], np.cumsum(np.bincount(pairs[:, 0], minlength=len(points)))]),
        vocabulary.classes(pairs[:, 1], str(truth)),
        unknown=unknown if unknown.any() else None,
        dataset=points.dataset if has_source else np.zeros(len(points), int),
        dataset_names=points.dataset_names if has_source else ("test",),
        columns=points.columns,
    )


def _matching(
    region: Region, tables: dict[str, Table], truth: Path, file: TableFile
) -> tuple[str, Table, Points, np.ndarray]:
    """The smallest test table that holds every id of the truth: name, description, points; and the ids."""
    best: tuple[str, Table, Points, np.ndarray] | None = None
    fewest, first = np.inf, ""
    for name, table in tables.items():
        if not file.find(table.id):
            continue
        try:
            points = _points(region, table)
        except FileNotFoundError:
            if len(tables) == 1:
                raise
            continue
        ids = row_ids(file.read([table.id]), table)
        unknown = ~np.isin(ids, points.ids)
        if unknown.sum() < fewest:
            fewest, first = int(unknown.sum()), f"{ids[unknown][0]}" if unknown.any() else ""
        if not unknown.any() and (best is None or len(points) < len(best[2])):
            best = name, table, points, ids
    if best is not None:
        return best
    columns = sorted({table.id for table in tables.values()})
    if not any(file.find(column) for column in columns):
        raise GlczooError(f"{truth}: there is no column {' or '.join(columns)}; it has {list(file.names)}")
    if fewest == np.inf:
        raise GlczooError(f"{truth}: none of the test tables {', '.join(tables)} of {region.name} is there")
    where = "the test table" if len(tables) == 1 else f"any of the test tables {', '.join(tables)}"
    raise GlczooError(f"{truth}: {fewest} rows have an Id that is not in {where}, the first: {first}")


def _require_one_row_each(truth: Path, name: str, table: Table, points: Points, ids: np.ndarray) -> None:
    """A table of sets has a row for each survey: one cut short would be another benchmark."""
    twice = pd.Index(ids).duplicated()
    if twice.any():
        raise GlczooError(
            f"{truth}: {twice.sum()} surveys stand there twice, the first: {table.id} {ids[twice][0]}; a "
            "table of sets has a row for each"
        )
    missing = ~np.isin(points.ids, ids)
    if missing.any():
        raise GlczooError(
            f"{truth}: {missing.sum()} of {len(points)} surveys of the test table {name} have no row, the "
            f"first: {table.id} {points.ids[missing][0]}",
            remedy="Is the file whole? A part of the surveys can have a table in `tests` of region.yaml.",
        )
