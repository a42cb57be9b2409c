"""Losses that need more than logits and targets: a set size, background places, memories of labels, views."""

import torch
from torch import Tensor

from glczoo.errors import GlczooError
from glczoo.losses.observed import an
from glczoo.losses.tables import dense, entropy, loss, negative_log, require, stable

__all__ = ["em_apl", "epr", "full_weighted", "plc", "role", "sinr_full"]

_SIZE = "the mean number of species of a survey"
_BACKGROUND = "logits at random places, [M, K]"


@loss(needs={"k": _SIZE})
def epr(logits: Tensor, target: Tensor, *, k: float | None = None, eps: float = 0.0) -> Tensor:
    """Expected positive regularisation (Cole et al. 2021): mean z nl(p) + (mean_b Σp - k)² / K².

    Args:
        logits: [B, K].
        target: [B, K] or class[B].
        k: mean number of species of a survey (13.45 on GeoLifeCLEF 2023).
        eps: inside the logarithm.

    Raises:
        GlczooError: no `k`.
    """
    (k,) = require("epr", k=k)
    present, _ = negative_log(logits, eps)
    return (dense(target, present) * present).mean() + _size_penalty(logits, k)


@loss(needs={"estimates": "logits of the estimated labels of these samples, [B, K]", "k": _SIZE})
def role(
    logits: Tensor,
    target: Tensor,
    *,
    estimates: Tensor | None = None,
    k: float | None = None,
    eps: float = 0.0,
) -> Tensor:
    """Regularised online label estimation (Cole et al. 2021), with ŷ = sigmoid(estimates).

    Half of: mean z nl(p) + mean z nl(ŷ) + BCE(p, ŷ as target) + BCE(ŷ, p as target) + R_k(p) + R_k(ŷ), where
    R_k is the penalty of `epr` and no gradient flows into what serves as a target.

    Args:
        logits: [B, K].
        target: [B, K] or class[B].
        estimates: logits of the labels' estimates, [B, K], learnt beside the model at ten times its rate
            (`glczoo.training.label_memory.LabelEstimates`).
        k: mean number of species of a survey.
        eps: inside the logarithms.

    Raises:
        GlczooError: no `estimates` or no `k`.
    """
    estimates, k = require("role", estimates=estimates, k=k)
    total = logits.new_zeros((), dtype=torch.float32)
    for mine, other in ((logits, estimates), (estimates, logits)):
        present, absent = negative_log(mine, eps)
        cross = torch.lerp(absent, present, other.detach().to(absent).sigmoid())
        total = total + (dense(target, present) * present + cross).mean() + _size_penalty(mine, k)
    return total / 2


@loss(needs={"pseudo": "soft labels of the pseudo-negatives of these samples, [B, K]"})
def em_apl(
    logits: Tensor,
    target: Tensor,
    *,
    pseudo: Tensor | None = None,
    alpha: float = 0.1,
    beta: float = 0.2,
    eps: float = 0.0,
) -> Tensor:
    """Entropy maximisation with asymmetric pseudo-labels (Zhou et al. 2022).

    As `em`, but β [s nl(p) + (1 - s) nl(1 - p)] for pseudo-negatives with soft label s.

    Args:
        logits: [B, K].
        target: [B, K] or class[B].
        pseudo: soft label s of every pseudo-negative, [B, K], negative where there is none
            (`glczoo.training.label_memory.PseudoNegatives`).
        alpha: weight of the entropy.
        beta: weight of the pseudo-negatives.
        eps: inside the logarithms.

    Raises:
        GlczooError: no `pseudo`.
    """
    (pseudo,) = require("em_apl", pseudo=pseudo)
    present, absent = negative_log(logits, eps)
    soft = pseudo.to(present)
    unknown = torch.where(soft >= 0, beta * torch.lerp(absent, present, soft), -alpha * entropy(logits, eps))
    return torch.where(dense(target, present) > 0, present, unknown).mean()


@loss(needs={"background": _BACKGROUND})
def sinr_full(
    logits: Tensor,
    target: Tensor,
    *,
    background: Tensor | None = None,
    positive: float = 2048.0,
    eps: float = 0.0,
) -> Tensor:
    """Full assume negative (Cole et al. 2023, "Spatial implicit neural representations", L_AN-full).

    mean [λ nl(p) where observed, nl(1 - p) elsewhere] + mean nl(1 - p) at background places.

    Args:
        logits: [B, K].
        target: [B, K] or class[B].
        background: logits at random places, [M, K].
        positive: λ, the weight of a presence.
        eps: inside the logarithms.

    Raises:
        GlczooError: no `background`.
    """
    (background,) = require("sinr_full", background=background)
    present, absent = negative_log(logits, eps)
    z = dense(target, present)
    return (positive * z * present + (1 - z) * absent).mean() + negative_log(background, eps)[1].mean()


@loss(needs={"background": _BACKGROUND, "class_weights": "all records / records of the species, [K]"})
def full_weighted(
    logits: Tensor,
    target: Tensor,
    *,
    background: Tensor | None = None,
    class_weights: Tensor | None = None,
    positive: float = 1.0,
    negative: float = 0.8,
    eps: float = 0.0,
) -> Tensor:
    """Full weighted loss (Zbinden et al. 2024, "On the selection and effectiveness of pseudo-absences").

    λ1 mean [w z nl(p)] + λ2 mean [w / (w - 1) (1 - z) nl(1 - p)] + (1 - λ2) mean nl(1 - p) at background
    places.

    Args:
        logits: [B, K].
        target: [B, K] or class[B].
        background: logits at random places, [M, K].
        class_weights: w[K] = all records / records of the species, above 1
            (`glczoo.training.label_memory.class_weights`).
        positive: λ1.
        negative: λ2.
        eps: inside the logarithms.

    Raises:
        GlczooError: no `background`, or no `class_weights`, or one that is not above 1.
    """
    background, weights = require("full_weighted", background=background, class_weights=class_weights)
    present, absent = negative_log(logits, eps)
    z, weights = dense(target, present), weights.to(present)
    if not (weights > 1).all():
        raise GlczooError(
            f"full_weighted: class weights are all records / records of the species and must exceed 1, the "
            f"smallest is {float(weights.min())}: a species of every record has no absence to learn from"
        )
    return (
        positive * (weights * z * present).mean()
        + negative * (weights / (weights - 1) * (1 - z) * absent).mean()
        + (1 - negative) * negative_log(background, eps)[1].mean()
    )


@loss(needs={"strong": "logits of a strongly augmented view of these samples, [B, K]"})
def plc(logits: Tensor, target: Tensor, *, strong: Tensor | None = None, tau: float = 0.6) -> Tensor:
    """Pseudo-label consistency (Xie et al. 2022, "Label-aware global consistency").

    Assume negative on the weakly augmented view, and BCE(p_strong, 1 where p_weak ≥ τ) where the weak view is
    sure: p_weak ≥ τ or < 1 - τ. The mean of the second part counts all B·K entries.

    Args:
        logits: of the weak view, [B, K].
        target: [B, K] or class[B].
        strong: logits of the same samples strongly augmented, [B, K].
        tau: how sure is sure.

    Raises:
        GlczooError: no `strong`.
    """
    (strong,) = require("plc", strong=strong)
    weak = logits.sigmoid()
    sure = (weak >= tau) | (weak < 1 - tau)
    present, absent = negative_log(strong, 0)
    return an(logits, target) + (sure * torch.where(weak >= tau, present, absent)).mean()


def _size_penalty(logits: Tensor, k: float) -> Tensor:
    """R_k: squared distance of the expected from the known mean set size, / K²."""
    return (stable(logits).sigmoid().sum(1).mean() - k).square() / logits.shape[1] ** 2
