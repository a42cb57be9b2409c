"""Metrics against scikit-learn, numbers worked by hand, and slow obvious twins.

predicted[N, K] · scores[N, K] · target[N, K].
"""

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score, roc_curve
from torch import Tensor

from glczoo.metrics import (
    bootstrap,
    boyce,
    frequency_parts,
    macro_auc,
    macro_f1,
    means_by,
    ranking,
    reliability,
    sample_f1,
    sample_recall,
    size_error,
    species_scores,
    summary,
)


@pytest.fixture
def answers() -> tuple[Tensor, Tensor, Tensor]:
    """predicted[N, K], scores[N, K] with ties, target[N, K]; the first two surveys are empty."""
    generator = torch.Generator().manual_seed(0)
    scores = (torch.rand(40, 9, generator=generator) * 20).round() / 20
    target = (torch.rand(40, 9, generator=generator) < 0.6 * scores).float()
    predicted = scores > 0.6
    target[:2] = 0
    predicted[0], predicted[1, 0] = False, True
    target[:, 7], predicted[:, 7] = 0, False  # a species neither observed nor predicted
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


def test_recall_equals_scikit_learn(answers: tuple[Tensor, Tensor, Tensor]) -> None:
    predicted, _, target = answers
    expected = recall_score(target.numpy(), predicted.numpy(), average="samples", zero_division=1)
    assert sample_recall(predicted, target).mean().item() == pytest.approx(expected, abs=1e-6)


def best_skill(target: np.ndarray, scores: np.ndarray) -> float:
    false, true, _ = roc_curve(target, scores, drop_intermediate=False)
    return float((true - false).max())


def test_macro_f1_without_any_species_is_an_error() -> None:
    with pytest.raises(ValueError, match="macro F1 is undefined: no species is observed or predicted"):
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
    result = summary(predicted, scores, target)
    error = predicted.sum(1) - target.sum(1)
    assert torch.equal(size_error(predicted, target), error.long())
    assert result == {
        "f1": sample_f1(predicted, target).mean().item(),
        "f1_macro": macro_f1(predicted, target),
        "auc": macro_auc(scores, target)[0],
        "auc_species": 7,
        "size": pytest.approx(predicted.sum().item() / 40),
        "size_bias": pytest.approx(error.mean().item()),
        "size_error": pytest.approx(error.abs().mean().item()),
    }


def ranks_of(scores: Tensor, target: Tensor, name: str, least: int = 1) -> Tensor:
    return getattr(ranking(scores, target, least), name)


@pytest.mark.parametrize(
    ("name", "reference"),
    [("auc", roc_auc_score), ("pr_auc", average_precision_score), ("tss", best_skill)],
)
def test_ranking_equals_scikit_learn_with_ties(
    answers: tuple[Tensor, Tensor, Tensor], name: str, reference: Callable[..., float]
) -> None:
    _, scores, target = answers
    values = ranks_of(scores, target, name)
    for k in (k for k in range(9) if k != 7):
        expected = reference(target[:, k].numpy(), scores[:, k].numpy())
        assert values[k].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["auc", "pr_auc", "tss"])
def test_species_with_few_presences_are_not_ranked(answers: tuple[Tensor, Tensor, Tensor], name: str) -> None:
    _, scores, target = answers
    assert ranks_of(scores, target, name, 1).isnan().nonzero()[:, 0].tolist() == [7]
    assert ranks_of(scores, target, name, 5).isnan().nonzero()[:, 0].tolist() == [7, 8]


@pytest.mark.parametrize("name", ["auc", "pr_auc", "tss"])
def test_ranking_of_many_species_is_that_of_each(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, target = torch.rand(30, 11), (torch.rand(30, 11) < 0.4).float()
    whole = ranks_of(scores, target, name)
    monkeypatch.setattr("glczoo.metrics._COLUMNS", 4)
    assert torch.equal(ranks_of(scores, target, name), whole)


def test_a_score_that_is_nan_is_an_error() -> None:
    scores = torch.rand(20, 2)
    scores[3, 1] = torch.nan
    with pytest.raises(ValueError, match="scores hold nan"):
        macro_auc(scores, (torch.arange(20)[:, None] < 9).expand(20, 2))


def test_boyce_worked_by_hand() -> None:
    # Range 0 to 1, five windows of 0.4: [0, .4] [.15, .55] [.3, .7] [.45, .85] [.6, 1].
    background = torch.tensor([0.0, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 1.0], dtype=torch.float64)
    presence = torch.tensor([0.35, 0.65, 0.8, 0.9], dtype=torch.float64)
    # presences  1 1 2 2 3 of 4 · background 4 3 3 3 5 of 10  →  P/E ∝ 1/4, 1/3, 2/3, 2/3, 3/5
    # Ranks of P/E: 1, 2, 4.5, 4.5, 3. Less their mean, times -2..2: 4 + 1 + 0 + 1.5 + 0; squares: 9.5 and 10.
    expected = 6.5 / math.sqrt(10 * 9.5)
    assert boyce(presence, background, windows=5, width=0.4) == pytest.approx(expected, abs=1e-12)


def slow_boyce(presence: np.ndarray, background: np.ndarray) -> float:
    """Window by window, and scipy's rank correlation."""
    low, high = background.min(), background.max()
    places, ratios = [], []
    for number in range(101):
        start = low + 0.9 * (high - low) * number / 100
        end = high if number == 100 else start + 0.1 * (high - low)
        available = int(((background >= start) & (background <= end)).sum())
        if available:
            places.append(number)
            ratios.append(Fraction(int(((presence >= start) & (presence <= end)).sum()), available))
    order = {ratio: rank for rank, ratio in enumerate(sorted(set(ratios)))}
    return float(spearmanr(places, [order[ratio] for ratio in ratios]).statistic)


@pytest.mark.parametrize("seed", range(5))
def test_boyce_equals_a_slow_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    background = generator.beta(0.5, 2, 300)
    presence = background[generator.random(300) < 0.1 + 0.6 * background]
    index = boyce(torch.from_numpy(presence), torch.from_numpy(background))
    assert index == pytest.approx(slow_boyce(presence, background), abs=1e-9)


def slow_ranks(target: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    """TSS and average precision by a walk over all thresholds, from the highest."""
    best, precision, before = 0.0, 0.0, 0.0
    for t in sorted(set(scores.tolist()), reverse=True):
        predicted = scores >= t
        sensitivity = predicted[target].mean()
        best = max(best, sensitivity + (~predicted)[~target].mean() - 1)
        precision += (sensitivity - before) * target[predicted].mean()
        before = sensitivity
    return best, precision


@pytest.mark.parametrize("seed", range(5))
def test_tss_and_pr_auc_equal_slow_ones_with_ties(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 12, 80) / 12
    target = generator.random(80) < 0.2 + 0.5 * scores
    each = species_scores(
        torch.from_numpy(scores > 0.5)[:, None],
        torch.from_numpy(scores)[:, None],
        torch.from_numpy(target)[:, None],
    )
    expected = slow_ranks(target, scores)
    assert (each.tss.item(), each.pr_auc.item()) == pytest.approx(expected, abs=1e-12)


def test_boyce_leaves_out_windows_without_background() -> None:
    apart = torch.tensor([0.0, 0.05, 0.1, 0.9, 0.95, 1.0])
    assert boyce(torch.tensor([0.9, 1.0, 1.0]), apart) > 0.7


def test_boyce_tells_good_from_bad() -> None:
    background = torch.linspace(0, 1, 1001)
    good = background.repeat_interleave((background * 9).long())
    assert boyce(good, background) > 0.95
    assert boyce(1 - good, background) < -0.95


def test_boyce_of_one_score_or_of_no_presences_is_nan() -> None:
    background = torch.linspace(0, 1, 1001)
    assert math.isnan(boyce(background, background * 0))
    assert math.isnan(boyce(background[:0], background))


def test_reliability_of_three_bins_by_hand() -> None:
    p = torch.tensor([[0.1, 0.2, 0.5], [0.3, 0.9, 1.0]])
    y = torch.tensor([[0.0, 1, 0], [0, 1, 0]])
    result = reliability(p, y, bins=3)
    assert result.number.tolist() == [3, 1, 2]
    assert result.probability.tolist() == pytest.approx([0.2, 0.5, 0.95])
    assert result.frequency.tolist() == pytest.approx([1 / 3, 0, 0.5])
    assert result.ece == pytest.approx((3 * (1 / 3 - 0.2) + 0.5 + 2 * 0.45) / 6)


def test_an_empty_bin_has_no_frequency_and_adds_no_error() -> None:
    result = reliability(torch.tensor([[0.1], [0.3]]), torch.zeros(2, 1), bins=5)
    assert result.frequency.isnan().tolist() == [False, False, True, True, True]
    assert result.ece == pytest.approx(0.2)


def test_reliability_of_many_surveys_is_that_of_their_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.rand(50, 3)
    y = (torch.rand(50, 3) < p).float()
    whole = reliability(p, y)
    monkeypatch.setattr("glczoo.metrics._ROWS", 7)
    torch.testing.assert_close(reliability(p, y).probability, whole.probability, equal_nan=True)


def test_calibrated_probabilities_have_a_small_error() -> None:
    p = torch.rand(3000, 20)
    y = (torch.rand(3000, 20) < p).float()
    assert reliability(p, y).ece < 0.01 < 0.1 < reliability(p**2, y).ece


def test_species_scores_hold_what_each_metric_gives(answers: tuple[Tensor, Tensor, Tensor]) -> None:
    predicted, scores, target = answers
    each = species_scores(predicted, scores, target)
    assert each.presences.tolist() == target.sum(0).long().tolist()
    assert each.predicted.tolist() == predicted.sum(0).tolist()
    ranks = ranking(scores, target)
    for name in ("auc", "pr_auc", "tss"):
        torch.testing.assert_close(getattr(each, name), getattr(ranks, name), equal_nan=True)
    y = target[:, 0].bool()
    assert each.boyce[0].item() == boyce(scores[y, 0], scores[:, 0])


def test_a_species_seldom_observed_has_an_f1_but_no_ranks(answers: tuple[Tensor, Tensor, Tensor]) -> None:
    each = species_scores(*answers)
    assert each.boyce[7:].isnan().all() and each.auc[7:].isnan().all()  # never observed; observed once
    assert each.f1[7].isnan() and each.f1[8].isfinite()


def test_means_over_species_leave_out_what_is_undefined(answers: tuple[Tensor, Tensor, Tensor]) -> None:
    predicted, scores, target = answers
    means = species_scores(predicted, scores, target).means()
    assert means["f1"] == pytest.approx(macro_f1(predicted, target), abs=1e-6)
    assert means["auc"] == macro_auc(scores, target)[0]
    assert set(means) == {"f1", "auc", "pr_auc", "tss", "boyce"}
    assert all(math.isfinite(value) for value in means.values())


def test_frequency_parts_hold_equally_many_species_from_rare_to_common() -> None:
    presences = torch.tensor([9, 3, 8, 0, 5, 1, 7])
    assert frequency_parts(presences, 3).tolist() == [2, 0, 2, -1, 1, 0, 1]


def test_means_by_group_leave_out_nan_and_what_belongs_to_none() -> None:
    values = {"a": torch.tensor([1.0, 3, torch.nan, 5, 100]), "b": torch.tensor([0, 0, 1, 1, 1])}
    rows = means_by(values, torch.tensor([0, 0, 2, 2, -1]))
    assert rows == [
        {"group": 0, "number": 2, "a": 2.0, "b": 0.0},
        {"group": 2, "number": 2, "a": 5.0, "b": 1.0},
    ]


def test_bootstrap_of_a_mean_is_the_normal_interval() -> None:
    values = torch.randn(400, dtype=torch.float64)
    low, high = bootstrap(values, n=4000)
    half = 1.96 * values.std().item() / 20
    assert (low, high) == pytest.approx((values.mean().item() - half, values.mean().item() + half), abs=0.01)
    assert bootstrap(values, n=200, seed=1) == bootstrap(values, n=200, seed=1) != bootstrap(values, n=200)
    inner = bootstrap(values, n=4000, level=0.5)
    assert low < inner[0] < inner[1] < high


def test_bootstrap_of_a_function_draws_the_same_surveys() -> None:
    values, groups = torch.rand(30), torch.arange(30) % 7
    for blocks in (torch.arange(30), groups):
        by_function = bootstrap(lambda drawn: float(values[drawn].double().mean()), blocks, n=50)
        assert by_function == pytest.approx(bootstrap(values, blocks, n=50))


def test_bootstrap_draws_blocks_whole() -> None:
    values = torch.arange(8.0).repeat_interleave(50)  # what stands together is the same: 8 facts, not 400
    alone, blocks = bootstrap(values), bootstrap(values, torch.arange(8).repeat_interleave(50) * 10)
    assert blocks[1] - blocks[0] > 4 * (alone[1] - alone[0])


def test_bootstrap_of_a_function_needs_groups() -> None:
    with pytest.raises(ValueError, match="needs groups"):
        bootstrap(lambda drawn: 0.0)


def test_bootstrap_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one survey"):
        bootstrap(torch.zeros(0))
