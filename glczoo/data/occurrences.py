"""Tables of occurrences become surveys: places, with the species known there.

Shapes: lon[N], lat[N], patch_id[N] · labels as CSR: offsets[N + 1], species[nnz] · targets[B, K].

A *survey* is one (patchID, dayOfYear): grouping by patchID alone would merge repeat visits. A presence-only
record is a survey with one known species. Long because it is the door of pandas (beside `columns`, which
only guesses): whatever reads a table of records checks it the same way.
"""

import csv
import difflib
import hashlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from glczoo.data.cache import kept_arrays
from glczoo.data.region import Region, Table

__all__ = [
    "Points",
    "SpeciesIndex",
    "Surveys",
    "read_columns",
    "read_folds",
    "read_points",
    "read_species",
    "read_surveys",
    "read_test_surveys",
    "table_writer",
    "write_csv",
]


@dataclass(frozen=True)
class SpeciesIndex:
    """The vocabulary: class k stands for species `ids[k]`.

    speciesIds are sorted, distinct and may have gaps (GeoLifeCLEF 2023 counts from 1 to more than the number
    of species): a class is never `id - 1`.
    """

    ids: np.ndarray  # int64[K]
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def classes(self, species_ids: np.ndarray, where: str) -> np.ndarray:
        """Class of every speciesId, int64[n].

        Raises:
            ValueError: an id is not in the vocabulary; the message counts and names them.
        """
        position = np.searchsorted(self.ids, species_ids).clip(max=len(self.ids) - 1)
        unknown = self.ids[position] != species_ids
        if unknown.any():
            first = np.unique(species_ids[unknown])
            raise ValueError(
                f"{where}: {len(first)} species of {unknown.sum()} rows are not in the vocabulary of "
                f"{len(self.ids)} species, the first: {first[:5].tolist()}"
            )
        return position

    def classes_of_names(self, names: pd.Series, where: str) -> np.ndarray:
        """Class of every species' name, int64[n]; blanks around a name are ignored.

        Raises:
            ValueError: two species bear one name, or a name is not in the vocabulary.
        """
        codes, distinct = pd.factorize(names.astype(str).str.strip())
        known = pd.Index(self.names)
        if not known.is_unique:
            twice = known[known.duplicated()].unique()[:5].tolist()
            raise ValueError(
                f"{where}: names cannot be told apart, two species of the vocabulary are {twice}"
            )
        position = known.get_indexer(pd.Index(distinct))
        if (position < 0).any():
            unknown, rows = distinct[position < 0], (position[codes] < 0).sum()
            raise ValueError(
                f"{where}: {len(unknown)} species of {rows} rows are not in the species table of {len(self)} "
                f"names, the first: {unknown[:5].tolist()}; add them to it, each with an id of its own"
            )
        return position[codes]

    def find(self, asked: Sequence[str]) -> np.ndarray:
        """Classes of speciesIds or names (letter case ignored), each once, int64[n].

        Raises:
            ValueError: one is unknown; the message lists the names nearest to it.
        """
        by_name = {name.lower(): k for k, name in enumerate(self.names)}
        known = by_name | {str(i): k for k, i in enumerate(self.ids.tolist())}
        unknown = [name for name in asked if name.lower() not in known]
        if unknown:
            near = difflib.get_close_matches(unknown[0].lower(), known, n=5)
            told = [self.label(known[name]) for name in near] or [
                self.label(k) for k in range(3)[: len(self)]
            ]
            raise ValueError(
                f"--species {' '.join(unknown)}: the model answers with no such speciesId or name; it knows "
                f"{len(self)}, {'near' if near else 'the first'}: {', '.join(dict.fromkeys(told))}"
            )
        return np.array(list(dict.fromkeys(known[name.lower()] for name in asked)), np.int64)

    def label(self, k: int) -> str:
        """A class for people: its speciesId and, where it has one, its name."""
        return f"{self.ids[k]} {self.names[k]}" if self.names else str(self.ids[k])

    def save(self, path: Path) -> None:
        """Write `species.csv`: class;speciesId;name."""
        names = self.names or [""] * len(self)
        table = pd.DataFrame({"class": np.arange(len(self)), "speciesId": self.ids, "name": names})
        table.to_csv(path, sep=";", index=False)

    @classmethod
    def load(cls, path: Path) -> "SpeciesIndex":
        """Read what `save` wrote.

        Raises:
            ValueError: the file is not a vocabulary in class order.
        """
        table = pd.read_csv(path, sep=";", keep_default_na=False)
        if not {"class", "speciesId", "name"} <= set(table):
            raise ValueError(f"{path} is no vocabulary: it has the columns {list(table)}")
        ids = table["speciesId"].to_numpy(np.int64)
        if (np.diff(ids) <= 0).any() or (table["class"] != np.arange(len(ids))).any():
            raise ValueError(f"{path} is no vocabulary: speciesIds must ascend and classes count from 0")
        names = table["name"].astype(str)
        return cls(ids, tuple(names) if names.any() else ())


@dataclass(frozen=True)
class Points:
    """Places to predict at: lon[N], lat[N] in degrees, patch_id[N] (-1 where none) and the rows' ids."""

    lon: np.ndarray  # float64[N]
    lat: np.ndarray  # float64[N]
    patch_id: np.ndarray  # int64[N]
    ids: np.ndarray  # int64[N]: row ids of a table, surveys: their number
    dataset: np.ndarray | None = field(default=None, kw_only=True)  # str[N]: where a table names them

    def __len__(self) -> int:
        return len(self.lon)

    def named(self, i: int) -> str:
        """One point, for a message."""
        return f"patchID {self.patch_id[i]} at lon {self.lon[i]:.5f}, lat {self.lat[i]:.5f}"

    def at(self, index: np.ndarray) -> "Points":
        """The points at `index` (positions or a mask)."""
        dataset = None if self.sources is None else self.sources[index]
        place = self.lon[index], self.lat[index], self.patch_id[index], self.ids[index]
        return Points(*place, dataset=dataset)

    @property
    def sources(self) -> np.ndarray | None:
        """The data set that each point comes from, str[N]; None where that is not told."""
        return self.dataset


@dataclass(frozen=True)
class Surveys(Points):
    """Surveys and their species in CSR form: survey i holds classes `species[offsets[i]:offsets[i + 1]]`."""

    offsets: np.ndarray  # int64[N + 1]
    species: np.ndarray  # int64[nnz], classes
    source: np.ndarray  # int64[N]: position in source_names
    source_names: tuple[str, ...] = ()
    presence_only: bool = False
    weight: np.ndarray | None = None  # float32[N]: of each survey in the loss; None: all one
    records: np.ndarray | None = None  # bool[N]: which are presence-only, in a mixture; None: all or none

    @property
    def sources(self) -> np.ndarray | None:
        """The data set that each survey comes from, str[N]; None where that is not told."""
        return np.array(self.source_names, str)[self.source] if self.source_names else None

    def presence_only_rows(self) -> np.ndarray:
        """Which surveys are presence-only records, bool[N]."""
        return np.full(len(self), self.presence_only) if self.records is None else self.records

    def sizes(self) -> np.ndarray:
        """Species of each survey, int64[N]."""
        return np.diff(self.offsets)

    def subset(self, index: np.ndarray) -> "Surveys":
        """The surveys at `index` (positions or a mask), in that order."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        sizes = self.sizes()[index]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        flat = np.repeat(self.offsets[:-1][index] - offsets[:-1], sizes) + np.arange(offsets[-1])
        return replace(
            self,
            lon=self.lon[index],
            lat=self.lat[index],
            patch_id=self.patch_id[index],
            ids=self.ids[index],
            offsets=offsets,
            species=self.species[flat],
            source=self.source[index],
            weight=None if self.weight is None else self.weight[index],
            records=None if self.records is None else self.records[index],
        )

    def merged(self, group: np.ndarray) -> "Surveys":
        """One survey for each group[N], at its first survey's place, with every record of its species."""
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[order], prepend=group.min(initial=0) - 1))
        records = self.subset(order)
        offsets = records.offsets[np.append(starts, len(order))]
        return replace(self.subset(order[starts]), offsets=offsets, species=records.species)

    def targets(
        self, index: torch.Tensor, num_classes: int, device: torch.device | str | None = None
    ) -> torch.Tensor:
        """Dense labels of a batch: how many records of each species a survey holds (0 or 1 unless merged).

        Args:
            index: int64[B].
            num_classes: K.
            device: where the labels are made; that of `index` if None.

        Returns:
            float32[B, K].
        """
        device, rows = device or index.device, index.cpu().numpy()
        sizes = torch.from_numpy(self.sizes()[rows])
        classes = np.concatenate([self.species[self.offsets[i] : self.offsets[i + 1]] for i in rows])
        targets = torch.zeros(len(rows), num_classes, device=device)
        where = tuple(
            part.to(device, non_blocking=True)  # else a GPU would have to finish its step first
            for part in (torch.repeat_interleave(sizes), torch.from_numpy(classes))
        )
        return targets.index_put_(where, torch.ones((), device=device), accumulate=True)

    @classmethod
    def concatenate(cls, parts: Sequence["Surveys"]) -> "Surveys":
        """All surveys of several tables, in order."""
        starts = np.cumsum([0] + [len(part.species) for part in parts])
        offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts, strict=False)]
        names = tuple(dict.fromkeys(name for part in parts for name in part.source_names))
        sources = [np.array([names.index(n) for n in part.source_names], int)[part.source] for part in parts]
        weights: list[Any] = [part.weight for part in parts]
        return cls(
            lon=np.concatenate([part.lon for part in parts]),
            lat=np.concatenate([part.lat for part in parts]),
            patch_id=np.concatenate([part.patch_id for part in parts]),
            ids=np.concatenate([part.ids for part in parts]),
            offsets=np.concatenate([*offsets, starts[-1:]]),
            species=np.concatenate([part.species for part in parts]),
            source=np.concatenate(sources),
            source_names=names,
            presence_only=all(part.presence_only for part in parts),
            records=np.concatenate([part.presence_only_rows() for part in parts]),
            weight=None if any(weight is None for weight in weights) else np.concatenate(weights),
        )


def read_surveys(region: Region, kind: Literal["po", "pa"], vocabulary: SpeciesIndex) -> Surveys:
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
        parsed = vars(_parse_surveys(region, kind, vocabulary, path, empty_path))
        surveys = {name: value for name, value in parsed.items() if value is not None}
        return surveys | {"source_names": np.array(surveys["source_names"], str)}

    species = hashlib.sha256(vocabulary.ids.tobytes() + "\n".join(vocabulary.names).encode()).hexdigest()
    asked = [kind, described.model_dump(), region.bounds, species]
    arrays = kept_arrays([path, empty_path] if empty_path else [path], asked, read)
    names = tuple(arrays["source_names"].tolist())
    return Surveys(**(arrays | {"source_names": names, "presence_only": kind == "po"}))


def _parse_surveys(
    region: Region,
    kind: Literal["po", "pa"],
    vocabulary: SpeciesIndex,
    path: Path,
    empty_path: Path | None,
) -> Surveys:
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
        return Surveys(
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
    return Surveys(
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


def read_test_surveys(region: Region, truth: Path, vocabulary: SpeciesIndex) -> Surveys:
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
    return Surveys(
        points.lon, points.lat, points.patch_id, points.ids, offsets, pairs[:, 1], source, tuple(names)
    )


def write_csv(path: Path, columns: Mapping[str, Sequence | np.ndarray]) -> None:
    """Write a comma-separated table, beside first and then renamed: never half a file."""
    beside = path.with_name(f".{path.name}")
    pd.DataFrame(columns).to_csv(beside, index=False, float_format="%.6g")
    os.replace(beside, path)


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
        beside = path.with_name(f".{path.name}")
        pd.DataFrame(columns).to_parquet(beside, engine="pyarrow", index=False)
        os.replace(beside, path)

    return write


def read_folds(region: Region, surveys: Surveys) -> tuple[np.ndarray, np.ndarray | None]:
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
