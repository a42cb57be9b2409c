"""Models that see bands of samples, which places alone do not have: trained, asked, published."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import RECIPES

import glczoo
from glczoo.cli import main
from glczoo.data.region import Region
from glczoo.data.tables import read_samples, read_species
from glczoo.errors import GlczooError
from glczoo.hub.publish import save, verify
from glczoo.prediction.points import predict_points
from glczoo.recipe import read_recipe
from glczoo.runs.run import Run
from glczoo.train import train
from glczoo.training.fit_forest import fit_forest
from glczoo.training.fit_records import fit_records

NEEDED = "without values: they need a patchID that has a cube of months or a patchID that ground.csv has"


def write_region(world: Path, folder: Path) -> Region:
    """The virtual region with one of its raster modalities; a table and cubes of most of its surveys."""
    described = yaml.safe_load((world / "region.yaml").read_text("utf-8"))
    own = Region.load(world)
    raster = next(m for m in described["modalities"] if m.get("kind", "raster") == "raster")
    table = {"name": "ground", "kind": "values", "file": str(folder / "ground.csv"), "key": "patchID"}
    cubes = {"name": "months", "kind": "cube", "file": str(folder / "{id}.pt"), "columns": ["cold", "warm"]}
    described["modalities"] = [raster, table, cubes]
    surveys = read_samples(own, "pa", read_species(own))
    keys = np.unique(surveys.patch_id)[1:]  # one survey has no row
    values = np.random.default_rng(0).normal(size=(len(keys), 2))
    frame = pd.DataFrame({"patchID": keys, "ph": values[:, 0], "soil": values[:, 1]})
    frame.to_csv(folder / "ground.csv", index=False)
    for key in keys[5:].tolist():
        torch.save(torch.rand(2, 3, 4), folder / f"{key}.pt")
    described["root"] = str(world)
    (folder / "region.yaml").write_text(yaml.safe_dump(described))
    return Region.load(folder)


@pytest.fixture(scope="module")
def region(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Region:
    return write_region(world, tmp_path_factory.mktemp("keyed"))


@pytest.fixture(scope="module")
def run(region: Region, tmp_path_factory: pytest.TempPathFactory) -> Path:
    overrides = {
        "region": region._folder, "runs": tmp_path_factory.mktemp("runs"), "model": "test_resnet",
        "init": "random", "patch_size": 8, "epochs": 1, "batch_size": 32, "top_k": 5,
        "data.incomplete": "fill",
    }  # fmt: skip
    return train(read_recipe(RECIPES / "step1.yaml", [f"{key}={value}" for key, value in overrides.items()]))


@pytest.fixture
def points(region: Region, tmp_path: Path) -> Path:
    surveys = read_samples(region, "pa", read_species(region)).at(np.arange(20, 24))
    rows = zip(surveys.lon, surveys.lat, surveys.patch_id, strict=True)
    lines = [f"{lon},{lat},{patch}" for lon, lat, patch in rows]
    lines[2] = lines[2].rpartition(",")[0] + ",-5"  # of no row
    path = tmp_path / "points.csv"
    path.write_text("\n".join(["lon,lat,patchID", *lines]) + "\n")
    return path


def test_points_with_a_row_are_answered_and_others_are_named(run: Path, points: Path, tmp_path: Path):
    main(["predict", str(run), "--points", str(points), "--out", str(tmp_path / "species.csv")])
    assert set(pd.read_csv(tmp_path / "species.csv")["id"]) == {0, 1, 3}
    left_out = pd.read_csv(tmp_path / "species.left_out.csv")
    assert left_out["reason"].tolist() == [NEEDED]


def test_places_alone_end_with_what_they_need(run: Path, points: Path, tmp_path: Path):
    frame = pd.read_csv(points)
    frame[["lon", "lat"]].to_csv(points, index=False)
    with pytest.raises(SystemExit, match=f"4 {NEEDED}"):
        main(["predict", str(run), "--points", str(points), "--out", str(tmp_path / "species.csv")])


def test_python_takes_the_keys(run: Path, points: Path):
    frame = pd.read_csv(points)
    table = glczoo.load(run).predict(
        frame["lon"], frame["lat"], columns={"patchID": frame["patchID"].to_numpy()}
    )
    assert set(table["id"]) == {0, 1, 3} and len(table.attrs["left_out"]) == 1


def test_a_map_is_refused(run: Path, tmp_path: Path):
    with pytest.raises(SystemExit, match="modality months, ground, which belongs to samples.*ground.csv has"):
        main(["map", str(run), "--species", "1", "--resolution", "0.1", "--out", str(tmp_path / "map")])


def test_a_published_model_describes_its_values(run: Path, region: Region, tmp_path: Path):
    folder = save(run, tmp_path / "published")
    assert verify(folder).difference < 1e-4
    described = Region.load(folder, published=True)
    assert [modality.file for modality in described.modalities[1:]] == [["ground.csv"], ["{id}.pt"]]
    assert described.band_names == region.band_names


def test_a_forest_reads_values_as_covariates(region: Region, tmp_path: Path):
    overrides = {
        "region": region._folder, "runs": tmp_path, "init": "random", "patch_size": 1,
        "decoding": "top_k", "data.incomplete": "fill",
    }  # fmt: skip
    recipe = read_recipe(RECIPES / "step1.yaml", [f"{key}={value}" for key, value in overrides.items()])
    model = Run.find(fit_forest(recipe, trees=30)).model
    assert model.bands == region.band_names
    surveys = read_samples(region, "pa", read_species(region)).at(np.arange(20, 30))
    assert 0 < model.probabilities(surveys).max() <= 1


def test_records_are_fitted_with_values_of_their_rows(world: Path, tmp_path: Path):
    described = yaml.safe_load((world / "region.yaml").read_text("utf-8"))
    raster = next(m for m in described["modalities"] if m.get("kind", "raster") == "raster")
    described["modalities"] = [raster, {"name": "own", "kind": "values", "columns": ["dayOfYear"]}]
    described["root"], described["tables"] = str(world), {"po": described["tables"]["po"]}
    described.pop("split", None)
    (tmp_path / "region.yaml").write_text(yaml.safe_dump(described))
    region = Region.load(tmp_path)
    fit_records(region, str(tmp_path), tmp_path / "run", minutes=0, log=lambda text: None)
    model = Run.find(tmp_path / "run").model
    assert model.bands == [*region.band_names, "east", "north"] and model.mean[-3] > 1
    with pytest.raises(GlczooError, match="without values: they need the columns dayOfYear"):
        predict_points(model, read_samples(Region.load(world), "pa", model.species), tmp_path / "species.csv")
