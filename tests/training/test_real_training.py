"""The organisers' sample and real bioclimatic rasters, through the whole of step 2 and step 1."""

import json
from pathlib import Path

import pytest
import yaml

from glczoo.recipe import read_recipe
from glczoo.runs.run import load_model
from glczoo.train import train

RECIPES = Path(__file__).parents[2] / "recipes"
pytestmark = pytest.mark.real_data


@pytest.fixture
def europe(test_data, tmp_path) -> Path:
    """glc23.yaml with the files that there are: the sample's JPEGs, two footprint rasters, coarse bioclim."""
    region = yaml.safe_load((RECIPES / "regions" / "glc23.yaml").read_text())
    region["root"] = str(test_data.resolve())
    bioclim, _, satellite, footprint = region["modalities"]
    bioclim["folder"] = "bioclim-europe"
    satellite["folder"] = "glc23-sample/SatelliteImages"
    footprint["folder"] = "glc23-sample/EnvironmentalRasters/HumanFootprint/detailed"
    footprint["bands"] = [
        {"name": "built", "file": "Built2009_WGS84.tif"},
        {"name": "lights", "file": "Lights2009_WGS84.tif"},
    ]
    region["modalities"] = [bioclim, satellite, footprint]
    region["tables"].pop("test")
    for table in region["tables"].values():
        table["file"] = [f"glc23-sample/{spelling}" for spelling in table["file"]]
    path = tmp_path / "region.yaml"
    path.write_text(yaml.safe_dump(region, sort_keys=False))
    return path


def test_a_few_steps_on_the_sample(europe, tmp_path):
    common = [
        f"region={europe}",
        f"runs={tmp_path}",
        "model=test_fusresnet_glc23",
        "init=random",
        "batch_size=16",
        "patch_size=8",
        "log_every=1",
        "keep=last",
    ]
    branches = "model_args={branches: {bioclim: 19, satellite: 6}}"
    step2 = ["epochs=4", "data.validation={po: 0.1}", "data.incomplete=drop", branches]
    run = train(read_recipe(RECIPES / "step2.yaml", [*common, *step2]))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [line["loss"] for line in lines if line["kind"] == "epoch"]
    assert epochs[-1] < epochs[0]
    trained = load_model(run)
    assert trained.bands[19:] == ["red", "green", "blue", "nir", "built", "lights"]
    assert 0 < trained.mean[0] < 200  # bio1 of Europe, degrees C x 10
    assert 60 < trained.mean[19] < 140  # the sample's own statistics give 97 over all bands

    # The sample's PA rows have no patches: step 1 sees climate and footprint.
    step1 = ["epochs=1", "modalities=[bioclim, footprint]", "data.incomplete=drop"]
    branches = "model_args={branches: {bioclim: 19, footprint: 2}}"
    assert (
        len(load_model(train(read_recipe(RECIPES / "step1.yaml", [*common, *step1, branches]))).bands) == 21
    )
    with pytest.raises(ValueError, match="cannot be read: .* without a JPEG patch"):
        train(read_recipe(RECIPES / "step1.yaml", [*common, "name=all", "data.incomplete=error", step2[-1]]))
