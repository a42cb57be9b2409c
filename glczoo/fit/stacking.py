"""Stacking: non-negative weights that sum to one, by the log loss of out-of-fold probabilities.

Wolpert 1992, "Stacked generalization", doi:10.1016/S0893-6080(05)80023-1; weights on the simplex as in Yao et
al. 2018, "Using stacking to average Bayesian predictive distributions", doi:10.1214/17-BA1091.

Shapes: probabilities[M, N, K] of M candidates · target[N, K] in 0/1 · likelihood[M, N × K] · weights[M].
"""

from collections.abc import Sequence

import numpy as np
import torch

from glczoo.metrics import bootstrap

__all__ = ["likelihood", "log_loss_each", "simplex_weights", "stack", "worth_it"]

_EDGE = 1e-5  # probabilities nearer to 0 and 1 count as that near


def likelihood(probabilities: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The probability that each candidate gave to what is true, float64[M, N × K]."""
    p = np.clip(probabilities.astype(np.float64), _EDGE, 1 - _EDGE)
    return np.where(target > 0.5, p, 1 - p).reshape(len(p), -1)


def log_loss_each(probabilities: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The log loss of each survey, the mean over species: float64[N] of probabilities[N, K]."""
    each: np.ndarray = -np.log(likelihood(probabilities[None], target)[0]).reshape(target.shape).mean(1)
    return each


def simplex_weights(truth: np.ndarray, gap: float = 1e-6, iterations: int = 1000) -> np.ndarray:
    """The weights of the mean with the lowest log loss, float64[M], from likelihood[M, n].

    Expectation-maximisation of a mixture of fixed components (Dempster, Laird & Rubin 1977): the problem is
    convex, every step lowers the loss, and none has a size to choose. It ends when the Karush-Kuhn-Tucker gap
    max_m E[q_m / mixture] - 1, which bounds the loss that is left to gain, is below `gap`.

    `truth`: of each model M the likelihood of each observation n.
    """
    weights = np.full(len(truth), 1 / len(truth))
    for _ in range(iterations):
        ratio = (truth / (weights @ truth)).mean(1)
        if ratio.max() - 1 < gap:
            break
        weights = weights * ratio
    weights /= weights.sum()
    return weights


def stack(probabilities: np.ndarray, target: np.ndarray, least: float) -> np.ndarray:
    """Weights of the candidates, float64[M]; those below `least` are dropped and the others found anew."""
    return _stack(likelihood(probabilities, target), np.arange(len(probabilities)), least)


def _stack(truth: np.ndarray, kept: np.ndarray, least: float) -> np.ndarray:
    """Weights of the candidates at `kept`; others have none."""
    weights = np.zeros(len(truth))
    weights[kept] = simplex_weights(truth[kept])
    while len(weak := np.flatnonzero((weights > 0) & (weights < least))):
        kept = np.setdiff1d(np.flatnonzero(weights), weak)
        weights = np.zeros(len(truth))
        weights[kept] = simplex_weights(truth[kept])
    return weights


def worth_it(
    probabilities: np.ndarray, target: np.ndarray, block: np.ndarray, costly: Sequence[int], least: float
) -> tuple[np.ndarray, dict[int, tuple[float, float, float]]]:
    """Weights where costly candidates must lower the log loss beyond chance.

    Beginning with the last, each is left out, and stays out unless the others alone are worse by more than
    resampling the blocks explains (the lower end of 95 % is above 0).

    Args:
        probabilities: out of fold, [M, N, K].
        target: [N, K].
        block: of neighbours, int64[N].
        costly: positions of the candidates, the costliest last.
        least: see `stack`.

    Returns:
        Weights float64[M]; and by how much each costly candidate with some lowers the log loss: the mean, and
        95 % by resampling blocks.
    """
    truth = likelihood(probabilities, target)
    kept, gains = np.arange(len(truth)), {}
    weights = _stack(truth, kept, least)
    for number in reversed(costly):
        if not weights[number] or len(kept) == 1:
            continue
        others = _stack(truth, np.setdiff1d(kept, [number]), least)
        each = np.log(weights @ truth) - np.log(others @ truth)
        differences = torch.from_numpy(each.reshape(target.shape).mean(1))
        low, high = bootstrap(differences, torch.from_numpy(block))
        gains[number] = float(differences.mean()), low, high
        if low <= 0:
            kept = np.setdiff1d(kept, [number])
            weights = others
    return weights, gains
