"""A model that corrects another: where it starts, what stays, what it adds, and that it is one artefact."""

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from glczoo.evaluation.evaluate import evaluate
from glczoo.evaluation.study import run_study
from glczoo.hub_client import DamagedError
from glczoo.models.prior import Prior
from glczoo.recipe import Recipe, read_recipe
from glczoo.runs.combine import combine
from glczoo.runs.run import Run, load_model
from glczoo.train import train
from glczoo.training.fit_forest import fit_forest

RECIPES = Path(__file__).parents[2] / "recipes"
PRIOR = ["quadratic_glc23", {"windows": [1, 3]}, [1, 3]]


def recipe(world: Path, runs: Path, step: int, *keys: str) -> Recipe:
    shared = [
        f"region={world}",
        f"runs={runs}",
        "patch_size=8",
        "epochs=2",
        "batch_size=32",
        "data.augment=false",
    ]
    return read_recipe(
        RECIPES / f"step{step}.yaml", [*shared, "model=quadratic_glc23", "optimizer.lr=1e-2", *keys]
    )


@pytest.fixture(scope="module")
def prior(world, tmp_path_factory) -> Path:
    """A model of presence-only records that sees the first two modalities of the region."""
    runs = tmp_path_factory.mktemp("runs")
    return train(recipe(world, runs, 2, "init=random", "name=po", "modalities=[bioclim,soil]"))


def corrected(world: Path, prior: Path, *keys: str) -> Path:
    shared = ["init=po", "name=corrected", "model_args={prior: true, linear: 5}"]
    return train(recipe(world, prior.parents[2], 3, *shared, *keys))


def test_it_starts_as_the_prior_and_only_the_rest_learns():
    x = torch.randn(6, 4, 8, 8)
    model = timm.create_model("quadratic_glc23", num_classes=5, in_chans=4, linear=1, prior=PRIOR)
    torch.nn.init.normal_(model.prior.model.fc.weight)
    own = model.prior.model.eval()
    torch.testing.assert_close(model.eval()(x), own(x[:, 1:3]).log_softmax(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()(x).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {"fc.slope", "fc.add.weight", "fc.add.bias", "norm.running_mean"} <= changed
    assert not [name for name in changed if name.startswith("prior.")]


def test_linear_channels_count_once_and_at_the_point():
    x = torch.randn(2, 4, 8, 8)
    model = timm.create_model("quadratic_glc23", num_classes=5, in_chans=4, linear=2, windows=(1, 3)).eval()
    model.norm.eps = 0.0
    assert model.num_features == 4 + 4 * 5 // 2 + 2
    torch.testing.assert_close(model.forward_features(x)[:, -2:], x[:, 2:, 4, 4])


def test_more_linear_channels_than_there_are():
    with pytest.raises(ValueError, match="linear must be some of the 4 channels, got 5"):
        timm.create_model("quadratic_glc23", num_classes=5, in_chans=4, linear=5)


def test_a_run_corrects_the_one_that_init_names(world, prior):
    run = corrected(world, prior)
    model, before = load_model(run), load_model(prior)
    kept = load_file(run / "model.safetensors")
    for name, value in before.model.state_dict().items():
        assert torch.equal(kept[f"prior.model.{name}"], value), name
    assert model.model.fc.add.weight.abs().max() > 0
    assert len(model.bands) == 33 and model.mean[:28] == pytest.approx(before.mean)
    config = json.loads((run / "config.json").read_text())
    assert config["model_args"]["prior"] == ["quadratic_glc23", {}, [0, 28]]
    assert [step.recipe.name for step in Run(run).lineage] == ["po", "corrected"]


def test_with_a_forest_that_sees_the_prior_it_is_one_model(world, prior, tmp_path):
    keys = ["init=../quadratic_glc23/po", "model=forest_glc23", "model_args={prior: true}", "name=forest"]
    forest = fit_forest(recipe(world, prior.parents[2], 3, *keys), trees=40)
    trees = load_model(forest).model
    assert int(trees.feature.max()) >= 33  # some split by a log probability
    x = torch.randn(3, 33, 8, 8)
    torch.testing.assert_close(trees.values(x)[:, 33:], trees.prior(x))
    runs = [corrected(world, prior), forest]
    both = combine(runs, tmp_path / "both")
    apart, together = (
        [row for row in evaluate(each, part="validation").rows if row.decoding.rule == "expected_f1"]
        for each in (runs, [both])
    )
    assert together[0].f1 == pytest.approx(apart[2].f1, abs=1e-6)
    again = timm.create_model(f"local-dir:{both}", pretrained=True).eval()
    torch.testing.assert_close(again(x), load_model(both).model(x))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["init=random"], "init: random is none; name one of step 2"),
        (["modalities=[soil,satellite,footprint]"], "the bands of this recipe are not those of"),
    ],
)
def test_a_recipe_whose_prior_does_not_fit(world, prior, keys, message):
    with pytest.raises(ValueError, match=message):
        corrected(world, prior, "name=unfit", *keys)


def test_a_model_of_surveys_is_no_prior(world, prior):
    bce = train(recipe(world, prior.parents[2], 1, "init=random", "name=bce"))
    with pytest.raises(ValueError, match="bce cannot be a prior: it was not trained by cross-entropy"):
        corrected(world, prior, f"init={bce}", "name=b")


def test_a_prior_is_described_by_three_things():
    with pytest.raises(
        ValueError, match=r"prior must be \[architecture, keywords, \[start, stop\]\], got True"
    ):
        timm.create_model("quadratic_glc23", num_classes=5, in_chans=4, prior=True)


def test_a_prior_loads_nothing_by_itself():
    with pytest.raises(DamagedError, match="the prior"):
        Prior(["quadratic_glc23", {"checkpoint_path": "x"}, [0, 2]], 5)


def test_a_model_keeps_the_species_of_its_prior():
    model = timm.create_model("quadratic_glc23", num_classes=5, in_chans=4, prior=PRIOR)
    with pytest.raises(ValueError, match="the prior predicts 5 species, not 7"):
        model.reset_classifier(7)


def test_a_study_fits_forests(world, tmp_path):
    shared = ["patch_size: 8", f"region: {world}", f"runs: {tmp_path / 'runs'}"]
    text = f"""
name: small
recipes: {RECIPES}
set: {{{", ".join(shared)}}}
models:
  forest: {{model: forest_glc23, model_args: {{prior: true}}, init: ../quadratic_glc23/po}}
runs:
  po: {{recipe: step2.yaml, set: {{model: quadratic_glc23, init: random, epochs: 1}}}}
  forest: {{recipe: step3.yaml, model: forest}}
rows: {{forest: [forest]}}
"""
    (tmp_path / "study.yaml").write_text(text)
    table = run_study(tmp_path / "study.yaml", ["decoding=expected_f1"], world / "truth" / "test_species.csv")
    (run,) = (tmp_path / "runs" / "small").glob("seed0/*/forest_glc23/forest")
    assert load_model(run).model.prior.model.fc.weight.abs().max() > 0
    assert table.to_json()["rows"][0]["auc"] > 0.5
