"""How good predicted sets and probabilities are: pure functions of tensors.

predicted[N, K] bool: the answered sets · target[N, K]: 1 where a species was found · scores[N, K].
"""

import torch
from torch import Tensor

__all__ = ["macro_auc", "macro_f1", "sample_f1", "set_summary", "size_error", "summary"]


def sample_f1(predicted: Tensor, target: Tensor) -> Tensor:
    """F1 of every survey (Ung et al. 2023, eq. 3), float[N]; its mean is the competition's "micro F1".

    TP / (TP + (FP + FN) / 2), which scikit-learn calls `average="samples"`. An empty answer to an empty
    survey counts as right (1).
    """
    target = target.bool()
    hits = (predicted & target).sum(1)
    both = predicted.sum(1) + target.sum(1)
    return torch.where(both > 0, 2 * hits / both.clamp_min(1), 1.0)


def macro_f1(predicted: Tensor, target: Tensor) -> float:
    """Mean over species of the F1 over surveys; species neither found nor answered are left out.

    Raises:
        ValueError: no species is found or answered at all.
    """
    target = target.bool()
    hits = (predicted & target).sum(0)
    both = predicted.sum(0) + target.sum(0)
    if not (both > 0).any():
        raise ValueError("macro F1 is undefined: no species is found or answered in any survey")
    return float((2 * hits / both)[both > 0].mean())


def macro_auc(scores: Tensor, target: Tensor, min_presences: int = 5) -> tuple[float, int]:
    """Mean over species of the area under the ROC curve, and the number of species it is over.

    Only species with at least `min_presences` presences and one absence: the AUC of fewer is noise. Ties
    count one half (mid-ranks, Mann and Whitney 1947). (nan, 0) where no species qualifies.
    """
    target = target.bool()
    number = target.sum(0)
    kept = (number >= min_presences) & (number < len(target))
    if not kept.any():
        return float("nan"), 0
    scores, target, number = scores[:, kept], target[:, kept], number[kept].double()
    ranks = _mid_ranks(scores)
    above = (ranks * target).sum(0) - number * (number + 1) / 2
    auc = above / (number * (len(target) - number))
    return float(auc.mean()), int(kept.sum())


def size_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Answered minus found species of every survey: positive means too many. int64[N]."""
    return predicted.sum(1) - target.bool().sum(1)


def summary(predicted: Tensor, scores: Tensor, target: Tensor) -> dict[str, float]:
    """All of the above for one table row: f1, f1_macro, auc, auc_species, size, size_bias, size_error."""
    auc, species = macro_auc(scores, target)
    return {**set_summary(predicted, target), "auc": auc, "auc_species": species}


def set_summary(predicted: Tensor, target: Tensor) -> dict[str, float]:
    """What `summary` holds of the answered sets alone, without the scores behind them."""
    error = size_error(predicted, target).double()
    return {
        "f1": float(sample_f1(predicted, target).mean()),
        "f1_macro": macro_f1(predicted, target),
        "size": float(predicted.sum(1).double().mean()),
        "size_bias": float(error.mean()),
        "size_error": float(error.abs().mean()),
    }


def _mid_ranks(scores: Tensor) -> Tensor:
    """Ranks from 1 in every column, ties sharing their mean. float64[N, K]."""
    columns = scores.double().t().contiguous()
    ordered = columns.sort(dim=1).values
    below = torch.searchsorted(ordered, columns, side="left")
    upto = torch.searchsorted(ordered, columns, side="right")
    return ((below + upto + 1).double() / 2).t()
