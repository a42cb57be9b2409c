"""From probabilities[B, K] to sets of species: mask[B, K], true where a species is answered.

Five rules: `top_k` (one size for all, or one for each source of surveys), `threshold` (one probability),
`expected_size` (as many species as expected), `expected_f1` (the size that promises most) and
`expected_f1_exact` (the same without the approximation). Their parameters are chosen by `best_…` on surveys
that may choose, never on those the result is reported on. Every rule answers the most probable species, at
least `least` of them; `least=0` allows the empty answer, for surveys that may be empty. A run keeps its rule
and number as a `Decoding`, which everything that answers applies. Long because each rule stands beside what
tunes it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "RULES",
    "Decoding",
    "best_alpha",
    "best_k",
    "best_k_by_group",
    "best_threshold",
    "expected_f1",
    "expected_size",
    "f1_by_k",
    "threshold",
    "top_k",
    "tune",
    "tune_by_source",
]

RULES = ("top_k", "threshold", "expected_size", "expected_f1", "expected_f1_exact")


@dataclass(frozen=True)
class Decoding:
    """A rule and its number: from probabilities[B, K] to the sets of species that are answered.

    Raises:
        ValueError: there is no such rule, or the number is none that it takes.
    """

    rule: str
    value: float | None = None  # k, t or α; the expected_f1 rules take none
    by_source: Mapping[str, int] | None = None  # the k of surveys of these sources, of others it is `value`

    def __post_init__(self) -> None:
        """Refuse what cannot be applied."""
        fits = {
            "top_k": lambda k: isinstance(k, int) and k >= 1,
            "threshold": lambda t: isinstance(t, int | float) and 0 < t,
            "expected_size": lambda alpha: isinstance(alpha, int | float) and 0 < alpha,
            "expected_f1": lambda nothing: nothing is None,
            "expected_f1_exact": lambda nothing: nothing is None,
        }
        if self.rule not in fits:
            raise ValueError(f"there is no decoding rule {self.rule!r}; there are {', '.join(RULES)}")
        if not fits[self.rule](self.value):
            wants = {"top_k": "a whole number of species"} | dict.fromkeys(RULES[3:], "no number")
            raise ValueError(
                f"decoding by {self.rule} takes {wants.get(self.rule, 'a positive number')}, got {self.value}"
            )
        odd = {name: k for name, k in (self.by_source or {}).items() if not (isinstance(k, int) and k >= 1)}
        if odd or (self.by_source and self.rule != "top_k"):
            raise ValueError(
                f"by_source holds whole numbers of species and goes with top_k, got {self.by_source} with "
                f"{self.rule}"
            )

    def __call__(self, probabilities: Tensor, sources: np.ndarray | None = None) -> Tensor:
        """The answered sets, bool[B, K].

        Args:
            probabilities: [B, K].
            sources: the data set of every survey, str[B], for a k by source; None: not known.
        """
        if self.value is None:
            return expected_f1(probabilities, exact=self.rule == "expected_f1_exact")
        if self.rule == "top_k" and self.by_source and sources is not None:
            names, group = np.unique(sources, return_inverse=True)
            k = np.array([self.by_source.get(name, self.value) for name in names.tolist()], np.int64)[group]
            return top_k(probabilities, torch.from_numpy(k).to(probabilities.device))
        if self.rule == "top_k":
            return top_k(probabilities, int(self.value))
        rule = threshold if self.rule == "threshold" else expected_size
        return rule(probabilities, self.value)

    def __str__(self) -> str:
        """What tables call it."""
        if self.value is None:
            return "expected F1" if self.rule == "expected_f1" else "expected F1, exact"
        if self.rule == "top_k":
            each = ", ".join(f"{name or 'not named'} {k}" for name, k in (self.by_source or {}).items())
            return f"top {self.value}" + (f" (by source: {each})" if each else "")
        return (
            f"threshold {self.value:.3g}" if self.rule == "threshold" else f"{self.value:.3g} × expected size"
        )

    def told(self) -> dict[str, Any]:
        """What config.json keeps, and `Decoding(**told)` reads."""
        by_source = {"by_source": dict(self.by_source)} if self.by_source else {}
        return {"rule": self.rule, "value": self.value, **by_source}

    @classmethod
    def mean(cls, decodings: "Sequence[Decoding]") -> "Decoding":
        """The decoding of an ensemble: the members' rule with the mean of their numbers, source by source.

        Where members have different rules it is `expected_f1`, which needs no number of theirs.
        """
        rule, values = decodings[0].rule, [float(decoding.value or 0) for decoding in decodings]
        if any(decoding.rule != rule for decoding in decodings):
            return cls("expected_f1")
        if decodings[0].value is None:
            return cls(rule)
        value = sum(values) / len(values)
        if rule != "top_k":
            return cls(rule, value)
        sources = dict.fromkeys(name for decoding in decodings for name in decoding.by_source or {})
        by_source = {
            name: round(sum((d.by_source or {}).get(name, d.value or 0) for d in decodings) / len(values))
            for name in sources
        }
        return cls(rule, round(value), by_source or None)

    def others(self, tuned: Mapping[str, float]) -> "list[Decoding]":
        """This decoding, and every other rule that needs no number or has one among the tuned: to compare."""
        found = [Decoding(rule, value) for rule, value in tuned.items()] + [Decoding("expected_f1")]
        return [self] + [decoding for decoding in found if decoding.rule != self.rule or self.by_source]


def tune(probabilities: Tensor, target: Tensor) -> dict[str, float]:
    """The best number of every rule that has one, on surveys that may choose."""
    return {
        "top_k": best_k(probabilities, target),
        "threshold": best_threshold(probabilities, target),
        "expected_size": best_alpha(probabilities, target),
    }


def tune_by_source(probabilities: Tensor, target: Tensor, sources: np.ndarray) -> dict[str, int]:
    """The best k of every source of surveys, str[B], that may choose."""
    names, group = np.unique(sources, return_inverse=True)
    best = best_k_by_group(probabilities, target, torch.from_numpy(group), len(names))
    return dict(zip(names.tolist(), best.tolist(), strict=True))


def top_k(probabilities: Tensor, k: int | Tensor) -> Tensor:
    """The `k` most probable species of every survey (Ung et al. 2023: k = 20).

    `k` may differ between surveys, int64[B]: `k_of_source[source]` answers each source by its own.
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
    """The K = round(α Σp) most probable species: α times as many as the probabilities expect."""
    return _keep(probabilities, (alpha * _total(probabilities)).round().long().clamp_min(least))


def expected_f1(probabilities: Tensor, exact: bool = False, least: int = 1) -> Tensor:
    """For every survey the size k that promises the highest F1 (eq. 3), nothing tuned.

    By default it maximises 2 Σ_top-k p / (k + Σ p), which takes the ratio of expectations for the expectation
    of the ratio. `exact` maximises the expectation itself, E[2 TP / (k + Y)], over all sets, the species
    being independent given the survey: the best set of each size is that of its most probable species (Lewis
    1995; Ye et al. 2012, "Optimizing F-measures: a tale of two approaches"). Both need calibrated
    probabilities: sigmoid outputs after BCE on PA. With `least=0` an answer is empty where Π (1 - p), the
    chance that there is nothing to find, is higher still.
    """
    size = _best_size_exact if exact else _best_size
    return _keep(probabilities, torch.cat([size(p, least) for p in probabilities.split(_ROWS)]))


def best_k(probabilities: Tensor, target: Tensor, largest: int = 100) -> int:
    """The constant k whose top-k sets have the highest mean F1 (eq. 3) on these surveys.

    Call it on surveys that may choose: never on those the result is reported on.
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

    `groups[B]` are numbers below `num_groups`. Answer with `top_k(probabilities, k[groups])`.
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


_ROWS = 1024  # surveys decoded at a time: 41 MB of probabilities of 10,039 species
_CELLS = 1 << 21  # numbers that a working array of the exact rule may hold: 17 MB
_SMALL = 0.1  # up to here ten terms of the logarithm's series leave an error below 1e-12 × p


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


def _best_size(p: Tensor, least: int) -> Tensor:
    """argmax_k 2 Σ_top-k p / (k + Σ p), int64[B].

    The gain rises while the next p exceeds half of it and falls ever after: a maximum before the last k
    that was looked at is the maximum of all.
    """
    total = p.sum(1, keepdim=True)
    sizes = torch.zeros(len(p), dtype=torch.int64, device=p.device)
    rows, width = torch.arange(len(p), device=p.device), 64
    while len(rows):
        ordered = p[rows].topk(min(width, p.shape[1]), dim=1).values
        k = torch.arange(1, ordered.shape[1] + 1, device=p.device)
        gain, best = (2 * ordered.cumsum(1) / (k + total[rows])).max(1)
        sizes[rows] = (best + 1).clamp_min(least)
        if least == 0:
            sizes[rows[gain < (-p[rows]).log1p().sum(1).exp()]] = 0
        rows = rows[best + 1 == ordered.shape[1]] if width < p.shape[1] else rows[:0]
        width *= 4
    return sizes


def _best_size_exact(p: Tensor, least: int) -> Tensor:
    """argmax_k E[2 TP_k / (k + Y)], int64[B], by E[1 / (c + Y)] = ∫₀¹ t^(c-1) E[t^Y] dt.

    (Chao and Strawderman 1972.) With G(t) = Π_j (1 - p_j (1 - t)) and species in falling order of p,

        E[2 TP_k / (k + Y)] = 2 ∫₀¹ t^k G(t) Σ_{i ≤ k} p_i / (1 - p_i (1 - t)) dt,

    a polynomial, on which Gauss-Legendre nodes are exact; as t^k G(t) falls like exp(-(k + Σp)(1 - t)), far
    fewer nodes than half its degree reach 1e-12. Species beyond the `width` most probable enter G by the
    series of its logarithm. No larger set can be better once 2m / (k + m), m = Σ_top-k p, which bounds the
    value (Jensen) and falls with k, is below the best found.
    """
    p = p.double()
    num_classes, device = p.shape[1], p.device
    powers = _power_sums(p)
    sizes = torch.zeros(len(p), dtype=torch.int64, device=device)
    rows, width = torch.arange(len(p), device=device), 64
    while len(rows):
        width = min(max(width, least), num_classes)
        ordered = p[rows].topk(width, dim=1).values
        degree = width + float(powers[rows, 0].max())
        nodes = int(min((num_classes + width) / 2 + 1, (7 * degree) ** 0.5 + 8))
        ready, size = [], []
        chunk = max(1, _CELLS // (nodes * width))
        for part, top in zip(rows.split(chunk), ordered.split(chunk), strict=True):
            value, none = _promised(top, powers[part], nodes)
            value[:, : max(0, least - 1)] = -torch.inf
            best, k = value.max(1)
            mean = top.sum(1) + top[:, -1]
            proven = (top[:, -1] <= _SMALL) & (best >= 2 * mean / (width + 1 + mean))
            ready.append(proven)
            size.append(torch.where((none > best) & (least == 0), 0, k + 1))
        sizes[rows] = torch.cat(size)
        rows = rows[~torch.cat(ready)] if width < num_classes else rows[:0]
        width *= 2
    return sizes


def _promised(top: Tensor, powers: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """E[2 TP_k / (k + Y)] for k = 1 to W, float64[B, W], and P(Y = 0), float64[B].

    top[B, W]: the highest p, falling · powers[B, 10]: Σ p^j over all species.
    """
    place, weight = (torch.from_numpy(x).to(top) / 2 for x in np.polynomial.legendre.leggauss(nodes))
    t = place + 0.5
    j = torch.arange(1, 11, device=top.device)
    tail = (powers - _power_sums(top)).clamp_min(0) / j

    def log_none(u: Tensor) -> Tensor:  # log G(1 - u), [B, nodes]
        return (-top[:, None] * u[:, None]).log1p().sum(2) - tail @ u.pow(j[:, None])

    ratio = (top[:, None] / (1 - top[:, None] * (1 - t)[:, None])).cumsum(2)
    k = torch.arange(1, top.shape[1] + 1, device=top.device)
    value = torch.einsum("bn,nk,bnk->bk", log_none(1 - t).exp() * weight, t[:, None].pow(k), ratio)
    return 2 * value, log_none(t.new_ones(1))[:, 0].exp()


def _power_sums(p: Tensor) -> Tensor:
    """Σ p^j for j = 1 to 10, [B, 10]."""
    power, sums = torch.ones_like(p), []
    for _ in range(10):
        sums.append(power.mul_(p).sum(1))
    return torch.stack(sums, dim=1)


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
