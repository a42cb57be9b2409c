"""Writing a trained model into its run: what timm and `Run.model` read.

RUN/recipe.yaml (resolved) · metrics.jsonl · species.csv · checkpoints/ while it trains · last.safetensors
where the result is the best epoch · model.safetensors + config.json: the export, which
`timm.create_model("local-dir:RUN", pretrained=True)` reads.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from timm.models import save_for_hf
from torch import nn

from glczoo.data.occurrences import SpeciesIndex
from glczoo.data.patch_source import PatchSource, Statistics
from glczoo.data.region import Region
from glczoo.decoding import Decoding
from glczoo.files import whole_files
from glczoo.models.published import Activation, BandDescription, Calibration, Section

__all__ = ["describe_bands", "export_model", "export_run"]


def export_run(
    folder: Path,
    model: nn.Module,
    species: SpeciesIndex,
    region: Region,
    source: PatchSource,
    statistics: Statistics,
    *,
    activation: Activation,
    decoding: Decoding,
    tuned: Mapping[str, float],
    calibration: Calibration | None = None,
    init: str | None = None,
    epoch: int | None = None,
) -> None:
    """Write a trained model into its run (see `export_model`), its bands described by the region.

    Args:
        folder: the run.
        model: with the weights to publish.
        species: the vocabulary, one name for each class.
        region: describes the bands.
        source: which bands the model saw, in order.
        statistics: what its inputs are normalised by.
        activation: what makes probabilities of its logits.
        decoding: what makes sets of species of its probabilities.
        tuned: the best number of every rule.
        calibration: how the logits were calibrated.
        init: what the last step started from.
        epoch: whose weights these are, counted from 0.
    """
    section = Section(
        region=region.name,
        data=region.description,
        data_licence=region.licence,
        bands=describe_bands(region, source),
        modalities=list(source.modalities),
        patch_size=source.size,
        filled=dict(zip(source.bands, statistics.filled, strict=True)),
        init=init,
        epoch=epoch,
        activation=activation,
        calibration=calibration,
        decoding=decoding,
        tuned=dict(tuned),
    )
    export_model(folder, model, species, statistics.mean, statistics.std, section)


def describe_bands(region: Region, source: PatchSource) -> list[BandDescription]:
    """The bands that a source reads, in the order of their channels, as the region describes them."""
    grids = {band: stack for stack in source.stacks for band in stack.bands}
    described, names = {}, source.level_names()
    for band, modality in region.bands():
        grid = grids.get(band.name)
        levels = {f"{band.name}={level}": name for level, name in names.get(band.name, {}).items()}
        for channel in source.channels_of(band.name):
            described[channel] = BandDescription(
                name=channel,
                modality=modality.name,
                unit=(band.unit and source.units.get(band.name)) or band.unit,
                source=band.provenance or modality.provenance,
                resolution=modality.resolution,
                crs=grid.crs if grid else None,
                cell=abs(grid.transform.a) if grid else None,
                level=levels.get(channel),
            )
    return [described[name] for name in source.bands]


def export_model(
    folder: Path,
    model: nn.Module,
    species: SpeciesIndex,
    mean: Sequence[float],
    std: Sequence[float],
    section: Section,
) -> None:
    """Write model.safetensors, config.json and species.csv.

    Files are written beside and renamed, the weights last: a folder that has them is whole.

    `section`: what config.json says under `glczoo`.
    """
    config = {"label_names": [str(i) for i in species.ids.tolist()], "glczoo": section.to_json()}
    size = section.patch_size
    data_config = {"input_size": (len(mean), size, size), "mean": tuple(mean), "std": tuple(std)}
    plain = model.to(memory_format=torch.contiguous_format)
    with whole_files(folder, last="model.safetensors") as partial:
        save_for_hf(
            plain, str(partial), safe_serialization=True, model_config=config, data_config=data_config
        )
        species.save(partial / "species.csv")
