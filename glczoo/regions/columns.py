"""What the columns of a stranger's table mean: GBIF's Darwin Core names, GeoLifeCLEF's, and what people type.

A guess is made by a column's name and checked on its values, and its reason is kept. Columns are compared
by their letters and digits alone, in small letters: `Site ID`, `site_id` and `SITEID` are one.

Sources: Darwin Core (https://dwc.tdwg.org/terms), the columns of GBIF's downloads
(https://techdocs.gbif.org/en/data-use/download-formats).
"""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from glczoo.data.region import Table
from glczoo.data.tables import read_columns

__all__ = ["KEYS", "GuessedTable", "guess_table", "make_vocabulary"]

KEYS = (
    "lon",
    "lat",
    "species",
    "survey",
    "patch",
    "day",
)  # columns that a person may name, see `guess_table`

# In order of preference: the first that a table has is taken.
_LON = ["decimallongitude", "lon", "longitude", "long", "lng", "lonwgs84", "xwgs84", "x"]
_LAT = ["decimallatitude", "lat", "latitude", "latwgs84", "ywgs84", "y"]
_ID = ["speciesid", "specieskey", "taxonkey", "acceptedtaxonkey", "taxonid", "species", "speciescode"]
_NAME = [
    *("species", "speciesname", "acceptedscientificname", "scientificname", "latinname", "binomial"),
    *("taxonname", "taxon", "spname", "sp"),
]
_EVENT = ["eventid", "surveyid", "visitid", "releveid", "sampleid", "samplingeventid"]
_SITE = [
    *("patchid", "siteid", "plotid", "locationid", "stationid", "quadratid", "transectid", "site", "plot"),
    *("station", "quadrat", "releve", "sitename", "plotname", "sitecode", "plotcode"),
]
_STATUS = [
    *("occurrencestatus", "presence", "present", "presenceabsence", "presabs", "pa", "detected", "observed"),
    "occurrence",
]
_COUNT = ["individualcount", "organismquantity", "abundance", "count", "cover"]
_YES, _NO = {"present", "1", "true", "yes", "p", "y"}, {"absent", "0", "false", "no", "a", "n"}
_ERROR = ["coordinateuncertaintyinmeters", "geouncertaintyinm", "coordinateuncertainty"]
_CULTIVATED = {"FOSSIL_SPECIMEN", "LIVING_SPECIMEN"}


@dataclass
class GuessedTable:
    """A table of records, the keys of `region.yaml` that describe it, and its places and species.

    Rows are those that training would read: with coordinates, of presences where the table tells, and in a
    PO table with a species.
    """

    path: Path
    kind: str  # po or pa
    keys: dict[str, object]  # keys of Table and their values
    reasons: dict[str, str] = field(default_factory=dict)  # key → what the guess rests on
    doubts: list[str] = field(default_factory=list)  # what a person should look at
    lon: np.ndarray = field(default_factory=lambda: np.empty(0))  # float64[n]
    lat: np.ndarray = field(default_factory=lambda: np.empty(0))  # float64[n]
    ids: pd.Series | None = None  # int64[n]
    names: pd.Series | None = None  # str[n]
    num_surveys: int = 0
    named: list[str] = field(default_factory=list)  # keys whose column a person named
    patch_ids: np.ndarray | None = None  # int64[n], -1 where none: names of JPEG patches


def guess_table(path: Path, kind: str, named: dict[str, str]) -> GuessedTable:
    """Read a table of records and guess what its columns mean.

    Args:
        path: CSV with a header, separated by tabs, semicolons, commas or bars.
        kind: `po` or `pa`.
        named: one of KEYS → column, not guessed where the table has the column; `survey`: comma-separated.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no table, or no column fits; the message lists those that there are.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no table {path}")
    separator, header = _header(path)
    guess = GuessedTable(path, kind, {"separator": separator})
    named = {key: value for key, value in named.items() if set(value.split(",")) <= set(header)}
    guess.named = list(named)
    guess.reasons["separator"] = f"{len(header)} columns"
    columns = {key: named.get(key) or _first(header, names) for key, names in (("lon", _LON), ("lat", _LAT))}
    ids, names = (_candidates(header, known, named.get("species")) for known in (_ID, _NAME))
    missing = [key for key, column in columns.items() if column is None]
    missing += [] if ids or names else ["species"]
    if missing:
        raise ValueError(
            f"{path}: no column looks like {' or '.join(missing)}; it has {header}. Name it: "
            f"--columns {' '.join(f'{key}=COLUMN' for key in missing)}. (A table has one row for each "
            "species found at a place, with longitude and latitude in degrees.)"
        )
    lon, lat = str(columns["lon"]), str(columns["lat"])
    others = [_first(header, names) for names in (_STATUS, _COUNT, _EVENT, _SITE)]
    error, basis = _first(header, _ERROR), _first(header, ["basisofrecord"])
    dates = [c for c in header if _plain(c) in ("dayofyear", "year", "month", "day", "eventdate", "date")]
    keys = [name for value in named.values() for name in value.split(",")]
    patch = _first(header, [_plain(named.get("patch", "patchID"))])
    wanted = {lon, lat, *ids, *names, *dates, *keys, *filter(None, [*others, error, basis, patch])}
    table = read_columns(path, separator, sorted(wanted))
    if not len(table):
        raise ValueError(f"{path} has a header and no rows")
    guess.keys |= {"lon": lon, "lat": lat}
    table = _located(guess, table, lon, lat)
    present = _present(guess, table, _first(header, _STATUS), _first(header, _COUNT))
    table = _with_species(guess, table, present, ids, names)
    guess.lon, guess.lat = table[lon].to_numpy(float), table[lat].to_numpy(float)
    if kind == "pa":
        _surveys(guess, table, named, dates)
    elif basis and (number := table[basis].isin(_CULTIVATED).sum()):
        guess.doubts.append(f"{number} records are fossils or living collections ({basis}): take them out?")
    if error and (number := (pd.to_numeric(table[error], errors="coerce") > 1000).sum()):
        guess.doubts.append(f"{number} of {len(table)} rows are less exact than 1 km ({error})")
    for key, default in (("patch", "patchID"), ("day", "dayOfYear")):
        if key in named and named[key] != default:
            guess.keys[key] = named[key]
    if patch:
        numbers = pd.to_numeric(table[patch], errors="coerce").fillna(-1)
        guess.patch_ids = numbers.to_numpy(np.int64)
    return guess


def make_vocabulary(tables: Sequence[GuessedTable]) -> tuple[str | None, int, list[str]]:
    """The species of one or two tables.

    Tables that hold names alone look them up there; species without an id get ids after all
    others, in the order of their names.

    Returns:
        The species table, CSV speciesId,name, or None where ids are all there is; the number of species; and
        what a person should look at.
    """
    doubts = []
    with_ids, by_name = [t for t in tables if t.ids is not None], [t for t in tables if t.ids is None]
    columns = dict.fromkeys(str(t.keys["species"]) for t in with_ids)
    if len({_plain(column) for column in columns}) > 1:
        doubts.append(f"{' and '.join(columns)} are taken as numbers of one list of species: are they?")
    known = pd.Series([], dtype=str)
    if with_ids:
        pairs = pd.concat([pd.DataFrame({"id": t.ids, "name": t.names}) for t in with_ids])
        spellings = pairs.fillna({"name": ""}).value_counts().reset_index()
        spellings["empty"] = spellings["name"] == ""  # a name, where any row has one, and the most frequent
        spellings = spellings.sort_values(
            ["id", "empty", "count", "name"], ascending=[True, True, False, True]
        )
        known = spellings.drop_duplicates("id").set_index("id")["name"]
    if by_name:
        new = sorted(set(pd.concat([t.names for t in by_name])) - set(known))
        if with_ids and new:
            shown = ", ".join(new[:3]) + (", …" if len(new) > 3 else "")
            doubts.append(f"{len(new)} species in {by_name[0].path.name} alone, by name: {shown}")
        start = int(known.index.max()) + 1 if len(known) else 1
        known = pd.concat([known, pd.Series(new, range(start, start + len(new)), dtype=str)])
        for table in by_name:
            table.keys["species_by"] = "name"
            table.reasons["species_by"] = "looked up in species.csv"
    if len(tables) == 2:
        first, second = (
            set(known.index[known.isin([] if t.names is None else t.names)] if t.ids is None else t.ids)
            for t in tables
        )
        if not first & second:
            doubts.append("the tables have no species in common: are their names or numbers of one list?")
    if not (known != "").any():
        return None, len(known), doubts
    text = pd.DataFrame({"speciesId": known.index, "name": known.to_numpy()}).to_csv(index=False)
    return text, len(known), doubts


def _header(path: Path) -> tuple[str, list[str]]:
    """The separator, and the names of the columns."""
    if zipfile.is_zipfile(path):
        raise ValueError(f"{path} is a zip archive: unpack it and name the table inside")
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = file.readline()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from None
    separator = max("\t;,|", key=first.count)
    if separator not in first:
        raise ValueError(f"{path}: its first line names no columns: {first[:80].strip()!r}")
    return separator, [name.strip().strip('"') for name in first.rstrip("\r\n").split(separator)]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _candidates(header: Sequence[str], names: Sequence[str], named: str | None = None) -> list[str]:
    """The columns that bear one of these names, the preferred first; only the one that was named."""
    if named:
        return [named]
    return [column for name in names for column in header if _plain(column) == name]


def _first(header: Sequence[str], names: Sequence[str]) -> str | None:
    return next(iter(_candidates(header, names)), None)


def _located(guess: GuessedTable, table: pd.DataFrame, lon: str, lat: str) -> pd.DataFrame:
    """The rows with coordinates, as numbers."""
    empty = table[lon].isna() | table[lat].isna()
    numbers = table[[lon, lat]].apply(pd.to_numeric, errors="coerce")
    wrong = (~(numbers[lon].abs() <= 180) | ~(numbers[lat].abs() <= 90)) & ~empty
    if wrong.mean() > 0.5:
        row = table.loc[wrong.idxmax(), [lon, lat]].tolist()
        raise ValueError(
            f"{guess.path}: {lon}, {lat} hold no degrees, but for example {row}. Longitude and latitude "
            "(WGS84, decimal points) are needed: convert them, or name their columns: --columns lon=… lat=…"
        )
    if wrong.any():
        guess.doubts.append(
            f"{wrong.sum()} rows have no coordinates in degrees, the first in line {wrong.idxmax() + 2}: "
            "mend or delete them, reading will stop there"
        )
    if empty.any():
        guess.keys["incomplete"] = "drop"
        guess.reasons["incomplete"] = f"{empty.sum()} of {len(table)} rows without coordinates"
    return table.assign(**{lon: numbers[lon], lat: numbers[lat]})[~(empty | wrong)]


def _present(guess: GuessedTable, table: pd.DataFrame, status: str | None, count: str | None) -> pd.Series:
    """Which rows are presences, bool[n]."""
    present = pd.Series(True, table.index)
    if status:
        words = table[status].astype(str).str.strip().str.removesuffix(".0")
        values = words[table[status].notna()].unique()[:20]
        yes, no = ([v for v in values if v.lower() in words] for words in (_YES, _NO))
        if yes and no:
            present = words.isin(yes)
            guess.keys["presence"] = {status: [int(v) if v.isdigit() else v for v in yes]}
            guess.reasons["presence"] = f"{(~present).sum()} row(s) say {' or '.join(no)}"
        elif not yes:
            guess.doubts.append(f"{status} holds {list(values)[:5]}: are all of these rows presences?")
    if count and (zero := present & (pd.to_numeric(table[count], errors="coerce") == 0)).any():
        guess.doubts.append(f"{zero.sum()} rows have {count} 0 and count as presences: delete them?")
    return present


def _with_species(
    guess: GuessedTable, table: pd.DataFrame, present: pd.Series, ids: list[str], names: list[str]
) -> pd.DataFrame:
    """The rows to read, of a PO table the presences of a species, and their ids and names."""
    table = table[present] if guess.kind == "po" else table
    numbers = {c: pd.to_numeric(table[c], errors="coerce") for c in ids}
    whole = [
        c for c, n in numbers.items() if n.notna().any() and (n.isna() == table[c].isna()).all()
        and (n.dropna() == n.dropna().round()).all()
    ]  # fmt: skip
    texts = [c for c in names if c not in whole and table[c].notna().any()]
    if not whole and not texts:
        raise ValueError(f"{guess.path}: the columns {ids or names} name no species in any row")
    column = whole[0] if whole else texts[0]
    known = table[column].notna()
    if guess.kind == "po":
        if not known.all():
            guess.keys["incomplete"] = "drop"
            reason = f"{(~known).sum()} of {len(table)} rows without {column}"
            before = guess.reasons.get("incomplete")
            guess.reasons["incomplete"] = f"{before}, {reason}" if before else reason
        table = table[known]
    guess.keys["species"] = column
    rows = table.index[known & present] if guess.kind == "pa" else table.index
    if whole:
        guess.ids = numbers[column].loc[rows].astype(np.int64)
        guess.reasons["species"] = f"{guess.ids.nunique()} species"
        if _plain(column) in ("taxonkey", "acceptedtaxonkey"):  # of subspecies too, which `species` is not
            texts = [text for text in texts if _plain(text) != "species"]
        if texts:
            guess.names = table.loc[rows, texts[0]].fillna("").astype(str).str.strip()
            guess.reasons["species"] += f", their names in {texts[0]}"
    else:
        guess.names = table.loc[rows, column].astype(str).str.strip()
        guess.reasons["species"] = f"{guess.names.nunique()} names"
        if _plain(column).endswith("scientificname"):
            guess.doubts.append(
                f"{column} is taken as it stands: names with authors, synonyms and subspecies are species of "
                "their own"
            )
    return table


def _surveys(guess: GuessedTable, table: pd.DataFrame, named: dict[str, str], dates: list[str]) -> None:
    """Which columns tell surveys apart: a survey is one visit of one place."""
    header = list(table.columns)
    default = {key: named.get(key) or getattr(Table(file=["x"]), key) for key in ("patch", "day")}
    place, day = (_first(header, [_plain(name)]) for name in default.values())
    lon, lat = str(guess.keys["lon"]), str(guess.keys["lat"])
    when = _date(table, dates)
    event, site = _first(header, _EVENT), _first(header, _SITE)
    ways = []
    if named.get("survey"):
        ways.append(named["survey"].split(","))
    elif place and _is_whole(table[place]) and (day or not when):
        ways.append([column for column in (place, day) if column])
    else:
        ways += [[event]] if event and table[event].notna().all() else []
        ways += [[site, *when]] if site and table[site].notna().all() else []
    ways.append([lon, lat, *when])
    for way in ways:
        keys = [pd.factorize(table[column], use_na_sentinel=False)[0] for column in way]
        codes = pd.MultiIndex.from_arrays(keys).factorize()[0]
        places = table[[lon, lat]].groupby(codes)
        moved = int((places.max() - places.min() > 1e-6).any(axis=1).sum())
        if not moved:
            break
        guess.doubts.append(f"{moved} surveys by {', '.join(way)} have more than one place")
    guess.num_surveys = int(codes.max()) + 1
    if way != [column for column in (place, day) if column]:
        guess.keys["survey"] = way
        guess.reasons["survey"] = f"{guess.num_surveys} surveys"
    else:
        guess.reasons["file"] = f"{guess.num_surveys} surveys by {', '.join(way)}"
    if not when and not day and way != [event]:
        guess.doubts.append("no column of dates: visits of one place on several days become one survey")


def _date(table: pd.DataFrame, dates: list[str]) -> list[str]:
    """The columns that tell the day of a visit."""
    named = {_plain(column): column for column in dates if table[column].notna().any()}
    for whole in ("eventdate", "date"):
        if whole in named and not table[named[whole]].astype(str).str.contains(r"\d[T ]\d", regex=True).any():
            return [named[whole]]
    for parts in (["year", "month", "day"], ["year", "dayofyear"], ["dayofyear"], ["eventdate"], ["date"]):
        if all(part in named for part in parts):
            return [named[part] for part in parts]
    return [named["year"]] if "year" in named else []


def _is_whole(column: pd.Series) -> bool:
    numbers = pd.to_numeric(column, errors="coerce")
    return bool((numbers == numbers.round()).all())
