"""Models that are fitted on tables of values: what they read, the timm contract, and what they refuse."""

from typing import Any

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import Tensor

from glczoo.models.covariates import Covariates, window_means

RECORDS = [
    ["pointwise_glc23", {"windows": [1], "hidden": 4, "copies": 2, "softmax": softmax}, [0, 3]]
    for softmax in ("species", "sites")
]
OWN = {"windows": [1, 3], "densities": 2, "records": RECORDS}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "network of points": ("pointwise_glc23", {"in_chans": 3, "windows": [1, 3], "hidden": 32, "copies": 2}),
    "linear": ("corrected_glc23", {"in_chans": 11, **OWN}),
    "quadratic": ("corrected_glc23", {"in_chans": 11, "products": True, **OWN}),
    "network": ("corrected_glc23", {"in_chans": 11, "hidden": 32, "copies": 2, **OWN}),
    "components": ("corrected_glc23", {"in_chans": 11, "reduced": 5, **OWN}),
    "without records": ("corrected_glc23", {"in_chans": 3, "windows": [1, 3]}),
    "forest": ("forest_glc23", {"in_chans": 11, "trees": 2, "nodes": 3, "depth": 1, "covariates": OWN}),
}
every = pytest.mark.parametrize("name", MODELS)


def make(name: str, **keywords: Any) -> Any:
    """A model of four species whose tensors are all drawn at random."""
    architecture, own = MODELS[name]
    model = timm.create_model(architecture, num_classes=4, **own, **keywords).eval()
    generator = torch.Generator().manual_seed(0)
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            wide = key.endswith(("scale", "std"))
            drawn = torch.rand(value.shape, generator=generator)
            value.copy_(drawn + 0.1 if wide else 2 * drawn - 1)
        elif key == "child":
            value[:] = torch.tensor([1, 2, 2])
    return model


def batch(model: Any) -> Tensor:
    return torch.randn(5, model.in_chans, 7, 7, generator=torch.Generator().manual_seed(1))


@every
def test_logits_are_finite_and_those_of_the_head_on_the_features(name):
    model = make(name)
    x = batch(model)
    with torch.no_grad():
        logits, features = model(x), model.forward_features(x)
    assert logits.shape == (5, 4) and logits.isfinite().all()
    assert torch.equal(model.forward_head(features), logits)
    assert model.forward_head(features, pre_logits=True).shape == (5, model.head_hidden_size)


@every
def test_it_is_loaded_as_it_was_saved(name, tmp_path):
    model = make(name)
    save_for_hf(model, tmp_path, safe_serialization=True)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(loaded(batch(model)), model(batch(model)))


@every
def test_it_is_a_member_of_an_ensemble(name):
    model = make(name)
    architecture, own = MODELS[name]
    keywords = {key: value for key, value in own.items() if key != "in_chans"}
    member = [architecture, keywords, [1, 1 + model.in_chans]]
    ensemble: Any = timm.create_model("ensemble_glc23", members=[member], num_classes=4).eval()
    ensemble.members[0].load_state_dict(model.state_dict())
    x = batch(model)
    padded = torch.cat([x[:, :1], x], 1)
    torch.testing.assert_close(ensemble(padded).sigmoid(), model(x).sigmoid())


@pytest.mark.parametrize("name", ["linear", "quadratic", "network", "without records", "network of points"])
def test_gradients_reach_every_parameter_that_learns(name):
    model = make(name).train()
    model(batch(model)).square().sum().backward()
    learning = [(key, p) for key, p in model.named_parameters() if p.requires_grad and p.numel()]
    assert learning and [key for key, p in learning if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", ["linear", "forest"])
def test_another_number_of_species_is_refused(name):
    with pytest.raises(ValueError, match="the 4 species that it was fitted on, not 5"):
        make(name).reset_classifier(5)


def test_values_are_windows_then_densities_then_predictions():
    covariates = Covariates(4, 11, **OWN).eval()
    x = torch.randn(5, 11, 7, 7)
    values = covariates(x)
    assert values.shape == (5, covariates.number) == (5, 2 * 3 + 4 * 4)
    torch.testing.assert_close(values[:, :6], window_means(x[:, :3], [1, 3]))
    assert torch.equal(values[:, 6:14], x[:, 3:, 3, 3])
    torch.testing.assert_close(values[:, 14:18], covariates.records[0].model(x[:, :3]))


def test_own_values_are_those_of_the_species():
    covariates = Covariates(4, 11, **OWN).eval()
    values = torch.arange(float(covariates.number))[None]
    own = covariates.own(values)
    assert own.shape == (1, 4, 4)
    assert own[0, 2].tolist() == [6 + 2, 6 + 4 + 2, 6 + 8 + 2, 6 + 12 + 2]


def test_components_keep_what_lies_along_them():
    torch.manual_seed(0)
    covariates = Covariates(4, 11, reduced=16, **OWN)
    values = torch.randn(60, covariates.number)
    covariates.fit_components(values)
    species = values[:, covariates.averaged :]
    standardised = (species - species.mean(0)) / species.std(0, correction=0)
    components = covariates.shared(values)[:, covariates.averaged :]
    torch.testing.assert_close(  # all sixteen of them: distances are those of the values
        torch.pdist(components), torch.pdist(standardised), atol=1e-3, rtol=1e-3
    )


def test_a_softmax_over_species_gives_log_probabilities_on_average():
    model = timm.create_model("pointwise_glc23", num_classes=4, in_chans=3, hidden=4, copies=1).eval()
    torch.testing.assert_close(model(torch.randn(5, 3, 7, 7)).exp().sum(1), torch.ones(5))


def test_a_mean_of_networks_is_one_of_probabilities():
    model = make("network")
    values = model.forward_features(batch(model))
    start, inputs = model.uncorrected(values), model.standardised(values)
    each = [(start + model.correction(copy, inputs)).sigmoid() for copy in range(2)]
    torch.testing.assert_close(model.forward_head(values).sigmoid(), (each[0] + each[1]) / 2)


def test_densities_must_leave_a_band():
    with pytest.raises(ValueError, match="leave none of 8 channels"):
        Covariates(4, 8, densities=2)
