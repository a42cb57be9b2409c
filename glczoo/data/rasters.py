"""Rasters become memory-mapped stacks: values[H + 2 pad, W + 2 pad, C], one for each grid.

A patch is then one slice of rows, whatever the files' layout. Every raster keeps its own grid: a stack holds
the bands that share transform, CRS and type, rows from north to south, and turns lon, lat into (row, col) of
that grid. Scale and offset of a file are applied once, here. Nothing of rasterio is left per sample.
"""

from collections.abc import Iterator, Sequence
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
from glczoo.data.raster_files import BandFile, RasterGrid, grid_of, has_mask, is_geographic, open_raster
from glczoo.data.units import Line, between
from glczoo.errors import GlczooError
from glczoo.progress import Track
from glczoo.yaml_text import shown

__all__ = ["RasterStack", "few", "open_stacks", "project", "without_values"]

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
_LINES = 256  # rows decoded at a time, or fewer:
_BUFFER = 2**26  # bytes of rows that are decoded at a time: bounds the memory of a build
_BLOCK = 2**24  # cells that are counted at a time (see `coverage`)
_FORMAT = 3  # of the stacks in the cache
_EDGE = 1e-9  # cells: a point that lies so near to the grid's edge is on it
NO_NUMBER = 1e20  # no covariate is as large: what is stands for no data, whether or not the file says so


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
        """West, south, east, north in degrees; west is larger than east where the grid crosses 180°."""
        height, width = self.shape
        col, row = np.array([[0, width, 0, width], [0, 0, height, height]])
        to = self.transform
        x, y = to.a * col + to.b * row + to.c, to.d * col + to.e * row + to.f
        return degrees_of((float(x.min()), float(y.min()), float(x.max()), float(y.max())), self.crs)

    def missing(self, values: np.ndarray) -> np.ndarray:
        """Where values of this stack stand for no data."""
        return np.isnan(values) if np.isnan(self.sentinel) else values == self.sentinel

    def locate(self, lon: np.ndarray, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cells of points in degrees, int32[N] each; may lie outside of the grid (see `outside`)."""
        x, y = lon, lat
        if self.crs != "EPSG:4326":
            x, y = project("EPSG:4326", self.crs, lon, lat)
        to_cell, (height, width) = ~self.transform, self.shape
        with np.errstate(invalid="ignore"):  # a point that has no place in the projection is infinitely far
            x = self._turned(x)
            col = _on_edge(to_cell.a * x + to_cell.b * y + to_cell.c, width)
            row = _on_edge(to_cell.d * x + to_cell.e * y + to_cell.f, height)
        limit = np.iinfo(np.int32).max
        return tuple(
            np.floor(np.nan_to_num(v, nan=limit).clip(-limit, limit)).astype(np.int32) for v in (row, col)
        )

    def _turned(self, lon: np.ndarray) -> np.ndarray:
        """Longitudes of a grid of degrees by whole turns nearer to it: 350 is -10, and -10 is 350."""
        if not is_geographic(self.crs) or self.transform.b:
            return lon
        west, turn = self.transform.c, 360 - 1e-9
        east = west + self.transform.a * self.shape[1]
        turned = west + (lon - west) % 360
        off = (lon < west) | ((lon >= east) if east - west >= turn else (lon > east))
        return np.where(off & (turned <= east), turned, lon)

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

    def coverage(self, row: np.ndarray, col: np.ndarray, size: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows of `values`, and how many of the patches around these cells hold each cell of them.

        The counts are int64[rows, W + 2 pad]. Sums over all patches become sums over the raster, weighted by
        them: exact, however many patches. Rows come from north to south in blocks, without those that no
        patch reaches.

        `size`: cells along a side of a patch.
        """
        top, left = row + (self.pad - size // 2), col + (self.pad - size // 2)
        width = self.values.shape[1]
        starts = np.concatenate([top, top, top + size, top + size])
        columns = np.concatenate([left, left + size, left, left + size])
        sign = np.repeat([1, -1, -1, 1], len(top))
        first, last = int(top.min()), int(top.max()) + size
        lines = max(1, _BLOCK // (width + 1))
        order = np.argsort(starts, kind="stable") if last - first > lines else slice(None)
        starts, columns, sign = starts[order], columns[order], sign[order]
        above = np.zeros(width + 1, np.int64)
        for begin in range(first, last, lines):
            rows = slice(begin, min(begin + lines, last))
            here = (starts >= rows.start) & (starts < rows.stop)
            corners = np.zeros((rows.stop - rows.start, width + 1), np.int64)
            np.add.at(corners, (starts[here] - rows.start, columns[here]), sign[here])
            corners[0] += above
            corners = corners.cumsum(0)
            above = corners[-1]
            yield rows, corners.cumsum(1)[:, :-1]


def _on_edge(cell: np.ndarray, number: int) -> np.ndarray:
    """Cells of points; those on the outer edge belong to the outermost cell."""
    cell = np.where((cell < 0) & (cell > -_EDGE), 0, cell)
    return np.where((cell >= number) & (cell < number + _EDGE), number - 1, cell)


def without_values(grid: RasterGrid) -> RasterStack:
    """A grid alone, which tells where points lie on it."""
    none = np.broadcast_to(np.float32(np.nan), (grid.height, grid.width, 0))
    return RasterStack(none, np.nan, (), grid.transform, grid.crs, 0)


@dataclass(frozen=True)
class _Member:
    """A band of a stack: its file, its grid, and the line from what is stored to its values."""

    file: BandFile
    grid: RasterGrid
    line: Line


def open_stacks(files: Sequence[BandFile], patch_size: int) -> list[RasterStack]:
    """Open the bands' stacks, building those that are not in the cache (see `cache`).

    `files`: of the bands, in the order of channels; `patch_size`: cells along a side, for the margin.

    Raises:
        MissingError: a raster is not there.
        GlczooError: a file is no raster, is truncated, lacks the band, has no usable grid, its stack has no
            room on the disk, or a band has no data.
    """
    grids: dict[tuple, list[_Member]] = {}
    for file in files:
        with open_raster(file.path, published=file.published, virtual_files=file.virtual_files) as source:
            if not 1 <= file.band.index <= max(1, source.count):
                number = f"{file.path} has {source.count} band(s)"
                raise GlczooError(f"{number}, band {file.band.name} asks for {file.band.index}")
            grid, line = grid_of(source, file.crs), line_of(source, file)
            dtype = source.dtypes[file.band.index - 1]
        if dtype not in _WIDER and dtype not in ("float32", "float64"):
            raise GlczooError(
                f"{file.path} holds {dtype}: store it as another type, for example gdal_translate -ot Int32"
            )
        dtype = dtype if line == Line() else "float64"
        key = (grid.transform, grid.crs, grid.height, grid.width, dtype)
        grids.setdefault(key, []).append(_Member(file, grid, line))
    pad = (patch_size + 1) // 2
    stacks = []
    for (transform, crs, _, _, dtype), members in grids.items():
        values = _cached(members, dtype, pad)
        names = tuple(member.file.band.name for member in members)
        stacks.append(RasterStack(values, _sentinel(values.dtype), names, transform, crs, pad))
    return stacks


def line_of(source: rasterio.DatasetReader, file: BandFile) -> Line:
    """What makes the values of a band from what its file stores: scale and offset, then another unit."""
    band = file.band
    scale = source.scales[band.index - 1] if band.scale is None else band.scale
    offset = source.offsets[band.index - 1] if band.offset is None else band.offset
    line = Line(float(scale), float(offset))
    if file.unit is None:
        return line
    unit = band.unit
    if line != Line() and unit.startswith(f"{line.factor:g} "):  # as regions of version 0.1 have it
        unit = unit.removeprefix(f"{line.factor:g} ").split(" from ")[0]
    converted = between(unit, file.unit, band.name)
    return line if converted is None else converted.after(line)


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


def _sentinel(dtype: np.dtype) -> float:
    if dtype.kind == "f":
        return np.nan
    return int(np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max)


def _cached(members: list[_Member], dtype: str, pad: int) -> np.ndarray:
    def build(path: Path) -> None:
        stored = dtype
        while not _build(members, stored, pad, path):
            stored = _WIDER[stored]

    grid = members[0].grid
    size = (grid.height + 2 * pad) * (grid.width + 2 * pad) * len(members)
    size *= 4 if dtype == "float64" else np.dtype(dtype).itemsize
    described = [
        (
            *fingerprint(m.file.path),
            m.file.band.index,
            m.file.band.nodata,
            m.line.factor,
            m.line.offset,
            m.grid.crs,
        )
        for m in members
    ]
    path = kept("stacks", [_FORMAT, described, pad], build, ".npy", size)
    return mapped(path, path)


def _build(members: list[_Member], dtype: str, pad: int, path: Path) -> bool:
    """Decode the members into one array; False if the type has no value to spare for no data."""
    stored = np.dtype("float32" if dtype == "float64" else dtype)
    sentinel, grid = _sentinel(stored), members[0].grid
    padded = (grid.height + 2 * pad, grid.width + 2 * pad, len(members))
    # Written front to back, not through a map: a full disk is then an error instead of a killed process.
    header = {"descr": np.lib.format.dtype_to_descr(stored), "fortran_order": False, "shape": padded}
    border = np.full((pad, *padded[1:]), sentinel, stored)
    step = min(_LINES, max(1, _BUFFER // (padded[1] * padded[2] * stored.itemsize)), grid.height)
    lines = np.full((step, *padded[1:]), sentinel, stored)
    seen = np.zeros(len(members), np.int64)
    around = _goes_around(grid) and 0 < pad <= grid.width
    with ExitStack() as opened:
        file = opened.enter_context(open(path, "wb"))
        sources = [
            opened.enter_context(
                open_raster(m.file.path, published=m.file.published, virtual_files=m.file.virtual_files)
            )
            for m in members
        ]
        np.lib.format.write_array_header_1_0(file, header)
        border.tofile(file)
        for top in Track(
            range(0, grid.height, step), title="rasters", unit="lines", scale=step, hidden=grid.height < 1000
        ):  # fmt: skip
            rows = min(step, grid.height - top)
            for channel, (member, source) in enumerate(zip(members, sources, strict=True)):
                values, missing = _read(source, member, top, rows)
                if stored.kind != "f" and ((values == sentinel) & ~missing).any():
                    return False
                cells = np.where(missing, stored.type(sentinel), values)
                lines[:rows, pad : pad + grid.width, channel] = cells
                if around:  # the whole globe: what lies beyond 180° is its other side
                    lines[:rows, :pad, channel] = cells[:, grid.width - pad :]
                    lines[:rows, pad + grid.width :, channel] = cells[:, :pad]
                seen[channel] += missing.size - missing.sum()
            lines[:rows].tofile(file)
        border.tofile(file)
    empty = [
        f"{m.file.band.name} ({m.file.path})" for m, count in zip(members, seen, strict=True) if count == 0
    ]
    if empty:
        raise GlczooError(f"no cell of these bands has data: {', '.join(empty)}; is the nodata value right?")
    return True


def _goes_around(grid: RasterGrid) -> bool:
    """Whether a grid of degrees holds every longitude once."""
    across = abs(grid.transform.a) * grid.width
    return (
        grid.transform.b == 0 and is_geographic(grid.crs) and abs(across - 360) < 0.01 * abs(grid.transform.a)
    )


def _read(
    source: rasterio.DatasetReader, member: _Member, top: int, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a band from north to south: its values, and where it has no data."""
    grid, band = member.grid, member.file.band
    start = grid.height - top - rows if grid.from_south else top
    window = Window(0, start, grid.width, rows)
    try:
        values = source.read(band.index, window=window)
        masked = source.read_masks(band.index, window=window) == 0 if has_mask(source, band.index) else False
    except RasterioIOError as error:
        raise GlczooError(f"{source.name} is damaged around row {start}: {error}") from None
    missing = missing_values(values, [source.nodatavals[band.index - 1], band.nodata]) | masked
    if member.line != Line():
        values = values * member.line.factor + member.line.offset
    turned = (slice(None, None, -1 if grid.from_south else 1), slice(None, None, -1 if grid.from_east else 1))
    return values[turned], missing[turned]


def missing_values(values: np.ndarray, nodata: Sequence[float | None]) -> np.ndarray:
    """Cells without data. Float-like nodata such as -3.4e38 is compared with a tolerance."""
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            missing = ~(np.abs(values) < NO_NUMBER)
    else:
        missing = np.zeros(values.shape, bool)
    for value in set(nodata):
        if value is None or np.isnan(value):
            continue
        if values.dtype.kind == "f":
            missing |= np.isclose(values, value, rtol=1e-6, atol=0)
        elif value == np.round(value):
            missing |= values == int(value)
    return missing


def degrees_of(box: tuple[float, float, float, float], crs: str) -> tuple[float, float, float, float]:
    """West, south, east, north of a box of a CRS, in degrees: see `whole_degrees`.

    Raises:
        GlczooError: the box has no place on Earth.
    """
    degrees = box
    if crs != "EPSG:4326":
        try:
            degrees = rasterio.warp.transform_bounds(crs, "EPSG:4326", *box)
        except CPLE_BaseError:
            degrees = (np.nan,) * 4
    if not np.isfinite(degrees).all():
        raise GlczooError(f"a grid from {box[:2]} to {box[2:]} in {shown(crs)} has no place on Earth")
    return whole_degrees(*degrees)


def whole_degrees(west: float, south: float, east: float, north: float) -> tuple[float, float, float, float]:
    """Bounds with longitudes in [-180, 180]; west is larger than east where they cross 180°."""
    if east < west:  # as PROJ says that they cross
        east += 360
    if east - west >= 360 - 1e-9:
        return -180.0, float(south), 180.0, float(north)
    turns = 360 * np.floor((west + 180) / 360)
    west, east = west - turns, east - turns
    return float(west), float(south), float(east if east <= 180 else east - 360), float(north)


def few(names: Sequence[str]) -> str:
    """The first and the last of many names, for a message."""
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]}"
