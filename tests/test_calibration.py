"""Scaling of logits on synthetic surveys whose true probabilities are known."""

import pytest
import torch
from torch import Tensor

from glczoo.calibration import fit_temperature, fit_vector, logistic_bias, rescale
from glczoo.metrics import reliability


@pytest.fixture
def world() -> tuple[Tensor, Tensor]:
    """True logits[N, K] of rare and common species, and what was observed."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3000, 20, generator=generator) + torch.linspace(-3, 1, 20)
    return logits, (torch.rand(logits.shape, generator=generator) < logits.sigmoid()).float()


def test_calibrated_logits_have_temperature_one(world: tuple[Tensor, Tensor]) -> None:
    logits, target = world
    assert fit_temperature(logits, target) == pytest.approx(1, abs=0.03)
    scale, bias = fit_vector(logits, target)
    assert (scale - 1).abs().max() < 0.25 and bias.abs().max() < 0.3


@pytest.mark.parametrize("temperature", [0.3, 2.5])
def test_a_temperature_is_found_again_and_mends_calibration(
    world: tuple[Tensor, Tensor], temperature: float
) -> None:
    logits, target = world
    wrong = logits * temperature
    fitted = fit_temperature(wrong[:1500], target[:1500])
    assert fitted == pytest.approx(temperature, rel=0.05)
    assert fitted == fit_temperature(wrong[:1500], target[:1500])
    before = reliability(wrong[1500:].sigmoid(), target[1500:]).ece
    after = reliability(rescale(wrong[1500:], 1 / fitted).sigmoid(), target[1500:]).ece
    assert after < 0.015 < 0.05 < before


def test_a_scale_and_bias_of_each_species(world: tuple[Tensor, Tensor]) -> None:
    logits, target = world
    scale, bias = torch.linspace(0.5, 2, 20), torch.linspace(1, -1, 20)
    fitted = fit_vector((logits - bias) / scale, target)
    torch.testing.assert_close(fitted[0], scale, rtol=0.2, atol=0)
    torch.testing.assert_close(fitted[1], bias, rtol=0, atol=0.3)


def test_with_sigmoids_every_species_is_fitted_alone(world: tuple[Tensor, Tensor]) -> None:
    logits, target = world
    alone = fit_vector(logits[:, 3:4].repeat(1, 2), target[:, 3:4].repeat(1, 2))
    together = fit_vector(logits, target)
    torch.testing.assert_close(alone[0][0], together[0][3], rtol=1e-4, atol=0)
    torch.testing.assert_close(alone[1][0], together[1][3], rtol=0, atol=1e-4)


def test_a_fitted_species_is_expected_as_often_as_observed(world: tuple[Tensor, Tensor]) -> None:
    logits, target = world
    expected = rescale(logits, *fit_vector(logits, target)).sigmoid().mean(0)
    torch.testing.assert_close(expected, target.mean(0), rtol=0, atol=1e-3)


def test_softmax_has_its_temperature() -> None:
    logits = 2 * torch.randn(4000, 6, generator=torch.Generator().manual_seed(1))
    drawn = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(2))
    target = torch.zeros_like(logits).scatter_(1, drawn, 1)
    assert fit_temperature(3 * logits, target, "softmax") == pytest.approx(3, rel=0.05)
    scale, bias = fit_vector(logits, target, "softmax")
    assert (scale - 1).abs().max() < 0.15 and bias.abs().max() < 0.3
    expected = rescale(logits, scale, bias).softmax(1).mean(0)
    torch.testing.assert_close(expected, target.mean(0), rtol=0, atol=1e-3)


def test_what_was_never_found_and_what_is_separable_stay_finite() -> None:
    logits = torch.linspace(-4, 4, 50)[:, None].repeat(1, 2)
    target = torch.stack([logits[:, 0] * 0, (logits[:, 0] > 0).float()], dim=1)
    scale, bias = fit_vector(logits, target)
    assert scale.isfinite().all() and bias.isfinite().all() and bias[0] < -1 and scale[1] > 2
    assert 0.05 < fit_temperature(logits[:, 1:], target[:, 1:]) < 0.5


def test_fitting_works_where_gradients_are_off(world: tuple[Tensor, Tensor]) -> None:
    with torch.no_grad():
        assert fit_temperature(2 * world[0], world[1]) == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 2), r"got \(4, 3\) and \(4, 2\)"),
        (torch.zeros(0, 3), torch.zeros(0, 3), r"got \(0, 3\)"),
        (torch.tensor([[torch.inf]]), torch.ones(1, 1), "finite logits"),
    ],
)
def test_bad_input_is_named(logits: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_vector(logits, target)


def test_ranks_become_the_logistic_output_of_maxent() -> None:
    logits = 3 * torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = logits.softmax(0)
    entropy = -(q * q.log()).sum(0)
    odds = q * entropy.exp()
    torch.testing.assert_close((logits + logistic_bias(logits)).sigmoid(), odds / (1 + odds))


def test_the_level_that_a_species_had_does_not_matter() -> None:
    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
    other = logits + torch.tensor([90.0, -3, 0, 5, -40])
    torch.testing.assert_close(
        other + logistic_bias(other), logits + logistic_bias(logits), rtol=0, atol=1e-4
    )
