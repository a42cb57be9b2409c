"""Rasters as strangers have them: how init names, groups and guesses them."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import addresses, write_raster

from glczoo.data.patch_source import PatchSource
from glczoo.data.region import Region
from glczoo.regions.band_look import standing_apart
from glczoo.regions.bands import FoundModality, common_bounds, find_modalities, raster_doubts
from glczoo.regions.init import init_region

SLOPE = np.add.outer(np.linspace(0, 8, 40), np.linspace(0, 2, 50)).astype("float32")  # °C, say


def only(folder: Path) -> FoundModality:
    (modality,), unusable = find_modalities(folder)
    assert unusable == []
    return modality


def write(path: Path, *values: np.ndarray, descriptions: tuple[str, ...] = (), **profile: object) -> Path:
    write_raster(path, list(values), **profile)  # type: ignore[arg-type]
    if descriptions:
        with rasterio.open(path, "r+") as target:
            target.descriptions = descriptions
    return path


def write_records(folder: Path) -> Path:
    lines = [f"Poa annua,{5.005 + 0.01 * i:.4f},{44.995 - 0.01 * i:.4f}" for i in range(30)]
    path = folder / "records.csv"
    path.write_text("species,lon,lat\n" + "\n".join(lines) + "\n")
    return path


# --- names ----------------------------------------------------------------------------------------------


def test_bands_of_one_file_are_named_as_in_single_files(tmp_path: Path):
    names = ("wc2.1_10m_bio_1", "wc2.1_10m_bio_10", "wc2.1_10m_bio_2")
    write(tmp_path / "wc2.1_10m_bio stack.tif", SLOPE, SLOPE, SLOPE, descriptions=names)
    for name in names:
        write(tmp_path / f"single/{name}.tif", SLOPE)
    stack, single = find_modalities(tmp_path)[0]
    assert [band.name for band in stack.bands] == ["bio1", "bio10", "bio2"]
    assert [band.name for band in single.bands] == ["single_bio1", "single_bio2", "single_bio10"]


@pytest.mark.parametrize(
    ("description", "name"),
    [
        ("BIO1 = Annual Mean Temperature", "bio1"),
        ("bioclim_07", "bio7"),
        ("CHELSA_bio12_1981-2010_V.2.1", "bio12"),
        ("elevation (m)", "elevation"),
        ("", "all_2"),
    ],
)
def test_a_band_is_named_by_its_description(tmp_path: Path, description: str, name: str):
    write(tmp_path / "all.tif", SLOPE, SLOPE, descriptions=("first", description))
    assert only(tmp_path).bands[1].name == name


# --- no data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [-999.0, -9999.0, 99999.0, -32768.0, 0.0])
def test_a_value_that_stands_apart_is_taken_for_no_data_and_said(tmp_path: Path, fill: float):
    values = SLOPE + (300 if fill == 0 else 0)
    values[5:9] = fill
    write(tmp_path / "a.tif", values)
    (band,) = only(tmp_path).bands
    assert band.nodata == fill and "nodata guessed" in band.comment and "10% no data" in band.comment


@pytest.mark.parametrize(
    "values",
    [
        SLOPE,
        np.where(SLOPE > 5, 1, 0).astype("uint8"),  # a mask
        np.array([[0, 0, 300, 500], [0, 900, 700, 0]], "int16"),  # an island in the sea
        np.array([[-1, 0, 1, 2], [3, 4, 5, 6]], "int16"),
    ],
)
def test_values_that_are_values_stay(values: np.ndarray):
    assert standing_apart(values) is None


def test_a_fill_beside_the_nodata_of_the_file(tmp_path: Path):
    values = SLOPE.copy()
    values[:3], values[3:9] = -32768, -9999
    write(tmp_path / "a.tif", values, nodata=-32768)
    (band,) = only(tmp_path).bands
    assert band.nodata == -9999 and "stands apart from all others, and the file names -32768" in band.comment


def test_what_is_guessed_of_bands_stands_in_check(tmp_path: Path):
    values = SLOPE.copy()
    values[30:] = -999
    write(tmp_path / "a.tif", values)
    write(tmp_path / "codes.tif", np.where(SLOPE > 3, 70, 20).astype("uint8"))
    result = init_region(tmp_path, write_records(tmp_path))
    assert "nodata is a guess of a (-999)" in result.doubts
    assert "few whole numbers, or classes (`kind: categorical`)? codes" in result.doubts
    guesses = "\n".join(Region.load(tmp_path).guesses())
    assert "nodata guessed: -999 stands apart" in guesses and "guessed to be numbers: 2 whole ones" in guesses
    assert "Written by" not in guesses


def test_numbers_beyond_reach_are_said(tmp_path: Path):
    values = SLOPE.copy()
    values[:10] = -3.4e38
    write(tmp_path / "a.tif", values)
    (band,) = only(tmp_path).bands
    assert "numbers beyond 1e20 are taken for no data" in band.comment and "25% no data" in band.comment


def test_what_init_guesses_is_what_training_reads(tmp_path: Path):
    values = SLOPE.copy()
    values[30:] = -999
    write(tmp_path / "a.tif", values)
    init_region(tmp_path, write_records(tmp_path))
    (stack,) = PatchSource(Region.load(tmp_path)).stacks
    held = stack.values_at(np.array([5.005, 5.005]), np.array([44.995, 44.605]))[:, 0]
    assert held[0] == 0 and np.isnan(held[1])


def test_check_finds_what_a_region_file_does_not_say(tmp_path: Path):
    values = SLOPE.copy()
    values[30:] = -999
    write(tmp_path / "a.tif", values)
    init_region(tmp_path, write_records(tmp_path))
    file = tmp_path / "region.yaml"
    assert raster_doubts(Region.load(tmp_path)) == []
    file.write_text(file.read_text().replace(", nodata: -999.0", ""))
    (doubt,) = raster_doubts(Region.load(tmp_path))
    assert "-999 stands apart from all other values, in 25% of the cells" in doubt and "nodata: -999" in doubt


# --- classes --------------------------------------------------------------------------------------------

CODES = (10 * (1 + addresses(40, 50, 0, "int64") % 7)).astype("uint8")


def test_a_palette_stands_for_classes(tmp_path: Path):
    path = write(tmp_path / "a.tif", CODES)
    with rasterio.open(path, "r+") as target:
        target.write_colormap(1, {10 * n: (n, n, n, 255) for n in range(8)})
    (band,) = only(tmp_path).bands
    assert band.kind == "categorical" and "categorical is guessed: the file has a palette" in band.comment


def test_names_of_classes_stand_for_classes(tmp_path: Path):
    write(tmp_path / "a.tif", CODES)
    names = "<CategoryNames><Category>wood</Category></CategoryNames>"
    (tmp_path / "a.tif.aux.xml").write_text(
        f"<PAMDataset><PAMRasterBand band='1'>{names}</PAMRasterBand></PAMDataset>"
    )
    assert only(tmp_path).bands[0].kind == "categorical"


@pytest.mark.parametrize("name", ["landcover", "CLC2018", "soil_type", "Lithology", "eco-regions"])
def test_few_whole_numbers_under_a_telling_name_are_classes(tmp_path: Path, name: str):
    write(tmp_path / f"{name}.tif", CODES)
    assert only(tmp_path).bands[0].kind == "categorical"


@pytest.mark.parametrize(("name", "values"), [("elevation", CODES), ("landcover", SLOPE)])
def test_other_bands_are_numbers(tmp_path: Path, name: str, values: np.ndarray):
    write(tmp_path / f"{name}.tif", values)
    assert only(tmp_path).bands[0].kind == "number"


def test_a_guess_of_classes_is_written_and_said(tmp_path: Path):
    write(tmp_path / "landcover.tif", CODES)
    result = init_region(tmp_path, write_records(tmp_path))
    text = (tmp_path / "region.yaml").read_text()
    assert "kind: categorical" in text and "categorical is guessed" in text
    assert any("kind: categorical is a guess of landcover" in doubt for doubt in result.doubts)


# --- tiles ----------------------------------------------------------------------------------------------


def tile(path: Path, rows: slice, columns: slice, values: np.ndarray = SLOPE) -> None:
    write(path, values[rows, columns], west=5 + 0.01 * columns.start, north=45 - 0.01 * rows.start)


ALL, UPPER, LOWER = slice(0, 40), slice(0, 15), slice(15, 40)
LEFT, RIGHT = slice(0, 20), slice(20, 50)


def test_tiles_of_a_variable_are_one_band(tmp_path: Path):
    for name, rows, columns in (
        ("NW", UPPER, LEFT),
        ("NE", UPPER, RIGHT),
        ("SW", LOWER, LEFT),
        ("SE", LOWER, RIGHT),
    ):
        tile(tmp_path / f"dem_{name}.tif", rows, columns)
    result = init_region(tmp_path, write_records(tmp_path))
    assert (tmp_path / "dem.vrt").is_file()
    source = PatchSource(Region.load(tmp_path))
    assert source.bands == ["dem"] and source.stacks[0].shape == (40, 50)
    pad = source.stacks[0].pad
    np.testing.assert_array_equal(source.stacks[0].values[pad:-pad, pad:-pad, 0], SLOPE)
    assert "dem.vrt" in result.text()


def test_tiles_of_several_variables(tmp_path: Path):
    for name in ("tmin", "tmax"):
        tile(tmp_path / f"{name}_0_0.tif", ALL, LEFT)
        tile(tmp_path / f"{name}_0_20.tif", ALL, RIGHT)
    modality = only(tmp_path)
    assert sorted(modality.mosaics) == ["tmax.vrt", "tmin.vrt"] and len(modality.bands) == 2


def test_a_hole_between_tiles_has_no_data(tmp_path: Path):
    for name, columns in (("W", LEFT), ("E", slice(30, 50))):
        write(tmp_path / f"dem_{name}.tif", SLOPE[:, columns], west=5 + 0.01 * columns.start, nodata=-9999.0)
    init_region(tmp_path, write_records(tmp_path))
    (stack,) = PatchSource(Region.load(tmp_path)).stacks
    assert np.isnan(stack.values_at(np.array([5.255]), np.array([44.995]))).all()


def test_rasters_that_overlap_are_no_tiles(tmp_path: Path):
    tile(tmp_path / "dem_a.tif", ALL, LEFT)
    tile(tmp_path / "dem_b.tif", ALL, slice(10, 50))
    assert only(tmp_path).mosaics == {} and len(only(tmp_path).bands) == 2


# --- what is not read -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.hdf", "HDF4 is not read; write it to GeoTIFFs"),
        ("a.rds", "an R object is not read"),
        ("a.tif.gz", "is packed; unpack it"),
        ("a.tif", "cannot be read as a raster"),
        ("a.vrt", "is made of gone.tif, and there is no file"),
        ("a.tar.gz", "is an archive; unpack it if it holds rasters"),
        ("a.zip", "is a zip archive of 1 raster(s), wc/bio1.tif …; unpack it"),
        ("a.png", "is a picture with a place; write it to a GeoTIFF"),
    ],
)
def test_what_is_skipped_is_listed_with_the_reason(tmp_path: Path, name: str, reason: str):
    write(tmp_path / "good.tif", SLOPE)
    source = "<SourceFilename relativeToVRT='1'>gone.tif</SourceFilename>"
    (tmp_path / name).write_text(f"<VRTDataset>{source}</VRTDataset>" if name == "a.vrt" else "nothing")
    if name == "a.zip":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("wc/bio1.tif", b"")
    if name == "a.png":
        (tmp_path / "a.pgw").touch()
    modalities, unusable = find_modalities(tmp_path)
    assert len(modalities) == 1 and len(unusable) == 1
    assert unusable[0].startswith(f"{name}: ") and reason in unusable[0]


def test_the_crs_of_files_without_one_is_guessed_where_they_look_like_degrees(tmp_path: Path):
    rows = "\n".join(" ".join(f"{value:.2f}" for value in line) for line in SLOPE)
    header = "ncols 50\nnrows 40\nxllcorner 5\nyllcorner 44.6\ncellsize 0.01\nNODATA_value -9999\n"
    (tmp_path / "a.asc").write_text(header + rows + "\n")
    result = init_region(tmp_path, write_records(tmp_path))
    assert "crs: EPSG:4326  # guessed" in (tmp_path / "region.yaml").read_text()
    assert any("CRS is a guess" in doubt for doubt in result.doubts)
    assert PatchSource(Region.load(tmp_path)).bands == ["a"]


# --- bounds ---------------------------------------------------------------------------------------------

WORLD = (-180.0, -90.0, 180.0, 90.0)


@pytest.mark.parametrize(
    ("several", "expected"),
    [
        ([(0, 40, 10, 50), (5, 30, 20, 45)], (5, 40, 10, 45)),
        ([(170, 50, -130, 70)], (170, 50, -130, 70)),
        ([(170, 50, -130, 70), (-179, 40, -140, 60)], (-179, 50, -140, 60)),
        ([(160, 50, -130, 70), (150, 50, -170, 70)], (160, 50, -170, 70)),
        ([WORLD, (170, 50, -130, 70)], (170, 50, -130, 70)),
        ([(170, 50, -130, 70), WORLD], (170, 50, -130, 70)),
        ([WORLD, WORLD], WORLD),
    ],
)
def test_bounds_may_cross_180_degrees(several: list, expected: tuple):
    assert common_bounds(several) == expected


def test_a_region_may_cross_180_degrees(tmp_path: Path):
    write(tmp_path / "a.tif", SLOPE, crs="EPSG:3338", west=-2.25e6, north=2.45e6, cell=5e4)
    lines = [f"Poa annua,{lon},{lat}" for lon, lat in ((-155.0, 62.5), (-150, 65), (179.5, 55), (-165, 60))]
    (tmp_path / "records.csv").write_text("species,lon,lat\n" + "\n".join(lines) + "\n")
    init_region(tmp_path, tmp_path / "records.csv")
    west, _, east, _ = Region.load(tmp_path).bounds
    assert west > 150 and -180 < east < -90
