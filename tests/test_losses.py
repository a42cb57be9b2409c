"""Losses against the authors' numbers, metrics against scikit-learn, decoding against brute force.

p[B, K]: probabilities · y[B, K]: 1 where a species was found · logits[B, K].
"""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from glczoo.decoding import best_k, expected_f1, top_k
from glczoo.losses import ACTIVATION, LOSSES, an, bce, ce
from glczoo.metrics import macro_auc, macro_f1, sample_f1, size_error, summary

P = torch.tensor([[0.9, 0.2, 0.6, 0.1], [0.3, 0.8, 0.05, 0.5]])
Y = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0]])
LOGITS = P.logit()
EXACT = {"abs": 1e-6, "rel": 0}


# --- losses ---------------------------------------------------------------------------------------------


def test_bce_and_an_give_the_reference_number() -> None:
    assert bce(LOGITS, Y).item() == pytest.approx(0.3343018, **EXACT)
    assert an(LOGITS, Y).item() == pytest.approx(0.3343018, **EXACT)


def test_an_is_the_authors_formula_without_its_eps() -> None:
    def formula(eps: float) -> float:
        entries = -Y * (P + eps).log() - (1 - Y) * (1 - P + eps).log()
        return entries.mean().item()

    assert formula(1e-5) == pytest.approx(0.3342872, **EXACT)  # Cole et al. 2021, released code
    assert an(LOGITS, Y).item() == pytest.approx(formula(0), **EXACT)


def test_ce_takes_classes_and_targets() -> None:
    assert ce(LOGITS, torch.tensor([0, 1])).item() == pytest.approx(0.2514971, **EXACT)
    assert ce(LOGITS, Y).item() == pytest.approx(0.2514971, **EXACT)


def test_ce_shares_a_survey_among_its_species_and_an_empty_one_adds_nothing() -> None:
    target = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0]])
    log_p = LOGITS.log_softmax(1)
    expected = -(log_p[0, 0] + log_p[0, 2]) / 2 / 2  # the mean counts both surveys
    assert ce(LOGITS, target).item() == pytest.approx(expected.item(), **EXACT)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_losses_are_stable_at_huge_logits(name: str) -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], requires_grad=True)
    target = torch.tensor([[1.0, 0, 0], [1, 0, 0]])
    loss = LOSSES[name](logits, target)
    loss.backward()
    # The first survey is right but for log 2 at the zero; the second is wrong by 1e4 (softmax: 2e4 + log 2).
    expected = 2e4 / 2 if name == "ce" else (math.log(2) + 3e4) / 6
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad.abs().max() <= 0.5


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_gradients_are_those_of_the_formula(name: str) -> None:
    logits = LOGITS.double().requires_grad_()
    target = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name](x, target), logits)
    if name == "ce":
        assert torch.autograd.gradcheck(lambda x: ce(x, torch.tensor([0, 3])), logits)


def test_every_loss_has_an_activation() -> None:
    assert set(ACTIVATION) == set(LOSSES) == {"bce", "ce", "an"}


# --- metrics --------------------------------------------------------------------------------------------


@pytest.fixture
def answers() -> tuple[Tensor, Tensor, Tensor]:
    """predicted[N, K], scores[N, K] with ties, target[N, K]; the first two surveys are empty."""
    generator = torch.Generator().manual_seed(0)
    scores = (torch.rand(40, 9, generator=generator) * 20).round() / 20
    target = (torch.rand(40, 9, generator=generator) < 0.6 * scores).float()
    predicted = scores > 0.6
    target[:2] = 0
    predicted[0], predicted[1, 0] = False, True
    target[:, 7], predicted[:, 7] = 0, False  # a species neither found nor answered
    target[:, 8] = 0
    target[3, 8] = 1
    return predicted, scores, target


def test_f1_equals_scikit_learn(answers: tuple[Tensor, Tensor, Tensor]) -> None:
    predicted, _, target = answers
    f1 = sample_f1(predicted, target)
    assert f1[0] == 1 and f1[1] == 0
    y, p = target.int().numpy(), predicted.int().numpy()
    samples = f1_score(y, p, average="samples", zero_division=1)
    assert f1.mean().item() == pytest.approx(samples, abs=1e-6)
    seen = np.flatnonzero(y.any(0) | p.any(0))
    assert macro_f1(predicted, target) == pytest.approx(
        f1_score(y, p, labels=seen, average="macro"), abs=1e-6
    )


def test_macro_f1_without_any_species_is_an_error() -> None:
    with pytest.raises(ValueError, match="macro F1 is undefined: no species is found or answered"):
        macro_f1(torch.zeros(2, 3, dtype=torch.bool), torch.zeros(2, 3))


@pytest.mark.parametrize("least", [1, 5])
def test_auc_equals_scikit_learn_with_ties(answers: tuple[Tensor, Tensor, Tensor], least: int) -> None:
    _, scores, target = answers
    kept = [k for k in range(9) if least <= target[:, k].sum() < 40]
    assert len(kept) == {1: 8, 5: 7}[least]
    auc, number = macro_auc(scores, target, least)
    expected = np.mean([roc_auc_score(target[:, k].numpy(), scores[:, k].numpy()) for k in kept])
    assert number == len(kept) and auc == pytest.approx(expected, abs=1e-12)


def test_auc_of_nothing_is_nan() -> None:
    auc, number = macro_auc(torch.rand(4, 2), torch.tensor([[0.0, 1]] * 4), 1)
    assert math.isnan(auc) and number == 0


def test_summary_puts_them_together(answers: tuple[Tensor, Tensor, Tensor]) -> None:
    predicted, scores, target = answers
    found = summary(predicted, scores, target)
    error = predicted.sum(1) - target.sum(1)
    assert torch.equal(size_error(predicted, target), error.long())
    assert found == {
        "f1": sample_f1(predicted, target).mean().item(),
        "f1_macro": macro_f1(predicted, target),
        "auc": macro_auc(scores, target)[0],
        "auc_species": 7,
        "size": pytest.approx(predicted.sum().item() / 40),
        "size_bias": pytest.approx(error.mean().item()),
        "size_error": pytest.approx(error.abs().mean().item()),
    }


# --- decoding -------------------------------------------------------------------------------------------


def some_probabilities(num: int = 30, classes: int = 12) -> Tensor:
    return torch.rand(num, classes, generator=torch.Generator().manual_seed(1)) ** 3


@pytest.mark.parametrize("k", [1, 5, 12, 20])
def test_top_k_marks_the_most_probable(k: int) -> None:
    p = some_probabilities()
    mask = top_k(p, k)
    for row, marked in zip(p, mask, strict=True):
        assert set(marked.nonzero()[:, 0].tolist()) == set(sorted(range(12), key=lambda i: -row[i])[:k])


def test_expected_f1_equals_a_search_over_all_sizes() -> None:
    p = some_probabilities().double()
    mask = expected_f1(p)
    for row, marked in zip(p, mask, strict=True):
        ordered = sorted(row.tolist(), reverse=True)
        gains = [2 * sum(ordered[:k]) / (k + sum(ordered)) for k in range(1, 13)]
        k = int(np.argmax(gains)) + 1
        assert set(row[marked].tolist()) == set(ordered[:k])
    assert len(set(mask.sum(1).tolist())) > 3  # the size follows the survey


def test_expected_f1_of_certain_and_of_hopeless_surveys() -> None:
    p = torch.tensor([[1.0, 0, 1, 1], [0, 0, 0, 0]])
    assert expected_f1(p)[0].tolist() == [True, False, True, True]
    assert expected_f1(p)[1].sum() == 1  # an answer is never empty


@pytest.mark.parametrize("largest", [4, 100])
def test_best_k_equals_a_search(largest: int) -> None:
    p = some_probabilities()
    target = (torch.rand(p.shape, generator=torch.Generator().manual_seed(2)) < p).float()
    target[3] = 0
    f1 = [sample_f1(top_k(p, k), target).mean().item() for k in range(1, min(largest, 12) + 1)]
    k = best_k(p, target, largest)
    assert f1[k - 1] == pytest.approx(max(f1), abs=1e-6) and 1 <= k <= largest
