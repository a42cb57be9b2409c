"""What cannot be trained is refused before anything is, with the reason and what to do."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from timm.optim import list_optimizers

from glczoo.data.region import Region
from glczoo.errors import GlczooError
from glczoo.recipe import Recipe, read_recipe
from glczoo.runs.run import load_model
from glczoo.train import train
from glczoo.training.checkpoints import Progress
from glczoo.training.divergence import refuse_diverged
from glczoo.training.prepare import Prepared, _try_optimizer, read_inputs

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe(world: Path, runs: Path, *overrides: str, step: str = "step1") -> Recipe:
    """A step on a tiny model, a few batches."""
    small = ["model=test_fusresnet_glc23", "init=random", "patch_size=8", "batch_size=16", "epochs=2"]
    shared = [f"region={world}", f"runs={runs}", "checkpoint_every=1", "log_every=1"]
    return read_recipe(RECIPES / f"{step}.yaml", [*small, *shared, *overrides])


@pytest.mark.parametrize("name", ["adahessian", "fusedadam", "nonsense"])
def test_an_optimiser_that_needs_something_else_is_refused(world, tmp_path, name):
    with pytest.raises(ValueError, match=f"optimizer.name: {name} cannot take a step here: .*such as adam"):
        train(recipe(world, tmp_path, f"optimizer.name={name}"))
    assert not list(tmp_path.iterdir())


def test_trying_an_optimiser_draws_no_random_number(world, tmp_path):
    torch.manual_seed(3)
    _try_optimizer(recipe(world, tmp_path), torch.device("cpu"))
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3))


def test_every_optimiser_of_timm_takes_a_step_or_is_refused(world, tmp_path):
    refused = []
    for name in list_optimizers(exclude_filters="kron*"):  # compiled at the first step: slow
        try:
            _try_optimizer(recipe(world, tmp_path, f"optimizer.name={name}"), torch.device("cpu"))
        except ValueError:
            refused.append(name)
    assert {"adam", "adamw", "sgd", "nadamw", "lamb"}.isdisjoint(refused)
    assert all(name == "adahessian" or name.startswith(("bnb", "fused")) for name in refused)


def test_an_ensemble_is_no_recipes_model(world, tmp_path):
    with pytest.raises(ValueError, match="ensemble_glc23 is made of runs by `glczoo ensemble`"):
        train(recipe(world, tmp_path, "model=ensemble_glc23"))


def test_a_forest_is_not_trained_by_gradients(world, tmp_path):
    with pytest.raises(ValueError, match="Fit it with `glczoo forest`"):
        train(recipe(world, tmp_path, "model=forest_glc23"))
    assert not list(tmp_path.iterdir())


def test_the_best_epoch_needs_a_validation_sample(world, tmp_path):
    with pytest.raises(ValueError, match="keep: best needs validation samples.* or set keep=last"):
        train(recipe(world, tmp_path, "data.validation={pa: 0.001}"))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def one_species(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The virtual region with the rows of its most frequent species alone."""
    folder = tmp_path_factory.mktemp("one") / "region"
    shutil.copytree(world, folder)
    tables = {path: pd.read_csv(path, sep=";") for path in folder.glob("Presence_*/*.csv")}
    assert len(tables) == 2
    species = max(set(next(iter(tables.values())).speciesId), key=list(tables[min(tables)].speciesId).count)
    for path, table in tables.items():
        table[table.speciesId == species].to_csv(path, sep=";", index=False)
    return folder


def test_cross_entropy_over_one_species_is_refused(one_species, tmp_path):
    with pytest.raises(ValueError, match="a softmax over one species is 1 .*Set loss=sinr_full"):
        train(recipe(one_species, tmp_path, "data.validation={po: 0.2}", step="step2"))
    assert not list(tmp_path.iterdir())


def test_the_loss_that_it_names_learns_one_species(one_species, tmp_path):
    run = train(recipe(one_species, tmp_path, "loss=sinr_full", "data.validation={po: 0.2}", step="step2"))
    model = load_model(run)
    x = torch.randn(8, 33, 8, 8)
    with torch.no_grad():
        assert model.model(x).std() > 0


def test_a_model_that_diverges_ends_at_once_and_keeps_its_last_good_checkpoint(world, tmp_path):
    changes = ["keep=last", "data.validation={pa: 0}", "optimizer.name=sgd", "optimizer.lr=1e30"]
    with pytest.raises(ValueError, match="(not finite.*the model diverged|of the model is not finite)"):
        train(recipe(world, tmp_path, *changes, "epochs=50"))
    assert not list(tmp_path.rglob("config.json"))
    for path in tmp_path.rglob("checkpoints/step-*/model.safetensors"):
        assert all(value.isfinite().all() for value in load_file(path).values())


@pytest.mark.parametrize("moment", ["loss", "weights"])
def test_neither_a_loss_nor_a_weight_that_is_not_finite_is_trained_on(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """From the fourth step on; the first of all is that of the tiny model on which the optimiser is tried."""
    steps = 0
    plain = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *args: object) -> object:
        nonlocal steps
        steps += 1
        result = plain(self, *args)
        if steps == 5:
            parameter = self.param_groups[0]["params"][0]
            parameter.data.fill_(torch.nan if moment == "weights" else 1e38)
        return result

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    with pytest.raises(ValueError, match="not finite"):
        train(recipe(world, tmp_path, "data.pa_fraction=0.5"))
    (run,) = tmp_path.glob("*/*/step1")
    assert steps in (5, 6) and not (run / "model.safetensors").exists()
    assert (run / "checkpoints" / "step-3").exists()


def test_the_first_band_that_is_not_finite_is_named():
    progress = Progress()
    for loss in (1.0, torch.nan):
        progress.add(torch.tensor(loss))
    x = torch.zeros(3, 2, 4, 4)
    x[1, 1, 2, 2] = torch.inf
    prepared = SimpleNamespace(
        order=SimpleNamespace(batches=lambda epoch, first: [torch.tensor([5, 8, 9]) + 10 * first]),
        background=None,
        objective=SimpleNamespace(batches=lambda order, background, epoch, first: order),
        build=lambda index: x,
        inputs=SimpleNamespace(source=SimpleNamespace(bands=["bio1", "slope"])),
        training=SimpleNamespace(named=lambda i: f"sample {i}"),
    )
    expected = "the loss of batch 2 of epoch 4 is not finite: band slope is not finite at sample 18. Mend"
    with pytest.raises(ValueError, match=expected):
        refuse_diverged(recipe_of_step1(), cast(Prepared, prepared), progress, 3)


def recipe_of_step1() -> Recipe:
    return read_recipe(RECIPES / "step1.yaml")


def test_as_many_species_as_there_are_is_no_answer(world):
    recipe = read_recipe(RECIPES / "step1.yaml", [f"region={world}", "top_k=24"])
    with pytest.raises(GlczooError, match="top 24 would predict all 24 species"):
        read_inputs(recipe, Region.load(world))
