"""Recipes: what ours hold, how they are overridden, and what is refused."""

from pathlib import Path

import pytest
import yaml

from glczoo.decoding import Decoding
from glczoo.recipe import describe, read_recipe, read_run_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
TOP_20 = Decoding("top_k", 20)


def test_table_2_to_the_letter():
    step1, step2, step3, baseline = (
        read_recipe(RECIPES / f"{name}.yaml") for name in ("step1", "step2", "step3", "baseline")
    )
    for step in (step1, step3):
        assert (step.loss.name, step.batch_size, step.epochs, step.optimizer.lr) == ("bce", 128, 30, 1e-3)
        assert (step.schedule.milestones, step.schedule.gamma) == ([15, 20], 0.1)
        assert step.data.tables == ["pa"] and step.data.validation["pa"] == 0.2
    assert (step2.loss.name, step2.batch_size, step2.epochs, step2.optimizer.lr) == ("ce", 96, 10, 3e-3)
    assert step2.schedule.milestones == [] and step2.data.tables == ["po"]
    assert step2.data.validation["po"] == 0.02
    assert (baseline.loss.name, baseline.batch_size, baseline.epochs, baseline.optimizer.lr) == (
        "an",
        96,
        20,
        3e-3,
    )
    assert baseline.schedule.milestones == [15] and baseline.data.tables == ["po", "pa"]
    assert baseline.data.validation == {"po": 0, "pa": 0.2}
    assert (step1.init, step2.init, step3.init, baseline.init) == ("imagenet", "step1", "step2", "imagenet")
    assert all(
        r.optimizer.name == "adam" and r.decoding.fixed() == TOP_20 for r in (step1, step2, step3, baseline)
    )


def test_overrides_and_scientific_numbers():
    changed = read_recipe(
        RECIPES / "step3.yaml", ["model=bioresnet50_glc23", "optimizer.lr=5e-4", "ema=0.99"]
    )
    assert (changed.model, changed.optimizer.lr, changed.ema) == ("bioresnet50_glc23", 5e-4, 0.99)


def test_unknown_keys_are_refused_all_at_once():
    with pytest.raises(ValueError) as error:
        read_recipe(
            RECIPES / "step1.yaml", ["epoch=3", "optimizer.learning=1", "batch_size=many", "loss=bcee"]
        )
    text = str(error.value)
    assert "4 mistake(s)" in text
    assert "unknown key 'epoch'; did you mean 'epochs'?" in text
    assert "'optimizer.learning'" in text and "batch_size" in text and "'many'" in text
    assert "there is no such loss; there are bce, ce, an" in text


@pytest.mark.parametrize(
    ("given", "meant"),
    [("data.tabels", "data.tables"), ("optimizer.lrr", "optimizer.lr"), ("tables", "data.tables")],
)
def test_the_nearest_key_is_named_with_its_section(given: str, meant: str):
    with pytest.raises(ValueError, match=f"unknown key '{given}'; did you mean '{meant}'"):
        read_recipe(RECIPES / "step1.yaml", [f"{given}=[pa]"])


def test_an_old_key_is_refused_with_the_new_one_named():
    with pytest.raises(ValueError) as error:
        read_recipe(
            RECIPES / "step1.yaml",
            ["data.surveys=[pa]", "decoding={rule: top_k, surveys: train}", "tensorboard=true"],
        )
    assert "the key 'data.surveys' is now 'data.tables'" in str(error.value)
    assert "the key 'decoding.surveys' is now 'decoding.tune_on'" in str(error.value)
    assert "the key 'tensorboard' is now 'trackers'" in str(error.value)


@pytest.mark.parametrize(("old", "new"), [(True, ["tensorboard"]), (False, [])])
def test_a_run_that_was_told_tensorboard_is_read_as_one_with_trackers(tmp_path, old, new):
    values = read_recipe(RECIPES / "step1.yaml").model_dump(mode="json")
    values["tensorboard"] = old
    del values["trackers"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert read_run_recipe(tmp_path)[0].trackers == new


@pytest.mark.parametrize(
    ("rule", "tuned"),
    [
        ("top_k", True),
        ("threshold", True),
        ("expected_size", True),
        ("expected_f1", False),
        ("expected_f1_exact", False),
    ],
)
def test_which_rules_are_tuned_on_samples(rule, tuned):
    assert read_recipe(RECIPES / "step1.yaml", [f"decoding={rule}"]).decoding.tuned is tuned


def test_a_rule_with_its_number_is_not_tuned():
    assert not read_recipe(RECIPES / "step1.yaml", ["top_k=7"]).decoding.tuned


def test_help_explains_every_key():
    text = describe()
    for key in (
        "optimizer.lr",
        "schedule.milestones",
        "data.pa_fraction",
        "imagenet.how",
        "keep",
        "decoding.rule",
        "decoding.by_source",
        "pseudo.teacher",
        "pseudo.low",
        "po_loss",
        "po_loss.name",
    ):
        assert f"  {key}  (" in text


DEEPMAXENT = ["loss=deepmaxent", "data.validation={pa: 0.2}", "keep=last"]


@pytest.mark.parametrize("rule", ["threshold", "expected_size", "expected_f1", "{rule: recall, value: 0.9}"])
def test_rules_that_need_probabilities_are_refused_for_a_loss_that_leaves_ranks(rule):
    with pytest.raises(ValueError, match="outputs of deepmaxent rank places .* no probabilities of presence"):
        read_recipe(RECIPES / "step2.yaml", [*DEEPMAXENT, f"decoding={rule}"])


def test_a_loss_that_leaves_ranks_may_name_a_number_of_species():
    assert read_recipe(RECIPES / "step2.yaml", ["loss=deepmaxent"]).decoding.fixed() == TOP_20


def test_ranks_that_are_calibrated_on_surveys_are_probabilities():
    keys = [*DEEPMAXENT, "decoding=expected_f1", "calibration=vector"]
    assert read_recipe(RECIPES / "step2.yaml", keys).calibration == "vector"


def test_a_recall_is_tuned_whatever_its_value():
    recipe = read_recipe(RECIPES / "step1.yaml", ["decoding={rule: recall, value: 0.9}"])
    assert recipe.decoding.tuned and recipe.decoding.fixed() == Decoding("recall", 0.9)


def test_a_recall_without_a_value_promises_nothing():
    with pytest.raises(ValueError, match="recall promises what `value` says"):
        read_recipe(RECIPES / "step1.yaml", ["decoding=recall"])


def test_a_recall_needs_validation_surveys():
    with pytest.raises(ValueError, match="recall with value: 0.9 is tuned on PA validation surveys"):
        read_recipe(
            RECIPES / "step1.yaml",
            ["decoding={rule: recall, value: 0.9}", "data.validation={pa: 0}", "keep=last"],
        )
