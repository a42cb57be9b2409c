"""The tables of losses that training reads, and what the formulas share."""

from collections.abc import Callable, Mapping
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from glczoo.errors import GlczooError

__all__ = [
    "ACTIVATION",
    "LINEAR",
    "LOSSES",
    "NEEDS",
    "RANKS",
    "SUMS",
    "dense",
    "entropy",
    "loss",
    "negative_log",
    "require",
    "stable",
]

LOSSES: dict[str, Callable[..., Tensor]] = {}
"""Every loss by its name."""

ACTIVATION: dict[str, Literal["sigmoid", "softmax"]] = {}
"""What turns the logits of a model trained with the loss into probabilities."""

NEEDS: dict[str, dict[str, str]] = {}
"""The arguments that a loss cannot do without, besides logits and target, and what they are."""

LINEAR: set[str] = set()
"""Losses that are linear in the target of a sample, and take the weight of a row."""

RANKS: set[str] = set()
"""Losses that leave outputs which rank places for each species, and are no probabilities of presence."""

SUMS: set[str] = set()
"""Losses that sum over the samples of a batch; the others are means over them."""

_Function = TypeVar("_Function", bound=Callable[..., Tensor])


def loss(
    activation: Literal["sigmoid", "softmax"] = "sigmoid",
    needs: Mapping[str, str] | None = None,
    linear: bool = False,
    ranks: bool = False,
    sums: bool = False,
) -> Callable[[_Function], _Function]:
    """Enter a function into the tables above, by its name.

    `activation`: what its probabilities come from; `needs`: arguments that it cannot do without, and what
    each is; `linear`: in the target; `ranks`: its outputs rank places and are no probabilities; `sums`: it
    adds up over the batch, not a mean.
    """

    def enter(function: _Function) -> _Function:
        name = function.__name__
        LOSSES[name], ACTIVATION[name] = function, activation
        if needs:
            NEEDS[name] = dict(needs)
        if linear:
            LINEAR.add(name)
        if ranks:
            RANKS.add(name)
        if sums:
            SUMS.add(name)
        return function

    return enter


def require(loss: str, **arguments: Tensor | float | None) -> tuple:
    """The arguments, none of which may be missing.

    `loss`: its name.

    Raises:
        GlczooError: some are; the message says what they are.
    """
    missing = [f"{name} ({NEEDS[loss][name]})" for name, value in arguments.items() if value is None]
    if missing:
        raise GlczooError(
            f"the loss {loss} needs more than logits and targets; give it {' and '.join(missing)}"
        )
    return tuple(arguments.values())


def stable(logits: Tensor) -> Tensor:
    """Half precision does not carry a logarithm: float32 at least."""
    return logits if logits.dtype == torch.float64 else logits.float()


def dense(target: Tensor, like: Tensor) -> Tensor:
    """target[B, K] in the type of `like`[B, K], from the same or from class[B]."""
    return (F.one_hot(target, like.shape[1]) if target.dim() == 1 else target).to(like.dtype)


def negative_log(logits: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """-log p and -log (1 - p), [B, K]."""
    x = stable(logits)
    if eps:
        return -(x.sigmoid() + eps).log(), -(1 - x.sigmoid() + eps).log()
    return -F.logsigmoid(x), -F.logsigmoid(-x)


def entropy(logits: Tensor, eps: float) -> Tensor:
    """P nl(p) + (1 - p) nl(1 - p), [B, K]."""
    present, absent = negative_log(logits, eps)
    return torch.lerp(absent, present, stable(logits).sigmoid())
