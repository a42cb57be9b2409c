"""Grids of square cells to predict at: which cells, in which blocks, and where they lie.

Shapes: row[N], col[N] · lon[N], lat[N] in degrees · cells of a block are numbered row by row from the north.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.features
import rasterio.warp
from rasterio.crs import CRS
from rasterio.errors import CRSError

from glczoo.data.occurrences import Points
from glczoo.data.rasters import RasterStack, project
from glczoo.errors import GlczooError, MissingError
from glczoo.json_text import read_json

__all__ = ["DEGREES", "Block", "Cells", "Grid", "bounds_of", "box_of", "grid_like", "read_polygon"]

DEGREES = "EPSG:4326"
"""Longitude and latitude on WGS84."""
Polygons = list[dict[str, Any]]


@dataclass(frozen=True)
class Block:
    """A rectangle of a grid's cells."""

    number: int
    top: int
    left: int
    height: int
    width: int

    def __len__(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class Grid:
    """Square cells of a CRS, rows from north to south."""

    west: float  # in units of the CRS, as are north and cell
    north: float
    cell: float
    height: int
    width: int
    crs: str

    @classmethod
    def cover(cls, bbox: Sequence[float], resolution: float, crs: str = DEGREES) -> "Grid":
        """The cells that cover a box, from its north-west corner on; the last may reach beyond its sides.

        Args:
            bbox: west, south, east, north in units of the CRS.
            resolution: side of a cell in units of the CRS.
            crs: anything that names one, such as EPSG:3035.

        Raises:
            GlczooError: there is no such CRS, no area, or the box lies on no globe.
        """
        west, south, east, north = bbox
        known, box = _known(crs), f"the bounding box W {west:g} S {south:g} E {east:g} N {north:g}"
        if not (west < east and south < north and np.isfinite([*bbox]).all()):
            raise GlczooError(f"{box} has no area: give west south east north (a map cannot cross 180°)")
        if known.is_geographic and not (-180 <= west and east <= 180 and -90 <= south and north <= 90):
            raise GlczooError(f"{box} is not in degrees, the units of {crs}; give --crs, or lon and lat")
        if not 0 < resolution <= max(east - west, north - south):
            raise GlczooError(f"resolution {resolution:g} must be above 0 and no longer than {box}")
        height, width = (
            max(1, math.ceil((high - low) / resolution - 1e-6))
            for low, high in ((south, north), (west, east))
        )
        return cls(west, north, resolution, height, width, known.to_string())

    @property
    def metres(self) -> float:
        """Side of a cell, about: to compare grids."""
        return self.cell * (111_320 if CRS.from_user_input(self.crs).is_geographic else 1)

    @property
    def transform(self) -> rasterio.Affine:
        """From (column, row) to x, y."""
        return rasterio.Affine(self.cell, 0, self.west, 0, -self.cell, self.north)

    def blocks(self, side: int) -> list[Block]:
        """Blocks of at most `side` x `side` cells, row by row."""
        corners = [(top, left) for top in range(0, self.height, side) for left in range(0, self.width, side)]
        return [
            Block(number, top, left, min(side, self.height - top), min(side, self.width - left))
            for number, (top, left) in enumerate(corners)
        ]

    def centres(self, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """lon[h w], lat[h w] of the cells' centres; infinite where the projection has no place."""
        row, col = np.mgrid[: block.height, : block.width].reshape(2, -1)
        x = self.west + (block.left + col + 0.5) * self.cell
        y = self.north - (block.top + row + 0.5) * self.cell
        return (x, y) if self.crs == DEGREES else project(self.crs, DEGREES, x, y)

    def locate(self, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """row[N], col[N] of points, float64: behind the point stands the place within the cell."""
        x, y = (lon, lat) if self.crs == DEGREES else project(DEGREES, self.crs, lon, lat)
        return (self.north - y) / self.cell, (x - self.west) / self.cell

    def inside(self, block: Block, polygons: Polygons) -> np.ndarray:
        """Which cells of a block have their centre within polygons of degrees, bool[h w]."""
        shapes = [rasterio.warp.transform_geom(DEGREES, self.crs, shape) for shape in polygons]
        west, north = self.west + block.left * self.cell, self.north - block.top * self.cell
        corner = rasterio.Affine(self.cell, 0, west, 0, -self.cell, north)
        return ~rasterio.features.geometry_mask(shapes, (block.height, block.width), corner).ravel()


class Cells:
    """At which cells of a grid to predict, and where in them: at their centres, or at points."""

    def __init__(self, grid: Grid, polygons: Polygons | None = None, points: Points | None = None) -> None:
        """Choose all cells, those with their centre in polygons, those that hold a point, or both.

        Of several points in a cell the one nearest to its centre is taken.
        """
        self.grid, self._polygons, self._points = grid, polygons, points
        if points is not None:
            row, col = grid.locate(points.lon, points.lat)
            inside = np.flatnonzero((row >= 0) & (row < grid.height) & (col >= 0) & (col < grid.width))
            off = np.hypot(row[inside] % 1 - 0.5, col[inside] % 1 - 0.5)
            order = inside[np.argsort(off, kind="stable")]
            cell = row[order].astype(np.int64) * grid.width + col[order].astype(np.int64)
            cell, first = np.unique(cell, return_index=True)
            self._row, self._col = cell // grid.width, cell % grid.width
            self._points = points.at(order[first])

    def digest(self) -> str:
        """Tells one choice of cells from another."""
        points = self._points
        arrays = [] if points is None else [points.lon, points.lat, points.patch_id]
        content = json.dumps(self._polygons).encode() + b"".join(array.tobytes() for array in arrays)
        return hashlib.sha256(content).hexdigest()

    def of(self, block: Block) -> tuple[np.ndarray, Points]:
        """Positions in a block, int64[n], and the places to predict at."""
        if self._points is None:
            lon, lat = self.grid.centres(block)
            here, points = np.arange(len(lon)), Points(lon, lat, np.full(len(lon), -1), np.arange(len(lon)))
        else:
            row, col = self._row - block.top, self._col - block.left
            near = (row >= 0) & (row < block.height) & (col >= 0) & (col < block.width)
            here, points = row[near] * block.width + col[near], self._points.at(near)
        keep = np.isfinite(points.lon)
        if self._polygons is not None:
            keep &= self.grid.inside(block, self._polygons)[here]
        return here[keep], points.at(keep)


def grid_like(
    stacks: Sequence[RasterStack],
    bbox: Sequence[float] | None,
    polygons: Polygons | None,
    points: Points | None,
    crs: str | None,
) -> Grid:
    """The cells of the finest raster: those that a box, polygons' vertices or points reach, else all.

    `stacks`: the rasters; `bbox`: west, south, east, north in units of `crs`; `polygons`: in degrees.

    Raises:
        GlczooError: there is no raster, its cells are not square and upright, or its CRS is another one.
    """
    if not stacks:
        raise GlczooError("the model reads no raster whose cells to map", remedy="Give --resolution.")
    own = min((_own_grid(stack) for stack in stacks), key=lambda grid: grid.metres)
    if crs is not None and _known(crs).to_string() != own.crs:
        raise GlczooError(
            f"the finest raster's cells of {own.cell:g} are in units of {own.crs}, the map is in {crs}",
            remedy="Give --resolution, in units of --crs.",
        )
    if not (bbox or polygons or points):
        return own
    west, south, east, north = bbox or bounds_of(polygons, points, own.cell, own.crs)
    left, top = (math.floor(off / own.cell + 1e-6) for off in (west - own.west, own.north - north))
    corner = own.west + left * own.cell, own.north - top * own.cell
    return Grid.cover((corner[0], south, east, corner[1]), own.cell, own.crs)


def _own_grid(stack: RasterStack) -> Grid:
    to, (height, width) = stack.transform, stack.shape
    if to.b or to.d or not math.isclose(to.a, -to.e, rel_tol=1e-3):
        raise GlczooError(
            f"the cells of {stack.bands[0]} are not square and upright: a map needs others",
            remedy="Give --resolution.",
        )
    return Grid.cover((to.c, to.f + height * to.e, to.c + width * to.a, to.f), to.a, stack.crs)


def box_of(stacks: Sequence[RasterStack]) -> Polygons | None:
    """The part of the globe that all rasters share, as a polygon in degrees; None: they share nothing.

    `stacks`: the rasters.
    """
    if not stacks:
        return None
    sides = np.array([stack.bounds for stack in stacks])
    (west, south), (east, north) = sides[:, :2].max(axis=0), sides[:, 2:].min(axis=0)
    if not (west < east and south < north):
        return None
    inside = 1e-9  # the last cell ends at the side
    ring = [[west, south], [east - inside, south], [east - inside, north - inside], [west, north - inside]]
    return [{"type": "Polygon", "coordinates": [[*ring, ring[0]]]}]


def bounds_of(
    polygons: Polygons | None, points: Points | None, resolution: float, crs: str = DEGREES
) -> tuple[float, float, float, float]:
    """West, south, east, north of polygons' vertices or of points, out to multiples of the resolution.

    Raises:
        GlczooError: there is neither, or no place of them lies in the CRS.
    """
    if polygons is not None:
        lon, lat = np.array([*_vertices([shape["coordinates"] for shape in polygons])], float).T
    elif points is not None:
        lon, lat = points.lon, points.lat
    else:
        raise GlczooError("which area? Give a bounding box, a polygon or points")
    name = _known(crs).to_string()
    x, y = (lon, lat) if name == DEGREES else project(DEGREES, name, lon, lat)
    x, y = x[np.isfinite(x)], y[np.isfinite(y)]
    if not len(x):
        raise GlczooError(f"no place of the area lies in {crs}")
    west, south = (math.floor(v.min() / resolution) * resolution for v in (x, y))
    east, north = ((math.floor(v.max() / resolution) + 1) * resolution for v in (x, y))
    return west, south, east, north


def read_polygon(path: Path) -> Polygons:
    """The polygons of a GeoJSON file (RFC 7946: degrees, lon first).

    Raises:
        MissingError: there is no such file.
        GlczooError: it is no GeoJSON, or holds something else than polygons in degrees.
    """
    if not path.is_file():
        raise MissingError(f"there is no file {path}")
    try:
        polygons = list(_geometries(read_json(path)))
        kinds = {shape["type"] for shape in polygons}
        if not polygons or kinds - {"Polygon", "MultiPolygon"}:
            raise GlczooError(f"polygons are needed, it holds {', '.join(sorted(kinds)) or 'no geometry'}")
        vertices = np.array([*_vertices([shape["coordinates"] for shape in polygons])], float)
        if not len(vertices):
            raise GlczooError("its polygons have no corners")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GlczooError(f"{path} cannot be read as GeoJSON: {type(error).__name__} {error}") from None
    if (np.abs(vertices).max(axis=0) > (180, 90)).any():
        raise GlczooError(
            f"{path} is not in degrees, as GeoJSON is: it reaches to {vertices.max(0).tolist()}"
        )
    return polygons


def _geometries(geojson: dict[str, Any]) -> Iterator[dict[str, Any]]:
    match geojson["type"]:
        case "Feature":
            yield geojson["geometry"]
        case "FeatureCollection":
            for inner in geojson["features"]:
                yield from _geometries(inner)
        case "GeometryCollection":
            for inner in geojson["geometries"]:
                yield from _geometries(inner)
        case _:
            yield geojson


def _vertices(nested: Any) -> Iterator[list[float]]:
    if nested and isinstance(nested[0], int | float):
        yield nested[:2]
    else:
        for inner in nested:
            yield from _vertices(inner)


def _known(crs: str) -> CRS:
    try:
        return CRS.from_user_input(crs)
    except CRSError as error:
        raise GlczooError(f"there is no CRS {crs!r}: {error}") from None
