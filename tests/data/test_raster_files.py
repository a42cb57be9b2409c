"""Rasters as strangers have them: what is opened, what is refused before a value is read."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import addresses, write_raster

from glczoo.data.raster_files import BandFile, grid_of, open_raster
from glczoo.data.rasters import RasterStack, open_stacks
from glczoo.data.region import Band

LON, LAT = np.array([5.005, 5.015, 5.025]), np.array([44.995, 44.985, 44.975])  # three cells' centres
VALUES = addresses(4, 5, 0, "int16")  # their values are 0, 1001 and 2002


def opened(path: Path, *, crs: str | None = None, **band: object) -> RasterStack:
    described = Band(name="bio1", file=path.name, **band)  # type: ignore[arg-type]
    (stack,) = open_stacks([BandFile(described, path, crs)], 3)
    return stack


def refused(path: Path, **options: bool) -> str:
    with pytest.raises((ValueError, FileNotFoundError)) as error, open_raster(path, **options) as source:
        grid_of(source)
    return str(error.value)


def edited(path: Path, **changes: object) -> Path:
    with rasterio.open(path, "r+") as target:
        for name, value in changes.items():
            setattr(target, name, value)
    return path


VRT = """<VRTDataset rasterXSize="5" rasterYSize="4"><SRS>EPSG:4326</SRS>
<GeoTransform>5.0, 0.01, 0, 45.0, 0, -0.01</GeoTransform><VRTRasterBand dataType="Int16" band="1">
<SimpleSource><SourceFilename relativeToVRT="{relative}">{file}</SourceFilename><SourceBand>1</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="5" ySize="4"/><DstRect xOff="0" yOff="0" xSize="5" ySize="4"/>
</SimpleSource></VRTRasterBand></VRTDataset>"""


def write_vrt(path: Path, file: str, relative: int = 1) -> Path:
    path.write_text(VRT.format(file=file, relative=relative))
    return path


# --- orientation, masks, no data, scale -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("transform", "values"),
    [
        (rasterio.Affine(0.01, 0, 5, 0, 0.01, 44.96), VALUES[::-1]),
        (rasterio.Affine(-0.01, 0, 5.05, 0, -0.01, 45), VALUES[:, ::-1]),
    ],
    ids=["south up", "east first"],
)
def test_every_raster_is_read_north_up(tmp_path: Path, transform: rasterio.Affine, values: np.ndarray):
    usual = opened(write_raster(tmp_path / "a.tif", [VALUES]))
    with rasterio.open(
        tmp_path / "b.tif", "w", driver="GTiff", height=4, width=5, count=1, dtype="int16", crs="EPSG:4326",
        transform=transform,
    ) as target:  # fmt: skip
        target.write(values, 1)
    other = opened(tmp_path / "b.tif")
    np.testing.assert_array_equal(other.values, usual.values)
    np.testing.assert_allclose(other.transform, usual.transform)
    assert other.values_at(LON, LAT)[:, 0].tolist() == [0, 1001, 2002]


@pytest.mark.parametrize("inside", [True, False])
def test_a_mask_of_the_file_is_no_data(tmp_path: Path, inside: bool):
    path = write_raster(tmp_path / "a.tif", [VALUES.astype("float32")])
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(path, "r+") as target:
        mask = np.full((4, 5), 255, np.uint8)
        mask[1, 1] = 0
        target.write_mask(mask)
    assert (tmp_path / "a.tif.msk").exists() is not inside
    np.testing.assert_array_equal(opened(path).values_at(LON, LAT)[:, 0], [0, np.nan, 2002])


@pytest.mark.parametrize("fill", [-3.4e38, 1e30, -1.7e38, np.inf])
def test_numbers_that_no_covariate_reaches_are_no_data(tmp_path: Path, fill: float):
    values = VALUES.astype("float32")
    values[1, 1] = fill
    stack = opened(write_raster(tmp_path / "a.tif", [values]))
    np.testing.assert_array_equal(stack.values_at(LON, LAT)[:, 0], [0, np.nan, 2002])


def test_scale_and_offset_of_the_file_are_applied_once(tmp_path: Path):
    path = edited(write_raster(tmp_path / "a.tif", [VALUES], nodata=1001), scales=[0.1], offsets=[-273.15])
    np.testing.assert_allclose(opened(path).values_at(LON, LAT)[:, 0], [-273.15, np.nan, -72.95], rtol=1e-6)


def test_a_region_can_say_another_scale_than_the_file(tmp_path: Path):
    path = edited(write_raster(tmp_path / "a.tif", [VALUES]), scales=[0.1], offsets=[-273.15])
    assert opened(path, scale=1, offset=0).values_at(LON, LAT)[:, 0].tolist() == [0, 1001, 2002]


@pytest.mark.parametrize(
    ("unit", "wanted", "expected"),
    [("°C", "K", 1001 + 273.15), ("mm", "cm", 100.1), ("°C", "mm", 1001), ("", "K", 1001)],
)
def test_values_come_in_the_unit_that_is_wanted(tmp_path: Path, unit: str, wanted: str, expected: float):
    described, path = Band(name="bio1", file="a.tif", unit=unit), write_raster(tmp_path / "a.tif", [VALUES])
    (stack,) = open_stacks([BandFile(described, path, unit=wanted)], 3)
    np.testing.assert_allclose(stack.values_at(LON, LAT)[1, 0], expected, rtol=1e-6)


def test_a_unit_that_repeats_the_scale_is_that_of_what_is_stored(tmp_path: Path):
    path = edited(write_raster(tmp_path / "a.tif", [VALUES]), scales=[0.1], offsets=[-273.15])
    described = Band(name="bio1", file="a.tif", unit="0.1 degC from -273.15")
    (stack,) = open_stacks([BandFile(described, path, unit="K")], 3)
    np.testing.assert_allclose(stack.values_at(LON, LAT)[1, 0], 100.1, rtol=1e-5)


# --- longitudes -----------------------------------------------------------------------------------------


def test_longitudes_are_turned_to_the_raster(tmp_path: Path):
    world = addresses(6, 12, 0, "int16")
    ours = opened(write_raster(tmp_path / "a.tif", [world], west=0, north=90, cell=30))
    lon, lat = np.array([-75.0, 285, 15, -180, 180]), np.full(5, 15.0)
    assert ours.values_at(lon, lat)[:, 0].tolist() == [2009, 2009, 2000, 2006, 2006]
    assert ours.bounds == (-180, -90, 180, 90)


def test_longitudes_up_to_360_are_found_on_a_raster_of_180(tmp_path: Path):
    stack = opened(write_raster(tmp_path / "a.tif", [VALUES], west=-70, north=45))
    assert (
        stack.values_at(np.array([290.015, -69.985]), np.array([44.985, 44.985]))[:, 0].tolist() == [1001] * 2
    )


def test_a_grid_may_cross_180_degrees(tmp_path: Path):
    path = write_raster(
        tmp_path / "a.tif", [VALUES], west=-2e5, north=2e5, cell=1e5, crs="+proj=laea +lat_0=0 +lon_0=180"
    )
    west, _, east, _ = opened(path).bounds
    assert 178 < west < 179 and -178 < east < -177
    assert not np.isnan(opened(path).values_at(np.array([179.5, -179.5]), np.zeros(2))).any()


# --- formats --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "suffix"), [("AAIGrid", ".asc"), ("EHdr", ".bil"), ("HFA", ".img"), ("RRASTER", ".grd")]
)
def test_formats_that_people_bring(tmp_path: Path, driver: str, suffix: str):
    with rasterio.open(
        tmp_path / f"a{suffix}", "w", driver=driver, height=4, width=5, count=1,
        dtype="float32", crs="EPSG:4326", transform=rasterio.Affine(0.01, 0, 5, 0, -0.01, 45), nodata=-9999,
    ) as target:  # fmt: skip
        target.write(np.where(VALUES == 1001, -9999, VALUES).astype("float32"), 1)
    np.testing.assert_array_equal(
        opened(tmp_path / f"a{suffix}").values_at(LON, LAT)[:, 0], [0, np.nan, 2002]
    )


def test_a_crs_can_be_named_for_files_that_have_none(tmp_path: Path):
    (tmp_path / "a.asc").write_text(
        "ncols 2\nnrows 2\nxllcorner 5\nyllcorner 44.98\ncellsize 0.01\n1 2\n3 4\n"
    )
    with pytest.raises(ValueError, match="a.asc has no CRS; name it, `crs: EPSG:4326`"):
        opened(tmp_path / "a.asc")
    assert opened(tmp_path / "a.asc", crs="EPSG:4326").values_at(LON[:2], LAT[:2])[:, 0].tolist() == [1, 4]


def test_what_is_no_raster_is_named(tmp_path: Path):
    (tmp_path / "a.tif").write_text("no raster")
    assert "a.tif cannot be read as a raster" in refused(tmp_path / "a.tif")


# --- what a file may name -------------------------------------------------------------------------------


def test_a_vrt_of_files_here_is_read(tmp_path: Path):
    write_raster(tmp_path / "a.tif", [VALUES])
    vrt = write_vrt(tmp_path / "b.vrt", "a.tif")
    assert opened(vrt).values_at(LON, LAT)[:, 0].tolist() == [0, 1001, 2002]


def test_the_missing_source_of_a_vrt_is_named(tmp_path: Path):
    assert "b.vrt is made of gone.tif, and there is no file" in refused(
        write_vrt(tmp_path / "b.vrt", "gone.tif")
    )


@pytest.mark.parametrize(
    "name",
    ["/vsicurl/http://127.0.0.1:9/a.tif", "http://127.0.0.1:9/a.tif", "WMS:http://x", "/vsizip/a.zip/a"],
)
def test_a_vrt_may_not_reach_out(tmp_path: Path, name: str):
    message = refused(write_vrt(tmp_path / "b.vrt", name, relative=0))
    assert "no file on this machine" in message and "virtual_files: true" in message


def test_nor_may_a_vrt_in_a_vrt(tmp_path: Path):
    write_vrt(tmp_path / "inner.tif", "/vsicurl/http://127.0.0.1:9/a.tif", relative=0)  # whatever its name
    assert "/vsicurl/" in refused(write_vrt(tmp_path / "b.vrt", "inner.tif"))


def test_a_region_of_ones_own_may_opt_in(tmp_path: Path):
    write_raster(tmp_path / "a.tif", [VALUES])
    vrt = write_vrt(tmp_path / "b.vrt", f"/vsisubfile/0_,{tmp_path / 'a.tif'}", relative=0)
    with open_raster(vrt, virtual_files=True) as source:
        assert source.read(1).tolist() == VALUES.tolist()


@pytest.mark.parametrize("suffix", [".vrt", ".tif"])
def test_a_published_region_may_hold_no_vrt(tmp_path: Path, suffix: str):
    write_raster(tmp_path / "a.tif", [VALUES])
    vrt = write_vrt(tmp_path / f"b{suffix}", "a.tif")
    assert "published regions may not hold any" in refused(vrt, published=True)


def test_a_published_region_may_hold_plain_formats_only(tmp_path: Path):
    path = write_raster(tmp_path / "a.tif", [VALUES])
    with open_raster(path, published=True) as source:
        assert source.driver == "GTiff"
    with rasterio.open(
        tmp_path / "a.img", "w", driver="HFA", height=4, width=5, count=1, dtype="int16", crs="EPSG:4326",
        transform=rasterio.Affine(0.01, 0, 5, 0, -0.01, 45),
    ) as target:  # fmt: skip
        target.write(VALUES, 1)
    assert "cannot be read as a raster" in refused(tmp_path / "a.img", published=True)


# --- sizes and grids ------------------------------------------------------------------------------------


def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken(tmp_path: Path):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=200_000, width=200_000, count=1, dtype="float32",
        crs="EPSG:4326", transform=rasterio.Affine(1e-4, 0, 5, 0, -1e-4, 45), tiled=True, sparse_ok=True,
        bigtiff="yes",
    ):  # fmt: skip
        pass
    assert "claims 200,000 x 200,000 cells in a file of" in refused(tmp_path / "a.tif")


def test_a_stack_for_which_there_is_no_room_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GLCZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: _Full())
    with pytest.raises(OSError, match="0.0 GB are free: make room.*GLCZOO_CACHE"):
        opened(write_raster(tmp_path / "a.tif", [VALUES]))
    assert list((tmp_path / "cache" / "stacks").iterdir()) == []


class _Full:
    free = 0


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (rasterio.Affine(0.01, 0, 5, 0, 0, 45), "cannot be inverted"),
        (rasterio.Affine(0.01, 0.02, 5, 0.02, 0.04, 45), "cannot be inverted"),
    ],
)
def test_a_grid_that_cannot_be_used_is_refused(tmp_path: Path, transform: rasterio.Affine, message: str):
    path = edited(write_raster(tmp_path / "a.tif", [VALUES]), transform=transform)
    assert message in refused(path)


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_crs_without_georeference_is_refused(tmp_path: Path):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", height=4, width=5, count=1, dtype="int16", crs="EPSG:4326"
    ) as target:
        target.write(VALUES, 1)
    assert "has no georeference: its cells have no place in EPSG:4326" in refused(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", ["uint64", "complex64"])
def test_types_that_no_model_reads_are_refused(tmp_path: Path, dtype: str):
    path = write_raster(tmp_path / "a.tif", [VALUES.astype(dtype)])
    with pytest.raises(ValueError, match=f"a.tif holds {dtype}: store it as another type"):
        opened(path)
