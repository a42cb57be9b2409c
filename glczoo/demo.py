"""The whole method on a virtual region, minutes on two cores: `glczoo demo`.

Makes the region; trains the paper's three steps for two small models (late fusion of three branches, and one
branch that sees all channels) and its baseline; evaluates members and ensemble on the region's test table;
writes a submission; draws truth beside prediction; reports. What is done already is kept: an interrupted demo
goes on. Every number in the report is measured in the run.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from glczoo.data.occurrences import SpeciesIndex
from glczoo.data.region import Region
from glczoo.data.tables import read_points
from glczoo.evaluation.study import StudyTable, run_study
from glczoo.figures.style import BLUE, PALETTE, SEQUENTIAL
from glczoo.files import lock, whole
from glczoo.prediction.points import write_submission
from glczoo.regions.virtual import make_virtual
from glczoo.runs.run import Run, read_metrics

__all__ = ["demo"]

_WORLD: dict[str, Any] = {
    "species": 150,
    "po": 8000,
    "pa": 700,
    "test": 500,
    "size": 192,
    "grid": 40,
    "patch_size": 32,
}
_SECONDS = {"make the region": 0.0, "train and evaluate": 0.0, "predict and draw": 0.0}

# One recipe for each step, with fewer epochs and a shorter way to the last learning rate than the paper's.
_RECIPE = """\
# {what} (Ung et al. 2023, Table 2, shortened for the demo)
name: {name}
region: ../region
model: test_fusresnet_glc23
init: {init}
data: {{tables: {tables}, validation: {{pa: 0.2, po: 0.02}}, augment: true}}
loss: {loss}
optimizer: {{name: adam, lr: {lr}}}
schedule: {{milestones: {milestones}, gamma: 0.1}}
epochs: {epochs}
batch_size: {batch_size}
decoding: top_k
"""
_PA = dict(tables="[pa]", loss="bce", lr=1e-3, milestones=[12, 16], epochs=20, batch_size=64)
_PO = dict(tables="[po]", loss="ce", lr=3e-3, milestones=[3], epochs=4, batch_size=96)
_RECIPES = {
    "step1": dict(what="Step 1: BCE on PA", init="random", **_PA),
    "step2": dict(what="Step 2: cross-entropy on PO", init="step1", **_PO),
    "step3": dict(what="Step 3: BCE on PA again", init="step2", **_PA),
    "baseline": dict(
        what="Baseline: PO and PA together, assuming negatives", init="random",
        **{**_PO, "tables": "[po, pa]", "loss": "an"},
    ),
}  # fmt: skip
_STUDY = """\
# The paper's Tables 3 and 4, in small, on a virtual region. Continue or repeat: glczoo study {path}
name: demo
seeds: [{seed}]
set: {{runs: {runs}}}
runs:
  baseline: {{recipe: recipes/baseline.yaml, set: {{model: test_resnet}}}}
  step1: {{recipe: recipes/step1.yaml}}
  step2: {{recipe: recipes/step2.yaml}}
  step3: {{recipe: recipes/step3.yaml}}
  early1: {{recipe: recipes/step1.yaml, set: {{model: test_resnet}}}}
  early2: {{recipe: recipes/step2.yaml, set: {{model: test_resnet, init: early1}}}}
  early3: {{recipe: recipes/step3.yaml, set: {{model: test_resnet, init: early2}}}}
rows:
  baseline, one branch: [baseline]
  "1, three branches": [step1]
  "1+2, three branches": [step2]
  "1+2+3, one branch": [early3]
  "1+2+3, three branches": [step3]
  ensemble of the two: [early3, step3]
"""
# The orderings that the paper's Tables 3 and 4 show, as (better, worse) rows of the study.
_ORDER = [
    ("1, three branches", "baseline, one branch", "step 1 beats the baseline on PO and PA together"),
    ("1+2+3, one branch", "baseline, one branch", "three steps beat the baseline of the same model"),
    ("1, three branches", "1+2, three branches", "stopping after step 2 loses what step 1 had"),
    ("1+2+3, three branches", "1, three branches", "three steps beat step 1"),
    ("ensemble of the two", "1+2+3, three branches", "the ensemble beats its members: late fusion"),
    ("ensemble of the two", "1+2+3, one branch", "the ensemble beats its members: one branch"),
]


@dataclass(frozen=True)
class Drawn:
    """The species on the demo's map, and how well its prediction follows the truth."""

    species: int
    correlation: float


def demo(out: Path, seed: int = 0) -> Path:
    """Run the demo in a folder and return its report.

    Raises:
        ExistsError: the folder holds something other than a demo of this seed.
        GlczooError: another process works there.
    """
    # Models this small gain little by a second thread, and lose tenfold when its core is wanted elsewhere.
    torch.set_num_threads(1)
    with lock(out / "report.md"):
        out.mkdir(parents=True, exist_ok=True)
        return _demo(out, seed)


def _demo(out: Path, seed: int) -> Path:
    """Run it in a folder in which no other process works."""
    seconds = dict(_SECONDS)
    start = time.perf_counter()
    world = out / "region"
    if not (world / "region.yaml").exists():
        print(f"1/4  a virtual region in {world}")
        make_virtual(world, seed=seed, **_WORLD)
    seconds["make the region"] = time.perf_counter() - start

    print("2/4  three steps for two models, and the baseline")
    start = time.perf_counter()
    (out / "recipes").mkdir(exist_ok=True)
    for name, values in _RECIPES.items():
        with whole(out / "recipes" / f"{name}.yaml") as partial:
            partial.write_text(_RECIPE.format(name=name, **values), "utf-8")
    study = out / "study.yaml"
    with whole(study) as partial:
        partial.write_text(_STUDY.format(path=study, seed=seed, runs=json.dumps(str(out / "runs"))), "utf-8")
    table = run_study(study, truth=world / "truth" / "test_species.csv")
    seconds["train and evaluate"] = time.perf_counter() - start

    print("3/4  a submission and a map by the ensemble")
    start = time.perf_counter()
    region = Region.load(world)
    runs = out / "runs" / "demo" / f"seed{seed}" / region.name
    late, early = runs / "test_fusresnet_glc23", runs / "test_resnet"
    members = [early / "early3", late / "step3"]
    described = region.table("test")
    points = read_points(region, region.find(*described.file), described)
    ensemble = Run.load(members)
    species = ensemble.species
    predicted = ensemble.decoding(ensemble.probabilities(points, region), points.datasets)
    write_submission(out / "submission.csv", points, predicted, species)
    grid = read_points(region, world / "truth" / "grid.csv")
    mapped = ensemble.probabilities(grid, region)
    drawn = _draw(out / "demo.png", world, species, mapped, {"late": late, "early": early}, table)
    seconds["predict and draw"] = time.perf_counter() - start

    print("4/4  the report")
    report = out / "report.md"
    with whole(report) as partial:
        text = _report(table, seconds, drawn, float(predicted.sum(1).double().mean()), out)
        partial.write_text(text, "utf-8")
    print("\n" + table.markdown() + f"\n\n{report}  {out / 'demo.png'}  {out / 'submission.csv'}")
    return report


def _draw(
    path: Path,
    world: Path,
    species: SpeciesIndex,
    mapped: torch.Tensor,
    models: dict[str, Path],
    table: StudyTable,
) -> Drawn:
    """Truth beside prediction for one species, the losses of the steps, F1 of the rows."""
    with np.load(world / "truth" / "probabilities.npz") as truth:
        true = truth["grid"]
        true_ids = truth["species_ids"]
    side = round(len(true) ** 0.5)
    # The species whose true map has most to show; the prediction has no say in the choice.
    shown = int(true_ids[true.std(axis=0).argmax()])
    at_truth = true[:, int(np.flatnonzero(true_ids == shown)[0])]
    at_model = mapped[:, int(np.flatnonzero(species.ids == shown)[0])].numpy()
    agreement = float(np.corrcoef(at_truth, at_model)[0, 1])

    figure = Figure(figsize=(11, 8.5), layout="constrained")
    axes = figure.subplots(2, 2)
    top = max(at_truth.max(), at_model.max())
    for axis, values, title in (
        (axes[0, 0], at_truth, f"truth: species {shown}"),
        (axes[0, 1], at_model, f"ensemble's prediction (r = {agreement:.2f})"),
    ):
        image = axis.imshow(values.reshape(side, side), vmin=0, vmax=top, cmap=SEQUENTIAL)
        axis.set(title=title, xticks=[], yticks=[], xlabel="west – east", ylabel="south – north")
        figure.colorbar(image, ax=axis, label="probability of presence", shrink=0.85)
    for name, folder, steps, style in (
        ("three branches", models["late"], ("step1", "step2", "step3"), "-"),
        ("one branch", models["early"], ("early1", "early2", "early3"), "--"),
    ):
        start = 0
        for number, (step, colour) in enumerate(zip(steps, PALETTE, strict=False), 1):
            losses = [line["loss"] for line in read_metrics(folder / step) if line["kind"] == "epoch"]
            x = range(start + 1, start + len(losses) + 1)
            axes[1, 0].plot(x, losses, style, color=colour, label=f"step {number}, {name}")
            start += len(losses)
    axes[1, 0].set(yscale="log", xlabel="epoch", ylabel="training loss", title="BCE → cross-entropy → BCE")
    axes[1, 0].legend(fontsize=8)
    rows = [(row.row, row.means["f1"]) for row in table.rows]
    bars = axes[1, 1].barh([name for name, _ in rows][::-1], [f1 for _, f1 in rows][::-1], color=BLUE)
    axes[1, 1].bar_label(bars, fmt="%.3f", padding=3)
    axes[1, 1].set(xlabel="per-sample F1, top k (eq. 3)", title=f"{table.surveys} test surveys")
    axes[1, 1].margins(x=0.25)
    with whole(path) as partial:
        figure.savefig(partial, dpi=110)
    return Drawn(shown, agreement)


def _verdict(gain: float) -> str:
    return "level" if abs(gain) < 0.005 else "yes" if gain > 0 else "NO"


def _report(table: StudyTable, seconds: dict[str, float], drawn: Drawn, size: float, out: Path) -> str:
    f1 = {row.row: row.means["f1"] for row in table.rows}
    order = "\n".join(
        f"| {claim} | {f1[worse]:.3f} → {f1[better]:.3f} | {_verdict(f1[better] - f1[worse])} |"
        for better, worse, claim in _ORDER
    )
    spent = ", ".join(f"{what} {value:.0f} s" for what, value in seconds.items())
    return f"""# glczoo demo

A virtual region of {_WORLD["species"]} species: {_WORLD["po"]:,} presence-only records, {_WORLD["pa"]}
presence-absence surveys, {table.surveys} test surveys with {table.species_per_survey:.1f} species each.
The region is made up: these numbers say that the method works here, nothing about real plants. One seed:
differences of about a hundredth in F1 are within chance, and under .005 are called level.

{table.markdown()}

## The paper's ordering (Tables 3 and 4) beside this run

| in the paper | F1 here | holds here |
|---|---|---|
{order}

![truth beside prediction](demo.png)

Species {drawn.species}, the one whose true map varies most: correlation of truth and the ensemble's
prediction over the map {drawn.correlation:.2f}. `submission.csv` predicts {size:.1f} species a row.

Wall time of this run: {spent}. Recipes: `{out}/recipes`; runs: `{out}/runs`.
"""
