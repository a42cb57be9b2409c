"""What all candidates of a fit read: surveys, folds, records' models and values at the surveys.

Shapes: values[N, V] of `Covariates` at N surveys · target[N, K] in 0/1 · fold[N], block[N].
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.data.patch_source import PatchSource, Statistics
from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.data.sphere import block_size, spatial_blocks
from glczoo.data.splits import block_folds
from glczoo.data.tables import read_samples
from glczoo.errors import GlczooError
from glczoo.files import whole
from glczoo.fit.settings import Fit
from glczoo.models.covariates import Covariates
from glczoo.models.pointwise import Pointwise
from glczoo.recipe import Recipe
from glczoo.regions.densities import write_densities
from glczoo.training.fit_pointwise import fit_pointwise
from glczoo.training.prepare import read_inputs

__all__ = ["DENSITIES", "SurveyInputs", "prepare"]

_CELLS = 220  # along a region's side, of the grid that records are counted on
_MOST_SPECIES = 1000  # whose densities are written: three bands each
_FULL = 300  # values of all species up to which a model reads each of them, and above which components
_COMPONENTS = 150
_FEWEST = 20  # surveys
DENSITIES = "densities"
"""Name of the modality that holds the shares of records nearby."""


@dataclass(frozen=True)
class SurveyInputs:
    """Everything that candidates of surveys are fitted on."""

    settings: Fit
    recipe: Recipe  # what the members' recipes have in common
    region: Region  # with densities where there are records
    vocabulary: SpeciesIndex
    source: PatchSource
    statistics: Statistics
    surveys: Samples
    covariates: Covariates  # with its weights
    keywords: dict[str, Any]  # of the covariates
    environment: int  # bands that are no densities
    values: Tensor
    target: Tensor
    fold: np.ndarray
    block: np.ndarray
    seconds: float
    notes: dict[str, str]  # what was left out, and why

    @property
    def has_records(self) -> bool:
        """Whether there are values of records."""
        return self.covariates.layers > 0


def prepare(settings: Fit, region: Region, name: str, out: Path) -> SurveyInputs:
    """Read a region's samples, count and model its records, and gather the values at its surveys.

    Args:
        settings: of the fit.
        region: with a table of surveys.
        name: region.yaml or its folder, for the members' recipes.
        out: folder of the fit: densities and records.safetensors are kept there.

    Raises:
        MissingError: data are missing.
        GlczooError: a table cannot be read, or there are too few surveys, or places of them, for the folds.
    """
    start = time.monotonic()
    notes: dict[str, str] = {}
    modalities = settings.modalities or [modality.name for modality in region.modalities]
    recipe = _recipe(settings, name, modalities)
    inputs = read_inputs(recipe, region)
    vocabulary, environment, surveys = inputs.vocabulary, inputs.source, inputs.training
    _refuse_few(settings, region, surveys)
    statistics = environment.statistics(surveys)
    keywords: dict[str, Any] = {"windows": settings.windows}
    records: list[Pointwise] = []
    source = environment
    places: Samples | None = None
    if "po" in region.tables:
        places, notes["presence-only records"] = _places_of_records(settings, region, vocabulary, environment)
    if places is not None:
        del notes["presence-only records"]
        records = _records_models(settings, vocabulary, environment, statistics, places, out)
        keywords["records"] = [_spec(model, len(environment.bands)) for model in records]
        if settings.densities and len(vocabulary) <= _MOST_SPECIES and environment.stacks:
            region = _with_densities(region, surveys, out / DENSITIES)
            modalities = [*modalities, DENSITIES]
            source = PatchSource(region, modalities, settings.patch_size)
            source.levels.update(environment.levels)
            recipe = recipe.model_copy(update={"region": str(out / DENSITIES), "modalities": modalities})
            keywords["densities"] = (len(source.bands) - len(environment.bands)) // len(vocabulary)
        elif settings.densities:
            notes["densities of records"] = (
                f"{len(vocabulary)} species, more than {_MOST_SPECIES}" if environment.stacks else "no raster"
            )
    layers = keywords.get("densities", 0) + len(records)
    if layers * len(vocabulary) > _FULL:
        keywords["reduced"] = _COMPONENTS
    covariates = Covariates(len(vocabulary), len(source.bands), **keywords).eval()
    surveys = surveys.subset(source.complete(surveys, "surveys", drop=True))
    if "densities" in keywords:
        statistics = source.statistics(surveys)
        covariates.density_mean.copy_(torch.tensor(statistics.mean[len(environment.bands) :]))
        covariates.density_std.copy_(torch.tensor(statistics.std[len(environment.bands) :]))
    for slot, model in zip(covariates.records, records, strict=True):
        slot.get_submodule("model").load_state_dict(model.state_dict())
    build = PatchBuilder(source, surveys, statistics.mean, statistics.std)
    with torch.inference_mode():
        values = torch.cat([covariates(x) for x in _patches(build)])
    values = values.clone()  # what inference mode made cannot be differentiated
    covariates.fit_components(values)
    side = block_size(surveys, settings.blocks)
    return SurveyInputs(
        settings=settings,
        recipe=recipe,
        region=region,
        vocabulary=vocabulary,
        source=source,
        statistics=statistics,
        surveys=surveys,
        covariates=covariates,
        keywords=keywords,
        environment=len(environment.bands),
        values=values,
        target=surveys.targets(torch.arange(len(surveys)), len(vocabulary)),
        fold=block_folds(surveys, side, settings.folds, settings.seed),
        block=spatial_blocks(surveys, side),
        seconds=time.monotonic() - start,
        notes=notes,
    )


def _recipe(settings: Fit, name: str, modalities: list[str]) -> Recipe:
    """The part of a recipe that all members share; each names its architecture and itself."""
    return Recipe.model_validate(
        {
            "name": "fit",
            "region": name,
            "model": "corrected_glc23",
            "modalities": modalities,
            "patch_size": settings.patch_size,
            "init": "random",
            "data": settings.data.model_dump() | {"tables": ["pa"], "validation": {"pa": 0.0, "po": 0.0}},
            "loss": "bce",
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "epochs": 1,
            "batch_size": 128,
            "keep": "last",
            "decoding": "expected_f1_exact",
            "seed": settings.seed,
        }
    )


def _patches(build: PatchBuilder, cells: int = 1 << 24) -> Iterator[Tensor]:
    """Patches x of all points of a builder, in batches of about `cells` numbers."""
    size = max(1, cells // (build.num_bands * build.size**2))
    for index in torch.arange(len(build)).split(min(256, size)):
        yield build(index)


def _with_densities(region: Region, surveys: Samples, folder: Path) -> Region:
    """The region with the shares of records nearby, on a grid of about `_CELLS` cells along its side."""
    if (folder / "region.yaml").exists():
        return Region.load(folder)
    stack = PatchSource(region, [next(m.name for m in region.modalities if m.kind == "raster")], 1).stacks[0]
    row, col = stack.locate(surveys.lon, surveys.lat)
    side = float(np.sqrt(max(1, np.ptp(row)) * max(1, np.ptp(col))))
    return write_densities(region, folder, coarser=max(1, round(side / _CELLS)))


def _spec(model: Pointwise, bands: int) -> list[Any]:
    keywords = {
        "windows": list(model.windows),
        "hidden": model.hidden,
        "copies": model.copies,
        "softmax": model.softmax,
    }
    return ["pointwise_glc23", keywords, [0, bands]]


def _refuse_few(settings: Fit, region: Region, surveys: Samples) -> None:
    """See that folds can be held out, before anything is fitted.

    Raises:
        GlczooError: there are too few surveys, they lie at too few places, or none found a species.
    """
    number, folds = len(surveys), settings.folds
    if number < _FEWEST:
        raise GlczooError(
            f"{number} surveys of region {region.name} train, fewer than {_FEWEST}: too few to hold some out",
            remedy="Add surveys, or leave the table pa out of region.yaml to fit presence-only records alone",
        )
    if not len(surveys.species):
        raise GlczooError(f"no survey of region {region.name} that trains found a species")
    blocks = int(spatial_blocks(surveys, block_size(surveys, settings.blocks)).max()) + 1
    if blocks < folds:
        more = f", or set folds={blocks}" if blocks > 1 else ""
        raise GlczooError(
            f"the {number} surveys of region {region.name} lie at so few places that they make {blocks} "
            f"blocks, fewer than {folds} folds",
            remedy=f"Add surveys of other places{more}",
        )


def _places_of_records(
    settings: Fit, region: Region, vocabulary: SpeciesIndex, source: PatchSource
) -> tuple[Samples | None, str]:
    """The places of the presence-only records that can be read; None where there are none, and why."""
    records = read_samples(region, "po", vocabulary)
    if not len(records):
        return None, "the table has none"
    readable = ~np.any([*source.incomplete(records).values(), np.zeros(len(records), bool)], axis=0)
    if not readable.any():
        return None, f"none of {len(records)} lies on the rasters or has a patch"
    records = records.subset(readable)
    places = records.merged(source.places(records))
    if len(places) < 2:
        return None, "all lie in one cell"
    most = settings.records.most
    if len(places) > most:
        chosen = np.random.default_rng(settings.seed).permutation(len(places))[:most]
        places = places.subset(np.sort(chosen))
    return places, ""


def _records_models(
    settings: Fit,
    vocabulary: SpeciesIndex,
    source: PatchSource,
    statistics: Statistics,
    places: Samples,
    out: Path,
) -> list[Pointwise]:
    """The models of presence-only records, fitted once and kept in records.safetensors."""
    own = settings.records
    models: list[Any] = [
        timm.create_model(
            "pointwise_glc23",
            num_classes=len(vocabulary),
            in_chans=len(source.bands),
            windows=own.windows,
            copies=own.copies,
            softmax=softmax,
            drop_rate=drop_rate,
        ).eval()
        for softmax, drop_rate in (("species", own.drop_rate), ("sites", 0.0))
    ]
    path = out / "records.safetensors"
    if path.exists():
        state = load_file(path)
        for model in models:
            prefix = f"{model.softmax}."
            model.load_state_dict(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )
        return models
    build = PatchBuilder(source, places, statistics.mean, statistics.std)
    with torch.no_grad():
        means = torch.cat([models[0].means(x) for x in _patches(build)])
    for model, epochs in zip(models, (own.epochs_species, own.epochs_sites), strict=True):
        fit_pointwise(model, means, places, epochs=epochs, seed=settings.seed)
    with whole(path) as partial:
        save_file(
            {f"{m.softmax}.{key}": value for m in models for key, value in m.state_dict().items()}, partial
        )
    return models
