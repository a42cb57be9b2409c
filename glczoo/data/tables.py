"""Tables of occurrences, read and written. Shapes as in `occurrences.py`."""

import csv
import hashlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from glczoo.data.cache import kept_arrays
from glczoo.data.occurrences import Points, Samples, SpeciesIndex
from glczoo.data.region import Region, Table
from glczoo.files import whole

__all__ = [
    "read_columns",
    "read_folds",
    "read_points",
    "read_species",
    "read_samples",
    "read_test_samples",
    "table_writer",
    "write_csv",
]


def read_samples(region: Region, kind: Literal["po", "pa"], vocabulary: SpeciesIndex) -> Samples:
    """Read the PO or PA table.

    A row that stands there twice (same survey, same species) counts once in PA; every PO row is a record.
    A large table is parsed once and then memory-mapped from the cache: its arrays are read-only.

    Raises:
        FileNotFoundError: the table is not there.
        ValueError: a column is missing, coordinates are out of range or swapped, one survey has two places,
            or a species is unknown to the vocabulary. The message names the file and the first rows.
    """
    table = region.table(kind)
    path, empty_path = region.find(*table.file), None
    if kind == "pa" and table.without_species:
        beside = str(Path(table.file[0]).parent / table.without_species)
        empty_path = region.find(beside, table.without_species)

    def read() -> dict[str, np.ndarray]:
        samples = (
            _parse_records(region, vocabulary, path)
            if kind == "po"
            else _parse_surveys(region, vocabulary, path, empty_path)
        )
        arrays = {name: value for name, value in vars(samples).items() if isinstance(value, np.ndarray)}
        return arrays | {"dataset_names": np.array(samples.dataset_names, str)}

    species = hashlib.sha256(vocabulary.ids.tobytes() + "\n".join(vocabulary.names).encode()).hexdigest()
    key = [kind, table.model_dump(), region.bounds, species]
    arrays = kept_arrays([path, empty_path] if empty_path else [path], key, read)
    names = tuple(arrays["dataset_names"].tolist())
    return Samples(**(arrays | {"dataset_names": names, "presence_only": kind == "po"}))


def _parse_records(region: Region, vocabulary: SpeciesIndex, path: Path) -> Samples:
    """Every row of a presence-only table that does not say that its species was absent."""
    table = region.table("po")
    drop = table.incomplete == "drop"
    rows = _read(path, table, region, [table.species, *table.presence], [table.patch, "datasetName"], drop)
    rows = rows[~(_absent(rows, table.presence) | (drop & rows[table.species].isna().to_numpy()))]
    nameless = rows[table.species].isna().to_numpy()
    if nameless.any():
        raise ValueError(
            f"{path}: {nameless.sum()} presence-only rows name no species, the first: "
            f"{_lines(rows.index[nameless])}; `incomplete: drop` in region.yaml leaves them out"
        )
    dataset, dataset_names = _datasets(rows)
    return Samples(
        rows[table.lon].to_numpy(),
        rows[table.lat].to_numpy(),
        _patch_ids(rows, table, path),
        np.arange(len(rows)),
        np.arange(len(rows) + 1),
        _classes(rows[table.species], table, vocabulary, path),
        presence_only=True,
        dataset=dataset,
        dataset_names=dataset_names,
    )


def _parse_surveys(region: Region, vocabulary: SpeciesIndex, path: Path, empty_path: Path | None) -> Samples:
    """The visits of a presence-absence table; a row of an absence stands for its survey alone."""
    table = region.table("pa")
    drop, keys = table.incomplete == "drop", table.survey or []
    optional = [table.day, table.patch, "datasetName"]
    rows = _read(path, table, region, [table.species, *table.presence, *keys], optional, drop)
    rows[table.species] = rows[table.species].mask(_absent(rows, table.presence))
    if empty_path is not None:
        empty = _read(empty_path, table, region, keys, optional, drop)
        rows = pd.concat([rows, empty], ignore_index=True)
    known = rows[table.species].notna().to_numpy()
    classes = np.full(len(rows), -1)
    classes[known] = _classes(rows[table.species][known], table, vocabulary, path)
    patch = _patch_ids(rows, table, path)
    lon, lat = rows[table.lon].to_numpy(), rows[table.lat].to_numpy()
    number, first_row = _number_surveys(rows, table, patch, path)
    moved = (np.abs(lon - lon[first_row][number]) > 1e-6) | (np.abs(lat - lat[first_row][number]) > 1e-6)
    if moved.any():
        columns = ", ".join(table.survey or [table.patch, table.day])
        raise ValueError(
            f"{path}: {len(np.unique(number[moved]))} surveys ({columns}) have more than one place, the "
            f"first at {_lines(rows.index[moved])}"
        )
    pairs = np.unique(np.stack([number, classes], axis=1)[classes >= 0], axis=0)
    dataset, dataset_names = _datasets(rows)
    return Samples(
        lon[first_row],
        lat[first_row],
        patch[first_row],
        np.arange(len(first_row)),
        np.concatenate([[0], np.cumsum(np.bincount(pairs[:, 0], minlength=len(first_row)))]),
        pairs[:, 1],
        dataset=dataset[first_row],
        dataset_names=dataset_names,
    )


def _number_surveys(
    rows: pd.DataFrame, table: Table, patch: np.ndarray, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Number of the survey of every row, int64[rows], and the first row of every survey, int64[N]."""
    if table.survey:
        key = [pd.factorize(rows[column], use_na_sentinel=False)[0] for column in table.survey]
    elif len(rows) and (patch < 0).all():
        raise ValueError(
            f"{path}: no row has a {table.patch}, which tells surveys apart; name the column that does: "
            "tables.pa.patch in region.yaml, or the columns: tables.pa.survey"
        )
    else:
        key = [patch, _integers(_column(rows, table.day, -1), path, missing=-1)]
    number, surveys = pd.factorize(pd.MultiIndex.from_arrays(key))
    first_row = np.full(len(surveys), len(rows))
    np.minimum.at(first_row, number, np.arange(len(rows)))
    return number, first_row


def _classes(species: pd.Series, table: Table, vocabulary: SpeciesIndex, path: Path) -> np.ndarray:
    """Class of every value of the species column, int64[n]."""
    if table.species_by == "name":
        return vocabulary.classes_of_names(species, str(path))
    return vocabulary.classes(_integers(species, path), str(path))


def _datasets(rows: pd.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
    """Position, int64[n], and names of the data sets of the rows; "" where a row names none."""
    text = _column(rows, "datasetName", "").astype(object).fillna("").astype(str)
    names, position = np.unique(text, return_inverse=True)
    return position, tuple(names.tolist())


def read_points(region: Region | None, path: Path, described: Table | None = None) -> Points:
    """Read places to predict at: a region's test table or anyone's CSV with lon and lat columns.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no lon or lat column, or coordinates out of range.
    """
    if described is None:
        with open(path, encoding="utf-8", errors="replace") as file:  # `read_columns` says what is wrong
            described = Table(file=[str(path)], separator=";" if ";" in file.readline() else ",")
    table = _read(path, described, region, [], [described.id, described.patch, "datasetName"])
    ids = _column(table, described.id, np.nan)
    numbers = np.arange(len(table)) if ids.isna().any() else _integers(ids, path)
    dataset, dataset_names = _datasets(table) if "datasetName" in table else (None, ())
    return Points(
        table[described.lon].to_numpy(),
        table[described.lat].to_numpy(),
        _patch_ids(table, described, path),
        numbers,
        dataset=dataset,
        dataset_names=dataset_names,
    )


def read_species(region: Region) -> SpeciesIndex:
    """The region's vocabulary: its species table, or else every species of the PO and PA tables.

    Raises:
        FileNotFoundError: a table is not there.
        ValueError: a species table names a species twice.
    """
    if region.species:
        path = region.find(region.species.file)
        table = pd.read_csv(path, sep=region.species.separator)
        _require(table, path, [region.species.id, *filter(None, [region.species.name])])
        table = table.sort_values(region.species.id)
        ids = _integers(table[region.species.id], path)
        if (np.diff(ids) == 0).any():
            raise ValueError(f"{path}: species {ids[1:][np.diff(ids) == 0][:5].tolist()} stand there twice")
        return SpeciesIndex(ids, tuple(table[region.species.name].astype(str)) if region.species.name else ())
    each = []
    for kind in ("po", "pa"):
        if kind in region.tables:
            described = region.tables[kind]
            path = region.find(*described.file)
            key = ["species", described.model_dump()]
            each.append(kept_arrays([path], key, partial(_species_ids, path, described))["ids"])
    return SpeciesIndex(np.unique(np.concatenate(each)))


def _species_ids(path: Path, described: Table) -> dict[str, np.ndarray]:
    column = read_columns(path, described.separator, [described.species])
    _require(column, path, [described.species])
    return {"ids": np.unique(_integers(column[described.species].dropna(), path))}


def read_test_samples(region: Region, truth: Path, vocabulary: SpeciesIndex) -> Samples:
    """The region's test table with its true species, read from a table Id;speciesId.

    Raises:
        FileNotFoundError: a table is not there.
        ValueError: a column is missing, or an Id is not in the test table.
    """
    described = region.table("test")
    points = read_points(region, region.find(*described.file), described)
    table = pd.read_csv(truth, sep=described.separator)
    _require(table, truth, [described.id, described.species])
    row = pd.Index(points.ids).get_indexer(pd.Index(table[described.id]))
    if (row < 0).any():
        raise ValueError(f"{truth}: {(row < 0).sum()} rows have an Id that is not in the test table")
    classes = vocabulary.classes(_integers(table[described.species], truth), str(truth))
    pairs = np.unique(np.stack([row, classes], axis=1), axis=0)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(pairs[:, 0], minlength=len(points)))])
    named = points.dataset is not None
    return Samples(
        points.lon,
        points.lat,
        points.patch_id,
        points.ids,
        offsets,
        pairs[:, 1],
        dataset=points.dataset if named else np.zeros(len(points), int),
        dataset_names=points.dataset_names if named else ("test",),
    )


def write_csv(path: Path, columns: Mapping[str, Sequence | np.ndarray]) -> None:
    """Write a comma-separated table: all of it, or none."""
    with whole(path) as partial:
        pd.DataFrame(columns).to_csv(partial, index=False, float_format="%.6g")


def table_writer(path: Path) -> Callable[[Mapping[str, Sequence | np.ndarray]], None]:
    """What writes a table to `path`, as its name says: .parquet, else CSV. Ask before the work is done.

    Raises:
        ValueError: the name ends in .parquet and pyarrow is not installed.
    """
    if path.suffix.lower() != ".parquet":
        return partial(write_csv, path)
    if importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"{path}: Parquet needs pyarrow (pip install 'glczoo[parquet]'); or name a .csv")

    def write(columns: Mapping[str, Sequence | np.ndarray]) -> None:
        with whole(path) as partial:
            pd.DataFrame(columns).to_parquet(partial, engine="pyarrow", index=False)

    return write


def read_folds(region: Region, samples: Samples) -> tuple[np.ndarray, np.ndarray | None]:
    """Fold of every sample, int64[N], and its fixed rank in [0, 1), float64[N], where the table has one.

    Raises:
        ValueError: the region describes no split, or a survey is not in the split's table.
    """
    if region.split is None:
        raise ValueError(f"region {region.name} describes no split from file; set data.split=random")
    path = region.find(region.split.file)
    table = pd.read_csv(path, sep=region.split.separator)
    _require(table, path, [region.split.patch, region.split.fold, *filter(None, [region.split.rank])])
    table = table.drop_duplicates(region.split.patch).set_index(region.split.patch)
    row = table.index.get_indexer(pd.Index(samples.patch_id))
    if (row < 0).any():
        missing = samples.patch_id[row < 0]
        raise ValueError(
            f"{path}: {len(missing)} surveys are not in the split, the first: {missing[:5].tolist()}"
        )
    rank = table[region.split.rank].to_numpy(float)[row] if region.split.rank else None
    return table[region.split.fold].to_numpy(np.int64)[row], rank


def _read(
    path: Path,
    described: Table,
    region: Region | None,
    needed: list[str],
    wanted: list[str],
    drop: bool = False,
) -> pd.DataFrame:
    """The named columns of a CSV, names matched without letter case, coordinates checked.

    `drop` leaves out rows without coordinates; the others keep the number of their row as label.
    """
    needed = [described.lon, described.lat, *needed]
    table = read_columns(path, described.separator, [*needed, *wanted])
    _require(table, path, needed)
    if drop:
        table = table.dropna(subset=[described.lon, described.lat])
    lon, lat = (
        pd.to_numeric(table[c], errors="coerce").to_numpy(float) for c in (described.lon, described.lat)
    )
    bad = ~((np.abs(lon) <= 180) & (np.abs(lat) <= 90))
    west, south, east, north = (region.bounds if region is not None else None) or (-180, -90, 180, 90)
    inside = (lon >= west) & (lon <= east) & (lat >= south) & (lat <= north)
    swapped = (lat >= west) & (lat <= east) & (lon >= south) & (lon <= north) & ~inside
    if region is not None and region.bounds and swapped.sum() > 0.5 * len(table) > 0:
        raise ValueError(
            f"{path}: {swapped.sum()} of {len(table)} rows lie in the region only with {described.lon} and "
            f"{described.lat} exchanged: are the columns swapped?"
        )
    if bad.any():
        raise ValueError(
            f"{path}: {bad.sum()} of {len(table)} rows have no {described.lon} in [-180, 180] or no "
            f"{described.lat} in [-90, 90] (degrees), the first at {_lines(table.index[bad])}"
        )
    table[described.lon], table[described.lat] = lon, lat
    return table


def read_columns(path: Path, separator: str, names: Sequence[str]) -> pd.DataFrame:
    """Those of the named columns that a CSV has, letter case ignored. Only they are parsed.

    Raises:
        ValueError: the file is no such table.
    """
    canonical = {name.lower(): name for name in names}

    def wanted(name: str) -> bool:
        return name.lower() in canonical

    try:
        with open(path, encoding="utf-8-sig") as file:
            # GBIF's tables quote nothing and hold lone quotation marks; others, as R's, quote the header.
            plain = separator == "\t" and '"' not in file.readline()
        with warnings.catch_warnings():  # a column of several types: `_integers` and `_read` say it better
            warnings.simplefilter("ignore", pd.errors.DtypeWarning)
            table = pd.read_csv(
                path, sep=separator, usecols=wanted, dtype={"datasetName": "category"},
                quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL,
            )  # fmt: skip
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} cannot be read as a table: {error}") from None
    return table.rename(columns=lambda name: canonical[name.lower()])


def _absent(table: pd.DataFrame, presence: Mapping[str, list[str | int]]) -> np.ndarray:
    """Rows, bool[n], that say in one of these columns that the species was not found."""
    absent = np.zeros(len(table), bool)
    for column, values in presence.items():
        codes, distinct = pd.factorize(table[column], use_na_sentinel=False)
        absent |= ~np.isin([_word(value) for value in distinct], [_word(value) for value in values])[codes]
    return absent


def _word(value: object) -> str:
    """A value of a table as the file had it, in small letters: pandas makes 1.0 of 1 beside empty cells."""
    whole = isinstance(value, float) and value.is_integer()
    return f"{value:.0f}" if whole else str(value).strip().lower()


def _require(table: pd.DataFrame, path: Path, columns: list[str]) -> None:
    present = {name.lower() for name in table.columns}
    missing = [column for column in columns if column.lower() not in present]
    if missing:
        raise ValueError(
            f"{path}: column {missing} is missing; of those looked for, the file has {list(table.columns)} "
            "(is the separator right?)"
        )


def _column(table: pd.DataFrame, name: str, default: object) -> pd.Series:
    return table[name] if name in table else pd.Series([default] * len(table))


def _integers(column: pd.Series, path: Path, missing: int | None = None) -> np.ndarray:
    """int64 of a column that pandas may have read as floats (`9343.0`); empty cells become `missing`."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(float)
    if missing is not None:
        numbers = np.where(column.isna(), missing, numbers)
    bad = ~np.isfinite(numbers) | (numbers != np.round(numbers))
    if bad.any():
        raise ValueError(
            f"{path}: {bad.sum()} values of {column.name} are not whole numbers, the first at "
            f"{_lines(column.index[bad])}"
        )
    return numbers.astype(np.int64)


def _patch_ids(table: pd.DataFrame, described: Table, path: Path) -> np.ndarray:
    return _integers(_column(table, described.patch, -1), path, missing=-1)


def _lines(index: pd.Index) -> str:
    """Line numbers in the file of the first of these rows, which are counted from 0."""
    return f"line(s) {(index[:3] + 2).tolist()}"
