"""The ODMAP protocol of a run: `glczoo report RUN --odmap FILE.csv`.

Zurell et al. 2020, "A standard protocol for reporting species distribution models", Ecography 43,
doi:10.1111/ecog.04960: Overview, Data, Model, Assessment, Prediction. Elements are the paper's (Table 1 and
its appendix). What recipe, region, splits and scores hold is filled in; what only the authors can know is
left empty.
"""

import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glczoo.data.occurrences import Samples
from glczoo.data.region import RecordFilters
from glczoo.data.sensitive import shown_places
from glczoo.data.table_files.writing import texts, write_csv
from glczoo.evaluation.held_out import PartScore
from glczoo.evaluation.records import RecordsScore
from glczoo.evaluation.sections import Responses, versions
from glczoo.models.ensemble import Ensemble
from glczoo.recipe import Recipe
from glczoo.runs.run import Run
from glczoo.runs.split import Kind

__all__ = ["Entry", "odmap", "unanswered", "write_odmap"]

_PROCESSING = (
    "values of a patch around the sample; standardised by mean and standard deviation of the training "
    "samples; cells without data filled with the mean"
)
_KINDS = {"pa": "presence-absence surveys", "po": "presence-only records"}


@dataclass(frozen=True)
class Entry:
    """An element of the protocol; its value is empty where only the authors know it."""

    section: str
    subsection: str
    element: str
    value: str = ""


def odmap(run: Run, results: PartScore | RecordsScore, responses: Responses | None = None) -> list[Entry]:
    """The whole protocol, in its order.

    Args:
        run: on the region that the report is about.
        results: of the report, on surveys or on records that were held out.
        responses: curves that the report shows.
    """
    parts = (
        ("Overview", _overview(run)),
        ("Data", _data(run)),
        ("Model", _model(run)),
        ("Assessment", _assessment(results, responses)),
        ("Prediction", _prediction(run)),
    )
    return [Entry(section, *row) for section, rows in parts for row in rows]


def unanswered(entries: Iterable[Entry]) -> list[str]:
    """Elements that the authors have to fill in: `Section: element`. `entries`: of the protocol."""
    return [f"{entry.section}: {entry.element}" for entry in entries if not entry.value]


def write_odmap(path: Path, entries: Sequence[Entry]) -> None:
    """Write a table section,subsection,element,value; a cell that looks like a formula gets an apostrophe.

    `entries`: of the protocol, a row each.
    """
    columns = ("section", "subsection", "element", "value")
    write_csv(path, {name: texts(getattr(entry, name) for entry in entries) for name in columns})


def _overview(run: Run) -> list[tuple[str, str, str]]:
    region, recipe, section = run.region, run.recipe, run.config.glczoo
    tables = recipe.data.tables
    seen = _unique(table for step in run.lineage for table in step.recipe.data.tables)
    observed = " and ".join(_KINDS[table] for table in seen)
    modalities = [m for m in region.modalities if m.name in section.modalities]
    return [
        ("Authorship", "Study title", ""),
        ("Authorship", "Author names", ""),
        ("Authorship", "Contact", ""),
        ("Authorship", "Study link", ""),
        ("Model objective", "Model objective", ""),
        (
            "Model objective",
            "Target output",
            f"probabilities of presence, and sets by {section.decoding}",
        ),
        ("Focal taxon", "Focal taxon", f"{len(run.species)} species, see Taxon names"),
        ("Location", "Location", _joined([region.name, region.description], ". ")),
        ("Scale of analysis", "Spatial extent", _extent(run)),
        ("Scale of analysis", "Spatial resolution", _resolution(run)),
        ("Scale of analysis", "Temporal extent", _years(region.records)),
        ("Scale of analysis", "Temporal resolution", ""),
        ("Scale of analysis", "Boundary", "rectangle" if region.bounds else ""),
        ("Biodiversity data", "Observation type", observed),
        ("Biodiversity data", "Response data type", " and ".join(_KINDS[table] for table in tables)),
        ("Predictors", "Predictor types", _joined(m.name for m in modalities)),
        ("Hypotheses", "Hypotheses", ""),
        ("Assumptions", "Model assumptions", ""),
        ("Algorithms", "Modelling techniques", _technique(run)),
        ("Algorithms", "Model complexity", f"{_parameters(run):,} parameters"),
        ("Algorithms", "Model averaging", _averaging(run)),
        ("Workflow", "Model workflow", _workflow(run)),
        ("Software", "Software", f"{versions()}, Python {platform.python_version()}"),
        ("Software", "Code availability", ""),
        ("Software", "Data availability", _joined([region.licence, *run.citations()], ". ")),
    ]


def _data(run: Run) -> list[tuple[str, str, str]]:
    region, section = run.region, run.config.glczoo
    kinds: list[Kind] = [kind for kind in ("pa", "po") if kind in region.tables]
    splits = {kind: run.split(kind) for kind in kinds}
    sizes = {
        part: _joined(
            f"{len(samples)} {_KINDS[kind]}"
            for kind, split in splits.items()
            if len(samples := getattr(split, part))
        )
        for part in ("train", "validation", "test")
    }
    systems = _unique(band.crs for band in section.bands)
    bands = [f"{b.name} [{b.unit}]" if b.unit else b.name for b in section.bands]
    return [
        ("Biodiversity data", "Taxon names", _joined(run.species.label(k) for k in range(len(run.species)))),
        ("Biodiversity data", "Taxonomic reference system", ""),
        ("Biodiversity data", "Ecological level", "species"),
        ("Biodiversity data", "Data sources", _joined(run.citations("tables"), ". ")),
        ("Biodiversity data", "Sampling design", ""),
        ("Biodiversity data", "Sample size", _joined(_size(kind, s.train) for kind, s in splits.items())),
        ("Biodiversity data", "Clipping", _bounds(run)),
        ("Biodiversity data", "Scaling", _scaling(region.records)),
        ("Biodiversity data", "Cleaning", _filters(region.records)),
        ("Biodiversity data", "Absence data", "species not found in a survey" if "pa" in kinds else ""),
        ("Biodiversity data", "Background data", _background(run.recipe)),
        ("Biodiversity data", "Errors and biases", ""),
        ("Data partitioning", "Training data", _joined([sizes["train"], _partition(run.recipe)])),
        ("Data partitioning", "Validation data", sizes["validation"]),
        ("Data partitioning", "Test data", sizes["test"]),
        ("Predictor variables", "Predictor variables", _joined(bands)),
        ("Predictor variables", "Data sources", _joined(run.citations("rasters"), ". ")),
        ("Predictor variables", "Spatial extent", _extent(run)),
        ("Predictor variables", "Spatial resolution", _resolution(run)),
        (
            "Predictor variables",
            "Coordinate reference system",
            _joined(systems),
        ),
        ("Predictor variables", "Temporal extent", ""),
        ("Predictor variables", "Temporal resolution", ""),
        ("Predictor variables", "Data processing", _PROCESSING),
        ("Predictor variables", "Errors and biases", ""),
        ("Predictor variables", "Dimension reduction", "none"),
        ("Transfer data", "Data sources", ""),
        ("Transfer data", "Spatial extent", ""),
        ("Transfer data", "Spatial resolution", ""),
        ("Transfer data", "Temporal extent", ""),
        ("Transfer data", "Temporal resolution", ""),
        ("Transfer data", "Models and scenarios", ""),
        ("Transfer data", "Data processing", ""),
        ("Transfer data", "Quantification of novelty", ""),
    ]


def _model(run: Run) -> list[tuple[str, str, str]]:
    recipe, section = run.recipe, run.config.glczoo
    blocks = recipe.data.split == "blocks"
    kept = "weights of the best epoch by F1 of the validation samples" if recipe.keep == "best" else ""
    return [
        ("Variable pre-selection", "Variable pre-selection", ""),
        ("Multicollinearity", "Multicollinearity", ""),
        ("Model settings", "Model settings (fitting)", _workflow(run)),
        ("Model settings", "Model settings (extrapolation)", "none: values are used as they are"),
        ("Model estimates", "Coefficients", ""),
        ("Model estimates", "Parameter uncertainty", ""),
        ("Model estimates", "Variable importance", "permutation of bands between samples, see the report"),
        ("Model selection", "Model selection", kept),
        ("Model selection", "Model averaging", _averaging(run)),
        ("Model selection", "Model ensembles", _joined(section.members or [])),
        ("Non-independence", "Spatial autocorrelation", _partition(recipe) if blocks else ""),
        ("Non-independence", "Temporal autocorrelation", ""),
        ("Non-independence", "Nested data", ""),
        ("Threshold selection", "Threshold selection", _threshold(run)),
    ]


def _scores(results: PartScore | RecordsScore) -> tuple[str, str]:
    """The part that was judged, and how, in words."""
    if isinstance(results, RecordsScore):
        auc = "" if results.auc is None else f": AUC {results.auc:.3f}, mean over {results.species} species"
        return "validation", f"{results.held_out}, {results.places} places{auc}"
    first = results.rules[0]
    numbers = {"AUC": results.auc, "PR-AUC": results.pr_auc, "TSS": results.tss, "Boyce index": results.boyce}
    scores = [f"F1 by survey {first.f1:.3f} (95 % {first.f1_low:.3f} to {first.f1_high:.3f})"]
    scores += [f"{name} {number:.3f}" for name, number in numbers.items() if number is not None]
    return (
        results.part,
        f"{results.surveys} surveys: {', '.join(scores)}; means over surveys, and over species",
    )


def _assessment(results: PartScore | RecordsScore, responses: Responses | None) -> list[tuple[str, str, str]]:
    judged, text = _scores(results)
    shown = f"response curves of {', '.join(responses.species)} in the report" if responses else ""
    return [
        ("Performance statistics", f"Performance on {name} data", text if judged == part else "")
        for name, part in (("training", "train"), ("validation", "validation"))
    ] + [
        ("Performance statistics", "Performance on test data", text if _is_test(judged) else ""),
        ("Plausibility check", "Response shapes", shown),
        ("Plausibility check", "Expert judgement", ""),
    ]


def _prediction(run: Run) -> list[tuple[str, str, str]]:
    members = run.model.number > 1
    return [
        ("Prediction output", "Prediction unit", "probability of presence of each species, 0 to 1"),
        ("Prediction output", "Post-processing", f"sets of species by {run.config.glczoo.decoding}"),
        ("Uncertainty quantification", "Algorithmic uncertainty", "spread of the members" if members else ""),
        ("Uncertainty quantification", "Input data uncertainty", ""),
        ("Uncertainty quantification", "Parameter uncertainty", ""),
        ("Uncertainty quantification", "Scenario uncertainty", ""),
        (
            "Uncertainty quantification",
            "Novel environments",
            "area of applicability (Meyer & Pebesma 2021, doi:10.1111/2041-210X.13650) where a map masks it",
        ),
    ]


def _is_test(part: str) -> bool:
    """Of the split, or a table of truth."""
    return part not in ("train", "validation")


def _joined(parts: Iterable[str], between: str = "; ") -> str:
    return between.join(part.rstrip(".") if between == ". " else part for part in parts if part)


def _unique(values: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value))


def _extent(run: Run) -> str:
    kind: Kind = "pa" if "pa" in run.region.tables else "po"
    samples = run.split(kind).train
    if not len(samples):
        return ""
    samples = shown_places(samples, run.species.guarded(run.region.sensitive))
    west, east, south, north = (f(v) for v in (samples.lon, samples.lat) for f in (np.min, np.max))
    return f"training samples: lon {west:.4f} to {east:.4f}, lat {south:.4f} to {north:.4f} (degrees, WGS84)"


def _bounds(run: Run) -> str:
    if run.region.bounds is None:
        return ""
    west, south, east, north = run.region.bounds
    return f"lon {west:g} to {east:g}, lat {south:g} to {north:g}"


def _resolution(run: Run) -> str:
    section = run.config.glczoo
    grids = []
    for band in section.bands:
        cell = f"{band.cell:g} in the unit of {band.crs}" if band.cell else "not stated"
        grids.append(f"{band.modality} {band.resolution or cell}")
    return f"{_joined(_unique(grids))}; patches of {section.patch_size} x {section.patch_size} cells"


def _years(records: RecordFilters | None) -> str:
    return f"{records.years[0]} to {records.years[1]}" if records and records.years else ""


def _scaling(records: RecordFilters | None) -> str:
    return f"one record of a species in {records.cell_km:g} km" if records and records.cell_km else ""


def _filters(records: RecordFilters | None) -> str:
    """What is left out of the records, key by key."""
    if records is None:
        return "no record is left out by a filter"
    asked = records.model_dump(exclude_defaults=True, exclude={"columns"})
    return _joined(f"{key}: {value}" for key, value in asked.items())


def _size(kind: Kind, samples: Samples) -> str:
    named = len(np.unique(samples.species))
    occurrences = int(samples.sizes().sum())
    return f"{len(samples)} {_KINDS[kind]} for training, {occurrences} occurrences of {named} species"


def _background(recipe: Recipe) -> str:
    if "po" not in recipe.data.tables:
        return ""
    loss = (recipe.po_loss or recipe.loss).name
    return f"none is drawn; the loss {loss} treats species that a record does not name"


def _partition(recipe: Recipe) -> str:
    data = recipe.data
    if data.split == "blocks":
        blocks = data.blocks
        return (
            f"spatial blocks of {blocks.size_km:g} km in {blocks.folds} folds, fold {blocks.fold} held out, "
            f"buffer {blocks.buffer_km:g} km"
        )
    return "folds of a table" if data.split == "file" else f"at random, seed {data.seed}"


def _technique(run: Run) -> str:
    model = run.model.model
    if isinstance(model, Ensemble):
        return f"ensemble of {len(model.members)} models ({run.config.architecture})"
    kind = {"forest_glc23": "random forest", "quadratic_glc23": "quadratic regression"}
    return f"{kind.get(run.config.architecture, 'neural network')} ({run.config.architecture})"


def _parameters(run: Run) -> int:
    return sum(p.numel() for p in run.model.model.parameters())


def _averaging(run: Run) -> str:
    model = run.model.model
    if not isinstance(model, Ensemble):
        return "none"
    weights = f", weights {list(model.weights)}" if model.weights else ""
    return f"mean of the members' {model.average}{weights}"


def _workflow(run: Run) -> str:
    """The steps, in order."""
    texts_of = []
    for number, step in enumerate(run.lineage, 1):
        recipe = step.recipe
        tables = " and ".join(_KINDS[table] for table in recipe.data.tables)
        texts_of.append(
            f"{number}. {recipe.name}: {recipe.loss.name} on {tables}, from {recipe.init}, "
            f"{recipe.optimizer.name} at learning rate {recipe.optimizer.lr:g}, batches of "
            f"{recipe.batch_size}, {recipe.epochs} epochs, seed {recipe.seed}"
        )
    return _joined(texts_of)


def _threshold(run: Run) -> str:
    asked, decoding = run.recipe.decoding, run.config.glczoo.decoding
    how = f"tuned on {asked.tune_on} samples" if asked.tuned else "set in the recipe"
    return f"{decoding}, {how}"
