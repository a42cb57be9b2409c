"""GeoTIFFs become memory-mapped stacks: values[H + 2 pad, W + 2 pad, C], one for each grid.

A patch is then one slice of rows, whatever the files' layout. Every raster keeps its own grid: a stack holds
the bands that share transform, CRS and type, and turns lon, lat into (row, col) of that grid. Nothing of
rasterio is left per sample. The only module (beside those that write maps) that imports rasterio.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasterio.warp
from rasterio._err import CPLE_BaseError  # what warp.transform raises; rasterio.errors does not export it
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

from glczoo.data.cache import fingerprint, kept, mapped
from glczoo.data.region import Band
from glczoo.progress import Track

__all__ = ["RasterStack", "few", "open_stacks", "project"]

# A type without a value to spare for "no data" becomes the next one that has it.
_WIDER = {
    "uint8": "int16",
    "int8": "int16",
    "int16": "int32",
    "uint16": "int32",
    "int32": "float64",
    "uint32": "float64",
    "int64": "float64",
}
_ROWS = 256  # rows decoded at a time: bounds the memory of a build, as does
_GDAL_CACHE = 128  # MB of decoded blocks that GDAL keeps; of itself it takes a twentieth of the machine


@dataclass(frozen=True)
class RasterStack:
    """Bands of one grid, channels last, with a border of no data as wide as half a patch.

    `values` is read-only and shared by every process through the page cache. Cells without data hold
    `sentinel`.
    """

    values: np.ndarray  # [H + 2 pad, W + 2 pad, C] in the rasters' own type
    sentinel: float  # nan in stacks of floats
    bands: tuple[str, ...]
    transform: rasterio.Affine
    crs: str
    pad: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the grid, in cells."""
        height, width, _ = self.values.shape
        return height - 2 * self.pad, width - 2 * self.pad

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north of the grid's corners, in degrees."""
        height, width = self.shape
        col, row = np.array([[0, width, 0, width], [0, 0, height, height]])
        to = self.transform
        x, y = to.a * col + to.b * row + to.c, to.d * col + to.e * row + to.f
        lon, lat = (x, y) if self.crs == "EPSG:4326" else project(self.crs, "EPSG:4326", x, y)
        return float(lon.min()), float(lat.min()), float(lon.max()), float(lat.max())

    def missing(self, values: np.ndarray) -> np.ndarray:
        """Where values of this stack stand for no data."""
        return np.isnan(values) if np.isnan(self.sentinel) else values == self.sentinel

    def locate(self, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cells of points in degrees, int32[N] each; may lie outside of the grid (see `outside`)."""
        x, y = lon, lat
        if self.crs != "EPSG:4326":
            x, y = project("EPSG:4326", self.crs, lon, lat)
        to_cell = ~self.transform
        with np.errstate(invalid="ignore"):  # a point that has no place in the projection is infinitely far
            col = to_cell.a * x + to_cell.b * y + to_cell.c
            row = to_cell.d * x + to_cell.e * y + to_cell.f
        limit = np.iinfo(np.int32).max
        return tuple(
            np.floor(np.nan_to_num(v, nan=limit).clip(-limit, limit)).astype(np.int32) for v in (row, col)
        )

    def outside(self, row: np.ndarray, col: np.ndarray) -> np.ndarray:
        """Which cells are not on the grid, bool[N]."""
        height, width = self.shape
        return (row < 0) | (row >= height) | (col < 0) | (col >= width)

    def values_at(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """Values of the bands at points in degrees, float32[N, C]; NaN outside the grid and without data."""
        row, col = self.locate(lon, lat)
        inside = ~self.outside(row, col)
        stored = self.values[row[inside] + self.pad, col[inside] + self.pad]
        values = np.full((len(row), len(self.bands)), np.nan, np.float32)
        values[inside] = np.where(self.missing(stored), np.nan, stored)
        return values

    def coverage(self, row: np.ndarray, col: np.ndarray, size: int) -> np.ndarray:
        """How many of the patches around these cells hold each cell of `values`, int64[H + 2 pad, W + 2 pad].

        Sums over all patches become sums over the raster, weighted by this: exact, however many patches.
        """
        top, left = row + (self.pad - size // 2), col + (self.pad - size // 2)
        corners = np.zeros((self.values.shape[0] + 1, self.values.shape[1] + 1), np.int64)
        for r, c, sign in ((0, 0, 1), (size, 0, -1), (0, size, -1), (size, size, 1)):
            np.add.at(corners, (top + r, left + c), sign)
        return corners.cumsum(0).cumsum(1)[:-1, :-1]


def open_stacks(bands: Sequence[tuple[Band, Path]], patch_size: int) -> list[RasterStack]:
    """Open the bands' stacks, building those that are not in the cache (see `cache`).

    Raises:
        FileNotFoundError: a raster is not there.
        ValueError: a file is no raster, is truncated, lacks the band, has no CRS, or a band has no data.
    """
    grids: dict[tuple, list[tuple[Band, Path]]] = {}
    for band, path in bands:
        with _open(path) as source:
            if not 1 <= band.index <= source.count:
                raise ValueError(f"{path} has {source.count} band(s), band {band.name} asks for {band.index}")
            if source.crs is None:
                raise ValueError(f"{path} has no CRS; set one, for example with `rio edit-info --crs`")
            grid = (source.transform, source.crs.to_string(), source.shape, source.dtypes[band.index - 1])
        grids.setdefault(grid, []).append((band, path))
    stacks = []
    pad = (patch_size + 1) // 2
    for (transform, crs, shape, dtype), members in grids.items():
        values = _cached(members, shape, dtype, pad)
        stacks.append(
            RasterStack(
                values, _sentinel(values.dtype), tuple(band.name for band, _ in members), transform, crs, pad
            )
        )
    return stacks


def project(source: str, target: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x[N], y[N] of points in another CRS; infinite for a point that has no place in it. Degrees: lon, lat.

    One such point makes the whole call of GDAL fail: halves are tried until it is alone.
    """
    try:
        moved = rasterio.warp.transform(source, target, x, y)
        return np.asarray(moved[0]), np.asarray(moved[1])
    except CPLE_BaseError:
        if len(x) == 1:
            return np.array([np.inf]), np.array([np.inf])
        half = len(x) // 2
        parts = [project(source, target, x[part], y[part]) for part in (slice(half), slice(half, None))]
        return np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])


def _open(path: Path) -> rasterio.DatasetReader:
    try:
        return rasterio.open(path)
    except RasterioIOError as error:
        raise ValueError(f"{path} cannot be read as a raster: {error}") from None


def _sentinel(dtype: np.dtype) -> float:
    if dtype.kind == "f":
        return np.nan
    return int(np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max)


def _cached(members: list[tuple[Band, Path]], shape: tuple[int, int], dtype: str, pad: int) -> np.ndarray:
    def build(path: Path) -> None:
        stored = dtype
        while not _build(members, shape, stored, pad, path):
            stored = _WIDER[stored]

    described = [(*fingerprint(path), band.index, band.nodata) for band, path in members]
    path = kept("stacks", [described, pad], build, ".npy")
    return mapped(path, path)


def _build(
    members: list[tuple[Band, Path]], shape: tuple[int, int], dtype: str, pad: int, path: Path
) -> bool:
    """Decode the members into one array; False if the type has no value to spare for no data."""
    stored = np.dtype("float32" if dtype == "float64" else dtype)
    sentinel = _sentinel(stored)
    height, width = shape
    padded = (height + 2 * pad, width + 2 * pad, len(members))
    # Written front to back, not through a map: a full disk is then an error instead of a killed process.
    header = {"descr": np.lib.format.dtype_to_descr(stored), "fortran_order": False, "shape": padded}
    border = np.full((pad, *padded[1:]), sentinel, stored)
    lines = np.full((_ROWS, *padded[1:]), sentinel, stored)
    seen = np.zeros(len(members), np.int64)
    with ExitStack() as opened:
        opened.enter_context(rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE))
        file = opened.enter_context(open(path, "wb"))
        sources = [(band, opened.enter_context(_open(source))) for band, source in members]
        np.lib.format.write_array_header_1_0(file, header)
        border.tofile(file)
        for top in Track(
            range(0, height, _ROWS), title="rasters", unit="lines", scale=_ROWS,
            hidden=height < 1000,
        ):  # fmt: skip
            rows = min(_ROWS, height - top)
            for channel, (band, source) in enumerate(sources):
                try:
                    read = source.read(band.index, window=Window(0, top, width, rows))
                except RasterioIOError as error:
                    raise ValueError(f"{source.name} is damaged around row {top}: {error}") from None
                missing = _missing(read, [source.nodatavals[band.index - 1], band.nodata])
                if stored.kind != "f" and ((read == sentinel) & ~missing).any():
                    return False
                lines[:rows, pad : pad + width, channel] = np.where(missing, stored.type(sentinel), read)
                seen[channel] += missing.size - missing.sum()
            lines[:rows].tofile(file)
        border.tofile(file)
    empty = [f"{band.name} ({file})" for (band, file), count in zip(members, seen, strict=True) if count == 0]
    if empty:
        raise ValueError(f"no cell of these bands has data: {', '.join(empty)}; is the nodata value right?")
    return True


def _missing(values: np.ndarray, nodata: Sequence[float | None]) -> np.ndarray:
    """Cells without data. Float-like nodata such as -3.4e38 is compared with a tolerance."""
    missing = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    for value in set(nodata):
        if value is None or np.isnan(value):
            continue
        if values.dtype.kind == "f":
            missing |= np.isclose(values, value, rtol=1e-6, atol=0)
        elif value == np.round(value):
            missing |= values == int(value)
    return missing


def few(names: Sequence[str]) -> str:
    """The first and the last of many names, for a message."""
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]}"
