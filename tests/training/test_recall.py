"""A run that promises a recall: its threshold is tuned, kept, applied, and described on the card."""

import csv
import json
from pathlib import Path

import pytest
import torch

from glczoo.cli import main
from glczoo.data.region import Region
from glczoo.decoding import Decoding, Rule, recall_threshold
from glczoo.hub import card
from glczoo.recipe import read_recipe
from glczoo.runs.run import load_model
from glczoo.train import train
from glczoo.training.fit_forest import fit_forest
from glczoo.training.tuning import tune_decoding

RECIPES = Path(__file__).parents[2] / "recipes"
RECALL = "{rule: recall, value: 0.8}"


@pytest.fixture(scope="module")
def run(trained_run) -> Path:
    return trained_run("step1", decoding=RECALL)


def test_the_threshold_is_the_one_that_keeps_the_promise_on_tuning_samples():
    p, target = torch.rand(50, 6), (torch.rand(50, 6) < 0.4).float()
    recipe = read_recipe(RECIPES / "step1.yaml", [f"decoding={RECALL}"])
    decoding, _ = tune_decoding(recipe.decoding, p, target)
    assert decoding == Decoding(Rule.RECALL, 0.8, threshold=recall_threshold(p, target, 0.8))


def test_the_threshold_is_kept_in_the_configuration(run):
    kept = json.loads((run / "config.json").read_text())["glczoo"]["decoding"]
    assert kept["rule"] == "recall" and kept["value"] == 0.8 and 0 < kept["threshold"] < 1
    assert load_model(run).decoding == Decoding(**kept)


def test_predictions_are_the_species_above_the_threshold(run, world, tmp_path):
    table = Region.load(world).find(*Region.load(world).table("test").file)
    (tmp_path / "points.csv").write_text(table.read_text().replace("Id;", "id;"))
    main(["predict", str(run), "--points", str(tmp_path / "points.csv"), "--out", str(tmp_path / "p.csv")])
    with open(tmp_path / "p.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    threshold = load_model(run).decoding.threshold
    assert threshold is not None
    assert all(float(row["probability"]) >= threshold - 1e-6 for row in rows if row["rank"] != "1")


def test_a_forest_promises_by_its_out_of_bag_probabilities(world, tmp_path):
    keys = [f"region={world}", f"runs={tmp_path}", f"decoding={RECALL}", "patch_size=8"]
    forest = load_model(fit_forest(read_recipe(RECIPES / "step1.yaml", keys), trees=20))
    assert forest.decoding.threshold is not None and 0 < forest.decoding.threshold < 1


def test_with_too_few_tuning_samples_training_does_not_start(world, tmp_path):
    keys = [
        f"region={world}",
        f"runs={tmp_path}",
        "model=test_fusresnet_glc23",
        "init=random",
        "patch_size=8",
    ]
    keys += ["decoding={rule: recall, value: 0.999}"]
    with pytest.raises(
        ValueError, match="a recall of 0.999 can be promised on 999 PA tuning samples or more"
    ):
        train(read_recipe(RECIPES / "step1.yaml", keys))
    assert not list(tmp_path.rglob("*.safetensors"))


def test_the_card_says_what_is_promised_and_calls_the_threshold():
    description = card._decoding(Decoding(Rule.RECALL, 0.9, threshold=0.25))
    words, call = description["words"], description["call"]
    assert words == "as few as hold 0.9 of the species, on average and near the tuning samples"
    assert call == "threshold(probabilities, 0.25)"
