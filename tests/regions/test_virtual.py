import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torchvision.io import decode_jpeg, read_file

from glczoo.data.occurrences import Points
from glczoo.data.patch_source import PatchSource
from glczoo.data.raster_files import band_file
from glczoo.data.rasters import open_stacks
from glczoo.data.region import Region
from glczoo.data.tables import read_samples, read_species
from glczoo.regions import virtual
from glczoo.regions.virtual import AXES, VirtualRegion, make_virtual

TINY = {"species": 12, "po": 60, "pa": 20, "test": 5, "size": 32, "progress": False}
GLC23 = Path(__file__).parents[2] / "recipes" / "regions" / "glc23.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> VirtualRegion:
    folder = tmp_path_factory.mktemp("worlds") / "made"
    return make_virtual(
        folder, species=120, po=1500, pa=300, test=60, size=96, grid=4, seed=3, progress=False
    )


@pytest.fixture
def region(made: VirtualRegion, monkeypatch: pytest.MonkeyPatch) -> Region:
    monkeypatch.delenv("GLCZOO_DATA", raising=False)
    return Region.load(made.folder)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


def column(table: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) for row in table])


def tables(made: VirtualRegion) -> Iterator[list[dict[str, str]]]:
    for name in (virtual._PO, virtual._PA, virtual._TEST):
        yield rows(made.folder / name)


def truth(made: VirtualRegion) -> dict[str, np.ndarray]:
    with np.load(made.folder / "truth" / "probabilities.npz") as file:
        return dict(file)


def found_by(table: list[dict[str, str]], keys: list, key: tuple[str, ...], ids: np.ndarray) -> np.ndarray:
    """Which species the rows of a table say were found, bool[N, K]."""
    number, kind = {k: i for i, k in enumerate(keys)}, {int(k): i for i, k in enumerate(ids)}
    found = np.zeros((len(keys), len(ids)), bool)
    for row in table:
        found[number[tuple(row[name] for name in key)], kind[int(row["speciesId"])]] = True
    return found


def surveys(made: VirtualRegion) -> tuple[list, np.ndarray]:
    """PA surveys in order of first appearance and what they found."""
    table = rows(made.folder / virtual._PA)
    keys = list(dict.fromkeys((row["patchID"], row["dayOfYear"]) for row in table))
    return keys, found_by(table, keys, ("patchID", "dayOfYear"), truth(made)["species_ids"])


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_region_has_the_channels_and_files_of_glc23(region):
    real = Region.load(GLC23)
    assert [(b.name, b.file, b.index, b.unit) for b, _ in region.bands()] == [
        (b.name, b.file, b.index, b.unit) for b, _ in real.bands()
    ]
    assert [(m.name, m.kind, m.folder) for m in region.modalities] == [
        (m.name, m.kind, m.folder) for m in real.modalities
    ]
    for band, modality in real.bands():
        assert (region.root_path / modality.folder / band.file).exists()
    for name, table in real.tables.items():
        assert region.find(*table.file) == region.find(*region.tables[name].file)
    assert "irtual" in region.description and region.patch_size == 128
    west, south, east, north = real.bounds
    assert west < region.bounds[0] < region.bounds[2] < east
    assert south < region.bounds[1] < region.bounds[3] < north


def test_rasters_have_the_quirks_of_the_real_ones(made):
    paths = sorted((made.folder / "EnvironmentalRasters").rglob("*.tif"))
    assert len(paths) == 29
    grids = set()
    for path in paths:
        with rasterio.open(path) as file:
            assert file.crs.to_epsg() == 4326 and file.profile["compress"] == "deflate"
            grids.add((file.transform, file.shape))
            if path.name.startswith("bio"):
                assert file.dtypes == ("uint16",) and file.nodata is None
                assert file.read().std() > 0
            else:
                assert file.dtypes == ("float32",) and file.nodata < -3e38
                assert file.read(1, masked=True).mask.any() == path.name.startswith("crop_proj")
    assert len(grids) == 3


def test_every_place_lies_where_all_rasters_have_data(made):
    paths = sorted((made.folder / "EnvironmentalRasters").rglob("*.tif"))
    for table in tables(made):
        points = sorted({(float(row["lon"]), float(row["lat"])) for row in table})
        for path in paths:
            with rasterio.open(path) as file:
                assert not any(value.mask.any() for value in file.sample(points, masked=True))


def test_stacks_open(region, tmp_path, monkeypatch):
    monkeypatch.setenv("GLCZOO_CACHE", str(tmp_path))
    bands = [band_file(region, m, band) for band, m in region.bands() if m.kind == "raster"]
    stacks = open_stacks(bands, region.patch_size)
    assert [len(stack.bands) for stack in stacks] == [19, 9, 1]


def test_every_place_has_its_two_patches(made):
    ids = {int(row["patchID"]) for table in tables(made) for row in table}
    ids |= {int(row["patchID"]) for row in rows(made.folder / "truth" / "grid.csv")}
    assert len(ids) == made.num_patches and min(ids) >= 10**6
    for tree, channels in (("rgb", 3), ("nir", 1)):
        folder = made.folder / "SatelliteImages" / tree
        assert {int(p.stem) for p in folder.rglob("*.jpeg")} == ids
        for number in sorted(ids)[::50]:
            text = str(number)
            image = decode_jpeg(read_file(str(folder / text[-2:] / text[-4:-2] / f"{text}.jpeg")))
            assert image.shape == (channels, 128, 128) and image.dtype == torch.uint8
            assert image.float().std() > 1


def test_tables_have_the_columns_and_quirks_of_the_real_ones(made):
    po, pa, test = tables(made)
    head = "glcID gbifID observer datasetName date dayOfYear year lon lat x_EPSG3035 y_EPSG3035"
    tail = "geoUncertaintyInM speciesId patchID timeSerieID"
    assert " ".join(po[0]) == f"{head} {tail}" and " ".join(pa[0]) == f" {head} {tail}"
    assert " ".join(test[0]) == (
        "Id datasetName date dayOfYear year patchID timeSerieID "
        "lon lat x_EPSG3035 y_EPSG3035 geoUncertaintyInM"
    )
    assert (len(po), len(test)) == (made.num_po, made.num_test)
    for table in (po, pa):
        assert {"-" in row["date"] for row in table} == {True, False}  # ISO and Unix seconds
        assert any(";" in row["observer"] for row in table)
    for row in po[:100]:
        unit = "D" if "-" in row["date"] else "s"
        date = np.datetime64(row["date"] if unit == "D" else int(row["date"]), unit).astype("datetime64[D]")
        assert date == np.datetime64(f"{row['year']}-01-01") + int(row["dayOfYear"]) - 1
    assert len({row["datasetName"] for row in pa}) == 3
    assert sorted(column(test, "Id")) == list(range(1, made.num_test + 1))


def test_surveys_are_patch_and_day(made, region):
    keys, found = surveys(made)
    assert len(keys) == made.num_pa == 300
    assert len({patch for patch, _ in keys}) == 285  # 15 places are visited twice
    assert found.sum(axis=1).min() >= 1
    assert made.mean_set_size == pytest.approx(found.sum(axis=1).mean())
    assert made.mean_set_size == pytest.approx(13, abs=1.5)
    vocabulary = read_species(region)
    read = read_samples(region, "pa", vocabulary)
    assert np.array_equal(read.patch_id, [int(patch) for patch, _ in keys])
    assert np.array_equal(read.sizes(), found.sum(axis=1))


def test_every_species_is_recorded_and_ids_have_a_gap(made, region):
    ids = read_species(region).ids
    assert np.array_equal(ids, truth(made)["species_ids"])
    assert ids[0] == 1 and ids[-1] == made.num_species + 1
    records = np.bincount(column(next(tables(made)), "speciesId").astype(int))
    assert set(np.flatnonzero(records)) == set(ids)
    assert records.max() > 5 * np.median(records[ids])  # a long tail


def test_presence_only_records_crowd_where_people_are(made):
    pressure = []
    for table in list(tables(made))[:2]:
        place = {row["patchID"]: (float(row["lon"]), float(row["lat"])) for row in table}
        with rasterio.open(made.folder / virtual.FOOTPRINT / "HFP2009_WGS84.tif") as file:
            pressure.append(np.array([value[0] for value in file.sample(place.values())]))
        if len(pressure) == 1:
            assert len(place) == made.num_po_places < 0.5 * made.num_po  # records share places
    spread = np.sqrt(pressure[0].var() / len(pressure[0]) + pressure[1].var() / len(pressure[1]))
    assert pressure[0].mean() - pressure[1].mean() > 5 * spread


def test_truth_is_what_the_tables_were_drawn_from(made):
    true = truth(made)
    _, found_pa = surveys(made)
    ids = [(row["Id"],) for row in rows(made.folder / virtual._TEST)]
    sets = rows(made.folder / "truth" / "test_species.csv")
    found_test = found_by(sets, ids, ("Id",), true["species_ids"])
    assert found_test.sum(axis=1).min() >= 1
    p, found = np.concatenate([true["pa"], true["test"]]), np.concatenate([found_pa, found_test])
    assert p.shape == (360, 120) and p.min() > 0 and p.max() < 1
    often = p.sum(axis=0) > 3
    z = ((found - p).sum(axis=0) / np.sqrt((p * (1 - p)).sum(axis=0)))[often]
    assert np.abs(z).max() < 4.5 and 0.7 < (z**2).mean() < 1.4  # Bernoulli, species by species
    for low in np.arange(0, 0.8, 0.2):  # and at every height
        inside = (p >= low) & (p < low + 0.2)
        assert found[inside].mean() == pytest.approx(p[inside].mean(), abs=5 * 0.5 / np.sqrt(inside.sum()))


def test_responses_explain_the_probabilities(made):
    true, table = truth(made), rows(made.folder / "truth" / "responses.csv")
    assert np.array_equal(column(table, "speciesId"), true["species_ids"])
    distance = sum(
        (
            (true["grid_axes"][:, a, None] - column(table, f"optimum_{axis}"))
            / column(table, f"tolerance_{axis}")
        )
        ** 2
        for a, axis in enumerate(AXES)
    )
    peak = column(table, "max_probability")
    odds = peak / (1 - peak) * np.exp(-0.5 * distance)
    alone = odds / (1 + odds)
    expected = alone / (1 - np.prod(1 - alone, axis=1, keepdims=True))
    assert np.allclose(true["grid"], expected, atol=1e-5)
    grid = rows(made.folder / "truth" / "grid.csv")
    assert len(grid) == made.num_grid == 16 and true["grid"].shape == (16, 120)
    lon, lat = column(grid, "lon").reshape(4, 4), column(grid, "lat").reshape(4, 4)
    assert (np.diff(lon, axis=1) > 0).all() and (np.diff(lat, axis=0) < 0).all()
    assert np.ptp(lon, axis=0).max() == 0 and np.ptp(lat, axis=1).max() == 0


def test_there_is_something_to_learn_and_something_to_miss(made):
    _, found = surveys(made)
    p = truth(made)["pa"]

    def f1(scores: np.ndarray) -> float:
        top = np.argsort(-scores, axis=1, kind="stable")[:, :13]
        hits = np.take_along_axis(found, top, axis=1).sum(axis=1)
        return float((2 * hits / (13 + found.sum(axis=1))).mean())

    constant, oracle = f1(np.broadcast_to(found.mean(axis=0), found.shape)), f1(p)
    assert constant < 0.45 and 0.5 < oracle < 0.7 and oracle - constant > 0.15


def test_patches_show_light_at_their_centre(made):
    test = rows(made.folder / virtual._TEST)
    red = []
    for row in test:
        patch = row["patchID"]
        path = made.folder / "SatelliteImages" / "rgb" / patch[-2:] / patch[-4:-2] / f"{patch}.jpeg"
        red.append(float(decode_jpeg(read_file(str(path)))[0, 54:74, 54:74].float().median()))
    assert np.corrcoef(red, truth(made)["test_axes"][:, AXES.index("light")])[0, 1] > 0.5


def test_same_seed_same_bytes_other_seed_other_world(tmp_path):
    for name, more in (("a", {}), ("b", {}), ("c", {"seed": 1}), ("d", {"patch_size": 16})):
        make_virtual(tmp_path / name, **TINY, **more)
    a, b, c, d = (files(tmp_path / name) for name in "abcd")
    assert a == b
    same = [name for name in a if a[name] == c.get(name)]
    assert same == []
    assert [name for name in a if a[name] != d[name]] == ["region.yaml"]


def test_the_least_world_and_an_empty_folder(tmp_path):
    (tmp_path / "least").mkdir()
    made = make_virtual(tmp_path / "least", species=2, po=3, pa=1, test=1, size=32, progress=False)
    assert (made.num_po, made.num_po_places, made.num_pa) == (3, 1, 1)
    assert not (made.folder / "truth" / "grid.csv").exists()


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="not empty: name another folder"):
        make_virtual(tmp_path, **TINY)
    with pytest.raises(FileExistsError, match="mine.txt"):
        make_virtual(tmp_path / "mine.txt", **TINY)
    assert files(tmp_path) == {"mine.txt": b"keep"}


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(virtual, "write_patches", stop)
    with pytest.raises(KeyboardInterrupt):
        make_virtual(tmp_path / "world", **TINY)
    assert list(tmp_path.iterdir()) == []


def test_arguments_out_of_range_are_all_named(tmp_path):
    with pytest.raises(ValueError, match=r"po = 12, not in \[13, .*size = 8.*patch_size = 0.*seed = -1"):
        make_virtual(tmp_path / "w", **TINY | {"po": 12, "size": 8, "patch_size": 0, "seed": -1})
    assert not (tmp_path / "w").exists()


@pytest.fixture(scope="module")
def warmer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("warmer") / "world"
    make_virtual(folder, **TINY | {"grid": 8, "warming": 3.5})
    return folder


def test_another_climate_is_warmer_by_so_much(warmer):
    now, then = Region.load(warmer / "region.yaml"), Region.load(warmer / "warmer.yaml")
    mean = {band.name: number for number, (band, _) in enumerate(now.bands())}["bio1"]
    lon, lat = np.array([5.1, 5.15]), np.array([46.9, 46.85])
    points = Points(lon, lat, np.arange(2), np.arange(2))
    values = [PatchSource(region, ["bioclim"], 1).values(points)[:, mean] for region in (now, then)]
    np.testing.assert_allclose(values[1] - values[0], 35, atol=1.5)  # in tenths of a kelvin, with noise


def test_in_another_climate_the_niches_are_the_same_and_the_probabilities_are_not(warmer):
    with np.load(warmer / "truth" / "probabilities.npz") as truth:
        now, then, axes = truth["grid"], truth["grid_warmer"], truth["grid_axes"]
    table = np.genfromtxt(warmer / "truth" / "responses.csv", delimiter=";", names=True)
    order = table["optimum_temperature"].argsort()
    gain = np.log(then / now).mean(0)[order]
    assert gain[-3:].mean() > gain[:3].mean() and then.shape == now.shape and len(axes) == len(now)


def test_without_another_climate_there_is_no_file_of_it(made):
    assert not (made.folder / "warmer.yaml").exists()
