"""Every recipe of ours is trained with as much of its own settings as a tiny region allows."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glczoo.data.region import Region
from glczoo.data.splits import block_folds
from glczoo.data.tables import read_samples, read_species
from glczoo.models.published import read_config
from glczoo.recipe import Recipe, read_recipe, read_run_recipe
from glczoo.runs.run import load_model
from glczoo.train import train

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = [
    "step1", "step2", "step3", "baseline", "swiss_trees/step1", "swiss_trees/step2", "swiss_trees/step3",
    "swiss_trees/baseline", "finetune",
]  # fmt: skip
"""Each after the one that it starts from."""

OVERRIDDEN = {"name", "region", "runs", "epochs", "model", "init"}
"""Where the data lie; two epochs of a batch or more; tiny branches; no weights from the Hub."""


@pytest.fixture(scope="module")
def world_with_folds(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The virtual region with a fixed split, which the recipes of Swiss trees ask for."""
    folder = tmp_path_factory.mktemp("folds") / "region"
    shutil.copytree(world, folder)
    region = Region.load(world)
    surveys = read_samples(region, "pa", read_species(region))
    folds = dict(zip(surveys.patch_id.tolist(), block_folds(surveys, 12, 5).tolist(), strict=True))
    rows = "".join(f"{patch};{fold}\n" for patch, fold in folds.items())
    (folder / "split.csv").write_text("patchID;fold\n" + rows)
    with open(folder / "region.yaml", "a") as file:
        file.write("\nsplit: {file: split.csv, patch: patchID, fold: fold, test: [0]}\n")
    return folder


@pytest.fixture(scope="module")
def trained(
    world_with_folds: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Recipe, Path]]]:
    """Every recipe as it is written, and its run."""
    folder = tmp_path_factory.mktemp("recipes")
    found: dict[str, tuple[Recipe, Path]] = {}
    for name in NAMES:
        own = read_recipe(RECIPES / f"{name}.yaml")
        runs = folder / Path(name).parent
        changes = [f"region={world_with_folds}", f"runs={runs}", "epochs=2"]
        if own.model.endswith("_glc23"):
            changes.append("model=test_fusresnet_glc23")
        if own.init == "imagenet":
            changes.append("init=random")
        if own.init.startswith("hf-hub:"):
            changes.append(f"init={found['step3'][1]}")
        found[name] = own, train(read_recipe(RECIPES / f"{name}.yaml", changes))
    yield found


_TRAINED_ELSEWHERE = ("accelerate", "regions", "studies", "glc24", "sample")  # test_glc24.py, test_sample.py


def test_no_recipe_is_left_out():
    steps = {path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.glob("**/*.yaml")}
    other = {name for name in steps if name.split("/")[0] in _TRAINED_ELSEWHERE}
    assert steps - other == set(NAMES) and len(NAMES) == 9


def test_no_launch_configuration_is_left_out():
    assert sorted(path.stem for path in RECIPES.glob("accelerate/*.yaml")) == [
        "eight_gpus", "one_gpu", "two_nodes",
    ]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_it_is_trained_by_its_own_settings(trained, name):
    own, run = trained[name]
    kept: dict[str, Any] = read_run_recipe(run)[0].model_dump()
    changed = {key for key, value in own.model_dump().items() if kept[key] != value}
    assert changed <= OVERRIDDEN


@pytest.mark.parametrize("name", NAMES)
def test_it_takes_at_least_two_batches_at_its_learning_rate(trained, name):
    own, run = trained[name]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert epochs[-1]["step"] >= 2
    expected = [own.optimizer.lr * own.schedule.factor(epoch) for epoch in (0, 1)]
    assert [line["lr"] for line in epochs] == pytest.approx(expected)


@pytest.mark.parametrize("name", NAMES)
def test_it_ends_in_a_model_that_predicts_by_its_rule(trained, name):
    own, run = trained[name]
    model = load_model(run)
    assert model.decoding.rule == own.decoding.rule and model.decoding.value is not None
    assert read_config(run).glczoo.activation == own.activation
