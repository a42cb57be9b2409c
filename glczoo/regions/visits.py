"""Which columns of a stranger's table tell surveys apart: a survey is one visit of one place, on one day."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from glczoo.data.places import blank, numbers, plain
from glczoo.data.region import Table
from glczoo.data.table_files import TableFile
from glczoo.data.table_rows import DAY_OF, survey_key
from glczoo.errors import GlczooError
from glczoo.regions.guessed_table import GuessedTable

__all__ = [
    "DATES",
    "EVENT",
    "SITE",
    "candidates",
    "date_columns",
    "first_column",
    "guess_surveys",
    "is_whole",
]

EVENT = ["eventid", "surveyid", "visitid", "releveid", "sampleid", "samplingeventid", "checklistid"]
"""Names of columns that number surveys, the preferred first."""
SITE = [
    *("patchid", "siteid", "plotid", "locationid", "stationid", "quadratid", "transectid", "site", "plot"),
    *(
        "station",
        "quadrat",
        "releve",
        "relevé",
        "sitename",
        "plotname",
        "sitecode",
        "plotcode",
        "locality_id",
    ),
]
"""Names of columns that number places, the preferred first."""
DATES = ("dayofyear", "year", "month", "day", "eventdate", "date", "datetime", "visitdate", "surveydate")
"""Names of columns of dates and parts of them."""
_WHOLE_DATES = ("eventdate", "date", "datetime", "visitdate", "surveydate")
_TIME = r"\d[T ]+\d{1,2}(?:[:.h]\d|\d\d)"  # of day, behind a date


def candidates(file: TableFile, known: Sequence[str], named: str | None = None) -> list[str]:
    """The columns that bear one of these names, the preferred first; only the one that was named.

    `known`: those names, the preferred first; `named`: by the user.

    Raises:
        GlczooError: two columns are named alike.
    """
    if named:
        return [named]
    found = []
    for name in known:
        alike = [column for column in file.names if plain(column) == name]
        if len(alike) > 1:
            raise GlczooError(
                f"{file.path}: the columns {' and '.join(alike)} are named alike; name the right one: "
                f"--columns species={alike[0]} (or lon, lat, survey, …), or rename the other"
            )
        found += alike
    return found


def first_column(file: TableFile, known: Sequence[str]) -> str | None:
    """The preferred column that bears one of these names; None where there is none.

    `known`: those names, the preferred first.
    """
    return next(iter(candidates(file, known)), None)


def date_columns(file: TableFile) -> list[str]:
    """The columns that are named like dates or parts of them."""
    return [column for column in file.names if plain(column) in DATES]


def is_whole(column: pd.Series, empty: np.ndarray) -> bool:
    """Whether every cell that is not empty holds a whole number. `column`: as text."""
    values = numbers(column)[0][~empty]
    return bool(len(values)) and bool(np.isfinite(values).all()) and bool((values == np.round(values)).all())


def guess_surveys(guess: GuessedTable, file: TableFile, table: pd.DataFrame, named: dict[str, str]) -> None:
    """Which columns tell surveys apart: a survey is one visit of one place.

    `guess`: is filled; `named`: columns that the user named.
    """
    default = {key: named.get(key) or getattr(Table(file=["x"]), key) for key in ("patch", "day")}
    place, day = (first_column(file, [plain(name)]) for name in default.values())
    lon, lat = str(guess.keys["lon"]), str(guess.keys["lat"])
    when = _date(table, date_columns(file))
    event, site = first_column(file, EVENT), first_column(file, SITE)
    ways = []
    if named.get("survey"):
        ways.append(named["survey"].split(","))
    elif place and is_whole(table[place], blank(table[place])) and (day or not when):
        ways.append([column for column in (place, day) if column])
    else:
        ways += [[event]] if event and table[event].notna().all() else []
        ways += [[site, *when]] if site and table[site].notna().all() else []
    ways.append([lon, lat, *when])
    for way in ways:
        keys = [pd.factorize(survey_key(table, column), use_na_sentinel=False)[0] for column in way]
        codes = pd.MultiIndex.from_arrays(keys).factorize()[0]
        places = table[["glczoo lon", "glczoo lat"]].groupby(codes)
        moved = int((places.max() - places.min() > 1e-6).any(axis=1).sum())
        if not moved:
            break
        guess.doubt(f"{moved} surveys by {', '.join(way)} have more than one place")
    guess.num_surveys = int(codes.max()) + 1
    if way != [column for column in (place, day) if column]:
        guess.keys["survey"] = way
        guess.reasons["survey"] = f"{guess.num_surveys} surveys"
    else:
        guess.reasons["file"] = f"{guess.num_surveys} surveys by {', '.join(way)}"
    if timed := [column.removeprefix(DAY_OF) for column in way if column.startswith(DAY_OF)]:
        guess.reasons["survey"] = f"guessed: {guess.num_surveys} surveys, a survey is one day"
        guess.doubt(f"{timed[0]} holds times of day: all visits of a place on one day are one survey")
    if not when and not day and way != [event]:
        guess.doubt("no column of dates: visits of one place on several days become one survey")


def _date(table: pd.DataFrame, dates: list[str]) -> list[str]:
    """The columns that tell the day of a visit; `day of COLUMN` where it holds times of day."""
    named = {plain(column): column for column in dates if table[column].notna().any()}
    whole = [named[name] for name in _WHOLE_DATES if name in named]
    timed = {column: table[column].astype(str).str.contains(_TIME, regex=True).any() for column in whole}
    if plainly := [column for column in whole if not timed[column]]:
        return plainly[:1]
    for parts in (["year", "month", "day"], ["year", "dayofyear"], ["dayofyear"]):
        if all(part in named for part in parts):
            return [named[part] for part in parts]
    if whole:
        return [DAY_OF + whole[0]]
    return [named["year"]] if "year" in named else []
