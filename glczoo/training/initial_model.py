"""What a step starts from: its samples, what its model sees, and the weights before the first batch."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.data.patch_source import PatchSource, Statistics
from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.data.tables import read_samples, read_species
from glczoo.errors import GlczooError, MissingError
from glczoo.hub_client import PREFIX, DamagedError, pull
from glczoo.models import init_from_imagenet
from glczoo.models.published import Config, build, keywords_of, load_weights, read_config
from glczoo.packaged import locate_model
from glczoo.recipe import Recipe
from glczoo.recipe.sections import TableName
from glczoo.runs.run import is_finished
from glczoo.runs.split import split_table
from glczoo.runs.trained import require_bands
from glczoo.training.finetune import Plan, freeze

__all__ = [
    "Parts",
    "find_run",
    "prior_of",
    "starting_model",
    "starting_samples",
    "training_builder",
    "visible_modalities",
]

_PAPER_WEIGHTS = {"resnet34": "resnet34.tv_in1k", "resnet50": "resnet50.tv_in1k"}


@dataclass(frozen=True)
class Parts:
    """The vocabulary and the samples of a recipe, by what they are for."""

    vocabulary: SpeciesIndex
    training: Samples
    validation: Samples  # compare the epochs
    tuning: Samples  # PA surveys that tune decoding and calibration; none where nothing is tuned


def starting_samples(recipe: Recipe, region: Region) -> Parts:
    """Read the samples that a recipe trains on, validates on and tunes on.

    Raises:
        MissingError: a table is missing.
        GlczooError: a table or the split cannot be read, or no sample names a source that k is tuned by.
    """
    vocabulary, data, decoding = read_species(region), recipe.data, recipe.decoding
    tables = list(data.tables)
    if decoding.tuned or recipe.calibration:
        tables.append("pa")
    parts = {table: split_table(recipe, region, table, vocabulary) for table in dict.fromkeys(tables)}
    training = Samples.concatenate([_weighted(recipe, table, parts[table].train) for table in data.tables])
    validation = Samples.concatenate([parts[table].validation for table in data.tables])
    tuning = training.subset(np.arange(0))
    if "pa" in parts:
        on_training = decoding.tuned and decoding.tune_on == "train"
        tuning = parts["pa"].train if on_training else parts["pa"].validation
    if decoding.by_source and not any(tuning.dataset_names):
        raise GlczooError(
            f"decoding.by_source needs surveys that name their source, those of region {region.name}'s PA "
            "table have no datasetName; set decoding.by_source=false"
        )
    return Parts(vocabulary, training, validation, tuning)


def _weighted(recipe: Recipe, table: TableName, samples: Samples) -> Samples:
    """A table's samples with the weight that the recipe gives them in the loss, if any."""
    weights = recipe.data.weights
    if not weights:
        return samples
    return replace(samples, weight=np.full(len(samples), weights.get(table, 1.0), np.float32))


def visible_modalities(recipe: Recipe, region: Region) -> list[str] | None:
    """What the model sees: as the recipe says, or the region's first modalities that fill its channels.

    A model that is fine-tuned sees those of the region that it knows something of.
    """
    if recipe.finetune:
        return _plan(recipe, region, read_config(find_run(recipe, region, recipe.init))).modalities
    if recipe.modalities is not None or "branches" in recipe.model_args or "in_chans" in recipe.model_args:
        return recipe.modalities
    if not recipe.model.endswith(("_glc23", "_glc24")):
        return None  # timm's own architectures take any number of channels
    with torch.device("meta"):
        wanted, names, total = _create(recipe, num_classes=0), [], 0
    if not hasattr(wanted, "branch_chans"):
        return None  # it takes any number of channels too
    for modality in region.modalities:
        names.append(modality.name)
        total += len(modality.bands)
        if total == wanted.in_chans:
            return names
    described = ", ".join(f"{m.name} {len(m.bands)}" for m in region.modalities)
    branches = ", ".join(f"{name} {number}" for name, number in wanted.branch_chans.items())
    raise GlczooError(
        f"{recipe.model} takes {wanted.in_chans} channels ({branches}), region {region.name} has "
        f"{described}; set modalities and model_args.branches in the recipe"
    )


def starting_model(
    recipe: Recipe,
    region: Region,
    source: PatchSource,
    vocabulary: SpeciesIndex,
    training: Samples,
    log: Callable[[str], None] = print,
) -> tuple[nn.Module, Statistics]:
    """The model with its starting weights, and the statistics that come with them or from these samples.

    `log` prints the plan of a fine-tuning before anything is trained.
    """
    described = training
    if recipe.data.statistics == "all":
        tables = [read_samples(region, table, vocabulary) for table in recipe.data.tables]
        described = Samples.concatenate(tables)
        described = described.subset(source.complete(described, "samples", drop=True))
    if recipe.finetune:
        return _finetuned_model(recipe, region, source, vocabulary, described, log)
    if recipe.model_args.get("prior"):
        return _corrected_model(recipe, region, source, vocabulary, described)
    args = {"num_classes": len(vocabulary), **recipe.model_args}
    if "branches" in args:
        args["branches"] = _in_channels(args["branches"], region, source)
    else:
        args.setdefault("in_chans", len(source.bands))
    model = _create(recipe, **args)
    if recipe.init == "imagenet":
        tag = recipe.imagenet.tag or next((t for n, t in _PAPER_WEIGHTS.items() if n in recipe.model), None)
        if tag is None:
            raise GlczooError(
                f"init: imagenet needs imagenet.tag for {recipe.model}, for example resnet18.a1_in1k"
            )
        rgb: Any = recipe.imagenet.rgb
        try:
            init_from_imagenet(model, tag, how=recipe.imagenet.how, rgb=rgb, weights=recipe.imagenet.weights)
        except RuntimeError as error:  # the Hub is out of reach, or has no such weights
            raise GlczooError(f"init: imagenet: {error}") from error
    if recipe.init in ("imagenet", "random"):
        return model, source.statistics(described)

    before = find_run(recipe, region, recipe.init)
    config = read_config(before)
    hint = "; another region's model is fitted with finetune={} (recipes/finetune.yaml)"
    require_bands(source.bands, config.glczoo.band_names, "this recipe", str(before), hint)
    _require_vocabulary(config, vocabulary, before, hint)
    try:
        load_weights(model, before)
    except DamagedError as error:  # a damaged file, or another architecture: both name what is wrong
        raise GlczooError(f"the weights of {before} do not fit {recipe.model}: {error}") from None
    cfg = config.pretrained_cfg
    filled = [config.glczoo.filled[band] for band in source.bands]
    return model, Statistics(list(cfg.mean), list(cfg.std), filled)


def _in_channels(branches: Any, region: Region, source: PatchSource) -> Any:
    """Branches that a recipe counts in bands, in channels: a categorical band has one for each of its levels.

    Branches whose sum is not that of the bands are left as they are: the model says what does not fit.
    """
    if not source.levels or not isinstance(branches, Mapping):
        return branches
    bands = [band.name for m in region.select(list(source.modalities)) for band in m.bands]
    numbers = list(branches.values())
    if not all(isinstance(number, int) for number in numbers) or sum(numbers) != len(bands):
        return branches
    remaining = iter(bands)
    return {
        name: sum(len(source.channels_of(band)) for band in islice(remaining, number))
        for name, number in branches.items()
    }


def training_builder(
    recipe: Recipe, source: PatchSource, surveys: Samples, statistics: Statistics, device: torch.device
) -> PatchBuilder:
    """What builds the batches of a recipe's steps.

    Raises:
        GlczooError: nvJPEG is asked for, and the device has none.
    """
    if recipe.data.nvjpeg and device.type != "cuda":
        raise GlczooError(f"data.nvjpeg decodes on a CUDA device, this is {device.type}; leave it out")
    return PatchBuilder(
        source, surveys, statistics.mean, statistics.std, device,
        dtype=torch.bfloat16 if recipe.precision == "bf16" else torch.float32,
        decode_there=recipe.data.nvjpeg,
    )  # fmt: skip


def prior_of(
    recipe: Recipe, region: Region, source: PatchSource, vocabulary: SpeciesIndex, own: Statistics
) -> tuple[list[Any], Path, Statistics]:
    """The run that `init` names as the prior of a model: its architecture, its folder, and joint statistics.

    The prior's bands are normalised by its own statistics, others by `own`.

    Raises:
        MissingError: the run is not there.
        GlczooError: it is no model of which species is recorded where one is, it sees bands that this model
            does not see side by side, or it predicts another vocabulary.
    """
    if recipe.init in ("imagenet", "random"):
        raise GlczooError(
            f"model_args.prior is the run that init names, init: {recipe.init} is none; name one of step 2"
        )
    before = find_run(recipe, region, recipe.init)
    config = read_config(before)
    section, cfg = config.glczoo, config.pretrained_cfg
    if section.activation != "softmax":
        raise GlczooError(
            f"{before} cannot be a prior: it was not trained by cross-entropy, and would be too sure of the "
            "surveys that it trained on; take a run of step 2 that started from random or ImageNet weights"
        )
    bands = section.band_names
    start = source.bands.index(bands[0]) if bands[0] in source.bands else 0
    stop = start + len(bands)
    require_bands(source.bands[start:stop], bands, "this recipe", str(before))
    _require_vocabulary(config, vocabulary, before)
    statistics = Statistics(
        [*own.mean[:start], *cfg.mean, *own.mean[stop:]],
        [*own.std[:start], *cfg.std, *own.std[stop:]],
        own.filled,
    )
    return [config.architecture, keywords_of(config), [start, stop]], before, statistics


def _corrected_model(
    recipe: Recipe, region: Region, source: PatchSource, vocabulary: SpeciesIndex, described: Samples
) -> tuple[nn.Module, Statistics]:
    """A model that corrects the predictions of another, which stays as it is."""
    prior, before, statistics = prior_of(recipe, region, source, vocabulary, source.statistics(described))
    args = {"num_classes": len(vocabulary), "in_chans": len(source.bands)}
    model = _create(recipe, **args, **(recipe.model_args | {"prior": prior}))
    load_weights(model.prior.model, before)
    return model, statistics


def _require_vocabulary(config: Config, species: SpeciesIndex, before: Path, hint: str = "") -> None:
    if config.label_names != _labels(species):
        raise GlczooError(
            f"{before} was trained for {len(config.label_names)} species, not for this vocabulary{hint}"
        )


def find_run(recipe: Recipe, region: Region, named: str, key: str = "init") -> Path:
    """The run that a key of the recipe names: on the Hub, a sibling, any folder, or the packaged sample.

    `named`: what that key says.

    Raises:
        MissingError: there is none, or it is not finished; the message says what makes it.
    """
    if named.startswith(PREFIX):
        return pull(named)
    sibling = Path(os.path.normpath(recipe.run_folder(region, named)))  # also of ../MODEL/NAME
    folder = Path(locate_model(named))
    if not is_finished(sibling) and (folder / "config.json").exists():
        return folder
    if not is_finished(sibling):
        verb, instead = "is", f"name another {key}"
        if key == "init":
            verb, instead = "starts from", "start afresh with init=random or init=imagenet"
        raise MissingError(
            f"{key}: {named} {verb} the run {sibling}, which "
            + ("is not finished" if sibling.exists() else "does not exist")
            + f"; make it with\n  python -m glczoo.train recipes/{named}.yaml region={recipe.region} "
            f"model={recipe.model} runs={recipe.runs}\nor {instead}"
        )
    return sibling


def _plan(
    recipe: Recipe, region: Region, config: Config, levels: Mapping[str, Sequence[int]] | None = None
) -> Plan:
    if config.architecture != recipe.model:
        raise GlczooError(
            f"init: {recipe.init} is a {config.architecture}, the recipe's model is {recipe.model}; set "
            f"model={config.architecture}"
        )
    return Plan.make(config, region, recipe.modalities, recipe.init, levels)


def _finetuned_model(
    recipe: Recipe,
    region: Region,
    source: PatchSource,
    vocabulary: SpeciesIndex,
    training: Samples,
    log: Callable[[str], None],
) -> tuple[nn.Module, Statistics]:
    """A trained model with the stem and the head that the region asks for."""
    before = find_run(recipe, region, recipe.init)
    config = read_config(before)
    plan, species = _plan(recipe, region, config, source.levels), _labels(vocabulary)
    log(plan.text(species))
    model = _create(recipe, **(plan.model_args(len(vocabulary)) | recipe.model_args))
    plan.fill(model, build(before, config).state_dict(), species)
    if recipe.finetune and recipe.finetune.frozen:
        freeze(model)
    own = source.statistics(training)
    statistics = plan.statistics(own)
    for shift in source.shifted(training, statistics.mean, statistics.std):
        channel = source.bands.index(shift.band)
        statistics.mean[channel], statistics.std[channel] = own.mean[channel], own.std[channel]
        log(f"  mean and standard deviation are estimated anew, too far from the model's: {shift}")
    return model, statistics


def _labels(vocabulary: SpeciesIndex) -> list[str]:
    return [str(i) for i in vocabulary.ids.tolist()]


def _create(recipe: Recipe, **args: Any) -> Any:
    try:
        return timm.create_model(recipe.model, **args)
    except (RuntimeError, TypeError) as error:  # timm's words for an unknown model and for a wrong keyword
        raise GlczooError(f"model {recipe.model} cannot be made with {args}: {error}") from error
