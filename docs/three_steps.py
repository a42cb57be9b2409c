"""The picture of `concepts/three_steps.md`: what each step does to predictions. `three_steps.py FOLDER`.

Makes a virtual region in FOLDER, trains the three steps of a small network on it, prints the scores on its
test table, and draws truth beside the predictions. What is there already is kept.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from glczoo.data.occurrences import Samples
from glczoo.data.region import Region
from glczoo.data.tables import read_points, read_test_samples
from glczoo.decoding import best_k, expected_f1, top_k
from glczoo.figures.style import BLUE, GREY, ORANGE, SEQUENTIAL, save
from glczoo.metrics import macro_auc, sample_f1
from glczoo.recipe import read_recipe
from glczoo.regions.virtual import make_virtual
from glczoo.runs.run import Run
from glczoo.train import train

PICTURE = Path(__file__).parent / "concepts" / "three_steps.png"
WORLD = {"species": 40, "po": 6000, "pa": 200, "test": 400, "size": 128, "grid": 32, "patch_size": 16}
SHARED = ["model=test_fusresnet_glc23", "batch_size=32", "data.augment=true", "decoding=expected_f1"]
STEPS = {
    "step1": ["init=random", "epochs=20", "schedule.milestones=[12,16]"],
    "step2": ["epochs=4", "schedule.milestones=[3]", "decoding=top_k", "batch_size=96"],
    "step3": ["epochs=20", "schedule.milestones=[12,16]"],
}
TITLES = {
    "truth": "truth",
    "step1": "after step 1\n(surveys)",
    "step2": "after step 2\n(records)",
    "step3": "after step 3\n(surveys again)",
}


def runs(folder: Path) -> dict[str, Run]:
    """The three runs, trained where they are not there."""
    world = folder / "world"
    if not world.exists():
        make_virtual(world, seed=4, **WORLD)
    shared = [*SHARED, f"region={world}", f"runs={folder / 'runs'}"]
    return {step: Run(train(read_recipe(step, [*shared, *words]))) for step, words in STEPS.items()}


def scores(trained: dict[str, Run], world: Path) -> str:
    """A table of the steps on the region's test table."""
    region = Region.load(world)
    lines = ["| after | sum of probabilities | species found | F1, best k | F1, expected | macro AUC |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for step, run in trained.items():
        test = read_test_samples(region, world / "truth" / "test_species.csv", run.model.species)
        target = _targets(test)
        validation = run.split("pa").validation
        at_validation = run.model.probabilities(validation, region)
        probabilities = run.model.probabilities(test, region)
        k = best_k(at_validation, _targets(validation))
        rows = (
            sample_f1(mask, target).mean() for mask in (top_k(probabilities, k), expected_f1(probabilities))
        )
        numbers = [f"{float(f1):.3f}" for f1 in rows]
        auc, _ = macro_auc(probabilities, target)
        sums = f"{float(probabilities.sum(1).mean()):.2f} | {float(target.sum(1).float().mean()):.2f}"
        lines.append(f"| {step} | {sums} | {numbers[0]} (k = {k}) | {numbers[1]} | {auc:.3f} |")
    return "\n".join(lines)


def _targets(samples: Samples) -> torch.Tensor:
    """What was found, [N, K]."""
    return samples.targets(torch.arange(len(samples)), WORLD["species"])


def draw(trained: dict[str, Run], world: Path) -> Figure:
    """Maps of one species, and how the sum of probabilities follows the number of species."""
    region = Region.load(world)
    with np.load(world / "truth" / "probabilities.npz") as file:
        true, ids = file["grid"], file["species_ids"]
    grid = read_points(region, world / "truth" / "grid.csv")
    vocabulary = next(iter(trained.values())).model.species
    columns = np.searchsorted(ids, vocabulary.ids)
    predicted = {"truth": true[:, columns]}
    predicted |= {step: run.model.probabilities(grid, region).numpy() for step, run in trained.items()}
    shown = int(true[:, columns].std(axis=0).argmax())  # varies most: predictions have no say in it
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    above, below = figure.subplots(2, 4, height_ratios=[1, 0.95])
    for axis, (name, values) in zip(above, predicted.items(), strict=True):
        side = round(len(values) ** 0.5)
        image = axis.imshow(values[:, shown].reshape(side, side), cmap=SEQUENTIAL)
        axis.set(title=TITLES[name], xticks=[], yticks=[])
        axis.title.set_fontsize(10)
        figure.colorbar(image, ax=axis, shrink=0.8, orientation="horizontal").ax.tick_params(labelsize=7)
    above[0].set_ylabel("one species", fontsize=9)
    richness = predicted.pop("truth").sum(1)
    below[0].axis("off")
    below[0].text(
        0, 0.5, "How many species the\nprobabilities add up to,\nbeside the true number,\nat 1,024 places:\n"
        "on the line is right.", fontsize=9, va="center",
    )  # fmt: skip
    for axis, (name, values) in zip(below[1:], predicted.items(), strict=True):
        _sums(axis, richness, values.sum(1), ORANGE if name == "step2" else BLUE)
    return figure


def _sums(axis: Axes, true: np.ndarray, predicted: np.ndarray, colour: str) -> None:
    top = max(true.max(), predicted.max()) * 1.05
    axis.plot([0, top], [0, top], color=GREY, linewidth=1)
    axis.scatter(true, predicted, s=4, color=colour, linewidths=0)
    axis.set(xlim=(0, top), ylim=(0, top), xlabel="true number", aspect="equal")
    axis.set_ylabel("sum of probabilities")
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    trained = runs(folder)
    print(scores(trained, folder / "world"))
    save(draw(trained, folder / "world"), PICTURE)
