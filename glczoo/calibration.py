"""Probabilities that mean what they say: scaling of logits, fitted on tuning samples.

logits[N, K] and target[N, K] of tuning samples, never of those that a result is reported on. The likelihood
is maximised by L-BFGS from the identity: deterministic, nothing to tune. A prior as weak as a survey or two,
log scale and bias ~ Normal(0, 1), keeps species without presences and separable data finite.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from glczoo.errors import GlczooError

__all__ = ["fit_temperature", "fit_vector", "logistic_bias", "rescale"]


def fit_temperature(
    logits: Tensor, target: Tensor, activation: Literal["sigmoid", "softmax"] = "sigmoid"
) -> float:
    """The temperature T by which all logits are divided (Guo et al. 2017, section 4.2); above 1: too sure.

    Raises:
        GlczooError: shapes differ, there are no samples, or a logit is not finite.
    """
    scale, _ = _fit(logits, target, activation, with_bias=False)
    return 1 / float(scale)


def fit_vector(
    logits: Tensor, target: Tensor, activation: Literal["sigmoid", "softmax"] = "sigmoid"
) -> tuple[Tensor, Tensor]:
    """Scale and bias of every species, float32[K] each (vector scaling, Guo et al. 2017; Platt 1999).

    With sigmoids every species is for itself, so that its expected presences come to equal the observed.

    Raises:
        GlczooError: as `fit_temperature`.
    """
    scale, bias = _fit(logits, target, activation, with_bias=True)
    return scale.float(), bias.float()


def logistic_bias(logits: Tensor) -> Tensor:
    """What to add to logits[N, K] that rank N sites for each species, so that a sigmoid is MaxEnt's output.

    A softmax over sites leaves the level of a species open. With q = softmax over the sites and its entropy
    H, the logistic output of MaxEnt is sigmoid(log q + H) (Phillips and Dudík 2008, doi:10.1111/j.0906-7590.
    2008.5203.x, prevalence one half at a typical site of presence): sigmoid(logit - Σ q logit). It is
    a suitability from 0 to 1 that compares species, no probability of presence.

    Returns:
        The bias, [K], in the type of the logits.
    """
    exact = logits.double()
    return -(exact.softmax(0) * exact).sum(0).to(logits)


def rescale(logits: Tensor, scale: Tensor | float, bias: Tensor | float = 0.0) -> Tensor:
    """Calibrated logits: `scale` × logits + `bias`. Of a temperature T the scale is 1 / T."""
    return logits * scale + bias


def _fit(logits: Tensor, target: Tensor, activation: str, with_bias: bool) -> tuple[Tensor, Tensor]:
    """Scale and bias of every species, [K] each, or one scale of all, [1], and no bias."""
    if logits.shape != target.shape or not len(logits):
        raise GlczooError(
            f"calibration needs logits and targets [N, K] of the same samples, got {tuple(logits.shape)} and "
            f"{tuple(target.shape)}"
        )
    if not logits.isfinite().all():
        raise GlczooError("calibration needs finite logits; those of probabilities 0 and 1 are not")
    x, y = logits.detach().double(), target.to(logits.device).double()
    parameters = x.new_zeros(2, x.shape[1] if with_bias else 1, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [parameters], max_iter=500, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        scaled = rescale(x, parameters[0].exp(), parameters[1] * with_bias)
        if activation == "softmax":
            misfit = -(y * scaled.log_softmax(1)).sum()
        else:
            misfit = F.binary_cross_entropy_with_logits(scaled, y, reduction="sum")
        total = misfit + parameters.square().sum() / 2
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    scale, bias = parameters.detach()
    return scale.exp(), bias
