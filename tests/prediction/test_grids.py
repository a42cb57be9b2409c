"""Grids of cells: which there are, where they lie, and what an area is taken to be."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import CELL, COLS, NORTH, ROWS, WEST, addresses, write_raster

from glczoo.data.occurrences import Points
from glczoo.data.raster_files import BandFile
from glczoo.data.rasters import RasterStack, open_stacks, project
from glczoo.data.region import Band
from glczoo.errors import GlczooError
from glczoo.prediction.grids import DEGREES, Cells, Grid, bounds_of, box_of, grid_like, read_polygon


def test_cells_cover_the_box_and_blocks_the_cells():
    grid = Grid.cover((5, 44, 6.04, 45), 0.1)
    assert (grid.height, grid.width, grid.crs) == (10, 11, DEGREES)
    seen = np.zeros((10, 11), int)
    for block in grid.blocks(4):
        seen[block.top : block.top + block.height, block.left : block.left + block.width] += 1
        lon, lat = grid.centres(block)
        row, col = grid.locate(lon, lat)
        assert row.astype(int).tolist() == [block.top + i // block.width for i in range(len(block))]
        assert col.astype(int).tolist() == [block.left + i % block.width for i in range(len(block))]
        assert row % 1 == pytest.approx(0.5) and col % 1 == pytest.approx(0.5)
    assert (seen == 1).all()


def test_a_grid_in_metres():
    (x,), (y,) = project(DEGREES, "EPSG:3035", np.array([10.0]), np.array([52.0]))
    grid = Grid.cover((x - 500, y - 500, x + 500, y + 500), 1000, "epsg:3035")
    lon, lat = grid.centres(grid.blocks(8)[0])
    assert (lon[0], lat[0]) == pytest.approx((10, 52)) and len(lon) == 1


@pytest.mark.parametrize(
    ("bbox", "resolution", "crs", "message"),
    [
        ((6, 44, 5, 45), 0.1, DEGREES, "W 6 S 44 E 5 N 45 has no area"),
        ((5, 44, float("nan"), 45), 0.1, DEGREES, "has no area"),
        ((5, 44, 6, 4500), 0.1, DEGREES, "is not in degrees, the units of EPSG:4326"),
        ((5, 44, 6, 45), 0, DEGREES, "resolution 0 must be above 0"),
        ((5, 44, 6, 45), 250, DEGREES, "resolution 250 must be above 0 and no longer than"),
        ((5, 44, 6, 45), 0.1, "EPSG:1", "there is no CRS 'EPSG:1'"),
    ],
)
def test_a_grid_that_cannot_be(bbox, resolution, crs, message):
    with pytest.raises(ValueError, match=message):
        Grid.cover(bbox, resolution, crs)


def write(path: Path, told: object) -> Path:
    path.write_text(told if isinstance(told, str) else json.dumps(told))
    return path


TRIANGLE = {"type": "Polygon", "coordinates": [[[5, 44], [6, 44], [5, 45], [5, 44]]]}


@pytest.mark.parametrize(
    "told",
    [
        TRIANGLE,
        {"type": "Feature", "properties": {}, "geometry": TRIANGLE},
        {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": TRIANGLE}]},
        {"type": "GeometryCollection", "geometries": [TRIANGLE]},
        {"type": "MultiPolygon", "coordinates": [TRIANGLE["coordinates"]]},
    ],
)
@pytest.mark.parametrize("crs", [DEGREES, "EPSG:32631"])
def test_cells_within_a_polygon(told, crs, tmp_path):
    polygons, side = read_polygon(write(tmp_path / "a.geojson", told)), 0.1 if crs == DEGREES else 10_000
    bbox = bounds_of(polygons, None, side, crs)
    if crs == DEGREES:
        assert bbox == pytest.approx((5, 44, 6.1, 45.1))
    cells, taken, others = Cells(Grid.cover(bbox, side, crs), polygons), 0, 0
    for block in cells.grid.blocks(4):
        here, points = cells.of(block)
        lon, lat = cells.grid.centres(block)
        inside = (lon > 5) & (lat > 44) & ((lon - 5) + (lat - 44) < 1)
        clear = np.abs((lon - 5) + (lat - 44) - 1) > 0.03  # off the slanted side, straight in one CRS only
        assert (np.isin(np.arange(len(lon)), here) == inside)[clear].all()
        assert (points.lon == lon[here]).all()
        taken, others = taken + len(here), others + len(lon) - len(here)
    assert taken > 30 and others > 30


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("{", "cannot be read as GeoJSON"),
        ({"type": "Point", "coordinates": [5, 44]}, "polygons are needed, it holds Point"),
        ({"type": "FeatureCollection", "features": []}, "it holds no geometry"),
        ({"features": []}, "cannot be read as GeoJSON: KeyError"),
        ({"type": "Polygon", "coordinates": [[[4e6, 2e6], [4e6, 3e6], [5e6, 3e6]]]}, "is not in degrees"),
    ],
)
def test_what_is_no_polygon(told, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_polygon(write(tmp_path / "a.geojson", told))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none\.geojson"):
        read_polygon(tmp_path / "none.geojson")


def test_cells_that_hold_points():
    lon, lat = np.array([5.02, 5.04, 5.96, 7.0]), np.array([44.98, 44.96, 44.01, 44.5])
    points = Points(lon, lat, np.array([1, 2, 3, 4]), np.arange(4))
    cells = Cells(Grid.cover((5, 44, 6, 45), 0.1), None, points)
    found = [(block, *cells.of(block)) for block in cells.grid.blocks(5)]
    asked = {
        (block.top + i // block.width, block.left + i % block.width): int(patch)
        for block, here, given in found
        for i, patch in zip(here.tolist(), given.patch_id, strict=True)
    }
    assert asked == {(0, 0): 2, (9, 9): 3}  # of two in a cell the nearer to its centre
    assert bounds_of(None, points, 0.5) == (5, 44, 7.5, 45)
    with pytest.raises(ValueError, match="which area"):
        bounds_of(None, None, 1)


@pytest.fixture
def stacks(tmp_path) -> list[RasterStack]:
    """A raster of 20 x 14 cells of .01 degrees, and a coarser one that reaches farther."""
    files = []
    for name, cell in (("coarse", 0.1), ("fine", CELL)):
        path = write_raster(tmp_path / f"{name}.tif", [addresses(ROWS, COLS, 1, "uint16")], cell=cell)
        files.append(BandFile(Band(name=name, file=path.name), path))
    return open_stacks(files, 1)


def test_cells_are_those_of_the_finest_raster_unless_others_are_asked_for(stacks):
    whole = grid_like(stacks, None, None, None, None)
    assert (whole.width, whole.height, whole.cell) == (COLS, ROWS, pytest.approx(CELL))
    part = grid_like(stacks, (WEST + 0.031, NORTH - 0.052, WEST + 0.049, NORTH - 0.019), None, None, None)
    assert (part.west, part.north) == (pytest.approx(WEST + 0.03), pytest.approx(NORTH - 0.01))
    assert (part.width, part.height) == (2, 5)
    with pytest.raises(GlczooError, match=r"cells of 0\.01 .*Give --resolution"):
        grid_like(stacks, None, None, None, "EPSG:3035")
    with pytest.raises(GlczooError, match="no raster"):
        grid_like([], None, None, None, None)


def test_without_an_area_it_is_what_all_rasters_share(stacks):
    west, south, east, north = bounds_of(box_of(stacks), None, 0.05)
    assert (west, north) == (WEST, NORTH)
    assert (east, south) == (pytest.approx(WEST + COLS * CELL), pytest.approx(NORTH - 0.15))
