"""The invented world in the layout of GeoLifeCLEF 2024: files like the real ones, and a known truth."""

import csv
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from torchvision.io import decode_jpeg, read_file

from glczoo.regions import virtual
from glczoo.regions.virtual import AXES, VirtualRegion, make_virtual

WORLD = {"species": 40, "po": 200, "pa": 160, "test": 30, "size": 64, "seed": 3, "progress": False}
GROUPS = ("PA-train", "PA-test", "PO-train")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> VirtualRegion:
    return make_virtual(tmp_path_factory.mktemp("worlds") / "made", layout="glc24", **WORLD)


def rows(path: Path, separator: str = ",") -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=separator))


def ids_of(made: VirtualRegion, group: str) -> list[int]:
    """surveyIds of a group in order of first appearance."""
    files = ("GLC24_PA_metadata_train.csv", "GLC24_PA_metadata_test.csv", "GLC24_P0_metadata_train.csv")
    table = rows(made.folder / files[GROUPS.index(group)])
    return list(dict.fromkeys(int(row["surveyId"]) for row in table))


def cube(made: VirtualRegion, group: str, kind: str, survey: int) -> torch.Tensor:
    folder = made.folder / "TimeSeries-Cubes/TimeSeries-Cubes" / f"GLC24-{group}-{kind}"
    (path,) = folder.glob(f"*_{survey}_cube.pt")
    return torch.load(path, weights_only=True)


def truth(made: VirtualRegion) -> dict[str, np.ndarray]:
    with np.load(made.folder / "truth/probabilities.npz") as file:
        return dict(file)


def patch(survey: int) -> str:
    return f"{str(survey)[-2:]}/{str(survey)[-4:-2]}/{survey}"


@pytest.mark.parametrize("group", GROUPS)
def test_every_survey_has_its_files(made: VirtualRegion, group: str) -> None:
    who, part = group.split("-")
    for survey in ids_of(made, group):
        for kind in ("bioclimatic_monthly", "landsat_time_series"):
            assert cube(made, group, kind, survey).dtype == torch.float32
        assert (made.folder / "SatelitePatches" / group / f"{patch(survey)}.tiff").is_file()
        for colour in ("RGB", "NIR"):
            tree = f"{who}_{part.title()}_SatellitePatches_{colour}"
            inner = f"{who}_{part}_patches_{colour}".lower()
            assert (made.folder / tree / inner / f"{patch(survey)}.jpeg").is_file()


@pytest.mark.parametrize("group", GROUPS)
def test_every_survey_has_a_row_in_every_table_of_values(made: VirtualRegion, group: str) -> None:
    tables = sorted((made.folder / "EnvironmentalRasters").rglob(f"GLC24-{group}-*.csv"))
    columns = 0
    for path in tables:
        table = rows(path)
        assert sorted(int(row["surveyId"]) for row in table) == sorted(ids_of(made, group))
        columns += len(table[0]) - 1
        assert all(value == "" or np.isfinite(float(value)) for row in table for value in row.values())
    assert len(tables) == 5 and columns == 58


def test_cubes_and_patches_look_like_the_real_ones(made: VirtualRegion, test_data: Path) -> None:
    real = test_data / "glc24-sample"
    survey = ids_of(made, "PA-train")[0]
    for kind in ("bioclimatic_monthly", "landsat_time_series"):
        (path,) = (real / "glc24_pre_extracted").rglob(
            f"GLC24-PA-train-{kind.replace('_', '?')}_1322301_cube.pt"
        )
        mine, other = cube(made, "PA-train", kind, survey), torch.load(path, weights_only=True)
        assert mine.shape == other.shape and mine.dtype == other.dtype and not mine.is_contiguous()
        low, high = other.amin((1, 2)), other.amax((1, 2))
        middle = mine.nan_to_num(0).mean((1, 2))
        assert ((middle > low - 100) & (middle < high + 100)).all()  # the same units
    (path,) = (real / "glc25_pre_extracted/SatelitePatches/PA-train").rglob("*.tiff")
    with (
        rasterio.open(path) as there,
        rasterio.open(made.folder / f"SatelitePatches/PA-train/{patch(survey)}.tiff") as here,
    ):
        for key in ("dtype", "nodata", "width", "height", "count", "compress", "interleave"):
            assert here.profile[key] == there.profile[key]
        assert here.res == there.res == (10, 10)
        image = torch.from_numpy(here.read())
    tree = made.folder / "PA_Train_SatellitePatches_RGB/pa_train_patches_rgb"
    colours = decode_jpeg(read_file(str(tree / f"{patch(survey)}.jpeg")))[:, 32:96, 32:96]
    assert (image[:3] / 24 - colours.float()).abs().mean() < 8  # the same picture, but for JPEG's losses


def test_cubes_follow_the_climate_of_the_truth(made: VirtualRegion) -> None:
    """Temperature and moisture of a place can be read off its cube; the warmest month is July."""
    axes = dict(zip(AXES, truth(made)["test_axes"].T, strict=True))
    cubes = torch.stack([cube(made, "PA-test", "bioclimatic_monthly", i) for i in ids_of(made, "PA-test")])
    pr, tas, tasmax, tasmin = cubes.mean((2, 3)).T.numpy()
    assert np.corrcoef(tas, axes["temperature"])[0, 1] > 0.95
    assert np.corrcoef(np.log(pr), axes["moisture"])[0, 1] > 0.8
    assert (tasmin < tas).all() and (tas < tasmax).all()
    assert set(cubes[:, 1].mean((0, 1)).topk(1).indices.tolist()) == {6}
    assert (cubes == cubes.round()).all()


def test_landsat_shows_light_dimly_and_has_clouds(made: VirtualRegion) -> None:
    light = truth(made)["test_axes"][:, AXES.index("light")]
    cubes = torch.stack([cube(made, "PA-test", "landsat_time_series", i) for i in ids_of(made, "PA-test")])
    share = float(cubes.isnan().float().mean())
    assert 0.002 < share < 0.05
    swir = cubes[:, 4].nanmean((1, 2)).numpy()
    assert 0.3 < np.corrcoef(swir, light)[0, 1] < 0.98
    assert (cubes.nan_to_num(0) >= 0).all() and (cubes.nan_to_num(0) <= 255).all()


def test_it_is_the_world_of_the_other_layout(made: VirtualRegion, tmp_path: Path) -> None:
    """Species, surveys and records are the same; a second visit is a survey of its own."""
    other = make_virtual(tmp_path / "other", **WORLD)
    old, new = rows(other.folder / virtual._PA, ";"), rows(made.folder / "GLC24_PA_metadata_train.csv")
    assert [(r["lon"], r["lat"], int(r["speciesId"])) for r in old] == [
        (r["lon"], r["lat"], float(r["speciesId"])) for r in new
    ]
    assert len({r["surveyId"] for r in new}) == len({(r["patchID"], r["dayOfYear"]) for r in old})
    mine, theirs = truth(made), truth(other)
    assert mine.keys() == theirs.keys() and all(np.array_equal(mine[key], theirs[key]) for key in mine)


def test_the_solution_has_a_row_for_each_test_survey(made: VirtualRegion) -> None:
    table = rows(made.folder / "truth/GLC24_SOLUTION_FILE.csv")
    assert sorted(int(row["surveyId"]) for row in table) == sorted(ids_of(made, "PA-test"))
    long = rows(made.folder / "truth/test_species.csv", ";")
    for row in table:
        found = [other["speciesId"] for other in long if other["Id"] == row["surveyId"]]
        assert row["target_species_ids"].split() == found and found


def test_species_are_written_as_the_real_file_does(made: VirtualRegion) -> None:
    table = rows(made.folder / "GLC24_PA_metadata_train.csv")
    assert all(row["speciesId"].endswith(".0") for row in table)
    assert "speciesId" not in rows(made.folder / "GLC24_PA_metadata_test.csv")[0]
    records = rows(made.folder / "GLC24_P0_metadata_train.csv")
    assert all(row["date"] == f"{row['year']}-{int(row['month']):02}-{int(row['day']):02}" for row in records)


def test_another_climate_needs_rasters(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="which needs the rasters of layout glc23"):
        make_virtual(tmp_path / "world", layout="glc24", warming=2.0, **WORLD)
