"""Tables of samples and points, read. Shapes as in `occurrences.py`.

Whatever reads a table of places reads it here: files by `table_files`, coordinates by `places`, words for
presence by `presence`, filters of records by `record_filters`.
"""

import hashlib
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from glczoo.data.cache import kept_arrays
from glczoo.data.occurrences import Points, Samples, SpeciesIndex
from glczoo.data.places import blank, numbers
from glczoo.data.point_tables import read_points
from glczoo.data.presence import matrix_presences, presences
from glczoo.data.record_filters import filter_columns, keep_by_columns, keep_by_place
from glczoo.data.region import Region, Table
from glczoo.data.sample_columns import packed, sample_columns, survey_columns, unpacked
from glczoo.data.species_table import guard, read_species_table
from glczoo.data.table_files import open_table
from glczoo.data.table_rows import (
    DROP_HINT,
    Reading,
    Rows,
    column_or,
    datasets,
    integers,
    lines,
    patch_ids,
    read_rows,
    require,
    species_columns,
    stop,
    survey_key,
)
from glczoo.errors import GlczooError

__all__ = [
    "read_and_report",
    "read_folds",
    "read_points",
    "read_samples",
    "read_species",
]


def read_samples(region: Region, kind: Literal["po", "pa"], vocabulary: SpeciesIndex) -> Samples:
    """Read the PO or PA table.

    A row that stands there twice (same survey, same species) counts once in PA; every PO row is a record, as
    far as the region's filters use it. A large table is parsed once and then memory-mapped from the cache:
    its arrays are read-only.

    Raises:
        MissingError: the table is not there.
        GlczooError: a column is missing, coordinates are out of range or swapped, one survey has two places,
            a value is neither presence nor absence, or a species is unknown to the vocabulary. The message
            names the file and the first rows.
    """
    paths = _paths(region, kind)

    def read() -> dict[str, np.ndarray]:
        samples = _parse(region, kind, vocabulary, paths, None)
        arrays = {name: value for name, value in vars(samples).items() if isinstance(value, np.ndarray)}
        return arrays | packed(samples.columns) | {"dataset_names": np.array(samples.dataset_names, str)}

    species = hashlib.sha256(vocabulary.ids.tobytes() + "\n".join(vocabulary.names).encode()).hexdigest()
    filters = region.records.model_dump() if region.records else None
    key = [kind, region.table(kind).model_dump(), region.bounds, species, filters, region.sample_columns()]
    arrays = unpacked(kept_arrays(paths, key, read))
    names = tuple(arrays["dataset_names"].tolist())
    return Samples(**(arrays | {"dataset_names": names, "presence_only": kind == "po"}))


def read_and_report(
    region: Region, kind: Literal["po", "pa"], vocabulary: SpeciesIndex
) -> tuple[Samples, Reading]:
    """The samples that can be read, and what was left out: rows without a place do not stop the reading.

    Raises:
        MissingError: the table is not there.
        GlczooError: it cannot be read, as `read_samples`.
    """
    reading = Reading()
    return _parse(region, kind, vocabulary, _paths(region, kind), reading), reading


def _paths(region: Region, kind: Literal["po", "pa"]) -> list[Path]:
    """The table, and that of surveys without species where there is one."""
    table = region.table(kind)
    paths = [region.find(*table.file)]
    if kind == "pa" and table.without_species:
        beside = str(Path(table.file[0]).parent / table.without_species)
        paths.append(region.find(beside, table.without_species))
    return paths


def _parse(
    region: Region,
    kind: Literal["po", "pa"],
    vocabulary: SpeciesIndex,
    paths: list[Path],
    reading: Reading | None,
) -> Samples:
    parse = _parse_records if kind == "po" else _parse_surveys
    return parse(region, vocabulary, paths, reading)


def _parse_records(
    region: Region, vocabulary: SpeciesIndex, paths: list[Path], reading: Reading | None
) -> Samples:
    """A record for every presence of a species that the region's filters use."""
    table = region.table("po")
    filtered = filter_columns(region.records).values()
    rows = read_rows(region, table, paths[0], filtered, vocabulary, reading)
    left_out = reading.left_out if reading else {}
    found, classes = _presences(rows, "po", vocabulary, reading)
    left_out["that say that the species was not found"] = int(len(rows.frame) - len(np.unique(found)))
    rows = rows.at(found)
    nameless = classes == -1
    if nameless.any():
        where = f"{paths[0]}: {nameless.sum()} presence-only records name no species, the first: "
        if table.incomplete == "error":
            stop(where + lines(rows.frame.index[nameless]) + DROP_HINT, reading)
        left_out["without a species"] = int(nameless.sum())
        rows, classes = rows.at(~nameless), classes[~nameless]
    if region.records:
        keep, taken = keep_by_columns(rows.frame, region.records)
        left_out |= taken
        rows, classes = rows.at(keep), classes[keep]
        number = np.arange(len(classes))
        keep, taken = keep_by_place(Points(rows.lon, rows.lat, number, number), classes, region.records)
        left_out |= taken
        rows, classes = rows.at(keep), classes[keep]
    dataset, dataset_names = datasets(rows.frame)
    return Samples(
        rows.lon,
        rows.lat,
        patch_ids(rows.frame, table, paths[0]),
        np.arange(len(classes)),
        np.arange(len(classes) + 1),
        classes,
        presence_only=True,
        dataset=dataset,
        dataset_names=dataset_names,
        columns=sample_columns(rows.frame, *region.sample_columns(), paths[0]),
    )


def _parse_surveys(
    region: Region, vocabulary: SpeciesIndex, paths: list[Path], reading: Reading | None
) -> Samples:
    """The visits of a presence-absence table; a row of an absence stands for its survey alone."""
    table, path = region.table("pa"), paths[0]
    rows = read_rows(region, table, path, [], vocabulary, reading)
    row, classes = _presences(rows, "pa", vocabulary, reading)
    row, classes = row[classes >= 0], classes[classes >= 0]
    if len(paths) > 1:
        empty = read_rows(region, table, paths[1], [], None, reading)
        lon, lat = np.append(rows.lon, empty.lon), np.append(rows.lat, empty.lat)
        rows = Rows(path, table, pd.concat([rows.frame, empty.frame]), lon, lat)
    patch, lon, lat = patch_ids(rows.frame, table, path), rows.lon, rows.lat
    number, first = _number_surveys(rows.frame, table, patch, path)
    moved = (np.abs(lon - lon[first][number]) > 1e-6) | (np.abs(lat - lat[first][number]) > 1e-6)
    if moved.any():
        columns = ", ".join(table.survey or [table.patch, table.day])
        raise GlczooError(
            f"{path}: {len(np.unique(number[moved]))} surveys ({columns}) have more than one place, the "
            f"first at {lines(rows.frame.index[moved])}"
        )
    pairs = np.unique(np.stack([number[row], classes], axis=1), axis=0)
    dataset, dataset_names = datasets(rows.frame)
    return Samples(
        lon[first],
        lat[first],
        patch[first],
        np.arange(len(first)),
        np.concatenate([[0], np.cumsum(np.bincount(pairs[:, 0], minlength=len(first)))]),
        pairs[:, 1],
        dataset=dataset[first],
        dataset_names=dataset_names,
        columns=survey_columns(rows.frame, *region.sample_columns(), path, number, first),
    )


def _presences(
    rows: Rows, kind: Literal["po", "pa"], vocabulary: SpeciesIndex, reading: Reading | None
) -> tuple[np.ndarray, np.ndarray]:
    """Row and class, int64[n] each, of everything found; the class is -1 where a row names no species."""
    frame, table, where = rows.frame, rows.table, str(rows.path)
    key = f"tables.{kind}.presence"
    if table.layout == "wide":
        columns = species_columns(frame.columns, vocabulary)
        if not columns:
            raise GlczooError(
                f"{where}: no column is named like a species of the species table, as `layout: wide` asks; "
                f"the first are {list(vocabulary.names[:3])}"
            )
        row, column = np.nonzero(matrix_presences(frame[list(columns)], table.absence, where, key))
        return row, np.array(list(columns.values()), np.int64)[column]
    found = np.ones(len(frame), bool)
    for name, rule in table.presence.items():
        found &= presences(frame[name], rule, table.absence.get(name, ()), where, f"{key}.{name}")
    row = np.flatnonzero(found)
    species = frame[table.species].iloc[row]
    named = ~blank(species)
    classes = np.full(len(row), -1)
    if table.species_by == "name":
        classes[named] = vocabulary.classes_of_names(species[named], where)
        spellings, kinds = species[named].nunique(), len(np.unique(classes[named]))
        if reading is not None and spellings > kinds:
            reading.notes.append(
                f"{rows.path.name}: {spellings} spellings are {kinds} species, blanks and letter case aside"
            )
    else:
        classes[named] = vocabulary.classes(integers(species[named], rows.path), where)
    return row, classes


def _number_surveys(
    frame: pd.DataFrame, table: Table, patch: np.ndarray, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Number of the survey of every row, int64[n], and the first row of every survey, int64[N]."""
    if table.survey:
        columns = [survey_key(frame, name) for name in table.survey]
        key = [pd.factorize(column, use_na_sentinel=False)[0] for column in columns]
    elif len(frame) and (patch < 0).all():
        raise GlczooError(
            f"{path}: no row has a {table.patch}, which tells surveys apart; name the column that does: "
            "tables.pa.patch in region.yaml, or the columns: tables.pa.survey"
        )
    else:
        key = [patch, integers(column_or(frame, table.day, -1), path, missing=-1)]
    number, surveys = pd.factorize(pd.MultiIndex.from_arrays(key))
    first = np.full(len(surveys), len(frame))
    np.minimum.at(first, number, np.arange(len(frame)))
    return number, first


def read_species(region: Region) -> SpeciesIndex:
    """The region's vocabulary: its species table, or else every species of the PO and PA tables.

    Raises:
        MissingError: a table is not there.
        GlczooError: a species table is empty or names a species twice.
    """
    if region.species:
        return guard(read_species_table(region), region)
    each = []
    for kind in ("po", "pa"):
        if kind in region.tables:
            table = region.tables[kind]
            path = region.find(*table.file)
            key = ["species", table.model_dump()]
            each.append(kept_arrays([path], key, partial(_species_ids, path, table))["ids"])
    ids = np.unique(np.concatenate(each))
    if not len(ids):
        raise GlczooError(f"region {region.name}: its tables name no species")
    return guard(SpeciesIndex(ids), region)


def _species_ids(path: Path, table: Table) -> dict[str, np.ndarray]:
    file = open_table(path, table.separator, table.encoding)
    frame = file.read([table.species])
    require(frame, path, [table.species], file.names)
    column = frame[table.species]
    return {"ids": np.unique(integers(column[~blank(column)], path))}


def read_folds(region: Region, samples: Samples) -> tuple[np.ndarray, np.ndarray | None]:
    """Fold of every sample, int64[N], and its fixed rank in [0, 1), float64[N], where the table has one.

    Raises:
        GlczooError: the region describes no split, a sample is not in the split's table, or that holds other
            things than numbers.
    """
    split = region.split
    if split is None:
        raise GlczooError(f"region {region.name} describes no split from file; set data.split=random")
    path = region.find(split.file)
    columns = [split.patch, split.fold, *([split.rank] if split.rank else [])]
    file = open_table(path, split.separator)
    frame = file.read(columns)
    require(frame, path, columns, file.names)
    patch, fold = (integers(frame[name], path) for name in (split.patch, split.fold))
    patch, first = np.unique(patch, return_index=True)
    row = pd.Index(patch).get_indexer(pd.Index(samples.patch_id))
    if (row < 0).any():
        missing = samples.patch_id[row < 0]
        raise GlczooError(
            f"{path}: {len(missing)} surveys are not in the split, the first: {missing[:5].tolist()}"
        )
    place = first[row]
    if not split.rank:
        return fold[place], None
    rank, _ = numbers(frame[split.rank])
    if bad := np.flatnonzero(~np.isfinite(rank)).tolist():
        raise GlczooError(f"{path}: {split.rank} holds no number at {lines(frame.index[bad])}")
    return fold[place], rank[place]
