"""What the columns of a stranger's table mean: GBIF's Darwin Core names, GeoLifeCLEF's, and what people type.

A guess is made by a column's name and checked on its values, and its reason is kept. Columns are compared
by their letters and digits alone, in small letters: `Site ID`, `site_id` and `SITEID` are one.

Sources: Darwin Core (https://dwc.tdwg.org/terms), the columns of GBIF's downloads
(https://techdocs.gbif.org/en/data-use/download-formats).
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from glczoo.data.places import are_metres, blank, coordinate_columns, crs_in_names, numbers, place_rows, plain
from glczoo.data.presence import COUNT, labels_of, presences
from glczoo.data.raster_files import is_geographic
from glczoo.data.table_files import TableFile, open_table
from glczoo.data.table_rows import DAY_OF
from glczoo.errors import GlczooError
from glczoo.regions.guessed_table import GuessedTable
from glczoo.regions.labels import (
    COUNTS,
    COUNTS_LIKE,
    STATUS,
    STATUS_LIKE,
    all_presences,
    guess_presence,
    species_like,
)
from glczoo.regions.visits import (
    DATES,
    EVENT,
    SITE,
    candidates,
    date_columns,
    first_column,
    guess_surveys,
    is_whole,
)

__all__ = ["KEYS", "guess_table"]

KEYS = ("lon", "lat", "species", "survey", "patch", "day", "presence")
"""Columns that a person may name."""

# In order of preference: the first that a table has is taken.
_ID = ["speciesid", "specieskey", "taxonkey", "acceptedtaxonkey", "taxonid", "species", "speciescode"]
_NAME = [
    *("species", "speciesname", "acceptedscientificname", "scientificname", "latinname", "binomial"),
    *(
        "taxonname",
        "taxon",
        "spname",
        "sp",
        "spec",
        "specie",
        "canonicalname",
        "acceptedname",
        "verbatimname",
    ),
    *("nomscientifique", "nomlatin", "espece", "espèce", "taxref", "art", "artname"),
    *("wissname", "especie", "nombrecientifico", "specienome", "soort", "soortnaam"),
]
_ERROR = ["coordinateuncertaintyinmeters", "geouncertaintyinm", "coordinateuncertainty", "positionalaccuracy"]
_MOST_STATUS = 5  # columns of a table of records that are looked at for presences
_CULTIVATED = {"FOSSIL_SPECIMEN", "LIVING_SPECIMEN"}


def guess_table(
    path: Path,
    kind: Literal["po", "pa"],
    named: dict[str, str],
    crs: str | None = None,
    encoding: str | None = None,
) -> GuessedTable:
    """Read a table of samples and guess what its columns mean.

    Args:
        path: any table with a header, see `data.table_files`.
        kind: of the table.
        named: one of KEYS → column, not guessed where the table has the column; `survey`: comma-separated;
            `presence`: none, a column, or a column and its words for yes: COLUMN:WORD,WORD.
        crs: of the coordinates; degrees if None.
        encoding: of a text, see `open_table`.

    Raises:
        MissingError: there is no such file.
        GlczooError: it is no table, no column fits (the message lists those that there are), or a word for
            presence is not understood.
    """
    file = open_table(path, None, encoding)
    named = {key: value for key, value in named.items() if _columns_of(key, value) <= set(file.names)}
    guess = _start(file, kind, named, encoding)
    lon, lat = (named.get(key) for key in ("lon", "lat"))
    if not (lon and lat):
        known = coordinate_columns(
            [n for n in file.names if n not in named.values()], str(path), crs is not None
        )
        lon, lat = lon or known[0], lat or known[1]
    ids = candidates(file, _ID, named.get("species"))
    names = candidates(file, _NAME, named.get("species"))
    wide = not ids and not names
    missing = [key for key, column in (("lon", lon), ("lat", lat)) if column is None]
    everything = wide or kind == "pa"  # which columns say presence is seen in what they hold
    table = file.read(file.names if everything else _wanted(file, named, [*ids, *names], lon, lat))
    species, others = (
        species_like(table, _known_columns(file, named, lon, lat), str(path)) if wide else ([], [])
    )
    missing += ["species"] if wide and not species else []
    if missing or lon is None or lat is None:
        raise GlczooError(_missing_columns(file, missing))
    if not len(table):
        raise GlczooError(f"{path} has a header and no rows")
    guess.keys |= {"lon": lon, "lat": lat}
    crs = _crs(guess, table[lon], table[lat], crs)
    table = _located(guess, table, lon, lat, crs)
    if wide:
        _take_wide(guess, table, species, others)
    else:
        status, words = _status(file, named)
        count = None if named.get("presence") == "none" else first_column(file, COUNTS)
        if not (status or count or "presence" in named):
            status, count = _like_presence(guess, file, table, [*ids, *names][0])
        present = guess_presence(guess, table, status, count, words)
        table = _with_species(guess, table, present, ids, names)
    guess.lon, guess.lat = table["glczoo lon"].to_numpy(), table["glczoo lat"].to_numpy()
    if kind == "pa":
        guess_surveys(guess, file, table, named)
    _look_at_records(guess, file, table)
    _patches_and_days(guess, file, table, named)
    return guess


def _columns_of(key: str, value: str) -> set[str]:
    """The columns that a person named for a key."""
    if key == "presence":
        return set() if value == "none" else {value.partition(":")[0]}
    if key == "survey":
        return {column.removeprefix(DAY_OF) for column in value.split(",")}
    return {value}


def _start(
    file: TableFile, kind: Literal["po", "pa"], named: dict[str, str], encoding: str | None
) -> GuessedTable:
    guess = GuessedTable(file.path, kind, {}, named=list(named))
    if file.separator:
        guess.keys["separator"] = file.separator
        guess.reasons["separator"] = f"{len(file.names)} columns"
    guess.keys |= {"encoding": encoding} if encoding and file.separator else {}
    guess.doubts += file.notes
    for key, value in (("citation", file.citation), ("doi", file.doi)):
        if value:
            guess.keys[key], guess.reasons[key] = value, "from the archive"
    if not file.doi and (match := re.fullmatch(r"\d{7}-\d{15}", file.path.stem)):
        page = f"https://www.gbif.org/occurrence/download/{match[0]}"
        guess.doubt(f"GBIF asks to be cited by the DOI of the download ({page}): write it under doi")
    return guess


def _status(file: TableFile, named: dict[str, str]) -> tuple[str | None, str | None]:
    """The column that says whether a species was found, and the words that a person named for yes."""
    if named.get("presence") == "none":
        return None, None
    if "presence" in named:
        column, _, words = named["presence"].partition(":")
        return column, words or None
    return first_column(file, STATUS), None


def _like_presence(
    guess: GuessedTable, file: TableFile, table: pd.DataFrame, species: str
) -> tuple[str | None, str | None]:
    """Columns of presence and of counts where none has a usual name: by part of it and contents.

    Raises:
        GlczooError: a column of another name tells rows of a survey and of a species apart as presences do.
    """
    places = guess.keys["lon"], guess.keys["lat"]
    unknown = [name for name in file.names if name and name not in places and not _is_known(name)]
    labels = {name: labels_of(table[name]) for name in unknown if name in table}
    said = [name for name, found in labels.items() if found.informative and not found.unknown]
    status = next((n for n in said if STATUS_LIKE.search(plain(n)) and not labels[n].counts), None)
    count = next((n for n in said if COUNTS_LIKE.search(plain(n)) and labels[n].no), None)
    if status or count or guess.kind == "po":
        return status, count
    for name in said:
        zeros = 1 - presences(table[name], COUNT, (), name, "presence").mean()
        few = not labels[name].counts or (labels[name].no and zeros >= 0.05)
        if few and _varies(table, name, [species]) and _varies(table, name, list(map(str, places))):
            values = ", ".join([*labels[name].yes[:3], *labels[name].no[:2]])
            blank_too = " and blanks" if labels[name].blank else ""
            raise GlczooError(
                f"{guess.path}: {name} holds {values}{blank_too}, and differs from species to species of a "
                f"survey: does it say whether the species was found? --columns presence={name}; or "
                "presence=none if it says nothing of the kind"
            )
    return None, None


def _varies(table: pd.DataFrame, name: str, within: list[str]) -> bool:
    """Whether a column differs between rows that share what others hold, or no rows share it."""
    rows = pd.DataFrame({"value": pd.factorize(table[name], use_na_sentinel=False)[0]}, table.index)
    groups = rows["value"].groupby([table[other] for other in within])
    return bool((groups.nunique() > 1).any()) or bool((groups.size() == 1).all())


def _is_known(name: str) -> bool:
    known = (*_ID, *_NAME, *EVENT, *SITE, *DATES, *_ERROR, "basisofrecord", "datasetname", "patchid")
    return plain(name) in known


def _wanted(
    file: TableFile, named: dict[str, str], species: Sequence[str], lon: str | None, lat: str | None
) -> list[str]:
    """The columns to read of a long table."""
    others = [first_column(file, known) for known in (COUNTS, EVENT, SITE, _ERROR, ["basisofrecord"])]
    others += [name for name in file.names if STATUS_LIKE.search(plain(name))][:_MOST_STATUS]
    others += [_status(file, named)[0], lon, lat, first_column(file, [plain(named.get("patch", "patchID"))])]
    of_person = [c for key, value in named.items() for c in _columns_of(key, value)]
    wanted = dict.fromkeys([*species, *date_columns(file), *of_person, *filter(None, others)])
    return [name for name in wanted if name in file.names]


def _known_columns(file: TableFile, named: dict[str, str], lon: str | None, lat: str | None) -> list[str]:
    """The columns of a wide table that are no species."""
    known = {*EVENT, *SITE, *_ERROR, *DATES, *STATUS, "basisofrecord", "datasetname", "id", "dayofyear"}
    of_person = {c for key, value in named.items() for c in _columns_of(key, value)}
    return [n for n in file.names if plain(n) in known or n in of_person or n in (lon, lat)]


def _missing_columns(file: TableFile, missing: Sequence[str]) -> str:
    text = (
        f"{file.path}: no column looks like {' or '.join(missing)}; it has {list(file.names)}. Name it: "
        f"--columns {' '.join(f'{key}=COLUMN' for key in missing)}. (A table has one row for each species "
        "found at a place, with longitude and latitude, or a column of 0 and 1 for each species.)"
    )
    if (status := first_column(file, STATUS)) and "species" in missing:
        text += f" If {status} is about one species, rename the column to the species' name"
    return text


def _crs(guess: GuessedTable, x: pd.Series, y: pd.Series, named: str | None) -> str | None:
    """The CRS of a table's coordinates; None where they are degrees.

    Args:
        guess: of the table; gets the key `crs`.
        x: longitudes, or x.
        y: latitudes, or y.
        named: what a person says of the tables: of two, one may be in degrees.
    """
    metres = are_metres(x, y)
    if named is None and metres and (crs := crs_in_names(str(x.name), str(y.name))):
        guess.keys["crs"], guess.reasons["crs"] = crs, "guessed: by the names of the columns"
        return crs
    if named and not metres and not is_geographic(named):
        guess.doubt(f"{x.name}, {y.name} are degrees: {named} is not meant of them")
        return None
    guess.keys |= {"crs": named} if named else {}
    return named


def _located(guess: GuessedTable, table: pd.DataFrame, lon: str, lat: str, crs: str | None) -> pd.DataFrame:
    """The rows with coordinates, with them in degrees beside."""
    places = place_rows(table[lon], table[lat], crs)
    at_zero = places.reasons["at 0, 0"]
    known = ~places.unplaced
    if at_zero.any() and known.any():
        (west, east), (south, north) = (
            (float(a[known].min()), float(a[known].max())) for a in (places.lon, places.lat)
        )
        places = place_rows(table[lon], table[lat], crs, (west, south, east, north))
    no_degrees = places.reasons["with coordinates that are no numbers"]
    no_degrees = no_degrees | places.reasons["with coordinates that are no place on Earth"]
    usual = table[[lon, lat]][no_degrees].value_counts(normalize=True)  # -999 again and again is no place
    if no_degrees.mean() > 0.5 and (no_degrees.all() or usual.iloc[0] < 0.5):
        row = table.loc[table.index[no_degrees.argmax()], [lon, lat]].tolist()
        way = "they lie in another CRS than " + crs if crs else "name their CRS (--crs EPSG:2154)"
        raise GlczooError(
            f"{guess.path}: {lon}, {lat} hold no degrees, but for example {row}. If they are metres, {way}; "
            "if the coordinates are elsewhere, name their columns: --columns lon=… lat=…"
        )
    guess.doubts += places.notes
    parts = [f"{mask.sum()} {reason}" for reason, mask in places.reasons.items() if mask.any()]
    if parts:
        guess.drop(f"of {len(table)} rows {' and '.join(parts)}")
    table = table.assign(**{"glczoo lon": places.lon, "glczoo lat": places.lat})
    return table[~places.unplaced]


def _with_species(
    guess: GuessedTable, table: pd.DataFrame, present: np.ndarray, ids: list[str], names: list[str]
) -> pd.DataFrame:
    """The rows to read, of a PO table the presences of a species, and their ids and names."""
    if guess.kind == "po":
        table, present = table[present], present[present]
    empty = {c: blank(table[c]) for c in {*ids, *names}}
    whole = [c for c in ids if is_whole(table[c], empty[c])]
    texts = [c for c in names if c not in whole and not empty[c].all()]
    if not whole and not texts:
        raise GlczooError(f"{guess.path}: the columns {ids or names} name no species in any row")
    column = whole[0] if whole else texts[0]
    nameless = empty[column]
    if guess.kind == "po":
        if nameless.any():
            guess.drop(f"{nameless.sum()} of {len(table)} rows without {column}")
        table, present = table[~nameless], present[~nameless]
        nameless = nameless[~nameless]
    guess.keys["species"] = column
    rows = table[present & ~nameless]
    if whole:
        guess.ids = pd.Series(numbers(rows[column])[0].astype(np.int64), rows.index)
        guess.reasons["species"] = f"{guess.ids.nunique()} species"
        if plain(column) in ("taxonkey", "acceptedtaxonkey"):  # of subspecies too, which `species` is not
            texts = [text for text in texts if plain(text) != "species"]
        if texts:
            guess.names = rows[texts[0]].where(~blank(rows[texts[0]]), "").astype(str)
            guess.reasons["species"] += f", their names in {texts[0]}"
    else:
        guess.names = rows[column].astype(str)
        guess.reasons["species"] = f"{guess.names.nunique()} names"
        if plain(column).endswith("scientificname"):
            guess.doubt(
                f"{column} is taken as it stands: names with authors, synonyms and subspecies are species of "
                "their own"
            )
    return table


def _take_wide(guess: GuessedTable, table: pd.DataFrame, species: list[str], others: list[str]) -> None:
    present = all_presences(table, species, str(guess.path)).sum(axis=0)
    guess.keys["layout"] = "wide"
    shown = ", ".join(f"{name} {number}" for name, number in list(zip(species, present, strict=True))[:4])
    more = ", …" if len(species) > 4 else ""
    guess.reasons["layout"] = f"guessed: {len(species)} columns are species, presences: {shown}{more}"
    guess.names = pd.Series([name for name, number in zip(species, present, strict=True) if number])
    if others:
        guess.doubt(f"columns that are taken for no species: {', '.join(others[:8])}")


def _look_at_records(guess: GuessedTable, file: TableFile, table: pd.DataFrame) -> None:
    """What the filters under `records` are for."""
    error, basis = first_column(file, _ERROR), first_column(file, ["basisofrecord"])
    if guess.kind == "po" and basis and (number := table[basis].isin(_CULTIVATED).sum()):
        guess.doubt(
            f"{number} records are fossils or living collections ({basis}): `records: {{basis: […]}}` in "
            "region.yaml uses those that it lists"
        )
    if error and error in table and (number := int((numbers(table[error])[0] > 1000).sum())):
        text = f"{number} of {len(table)} rows are less exact than 1 km ({error})"
        hint = ": `records: {max_uncertainty_m: 1000}` in region.yaml leaves them out"
        guess.doubt(text + (hint if guess.kind == "po" else ""))


def _patches_and_days(
    guess: GuessedTable, file: TableFile, table: pd.DataFrame, named: dict[str, str]
) -> None:
    for key, default in (("patch", "patchID"), ("day", "dayOfYear")):
        if key in named and named[key] != default:
            guess.keys[key] = named[key]
    if patch := first_column(file, [plain(named.get("patch", "patchID"))]):
        values = numbers(table[patch])[0]
        guess.patch_ids = np.where(np.isfinite(values), values, -1).astype(np.int64)
