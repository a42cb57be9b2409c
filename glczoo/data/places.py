"""Coordinates of a table's rows: from whatever the columns hold to degrees, or the reason why not.

Decimal commas, projected coordinates, longitudes from 0 to 360, values that stand for "not known" such as
-999 or 0, 0: each is understood where it is plain, and named.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from glczoo.data.rasters import project
from glczoo.errors import GlczooError

__all__ = [
    "Places",
    "are_metres",
    "coordinate_columns",
    "crs_in_names",
    "numbers",
    "place_rows",
    "plain",
    "within",
]

# Names of columns by their letters and digits, in order of preference; then what else means the same.
LON = [
    *("decimallongitude", "longitudedecimal", "lon", "longitude", "long", "lng", "longi", "longdd", "londd"),
    *("decimallong", "decimallon", "longdec", "lonwgs84", "longitudewgs84", "xwgs84", "xlong", "xlon"),
    *("geographischelange", "geogrlange", "langengrad", "laenge", "lange", "lengtegraad"),
    *("longitud", "longitudine"),
]
LAT = [
    *("decimallatitude", "latitudedecimal", "lat", "latitude", "latdd", "decimallat", "latdec", "latwgs84"),
    *("latitudewgs84", "ywgs84", "ylat", "geographischebreite", "geogrbreite", "breitengrad"),
    *("breite", "breedtegraad", "latitud", "latitudine"),
]
_BEFORE = r"(?:gps|site|plot|sample|point|centroid|start|mean|event|decimal|obs|x|y|wgs84)*"
_BEHIND = r"(?:dd|dec|decimal|deg|degrees?|wgs84|wgs|epsg4326|4326|gps|centroid|start|mean|x|y|e|w|n|s)*"
_LON_LIKE = re.compile(_BEFORE + r"(?:longitude|longitud|long|lon|lng)" + _BEHIND)
_LAT_LIKE = re.compile(_BEFORE + r"(?:latitude|latitud|lat)" + _BEHIND)
X = ["x", "xcoord", "xcoordinate", "coordx", "coordsx", "pointx", "easting", "east", "e", "ecoord"]
Y = [
    "y",
    "ycoord",
    "ycoordinate",
    "coordy",
    "coordsy",
    "pointy",
    "northing",
    "north",
    "n",
    "ncoord",
    "coordn",
]
_X_LIKE = re.compile(r"(?:x|east|easting|utmx|utme|rechtswert|hochwertx|coordx)(?:coord)?[a-z]{0,7}\d*")
_Y_LIKE = re.compile(r"(?:y|north|northing|utmy|utmn|hochwert|coordy)(?:coord)?[a-z]{0,7}\d*")
_MISSING = {"", "na", "n/a", "nan", "null", "none", "nil", "-", "?", "\\n", "#n/a", "missing"}
_SIDE = {"n": 1, "e": 1, "s": -1, "w": -1}
_DEGREES = re.compile(  # 48.5°N, 48°30'15" N, 48 30 15.2 N, 1.6 W
    r"([+-]?)(\d+(?:[.,]\d+)?)\s*[°ºd]?\s*(?:(\d+(?:[.,]\d+)?)\s*['′’m]?\s*)?"
    r"(?:(\d+(?:[.,]\d+)?)\s*(?:\"|″|”|''|s(?!$))?\s*)?([nsew]?)",
    re.IGNORECASE,
)
_MOSTLY = 0.6  # share of a column's cells that are numbers: the others may say that nothing is known
_COMMA = r"[+-]?\d*,\d+"
_THOUSAND_OR_COMMA = r"[+-]?\d{1,3},\d{3}"
# What sets thousands apart, the decimal sign, and a number in which these are plain.
_THOUSANDS = [
    (r"[\s'’]", ".", r"[+-]?\d{1,3}(?:[\s'’]\d{3})+(?:\.\d*)?"),
    (r"[\s'’]", ",", r"[+-]?\d{1,3}(?:[\s'’]\d{3})+,\d*"),
    (r"\.", ",", r"[+-]?\d{1,3}(?:(?:\.\d{3})+,\d*|(?:\.\d{3}){2,})"),
    (r",", ".", r"[+-]?\d{1,3}(?:(?:,\d{3})+\.\d*|(?:,\d{3}){2,})"),
]

Bounds = tuple[float, float, float, float]


@dataclass
class Places:
    """Degrees of every row, and why a row has none."""

    lon: np.ndarray  # float64[n], nan where the row has no place
    lat: np.ndarray  # float64[n]
    reasons: dict[str, np.ndarray] = field(default_factory=dict)  # reason → bool[n]
    notes: list[str] = field(default_factory=list)  # how the columns were understood

    @property
    def unplaced(self) -> np.ndarray:
        """Rows without a place, bool[n]."""
        return np.isnan(self.lon) | np.isnan(self.lat)


def plain(name: str) -> str:
    """A column's name by its letters and digits alone: `Site ID`, `site_id` and `SITEID` are one."""
    return re.sub(r"[^\w]|_", "", name.casefold()).replace("ä", "a").replace("ö", "o").replace("ü", "u")


def coordinate_columns(
    names: Sequence[str], where: str, projected: bool = False
) -> tuple[str | None, str | None]:
    """The columns of longitude and latitude, or of x and y, by their names; None where there is none.

    Args:
        names: of all columns.
        where: the table, for a message.
        projected: whether x and y are meant before longitude and latitude.

    Raises:
        GlczooError: two columns are named alike.
    """
    degrees = (LON, _LON_LIKE), (LAT, _LAT_LIKE)
    metres = (X, _X_LIKE), (Y, _Y_LIKE)
    for axes in (metres, degrees) if projected else (degrees, metres):
        lon, lat = (_column_named(names, known, like, where) for known, like in axes)
        if lon is not None and lat is not None:
            return lon, lat
    return lon or _column_named(names, *degrees[0], where), lat or _column_named(names, *degrees[1], where)


def _column_named(
    names: Sequence[str], known: Sequence[str], like: re.Pattern[str], where: str
) -> str | None:
    """The column with the first of the known names, else one with a name like them."""
    alike = next((a for k in known if (a := [name for name in names if plain(name) == k])), [])
    alike = alike or [name for name in names if like.fullmatch(plain(name))]
    if len(alike) > 1:
        raise GlczooError(
            f"{where}: the columns {' and '.join(alike)} are named alike: rename one, or name the right one "
            "with --columns (init) or in region.yaml"
        )
    return alike[0] if alike else None


def crs_in_names(*names: str) -> str | None:
    """The EPSG code that the names of columns bear, as in x_EPSG3035."""
    codes = {match[1] for name in names if (match := re.search(r"epsg[_: ]?(\d{4,5})", name.lower()))}
    return f"EPSG:{codes.pop()}" if len(codes) == 1 else None


def are_metres(x: pd.Series, y: pd.Series) -> bool:
    """Whether most of the numbers are too large for degrees. `x`, `y`: columns of coordinates."""
    return bool((np.abs(np.stack([numbers(x)[0], numbers(y)[0]])) > 1000).mean() > 0.5)


def numbers(column: pd.Series) -> tuple[np.ndarray, bool]:
    """float64[n] of a column, nan where it holds no number, and whether it is written with decimal commas.

    Thousands may be set apart by blanks, apostrophes, points or commas, where it is plain which these are.
    """
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(float, na_value=np.nan), False
    values = pd.to_numeric(column, errors="coerce").to_numpy(float, na_value=np.nan)
    if not np.isnan(values).any():
        return values, False
    texts = column.map(lambda value: "" if value is None or value != value else str(value).strip())
    texts = texts.where(~texts.str.lower().isin(_MISSING), "")
    plainly = texts.where(np.isnan(values), "0")  # only what is no number as it stands
    for mark, decimal, pattern in _THOUSANDS:
        grouped = texts.str.fullmatch(pattern)
        if (
            grouped.any()
            and (grouped | (plainly == "") | plainly.str.fullmatch(_COMMA) | ~np.isnan(values)).all()
        ):
            texts = texts.str.replace(mark, "", regex=True)
            return _with_points(texts, decimal), decimal == ","
    commas = texts.str.fullmatch(_COMMA)
    if texts[~np.isnan(values)].str.contains(".", regex=False).any():  # 1,234 may be a thousand there
        commas &= ~texts.str.fullmatch(_THOUSAND_OR_COMMA)
    known, filled = commas | ~np.isnan(values), texts != ""
    if not commas.any() or known.sum() <= _MOSTLY * filled.sum():
        return values, False
    return _with_points(texts.where(commas | ~np.isnan(values), ""), ","), True


def _with_points(texts: pd.Series, decimal: str) -> np.ndarray:
    return pd.to_numeric(texts.str.replace(decimal, "."), errors="coerce").to_numpy(float, na_value=np.nan)


def blank(column: pd.Series) -> np.ndarray:
    """Cells that hold nothing, or a word for nothing, bool[n]."""
    empty = column.isna().to_numpy()
    if pd.api.types.is_numeric_dtype(column.dtype):
        return empty
    return empty | column.astype(str).str.strip().str.lower().isin(_MISSING).to_numpy()


def place_rows(
    x_column: pd.Series, y_column: pd.Series, crs: str | None = None, bounds: Bounds | None = None
) -> Places:
    """Degrees of the rows of a table.

    Args:
        x_column: longitude, or x in `crs`.
        y_column: latitude, or y.
        crs: of the columns; degrees (WGS84) if None.
        bounds: of the region: 0, 0 is a place where it lies inside.

    Raises:
        GlczooError: the CRS is not known.
    """
    x, x_comma = numbers(x_column)
    y, y_comma = numbers(y_column)
    signed = crs is None and np.isnan(x[~blank(x_column)]).all() and np.isnan(y[~blank(y_column)]).all()
    if signed:  # not a number in them: degrees with their signs, minutes and seconds, or something else
        x, y = _degrees(x_column), _degrees(y_column)
    empty = blank(x_column) | blank(y_column)
    no_number = (np.isnan(x) | np.isnan(y)) & ~empty
    places = Places(x.copy(), y.copy())
    if signed and not places.unplaced.all():
        places.notes.append(f"degrees with signs, minutes or seconds in {x_column.name}, {y_column.name}")
    if x_comma or y_comma:
        places.notes.append(f"decimal commas in {x_column.name}, {y_column.name}")
    nowhere = (x == 0) & (y == 0)
    if crs is not None:
        _unproject(places, crs, ~(empty | no_number))
    else:
        _turn(places, str(x_column.name))
    outside = ~(empty | no_number) & ~((np.abs(places.lon) <= 180) & (np.abs(places.lat) <= 90))
    nowhere &= ~outside if bounds is None else ~outside & ~within(0.0, 0.0, bounds)
    places.reasons = {
        "without coordinates": empty,
        "with coordinates that are no numbers": no_number,
        "with coordinates that are no place on Earth": outside,
        "at 0, 0": nowhere,
    }
    wrong = empty | no_number | outside | nowhere
    places.lon[wrong] = places.lat[wrong] = np.nan
    return places


def _turn(places: Places, name: str) -> None:
    """Bring longitudes that count from 0 to 360, or from -360 to 0, to -180 to 180."""
    lon = places.lon
    above, below = (lon > 180) & (lon <= 360), (lon < -180) & (lon >= -360)
    if above.any() and not ((lon < 0) & (lon >= -180)).any():
        lon[above] -= 360
        places.notes.append(f"longitudes from 0 to 360 in {name}: those above 180 lie west of 0")
    elif below.any() and not ((lon > 0) & (lon <= 360)).any():
        lon[below] += 360
        places.notes.append(f"longitudes from -360 to 0 in {name}: those below -180 lie east of 0")


def _degrees(column: pd.Series) -> np.ndarray:
    """float64[n] of degrees, minutes and seconds with their signs; nan where a cell holds something else."""
    return np.array([_degree(str(value).strip()) for value in column.astype(object)], float)


def _degree(text: str) -> float:
    match = _DEGREES.fullmatch(text)
    if match is None:
        return np.nan
    sign, *parts, side = match.groups()
    whole, minutes, seconds = (float((part or "0").replace(",", ".")) for part in parts)
    if minutes >= 60 or seconds >= 60:
        return np.nan
    value = whole + minutes / 60 + seconds / 3600
    return value * _SIDE.get(side.lower(), 1) * (-1 if sign == "-" else 1)


def _unproject(places: Places, crs: str, known: np.ndarray) -> None:
    try:
        lon, lat = project(crs, "EPSG:4326", places.lon[known], places.lat[known])
    except ValueError as error:
        raise GlczooError(f"the CRS {crs!r} is not known ({error}); one is named like EPSG:2154") from None
    places.lon[known], places.lat[known] = lon, lat
    places.notes.append(f"projected from {crs}")


def within(lon: np.ndarray | float, lat: np.ndarray | float, bounds: Bounds) -> np.ndarray:
    """Which places lie in west, south, east, north; a west above east is a region across 180°.

    `bounds`: in that order, in degrees.
    """
    west, south, east, north = bounds
    if east > 180:  # of a raster that counts from 0 to 360
        whole = east - west >= 360
        west, east = (-180.0, 180.0) if whole else ((west + 180) % 360 - 180, (east + 180) % 360 - 180)
    across = (lon >= west) & (lon <= east) if west <= east else (lon >= west) | (lon <= east)
    return np.asarray(across & (lat >= south) & (lat <= north))
