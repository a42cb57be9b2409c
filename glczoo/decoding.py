"""From probabilities[B, K] to sets of species: mask[B, K], true where a species is predicted.

Six rules: `top_k` (one size for all, or one for each source of surveys), `threshold` (one probability),
`expected_size` (as many species as expected), `expected_f1` (the size that promises most, see
`glczoo.expected_f1`), `expected_f1_exact` (the same without the approximation) and `recall` (the smallest
sets that hold a promised share of the species). Their parameters are tuned by `best_…` and `recall_threshold`
on tuning samples, never on those that a result is reported on. Every rule predicts the most probable species,
at least `least` of them; `least=0` allows the empty set, for surveys that may be empty. A run keeps its rule
and number as a `Decoding`, which everything that predicts sets applies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glczoo.errors import GlczooError
from glczoo.expected_f1 import best_size, best_size_exact

__all__ = [
    "Decoding",
    "Rule",
    "best_alpha",
    "best_k",
    "best_k_by_group",
    "best_threshold",
    "expected_f1",
    "expected_size",
    "f1_by_k",
    "recall_threshold",
    "threshold",
    "top_k",
    "tune",
    "tune_by_source",
]

_ROWS = 1024  # surveys decoded at a time: 41 MB of probabilities of 10,039 species


class Rule(StrEnum):
    """What decides how many species a set holds."""

    TOP_K = "top_k"
    THRESHOLD = "threshold"
    EXPECTED_SIZE = "expected_size"
    EXPECTED_F1 = "expected_f1"
    EXPECTED_F1_EXACT = "expected_f1_exact"
    RECALL = "recall"

    @property
    def has_number(self) -> bool:
        """Whether it takes a number: k, a probability, α or a recall."""
        return self not in (Rule.EXPECTED_F1, Rule.EXPECTED_F1_EXACT)

    @property
    def adds_probabilities(self) -> bool:
        """Whether a set's size follows from sums of probabilities, which ranks do not have."""
        return self in (Rule.EXPECTED_SIZE, Rule.EXPECTED_F1, Rule.EXPECTED_F1_EXACT)


@dataclass(frozen=True)
class Decoding:
    """A rule and its number: from probabilities[B, K] to the sets of species that are predicted.

    Raises:
        GlczooError: there is no such rule, or the number is none that it takes.
    """

    rule: Rule
    value: float | None = None  # k, a probability, α or a recall; the expected_f1 rules take none
    by_source: Mapping[str, int] | None = None  # the k of surveys of these sources, of others it is `value`
    threshold: float | None = None  # of recall: the probability that keeps its promise, once tuned

    def __post_init__(self) -> None:
        """Refuse what cannot be applied."""
        if self.rule not in list(Rule):
            raise GlczooError(f"there is no decoding rule {self.rule!r}; there are {', '.join(Rule)}")
        object.__setattr__(self, "rule", Rule(self.rule))
        if self.rule is Rule.TOP_K:
            takes, fits = "a whole number of species", _is_size(self.value)
        elif self.rule is Rule.RECALL:
            takes = "a share of the species above 0 and below 1"
            fits = isinstance(self.value, int | float) and 0 < self.value < 1
        elif self.rule.has_number:
            takes, fits = "a positive number", isinstance(self.value, int | float) and self.value > 0
        else:
            takes, fits = "no number", self.value is None
        if not fits:
            raise GlczooError(f"decoding by {self.rule} takes {takes}, got {self.value}")
        sizes = (self.by_source or {}).values()
        if self.by_source and (self.rule is not Rule.TOP_K or not all(map(_is_size, sizes))):
            raise GlczooError(
                f"by_source holds whole numbers of species and goes with top_k, got {self.by_source} with "
                f"{self.rule}"
            )

    def __call__(self, probabilities: Tensor, sources: np.ndarray | None = None) -> Tensor:
        """The predicted sets, bool[B, K].

        Args:
            probabilities: [B, K].
            sources: the data set of every survey, str[B], for a k by source; None: not known.
        """
        if self.value is None:
            return expected_f1(probabilities, exact=self.rule is Rule.EXPECTED_F1_EXACT)
        if self.rule is Rule.THRESHOLD:
            return threshold(probabilities, self.value)
        if self.rule is Rule.EXPECTED_SIZE:
            return expected_size(probabilities, self.value)
        if self.rule is Rule.RECALL:
            if self.threshold is None:
                raise GlczooError("decoding by recall applies a threshold, which tuning samples have to set")
            return threshold(probabilities, self.threshold)
        if not self.by_source or sources is None:
            return top_k(probabilities, int(self.value))
        names, group = np.unique(sources, return_inverse=True)
        k = np.array([self.by_source.get(name, self.value) for name in names.tolist()], np.int64)[group]
        return top_k(probabilities, torch.from_numpy(k).to(probabilities.device))

    def __str__(self) -> str:
        """What tables call it."""
        if self.rule is Rule.TOP_K:
            each = ", ".join(f"{name or 'not named'} {k}" for name, k in (self.by_source or {}).items())
            return f"top {self.value}" + (f" (by source: {each})" if each else "")
        if self.rule is Rule.THRESHOLD:
            return f"threshold {self.value:.3g}"
        if self.rule is Rule.EXPECTED_SIZE:
            return f"{self.value:.3g} × expected size"
        if self.rule is Rule.RECALL:
            return f"recall of {self.value:.3g} or more"
        return "expected F1" if self.rule is Rule.EXPECTED_F1 else "expected F1, exact"

    def to_json(self) -> dict[str, Any]:
        """What config.json keeps; `Decoding(**…)` of it is this one."""
        by_source = {"by_source": dict(self.by_source)} if self.by_source else {}
        threshold = {} if self.threshold is None else {"threshold": self.threshold}
        return {"rule": self.rule.value, "value": self.value, **by_source, **threshold}

    @classmethod
    def mean(cls, decodings: "Sequence[Decoding]") -> "Decoding":
        """The decoding of an ensemble: the members' rule with the mean of their numbers, source by source.

        Where members have different rules it is `expected_f1`, which needs no number of theirs; where they
        promise a recall too, for the threshold of one model promises nothing of another's probabilities.

        `decodings`: of the members.
        """
        rule, values = decodings[0].rule, [float(decoding.value or 0) for decoding in decodings]
        if any(decoding.rule is not rule for decoding in decodings):
            return cls(Rule.EXPECTED_F1)
        if rule is Rule.RECALL:
            return decodings[0] if len(decodings) == 1 else cls(Rule.EXPECTED_F1)
        if not rule.has_number:
            return cls(rule)
        value = sum(values) / len(values)
        if rule is not Rule.TOP_K:
            return cls(rule, value)
        sources = dict.fromkeys(name for decoding in decodings for name in decoding.by_source or {})
        by_source = {
            name: round(sum((d.by_source or {}).get(name, d.value or 0) for d in decodings) / len(values))
            for name in sources
        }
        return cls(rule, round(value), by_source or None)

    def others(self, tuned: Mapping[str, float]) -> "list[Decoding]":
        """This decoding, and every other rule that needs no number or has one among the tuned: to compare."""
        rules = [Decoding(Rule(rule), value) for rule, value in tuned.items()] + [Decoding(Rule.EXPECTED_F1)]
        return [self] + [decoding for decoding in rules if decoding.rule is not self.rule or self.by_source]


def tune(probabilities: Tensor, target: Tensor) -> dict[str, float]:
    """The number of every rule that has one with the highest mean F1 (eq. 3) on tuning samples."""
    return {
        Rule.TOP_K.value: best_k(probabilities, target),
        Rule.THRESHOLD.value: best_threshold(probabilities, target),
        Rule.EXPECTED_SIZE.value: best_alpha(probabilities, target),
    }


def tune_by_source(probabilities: Tensor, target: Tensor, sources: np.ndarray) -> dict[str, int]:
    """The best k of every source of the tuning samples, `sources` str[B]."""
    names, group = np.unique(sources, return_inverse=True)
    best = best_k_by_group(probabilities, target, torch.from_numpy(group), len(names))
    return dict(zip(names.tolist(), best.tolist(), strict=True))


def top_k(probabilities: Tensor, k: int | Tensor) -> Tensor:
    """The `k` most probable species of every survey (Ung et al. 2023: k = 20).

    `k` may differ between surveys, int64[B].
    """
    if isinstance(k, int):
        index = probabilities.topk(min(k, probabilities.shape[1]), dim=1).indices
        return torch.zeros_like(probabilities, dtype=torch.bool).scatter_(1, index, True)
    return _keep(probabilities, k)


def threshold(probabilities: Tensor, t: float, least: int = 1) -> Tensor:
    """The species with probability ≥ `t`."""
    mask = probabilities >= t
    short = (mask.sum(1) < least).nonzero()[:, 0]
    if len(short):
        mask[short] = top_k(probabilities[short], least)
    return mask


def expected_size(probabilities: Tensor, alpha: float, least: int = 1) -> Tensor:
    """The K = round(α Σp) most probable species: α times as many as the probabilities expect.

    `alpha`: α, above 0.
    """
    return _keep(probabilities, (alpha * _total(probabilities)).round().long().clamp_min(least))


def expected_f1(probabilities: Tensor, exact: bool = False, least: int = 1) -> Tensor:
    """For every survey the size k that promises the highest F1 (eq. 3), nothing tuned.

    By default it maximises 2 Σ_top-k p / (k + Σ p), which takes the ratio of expectations for the expectation
    of the ratio. `exact` maximises the expectation itself, E[2 TP / (k + Y)], over all sets, the species
    being independent given the survey: the best set of each size is that of its most probable species (Lewis
    1995; Ye et al. 2012, "Optimizing F-measures: a tale of two approaches"). Both need calibrated
    probabilities: sigmoid outputs after BCE on PA. With `least=0` a set is empty where Π (1 - p), the chance
    that no species is present, is higher still.
    """
    size = best_size_exact if exact else best_size
    return _keep(probabilities, torch.cat([size(p, least) for p in probabilities.split(_ROWS)]))


def best_k(probabilities: Tensor, target: Tensor, largest: int = 100) -> int:
    """The constant k whose top-k sets have the highest mean F1 (eq. 3) on tuning samples.

    `largest`: the highest k that is tried.
    """
    return int(f1_by_k(probabilities, target, largest).mean(0).argmax()) + 1


def f1_by_k(probabilities: Tensor, target: Tensor, largest: int) -> Tensor:
    """F1 (eq. 3) of every survey's top-k set for k = 1 … `largest` (at most K), float32[B, largest]."""
    largest = min(largest, probabilities.shape[1])
    index = probabilities.topk(largest, dim=1).indices
    hits = target.to(torch.float32).gather(1, index).cumsum(1)
    k = torch.arange(1, largest + 1, device=probabilities.device)
    return 2 * hits / (k + target.sum(1, keepdim=True))


def best_k_by_group(probabilities: Tensor, target: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """`best_k` of every group (source) of surveys, int64[num_groups]; of all surveys for a group without any.

    `groups[B]` are numbers below `num_groups`; `top_k(probabilities, k[groups])` applies it.
    """
    best = torch.full([num_groups], best_k(probabilities, target), device=probabilities.device)
    for group in groups.unique().tolist():
        inside = groups == group
        best[group] = best_k(probabilities[inside], target[inside])
    return best


def best_threshold(probabilities: Tensor, target: Tensor, least: int = 1, smallest: float = 1e-3) -> float:
    """The threshold ≥ `smallest` with the highest mean F1 (eq. 3) on these surveys, of all there are.

    It is one of their probabilities, or lies above them all where `least` species are best.
    """
    largest = max(least, int((probabilities >= smallest).sum(1).max()))
    ordered, f1 = _f1_of_sizes(probabilities, target, largest)
    low, _ = _sweep(-ordered, f1, least, -smallest)
    return -low if np.isfinite(low) else max(smallest, 1.001 * float(ordered.max()))


def best_alpha(probabilities: Tensor, target: Tensor, least: int = 1, largest: float = 4.0) -> float:
    """The α ≤ `largest` of `expected_size` with the highest mean F1 (eq. 3) on these surveys, of all α."""
    total = _total(probabilities)
    most = min(probabilities.shape[1], max(least, int(largest * float(total.max())) + 1))
    _, f1 = _f1_of_sizes(probabilities, target, most)
    half_way = torch.arange(most, device=total.device) + 0.5
    low, high = _sweep(half_way / total[:, None], f1, least, largest)
    return (max(low, 0.0) + high) / 2


def recall_threshold(probabilities: Tensor, target: Tensor, recall: float) -> float:
    """The highest threshold whose sets hold, in expectation, the share `recall` of a new survey's species.

    Conformal risk control (Angelopoulos et al. 2022, arXiv 2208.02814, Theorem 1): with the loss 1 - recall,
    bounded by B = 1 and never higher for a lower threshold t, and its mean R(t) over n surveys, of

        t̂ = max { t : n / (n + 1) R(t) + B / (n + 1) ≤ 1 - recall }

    the expected loss on the next survey is at most 1 - `recall`, whatever the model, if all are exchangeable.
    The expectation is over surveys like the tuning samples, and over these: it is no promise for one survey,
    nor for places far from the data. What chose the model by the same samples (its best epoch, calibration)
    makes it approximate.

    Args:
        probabilities: of the tuning samples, [N, K].
        target: their species, [N, K]; a sample without species has all of them in any set.
        recall: in (0, 1).

    Returns:
        The threshold for sets of one species at least; 0, every species, where nothing higher keeps the
        promise: with fewer than 1 / (1 - recall) - 1 samples nothing can.
    """
    target = target.bool()
    number = len(target)
    gain = (1 / target.sum(1).clamp_min(1)).double()
    always = top_k(probabilities, 1) & target
    certain = float((~target.any(1)).sum() + (always.sum(1) * gain).sum())
    rows, columns = (target & ~always).nonzero(as_tuple=True)
    keys, order = probabilities[rows, columns].double().sort(descending=True)
    held = torch.nn.functional.pad(gain[rows][order].cumsum(0), (1, 0)) + certain
    bound = (number * (1 - held / number) + 1) / (number + 1)
    kept = (bound <= 1 - recall).nonzero()[:, 0]
    if not len(kept):
        return 0.0
    first = int(kept[0])
    # Where the most probable species alone keep it, a threshold above all probabilities.
    return float(keys[first - 1]) if first else 1.001 * float(probabilities.max())


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and value >= 1


def _keep(probabilities: Tensor, sizes: Tensor) -> Tensor:
    """The sizes[B] most probable species of every survey."""
    mask = torch.zeros_like(probabilities, dtype=torch.bool)
    for p, size, out in zip(*(x.split(_ROWS) for x in (probabilities, sizes, mask)), strict=True):
        index = p.topk(min(int(size.max()), p.shape[1]), dim=1).indices
        out.scatter_(1, index, torch.arange(index.shape[1], device=p.device) < size[:, None])
    return mask


def _total(probabilities: Tensor) -> Tensor:
    """Σp of every survey, float64[B]: what decides a rounding must not depend on the order of a sum."""
    return probabilities.sum(1, dtype=torch.float64)


def _f1_of_sizes(probabilities: Tensor, target: Tensor, largest: int) -> tuple[Tensor, Tensor]:
    """The highest p of every survey, [B, L], and the F1 of its 0 to L most probable species, [B, L + 1]."""
    ordered, index = probabilities.topk(largest, dim=1)
    hits = torch.nn.functional.pad(target.bool().gather(1, index).cumsum(1), (1, 0))
    both = torch.arange(largest + 1, device=hits.device) + target.bool().sum(1, keepdim=True)
    return ordered.double(), torch.where(both > 0, 2 * hits.double() / both.clamp_min(1), 1.0)


def _sweep(passed: Tensor, f1: Tensor, least: int, end: float) -> tuple[float, float]:
    """The stretch of a parameter x ≤ end, [low, high), on which the mean F1 is highest.

    A survey holds its r most probable species once x ≥ passed[:, r - 1], and never fewer than `least`. `low`
    is -inf where no survey should hold more.
    """
    keys, gains = passed[:, least:].flatten(), f1.diff(dim=1)[:, least:].flatten()
    keys, gains = keys[keys <= end], gains[keys <= end]
    keys, order = keys.sort()
    total = torch.nn.functional.pad(gains[order].cumsum(0), (1, 0))
    between = torch.nn.functional.pad(keys[1:] != keys[:-1], (1, 1), value=True)[: len(total)]
    best = int(torch.where(between, total, -torch.inf).argmax())
    return (
        float(keys[best - 1]) if best > 0 else -np.inf,
        float(keys[best]) if best < len(keys) else end,
    )
