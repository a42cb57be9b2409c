"""GeoTIFFs become memory-mapped stacks: values[H + 2 pad, W + 2 pad, C], one for each grid.

A patch is then one slice of rows, whatever the files' layout. Every raster keeps its own grid: a stack holds
the bands that share transform, CRS and type, and turns lon, lat into (row, col) of that grid. Nothing of
rasterio is left per sample. The only module (beside those that write maps) that imports rasterio.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import rasterio.warp
from rasterio._err import CPLE_BaseError  # what warp.transform raises; rasterio.errors does not export it
from rasterio.errors import RasterioIOError
from rasterio.windows import Window
from tqdm import tqdm

from glczoo.data.region import Band

__all__ = ["RasterStack", "open_stacks"]

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
_ROWS = 256  # rows decoded at a time: bounds the memory of a build


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

    def missing(self, values: np.ndarray) -> np.ndarray:
        """Where values of this stack stand for no data."""
        return np.isnan(values) if np.isnan(self.sentinel) else values == self.sentinel

    def locate(self, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cells of points in degrees, int32[N] each; may lie outside of the grid (see `outside`)."""
        x, y = lon, lat
        if self.crs != "EPSG:4326":
            x, y = _project(self.crs, lon, lat)
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

    def gather(self, row: np.ndarray, col: np.ndarray, size: int, out: np.ndarray) -> None:
        """Copy the patch around every cell into `out[B, size, size, C]`; the cell is at [size // 2].

        Cells must be on the grid and `size` at most twice the border.
        """
        top, left = row + (self.pad - size // 2), col + (self.pad - size // 2)
        for i, (r, c) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
            out[i] = self.values[r : r + size, c : c + size]

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
    """Open the bands' stacks, building those that are not in the cache (`GLCZOO_CACHE`, ~/.cache/glczoo).

    A stack is kept under a name made of its sources' paths, sizes and times of change. It is written beside
    and renamed: two processes may build at once, and a killed one leaves nothing half-written.

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


def _project(crs: str, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x[N], y[N] of points in degrees; infinite for a point that has no place in the projection.

    One such point makes the whole call of GDAL fail: halves are tried until it is alone.
    """
    try:
        x, y = rasterio.warp.transform("EPSG:4326", crs, lon, lat)
        return np.asarray(x), np.asarray(y)
    except CPLE_BaseError:
        if len(lon) == 1:
            return np.array([np.inf]), np.array([np.inf])
        half = len(lon) // 2
        parts = [_project(crs, lon[part], lat[part]) for part in (slice(half), slice(half, None))]
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
    described = [
        (str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns, band.index, band.nodata)
        for band, path in members
    ]
    key = hashlib.sha256(json.dumps([described, pad]).encode()).hexdigest()[:24]
    folder = Path(os.environ.get("GLCZOO_CACHE", Path.home() / ".cache" / "glczoo")) / "stacks"
    target = folder / f"{key}.npy"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{key}-{os.getpid()}.npy"
        try:
            while not _build(members, shape, dtype, pad, partial):
                dtype = _WIDER[dtype]
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    try:
        return np.load(target, mmap_mode="r")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{target} is damaged ({error}); delete it, it will be built again") from None


def _build(
    members: list[tuple[Band, Path]], shape: tuple[int, int], dtype: str, pad: int, path: Path
) -> bool:
    """Decode the members into one array; False if the type has no value to spare for no data."""
    stored = np.dtype("float32" if dtype == "float64" else dtype)
    sentinel = _sentinel(stored)
    height, width = shape
    padded = (height + 2 * pad, width + 2 * pad, len(members))
    values = np.lib.format.open_memmap(path, mode="w+", dtype=stored, shape=padded)
    values[:] = sentinel
    sources = [(band, _open(file)) for band, file in members]
    seen = np.zeros(len(members), np.int64)
    try:
        for top in tqdm(
            range(0, height, _ROWS), desc="rasters", unit="rows", leave=False, disable=height < 1000
        ):
            rows = min(_ROWS, height - top)
            block = values[pad + top : pad + top + rows, pad : pad + width]
            for channel, (band, source) in enumerate(sources):
                try:
                    window = Window(0, top, width, rows)
                    read = source.read(band.index, window=window)
                    valid = _valid(read, [source.nodatavals[band.index - 1], band.nodata])
                except RasterioIOError as error:
                    raise ValueError(f"{source.name} is damaged around row {top}: {error}") from None
                if stored.kind != "f" and (read[valid] == sentinel).any():
                    return False
                block[..., channel] = np.where(valid, read, stored.type(sentinel))
                seen[channel] += valid.sum()
    finally:
        for _, source in sources:
            source.close()
    empty = [f"{band.name} ({file})" for (band, file), count in zip(members, seen, strict=True) if count == 0]
    if empty:
        raise ValueError(f"no cell of these bands has data: {', '.join(empty)}; is the nodata value right?")
    values.flush()
    return True


def _valid(values: np.ndarray, nodata: Sequence[float | None]) -> np.ndarray:
    """Cells with data. Float-like nodata such as -3.4e38 is compared with a tolerance."""
    valid = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    for value in nodata:
        if value is not None and not np.isnan(value):
            tolerance = 1e-6 if values.dtype.kind == "f" else 0
            valid &= ~np.isclose(values, value, rtol=tolerance, atol=0)
    return valid
