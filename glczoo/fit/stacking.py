"""Stacking: non-negative weights that sum to one, by the log loss of out-of-fold probabilities.

Wolpert 1992, "Stacked generalization", doi:10.1016/S0893-6080(05)80023-1; weights on the simplex as in Yao et
al. 2018, "Using stacking to average Bayesian predictive distributions", doi:10.1214/17-BA1091.

Shapes: probabilities[M, N, K] of M candidates · target[N, K] in 0/1 · likelihood[M, N × K] · weights[M].
"""

import numpy as np

__all__ = ["likelihood", "log_loss_each", "simplex_weights", "stack"]

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
    truth = likelihood(probabilities, target)
    weights = simplex_weights(truth)
    while len(weak := np.flatnonzero((weights > 0) & (weights < least))):
        kept = np.setdiff1d(np.flatnonzero(weights), weak)
        weights = np.zeros(len(truth))
        weights[kept] = simplex_weights(truth[kept])
    return weights
