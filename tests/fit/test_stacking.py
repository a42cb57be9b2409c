"""Weights of a stack: those of a slow search, none below zero, and none for what adds nothing."""

import itertools

import numpy as np
import pytest

from glczoo.fit.stacking import likelihood, log_loss_each, simplex_weights, stack, worth_it


@pytest.fixture
def candidates() -> tuple[np.ndarray, np.ndarray]:
    """Probabilities[3, N, K] of three candidates that err in different ways, and target[N, K]."""
    generator = np.random.default_rng(0)
    chance = generator.random((80, 4))
    noise = generator.normal(0, [[[0.6]], [[0.8]], [[1.5]]], (3, 80, 4))
    probabilities = 1 / (1 + np.exp(-(np.log(chance / (1 - chance)) + noise)))
    return probabilities, (generator.random((80, 4)) < chance).astype(float)


def test_weights_are_those_of_a_search_of_the_simplex(candidates):
    probabilities, target = candidates
    steps = np.arange(101) / 100
    grid = [(a, b, 1 - a - b) for a, b in itertools.product(steps, steps) if a + b < 1.005]

    def loss(weights):
        mean = np.clip(np.tensordot(weights, probabilities, 1), 1e-5, 1 - 1e-5)
        return -(target * np.log(mean) + (1 - target) * np.log(1 - mean)).mean()

    weights = simplex_weights(likelihood(probabilities, target))
    best = min(grid, key=loss)
    np.testing.assert_allclose(weights, best, atol=0.011)
    assert loss(weights) <= loss(best) + 1e-7 and 0.05 < weights[1] < 0.9


def test_weights_are_none_below_zero_and_one_in_sum(candidates):
    weights = stack(*candidates, least=0.02)
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1)


def test_a_candidate_that_knows_all_gets_all_weight(candidates):
    probabilities, target = candidates
    probabilities[1] = np.where(target > 0.5, 0.999, 0.001)
    assert stack(probabilities, target, least=0.02).tolist() == [0, 1, 0]


def test_weights_below_the_least_are_dropped_and_the_others_found_anew(candidates):
    probabilities, target = candidates
    free = stack(probabilities, target, least=0)
    least = float(np.sort(free)[0]) + 1e-6
    kept = free >= least
    assert kept.sum() == 2
    weights = stack(probabilities, target, least)
    alone = simplex_weights(likelihood(probabilities[kept], target))
    assert weights[~kept].tolist() == [0.0]
    np.testing.assert_allclose(weights[kept], alone)


def test_log_loss_of_a_survey_is_the_mean_over_its_species():
    each = log_loss_each(np.array([[0.5, 0.25], [0.0, 1.0]]), np.array([[1, 0], [0, 1]]))
    assert each == pytest.approx([-(np.log(0.5) + np.log(0.75)) / 2, 1e-5], rel=1e-4)


def test_a_costly_candidate_that_adds_nothing_beyond_chance_has_no_weight(candidates):
    probabilities, target = candidates
    noise = np.random.default_rng(1).normal(0, 0.02, probabilities[0].shape)
    twin = 1 / (1 + np.exp(-(np.log(probabilities[0] / (1 - probabilities[0])) + noise)))
    both = np.concatenate([probabilities, twin[None]])
    costly = 3 if stack(both, target, least=0)[3] > 0 else 0  # one of the two has all the weight of both
    weights, gains = worth_it(both, target, np.arange(80) // 4, [costly], least=0)
    assert weights[costly] == 0 and gains[costly][1] <= 0
    others = [number for number in range(4) if number != costly]
    np.testing.assert_allclose(weights[others], stack(both[others], target, least=0))


def test_a_costly_candidate_that_lowers_the_log_loss_keeps_its_weight(candidates):
    probabilities, target = np.concatenate([candidates[0]] * 5, 1), np.concatenate([candidates[1]] * 5)
    weights, gains = worth_it(probabilities, target, np.arange(400) // 4, [0], least=0)
    np.testing.assert_array_equal(weights, stack(probabilities, target, least=0))
    assert 0 < gains[0][1] < gains[0][0] < gains[0][2]


def test_a_costly_candidate_may_be_the_only_one(candidates):
    probabilities, target = candidates
    assert worth_it(probabilities[:1], target, np.arange(80), [0], least=0)[0].tolist() == [1]
