"""Stacks against slow, obvious twins: rasterio's boundless reads and brute force over cells."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
from conftest import COLS, FLOAT_NODATA, ROWS, addresses, gathered, place, write_raster
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

import glczoo
from glczoo.data.patch_source import PatchSource
from glczoo.data.raster_files import BandFile
from glczoo.data.rasters import RasterStack, open_stacks
from glczoo.data.region import Band, Region

# The middle, the edges and the corners of the address grid, and beside its cells without data.
CENTRES = [(7, 10), (0, 0), (0, 19), (13, 0), (13, 19), (0, 9), (13, 11), (5, 0), (8, 19), (2, 3), (6, 8)]


def opened(path: Path, size: int = 5, index: int = 1, nodata: float | None = None) -> RasterStack:
    (stack,) = open_stacks(
        [BandFile(Band(name="band", file=path.name, index=index, nodata=nodata), path)], size
    )
    return stack


def oracle(path: Path, index: int, lon: float, lat: float, size: int, sentinel: float) -> np.ndarray:
    """values[size, size]: one windowed read, what lies outside or has no data set to the sentinel."""
    with rasterio.open(path) as source:
        (x,), (y,) = rasterio.warp.transform("EPSG:4326", source.crs, [lon], [lat])
        row, col = source.index(x, y)
        window = Window(col - size // 2, row - size // 2, size, size)
        fill = sentinel if source.nodata is None else source.nodata
        values = source.read(index, window=window, boundless=True, fill_value=fill)
        if source.nodata is None:
            return values
        return np.where(np.isclose(values.astype(float), source.nodata), sentinel, values)


# rasterio's own boundless read multiplies affine matrices in the way that affine 3 wants to end.
@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")
@pytest.mark.parametrize("size", [1, 4, 5, 6])
@pytest.mark.parametrize("name", ["pair", "plain", "shifted", "holes", "real", "metres"])
def test_gather_equals_windowed_reads(address_region: Region, name: str, size: int) -> None:
    path = address_region.root_path / f"rasters/{name}.tif"
    indices = (1, 2) if name == "pair" else (1,)
    bands = [BandFile(Band(name=f"{name}{i}", file=path.name, index=i), path) for i in indices]
    (stack,) = open_stacks(bands, size)
    lon, lat = np.array([place(row, col) for row, col in CENTRES]).T
    row, col = stack.locate(lon, lat)
    inside = ~stack.outside(row, col)
    assert inside.sum() == (6 if name == "shifted" else len(CENTRES))
    patches = gathered(stack, row[inside], col[inside], size)
    for channel, index in enumerate(indices):
        expected = [
            oracle(path, index, *point, size, stack.sentinel)
            for point in zip(lon[inside], lat[inside], strict=True)
        ]
        np.testing.assert_array_equal(patches[..., channel], np.stack(expected))


def test_centre_is_the_cell_of_the_point(address_region: Region) -> None:
    expected = {"first": 7011, "second": 7111, "plain": 7211, "shifted": 6310, "holes": 7411, "real": 7511}
    found = {}
    for stack in PatchSource(address_region).stacks:
        row, col = stack.locate(*(np.array([v]) for v in place(7, 11)))
        for size in (1, 5, 6):
            centre = gathered(stack, row, col, size)[0, size // 2, size // 2]
            found |= dict(zip(stack.bands, centre.tolist(), strict=True))
            assert found.pop("metres", 0) == (1000 * row + col + 600 if "metres" in stack.bands else 0)
    assert found == expected


def test_points_on_borders_belong_to_the_cell_south_east_of_them_or_to_the_outermost(tmp_path: Path) -> None:
    stack = opened(write_raster(tmp_path / "a.tif", [addresses(4, 4, 0, "int16")], west=8, north=4, cell=1))
    row, col = stack.locate(np.array([8.0, 9.0, 11.999, 12.0, 7.999]), np.array([4.0, 3.0, 0.001, 2.0, 2.0]))
    assert row.tolist() == [0, 1, 3, 2, 2] and col.tolist() == [0, 1, 3, 3, -1]
    assert stack.outside(row, col).tolist() == [False, False, False, False, True]


@pytest.mark.parametrize("west", [0.0, -180.0])
def test_the_other_side_of_the_globe_lies_beyond_its_edge(tmp_path: Path, west: float) -> None:
    values = np.arange(36 * 18, dtype="float32").reshape(18, 36)
    stack = opened(write_raster(tmp_path / "w.tif", [values], west=west, north=90, cell=10))
    row, col = stack.locate(np.array([west + 1, west + 359]), np.array([5.0, 5.0]))
    side = stack.values[row[0] + stack.pad, :, 0]
    assert col.tolist() == [0, 35]
    np.testing.assert_array_equal(side[: stack.pad], values[row[0], -stack.pad :])
    np.testing.assert_array_equal(side[-stack.pad :], values[row[0], : stack.pad])
    part = opened(write_raster(tmp_path / "part.tif", [values[:, :35]], west=west, north=90, cell=10))
    assert np.isnan(part.values[row[0] + part.pad, : part.pad, 0]).all()


def test_bands_of_one_grid_share_a_stack_and_types_stay_native(address_region: Region) -> None:
    stacks = {stack.bands: stack for stack in PatchSource(address_region).stacks}
    assert list(stacks) == [("first", "second"), ("plain",), ("shifted",), ("holes",), ("metres",), ("real",)]
    types = {bands[0]: str(stack.values.dtype) for bands, stack in stacks.items()}
    assert types == {
        "first": "int32", "plain": "uint16", "shifted": "int32", "holes": "int16", "metres": "int32",
        "real": "float32",
    }  # fmt: skip
    assert all(isinstance(stack.values, np.memmap) for stack in stacks.values())
    assert stacks["metres",].crs == "EPSG:3035" and stacks["plain",].shape == (ROWS, COLS)
    holes, real = stacks["holes",], stacks["real",]
    assert holes.missing(holes.values).sum() == 2 + holes.values.size - ROWS * COLS
    assert real.missing(real.values).sum() == 2 + real.values.size - ROWS * COLS


def test_float_nodata_is_compared_with_a_tolerance(tmp_path: Path) -> None:
    values = addresses(4, 4, 0, "float32")
    values[1, 1], values[2, 2], values[3, 3] = FLOAT_NODATA * (1 + 1e-7), np.nan, -np.inf
    stack = opened(write_raster(tmp_path / "a.tif", [values], nodata=FLOAT_NODATA))
    inner = stack.values[stack.pad : -stack.pad, stack.pad : -stack.pad, 0]
    assert np.flatnonzero(np.isnan(inner)).tolist() == [5, 10, 15]


@pytest.mark.parametrize(
    ("narrow", "value", "wide"),
    [
        ("uint16", 65535, "int32"),
        ("int16", -32768, "int32"),
        ("uint8", 255, "int16"),
        ("int32", -(2**31), "float32"),
    ],
)
def test_a_type_whose_sentinel_is_in_use_is_widened(
    tmp_path: Path, narrow: str, value: int, wide: str
) -> None:
    values = np.arange(12).reshape(3, 4).astype(narrow)
    values[1, 2] = value
    stack = opened(write_raster(tmp_path / "a.tif", [values]))
    inner = stack.values[stack.pad : -stack.pad, stack.pad : -stack.pad, 0]
    assert str(stack.values.dtype) == wide
    np.testing.assert_array_equal(inner, values)
    assert stack.missing(stack.values).sum() == stack.values.size - 12


def test_nodata_of_the_region_file_joins_that_of_the_raster(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", [addresses(3, 3, 0, "int16")], nodata=1001)
    stack = opened(path, nodata=2002)
    inner = stack.values[stack.pad : -stack.pad, stack.pad : -stack.pad, 0]
    assert np.flatnonzero(stack.missing(inner)).tolist() == [4, 8]


# --- window arithmetic ----------------------------------------------------------------------------------


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int, int, list[tuple[int, int]]]:
    height, width, size = (draw(st.integers(1, most)) for most in (7, 7, 9))
    cell = st.tuples(st.integers(0, height - 1), st.integers(0, width - 1))
    return height, width, size, draw(st.lists(cell, min_size=1, max_size=5))


def in_memory(height: int, width: int, size: int) -> RasterStack:
    pad = (size + 1) // 2
    values = np.full((height + 2 * pad, width + 2 * pad, 1), -1, np.int32)
    values[pad : pad + height, pad : pad + width, 0] = addresses(height, width, 0, "int32")
    return RasterStack(values, -1, ("a",), rasterio.Affine(1, 0, 0, 0, -1, height), "EPSG:4326", pad)


@settings(deadline=None, max_examples=60)
@given(windows())
def test_gather_and_coverage_equal_brute_force(case: tuple[int, int, int, list[tuple[int, int]]]) -> None:
    height, width, size, cells = case
    stack = in_memory(height, width, size)
    row, col = np.array(cells, np.int32).T
    expected = np.full((len(cells), size, size), -1)
    cover = np.zeros(stack.values.shape[:2], int)
    for n, (centre_row, centre_col) in enumerate(cells):
        for i in range(size):
            for j in range(size):
                r, c = centre_row - size // 2 + i, centre_col - size // 2 + j
                cover[r + stack.pad, c + stack.pad] += 1
                if 0 <= r < height and 0 <= c < width:
                    expected[n, i, j] = 1000 * r + c
    np.testing.assert_array_equal(gathered(stack, row, col, size)[..., 0], expected)
    covered = np.zeros_like(cover)
    for rows, weight in stack.coverage(row, col, size):
        covered[rows] = weight
    np.testing.assert_array_equal(covered, cover)


@settings(deadline=None, max_examples=60)
@given(st.integers(-3, 9), st.integers(-3, 9), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_locate_finds_the_cell_of_any_point(row: int, col: int, down: float, right: float) -> None:
    stack = in_memory(6, 7, 3)
    found = stack.locate(np.array([col + right]), np.array([6 - row - down]))
    assert (found[0][0], found[1][0]) == (row, col)
    assert stack.outside(*found)[0] == (not (0 <= row < 6 and 0 <= col < 7))


def test_a_point_without_a_place_in_the_projection_is_outside(tmp_path: Path) -> None:
    path = write_raster(
        tmp_path / "a.tif", [addresses(3, 3, 0, "int16")], west=4e6, north=3e6, cell=1000, crs="EPSG:3035"
    )
    # The antipode of the projection's centre fails GDAL's call for all points; the first is on the grid.
    (x,), (y,) = rasterio.warp.transform("EPSG:3035", "EPSG:4326", [4001500.0], [2998500.0])
    stack = opened(path)
    row, col = stack.locate(np.array([x, -170.0, 10.0, x]), np.array([y, -52.0, 89.0, y]))
    assert (row[0], col[0]) == (row[3], col[3]) == (1, 1)
    assert stack.outside(row, col).tolist() == [False, True, True, False]


# --- the cache ------------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GLCZOO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/stacks"


def test_a_stack_is_built_once_and_again_when_its_source_changes(tmp_path: Path, cache: Path) -> None:
    path = write_raster(tmp_path / "a.tif", [addresses(3, 4, 0, "int16")])
    opened(path)
    (first,) = cache.iterdir()
    before = first.stat().st_mtime_ns
    opened(path)
    assert list(cache.iterdir()) == [first] and first.stat().st_mtime_ns == before
    opened(path, size=9)  # needs a wider border
    assert len(list(cache.iterdir())) == 2
    write_raster(path, [addresses(3, 4, 7, "int16")])
    os.utime(path, ns=(before, before + 10**9))
    stack = opened(path)
    assert stack.values[stack.pad, stack.pad, 0] == 700
    assert len(list(cache.iterdir())) == 3


def test_a_damaged_cache_file_is_named(tmp_path: Path, cache: Path) -> None:
    path = write_raster(tmp_path / "a.tif", [addresses(30, 40, 0, "int16")])
    opened(path)
    (file,) = cache.iterdir()
    os.truncate(file, 500)
    with pytest.raises(ValueError, match=f"{file.name} is damaged .*; delete .*, it will be built again"):
        opened(path)
    file.unlink()
    assert opened(path).shape == (30, 40)


_BUILD_AT_ONCE = """
import os, sys, time, types
from pathlib import Path
package = sys.modules["glczoo"] = types.ModuleType("glczoo")  # leaves out the seconds that torch takes
package.__path__ = [sys.argv[3]]
from glczoo.data import rasters
from glczoo.data.raster_files import BandFile
from glczoo.data.region import Band
path, mark = Path(sys.argv[1]), Path(sys.argv[2])
build = rasters._build
def slowly(*arguments):  # so slowly that the other process comes by meanwhile
    mark.touch()
    time.sleep(2)
    return build(*arguments)
rasters._build = slowly
(stack,) = rasters.open_stacks([BandFile(Band(name="a", file=path.name), path)], 5)
print(int(stack.values.astype(int).sum()))
"""


def test_of_two_processes_one_builds_and_the_other_waits(tmp_path: Path, cache: Path) -> None:
    path = write_raster(tmp_path / "a.tif", [addresses(50, 60, 0, "int32")])
    marks = [tmp_path / "one", tmp_path / "two"]
    package = str(Path(glczoo.__file__).parent)
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", _BUILD_AT_ONCE, str(path), str(mark), package],
            stdout=subprocess.PIPE,
            text=True,
        )
        for mark in marks
    ]
    printed = [builder.communicate(timeout=120)[0] for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert sum(mark.exists() for mark in marks) == 1
    assert printed == [f"{int(opened(path).values.astype(int).sum())}\n"] * 2
    assert len(list(cache.iterdir())) == 1


# --- bad input ------------------------------------------------------------------------------------------


def test_a_band_that_the_file_has_not(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", [addresses(3, 3, b, "int16") for b in (0, 1)])
    assert opened(path, index=2).values.max() == 2102
    with pytest.raises(ValueError, match=r"a\.tif has 2 band\(s\), band band asks for 3"):
        opened(path, index=3)


def test_a_raster_without_crs(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", [addresses(3, 3, 0, "int16")], crs=None)
    with pytest.raises(ValueError, match=r"a\.tif has no CRS; name it"):
        opened(path)


def test_a_file_that_is_no_raster(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("lon,lat\n")
    with pytest.raises(ValueError, match=r"a\.tif cannot be read as a raster"):
        opened(tmp_path / "a.tif")


def test_a_truncated_raster_leaves_nothing_half_built(tmp_path: Path, cache: Path) -> None:
    path = write_raster(tmp_path / "a.tif", [addresses(50, 60, 0, "int32")])
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ValueError, match=r"a\.tif is damaged around row 0"):
        opened(path)
    assert list(cache.iterdir()) == []


def test_a_band_without_any_data(tmp_path: Path, cache: Path) -> None:
    path = write_raster(tmp_path / "a.tif", [np.full((3, 3), -9999, "int16")], nodata=-9999)
    with pytest.raises(
        ValueError, match=r"no cell of these bands has data: band \(.*a\.tif\); is the nodata"
    ):
        opened(path)
    assert list(cache.iterdir()) == []
