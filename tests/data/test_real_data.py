"""The readers on real files: the organisers' sample, WorldClim for Europe, Swiss trees.

All need GLCZOO_TEST_DATA. The numbers are those that each data set's README states, or come from a plain read
of its files with the csv module and rasterio.
"""

import csv
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.warp
import torch
from conftest import gathered

from glczoo.data.occurrences import Points
from glczoo.data.patch_source import PatchSource
from glczoo.data.patches import PatchBuilder
from glczoo.data.raster_files import BandFile
from glczoo.data.rasters import open_stacks
from glczoo.data.region import Band, Modality, Region
from glczoo.data.splits import split_samples
from glczoo.data.tables import read_folds, read_samples, read_species

pytestmark = pytest.mark.real_data
RECIPES = Path(__file__).parents[2] / "recipes/regions"


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


# --- the organisers' sample of GeoLifeCLEF 2023 ---------------------------------------------------------


@pytest.fixture
def sample(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Region:
    """The region of the recipe with what the sample has of it: satellite and two human footprint rasters."""
    monkeypatch.setenv("GLCZOO_DATA", str(test_data / "glc23-sample"))
    region = Region.load(RECIPES / "glc23.yaml")
    footprint = Modality(
        name="footprint",
        folder="EnvironmentalRasters/HumanFootprint/detailed",
        bands=[
            Band(name="built", file="Built2009_WGS84.tif"),
            Band(name="lights", file="lights2009_wgs84.tif"),
        ],
    )
    satellite = next(m for m in region.modalities if m.name == "satellite")
    return region.model_copy(update={"modalities": [satellite, footprint]})


def test_sample_tables(sample: Region) -> None:
    species = read_species(sample)
    po, pa = read_samples(sample, "po", species), read_samples(sample, "pa", species)
    folder = sample.root_path
    po_rows = rows_of(folder / "Presence_only_occurrences/Presences_only_train.csv")
    pa_rows = rows_of(folder / "Presence_Absences_occurrences/Presences_Absences_train.csv")
    assert (len(po), len(np.unique(po.species)), po.presence_only) == (100, 96, True)
    assert (pa.sizes().sum(), len(np.unique(pa.patch_id)), len(np.unique(pa.species))) == (100, 99, 80)
    assert len(species) == len({row["speciesId"] for row in po_rows + pa_rows}) == 96 + 80 - 10
    visits = [(int(row["patchID"]), int(row["dayOfYear"])) for row in pa_rows]
    distinct = list(dict.fromkeys(visits))
    assert pa.patch_id.tolist() == [patch for patch, _ in distinct]
    expected = [
        {int(row["speciesId"]) for row, v in zip(pa_rows, visits, strict=True) if v == visit}
        for visit in distinct
    ]
    found = [set(species.ids[pa.species[slice(*pa.offsets[i : i + 2])]].tolist()) for i in range(len(pa))]
    assert found == expected
    assert species.ids[po.species].tolist() == [int(row["speciesId"]) for row in po_rows]
    assert po.lon.tolist() == [float(row["lon"]) for row in po_rows]


def test_sample_patches(sample: Region) -> None:
    source = PatchSource(sample)
    assert source.bands == ["red", "green", "blue", "nir", "built", "lights"] and source.size == 128
    assert [str(stack.values.dtype) for stack in source.stacks] == ["int32", "uint8"]
    species = read_species(sample)
    po, pa = read_samples(sample, "po", species), read_samples(sample, "pa", species)
    assert source.complete(po, "po").all()  # 200 JPEG files, every point on the rasters
    with pytest.raises(ValueError, match="without a JPEG patch"):  # the sample has none for PA
        source.complete(pa, "pa")
    statistics = source.statistics(po)  # decodes all 200
    assert statistics.filled[:4] == [0] * 4 and all(0 <= share < 1 for share in statistics.filled)
    x = PatchBuilder(source, po, statistics.mean, statistics.std)(torch.arange(100))
    assert x.shape == (100, 6, 128, 128) and x.isfinite().all()
    filled = torch.tensor(statistics.filled)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(6), rtol=0, atol=1e-3)
    torch.testing.assert_close(x.var((0, 2, 3), correction=0), 1 - filled, rtol=1e-3, atol=0)
    for channel, name in ((4, "Built2009"), (5, "Lights2009")):
        path = sample.root_path / f"EnvironmentalRasters/HumanFootprint/detailed/{name}_WGS84.tif"
        with rasterio.open(path) as raster:
            values = np.concatenate(list(raster.sample(zip(po.lon, po.lat, strict=True))))
            known = values != raster.nodata
        assert known.sum() > 90
        centre = x[:, channel, 64, 64].double().numpy() * statistics.std[channel] + statistics.mean[channel]
        np.testing.assert_allclose(centre[known], values[known], atol=1e-3)


def test_sample_satellite_statistics_agree_with_the_organisers(sample: Region) -> None:
    (stated,) = rows_of(sample.root_path / "SatelliteImages/jpeg_patches_sample_stats.csv")
    found = PatchSource(sample, ["satellite"]).statistics(read_samples(sample, "po", read_species(sample)))
    mean, std = np.array(found.mean), np.array(found.std)
    # Theirs are of all four bands together.
    assert mean.mean() == pytest.approx(float(stated["mean"]), rel=1e-9)
    pooled = np.sqrt((std**2 + mean**2).mean() - mean.mean() ** 2)
    assert pooled == pytest.approx(float(stated["std"]), rel=1e-9)


# --- WorldClim for Europe -------------------------------------------------------------------------------


@pytest.fixture
def bioclim(test_data: Path) -> list[BandFile]:
    names = [f"bio{i}" for i in range(1, 20)]
    return [
        BandFile(Band(name=name, file=f"{name}.tif"), test_data / f"bioclim-europe/{name}.tif")
        for name in names
    ]


def test_bioclim_is_one_stack_with_known_values(bioclim: list[BandFile]) -> None:
    (stack,) = open_stacks(bioclim, 8)
    assert stack.shape == (275, 408) and len(stack.bands) == 19 and stack.values.dtype == np.int16
    places = {
        "Matterhorn": (7.66, 45.98, "bio1", -12),
        "Milan": (9.19, 45.46, "bio1", 129),
        "Seville": (-5.98, 37.39, "bio1", 184),
        "Ouargla": (5.33, 31.95, "bio1", 222),
        "Bergen": (5.35, 60.38, "bio12", 2375),  # its eastern half; the harbour lies in the cell beside
    }
    lon, lat = np.array([where[:2] for where in places.values()]).T
    row, col = stack.locate(lon, lat)
    values = stack.values[row + stack.pad, col + stack.pad]
    for (name, (*_, band, expected)), found in zip(places.items(), values, strict=True):
        assert found[stack.bands.index(band)] == expected, name
    at_sea = stack.locate(np.array([-28.0, 4.0]), np.array([47.0, 41.0]))  # Atlantic, Mediterranean
    assert not stack.outside(*at_sea).any()
    assert stack.missing(stack.values[at_sea[0] + stack.pad, at_sea[1] + stack.pad]).all()


def test_bioclim_patches_equal_windows(bioclim: list[BandFile]) -> None:
    (stack,) = open_stacks(bioclim, 8)
    row, col = stack.locate(np.array([7.66, 12.5]), np.array([45.98, 41.9]))
    out = gathered(stack, row, col, 8)
    for channel, path in enumerate(file.path for file in bioclim):
        with rasterio.open(path) as raster:
            values = raster.read(1)
        for i, (r, c) in enumerate(zip(row, col, strict=True)):
            window = values[r - 4 : r + 4, c - 4 : c + 4]
            np.testing.assert_array_equal(
                out[i, ..., channel], np.where(window == -9999, stack.sentinel, window)
            )


# --- Swiss trees ----------------------------------------------------------------------------------------


@pytest.fixture
def swiss(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> Region:
    monkeypatch.setenv("GLCZOO_DATA", str(test_data / "swiss-trees"))
    return Region.load(RECIPES / "swiss_trees.yaml")


def test_swiss_tables_and_split(swiss: Region) -> None:
    species = read_species(swiss)
    assert len(species) == 30 and species.names[:2] == ("swi01", "swi02")
    po, pa = read_samples(swiss, "po", species), read_samples(swiss, "pa", species)
    assert (len(po), len(np.unique(po.patch_id))) == (35105, 11429)
    assert (len(pa), pa.sizes().sum(), pa.sizes().min()) == (10013, 24300, 1)
    stated = rows_of(swiss.root_path / "species.csv")
    assert np.bincount(po.species).tolist() == [int(row["po_records"]) for row in stated]
    assert np.bincount(pa.species).tolist() == [int(row["pa_sites"]) for row in stated]
    fold, rank = read_folds(swiss, pa)
    assert np.bincount(fold).tolist() == [2004, 2002, 2002, 2003, 2002]
    tenth = split_samples(swiss, pa, kind="file", validation=0.2, fraction=0.1, seed=1)
    whole = split_samples(swiss, pa, kind="file", validation=0.2, seed=1)
    assert rank is not None and len(tenth.test) == len(whole.test) == 2004
    used = int(((fold != 0) & (rank < 0.1)).sum())
    assert len(tenth.train) + len(tenth.validation) == used and 650 < used < 950
    assert len(whole.train) + len(whole.validation) == 8009 and len(whole.validation) == 1602


def test_swiss_rasters_hold_the_values_of_the_sites(swiss: Region) -> None:
    """A cell's value is the mean over its sites: where a site is alone, it is the site's own value."""
    source = PatchSource(swiss)
    sites = rows_of(swiss.root_path / "site_env.csv")
    columns = {key: np.array([float(row[key]) for row in sites]) for key in sites[0] if key != "kind"}
    number = np.arange(len(sites))
    points = Points(columns["lon"], columns["lat"], number, number)
    compared = 0
    for stack, (row, col) in zip(source.stacks, source.locate(points), strict=True):
        (x, y), transform = (columns["x"], columns["y"]), stack.transform
        same = (col == np.floor((x - transform.c) / transform.a)) & (
            row == np.floor((y - transform.f) / transform.e)
        )
        assert same.mean() > 0.9999  # longitudes and latitudes are rounded to a tenth of a metre
        _, inverse, count = np.unique(row * 1000 + col, return_inverse=True, return_counts=True)
        alone = same & (count[inverse] == 1)
        assert alone.sum() > 2000
        values = stack.values[row[alone] + stack.pad, col[alone] + stack.pad]
        for channel, band in enumerate(stack.bands):
            np.testing.assert_allclose(values[:, channel], columns[band][alone], rtol=1e-6, err_msg=band)
            compared += 1
    assert compared == len(source.bands) == 13


def test_swiss_patches(swiss: Region) -> None:
    source = PatchSource(swiss)
    species = read_species(swiss)
    pa = read_samples(swiss, "pa", species)
    for points in (pa, read_samples(swiss, "po", species)):
        assert source.complete(points, "all").all()
        assert all(not s.missing(s.values[r + s.pad, c + s.pad]).any() for s, (r, c) in zip(
            source.stacks, source.locate(points), strict=True))  # fmt: skip
    statistics = source.statistics(pa)
    x = PatchBuilder(source, pa, statistics.mean, statistics.std)(torch.arange(len(pa)))
    assert x.shape == (10013, 13, 8, 8) and x.isfinite().all()
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(13), rtol=0, atol=2e-3)
    torch.testing.assert_close(
        x.double().var((0, 2, 3), correction=0).float(),
        1 - torch.tensor(statistics.filled),
        rtol=2e-3,
        atol=0,
    )
    (lon,), (lat,) = pa.lon[:1], pa.lat[:1]
    for channel, (band, modality) in enumerate(swiss.bands()):
        with rasterio.open(swiss.find(f"{modality.folder}/{band.file}")) as raster:
            (east,), (north,) = rasterio.warp.transform("EPSG:4326", raster.crs, [lon], [lat])
            (value,) = next(raster.sample([(east, north)]))
        found = x[0, channel, 4, 4].item() * statistics.std[channel] + statistics.mean[channel]
        assert found == pytest.approx(value, rel=1e-4, abs=1e-4), band.name
