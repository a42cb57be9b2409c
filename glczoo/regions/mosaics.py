"""Tiles: one variable in several rasters that lie beside each other, joined by a VRT."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import rasterio

from glczoo.data.raster_files import RasterGrid
from glczoo.regions.band_look import Raster

__all__ = ["join_tiles"]

_TYPES = {"uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32"}
_TYPES |= {"int32": "Int32", "int64": "Int64", "float32": "Float32", "float64": "Float64"}
_ALIGNED = 0.01  # cells that corners may be off a common grid


def join_tiles(rasters: Sequence[Raster]) -> tuple[list[Raster], dict[Path, str]]:
    """Join tiles among the rasters of a folder, which share a CRS and a cell size.

    Tiles have names that differ in one word or two and grids that fit together and do not overlap.

    Returns:
        The rasters with one in the place of each set of tiles, and the VRTs to write, text by path.
    """
    whole, texts = list(rasters), {}
    for tiles in _sets_of_tiles(rasters):
        path, text = _mosaic(tiles)
        joined = _joined(tiles, path)
        texts[path] = text
        whole = [raster for raster in whole if raster not in tiles] + [joined]
    return whole, texts


def _sets_of_tiles(rasters: Sequence[Raster]) -> Iterator[list[Raster]]:
    """Disjoint sets of two tiles or more."""
    left = list(rasters)
    words = {raster.path: re.split(r"[_\s.-]+", raster.path.stem) for raster in rasters}
    longest = max(map(len, words.values()), default=0)
    removals = [(-1,), (0,), (-2,), (-2, -1), (0, 1)]
    removals += [each for n in (1, 2) for each in combinations(range(longest), n) if each not in removals]
    for removed in removals:
        groups: dict[tuple, list[Raster]] = {}
        for raster in left:
            parts = words[raster.path]
            places = {place % len(parts) for place in removed if -len(parts) <= place < len(parts)}
            if len(places) < len(removed):
                continue
            rest = tuple(word for place, word in enumerate(parts) if place not in places)
            groups.setdefault((rest, len(parts), raster.dtypes), []).append(raster)
        for group in groups.values():
            if len(group) > 1 and _fit_together(group):
                yield group
                left = [raster for raster in left if raster not in group]


def _corners(tiles: Sequence[Raster]) -> np.ndarray:
    """Left, top, right, bottom of each tile in cells of the first one's grid, float64[n, 4]."""
    first = tiles[0].grid.transform
    corners = []
    for tile in tiles:
        to, width, height = tile.grid.transform, tile.grid.width, tile.grid.height
        left, top = (to.c - first.c) / first.a, (to.f - first.f) / first.e
        corners.append((left, top, left + width, top + height))
    return np.array(corners)


def _fit_together(tiles: Sequence[Raster]) -> bool:
    transforms = [tile.grid.transform for tile in tiles]
    flipped = any(tile.grid.from_south or tile.grid.from_east for tile in tiles)
    if flipped or any(to.b or to.d or not np.isclose(to.a, transforms[0].a, rtol=1e-6) for to in transforms):
        return False
    corners = _corners(tiles)
    if (np.abs(corners - np.round(corners)) > _ALIGNED).any():
        return False
    for (left, top, right, bottom), (west, north, east, south) in combinations(np.round(corners), 2):
        if min(right, east) > max(left, west) and min(bottom, south) > max(top, north):
            return False
    return True


def _mosaic(tiles: Sequence[Raster]) -> tuple[Path, str]:
    """A VRT of the tiles: where to write it, and its text."""
    words = [re.split(r"[_\s.-]+", tile.path.stem) for tile in tiles]
    columns = zip(*words, strict=True)  # tiles have names of as many words
    shared = [column[0] for column in columns if len(set(column)) == 1]
    while len(shared) > 1 and shared[-1].isdecimal():  # of a row of tiles
        shared.pop()
    folder = tiles[0].path.parent
    path = folder / f"{'_'.join(shared) or folder.name or 'mosaic'}.vrt"
    if path.exists():
        path = path.with_name(f"{path.stem}_mosaic.vrt")
    corners = np.round(_corners(tiles)).astype(int)
    grid = _grid(tiles, corners)
    west, north = int(corners[:, 0].min()), int(corners[:, 1].min())
    to = grid.transform
    lines = [
        f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}">',
        f"  <SRS>{escape(grid.crs)}</SRS>",
        f"  <GeoTransform>{to.c!r}, {to.a!r}, 0, {to.f!r}, 0, {to.e!r}</GeoTransform>",
    ]
    for index, dtype in enumerate(tiles[0].dtypes, 1):
        lines.append(f'  <VRTRasterBand dataType="{_TYPES[dtype]}" band="{index}">')
        nodata = tiles[0].nodata[index - 1]
        lines += [f"    <NoDataValue>{nodata!r}</NoDataValue>"] if nodata is not None else []
        for tile, (left, top, _, _) in zip(tiles, corners.tolist(), strict=True):
            size = f'xSize="{tile.grid.width}" ySize="{tile.grid.height}"'
            lines += [
                "    <ComplexSource>" if nodata is not None else "    <SimpleSource>",
                f'      <SourceFilename relativeToVRT="1">{escape(tile.path.name)}</SourceFilename>',
                f"      <SourceBand>{index}</SourceBand>",
                f'      <SrcRect xOff="0" yOff="0" {size}/>',
                f'      <DstRect xOff="{left - west}" yOff="{top - north}" {size}/>',
            ]
            lines += [f"      <NODATA>{nodata!r}</NODATA>"] if nodata is not None else []
            lines.append("    </ComplexSource>" if nodata is not None else "    </SimpleSource>")
        lines.append("  </VRTRasterBand>")
    return path, "\n".join([*lines, "</VRTDataset>", ""])


def _grid(tiles: Sequence[Raster], corners: np.ndarray) -> RasterGrid:
    """The grid that holds all tiles."""
    (west, north), (east, south) = corners[:, :2].min(0).tolist(), corners[:, 2:].max(0).tolist()
    to = tiles[0].grid.transform
    corner = rasterio.Affine(to.a, 0, to.c + west * to.a, 0, to.e, to.f + north * to.e)
    return RasterGrid(corner, tiles[0].grid.crs, south - north, east - west)


def _joined(tiles: Sequence[Raster], path: Path) -> Raster:
    """What the VRT will be, without reading it."""
    first = tiles[0]
    sides = np.array([tile.bounds for tile in tiles])
    west, south = sides[:, :2].min(0).tolist()
    east, north = sides[:, 2:].max(0).tolist()
    bands = tuple(
        replace(
            band,
            name=path.stem if len(first.bands) == 1 else band.name.replace(first.path.stem, path.stem),
            file=path.name,
            comment=f"{len(tiles)} tiles, joined in {path.name}; the first: {band.comment}",
        )
        for band in first.bands
    )
    return replace(
        first,
        path=path,
        grid=_grid(tiles, np.round(_corners(tiles)).astype(int)),
        bounds=(west, south, east, north),
        bands=bands,
    )
