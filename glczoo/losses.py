"""Losses for presence-absence and presence-only surveys: pure functions of logits.

logits[B, K]: the model's output · target[B, K]: 1 where the species was observed, or class[B], int64, the one
species observed. K classes, B surveys · nl(x) = -log(x), p = sigmoid(logits), z = target.
All are computed from logits in the numerically stable form and return a scalar: the mean over B and K where
nothing else is said. `eps`, where a loss has it, is what its authors' released code adds inside the logarithm
(1e-5): for comparing with their numbers, not for training.

weight[B], where given, is how many records a row stands for, relative to the mean: for losses that are linear
in the target, the loss of the mean target of records times their number is the sum of the records' losses.
Of `bce` it may be weight[B, K], of every entry: where it is 0 nothing is learnt, whatever the target.

What a loss needs besides logits and target is an argument, and `NEEDS` names it; where it is a memory of each
survey, `training.label_memory` keeps it. Long because fourteen losses stand side by side, each with its
source.
"""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor

__all__ = [
    "ACTIVATION",
    "LINEAR",
    "LOSSES",
    "NEEDS",
    "SUMS",
    "an",
    "an_ls",
    "asl",
    "bce",
    "ce",
    "em",
    "em_apl",
    "epr",
    "full_weighted",
    "hill",
    "plc",
    "role",
    "sinr_full",
    "wan",
]


def bce(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy over fully observed surveys (Ung et al. 2023, eq. 1), mean over B and K."""
    entries = weight[:, None] if weight is not None and weight.dim() == 1 else weight
    return F.binary_cross_entropy_with_logits(logits, _dense(target, logits), entries)


def ce(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Softmax cross-entropy (Good 1952; Ung et al. 2023, section 5.2, step 2), mean over B.

    `target` holds one class for each survey, int64[B], or weights of the observed species, [B, K], which are
    normalised to sum to one. A survey without species adds nothing.
    """
    if target.dim() == 2:
        target = target / target.sum(dim=1, keepdim=True).clamp_min(torch.finfo(target.dtype).tiny)
    if weight is None:
        return F.cross_entropy(logits, target)
    return (weight * F.cross_entropy(logits, target, reduction="none")).mean()


def an(logits: Tensor, target: Tensor, weight: Tensor | None = None, *, eps: float = 0.0) -> Tensor:
    """Assume negative: what was not observed counts as absent (Ung et al. 2023, eq. 2; Cole et al. 2021).

    The same formula as `bce`; the name says that the zeros of `target` are an assumption.
    """
    if not eps:
        return bce(logits, target, weight)
    present, absent = _nl(logits, eps)
    entries = torch.lerp(absent, present, _dense(target, absent))
    return (entries if weight is None else weight[:, None] * entries).mean()


def an_ls(logits: Tensor, target: Tensor, *, smoothing: float = 0.1, eps: float = 0.0) -> Tensor:
    """Assume negative with label smoothing (Cole et al. 2021, "Multi-label learning from single positive …").

    Observed: (1 - ε) nl(p) + ε nl(1 - p); not observed: the other way round.
    """
    present, absent = _nl(logits, eps)
    soft = smoothing + (1 - 2 * smoothing) * _dense(target, absent)
    return torch.lerp(absent, present, soft).mean()


def wan(logits: Tensor, target: Tensor, *, eps: float = 0.0) -> Tensor:
    """Weak assume negative (Cole et al. 2021): z nl(p) + (1 - z) nl(1 - p) / (K - 1).

    All assumed absences of a survey weigh as much as one presence.
    """
    present, absent = _nl(logits, eps)
    z = _dense(target, absent)
    return (z * present + (1 - z) * absent / (logits.shape[1] - 1)).mean()


def epr(logits: Tensor, target: Tensor, *, k: float | None = None, eps: float = 0.0) -> Tensor:
    """Expected positive regularisation (Cole et al. 2021): mean z nl(p) + (mean_b Σp - k)² / K².

    Args:
        logits: [B, K].
        target: [B, K] or class[B].
        k: mean number of species of a survey (13.45 on GeoLifeCLEF 2023).
        eps: inside the logarithm.

    Raises:
        ValueError: no `k`.
    """
    (k,) = _require("epr", k=k)
    present, _ = _nl(logits, eps)
    return (_dense(target, present) * present).mean() + _size_penalty(logits, k)


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
        ValueError: no `estimates` or no `k`.
    """
    estimates, k = _require("role", estimates=estimates, k=k)
    total = logits.new_zeros((), dtype=torch.float32)
    for mine, other in ((logits, estimates), (estimates, logits)):
        present, absent = _nl(mine, eps)
        cross = torch.lerp(absent, present, other.detach().to(absent).sigmoid())
        total = total + (_dense(target, present) * present + cross).mean() + _size_penalty(mine, k)
    return total / 2


def em(logits: Tensor, target: Tensor, *, alpha: float = 0.1, eps: float = 0.0) -> Tensor:
    """Entropy maximisation (Zhou et al. 2022, "Acknowledging the unknown for multi-label learning").

    Observed: nl(p); not observed: -α [p nl(p) + (1 - p) nl(1 - p)], which asks for doubt, not for absence.
    """
    present, absent = _nl(logits, eps)
    return torch.where(_dense(target, present) > 0, present, -alpha * _entropy(logits, eps)).mean()


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
        ValueError: no `pseudo`.
    """
    (pseudo,) = _require("em_apl", pseudo=pseudo)
    present, absent = _nl(logits, eps)
    soft = pseudo.to(present)
    unknown = torch.where(soft >= 0, beta * torch.lerp(absent, present, soft), -alpha * _entropy(logits, eps))
    return torch.where(_dense(target, present) > 0, present, unknown).mean()


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
        ValueError: no `background`.
    """
    (background,) = _require("sinr_full", background=background)
    present, absent = _nl(logits, eps)
    z = _dense(target, present)
    return (positive * z * present + (1 - z) * absent).mean() + _nl(background, eps)[1].mean()


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
        ValueError: no `background`, or no `class_weights`, or one that is not above 1.
    """
    background, weights = _require("full_weighted", background=background, class_weights=class_weights)
    present, absent = _nl(logits, eps)
    z, weights = _dense(target, present), weights.to(present)
    if not (weights > 1).all():
        raise ValueError(
            f"full_weighted: class weights are all records / records of the species and must exceed 1, the "
            f"smallest is {float(weights.min())}: a species of every record has no absence to learn from"
        )
    return (
        positive * (weights * z * present).mean()
        + negative * (weights / (weights - 1) * (1 - z) * absent).mean()
        + (1 - negative) * _nl(background, eps)[1].mean()
    )


def plc(logits: Tensor, target: Tensor, *, strong: Tensor | None = None, tau: float = 0.6) -> Tensor:
    """Pseudo-label consistency (Xie et al. 2022, "Label-aware global consistency").

    Assume negative on the weakly augmented view, and BCE(p_strong, 1 where p_weak ≥ τ) where the weak view is
    sure: p_weak ≥ τ or < 1 - τ. The mean of the second part counts all B·K entries.

    Args:
        logits: of the weak view, [B, K].
        target: [B, K] or class[B].
        strong: logits of the same surveys strongly augmented, [B, K].
        tau: how sure is sure.

    Raises:
        ValueError: no `strong`.
    """
    (strong,) = _require("plc", strong=strong)
    weak = logits.sigmoid()
    sure = (weak >= tau) | (weak < 1 - tau)
    present, absent = _nl(strong, 0)
    return an(logits, target) + (sure * torch.where(weak >= tau, present, absent)).mean()


def hill(
    logits: Tensor, target: Tensor, *, margin: float = 1.0, gamma: float = 2.0, turn: float = 1.5
) -> Tensor:
    """Hill loss with focal margin (Zhang et al. 2021, "Simple and robust loss design"), sum over B and K.

    Observed: (1 - q)^γ nl(q), q = sigmoid(logits - m); not observed: (λ - p) p², whose pull falls again where
    p is high, for what is predicted so surely may be a presence that was missed. `turn` is λ.
    """
    x = _stable(logits)
    z, p = _dense(target, x), x.sigmoid()
    present = (margin - x).sigmoid().pow(gamma) * -F.logsigmoid(x - margin)
    return torch.where(z > 0, present, (turn - p) * p.square()).sum()


def asl(
    logits: Tensor,
    target: Tensor,
    *,
    gamma_neg: float = 4.0,
    gamma_pos: float = 1.0,
    clip: float = 0.05,
    reduction: Literal["batchmean", "sum", "mean"] = "batchmean",
) -> Tensor:
    """Asymmetric loss (Ridnik et al. 2021), timm's: by default the sum over K, mean over B."""
    loss = AsymmetricLossMultiLabel(gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip, reduction=reduction)
    return loss(logits, _dense(target, logits))


LOSSES: dict[str, Callable[..., Tensor]] = {
    function.__name__: function
    for function in (
        bce, ce, an, an_ls, wan, epr, role, em, em_apl, sinr_full, full_weighted, plc, hill, asl,
    )
}  # fmt: skip

LINEAR = frozenset({"bce", "ce", "an"})
"""Losses that are linear in the target of a survey, and take the weight of a row."""

SUMS = frozenset({"hill"})
"""Losses that sum over the surveys of a batch; the others are means over them."""

ACTIVATION: dict[str, Literal["sigmoid", "softmax"]] = {
    name: "softmax" if name == "ce" else "sigmoid" for name in LOSSES
}
"""What turns the logits of a model trained with the loss into probabilities."""

NEEDS: dict[str, dict[str, str]] = {
    "epr": {"k": "the mean number of species of a survey"},
    "role": {
        "estimates": "logits of the estimated labels of these surveys, [B, K]",
        "k": "the mean number of species of a survey",
    },
    "em_apl": {"pseudo": "soft labels of the pseudo-negatives of these surveys, [B, K]"},
    "sinr_full": {"background": "logits at random places, [M, K]"},
    "full_weighted": {
        "background": "logits at random places, [M, K]",
        "class_weights": "all records / records of the species, [K]",
    },
    "plc": {"strong": "logits of a strongly augmented view of these surveys, [B, K]"},
}
"""The arguments that a loss cannot do without, besides logits and target, and what they are."""


def _require(loss: str, **given: Tensor | float | None) -> tuple:
    missing = [f"{name} ({NEEDS[loss][name]})" for name, value in given.items() if value is None]
    if missing:
        raise ValueError(
            f"the loss {loss} needs more than logits and targets; give it {' and '.join(missing)}"
        )
    return tuple(given.values())


def _stable(logits: Tensor) -> Tensor:
    """Half precision does not carry a logarithm: float32 at least."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _dense(target: Tensor, like: Tensor) -> Tensor:
    return (F.one_hot(target, like.shape[1]) if target.dim() == 1 else target).to(like.dtype)


def _nl(logits: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """-log p and -log (1 - p), [B, K]."""
    x = _stable(logits)
    if eps:
        return -(x.sigmoid() + eps).log(), -(1 - x.sigmoid() + eps).log()
    return -F.logsigmoid(x), -F.logsigmoid(-x)


def _entropy(logits: Tensor, eps: float) -> Tensor:
    present, absent = _nl(logits, eps)
    return torch.lerp(absent, present, _stable(logits).sigmoid())


def _size_penalty(logits: Tensor, k: float) -> Tensor:
    """R_k: squared distance of the expected from the known mean set size, / K²."""
    return (_stable(logits).sigmoid().sum(1).mean() - k).square() / logits.shape[1] ** 2
