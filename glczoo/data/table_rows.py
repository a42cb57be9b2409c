"""Rows of a table of places or samples: the columns that are asked for, with degrees, checked at the door."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from glczoo.data.occurrences import SpeciesIndex, name_key
from glczoo.data.places import Places, blank, numbers, place_rows, within
from glczoo.data.region import Region, Table
from glczoo.data.table_files import open_table
from glczoo.errors import GlczooError

__all__ = [
    "DATASET",
    "DROP_HINT",
    "LARGEST_ID",
    "Reading",
    "Rows",
    "column_or",
    "datasets",
    "integers",
    "lines",
    "patch_ids",
    "placed",
    "read_rows",
    "require",
    "species_columns",
    "stop",
    "survey_key",
    "unplaced_text",
]

DATASET = "datasetName"
"""The column of a sample's source: Darwin Core's and GeoLifeCLEF's."""
DAY_OF = "day of "  # before a column of tables.pa.survey: without its time of day
LARGEST_ID = 2**53
"""Above it not every whole number is a float64, which pandas makes of ids beside blanks."""
DROP_HINT = "; `incomplete: drop` in region.yaml leaves them out, `glczoo region check` counts them"
"""How to leave out rows without a place, for the end of a message."""


@dataclass
class Reading:
    """What was left out of a table, and how it was understood where that is not plain."""

    left_out: dict[str, int] = field(default_factory=dict)  # reason → rows, in the order of leaving out
    stops: list[str] = field(default_factory=list)  # what would stop a training run, and the way out
    notes: list[str] = field(default_factory=list)


@dataclass
class Rows:
    """Rows of a table of samples, with places: those without were left out."""

    path: Path
    table: Table
    frame: pd.DataFrame  # labelled by line
    lon: np.ndarray
    lat: np.ndarray

    def at(self, keep: np.ndarray) -> "Rows":
        """The rows at `keep` (positions or a mask)."""
        keep = np.flatnonzero(keep) if keep.dtype == bool else keep
        return Rows(self.path, self.table, self.frame.iloc[keep], self.lon[keep], self.lat[keep])


def read_rows(
    region: Region,
    table: Table,
    path: Path,
    others: Iterable[str],
    vocabulary: SpeciesIndex | None,
    reading: Reading | None,
) -> Rows:
    """The rows of a table that have a place, with the columns that it describes and `others`.

    `vocabulary`: of the species that the rows name; None for a table of surveys without any.

    `reading`: collects what was left out and guessed, for a message; None: nobody asks.
    """
    file = open_table(path, table.separator, table.encoding)
    needed = [table.lon, table.lat, *(name.removeprefix(DAY_OF) for name in table.survey or ()), *others]
    keys, values = region.sample_columns()
    optional = [table.patch, table.day, DATASET, *keys, *values]
    if vocabulary is not None and table.layout == "wide":
        optional += species_columns(file.names, vocabulary)
    elif vocabulary is not None:
        needed += [table.species, *table.presence]
    frame = file.read([*needed, *optional])
    require(frame, path, needed, file.names)
    places = placed(frame, table, region, path)
    wrong = places.unplaced
    if wrong.any() and table.incomplete == "error":
        stop(unplaced_text(path, frame, places), reading)
    if reading is not None:
        reading.notes += [f"{path.name}: {note}" for note in (*file.notes, *places.notes)]
        for reason, mask in places.reasons.items():
            reading.left_out[reason] = reading.left_out.get(reason, 0) + int(mask.sum())
    rows = Rows(path, table, frame, places.lon, places.lat)
    return rows.at(~wrong) if wrong.any() else rows


def stop(message: str, reading: Reading | None) -> None:
    """Stop the reading, or keep the message for the check."""
    if reading is None:
        raise GlczooError(message)
    reading.stops.append(message)


def placed(frame: pd.DataFrame, table: Table, region: Region | None, path: Path) -> Places:
    """Degrees of the rows.

    Raises:
        GlczooError: more than half of them lie in the region with lon and lat exchanged alone.
    """
    bounds = region.bounds if region is not None else None
    try:
        places = place_rows(frame[table.lon], frame[table.lat], table.crs, bounds)
    except ValueError as error:
        raise GlczooError(f"{path}: {error}") from None
    if bounds is not None and len(frame):
        x, y = (numbers(frame[name])[0] for name in (table.lon, table.lat))
        swapped = within(y, x, bounds) & ~within(places.lon, places.lat, bounds) & (table.crs is None)
        if swapped.sum() > 0.5 * len(frame):
            raise GlczooError(
                f"{path}: {swapped.sum()} of {len(frame)} rows lie in the region only with {table.lon} and "
                f"{table.lat} exchanged: are the columns swapped?"
            )
    return places


def unplaced_text(path: Path, frame: pd.DataFrame, places: Places, hint: str = DROP_HINT) -> str:
    """Which rows have no place, for a message. `hint` ends it."""
    parts = [
        f"{mask.sum()} {reason}, the first at {lines(frame.index[mask])}"
        for reason, mask in places.reasons.items()
        if mask.any()
    ]
    return f"{path}: of {len(frame)} rows {'; '.join(parts)}{hint}"


def require(frame: pd.DataFrame, path: Path, columns: Sequence[str], names: Sequence[str]) -> None:
    """Raise ValueError where a column of these is not among those read; `names`: of all that there are."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise GlczooError(
            f"{path}: column {missing} is missing; the file has {_shortened(names)} (is the separator right?)"
        )


def column_or(frame: pd.DataFrame, name: str, default: object) -> pd.Series:
    """A column, or one value for all rows where there is none. `default`: that value."""
    return frame[name] if name in frame else pd.Series([default] * len(frame), frame.index)


def integers(column: pd.Series, path: Path, missing: int | None = None) -> np.ndarray:
    """int64 of a column that pandas may have read as floats (`9343.0`); empty cells become `missing`."""
    values, _ = numbers(column)
    if missing is not None:
        values = np.where(blank(column), missing, values)
    bad = ~(np.abs(values) <= LARGEST_ID) | (values != np.round(values))
    if bad.any():
        limit = ", or above 2^53" if (np.abs(values) > LARGEST_ID).any() else ""
        raise GlczooError(
            f"{path}: {bad.sum()} values of {column.name} are not whole numbers{limit}, the first at "
            f"{lines(column.index[bad])}"
        )
    return values.astype(np.int64)


def patch_ids(frame: pd.DataFrame, table: Table, path: Path) -> np.ndarray:
    """Names of the rows' JPEG patches, int64[n]; -1 where none."""
    return integers(column_or(frame, table.patch, -1), path, missing=-1)


def datasets(frame: pd.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
    """Position, int64[n], and names of the data sets of the rows; "" where a row names none."""
    if DATASET not in frame:
        return np.zeros(len(frame), np.int64), ("",)
    column = frame[DATASET].astype(object)
    position, names = pd.factorize(column.where(column.notna(), "").astype(str), sort=True)
    return position.astype(np.int64), tuple(map(str, names))


def lines(index: pd.Index) -> str:
    """Line numbers in the file of the first of these rows."""
    return f"line(s) {index[:3].tolist()}"


def species_columns(names: Iterable[str], vocabulary: SpeciesIndex) -> dict[str, int]:
    """Columns of a wide table that bear the name of a species, and its class. `names`: of all columns."""
    classes = {name_key(name): k for k, name in enumerate(vocabulary.names)}
    return {name: classes[name_key(name)] for name in names if name_key(name) in classes}


def survey_key(frame: pd.DataFrame, name: str) -> pd.Series:
    """A column that tells surveys apart; after `day of`, a date without the time that follows it."""
    if not name.startswith(DAY_OF):
        return frame[name]
    column = frame[name.removeprefix(DAY_OF)]
    return column.astype(str).str.replace(r"(?<=\d)[T ]+\d{1,2}(?:[:.h]|\d\d).*$", "", regex=True)


def _shortened(names: Sequence[str]) -> str:
    """Names of columns for a message, however long or many a file makes them."""
    shown = [name if len(name) <= 40 else f"{name[:37]}…" for name in names[:30]]
    return f"{shown}" + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")
