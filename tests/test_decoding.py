"""Decoding against brute force."""

import itertools
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from glczoo.decoding import (
    Decoding,
    Rule,
    best_alpha,
    best_k,
    best_k_by_group,
    best_threshold,
    expected_f1,
    expected_size,
    recall_threshold,
    threshold,
    top_k,
    tune,
    tune_by_source,
)
from glczoo.expected_f1 import expected_values, power_sums
from glczoo.metrics import sample_f1, sample_recall


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


def test_a_size_for_each_survey() -> None:
    p, k = some_probabilities(), torch.arange(30) % 14
    mask = top_k(p, k)
    for i in range(30):
        assert torch.equal(mask[i], top_k(p[i : i + 1], int(k[i]))[0])


def test_threshold_answers_what_is_above_it_and_never_nothing() -> None:
    p = some_probabilities()
    assert torch.equal(threshold(p, 0.6, least=0), p >= 0.6)
    mask = threshold(p, 0.6, least=2)
    few = (p >= 0.6).sum(1) < 2
    assert few.any() and not few.all()
    assert torch.equal(mask[few], top_k(p[few], 2)) and torch.equal(mask[~few], p[~few] >= 0.6)
    assert threshold(p, 2).sum(1).eq(1).all()


def test_expected_size_answers_as_many_as_expected() -> None:
    p = torch.tensor([[0.9, 0.8, 0.7, 0.3], [0.1, 0.2, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    assert expected_size(p, 1).tolist() == top_k(p, torch.tensor([3, 1, 4])).tolist()
    assert expected_size(p, 1, least=0).sum(1).tolist() == [3, 0, 4]
    assert expected_size(p, 0.5).sum(1).tolist() == [1, 1, 2]
    assert expected_size(p, 9).sum(1).tolist() == [4, 3, 4]


@pytest.mark.parametrize("least", [0, 1, 3])
def test_exact_expected_f1_is_the_best_of_all_sets(least: int) -> None:
    p = some_probabilities(40, 6).double()
    p[0], p[1], p[2], p[3] = 0, 1, 0.5, torch.tensor([1, 1, 0.5, 0.02, 0, 0])
    p[4:20] **= 3  # surveys where nothing may be the best answer
    outcomes = torch.tensor(list(itertools.product([0, 1], repeat=6)))
    sets = outcomes[outcomes.sum(1) >= least].bool()
    f1 = torch.stack([sample_f1(s.expand(64, 6), outcomes) for s in sets]).double()
    chance = torch.where(outcomes[:, None].bool(), p, 1 - p).prod(2)  # [64, 40]
    expected = f1 @ chance
    mask = expected_f1(p, exact=True, least=least)
    for i in range(40):
        chosen = (sets == mask[i]).all(1).nonzero()[0, 0]
        assert expected[chosen, i].item() == pytest.approx(expected[:, i].max().item(), abs=1e-12)
    assert (mask.sum(1) == 0).any() == (least == 0)
    assert len(set(mask.sum(1).tolist())) > 2


def by_dynamic_programming(p: np.ndarray) -> np.ndarray:
    """E[2 TP_k / (k + Y)] for k = 1 to K from the distributions of TP_k and of the rest: O(K³)."""

    def numbers(chances: np.ndarray) -> np.ndarray:
        distribution = np.ones(1)
        for c in chances:
            distribution = np.convolve(distribution, [1 - c, c])
        return distribution

    p, values = np.sort(p)[::-1], []
    for k in range(1, len(p) + 1):
        a, b = numbers(p[:k]), numbers(p[k:])
        i, j = np.arange(len(a))[:, None], np.arange(len(b))
        values.append((a[:, None] * b * 2 * i / (k + i + j)).sum())
    return np.array(values)


@pytest.mark.parametrize(("power", "factor"), [(0.3, 1), (3, 1), (12, 1), (60, 1), (0.5, 0.1)])
def test_exact_expected_f1_of_many_species(power: float, factor: float) -> None:
    """Sets wider than what is looked at first, the last of improbable species only, and far narrower ones."""
    p = factor * torch.rand(2, 150, generator=torch.Generator().manual_seed(3)).double() ** power
    mask = expected_f1(p, exact=True)
    for row, size in zip(p, mask.sum(1).tolist(), strict=True):
        values = by_dynamic_programming(row.numpy())
        assert values[size - 1] == pytest.approx(values.max(), abs=1e-11)


def test_the_surrogate_looks_as_far_as_it_must() -> None:
    p = torch.rand(3, 700, generator=torch.Generator().manual_seed(4)).double()
    p[2] = p[2] ** 20
    ordered = p.sort(dim=1, descending=True).values
    gain = 2 * ordered.cumsum(1) / (torch.arange(1, 701) + p.sum(1, keepdim=True))
    assert expected_f1(p).sum(1).tolist() == (gain.argmax(1) + 1).tolist()
    assert gain.argmax(1).max() > 256
    assert expected_f1(p[2:] ** 20, least=5).sum(1).tolist() == [5]
    assert expected_f1(p * 1e-4, least=0).sum(1).tolist() == [0, 0, 0]


def tuning_samples() -> tuple[Tensor, Tensor]:
    p = (some_probabilities(60) * 50).round() / 50  # with ties
    target = (torch.rand(p.shape, generator=torch.Generator().manual_seed(2)) < p).float()
    target[3:6] = 0
    return p, target


@pytest.mark.parametrize("least", [0, 1, 2])
def test_the_best_threshold_equals_a_search(least: int) -> None:
    p, target = tuning_samples()
    candidates = [t for t in [*p.unique().tolist(), 1.1] if t >= 0.01]
    f1 = [sample_f1(threshold(p, t, least), target).mean().item() for t in candidates]
    t = best_threshold(p, target, least)
    result = sample_f1(threshold(p, t, least), target).mean().item()
    assert result == pytest.approx(max(f1), abs=1e-6) and 0.05 < t < 0.95
    above = best_threshold(p, target, least, smallest=0.8)
    assert above >= 0.8


@pytest.mark.parametrize("least", [0, 1, 2])
def test_the_best_alpha_equals_a_search(least: int) -> None:
    p, target = tuning_samples()
    f1 = [sample_f1(expected_size(p, a, least), target).mean().item() for a in np.linspace(0, 4, 2001)]
    alpha = best_alpha(p, target, least)
    result = sample_f1(expected_size(p, alpha, least), target).mean().item()
    assert result >= max(f1) - 1e-6 and 0.3 < alpha < 3
    assert best_alpha(p, target, least, largest=0.2) <= 0.2


def test_where_the_least_is_best() -> None:
    p, target = torch.tensor([[0.9, 0.5, 0.4], [0.6, 0.8, 0.3]]), torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    for mask in (threshold(p, best_threshold(p, target)), expected_size(p, best_alpha(p, target))):
        assert torch.equal(mask, target.bool())
    empty = target * 0
    assert threshold(p, best_threshold(p, empty, least=0), least=0).sum() == 0
    assert expected_size(p, best_alpha(p, empty, least=0), least=0).sum() == 0


def test_each_source_has_its_own_k() -> None:
    p, target = tuning_samples()
    source = torch.arange(60) % 3
    target[source == 1] = top_k(p[source == 1], 1).float()
    k = best_k_by_group(p, target, source, 4)
    for group in range(3):
        assert k[group] == best_k(p[source == group], target[source == group])
    assert k[1] == 1 < k[0] and k[3] == best_k(p, target)
    own = sample_f1(top_k(p, k[source]), target).mean()
    assert own > sample_f1(top_k(p, int(k[3])), target).mean()


def test_the_tail_of_a_series_is_the_species_it_stands_for() -> None:
    p = torch.rand(1, 60, generator=torch.Generator().manual_seed(5)).double() ** 4
    p[:, 20:] = 0.1 * torch.linspace(1, 0, 40)
    p = p.sort(dim=1, descending=True).values
    value, none = expected_values(p[:, :25], power_sums(p), 60)
    np.testing.assert_allclose(value[0], by_dynamic_programming(p[0].numpy())[:25], atol=1e-12)
    assert none.item() == pytest.approx((1 - p).prod().item(), abs=1e-12)


P = torch.tensor([[0.9, 0.6, 0.2, 0.1], [0.4, 0.3, 0.3, 0.2]])
DECODINGS = [
    (Decoding(Rule.TOP_K, 2), top_k(P, 2), "top 2"),
    (Decoding(Rule.THRESHOLD, 0.25), threshold(P, 0.25), "threshold 0.25"),
    (Decoding(Rule.EXPECTED_SIZE, 1.5), expected_size(P, 1.5), "1.5 × expected size"),
    (Decoding(Rule.EXPECTED_F1), expected_f1(P), "expected F1"),
    (Decoding(Rule.EXPECTED_F1_EXACT), expected_f1(P, exact=True), "expected F1, exact"),
    (Decoding(Rule.RECALL, 0.9, threshold=0.25), threshold(P, 0.25), "recall of 0.9 or more"),
]
BY_SOURCE = Decoding(Rule.TOP_K, 3, {"A": 5, "": 1})


def test_every_rule_is_tested():
    assert [decoding.rule for decoding, _, _ in DECODINGS] == list(Rule)


@pytest.mark.parametrize(("decoding", "mask", "text"), DECODINGS)
def test_a_decoding_applies_its_rule(decoding, mask, text):
    assert torch.equal(decoding(P), mask) and str(decoding) == text


@pytest.mark.parametrize("decoding", [*(decoding for decoding, _, _ in DECODINGS), BY_SOURCE])
def test_a_decoding_is_read_back_as_it_was(decoding):
    assert Decoding(**json.loads(json.dumps(decoding.to_json()))) == decoding


@pytest.mark.parametrize("decoding", [*(decoding for decoding, _, _ in DECODINGS[:-1]), BY_SOURCE])
def test_the_mean_of_the_same_decodings_is_that_one(decoding):
    assert Decoding.mean([decoding, decoding]) == decoding


@pytest.mark.parametrize("decoding", [decoding for decoding, _, _ in DECODINGS])
def test_a_decoding_is_compared_with_what_is_tuned_and_with_expected_f1(decoding):
    rules = [other.rule for other in decoding.others({"top_k": 3})]
    assert rules == list(dict.fromkeys([decoding.rule, Rule.TOP_K, Rule.EXPECTED_F1]))


def test_a_k_by_source_is_compared_with_the_k_of_all():
    assert BY_SOURCE.others({"top_k": 3})[1:] == [Decoding(Rule.TOP_K, 3), Decoding(Rule.EXPECTED_F1)]


def test_an_ensemble_takes_the_mean_number_of_its_members():
    assert Decoding.mean([Decoding("top_k", 2), Decoding("top_k", 5), Decoding("top_k", 4)]).value == 4
    assert Decoding.mean([Decoding("threshold", 0.2), Decoding("threshold", 0.4)]).value == pytest.approx(0.3)


def test_an_ensemble_promises_no_recall_by_the_thresholds_of_its_members():
    mean = Decoding.mean([Decoding("recall", 0.9, threshold=0.2), Decoding("recall", 0.9, threshold=0.4)])
    assert mean == Decoding(Rule.EXPECTED_F1)


def test_an_ensemble_of_unlike_rules_takes_expected_f1():
    mean = Decoding.mean([Decoding("threshold", 0.2), Decoding("top_k", 2)])
    assert mean == Decoding(Rule.EXPECTED_F1)


def test_an_ensemble_takes_the_mean_source_by_source():
    mean = Decoding.mean([BY_SOURCE, Decoding("top_k", 6, {"A": 9, "B": 2})])
    assert mean.by_source == {"A": 7, "": 4, "B": 2} and mean.value == 4  # of 4.5, to the even


def test_a_k_by_source_falls_back_to_that_of_all():
    p = torch.rand(4, 9)
    assert BY_SOURCE(p, np.array(["A", "", "other", "A"])).sum(1).tolist() == [5, 1, 3, 5]
    assert BY_SOURCE(p).sum(1).tolist() == [3] * 4
    assert str(BY_SOURCE) == "top 3 (by source: A 5, not named 1)"


def test_sources_are_tuned_apart():
    p, y = torch.rand(60, 12), torch.rand(60, 12) < 0.3
    sources = np.array(["few", "many", "few"] * 20)
    y[sources == "many"] = True
    tuned = tune_by_source(p, y, sources)
    assert tuned == {"few": best_k(p[sources == "few"], y[sources == "few"]), "many": 12}


def test_tuned_numbers_are_the_best_of_their_rules():
    p, y = torch.rand(40, 12), torch.rand(40, 12) < 0.3
    tuned = tune(p, y)
    assert tuned == {
        "top_k": best_k(p, y),
        "threshold": best_threshold(p, y),
        "expected_size": best_alpha(p, y),
    }


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        ("top_p", 0.9, "no decoding rule 'top_p'; there are top_k, threshold"),
        ("top_k", 2.5, "takes a whole number of species, got 2.5"),
        ("top_k", 0, "takes a whole number"),
        ("threshold", None, "takes a positive number, got None"),
        ("expected_f1", 3, "takes no number, got 3"),
        ("expected_f1_exact", 3, "takes no number, got 3"),
        ("recall", 1.0, "takes a share of the species above 0 and below 1, got 1.0"),
        ("recall", None, "takes a share of the species above 0 and below 1, got None"),
    ],
)
def test_a_decoding_that_cannot_be_applied(rule, value, message):
    with pytest.raises(ValueError, match=message):
        Decoding(rule, value)


@pytest.mark.parametrize(("rule", "by_source"), [("top_k", {"A": 2.5}), ("threshold", {"A": 3})])
def test_numbers_by_source_are_whole_and_of_top_k(rule, by_source):
    with pytest.raises(ValueError, match="by_source holds whole numbers of species and goes with top_k"):
        Decoding(rule, 4, by_source)


# Sets with a promise.


def surveys(num: int, seed: int, classes: int = 20, crooked: float = 1.0) -> tuple[Tensor, Tensor]:
    """Probabilities that are wrong by a power, and what was observed; some surveys are empty."""
    generator = torch.Generator().manual_seed(seed)
    p = torch.rand(num, classes, generator=generator) ** 4
    target = (torch.rand(p.shape, generator=generator) < p).float()
    return p**crooked, target


@pytest.mark.parametrize("recall", [0.5, 0.8, 0.95])
def test_the_threshold_of_a_recall_equals_a_search(recall: float) -> None:
    p, target = surveys(60, 3)
    p = (p * 50).round() / 50  # with ties

    def kept(t: float) -> bool:
        risk = 1 - sample_recall(threshold(p, t), target).double().mean().item()
        return (60 * risk + 1) / 61 <= 1 - recall

    best = max(t for t in [0.0, *p.unique().tolist()] if kept(t))
    assert recall_threshold(p, target, recall) == pytest.approx(best)


@pytest.mark.parametrize("crooked", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("recall", [0.7, 0.9])
def test_on_exchangeable_surveys_the_recall_is_what_was_promised(recall: float, crooked: float) -> None:
    """The mean over many draws of 40 tuning samples, and not much more: sets are no larger than need be."""
    p, target = surveys(400 * 41, 0, crooked=crooked)
    means = []
    for mine, truth in zip(p.split(41), target.split(41), strict=True):
        t = recall_threshold(mine[:40], truth[:40], recall)
        means.append(sample_recall(threshold(mine[40:], t), truth[40:]))
    mean = float(torch.cat(means).mean())
    error = float(torch.cat(means).std()) / 20
    assert recall - 2 * error < mean < recall + 1 / 40 + 2 * error


def test_where_surveys_differ_from_the_tuning_samples_the_promise_fails() -> None:
    p, target = surveys(500, 0)
    far, elsewhere = surveys(500, 1)
    t = recall_threshold(p, target, 0.9)
    assert sample_recall(threshold(far**3, t), elsewhere).mean() < 0.8


def test_with_too_few_samples_only_every_species_keeps_the_promise() -> None:
    p, target = surveys(8, 0)
    t = recall_threshold(p, target, 0.9)
    assert t == 0 and threshold(p, t).all()
    assert recall_threshold(*surveys(200, 0), 0.9) > 0


def test_where_the_most_probable_species_is_enough_no_other_is_predicted() -> None:
    p = torch.tensor([[0.9, 0.5], [0.2, 0.7]]).repeat(10, 1)
    t = recall_threshold(p, torch.tensor([[1.0, 0], [0, 1]]).repeat(10, 1), 0.9)
    assert threshold(p, t).sum(1).eq(1).all()


def test_a_recall_without_its_threshold_cannot_be_applied() -> None:
    with pytest.raises(ValueError, match="which tuning samples have to set"):
        Decoding(Rule.RECALL, 0.9)(P)
