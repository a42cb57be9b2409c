"""What a step decides on surveys that may choose: its best epoch, its calibration, its sets' size."""

from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from glczoo.calibration import fit_temperature, fit_vector, rescale
from glczoo.data.occurrences import Samples
from glczoo.data.patches import PatchBuilder
from glczoo.decoding import tune, tune_by_source
from glczoo.models.ensemble import activate
from glczoo.models.published import Calibration
from glczoo.recipe import Recipe
from glczoo.runs.scoring import mean_f1, score

__all__ = ["settle", "validation_f1"]


def validation_f1(
    accelerator: Accelerator, recipe: Recipe, model: nn.Module, build: PatchBuilder, surveys: Samples
) -> float:
    """What epochs are compared by: mean F1 by the recipe's rule, by the best k where it is to be tuned."""
    decoding = None if recipe.decoding.tuned else recipe.decoding.fixed()
    return mean_f1(accelerator, model, build, surveys, recipe.batch_size, recipe.activation, decoding)


def settle(
    accelerator: Accelerator, recipe: Recipe, model: Any, build: PatchBuilder, surveys: Samples
) -> dict[str, Any]:
    """Calibrate the model in place and tune every decoding rule, on PA surveys that may choose, if any.

    Returns:
        What config.json keeps: activation, decoding (rule, value), tuned (the best number of every rule),
        calibration (how, and the temperature; the weights of the head hold it already).

    Raises:
        ValueError: the model diverged, or is to be calibrated and its head is no linear layer with a bias.
    """
    tuned: dict[str, float] = {}
    by_source = None
    told: dict[str, Any] = {"activation": recipe.activation}
    if len(surveys):
        target = surveys.targets(torch.arange(len(surveys)), model.num_classes)
        logits = score(accelerator, model, build, recipe.batch_size, "logits")
        if not logits.isfinite().all():
            raise ValueError("the model's outputs are not finite, it diverged: lower optimizer.lr")
        if recipe.calibration:
            scale, bias = _fit(recipe, logits, target)
            _fold(model, scale, bias)
            logits = rescale(logits, scale, bias)
            told["calibration"] = Calibration(
                how=recipe.calibration, mean_temperature=float(1 / scale.mean())
            )
        probabilities = activate(logits, recipe.activation)
        tuned = tune(probabilities, target)
        if recipe.decoding.by_source and (sources := surveys.datasets) is not None:
            by_source = tune_by_source(probabilities, target, sources)
    decoding = replace(recipe.decoding.fixed(tuned), by_source=by_source)
    return told | {"decoding": decoding, "tuned": tuned}


def _fit(recipe: Recipe, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if recipe.calibration == "vector":
        return fit_vector(logits, target, recipe.activation)
    scale = logits.new_full([logits.shape[1]], 1 / fit_temperature(logits, target, recipe.activation))
    return scale, torch.zeros_like(scale)


@torch.no_grad()
def _fold(model: Any, scale: Tensor, bias: Tensor) -> None:
    """Write scale × logits + bias into the head: whoever loads the model gets calibrated logits."""
    head = model.get_classifier()
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise ValueError(
            f"calibration is written into a linear head with a bias, this model's is {type(head).__name__}: "
            "set calibration=null, and calibrate the members of an ensemble"
        )
    scale, bias = scale.to(head.weight), bias.to(head.weight)
    head.weight.mul_(scale[:, None])
    head.bias.mul_(scale).add_(bias)
