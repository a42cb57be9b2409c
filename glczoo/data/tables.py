"""Tables of occurrences, read and written. Shapes as in `occurrences.py`.

Long because whatever reads a table of records checks it the same way, with the same words.
"""

import csv
import hashlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

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

    A row that stands there twice (same survey, same species) counts once in PA; every PO row is its own
    survey, since each is a record.

    A large table is parsed once and then memory-mapped from the cache: its arrays are read-only.

    Raises:
        FileNotFoundError: the table is not there.
        ValueError: a column is missing, coordinates are out of range or swapped, one survey has two places,
            or a species is unknown to the vocabulary. The message names the file and the first rows.
    """
    described = region.table(kind)
    path, empty_path = region.find(*described.file), None
    if kind == "pa" and described.without_species:
        empty_path = region.find(
            str(Path(described.file[0]).parent / described.without_species), described.without_species
        )

    def read() -> dict[str, Any]:
        parsed = vars(_parse_samples(region, kind, vocabulary, path, empty_path))
        surveys = {name: value for name, value in parsed.items() if value is not None}
        return surveys | {"source_names": np.array(surveys["source_names"], str)}

    species = hashlib.sha256(vocabulary.ids.tobytes() + "\n".join(vocabulary.names).encode()).hexdigest()
    asked = [kind, described.model_dump(), region.bounds, species]
    arrays = kept_arrays([path, empty_path] if empty_path else [path], asked, read)
    names = tuple(arrays["source_names"].tolist())
    return Samples(**(arrays | {"source_names": names, "presence_only": kind == "po"}))


def _parse_samples(
    region: Region,
    kind: Literal["po", "pa"],
    vocabulary: SpeciesIndex,
    path: Path,
    empty_path: Path | None,
) -> Samples:
    described, drop = region.table(kind), region.table(kind).incomplete == "drop"
    keys = (described.survey or []) if kind == "pa" else []
    needed = [described.species, *described.presence, *keys]
    wanted = [described.day, described.patch, "datasetName"]
    table = _read(path, described, region, needed, wanted, drop)
    absent = _absent(table, described.presence)
    if kind == "pa":
        table[described.species] = table[described.species].mask(absent)
    else:
        table = table[~(absent | (drop & table[described.species].isna().to_numpy()))]
    if empty_path is not None:
        empty = _read(empty_path, described, region, keys, wanted, drop)
        table = pd.concat([table, empty], ignore_index=True)
    known = table[described.species].notna().to_numpy()
    classes = np.full(len(table), -1)
    named = table[described.species][known]
    if described.species_by == "name":
        classes[known] = vocabulary.classes_of_names(named, str(path))
    else:
        classes[known] = vocabulary.classes(_integers(named, path), str(path))
    patch = _patch_ids(table, described, path)
    names, source = np.unique(_column(table, "datasetName", "").fillna("").astype(str), return_inverse=True)
    lon, lat = table[described.lon].to_numpy(), table[described.lat].to_numpy()
    if kind == "po":
        if not known.all():
            raise ValueError(
                f"{path}: {(~known).sum()} presence-only rows name no species, the first: "
                f"{_rows(table.index[~known])}; `incomplete: drop` in region.yaml leaves them out"
            )
        number = np.arange(len(table))
        return Samples(
            lon,
            lat,
            patch,
            number,
            np.arange(len(table) + 1),
            classes,
            source,
            tuple(names),
            presence_only=True,
        )

    if described.survey:
        key = [pd.factorize(table[column], use_na_sentinel=False)[0] for column in keys]
    elif len(table) and (patch < 0).all():
        raise ValueError(
            f"{path}: no row has a {described.patch}, which tells surveys apart; name the column that does: "
            "tables.pa.patch in region.yaml, or the columns: tables.pa.survey"
        )
    else:
        key = [patch, _integers(_column(table, described.day, -1), path, missing=-1)]
    number, first = pd.factorize(pd.MultiIndex.from_arrays(key))
    first_row = pd.Series(np.arange(len(table))).groupby(number).first().to_numpy()
    moved = (np.abs(lon - lon[first_row][number]) > 1e-6) | (np.abs(lat - lat[first_row][number]) > 1e-6)
    if moved.any():
        columns = ", ".join(described.survey or [described.patch, described.day])
        raise ValueError(
            f"{path}: {len(np.unique(number[moved]))} surveys ({columns}) have more than one place, the "
            f"first at {_rows(table.index[moved])}"
        )
    pairs = np.unique(np.stack([number, classes], axis=1)[classes >= 0], axis=0)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(pairs[:, 0], minlength=len(first)))])
    return Samples(
        lon[first_row],
        lat[first_row],
        patch[first_row],
        np.arange(len(first)),
        offsets,
        pairs[:, 1],
        source[first_row],
        tuple(names),
    )


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
    lon, lat = table[described.lon].to_numpy(), table[described.lat].to_numpy()
    dataset = _column(table, "datasetName", "").astype(object).fillna("").to_numpy(str)
    patch = _patch_ids(table, described, path)
    return Points(lon, lat, patch, numbers, dataset=dataset if "datasetName" in table else None)


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
    found = []
    for kind in ("po", "pa"):
        if kind in region.tables:
            described = region.tables[kind]
            path = region.find(*described.file)
            asked = ["species", described.model_dump()]
            found.append(kept_arrays([path], asked, partial(_species_ids, path, described))["ids"])
    return SpeciesIndex(np.unique(np.concatenate(found)))


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
    dataset = np.full(len(points), "test") if points.dataset is None else points.dataset
    names, source = np.unique(dataset, return_inverse=True)
    return Samples(
        points.lon, points.lat, points.patch_id, points.ids, offsets, pairs[:, 1], source, tuple(names)
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


def read_folds(region: Region, surveys: Samples) -> tuple[np.ndarray, np.ndarray | None]:
    """Fold of every survey, int64[N], and its fixed rank in [0, 1), float64[N], where the table has one.

    Raises:
        ValueError: the region describes no split, or a survey is not in the split's table.
    """
    if region.split is None:
        raise ValueError(f"region {region.name} describes no split from file; say data.split=random")
    path = region.find(region.split.file)
    table = pd.read_csv(path, sep=region.split.separator)
    _require(table, path, [region.split.patch, region.split.fold, *filter(None, [region.split.rank])])
    table = table.drop_duplicates(region.split.patch).set_index(region.split.patch)
    row = table.index.get_indexer(pd.Index(surveys.patch_id))
    if (row < 0).any():
        missing = surveys.patch_id[row < 0]
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
            f"{described.lat} in [-90, 90] (degrees), the first at {_rows(table.index[bad])}"
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
            f"{_rows(column.index[bad])}"
        )
    return numbers.astype(np.int64)


def _patch_ids(table: pd.DataFrame, described: Table, path: Path) -> np.ndarray:
    return _integers(_column(table, described.patch, -1), path, missing=-1)


def _rows(index: pd.Index) -> str:
    """Line numbers in the file of the first of these rows, which are counted from 0."""
    return f"line(s) {(index[:3] + 2).tolist()}"
