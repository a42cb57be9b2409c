"""A run's folder, and models that come out of it.

RUN/recipe.yaml (resolved) · metrics.jsonl · species.csv · checkpoints/ while it trains · last.safetensors
where the result is the best epoch · model.safetensors + config.json: the export, which
`timm.create_model("local-dir:RUN", pretrained=True)` reads. What timm does not know stands in config.json
under `glczoo`: bands in order, patch size, activation, decoding (from probabilities to sets of species).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models import save_for_hf
from torch import Tensor, nn
from tqdm import tqdm

from glczoo.data.loader import load, shares
from glczoo.data.occurrences import Points, Samples, SpeciesIndex
from glczoo.data.patch_source import PatchSource, Statistics
from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.decoding import Decoding, Rule, f1_by_k
from glczoo.files import whole_files
from glczoo.hub_client import PREFIX, DamagedError, pull, split_id
from glczoo.metrics import sample_f1
from glczoo.models.published import build, read_config
from glczoo.recipe import read_run_recipe

__all__ = [
    "TrainedModel",
    "activate",
    "ask",
    "export_model",
    "export_run",
    "is_finished",
    "load_members",
    "load_model",
    "locate",
    "mean_decoding",
    "mean_f1",
    "read_metrics",
    "region_of",
    "require_bands",
    "score",
]


@dataclass
class TrainedModel:
    """A model and what is needed to ask it: from places to probabilities of named species."""

    model: nn.Module
    species: SpeciesIndex
    name: str  # what tables call it
    modalities: list[str]
    bands: list[str]
    patch_size: int
    mean: list[float]
    std: list[float]
    activation: str
    decoding: Decoding
    tuned: dict[str, float]  # the best number of every rule, where surveys could choose it

    def open(self, region: Region) -> PatchSource:
        """Open a region's files for this model.

        Raises:
            ValueError: the region's bands are not the model's, in the model's order.
        """
        source = PatchSource(region, self.modalities, self.patch_size)
        require_bands(source.bands, self.bands, f"region {region.name}", self.name)
        return source


def require_bands(given: list[str], expected: list[str], who: str, model: str, hint: str = "") -> None:
    """Shape cannot catch a wrong order of bands: compare the names. `hint` ends the message.

    Raises:
        ValueError: the names differ; the message names the first difference.
    """
    if given != expected:
        first = next(
            (i for i, pair in enumerate(zip(given, expected, strict=False)) if len(set(pair)) > 1), None
        )
        where = (
            f"channel {first}: {given[first]} instead of {expected[first]}"
            if first is not None
            else (f"{len(given)} bands instead of {len(expected)}")
        )
        raise ValueError(f"the bands of {who} are not those of {model} in its order, {where}{hint}")


def activate(logits: Tensor, activation: str) -> Tensor:
    """Probabilities of logits[B, K], in float32; `logits` leaves them as they are."""
    if activation == "logits":
        return logits.float()
    return logits.float().softmax(1) if activation == "softmax" else logits.float().sigmoid()


def score(
    accelerator: Any, model: nn.Module, build: PatchBuilder, batch_size: int, activation: str
) -> Tensor:
    """Probabilities of every point of a builder, float32[N, K] on the CPU.

    Every process computes its share and gets the whole.
    """
    found: Tensor | None = None
    for index, probabilities in _probabilities(accelerator, model, build, batch_size, activation):
        if found is None:
            found = torch.empty(len(build), probabilities.shape[1])
        if accelerator.num_processes > 1:  # the last share may be shorter on some: filled up with -1
            share = accelerator.pad_across_processes((index.to(build.device), probabilities), pad_index=-1)
            index, probabilities = accelerator.gather(share)
            index, probabilities = index[index >= 0], probabilities[index >= 0]
        found[index.cpu()] = probabilities.cpu()
    return torch.empty(0, 0) if found is None else found


def mean_f1(
    accelerator: Any, model: nn.Module, build: PatchBuilder, surveys: Samples, batch_size: int,
    activation: str, decoding: Decoding | None = None,
) -> float:  # fmt: skip
    """Mean F1 (eq. 3) of surveys by a decoding, or by the best k of 1 to 100 without one.

    Batch by batch on the device: [N, K] is held nowhere. Every process computes its share and gets the whole.
    """
    total: Tensor | float = 0.0
    for index, probabilities in _probabilities(accelerator, model, build, batch_size, activation):
        target = surveys.targets(index, probabilities.shape[1], probabilities.device)
        f1 = sample_f1(decoding(probabilities), target)[:, None] if decoding else None
        total = total + (f1_by_k(probabilities, target, 100) if f1 is None else f1).sum(0)
    return float((accelerator.reduce(total) / len(surveys)).max())


def _probabilities(
    accelerator: Any, model: nn.Module, build: PatchBuilder, batch_size: int, activation: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """index[B] and probabilities[B, K] on the device, of this process's share of the points."""
    training = model.training
    model.eval()
    process, processes = accelerator.process_index, accelerator.num_processes
    batches = shares(len(build), batch_size, process, processes)
    hidden = process > 0 or len(batches) < 20
    bar = tqdm(load(build, batches), "predicting", len(batches), unit="batch", leave=False, disable=hidden)
    for index, x in bar:
        with torch.inference_mode():
            probabilities = activate(model(x), activation)
        yield index, probabilities
    model.train(training)


def export_run(
    folder: Path,
    model: nn.Module,
    species: SpeciesIndex,
    region: Region,
    source: PatchSource,
    statistics: Statistics,
    **described: Any,
) -> None:
    """Write a trained model into its run (see `export_model`), its bands described by the region.

    Args:
        folder: the run.
        model: with the weights to publish.
        species: the vocabulary, one name for each class.
        region: describes the bands.
        source: which bands the model saw, in order.
        statistics: what its inputs are normalised by.
        **described: further JSON values under `glczoo`: activation, decoding, …
    """
    grids = {band: stack for stack in source.stacks for band in stack.bands}
    bands = {
        band.name: {
            "name": band.name, "modality": m.name, "unit": band.unit,
            "source": band.provenance or m.provenance,
            "resolution": m.resolution,
            "crs": grids[band.name].crs if band.name in grids else None,
            "cell": abs(grids[band.name].transform.a) if band.name in grids else None,  # in the CRS's unit
        }
        for band, m in region.bands() if band.name in source.bands
    }  # fmt: skip
    told = {
        "region": region.name,
        "data": region.description,
        "data_licence": region.licence,
        "bands": [bands[name] for name in source.bands],
        "modalities": list(source.modalities),
        "patch_size": source.size,
        "filled": dict(zip(source.bands, statistics.filled, strict=True)),
        **described,
    }
    export_model(folder, model, species, statistics.mean, statistics.std, told)


def export_model(
    folder: Path,
    model: nn.Module,
    species: SpeciesIndex,
    mean: list[float],
    std: list[float],
    told: dict[str, Any],
) -> None:
    """Write model.safetensors, config.json and species.csv as timm and `load_model` read them.

    Files are written beside and renamed, the weights last: a folder that has them is whole.
    """
    size = told["patch_size"]
    config = {"label_names": [str(i) for i in species.ids.tolist()], "glczoo": told}
    data_config = {"input_size": (len(mean), size, size), "mean": tuple(mean), "std": tuple(std)}
    plain = model.to(memory_format=torch.contiguous_format)
    with whole_files(folder, last="model.safetensors") as partial:
        save_for_hf(
            plain, str(partial), safe_serialization=True, model_config=config, data_config=data_config
        )
        species.save(partial / "species.csv")


def is_finished(folder: Path) -> bool:
    """Whether a run has been exported."""
    return (folder / "model.safetensors").is_file() and (folder / "config.json").is_file()


def locate(run: str | Path) -> Path:
    """The folder of a run, or of a model on the Hub (`hf-hub:ORG/NAME@REVISION`), downloaded if need be.

    Raises:
        HubError: the model cannot be had from the Hub.
        DamagedError: what came from there is not what was published.
    """
    return pull(str(run)) if str(run).startswith(PREFIX) else Path(run)


def region_of(folder: Path) -> Region:
    """The region that a run was trained on: a published one brings its description along.

    Raises:
        FileNotFoundError: the region's file is not where it was.
    """
    published = folder / "region.yaml"
    return Region.load(published if published.exists() else read_run_recipe(folder)[0].region)


def load_model(run: str | Path) -> TrainedModel:
    """Load an exported model, ready to predict.

    Args:
        run: folder of a finished run or of a published model, or `hf-hub:ORG/NAME`.

    Raises:
        FileNotFoundError: the folder is no finished run.
        HubError: the model cannot be had from the Hub.
        DamagedError: weights, config or vocabulary are damaged, or do not belong together.
    """
    folder = locate(run)
    config = read_config(folder)
    told, cfg = config["glczoo"], config["pretrained_cfg"]
    try:
        species = SpeciesIndex.load(folder / "species.csv")
    except (ValueError, FileNotFoundError) as error:
        raise DamagedError(f"the vocabulary cannot be read: {error}") from None
    if [str(i) for i in species.ids.tolist()] != config["label_names"]:
        raise DamagedError(f"{folder}: species.csv and the label_names of config.json differ")
    try:
        decoding = Decoding(**told["decoding"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"{folder}: config.json names no decoding that can be applied: {error}") from None
    on_hub = str(run).startswith(PREFIX)
    return TrainedModel(
        model=build(folder, config).eval(),
        species=species,
        name=split_id(str(run))[0] if on_hub else "/".join(folder.resolve().parts[-2:]),
        modalities=told["modalities"],
        bands=[band["name"] for band in told["bands"]],
        patch_size=told["patch_size"],
        mean=list(cfg["mean"]),
        std=list(cfg["std"]),
        activation=told["activation"],
        decoding=decoding,
        tuned=told.get("tuned", {}),
    )


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    path = folder / "metrics.jsonl"
    if path.exists():
        yield from (json.loads(line) for line in path.read_text("utf-8").splitlines())


def ask(accelerator: Any, trained: TrainedModel, region: Region, points: Points, batch_size: int) -> Tensor:
    """Probabilities of a trained model's species at points, float32[N, K].

    Raises:
        FileNotFoundError: a raster or a patch is not there.
        ValueError: the region's bands are not the model's, or a point cannot be read.
    """
    source = trained.open(region)
    source.complete(points, "points")
    build = PatchBuilder(source, points, trained.mean, trained.std, accelerator.device)
    return score(accelerator, trained.model.to(accelerator.device), build, batch_size, trained.activation)


def load_members(folders: Sequence[str | Path | TrainedModel]) -> list[TrainedModel]:
    """Load the members of an ensemble (see `load_model`); who asks often hands on what was loaded.

    Raises:
        FileNotFoundError: a folder is no finished run.
        ValueError: members do not share one vocabulary.
    """
    members = [run if isinstance(run, TrainedModel) else load_model(run) for run in folders]
    for member, folder in zip(members, folders, strict=True):
        if not np.array_equal(member.species.ids, members[0].species.ids):
            raise ValueError(
                f"{folder} and {folders[0]} answer with different species ({len(member.species)} and "
                f"{len(members[0].species)}): they cannot be averaged"
            )
    return members


def mean_decoding(members: Sequence[TrainedModel]) -> tuple[Decoding, dict[str, float]]:
    """The decoding of an ensemble (see `Decoding.mean`), and the mean of what all members have tuned."""
    shared = [rule for rule in members[0].tuned if all(rule in member.tuned for member in members)]
    means = [
        Decoding.mean([Decoding(Rule(rule), member.tuned[rule]) for member in members]) for rule in shared
    ]
    tuned = {mean.rule.value: mean.value for mean in means if mean.value is not None}
    return Decoding.mean([member.decoding for member in members]), tuned
