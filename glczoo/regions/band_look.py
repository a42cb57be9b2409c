"""One raster of a stranger, looked at: its grid, and name, unit, range, no data and kind of each band.

What the file says is taken from it; values are looked at on a coarse grid of at most 256 x 256 cells. What is
guessed is marked so.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import rasterio
import rasterio.warp
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioIOError

from glczoo.data.raster_files import RasterGrid, grid_of, has_mask, is_geographic, open_raster
from glczoo.data.rasters import degrees_of, missing_values
from glczoo.errors import GlczooError

__all__ = ["FoundBand", "Raster", "look"]

_LOOK = 256  # cells along a side that values are looked at
# What people write where there is nothing, in files that do not say so.
_FILLS = {
    *(-9.0, -99.0, -999.0, -9999.0, -99999.0, -999999.0, 9999.0, 99999.0, -32768.0, 32767.0),
    *(-32767.0, 65535.0, 255.0, -2147483648.0, 2147483647.0, 4294967295.0, -1.0, 1e20),
}
_MOST_CLASSES = 64
_CLASSES = re.compile(
    r"(land|world|glob|ground)_?(cover|use)|lulc|(^|_)(lu|lc|kg|nlcd|glc|wrb|usda|igbp|lccs)\d*(_|$)|esa_?cci|corine|"
    r"clc|soil_?(type|class|group|unit|order|texture)|geolog|lithol|bedrock|class|koppen|koeppen|geiger|"
    r"categor|biome|eco_?(region|system)|habitat|eunis|(^|_)type|zone|vegetation_?(type|map)|landform|"
    r"aspect_?class|physiogn|forest_?type|crop_?(type|map)|province|substrat|lulucf"
)


@dataclass(frozen=True)
class FoundBand:
    """A band as `region.yaml` describes it, and what is written beside it."""

    name: str
    file: str  # relative to the modality's folder
    index: int = 1
    unit: str = ""
    nodata: float | None = None  # guessed, where the file says none
    comment: str = ""
    coded: bool = False  # few whole numbers, which may stand for classes
    kind: Literal["number", "categorical"] = "number"  # guessed


@dataclass(frozen=True)
class Raster:
    """A raster file: where it lies and what its bands are."""

    path: Path
    grid: RasterGrid
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    bounds: tuple[float, float, float, float]  # west, south, east, north in degrees
    bands: tuple[FoundBand, ...]
    crs_is_guessed: bool = False

    @property
    def cell(self) -> float:
        """Side of a cell in units of the CRS."""
        return abs(self.grid.transform.a) or abs(self.grid.transform.b)

    @property
    def geographic(self) -> bool:
        """Whether these units are degrees."""
        return is_geographic(self.grid.crs)


def look(path: Path) -> Raster:
    """Look at a raster.

    Raises:
        GlczooError, MissingError: it cannot be used; the message says why, and what to do.
    """
    with open_raster(path) as source:
        guessed = source.crs is None and _in_degrees(source)
        grid = grid_of(source, "EPSG:4326" if guessed else None)
        west, south, east, north = degrees_of(tuple(source.bounds), grid.crs)
        south, north = min(south, north), max(south, north)
        return Raster(
            path,
            grid,
            source.dtypes,
            source.nodatavals,
            (west, south, east, north),
            tuple(_band(source, index) for index in source.indexes),
            guessed,
        )


def _in_degrees(source: rasterio.DatasetReader) -> bool:
    """Whether a grid that names no CRS looks like one of degrees: within the globe, and of some place."""
    west, south, east, north = source.bounds
    return (
        not source.transform.is_identity
        and -180 <= west < east <= 360
        and -90 <= min(south, north) < max(south, north) <= 90
        and abs(source.transform.a) < 5
    )


def _band(source: rasterio.DatasetReader, index: int) -> FoundBand:
    shape = tuple(min(side, _LOOK) for side in source.shape)
    try:
        values = source.read(index, out_shape=shape)
        masked = source.read_masks(index, out_shape=shape) == 0 if has_mask(source, index) else False
    except RasterioIOError as error:
        raise GlczooError(f"is damaged: {error}") from None
    dtype, own = source.dtypes[index - 1], source.nodatavals[index - 1]
    if values.dtype.kind == "c":
        raise GlczooError("holds complex numbers")
    if values.dtype == np.uint64:
        raise GlczooError("holds uint64: store it as another type, for example gdal_translate -ot Int32")
    known = ~(missing_values(values, [own]) | masked)
    untagged = (
        values.dtype.kind == "f"
        and own is None
        and bool((np.isfinite(values) & ~known & ~np.asarray(masked)).any())
    )
    fill = standing_apart(values[known])
    if fill is not None:
        known &= ~np.isclose(values, fill, rtol=1e-6, atol=0)
    if not known.any():
        beside = f" beside its nodata {own:g}" if own is not None else ""
        raise GlczooError(f"band {index} has no data{beside}")
    scale, offset = source.scales[index - 1], source.offsets[index - 1]
    distinct = np.unique(values[known])
    kind, why = _kind(source, index, distinct)
    described = (source.descriptions[index - 1] or "").strip()
    notes = [described] if described else []
    notes.append(_range(dtype, distinct, scale, offset))
    if fill is not None:
        other = "none" if own is None else f"{own:g}"
        notes.append(f"nodata guessed: {fill:g} stands apart from all others, and the file names {other}")
    elif untagged:
        notes.append("nodata guessed: numbers beyond 1e20 are taken for no data, the file names none")
    elif own is None and not has_mask(source, index):
        notes.append("the file names no nodata")
    notes += [f"{(~known).mean():.0%} no data"] if not known.all() else []
    notes += [f"categorical is guessed: {why}"] if kind == "categorical" else []
    if few := kind == "number" and _few_whole_numbers(distinct):
        notes.append(f"guessed to be numbers: {len(distinct)} whole ones, or do they stand for classes?")
    return FoundBand(
        name=_name(source, index),
        file=Path(source.name).name,
        index=index,
        unit="class" if kind == "categorical" else _unit(source, index),
        nodata=fill,
        comment="; ".join(notes),
        coded=few,
        kind=kind,
    )


def _range(dtype: str, distinct: np.ndarray, scale: float, offset: float) -> str:
    ends = distinct[[0, -1]].astype(np.float64) * scale + offset
    scaled = "" if (scale, offset) == (1, 0) else f" after the file's scale {scale:g} and offset {offset:g}"
    if len(distinct) == 1:
        return f"{dtype}, {ends[0]:g} everywhere{scaled}: leave it out?"
    return f"{dtype}, about {ends[0]:g} to {ends[1]:g}{scaled}"


def standing_apart(values: np.ndarray) -> float | None:
    """A least or greatest value that is no value but stands for no data; None where there is none.

    It is a usual fill value further from all others than they reach from each other, or any value that many
    cells share and that lies ten times as far off.
    """
    distinct, number = np.unique(values, return_counts=True)
    if len(distinct) < 2:
        return None
    wide = distinct.astype(np.float64)
    for place, gap, reach in (
        (0, wide[1] - wide[0], wide[-1] - wide[1]),
        (-1, wide[-1] - wide[-2], wide[-2] - wide[0]),
    ):
        value = wide[place]
        usual = value in _FILLS and gap > max(reach, 1 if abs(value) > 90 else 20)
        usual |= value in _FILLS and value < -90 and wide[1] >= 0 and gap > 0.05 * reach
        odd = len(distinct) > 3 and number[place] >= max(4, 0.001 * len(values)) and gap > 10 * max(reach, 1)
        if usual or odd:
            return float(value)
    return None


def _kind(
    source: rasterio.DatasetReader, index: int, distinct: np.ndarray
) -> tuple[Literal["number", "categorical"], str]:
    """Whether a band holds classes, and what says so."""
    if len(distinct) < 2 or len(distinct) > _MOST_CLASSES or (distinct % 1 != 0).any():
        return "number", ""
    if source.colorinterp[index - 1] == ColorInterp.palette:
        return "categorical", "the file has a palette"
    if _has_category_names(Path(source.name)):
        return "categorical", "the file names its classes"
    title = re.sub(r"[\W_]+", "_", f"{Path(source.name).stem}_{source.descriptions[index - 1] or ''}".lower())
    if _CLASSES.search(title):
        return "categorical", f"{len(distinct)} whole numbers, and its name"
    return "number", ""


def _few_whole_numbers(distinct: np.ndarray) -> bool:
    """Whether a band's values may be codes: few whole numbers, with gaps between them."""
    if (distinct % 1 != 0).any() or not 2 <= len(distinct) <= _MOST_CLASSES:
        return False
    return len(distinct) <= 3 or float(distinct[-1] - distinct[0]) + 1 > len(distinct)


def _has_category_names(path: Path) -> bool:
    """Whether GDAL's file beside a raster, or a value attribute table, names classes."""
    beside = path.with_name(f"{path.name}.aux.xml")
    if path.with_name(f"{path.name}.vat.dbf").exists():
        return True
    if not beside.is_file() or beside.stat().st_size > 2**20:
        return False
    text = beside.read_text("utf-8", errors="replace")
    return "<CategoryNames>" in text or "<GDALRasterAttributeTable" in text and "Class" in text


def _unit(source: rasterio.DatasetReader, index: int) -> str:
    """Unit of the values, after the file's scale and offset."""
    tags = {key.lower(): value for key, value in source.tags(index).items()}
    bracket = re.search(r"[(\[]([^()\[\]]{1,20})[)\]]\s*$", source.descriptions[index - 1] or "")
    unit = source.units[index - 1] or tags.get("units") or tags.get("unit")
    return unit or (bracket[1] if bracket else "")


def _name(source: rasterio.DatasetReader, index: int) -> str:
    """The description's first word if it is one, else the file's name and the band's number."""
    stem = Path(source.name).stem
    if source.count == 1:
        return stem
    described = re.split(r"[:=(\[]", source.descriptions[index - 1] or "")[0].strip()
    if re.fullmatch(r"[A-Za-z][\w.-]{0,39}", described):
        return described
    colour = source.colorinterp[index - 1].name
    return colour if colour in ("red", "green", "blue") else f"{stem}_{index}"
