"""The weights of a log-linear model: a softmax over sites for every species, with a ridge."""

import torch
from torch import Tensor

__all__ = ["fit_loglinear"]


def fit_loglinear(
    features: Tensor,
    presence: Tensor,
    group: Tensor,
    ridge: float,
    start: Tensor | None = None,
    iterations: int = 50,
) -> Tensor:
    """Weights[K, F] of every species' softmax over the sites of its target group.

    Minimises Σ_k [n_k log Σ_s exp(w_k · f_s) - Σ_(sites with k) w_k · f_s] + ridge / 2 Σ w², which is convex,
    by L-BFGS.

    Args:
        features: of the sites, float32[N, F].
        presence: 1 where a species was recorded, float32[N, K].
        group: sites of a species' target group, among which it chooses, bool[N, K].
        ridge: inverse variance of a weight a priori.
        start: weights[K, F] to begin with; None: zeros.
        iterations: at most.
    """
    outside = torch.where(group, 0.0, -1e9)
    number = presence.sum(0)
    target = features.t() @ presence
    weights = torch.zeros_like(target) if start is None else start.t().clone()
    weights.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weights],
        max_iter=iterations,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-4,
        tolerance_change=1e-7,
    )

    def closure() -> float:
        optimizer.zero_grad()
        partition = (number * torch.logsumexp(features @ weights + outside, 0)).sum()
        loss = (partition - (target * weights).sum() + ridge / 2 * weights.square().sum()) / number.sum()
        loss.backward()
        return float(loss.detach())

    optimizer.step(closure)
    return weights.detach().t()
