"""Scores as ranks: where a score lies among those that its model gives the places of the records.

Models that were fitted in different ways answer on different scales; their ranks can be averaged. A rank of
.9 says that a place scores higher than nine tenths of the places where somebody recorded something. It orders
places by suitability, species by species, and is no probability of presence.
"""

import torch
from torch import Tensor

__all__ = ["LEVELS", "interpolate", "mid_ranks", "place_scores", "reference_scores"]

LEVELS = torch.linspace(0.005, 0.995, 199)
"""Of the quantiles that describe how a model's scores are distributed."""

_TAIL = 30.0  # widths beyond the last quantile: further out float32 knows no difference


def interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear functions, one a column; constant beyond the first and the last knot.

    Args:
        x: where, [B, K].
        knots: ascending, [Q, K]; equal ones are a step.
        values: at the knots, the same for all columns, [Q].
    """
    columns, points = knots.t().contiguous(), x.t().contiguous()
    left = (torch.searchsorted(columns, points, right=True) - 1).clamp(0, len(values) - 2)
    low, high = columns.gather(1, left), columns.gather(1, left + 1)
    width = high - low
    share = torch.where(width > 0, (points - low) / torch.where(width > 0, width, 1), (points >= high).to(x))
    share = share.clamp(0, 1)
    return (values[left] + share * (values[left + 1] - values[left])).t()


def reference_scores(scores: Tensor, group: Tensor) -> Tensor:
    """Quantiles of scores[N, K] over the places of a species' target group, bool[N, K]: float32[199, K]."""
    levels = LEVELS.to(scores)
    columns = [scores[group[:, k], k].quantile(levels) for k in range(scores.shape[1])]
    return torch.stack(columns, 1)


def place_scores(scores: Tensor, reference: Tensor) -> Tensor:
    """Ranks in (0, 1) of scores[B, K] among reference[199, K] (see `reference_scores`).

    Between quantiles linear; beyond the outermost an exponential tail, so that no order is lost.
    """
    first, last = reference[0], reference[-1]
    width = ((last - first) / 4).clamp_min(1e-9)
    levels = LEVELS.to(scores)
    edge = levels[0]
    above = 1 - edge * torch.exp(-((scores - last) / width).clamp(0, _TAIL))
    below = edge * torch.exp(-((first - scores) / width).clamp(0, _TAIL))
    inside = interpolate(scores, reference, levels)
    return torch.where(scores > last, above, torch.where(scores < first, below, inside))


def mid_ranks(scores: Tensor) -> Tensor:
    """Rank of every score within its column, from 0 to 1: [N, K]; equal scores share the middle of theirs."""
    columns = scores.t().contiguous()
    ordered = columns.sort(1).values
    below = torch.searchsorted(ordered, columns)
    upto = torch.searchsorted(ordered, columns, right=True)
    return ((below + upto) / (2 * len(scores))).t().contiguous()
