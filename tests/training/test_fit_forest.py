"""The forest as tensors computes what scikit-learn computes, and is a run among the others."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestRegressor

from glczoo.evaluation.evaluate import evaluate
from glczoo.recipe import read_recipe
from glczoo.runs.combine import combine
from glczoo.runs.run import load_model
from glczoo.train import train
from glczoo.training.fit_forest import bounded, fit_forest, grow

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(200, 4)).astype(np.float32)
    values[:, 1] = values[:, 1].round()  # ties, and thresholds between them
    return values, (values[:, :3] + generator.normal(size=(200, 3)) > 0.5).astype(np.float32)


def test_trees_as_tensors_are_the_trees(data):
    values, target = data
    model, out_of_bag = grow(values, target, trees=20, seed=3)
    settings = dict(min_samples_leaf=2, max_features="sqrt", random_state=3, oob_score=True)
    twin = RandomForestRegressor(20, **settings).fit(values, target)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(500, 4, 1, 1)).astype(np.float32))
    x[:200, :, 0, 0] = torch.from_numpy(values)  # values that lie on thresholds' sides exactly
    torch.testing.assert_close(
        model.forward_features(x), torch.from_numpy(twin.predict(x[:, :, 0, 0].numpy())).float()
    )
    torch.testing.assert_close(model(x).sigmoid(), model.forward_features(x).clamp(1e-4, 1 - 1e-4))
    np.testing.assert_allclose(out_of_bag, twin.oob_prediction_, rtol=1e-5)


def test_a_forest_is_a_run_and_a_member(world, tmp_path):
    shared = [f"region={world}", f"runs={tmp_path}", "decoding=top_k", "patch_size=32", "init=random"]
    forest = fit_forest(read_recipe(RECIPES / "step1.yaml", [*shared, "name=forest"]), trees=30)
    assert load_model(forest).decoding.value < 20
    assert fit_forest(read_recipe(RECIPES / "step1.yaml", [*shared, "name=forest"])) == forest
    small = ["epochs=1", "batch_size=32", "model=test_fusresnet_glc23"]
    cnn = train(read_recipe(RECIPES / "step1.yaml", [*shared, *small]))
    both = combine([cnn, forest], tmp_path / "both")
    apart, together = (
        [row for row in evaluate(runs, part="validation").rows if row.decoding.rule == "expected_f1"]
        for runs in ([cnn, forest], [both])
    )
    assert together[0].f1 == pytest.approx(apart[2].f1, abs=1e-6)
    assert apart[1].model.startswith("forest_glc23") and apart[1].summary["auc"] > 0.6


def test_what_a_forest_cannot_do(world, data, tmp_path):
    with pytest.raises(ValueError, match="needs absences"):
        fit_forest(read_recipe(RECIPES / "step2.yaml", [f"region={world}", f"runs={tmp_path}"]))
    model, _ = grow(*data, trees=40)
    with pytest.raises(ValueError, match="the 3 species that it was fitted on, not 5"):
        model.reset_classifier(5)


@pytest.mark.parametrize("rows", [100, 800, 10_000])
@pytest.mark.parametrize("species", [2, 300, 2000, 10_000])
def test_forests_of_thousands_of_species_stay_within_400_mb(rows, species):
    trees, min_leaf = bounded(rows, species, 200, 2)
    assert 50 <= trees <= 200 and min_leaf >= 2
    leaves = rows / min_leaf
    assert 2 * leaves * species * trees * 4 <= 400e6


def test_forests_of_few_species_are_as_they_were():
    assert bounded(8009, 30, 200, 2) == (200, 2) and bounded(1000, 300, 200, 2) == (200, 2)
