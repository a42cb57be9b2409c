"""Fits of models of tables: the optimum of what is convex, what is frozen, and that seeds decide."""

import numpy as np
import pytest
import timm
import torch

from glczoo.data.occurrences import Samples
from glczoo.models.corrected import Corrected
from glczoo.models.pointwise import Pointwise
from glczoo.training.fit_corrected import Shrinkage, fit_linear, fit_networks
from glczoo.training.fit_pointwise import fit_pointwise

SHRINKAGE = Shrinkage(shared=5.0, own=2.0)


@pytest.fixture
def table() -> tuple[torch.Tensor, torch.Tensor]:
    """values[N, V] of 2 bands and one layer of densities of 3 species, target[N, K]."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(80, 5, generator=generator)
    chance = (values[:, :1] + values[:, 2:]).sigmoid()
    return values, (torch.rand(80, 3, generator=generator) < chance).float()


def corrected(**keywords) -> Corrected:
    return timm.create_model("corrected_glc23", num_classes=3, in_chans=5, densities=1, **keywords).eval()


def objective(model: Corrected, values: torch.Tensor, target: torch.Tensor, common: float) -> float:
    """The penalised log loss as the formula says, in numpy; the level is split off as the optimum does."""
    logits = model.forward_head(values).detach().double().numpy()
    y = target.numpy()
    loss = (np.logaddexp(0, logits) - y * logits).sum()
    weight, slope = model.fc[0].weight.detach().numpy(), model.slope.detach().numpy()
    bias = model.bias.detach().numpy()
    penalty = 5.0 * (weight**2).sum() + 2.0 * ((slope - common) ** 2).sum()
    return loss + penalty / 2 + 0.3 * ((bias - bias.mean()) ** 2).sum() / 2


def test_the_linear_fit_is_the_minimum(table):
    model = corrected()
    fit_linear(model, *table, SHRINKAGE, iterations=300)
    common = float(model.slope.detach().mean())
    least = objective(model, *table, common)
    generator = torch.Generator().manual_seed(1)
    for size in (1e-1, 1e-2, 3e-3):
        for parameter in (model.fc[0].weight, model.slope, model.bias):
            step = size * torch.randn(parameter.shape, generator=generator)
            for sign in (1, -1):
                with torch.no_grad():
                    parameter += sign * step
                assert objective(model, *table, float(model.slope.detach().mean())) > least - 1e-3
                with torch.no_grad():
                    parameter -= sign * step


def test_slopes_alone_leave_the_correction_at_nothing(table):
    model = corrected()
    fit_linear(model, *table, SHRINKAGE, corrects=False)
    assert not model.fc[0].weight.any() and (model.slope > 0.2).all()


def test_more_shrinkage_gives_smaller_weights(table):
    sizes = []
    for shared in (1.0, 100.0):
        model = corrected()
        fit_linear(model, *table, Shrinkage(shared=shared))
        sizes.append(float(model.fc[0].weight.detach().square().sum()))
    assert sizes[1] < sizes[0] / 10


def test_networks_start_from_slopes_and_leave_them(table):
    alone, model = corrected(), corrected(hidden=8, copies=2)
    fit_linear(alone, *table, SHRINKAGE, iterations=60, corrects=False)
    fit_networks(model, *table, SHRINKAGE, epochs=3, batch_size=16)
    assert torch.equal(model.slope, alone.slope) and torch.equal(model.bias, alone.bias)
    assert all(head.weight.any() for head in model.fc)


def test_a_seed_decides_and_torch_goes_on_as_it_was(table):
    models = []
    for _ in range(2):
        before = torch.random.get_rng_state()
        model = corrected(hidden=8)
        fit_networks(model, *table, SHRINKAGE, epochs=2, batch_size=16, seed=3)
        models.append(model)
        torch.rand(7)
        assert not torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(models[0].fc[0].weight, models[1].fc[0].weight)


@pytest.fixture
def places() -> tuple[torch.Tensor, Samples]:
    """means[P, 2] at places, and the records there: species 0 where the first is high, 1 where it is low."""
    generator = np.random.default_rng(0)
    means = generator.normal(size=(300, 2)).astype(np.float32)
    species = (means[:, 0] + generator.normal(0, 0.3, 300) < 0).astype(int)
    zero, number = np.zeros(300), np.arange(300)
    return torch.from_numpy(means), Samples(zero, zero, number, number, np.arange(301), species)


@pytest.mark.parametrize("softmax", ["species", "sites"])
def test_records_teach_where_a_species_is_recorded(softmax, places):
    means, records = places
    model: Pointwise = timm.create_model(
        "pointwise_glc23", num_classes=2, in_chans=2, windows=[1], hidden=8, copies=2, softmax=softmax
    ).eval()
    fit_pointwise(model, means, records, epochs=15, batch_size=50)
    with torch.no_grad():
        logits = model(means[:, :, None, None])
    assert (
        np.corrcoef(logits[:, 0], means[:, 0])[0, 1]
        > 0.7
        > -0.7
        > np.corrcoef(logits[:, 1], means[:, 0])[0, 1]
    )
    if softmax == "sites":  # relative to the places: on average over them, one
        each = torch.stack([m for m in logits.exp().mean(0)])
        assert (each < 1.05).all() and (each > 0.5).all()
