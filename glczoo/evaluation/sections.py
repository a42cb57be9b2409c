"""Sections of a report: species, importance, response curves, and how the model was made."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import timm
import torch

from glczoo.data.occurrences import Samples
from glczoo.data.region import Region
from glczoo.data.splits import leakage
from glczoo.evaluation.explain import permutation_importance, response_curves
from glczoo.figures import report as figures
from glczoo.figures.style import svg_uri
from glczoo.files import sha256
from glczoo.recipe import recipe_text
from glczoo.runs.lineage import Step
from glczoo.runs.run import Run
from glczoo.runs.split import Kind
from glczoo.runs.trained import TrainedModel

__all__ = [
    "Command",
    "Extremes",
    "Importance",
    "Made",
    "Responses",
    "extremes",
    "importance",
    "made",
    "responses",
    "some",
    "training_curves",
    "versions",
]

_EXTREMES = 10  # best species, and worst


@dataclass(frozen=True)
class SpeciesRow:
    """A species on the surveys of a report."""

    name: str
    presences: int
    auc: float
    f1: float
    records: list[int]  # training samples of each table that name it


@dataclass(frozen=True)
class Extremes:
    """The species of highest and of lowest AUC; none stands among both."""

    best: list[SpeciesRow]
    worst: list[SpeciesRow]


def extremes(
    trained: TrainedModel,
    presences: torch.Tensor,
    auc: torch.Tensor,
    f1: torch.Tensor,
    records: Sequence[np.ndarray],
) -> Extremes:
    """Sort species by AUC.

    Args:
        trained: names the species.
        presences: surveys that hold each species, int64[K].
        auc: nan where it is not defined, float64[K].
        f1: float64[K].
        records: training samples that name each species, int64[K] of each table.
    """
    ranked = auc.argsort(descending=True)
    rows = [
        SpeciesRow(
            trained.species.label(k),
            int(presences[k]),
            float(auc[k]),
            float(f1[k]),
            [int(numbers[k]) for numbers in records],
        )
        for k in ranked[~auc[ranked].isnan()].tolist()
    ]
    number = min(_EXTREMES, -(-len(rows) // 2))
    return Extremes(rows[:number], rows[number:][::-1][:number])


def training_curves(runs: Sequence[Run]) -> str | None:
    """A picture of all epochs that are recorded here, None if there are none."""
    curves = {}
    for run in runs:
        epochs = [line for line in run.metrics if line["kind"] == "epoch"]
        if epochs:
            keys = ("loss", "validation_f1")
            curves[run.folder.name] = {key: [line[key] for line in epochs] for key in keys}
    return svg_uri(figures.training_curves(curves)) if curves else None


@dataclass(frozen=True)
class Lost:
    """F1 lost by name, and a picture of it."""

    lost: dict[str, float]
    picture: str


@dataclass(frozen=True)
class Importance:
    """Permutation importance of every band and of every modality, by the F1 of held-out surveys."""

    f1: float
    surveys: int
    bands: Lost
    modalities: Lost


def importance(trained: TrainedModel, region: Region, samples: Samples, device: torch.device) -> Importance:
    """Permute bands and modalities between samples; see `explain.permutation_importance`."""
    by_modality, channels = _modalities(trained, region), trained.channels
    bands = {f"{band} ({name})": channels[band] for name, part in by_modality.items() for band in part}
    modalities = {name: sum((channels[band] for band in part), []) for name, part in by_modality.items()}
    groups = [*bands.values(), *modalities.values()]
    measured = permutation_importance(trained, region, samples, groups, device=device)
    title = f"F1 lost, of {measured.f1:.3f}"
    parts = []
    for names, start in ((list(bands), 0), (list(modalities), len(bands))):
        lost, low, high = (
            values[start : start + len(names)] for values in (measured.lost, measured.low, measured.high)
        )
        picture = svg_uri(figures.importance(names, lost, low, high, title))
        parts.append(Lost(dict(zip(names, lost.tolist(), strict=True)), picture))
    return Importance(measured.f1, len(samples), *parts)


@dataclass(frozen=True)
class Responses:
    """Response curves of some species, a picture for each modality."""

    species: list[str]
    surveys: int
    table: Kind
    pictures: dict[str, str]


def responses(run: Run, chosen: np.ndarray, sample: int, device: torch.device) -> Responses:
    """Curves of chosen species along the range of the bands at training samples, and bars of levels.

    `sample`: how many training samples they are averaged over.
    """
    trained, region = run.model, run.region
    table: Kind = "pa" if "pa" in region.tables else "po"
    samples = some(run.split(table).train, sample)
    samples = samples.subset(trained.open(region).complete(samples, "training samples", drop=True))
    curves = response_curves(trained, region, samples, chosen, device=device)
    units = {band.name: band.unit for band, _ in region.bands()}
    labels = [trained.species.label(k) for k in chosen.tolist()]
    pictures = {}
    for modality, bands in _modalities(trained, region).items():
        rows = [row for row, band in enumerate(curves.bands) if band in bands]
        names = [curves.bands[row] for row in rows]
        figure = figures.responses(
            curves.values[rows],
            curves.answers[rows],
            [f"{name}, {units[name]}" if units[name] else name for name in names],
            labels,
            curves.median[rows],
            {band: (found.levels, found.answers) for band, found in curves.levels.items() if band in bands},
            answer=trained.answer,
        )
        pictures[modality] = svg_uri(figure)
    return Responses(labels, len(samples), table, pictures)


def _modalities(trained: TrainedModel, region: Region) -> dict[str, list[str]]:
    """Bands of every modality that the model sees."""
    return {
        modality.name: [band.name for band in modality.bands]
        for modality in region.select(trained.modalities)
    }


def some(samples: Samples, number: int) -> Samples:
    """At most so many of the samples, drawn by a fixed seed. `number`: how many."""
    return samples.subset(np.sort(np.random.default_rng(0).permutation(len(samples))[:number]))


@dataclass(frozen=True)
class Command:
    """A step as a recipe's file and the command that trains it."""

    file: str
    command: str
    recipe: str


@dataclass(frozen=True)
class Made:
    """What the model is, on which data, and the commands that made it."""

    id: str
    sha256: str
    architecture: str
    parameters: int
    species: int
    bands: int
    patch_size: int
    decoding: str
    data: str
    data_licence: str
    citations: list[str]  # of the data
    published_with: str
    versions: str
    command: str  # that made the page
    steps: list[Command]
    split: str
    surveys: dict[str, int] | None  # of each part
    nearest_km: float | None  # from a survey of the part to one that trained


def made(run: Run, name: str, part: str, steps: Sequence[Step], command: str) -> Made:
    """How a run was made; `name`: what the user called it, `part`: whose surveys the report is about."""
    model, section = run.model, run.config.glczoo
    surveys, nearest = None, None
    if "pa" in run.region.tables:
        split = run.split("pa")
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        surveys = {key: len(samples) for key, samples in parts.items()}
        if part in ("validation", "test"):
            nearest = leakage(split.train, parts[part], 0).nearest_km
    return Made(
        id=name,
        sha256=sha256(run.folder / "model.safetensors"),
        architecture=run.config.architecture,
        parameters=sum(p.numel() for p in model.model.parameters()),
        species=len(model.species),
        bands=len(model.bands),
        patch_size=model.patch_size,
        decoding=str(model.decoding),
        data=section.data or f"region {section.region}",
        data_licence=section.data_licence or "not stated in region.yaml",
        citations=run.citations(),
        published_with=str(run.published.get("versions", "")),
        versions=f"{versions()}, Python {platform.python_version()}",
        command=command,
        steps=[_command(number, step) for number, step in enumerate(steps, 1)],
        split=recipe_text(run.recipe.data.model_dump(mode="json")),
        surveys=surveys,
        nearest_km=nearest,
    )


def _command(number: int, step: Step) -> Command:
    file = f"{number}-{step.recipe.name}.yaml"
    launch = "python"
    if step.processes > 1:
        launch = f"accelerate launch --num_processes {step.processes}"
    command = f"{launch} -m glczoo.train {file} region=REGION/region.yaml"
    return Command(file, command, recipe_text(step.recipe.model_dump(mode="json")))


def versions() -> str:
    """What computes here."""
    return f"glczoo {version('glczoo')}, torch {torch.__version__}, timm {timm.__version__}"
