"""How many species promise the highest F1: the size of a set from the probabilities p[B, K] alone.

With Y species present, of which TP_k are among the k most probable, a set of k has F1 = 2 TP_k / (k + Y)
(Ung et al. 2023, eq. 3). `best_size` maximises a surrogate of its expectation, `best_size_exact` the
expectation itself.
"""

import numpy as np
import torch
from torch import Tensor

__all__ = ["best_size", "best_size_exact", "expected_values", "power_sums"]

_CELLS = 1 << 21  # numbers that a working array of the exact rule may hold: 17 MB
_SMALL = 0.1  # up to here ten terms of the logarithm's series leave an error below 1e-12 × p


def best_size(p: Tensor, least: int) -> Tensor:
    """argmax_k 2 Σ_top-k p / (k + Σ p), int64[B], of probabilities p[B, K]; 0 only where `least` is 0.

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


def best_size_exact(p: Tensor, least: int) -> Tensor:
    """argmax_k E[2 TP_k / (k + Y)], int64[B], of p[B, K]: by E[1 / (c + Y)] = ∫₀¹ t^(c-1) E[t^Y] dt.

    (Chao and Strawderman 1972.) With G(t) = Π_j (1 - p_j (1 - t)) and species in falling order of p,

        E[2 TP_k / (k + Y)] = 2 ∫₀¹ t^k G(t) Σ_{i ≤ k} p_i / (1 - p_i (1 - t)) dt,

    a polynomial, on which Gauss-Legendre nodes are exact; as t^k G(t) falls like exp(-(k + Σp)(1 - t)), far
    fewer nodes than half its degree reach 1e-12. Species beyond the `width` most probable enter G by the
    series of its logarithm. No larger set can be better once 2m / (k + m), m = Σ_top-k p, which bounds the
    value (Jensen) and falls with k, is below the best found.

    `least`: fewest species of a set.
    """
    p = p.double()
    num_classes, device = p.shape[1], p.device
    powers = power_sums(p)
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
            value, none = expected_values(top, powers[part], nodes)
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


def expected_values(top: Tensor, powers: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """E[2 TP_k / (k + Y)] for k = 1 to W, float64[B, W], and P(Y = 0), float64[B].

    top[B, W]: the highest p, falling · powers[B, 10]: Σ p^j over all species.

    `nodes`: of the Gauss-Legendre rule.
    """
    place, weight = (torch.from_numpy(x).to(top) / 2 for x in np.polynomial.legendre.leggauss(nodes))
    t = place + 0.5
    j = torch.arange(1, 11, device=top.device)
    tail = (powers - power_sums(top)).clamp_min(0) / j

    def log_none(u: Tensor) -> Tensor:  # log G(1 - u), [B, nodes]
        return (-top[:, None] * u[:, None]).log1p().sum(2) - tail @ u.pow(j[:, None])

    ratio = (top[:, None] / (1 - top[:, None] * (1 - t)[:, None])).cumsum(2)
    k = torch.arange(1, top.shape[1] + 1, device=top.device)
    value = torch.einsum("bn,nk,bnk->bk", log_none(1 - t).exp() * weight, t[:, None].pow(k), ratio)
    return 2 * value, log_none(t.new_ones(1))[:, 0].exp()


def power_sums(p: Tensor) -> Tensor:
    """Σ p^j for j = 1 to 10, [B, 10]."""
    power, sums = torch.ones_like(p), []
    for _ in range(10):
        sums.append(power.mul_(p).sum(1))
    return torch.stack(sums, dim=1)
