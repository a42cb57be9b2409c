"""One page about a run: `glczoo report RUN --out report.html`.

A single HTML file that loads nothing from elsewhere: what the run scores on surveys that it never saw, step
by step beside the paper, where it errs, what it reads of its bands, and how it was made. `evaluate` and
`explain` measure, `figures` draws, `report.html` (a Jinja template) puts it together; here a section is a
function, which makes it long.
"""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from accelerate import Accelerator
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from glczoo.data.occurrences import Samples
from glczoo.data.region import Region
from glczoo.data.splits import EARTH_KM, leakage, spatial_blocks
from glczoo.decoding import Rule
from glczoo.evaluation.evaluate import Part, described, evaluate, records, rows_of, samples_of
from glczoo.evaluation.explain import errors_by_block, permutation_importance, response_curves
from glczoo.figures import report as figures
from glczoo.figures.style import svg_uri
from glczoo.files import sha256, whole
from glczoo.metrics import SpeciesScores, bootstrap, reliability, species_scores
from glczoo.models.published import read_config
from glczoo.recipe import Recipe, read_run_recipe, recipe_text
from glczoo.runs.lineage import predecessor, read_lineage
from glczoo.runs.run import TrainedModel, ask, load_model, locate, read_metrics, region_of
from glczoo.training.initial_model import split_table

__all__ = ["report"]

_FREQUENT = 4  # species whose response curves are drawn unless others are asked for
_EXTREMES = 10  # best species, and worst
_BLOCKS, _SURVEYS = 10, 10  # along the longer side of the map, at most, and in a block, about
# Table 4 of the paper, FusResNet50 on GeoLifeCLEF 2023: per-sample F1 of the public test set, worst first.
_PAPER = {"2": 0.059, "1+2": 0.073, "1": 0.200, "2+3": 0.226, "1+2+3": 0.254}
# Which of the paper's steps a model has behind it, by the tables that it was trained on one after the other.
_BEHIND = {"PA": "1", "PO": "2", "PA PO": "1+2", "PO PA": "2+3", "PA PO PA": "1+2+3"}


def report(
    run: str | Path,
    out: Path,
    *,
    part: Part | None = None,
    region: Region | None = None,
    truth: Path | None = None,
    species: Sequence[str] = (),
    sample: int = 1000,
    batch_size: int = 256,
    command: str | None = None,
    accelerator: Accelerator | None = None,
) -> dict[str, Any]:
    """Write a page about a run on the surveys that `evaluate` scores it by.

    Args:
        run: folder of a finished run, an ensemble or a published model, or `hf-hub:ORG/NAME`.
        out: HTML file to write, replaced if it is there. Written beside and renamed: whole or not there.
        part: which surveys of the split; the held-out fold if there is one, else the validation surveys.
        region: where the surveys are; the run's if None.
        truth: table Id;speciesId with the species of the region's test table, reported on instead of a part.
        species: speciesIds or names to draw response curves of; those with most records if empty.
        sample: draw this many surveys for permutation importance and response curves; 0 leaves them out.
        batch_size: points in a batch.
        command: that made the page, to be printed on it; the call of this function if None.
        accelerator: says on which device the model answers. One process is enough; the first one writes.

    Returns:
        What the template is filled with; pictures as data URIs.

    Raises:
        FileNotFoundError: the run, data, or the folder to write to are missing.
        ValueError: `out` cannot be written or is no .html, a species is unknown, the part has no surveys, or
            the region is not the model's.
    """
    _refuse_unwritable(out)
    accelerator = accelerator or Accelerator(cpu=not torch.accelerator.is_available())
    trained, folder = load_model(run), locate(run)
    chosen = trained.species.find(species)
    recipe, _ = read_run_recipe(folder)
    region = region or region_of(folder)
    asked: dict[str, Any] = dict(
        region=region, truth=truth, batch_size=batch_size, accelerator=accelerator, each=True
    )
    found = evaluate([run], part=part, **asked)
    surveys, probabilities, f1 = found["points"], found["probabilities"], found["rows"][0]["f1_each"]
    target = surveys.targets(torch.arange(len(surveys)), len(trained.species))
    mask = trained.decoding(probabilities, surveys.datasets)
    each = species_scores(mask, probabilities, target)
    counts = records(recipe, region, trained.species)
    total = np.sum([np.zeros(len(trained.species), np.int64), *counts.values()], axis=0)
    curve = reliability(probabilities, target)
    size_km = recipe.data.blocks.size_km if recipe.data.split == "blocks" else _round_km(surveys)
    blocks = errors_by_block(surveys, f1, size_km)
    folders, history, missing = _history(folder)
    drawn = {
        "training": _training_curves(folders),
        "reliability": figures.reliability(
            curve.number.numpy(), curve.probability.numpy(), curve.frequency.numpy()
        ),
        "sizes": figures.set_sizes(mask.sum(1).numpy(), surveys.sizes()),
        "auc": figures.auc_by_records(
            each.auc.numpy(), {table.upper(): numbers for table, numbers in counts.items()}
        ),
        "map": figures.block_map(blocks.bounds, blocks.f1, blocks.number, "mean F1 of the surveys"),
    }
    facts = {
        "name": trained.name, "region": found["region"], "part": found["part"],
        "where": f"{'surveys of the test table' if truth else found['part'] + ' surveys'} of {region.name}",
        "results": described(probabilities, surveys, trained.decoding.others(trained.tuned), total),
        "steps": _steps(history, folders, found, trained, size_km, asked),
        "missing": missing, "paper": _PAPER, "study": _study_of(folder),
        "ece": curve.ece, "species": _extremes(trained, each, counts), "tables": list(counts),
        "blocks": {"size_km": size_km, "number": len(blocks.f1)},
        "pictures": {name: svg_uri(figure) if figure else None for name, figure in drawn.items()},
        "importance": None, "responses": None,
        "made": _made(run, folder, trained, history)
        | _split(recipe, region, trained, found["part"])
        | {"command": command or f"glczoo.evaluation.report.report({str(run)!r}, {str(out)!r})"},
    }  # fmt: skip
    if sample >= 2:
        device = accelerator.device
        facts["importance"] = _importance(trained, region, _some(surveys, sample), device)
        if not len(chosen):
            chosen = np.argsort(-total, kind="stable")[:_FREQUENT]
        facts["responses"] = _responses(trained, recipe, region, chosen, sample, device)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=True,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"digits": _digits, "interval": _interval}
    page = environment.get_template("report.html").render(facts)
    if accelerator.is_main_process:
        with whole(out) as partial:
            partial.write_text(page, "utf-8")
    return facts


def _refuse_unwritable(out: Path) -> None:
    """Say so before anything is computed."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"the report is an HTML page: name a file that ends in .html, given {out}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out}: the folder {out.parent} does not exist; make it first")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        why = "a folder has that name" if out.is_dir() else f"you may not write in {out.parent}"
        raise ValueError(f"{out} cannot be written: {why}; name another file")


def _history(folder: Path) -> tuple[list[Path], list[dict[str, Any]], str]:
    """Folders of the runs that led here, the last of `read_lineage`'s steps; those steps; what is missing."""
    folders = [folder]
    try:
        if not (
            folder / "recipes"
        ).is_dir():  # else an ensemble or published: the steps' weights are not here
            while before := predecessor(folders[0]):
                folders.insert(0, before)
        return folders, read_lineage(folder), ""
    except FileNotFoundError as error:
        return folders, [], str(error)


def _steps(
    history: Sequence[Mapping[str, Any]],
    folders: Sequence[Path],
    found: Mapping[str, Any],
    trained: TrainedModel,
    size_km: float,
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """Each step with its own score on the surveys of `found`, and whether the paper's order holds among them.

    Steps whose weights are not here, that know other bands or species, or that may have trained on some of
    these surveys are told without a score.
    """
    rows: list[dict[str, Any]] = [
        {
            "name": step["recipe"]["name"], "member": step.get("member", ""),
            "tables": " ".join(step["recipe"]["data"]["tables"]).upper(),
            "loss": step["recipe"]["loss"]["name"], "epochs": step["recipe"]["epochs"],
            "forest": step["recipe"]["model"] == "forest_glc23",  # fitted at once: the paper has none
            "validation_f1": step["validation_f1"], "behind": "", "rule": "",
            "f1": None, "f1_expected": None, "auc": None,
        }
        for step in history
    ]  # fmt: skip
    part = None if asked["truth"] else found["part"]
    target = found["points"].targets(torch.arange(len(found["points"])), len(trained.species))
    f1_each = {}
    first = len(rows) - len(folders)
    known = first >= 0 and not any(row["member"] for row in rows)
    for number, folder in enumerate(folders, first) if known else ():
        mine = found["rows"]
        if folder != folders[-1]:
            before = load_model(folder)
            if not _comparable(before, folder, trained, found["points"], part, asked["region"]):
                continue
            probabilities = ask(
                asked["accelerator"], before, asked["region"], found["points"], asked["batch_size"]
            )
            mine = rows_of(
                before.name, probabilities, target, before.decoding, before.tuned, found["points"].datasets
            )
        own = mine[0]
        expected = next(row for row in mine if row["decoding"] == Rule.EXPECTED_F1)
        tables = " ".join(row["tables"] for row in rows[: number + 1])
        behind = "" if rows[number]["forest"] else _BEHIND.get(tables, "")
        f1_each[behind] = own["f1_each"]
        rows[number] |= {
            "behind": behind, "f1": own["f1"], "rule": own["rule"], "f1_expected": expected["f1"],
            "auc": own["auc"],
        }  # fmt: skip
    groups = torch.from_numpy(spatial_blocks(found["points"], size_km))
    claims = []
    for worse, better in pairwise(behind for behind in _PAPER if behind in f1_each):
        gain = f1_each[better] - f1_each[worse]
        low, high = bootstrap(gain, groups)
        holds = "yes" if low > 0 else "no" if high < 0 else "cannot be told apart"
        claims.append(
            {"better": better, "worse": worse, "paper": _PAPER[better] - _PAPER[worse],
             "gain": float(gain.mean()), "low": low, "high": high, "holds": holds}
        )  # fmt: skip
    return {"rows": rows, "claims": claims}


def _comparable(
    before: TrainedModel, folder: Path, trained: TrainedModel, points: Samples, part: Any, region: Region
) -> bool:
    """Whether an earlier step has the same bands and species, and held the surveys out too."""
    if before.bands != trained.bands or not np.array_equal(before.species.ids, trained.species.ids):
        return False
    recipe, _ = read_run_recipe(folder)
    if part is None or "pa" not in recipe.data.tables:
        return True
    held_out = samples_of(recipe, region, before.species, part)
    return bool(np.isin(points.ids, held_out.ids).all())


def _study_of(folder: Path) -> dict[str, Any] | None:
    """The table of the study that trained the run, at RUNS/STUDY/seedN/REGION/MODEL/RUN."""
    above = folder.resolve().parents
    if len(above) < 4 or not above[2].name.startswith("seed") or not (above[3] / "table.json").is_file():
        return None
    path = above[3] / "table.json"
    return json.loads(path.read_text("utf-8")) | {
        "path": os.path.relpath(path)
    }  # the page may be sent to others


def _training_curves(folders: Sequence[Path]) -> Any:
    """A figure of all epochs that are recorded here, None if there are none."""
    epochs = {at.name: [line for line in read_metrics(at) if line["kind"] == "epoch"] for at in folders}
    curves = {
        name: {key: [line[key] for line in lines] for key in ("loss", "validation_f1")}
        for name, lines in epochs.items() if lines
    }  # fmt: skip
    return figures.training_curves(curves) if curves else None


def _extremes(trained: TrainedModel, each: SpeciesScores, counts: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The species of highest and of lowest AUC; none stands among both."""
    ranked = each.auc.argsort(descending=True)
    order = ranked[~each.auc[ranked].isnan()].tolist()
    rows = [
        {
            "name": trained.species.label(k), "presences": int(each.presences[k]),
            "auc": float(each.auc[k]), "f1": float(each.f1[k]),
            "records": [int(numbers[k]) for numbers in counts.values()],
        }
        for k in order
    ]  # fmt: skip
    number = min(_EXTREMES, -(-len(rows) // 2))
    return {"best": rows[:number], "worst": rows[number:][::-1][:number]}


def _importance(
    trained: TrainedModel, region: Region, surveys: Samples, device: torch.device
) -> dict[str, Any]:
    """Of every band and of every modality, by the F1 of held-out surveys."""
    modalities = _modalities(trained, region)
    of = {channel: name for name, channels in modalities.items() for channel in channels}
    groups = {f"{band} ({of[channel]})": [channel] for channel, band in enumerate(trained.bands)}
    found = permutation_importance(
        trained, region, surveys, [*groups.values(), *modalities.values()], device=device
    )
    told: dict[str, Any] = {"f1": found.f1, "surveys": len(surveys)}
    start = 0
    for what, names in (("bands", list(groups)), ("modalities", list(modalities))):
        lost, low, high = (
            values[start : start + len(names)] for values in (found.lost, found.low, found.high)
        )
        figure = figures.importance(names, lost, low, high, f"F1 lost, of {found.f1:.3f}")
        told[what] = {"lost": dict(zip(names, lost.tolist(), strict=True)), "picture": svg_uri(figure)}
        start += len(names)
    return told


def _responses(
    trained: TrainedModel,
    recipe: Recipe,
    region: Region,
    chosen: np.ndarray,
    sample: int,
    device: torch.device,
) -> dict[str, Any]:
    """Curves of chosen species along the range that the bands have at training surveys."""
    table: Any = "pa" if "pa" in region.tables else "po"
    surveys = _some(split_table(recipe, region, table, trained.species).train, sample)
    surveys = surveys.subset(trained.open(region).complete(surveys, "training surveys", drop=True))
    found = response_curves(trained, region, surveys, chosen, device=device)
    units = {band.name: band.unit for band, _ in region.bands()}
    titles = [f"{band}, {units[band]}" if units[band] else band for band in trained.bands]
    labels = [trained.species.label(k) for k in chosen.tolist()]
    pictures = {
        name: svg_uri(
            figures.response_curves(
                found.values[channels], found.probability[channels], [titles[c] for c in channels], labels,
                found.median[channels],
            )
        )
        for name, channels in _modalities(trained, region).items()
    }  # fmt: skip
    return {"species": labels, "surveys": len(surveys), "table": table.upper(), "pictures": pictures}


def _modalities(trained: TrainedModel, region: Region) -> dict[str, list[int]]:
    """Channels of every modality that the model sees."""
    sizes = {modality.name: len(modality.bands) for modality in region.select(trained.modalities)}
    edges = np.cumsum([0, *sizes.values()]).tolist()
    return {name: list(range(a, b)) for name, (a, b) in zip(sizes, pairwise(edges), strict=True)}


def _some(surveys: Samples, number: int) -> Samples:
    return surveys.subset(np.sort(np.random.default_rng(0).permutation(len(surveys))[:number]))


def _made(
    run: str | Path, folder: Path, trained: TrainedModel, history: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What the model is, and the commands that made it."""
    config, published = read_config(folder), folder / "metrics.json"
    told = json.loads(published.read_text("utf-8")) if published.is_file() else {}
    steps = []
    for number, step in enumerate(history, 1):
        file, processes = f"{number}-{step['recipe']['name']}.yaml", step["processes"]
        launch = f"accelerate launch --num_processes {processes}" if processes > 1 else "python"
        command = f"{launch} -m glczoo.train {file} region=REGION/region.yaml"
        steps.append({"file": file, "command": command, "recipe": recipe_text(step["recipe"])})
    return {
        "id": str(run), "sha256": sha256(folder / "model.safetensors"),
        "architecture": config["architecture"],
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "species": len(trained.species), "bands": len(trained.bands), "patch_size": trained.patch_size,
        "decoding": str(trained.decoding),
        "data": config["glczoo"]["data"] or f"region {config['glczoo']['region']}",
        "data_licence": config["glczoo"]["data_licence"] or "not stated in region.yaml",
        "published_with": told.get("versions", ""),
        "versions": f"glczoo {version('glczoo')}, torch {torch.__version__}, timm {timm.__version__}, Python "
        + platform.python_version(),
        "steps": steps,
    }  # fmt: skip


def _split(recipe: Recipe, region: Region, trained: TrainedModel, part: str) -> dict[str, Any]:
    """How the surveys were split, and how near those that judge lie to those that trained."""
    told: dict[str, Any] = {
        "split": recipe_text(recipe.data.model_dump(mode="json")),
        "surveys": None,
        "nearest_km": None,
    }
    if "pa" in region.tables:
        split = split_table(recipe, region, "pa", trained.species)
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        told["surveys"] = {name: len(surveys) for name, surveys in parts.items()}
        if part in ("validation", "test"):
            told["nearest_km"] = leakage(split.train, parts[part], 0).nearest_km
    return told


def _round_km(surveys: Samples) -> float:
    """A round side of blocks: ten of them along the region's longer side, or fewer where surveys are few."""
    high, wide = (np.radians(np.ptp(degrees)) * EARTH_KM for degrees in (surveys.lat, surveys.lon))
    number = np.clip(np.sqrt(len(surveys) / _SURVEYS), 2, _BLOCKS)
    about = max(high, wide * np.cos(np.radians(surveys.lat.mean())), 1e-3) / number
    power = 10.0 ** math.floor(math.log10(about))
    return min(step * power for step in (1, 2, 5, 10) if step * power >= about)


def _digits(value: float | None, digits: int = 3) -> str:
    """A number in a table; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _interval(row: Mapping[str, Any], key: str) -> str:
    """A number and its interval: KEY, KEY_low and KEY_high."""
    ends = [row[f"{key}_low"], row[f"{key}_high"]]
    return _digits(row[key]) + (f" [{_digits(ends[0])}, {_digits(ends[1])}]" if None not in ends else "")
