"""Fine-tuning on another region: which weight goes where, what is refused, and what learns."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
import timm
import torch
import yaml
from conftest import write_raster
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from glczoo.data.patch_source import Statistics
from glczoo.data.region import Region
from glczoo.hub.publish import push, save, verify
from glczoo.models.published import read_config
from glczoo.recipe import read_recipe
from glczoo.runs.combine import combine
from glczoo.train import train
from glczoo.training.finetune import Plan

RECIPES = Path(__file__).parents[2] / "recipes"
TINY = ["epochs=1", "batch_size=32", "patch_size=32"]


@pytest.fixture(scope="module")
def runs(trained_run) -> Path:
    """A run of each of the two architectures."""
    for model in ("test_fusresnet_glc23", "test_bioresnet_glc23"):
        run = trained_run("step1", model=model, patch_size=32, top_k="auto")
    return run.parents[1]


@pytest.fixture(scope="module")
def trained(runs) -> Path:
    return runs / "test_fusresnet_glc23/step1"


@pytest.fixture
def other(world, tmp_path) -> Path:
    """Another region: no soil, no bio3, bio5 by another name, and a modality that no model knows."""
    told = yaml.safe_load((world / "region.yaml").read_text())
    told |= {"name": "other", "root": str(world)}
    bioclim, soil, satellite, footprint = told["modalities"]
    bioclim["bands"] = [band for band in bioclim["bands"] if band["name"] != "bio3"]
    next(band for band in bioclim["bands"] if band["name"] == "bio5")["name"] = "heat"
    alien = soil | {"name": "geology", "bands": [soil["bands"][0] | {"name": "age"}]}
    told["modalities"] = [bioclim, alien, satellite, footprint]
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "region.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    return folder


def finetuned(region: Path, init: Path | str, runs: Path, *more: str) -> Path:
    shared = [f"region={region}", f"init={init}", f"runs={runs}", "model=test_fusresnet_glc23", *TINY]
    return train(read_recipe(RECIPES / "finetune.yaml", [*shared, *more]))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


STEM = "branches.bioclim.conv1.0.weight"


def test_bands_are_matched_by_name(trained, other):
    config, state = read_config(trained), weights(trained)
    plan = Plan.make(config, Region.load(other), None, "A")
    assert plan.branches == {"bioclim": 18, "satellite": 5} and plan.left_out == ["geology"]
    model = timm.create_model("test_fusresnet_glc23", **plan.model_args(7))
    head = model.fc.weight.clone()
    plan.fill(model, state, [str(i) for i in range(7)])
    new, old = model.state_dict(), config.glczoo.band_names
    for channel, band in enumerate(list(plan.bands)[:18]):
        expected = state[STEM].mean(1) if band == "heat" else state[STEM][:, old.index(band)]
        torch.testing.assert_close(new[STEM][:, channel], expected)
    for key, value in new.items():
        if key != STEM and not key.startswith("fc."):
            assert torch.equal(value, state[key]), key
    assert torch.equal(model.fc.weight, head)

    own = Statistics([0.5] * 23, [2.0] * 23, [0.0] * 23)
    kept = plan.statistics(own)
    heat = list(plan.bands).index("heat")
    assert (kept.mean[heat], kept.std[heat]) == (0.5, 2.0)
    assert kept.mean[-1] == config.pretrained_cfg.mean[32]


def test_the_plan_is_told_before_training(trained, other, tmp_path, capsys):
    run = finetuned(other, trained, tmp_path)
    told = capsys.readouterr().out
    assert told.index("fine-tuning") < told.index("epoch 1/1")
    for line in (
        "22 of its 33 bands are here",
        "branch bioclim: carried over: bio1, bio2, bio4, bio6",
        "heat: new, the mean of bio1, bio2, bio3",
        "dropped, not in the region: bio3, bio5, bdod",
        "left out, the model knows nothing like it: geology",
        "head: new, 24 species (the model had 24)",
    ):
        assert line in told, line
    config = read_config(run)
    assert config.glczoo.band_names[2:5] == ["bio4", "heat", "bio6"]
    assert config.model_args["branches"] == {"bioclim": 18, "satellite": 5}


def test_the_same_species_and_branches_keep_the_head(trained, world):
    config = read_config(trained)
    plan = Plan.make(config, Region.load(world), None, "A")
    model = timm.create_model("test_fusresnet_glc23", **plan.model_args(24))
    plan.fill(model, weights(trained), config.label_names)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights(trained).items())
    assert "head: kept, 24 species" in plan.text(config.label_names)
    assert "head: new, 3 species (the model had 24)" in plan.text(["1", "2", "3"])


def test_a_network_of_one_stem(trained_run, other):
    trained = trained_run("step1", model="test_resnet", modalities=["bioclim", "soil"])  # timm's own
    plan = Plan.make(read_config(trained), Region.load(other), None, "A")
    assert plan.branches is None and plan.left_out == ["geology", "satellite", "footprint"]
    model = timm.create_model("test_resnet", **plan.model_args(7))
    state = weights(trained)
    plan.fill(model, state, ["1"] * 7)
    stem = "conv1.0.weight"
    assert torch.equal(model.state_dict()[stem][:, 2], state[stem][:, 3])  # bio4
    torch.testing.assert_close(model.state_dict()[stem][:, 3], state[stem][:, :19].mean(1))  # heat


def test_an_ensemble_is_tuned_on_its_own_bands_only(runs, world, other, tmp_path):
    both = combine([runs / f"test_{kind}resnet_glc23/step1" for kind in ("fus", "bio")], tmp_path / "both")
    config = read_config(both)
    plan = Plan.make(config, Region.load(world), None, "both")
    model = timm.create_model("ensemble_glc23", **plan.model_args(5))
    plan.fill(model, weights(both), ["1"] * 5)
    key = "members.1.branches.bioclim.bn1.weight"
    assert torch.equal(model.state_dict()[key], weights(both)[key])
    with pytest.raises(ValueError, match="both is an ensemble.*fine-tune a member"):
        Plan.make(config, Region.load(other), None, "both")


def changed(region: Path, change) -> Region:
    told = yaml.safe_load((region / "region.yaml").read_text())
    change(told["modalities"])
    (region / "region.yaml").write_text(yaml.safe_dump(told, sort_keys=False))
    return Region.load(region)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m[0]["bands"][0].update(unit="mm"), "band bio1 is in 'mm' here and in '0.1 K' in A"),
        (
            lambda m: m.__setitem__(slice(None), [m[1]]),
            r"no band that A knows; it knows \['bio1', .*give them these names",
        ),
        (
            lambda m: m[0]["bands"].append(m[3]["bands"].pop()) or m.pop(),
            r"to the branches \['bioclim', 'sat",
        ),
        (lambda m: m.insert(0, m.pop(2)), r"the order \['satellite', 'bioclim', 'satellite'\]: reorder"),
    ],
)
def test_what_cannot_be_matched_is_explained(change, message, trained, other):
    region = changed(other, change)
    with pytest.raises(ValueError, match=message):
        Plan.make(read_config(trained), region, None, "A")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["model=test_bioresnet_glc23"], "is a test_fusresnet_glc23, the recipe's model is test_bio"),
        (["init=random"], "finetune needs a trained model, init: random is none"),
        (["finetune=null"], "the bands of this recipe are not those of .*finetune={}"),
        (["modalities=[bioclim, geology]"], r"knows no band of the modalities \['geology'\]: take them out"),
        (["model_args={stem_width: 8}"], "do not fit the new model: .* are other model_args given"),
        (["finetune.layer_decay=2"], "finetune.layer_decay: .*less than or equal to 1, given 2"),
    ],
)  # fmt: skip
def test_recipes_that_cannot_be_tuned(given, message, trained, other, tmp_path):
    if "finetune=null" in given:
        given = [*given, "modalities=[bioclim, satellite, footprint]", "model_args={branches: {a: 18, b: 5}}"]
    with pytest.raises(ValueError, match=message):
        finetuned(other, trained, tmp_path, *given)


def test_a_frozen_backbone_learns_nothing(trained, world, tmp_path):
    before = weights(trained)
    after = weights(finetuned(world, trained, tmp_path, "finetune={frozen: true}"))
    still = {key for key in before if torch.equal(before[key], after[key])}
    assert set(before) - still == {"fc.weight", "fc.bias"}  # batch norm's statistics stand still too


def test_layer_decay_slows_what_is_far_from_the_head(trained, world, tmp_path):
    before = weights(trained)

    def moved(decay: str) -> tuple[float, float]:
        run = finetuned(world, trained, tmp_path / decay, f"finetune={{layer_decay: {decay}}}")
        after = weights(run)
        (line,) = [
            told for told in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
            if told["kind"] == "epoch"
        ]  # fmt: skip
        assert line["lr"] == 1e-3  # the recipe's, which the head has
        return tuple(float((after[key] - before[key]).abs().mean()) for key in (STEM, "fc.weight"))

    (stem, head), (slow_stem, slow_head) = moved("1.0"), moved("0.1")
    assert slow_stem < 0.01 * stem and slow_head > 0.5 * head


def test_from_the_hub_to_a_card_that_tells_where_it_came_from(hub, trained, other, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "write")
    push(save(trained, tmp_path / "a", repo_id="me/a"), "me/a")
    run = finetuned(other, "hf-hub:me/a", tmp_path / "runs", "data.validation={pa: 0.2}")
    folder = save(run, tmp_path / "b", repo_id="me/b")
    assert sorted(p.name for p in (folder / "recipes").iterdir()) == ["1-step1.yaml", "2-finetune.yaml"]
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == ["me/a"]
    assert "1. **step1** on presence–absence surveys of virtual" in card.text
    assert "2. **finetune** on presence–absence surveys of other" in card.text
    assert verify(folder).difference == 0


def with_cover(world: Path, folder: Path, levels: list[int], kind: str = "categorical") -> Path:
    """The virtual region with a band of classes among its soils, one strip of the map for each level."""
    region = yaml.safe_load((world / "region.yaml").read_text())
    soil = next(m for m in region["modalities"] if m["name"] == "soil")
    with rasterio.open(world / soil.get("folder", "") / soil["bands"][0]["file"]) as raster:
        height, width, transform = raster.height, raster.width, raster.transform
    strips = np.repeat(levels, -(-width // len(levels)))[:width].astype("uint8")
    folder.mkdir(parents=True)
    write_raster(
        folder / "cover.tif", [np.tile(strips, (height, 1))], west=transform.c, north=transform.f,
        cell=transform.a, nodata=0,
    )  # fmt: skip
    file = os.path.relpath(folder / "cover.tif", world / soil.get("folder", ""))
    soil["bands"].append({"name": "cover", "file": file, "kind": kind})
    region |= {"name": folder.name, "root": str(world)}
    region["modalities"] = [soil]
    (folder / "region.yaml").write_text(yaml.safe_dump(region, sort_keys=False))
    return folder


ONE_BRANCH = ["model_args={branches: {soil: 9}}", "modalities=[soil]", "patch_size=8"]


def test_a_categorical_band_that_the_model_does_not_know_gets_channels_for_its_levels(world, tmp_path):
    settings = [f"region={world}", f"runs={tmp_path}", "model=test_fusresnet_glc23", *TINY, *ONE_BRANCH]
    before = train(read_recipe(RECIPES / "step1.yaml", [*settings, "init=random"]))
    region = with_cover(world, tmp_path / "cover", [2, 5])
    run = finetuned(region, before, tmp_path / "runs", "patch_size=8", "modalities=[soil]")
    bands = read_config(run).glczoo.band_names
    assert bands[:9] == read_config(before).glczoo.band_names and bands[9:] == ["cover=2", "cover=5"]
    plan = Plan.make(read_config(before), Region.load(region), None, "A", {"cover": [2, 5]})
    model = timm.create_model("test_fusresnet_glc23", **plan.model_args(3))
    plan.fill(model, weights(before), ["1"] * 3)
    stem = "branches.soil.conv1.0.weight"
    expected = weights(before)[stem].mean(1)
    torch.testing.assert_close(model.state_dict()[stem][:, 10], expected)


def test_levels_are_matched_by_value(world, tmp_path):
    settings = [f"runs={tmp_path}", "model=test_fusresnet_glc23", *TINY, "patch_size=8", "init=random"]
    first = with_cover(world, tmp_path / "first", [2, 5])
    args = "model_args={branches: {soil: 11}}"
    before = train(read_recipe(RECIPES / "step1.yaml", [f"region={first}", *settings, args]))
    second = with_cover(world, tmp_path / "second", [5, 7])
    run = finetuned(second, before, tmp_path / "runs", "patch_size=8")
    assert read_config(run).glczoo.band_names[9:] == ["cover=2", "cover=5", "cover=7"]
    plan = Plan.make(read_config(before), Region.load(second), None, "A", {"cover": [5, 7]})
    assert [plan.bands[f"cover={level}"] for level in (5, 7)] == [("soil", [10]), ("soil", [9, 10])]


def test_a_band_of_another_kind_is_refused(world, tmp_path):
    settings = [f"runs={tmp_path}", "model=test_fusresnet_glc23", *TINY, "patch_size=8", "init=random"]
    first = with_cover(world, tmp_path / "first", [2, 5], "number")
    args = "model_args={branches: {soil: 10}}"
    before = train(read_recipe(RECIPES / "step1.yaml", [f"region={first}", *settings, args]))
    second = with_cover(world, tmp_path / "second", [2, 5])
    with pytest.raises(ValueError, match="band cover is categorical here and a number in"):
        finetuned(second, before, tmp_path / "runs", "patch_size=8")
