"""What a recipe needs before its first batch, prepared once for training, for `bench` and for the forest."""

import inspect
import math
import warnings
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from timm.optim import create_optimizer_v2, get_optimizer_class
from torch import nn

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.data.patch_source import PatchSource, Statistics
from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.decoding import Rule
from glczoo.errors import GlczooError
from glczoo.models.published import read_config
from glczoo.recipe import Recipe
from glczoo.training.checkpoints import EpochOrder
from glczoo.training.initial_model import (
    find_run,
    starting_model,
    starting_samples,
    training_builder,
    visible_modalities,
)
from glczoo.training.objective import Objective

__all__ = ["Inputs", "Prepared", "make_optimizer", "prepare", "read_inputs", "set_up_model"]


@dataclass(frozen=True)
class Inputs:
    """A recipe's samples, all of which can be read, and the files that their patches come from."""

    region: Region
    vocabulary: SpeciesIndex
    training: Samples
    validation: Samples
    tuning: Samples
    source: PatchSource


@dataclass(frozen=True)
class Prepared:
    """All that the steps of a recipe need, on the accelerator's device."""

    inputs: Inputs
    training: Samples  # those of the inputs, or the places that they lie at
    statistics: Statistics
    model: nn.Module
    objective: Objective
    optimizer: torch.optim.Optimizer
    build: PatchBuilder
    validation_build: PatchBuilder
    tuning_build: PatchBuilder
    order: EpochOrder
    background: EpochOrder  # of the places that some losses compare a batch with


def read_inputs(recipe: Recipe, region: Region) -> Inputs:
    """Read the samples of a recipe and open what their patches come from.

    Samples that cannot be read are an error, or as `data.incomplete` says.

    Raises:
        MissingError: data are missing.
        GlczooError: a table cannot be read, a sample has no patch, no sample is left to train or tune on, or
            top k would name every species.
    """
    parts = starting_samples(recipe, region)
    _refuse_all_species(recipe, len(parts.vocabulary))
    before = None if recipe.init in ("imagenet", "random") else find_run(recipe, region, recipe.init)
    known = read_config(before).glczoo if before else None
    source = PatchSource(
        region,
        visible_modalities(recipe, region),
        recipe.patch_size,
        channels=known.band_names if known else (),
        units=known.units if known else None,
        fill=recipe.data.incomplete == "fill",
    )
    drop = recipe.data.incomplete != "error"
    training, validation, tuning = (
        samples.subset(source.complete(samples, title, drop))
        for samples, title in (
            (parts.training, "training samples"),
            (parts.validation, "validation samples"),
            (parts.tuning, "PA tuning samples"),
        )
    )
    if (recipe.decoding.tuned or recipe.calibration) and not len(tuning):
        raise GlczooError("no PA survey is left to tune the set size on; is data.validation too small?")
    _refuse_hollow_promise(recipe, len(tuning))
    if not len(training):
        raise GlczooError(
            f"no training sample is left of {recipe.data.tables}; is data.pa_fraction too small?"
        )
    if recipe.keep == "best" and not len(validation):
        raise GlczooError(
            f"keep: best needs validation samples, the shares {recipe.data.validation} of "
            f"{recipe.data.tables} are none",
            remedy="Raise data.validation, or set keep=last",
        )
    source.fix_levels(training, extend=recipe.finetune is not None and recipe.model != "ensemble_glc23")
    return Inputs(region, parts.vocabulary, training, validation, tuning, source)


def _refuse_all_species(recipe: Recipe, species: int) -> None:
    """The most probable k of k species are all of them, wherever one asks."""
    k = recipe.decoding.value
    if recipe.decoding.rule is Rule.TOP_K and k != "auto" and k >= species > 1:
        raise GlczooError(
            f"decoding by top {k} would predict all {species} species of region {recipe.region} everywhere",
            remedy="Set decoding.value below the number of species, or decoding=expected_f1 after a step of "
            "bce on surveys",
        )


def _refuse_hollow_promise(recipe: Recipe, tuning: int) -> None:
    """Of few tuning samples only sets of all species could promise the recall (see `recall_threshold`)."""
    if recipe.decoding.rule is not Rule.RECALL or recipe.decoding.value == "auto":
        return
    least = math.ceil(1 / (1 - recipe.decoding.value) - 1 - 1e-9)
    if tuning < least:
        raise GlczooError(
            f"a recall of {recipe.decoding.value} can be promised on {least} PA tuning samples or more, "
            f"there are {tuning}: raise data.validation, or lower decoding.value"
        )


def prepare(recipe: Recipe, region: Region, accelerator: Accelerator) -> Prepared:
    """Prepare everything that the steps of a recipe need.

    Raises:
        MissingError: data or the run that the recipe starts from are missing.
        GlczooError: the recipe, the data and the model do not fit each other.
    """
    device, processes = accelerator.device, accelerator.num_processes
    _try_optimizer(recipe, device)
    with accelerator.local_main_process_first():  # one process builds the stacks, the others find them built
        inputs = read_inputs(recipe, region)
    source, vocabulary = inputs.source, inputs.vocabulary
    if recipe.activation == "softmax" and len(vocabulary) == 1:
        raise GlczooError(
            f"a softmax over one species is 1 whatever it sees: {recipe.loss.name} learns nothing in region "
            f"{region.name}",
            remedy="Set loss=sinr_full, which compares its records with background places, or "
            "data.tables=[pa] and loss=bce where there are absences",
        )
    model, statistics = starting_model(recipe, region, source, vocabulary, inputs.training, accelerator.print)
    training = inputs.training
    if recipe.data.places:
        training = training.merged(source.places(training))
        accelerator.print(
            f"{len(inputs.training)} records at {len(training)} places: "
            f"{len(inputs.training) / len(training):.2f} times fewer forward passes"
        )
    order, background = (
        EpochOrder(len(training), recipe.batch_size, seed, accelerator.process_index, processes)
        for seed in (recipe.seed, recipe.seed + 1)
    )
    model = set_up_model(recipe, model)
    objective = Objective(recipe, region, vocabulary, training, device, processes)
    model, optimizer = accelerator.prepare(model, make_optimizer(recipe, model, objective))
    return Prepared(
        inputs=inputs,
        training=training,
        statistics=statistics,
        model=model,
        objective=objective,
        optimizer=optimizer,
        build=training_builder(recipe, source, training, statistics, device),
        validation_build=training_builder(recipe, source, inputs.validation, statistics, device),
        tuning_build=PatchBuilder(source, inputs.tuning, statistics.mean, statistics.std, device),
        order=order,
        background=background,
    )


def _try_optimizer(recipe: Recipe, device: torch.device) -> None:
    """Take a step of a tiny model: some of timm's optimisers need what a recipe does not give.

    Raises:
        GlczooError: there is no such optimiser, or it cannot take a plain step here.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2)).to(device)
        try:
            plain = recipe.model_copy(update={"finetune": None})
            optimizer = make_optimizer(plain, model, nn.Module())
            model(torch.ones(2, 1, 2, 2, device=device)).sum().backward()
            optimizer.step()
        except Exception as error:  # each library behind them has its own
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise GlczooError(
                f"optimizer.name: {recipe.optimizer.name} cannot take a step here: {reason}",
                remedy="Take another of timm's, such as adam, adamw, sgd, nadamw or lamb",
            ) from error


def set_up_model(recipe: Recipe, model: nn.Module) -> nn.Module:
    """The model as the recipe wants it to be computed."""
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if recipe.grad_checkpointing:
        model.set_grad_checkpointing()  # type: ignore[operator]
    if recipe.compile:
        model.compile()
    return model


def make_optimizer(recipe: Recipe, model: nn.Module, objective: nn.Module) -> torch.optim.Optimizer:
    """One of timm's, fused into one kernel where it can be (for 62 million weights four times faster).

    What the loss itself learns (ROLE's estimates) does so at ten times the rate (Cole et al. 2021).

    `objective`: whose own weights learn too.
    """
    settings = recipe.optimizer
    accepted = inspect.signature(get_optimizer_class(settings.name, bind_defaults=False)).parameters
    fused = {"fused": True} if "fused" in accepted else {}
    optimizer = create_optimizer_v2(
        model,
        settings.name,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        layer_decay=recipe.finetune.layer_decay if recipe.finetune else None,
        **fused,
    )
    if learnt := list(objective.parameters()):
        optimizer.add_param_group({"params": learnt, "weight_decay": 0.0, "lr_scale": 10.0})
    return optimizer
