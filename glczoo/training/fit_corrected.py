"""Fit `corrected_glc23` on values at surveys: by L-BFGS what is convex, by AdamW the networks on top of it.

Shapes: values[N, V] of `Covariates` · target[N, K] in 0/1 · inputs[N, F] · own[N, K, J].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glczoo.models.corrected import Corrected

__all__ = ["Shrinkage", "fit_linear", "fit_networks", "minimise"]


@dataclass(frozen=True)
class Shrinkage:
    """How strongly weights are drawn to zero: half of it times their squares is added to the log loss."""

    shared: float = 300.0  # of the correction
    own: float = 10.0  # of a species' slopes to the slopes that all have in common
    bias: float = 0.3


def fit_linear(
    model: Corrected,
    values: Tensor,
    target: Tensor,
    shrinkage: Shrinkage,
    iterations: int = 150,
    corrects: bool = True,
) -> None:
    """Fit slopes, biases and the linear correction in place.

    The sum over surveys and species of the log loss, plus the shrinkage: one convex problem.

    Args:
        model: its standardisation is set from `values` too.
        values: of the training surveys.
        target: their species.
        shrinkage: of the weights.
        iterations: of L-BFGS at most.
        corrects: false fits slopes and biases alone.
    """
    _standardise(model, values)
    own = model.standardised_own(values)
    inputs = model.standardised(values) if corrects else None
    number, (classes, layers) = len(target), model.slope.shape
    weight = torch.zeros(inputs.shape[1] if inputs is not None else 0, classes, requires_grad=True)
    common = torch.full([layers], 1 / max(layers, 1), requires_grad=True)
    apart = torch.zeros(classes, layers, requires_grad=True)
    level = torch.zeros(1, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)

    def loss() -> Tensor:
        logits = torch.einsum("nkj,kj->nk", own, common + apart) + level + bias
        if inputs is not None:
            logits = logits + inputs @ weight
        penalty = (
            shrinkage.shared * weight.square().sum()
            + shrinkage.own * apart.square().sum()
            + shrinkage.bias * bias.square().sum()
        )
        return (F.binary_cross_entropy_with_logits(logits, target, reduction="sum") + penalty / 2) / number

    minimise([weight, common, apart, level, bias], loss, iterations)
    with torch.no_grad():
        model.slope.copy_(common + apart)
        model.bias.copy_(level + bias)
        if inputs is not None:
            model.get_parameter("fc.0.weight").copy_(weight.T)


def fit_networks(
    model: Corrected,
    values: Tensor,
    target: Tensor,
    shrinkage: Shrinkage,
    *,
    epochs: int = 15,
    batch_size: int = 128,
    lr: float = 1e-3,
    weight_decay: float = 0.1,
    seed: int = 0,
) -> None:
    """Fit slopes and biases, freeze them, and fit the networks that correct them, in place.

    Dropout is the model's; the learning rate rises to twice `lr` and falls to nothing (Smith 2018).

    `shrinkage`: of slopes and biases; `weight_decay`: of the networks, AdamW's.
    """
    fit_linear(model, values, target, shrinkage, iterations=60, corrects=False)
    inputs, start = model.standardised(values), model.uncorrected(values).detach()
    for copy in range(model.copies):
        parts = [model.get_submodule(f"trunks.{copy}"), model.get_submodule(f"fc.{copy}")]

        def step(index: Tensor, copy: int = copy) -> Tensor:
            logits = start[index] + model.correction(copy, inputs[index])
            return F.binary_cross_entropy_with_logits(logits, target[index])

        fit_parts(
            parts, step, len(target), epochs, batch_size, lr, 2 * lr, weight_decay, seed + copy, parts[:1]
        )


def fit_parts(
    parts: Sequence[nn.Module],
    loss: Callable[[Tensor], Tensor],
    number: int,
    epochs: int,
    batch_size: int,
    lr: float,
    highest_lr: float,
    weight_decay: float,
    seed: int,
    fresh: Sequence[nn.Module] = (),
) -> None:
    """Draw new weights for some layers, then AdamW by one cycle.

    Args:
        parts: whose parameters learn.
        loss: of a batch, from its positions int64[B].
        number: of samples.
        epochs: passes over them.
        batch_size: samples at a time.
        lr: of AdamW's groups; the cycle sets it.
        highest_lr: where the cycle turns.
        weight_decay: decoupled.
        seed: of weights, order and dropout; torch's own state is left as it was.
        fresh: those of the parts whose linear layers are drawn anew.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in fresh:
            for layer in part.modules():
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()
        parameters = [p for part in parts for p in part.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr, weight_decay=weight_decay)
        steps = epochs * -(-number // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, highest_lr, total_steps=steps)
        for part in parts:
            part.train()
        for _ in range(epochs):
            for index in torch.randperm(number).split(batch_size):
                optimizer.zero_grad()
                loss(index).backward()
                optimizer.step()
                schedule.step()
        for part in parts:
            part.eval()


def minimise(parameters: Sequence[Tensor], loss: Callable[[], Tensor], iterations: int) -> None:
    """L-BFGS with a strong Wolfe line search (Nocedal & Wright 2006, 7.2), in place.

    `parameters`: what is fitted; `loss`: computed from them anew at each call.
    """
    optimizer = torch.optim.LBFGS(
        list(parameters),
        lr=1,
        max_iter=iterations,
        history_size=20,
        line_search_fn="strong_wolfe",
        tolerance_change=1e-6,
        tolerance_grad=1e-5,
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    optimizer.step(closure)


@torch.no_grad()
def _standardise(model: Corrected, values: Tensor) -> None:
    """Set means and deviations of the model's inputs; components and own layers keep their proportions."""
    inputs, own = model.inputs(values), model.covariates.own(values)
    model.shift.copy_(inputs.mean(0))
    scale = inputs.std(0, correction=0) + 1e-6
    model.scale.copy_(torch.where(model._far.isinf(), torch.ones(()), scale))
    if own.numel():  # without records there are none
        model.own_shift.copy_(own.mean((0, 1)))
        model.own_scale.copy_(own.std((0, 1), correction=0) + 1e-6)
