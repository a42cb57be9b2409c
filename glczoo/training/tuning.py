"""What is decided on samples that are held out for it: the best epoch, the calibration, the set size."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from glczoo.calibration import fit_temperature, fit_vector, logistic_bias, rescale
from glczoo.data.occurrences import Samples
from glczoo.data.patches import PatchBuilder
from glczoo.decoding import Decoding, Rule, recall_threshold, tune, tune_by_source
from glczoo.errors import GlczooError
from glczoo.models.ensemble import activate
from glczoo.models.published import Calibration
from glczoo.recipe import Recipe
from glczoo.recipe.sections import Decode
from glczoo.runs.scoring import mean_f1, score

__all__ = ["Tuning", "level_ranks", "sites_of", "tune_decoding", "tune_run", "validation_f1"]

_SITES = 20_000  # training places that the level of a ranking is measured on
_LOGITS = 1 << 27  # and at most so many numbers: half a gigabyte


@dataclass(frozen=True)
class Tuning:
    """How a model's logits become sets of species."""

    activation: Literal["sigmoid", "softmax"]
    decoding: Decoding
    tuned: dict[str, float]  # the best number of every rule, where there were samples to tune it on
    calibration: Calibration | None  # how, mean_temperature; the head's weights hold it already


def validation_f1(
    accelerator: Accelerator, recipe: Recipe, model: nn.Module, build: PatchBuilder, samples: Samples
) -> float:
    """What epochs are compared by: mean F1 by the recipe's rule, by the best k where it is to be tuned."""
    decoding = None if recipe.decoding.tuned else recipe.decoding.fixed()
    return mean_f1(accelerator, model, build, samples, recipe.batch_size, recipe.activation, decoding)


def tune_run(
    accelerator: Accelerator, recipe: Recipe, model: Any, build: PatchBuilder, samples: Samples
) -> Tuning:
    """Calibrate the model in place and tune every decoding rule on PA samples, if there are any.

    Raises:
        GlczooError: the model diverged, or is to be calibrated and its head is no linear layer with a bias.
    """
    if not len(samples):
        return Tuning(recipe.activation, recipe.decoding.fixed({}), {}, None)
    target = samples.targets(torch.arange(len(samples)), model.num_classes)
    logits = score(accelerator, model, build, recipe.batch_size, "logits")
    if not logits.isfinite().all():
        raise GlczooError("the model's outputs are not finite, it diverged: lower optimizer.lr")
    calibration = None
    if recipe.calibration:
        scale, bias = _fit(recipe, logits, target)
        _fold(model, scale, bias)
        logits = rescale(logits, scale, bias)
        calibration = Calibration(how=recipe.calibration, mean_temperature=float(1 / scale.mean()))
    probabilities = activate(logits, recipe.activation)
    decoding, tuned = tune_decoding(recipe.decoding, probabilities, target)
    if recipe.decoding.by_source and (sources := samples.datasets) is not None:
        decoding = replace(decoding, by_source=tune_by_source(probabilities, target, sources))
    return Tuning(recipe.activation, decoding, tuned, calibration)


def level_ranks(
    accelerator: Accelerator, recipe: Recipe, model: Any, build: PatchBuilder, places: int
) -> None:
    """Give the outputs of a loss that leaves ranks the level of MaxEnt's logistic output, in place.

    It is written into the bias of the head; a head without one keeps the level that it has.

    Args:
        accelerator: shares the work.
        recipe: says how many places are in a batch.
        model: as it was trained.
        build: patches at training places, as they are.
        places: how many these are.
    """
    head = model.get_classifier()
    if not places or not isinstance(head, nn.Linear) or head.bias is None:
        return
    logits = score(accelerator, model, build, recipe.batch_size, "logits")
    _fold(model, torch.ones(logits.shape[1]), logistic_bias(logits))


def sites_of(training: Samples, num_classes: int) -> Samples:
    """The training places, or a seeded draw of them, that `level_ranks` measures."""
    number = max(2, min(_SITES, _LOGITS // num_classes))
    return training.subset(np.sort(np.random.default_rng(0).permutation(len(training))[:number]))


def tune_decoding(decode: Decode, probabilities: Tensor, target: Tensor) -> tuple[Decoding, dict[str, float]]:
    """What a recipe's decoding becomes on tuning samples, [N, K] both, and the best number of every rule.

    `decode`: the recipe's section.
    """
    tuned = tune(probabilities, target)
    decoding = decode.fixed(tuned)
    if decoding.rule is Rule.RECALL and decoding.value is not None:
        decoding = replace(decoding, threshold=recall_threshold(probabilities, target, decoding.value))
    return decoding, tuned


def _fit(recipe: Recipe, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The scale[K] and bias[K] of the recipe's calibration."""
    if recipe.calibration == "vector":
        return fit_vector(logits, target, recipe.activation)
    scale = logits.new_full([logits.shape[1]], 1 / fit_temperature(logits, target, recipe.activation))
    return scale, torch.zeros_like(scale)


@torch.no_grad()
def _fold(model: Any, scale: Tensor, bias: Tensor) -> None:
    """Write scale × logits + bias into the head: whoever loads the model gets calibrated logits."""
    head = model.get_classifier()
    if not isinstance(head, nn.Linear) or head.bias is None:
        raise GlczooError(
            f"calibration is written into a linear head with a bias, this model's is {type(head).__name__}: "
            "set calibration=null, and calibrate the members of an ensemble"
        )
    scale, bias = scale.to(head.weight), bias.to(head.weight)
    head.weight.mul_(scale[:, None])
    head.bias.mul_(scale).add_(bias)
