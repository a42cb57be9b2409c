"""Verbs that train: a step, a forest, folds, a study, an ensemble of runs, a benchmark, the demonstration."""

from pathlib import Path
from typing import Literal

import click

from glczoo.cli.verbs import (
    CONTEXT,
    PATH,
    Verb,
    Verbs,
    first_process,
    json_option,
    overrides_argument,
    truth_option,
    will_write,
    write_json,
)
from glczoo.errors import GlczooError

__all__ = ["bench", "crossval", "demo", "ensemble", "fit", "forest", "recipes", "study", "train"]


class Train(Verb):
    """Its help ends with the keys of a recipe."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the keys of a recipe as its schema describes them."""
        from glczoo.recipe import describe

        formatter.write(f"\nKeys of a recipe:\n{describe()}\n")


@click.command("demo", cls=Verb)
@click.option("--out", type=PATH, default=Path("demo"), help="Folder to write.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Another number, another world.")
def demo(out: Path, seed: int) -> None:
    """A virtual region, three steps, two models, an ensemble, a map and a report."""
    from glczoo.demo import demo as run_demo

    will_write(out, folder=True)
    run_demo(out, seed=seed)


@click.command("train", cls=Train)
@click.argument("recipe")
@overrides_argument
def train(recipe: str, overrides: tuple[str, ...]) -> None:
    """One training step of a recipe; interrupted, the same command goes on where it was.

    RECIPE is a YAML file, such as my_region/recipes/step1.yaml, or the name of a packaged one, such as step1
    (see glczoo recipes); KEY=VALUE overrides its keys, such as optimizer.lr=5e-4. On several GPUs: accelerate
    launch -m glczoo.train RECIPE [KEY=VALUE]…
    """
    from glczoo.recipe import read_recipe
    from glczoo.train import train as run_recipe
    from glczoo.training.trackers import leave_processes

    settings = read_recipe(recipe, list(overrides))
    will_write(Path(settings.runs), folder=True, region=Path(settings.region))
    run_recipe(settings)
    leave_processes()


@click.command("list", cls=Verb)
def list_recipes() -> None:
    """List the packaged recipes, studies and regions, each with its sentence; so does `glczoo recipes`."""
    _print_recipes()


@click.command("copy", cls=Verb)
@click.argument("name", required=False)
@click.option("--to", "folder", type=PATH, default=Path("recipes"), help="Folder to copy to.")
def copy(name: str | None, folder: Path) -> None:
    """Copy the packaged recipes, descriptions of regions and studies to a folder, to edit them.

    NAME copies one alone, such as step2 or regions/glc23. No file that is there is overwritten.
    """
    from glczoo.packaged import copy_recipes

    will_write(folder, folder=True)
    paths = copy_recipes(folder, name)
    if name:
        print(paths[0])
    else:
        print(f"{folder}: {len(paths)} files. Now: glczoo train {folder / 'step1.yaml'} region=REGION")


@click.pass_context
def _list(ctx: click.Context) -> None:
    if ctx.invoked_subcommand is None:
        _print_recipes()


def _print_recipes() -> None:
    from glczoo.packaged import recipes as packaged

    names = packaged()
    width = max(len(name) for name in names)
    for name, sentence in names.items():
        print(f"{name:{width}}  {sentence}")


recipes = Verbs(
    "recipes",
    callback=_list,
    invoke_without_command=True,
    help="List the packaged recipes, studies and regions, each of which a verb takes by its name.",
    subcommand_metavar="[list|copy]",
    context_settings=CONTEXT,
    sections={"Verbs": [list_recipes, copy]},
)


class FitVerb(Verb):
    """Its help ends with the keys of a fit."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the keys of a fit as its schema describes them."""
        from glczoo.fit.settings import Fit
        from glczoo.recipe import describe

        formatter.write(f"\nKeys of a fit:\n{describe(Fit)}\n")


@click.command("fit", cls=FitVerb)
@click.argument("region", type=PATH)
@overrides_argument
@click.option("--out", type=PATH, metavar="RUN", help="Folder; by default runs/REGION/ensemble_glc23/fit.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="What it may take, about; by default there is no bound.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Threads; by default one for each core.")
@json_option
def fit(
    region: Path,
    overrides: tuple[str, ...],
    out: Path | None,
    minutes: float | None,
    jobs: int | None,
    json_file: Path | None,
) -> None:
    """Candidates of unlike kinds on a region, and the ensemble that its own data choose.

    REGION is region.yaml or its folder. Candidates are compared on spatial blocks of the training data that
    they were not fitted on; those with weight are fitted again on all of it and become one model, which
    evaluate, report, map and push take. Interrupted, the same command goes on. KEY=VALUE sets a key below,
    such as data.pa_fraction=0.5.
    """
    from glczoo.fit.fit import fit as run_fit

    will_write(json_file)
    will_write(out or Path("runs"), folder=True, region=region)
    fitted = run_fit(region, out, minutes, jobs, list(overrides))
    print(f"\n{fitted.text()}")
    write_json(json_file, fitted.leaderboard.to_json())


@click.command("forest", cls=Verb)
@click.argument("recipe")
@overrides_argument
@click.option("--trees", type=click.IntRange(min=1), default=500, help="How many.")
@click.option("--min-leaf", type=click.IntRange(min=1), default=2, help="Surveys in a leaf at least.")
def forest(recipe: str, overrides: tuple[str, ...], trees: int, min_leaf: int) -> None:
    """Fit a random forest on a recipe's surveys, as a run among the others.

    RECIPE is one of presence–absence surveys, such as recipes/step1.yaml; KEY=VALUE overrides its keys, such
    as name=forest.
    """
    from glczoo.recipe import read_recipe
    from glczoo.training.fit_forest import fit_forest

    settings = read_recipe(recipe, list(overrides))
    will_write(Path(settings.runs), folder=True, region=Path(settings.region))
    run = fit_forest(settings, trees, min_leaf)
    print(f"{run}: {trees} trees. Average it: glczoo ensemble {run} RUN --out DIR")


@click.command("crossval", cls=Verb)
@click.argument("recipe", type=PATH)
@overrides_argument
@json_option
def crossval(recipe: Path, overrides: tuple[str, ...], json_file: Path | None) -> None:
    """A recipe by folds of spatial blocks, and the ensemble of its members.

    RECIPE is such as recipes/step1.yaml; then step2.yaml, step3.yaml. KEY=VALUE overrides its keys, such as
    data.blocks.folds=5.
    """
    from glczoo.evaluation.crossval import crossval as run_folds
    from glczoo.recipe import read_recipe

    settings = read_recipe(recipe, list(overrides))
    will_write(Path(settings.runs), folder=True, region=Path(settings.region))
    will_write(json_file)
    result = run_folds(recipe, list(overrides))
    if first_process():
        print(result.text())
        write_json(json_file, result.to_json())


@click.command("study", cls=Verb)
@click.argument("study", type=PATH)
@overrides_argument
@truth_option("evaluate on the region's test table")
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Processes that train runs.")
def study(study: Path, overrides: tuple[str, ...], truth: Path | None, jobs: int) -> None:
    """A grid of runs and seeds, one table of means and spreads; resumable.

    STUDY is a YAML file, such as recipes/studies/swiss_trees.yaml; KEY=VALUE overrides a key of every recipe
    of the study. One with the key `benchmark`, such as recipes/studies/nceas.yaml, trains on presence-only
    records and is judged by surveys; KEY=VALUE overrides its own keys.
    """
    from glczoo.evaluation.nceas import is_benchmark, run_benchmark

    if is_benchmark(study):
        benchmark = run_benchmark(study, list(overrides))
        print(f"{benchmark.name}: presence-only records, judged by surveys\n\n{benchmark.markdown()}")
        return
    from glczoo.evaluation.study import run_study

    table = run_study(study, list(overrides), truth, jobs)
    if first_process():
        print(f"{table.name}, {table.part}: {table.surveys} surveys, seeds {table.seeds}\n")
        print(table.markdown())


@click.command("ensemble", cls=Verb)
@click.argument("runs", nargs=-1, required=True, type=PATH, metavar="RUN…")
@click.option("--out", type=PATH, required=True, help="Folder to write.")
@click.option(
    "--average", type=click.Choice(["probabilities", "logits"]), default="probabilities",
    help="What is averaged.",
)  # fmt: skip
def ensemble(runs: tuple[Path, ...], out: Path, average: Literal["probabilities", "logits"]) -> None:
    """Several runs as one model: one folder, one file of weights.

    RUN is the folder of a finished run.
    """
    from glczoo.runs.combine import combine

    will_write(out, folder=True, runs=runs if len(runs) > 1 else ())
    folder = combine(list(runs), out, average)
    print(f'{folder}: {len(runs)} members; timm.create_model("local-dir:{folder}", pretrained=True)')


@click.command("bench", cls=Verb)
@click.argument("words", nargs=-1, metavar="[RECIPE|KEY=VALUE]…")
@click.option("--region", type=PATH, help="region.yaml; by default the recipe's, else a virtual one.")
@click.option("--device", help="cpu, cuda, …; by default the fastest.")
@click.option(
    "--seconds", type=click.FloatRange(min=0, min_open=True), default=10.0, help="Of each measurement."
)
@click.option("--size", type=click.IntRange(min=1), default=256, help="Side of the virtual region, in cells.")
@json_option
def bench(
    words: tuple[str, ...],
    region: Path | None,
    device: str | None,
    seconds: float,
    size: int,
    json_file: Path | None,
) -> None:
    """Samples a second of table, patch, batch and step; hours of the paper's three steps.

    RECIPE is the step to measure: by default step 2 with the largest model. KEY=VALUE overrides its keys.
    """
    from glczoo.bench import bench as measure

    paths = [word for word in words if "=" not in word]
    if len(paths) > 1:
        raise GlczooError(f"one recipe is measured at a time, got {paths}")
    will_write(json_file)
    measured = measure(
        Path(paths[0]) if paths else None,
        [word for word in words if "=" in word],
        region=region,
        device=device,
        seconds=seconds,
        size=size,
    )
    print(measured.text())
    write_json(json_file, measured.to_json())
