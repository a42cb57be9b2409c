"""Losses of logits and targets alone."""

from typing import Literal

import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor

from glczoo.losses.tables import dense, entropy, loss, negative_log, stable

__all__ = ["an", "an_ls", "asl", "bce", "ce", "deepmaxent", "em", "hill", "wan"]


@loss(linear=True)
def bce(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy over fully observed samples (Ung et al. 2023, eq. 1), mean over B and K."""
    entries = weight[:, None] if weight is not None and weight.dim() == 1 else weight
    return F.binary_cross_entropy_with_logits(logits, dense(target, logits), entries)


@loss(activation="softmax", linear=True)
def ce(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy (Good 1952; Ung et al. 2023, section 5.2, step 2), mean over B.

    `target` holds one class for each sample, int64[B], or weights of the observed species, [B, K], which are
    normalised to sum to one. A sample without species adds nothing.
    """
    if target.dim() == 2:
        target = target / target.sum(dim=1, keepdim=True).clamp_min(torch.finfo(target.dtype).tiny)
    if weight is None:
        return F.cross_entropy(logits, target)
    return (weight * F.cross_entropy(logits, target, reduction="none")).mean()


@loss(linear=True)
def an(logits: Tensor, target: Tensor, weight: Tensor | None = None, *, eps: float = 0.0) -> Tensor:
    """Assume negative: what was not observed counts as absent (Ung et al. 2023, eq. 2; Cole et al. 2021).

    The same formula as `bce`; the name says that the zeros of `target` are an assumption.
    """
    if not eps:
        return bce(logits, target, weight)
    present, absent = negative_log(logits, eps)
    entries = torch.lerp(absent, present, dense(target, absent))
    return (entries if weight is None else weight[:, None] * entries).mean()


@loss(linear=True, ranks=True)
def deepmaxent(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """DeepMaxent (Ryckewaert et al. 2024): softmax over the *sites* of the batch, species by species.

    -mean over sites and species of count × log softmax. Each species is a distribution over the sites, as in
    MaxEnt (Phillips, Anderson and Schapire 2006): how many records there are, and what is added to all logits
    of a species, cancels out, so that the outputs rank places and are no probabilities of presence. The other
    sites of the batch are the background; those of records are a target group (Phillips et al. 2009), whose
    bias cancels out too.

    `weight` times `target` are the counts: rows of places, with the mean target of their records, are the
    sites of the authors' code.
    """
    counts = dense(target, stable(logits))
    if weight is not None:
        counts = counts * weight[:, None]
    return -(counts * stable(logits).log_softmax(0)).mean()


@loss()
def an_ls(logits: Tensor, target: Tensor, *, smoothing: float = 0.1, eps: float = 0.0) -> Tensor:
    """Assume negative with label smoothing (Cole et al. 2021, "Multi-label learning from single positive …").

    Observed: (1 - ε) nl(p) + ε nl(1 - p); not observed: the other way round.
    """
    present, absent = negative_log(logits, eps)
    soft = smoothing + (1 - 2 * smoothing) * dense(target, absent)
    return torch.lerp(absent, present, soft).mean()


@loss()
def wan(logits: Tensor, target: Tensor, *, eps: float = 0.0) -> Tensor:
    """Weak assume negative (Cole et al. 2021): z nl(p) + (1 - z) nl(1 - p) / (K - 1).

    All assumed absences of a sample weigh as much as one presence.
    """
    present, absent = negative_log(logits, eps)
    z = dense(target, absent)
    return (z * present + (1 - z) * absent / (logits.shape[1] - 1)).mean()


@loss()
def em(logits: Tensor, target: Tensor, *, alpha: float = 0.1, eps: float = 0.0) -> Tensor:
    """Entropy maximisation (Zhou et al. 2022, "Acknowledging the unknown for multi-label learning").

    Observed: nl(p); not observed: -α [p nl(p) + (1 - p) nl(1 - p)], which rewards doubt, not absence.

    `alpha` is α.
    """
    present, absent = negative_log(logits, eps)
    return torch.where(dense(target, present) > 0, present, -alpha * entropy(logits, eps)).mean()


@loss(sums=True)
def hill(
    logits: Tensor, target: Tensor, *, margin: float = 1.0, gamma: float = 2.0, turn: float = 1.5
) -> Tensor:
    """Hill loss with focal margin (Zhang et al. 2021, "Simple and robust loss design"), sum over B and K.

    Observed: (1 - q)^γ nl(q), q = sigmoid(logits - m); not observed: (λ - p) p², whose pull falls again where
    p is high, for what is predicted so surely may be a presence that was missed. `turn` is λ.

    `margin` is m, `gamma` γ.
    """
    x = stable(logits)
    z, p = dense(target, x), x.sigmoid()
    present = (margin - x).sigmoid().pow(gamma) * -F.logsigmoid(x - margin)
    return torch.where(z > 0, present, (turn - p) * p.square()).sum()


@loss()
def asl(
    logits: Tensor,
    target: Tensor,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    clip: float = 0.05,
    reduction: Literal["batchmean", "sum", "mean"] = "batchmean",
) -> Tensor:
    """Asymmetric loss (Ridnik et al. 2021), timm's: by default the sum over K, mean over B.

    `gamma_pos` and `gamma_neg`: focusing of present and of absent species; `clip`: probability below which an
    absent species costs nothing; `reduction`: what is averaged.
    """
    loss = AsymmetricLossMultiLabel(gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip, reduction=reduction)
    return loss(logits, dense(target, logits))
