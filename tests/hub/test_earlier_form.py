"""A folder that an earlier release published, in tests/fixtures/published_0.1.0, still loads."""

from pathlib import Path

from glczoo.hub.publish import verify
from glczoo.recipe import read_run_recipe
from glczoo.runs.run import Run, load_model

EARLIER = Path(__file__).parents[1] / "fixtures" / "published_0.1.0"


def test_its_golden_logits_are_computed_again():
    assert verify(EARLIER).difference < 1e-5


def test_it_loads_with_its_decoding():
    trained = load_model(EARLIER)
    assert (trained.decoding.rule, trained.decoding.value) == ("top_k", 3)
    assert trained.bands[0] == "bdod" and len(trained.bands) == 10


def test_its_recipes_are_read_under_the_new_keys():
    assert "surveys: [" in (EARLIER / "recipe.yaml").read_text().replace("surveys:\n  - ", "surveys: [")
    recipe, _ = read_run_recipe(EARLIER)
    assert (recipe.data.tables, recipe.decoding.tune_on) == (["pa"], "validation")
    assert [step.recipe.data.tables for step in Run(EARLIER).lineage] == [["po"], ["pa"]]
