"""How a model came about: every step that led to a run, to be told on its card and published with it."""

import json
from pathlib import Path
from typing import Any

from glczoo.hub_client import PREFIX, pull
from glczoo.models.published import read_config
from glczoo.recipe import read_run_recipe, renamed, write_recipe
from glczoo.runs.run import is_finished, read_metrics

__all__ = ["portable", "predecessor", "read_lineage", "write_recipes"]


def read_lineage(run: Path) -> list[dict[str, Any]]:
    """Every step that led to a run, the first first: what it was told, and how it went.

    Raises:
        FileNotFoundError: a run that another started from is not there any more.
    """
    if (run / "recipes").is_dir():  # an ensemble, or published: it brings its history along
        steps = json.loads((run / "metrics.json").read_text("utf-8"))["training"]
        return [step | {"recipe": renamed(step["recipe"])} for step in steps]
    recipe, processes = read_run_recipe(run)
    epochs = [line for line in read_metrics(run) if line["kind"] == "epoch"]
    told = recipe.model_dump(mode="json") | {"region": read_config(run)["glczoo"]["region"]}
    measured = [line["validation_f1"] for line in epochs if line["validation_f1"] is not None]
    step = {
        "recipe": portable(told, told["region"]),
        "processes": processes,
        "seconds": sum(line["seconds"] for line in epochs),
        "loss": epochs[-1]["loss"] if epochs else None,
        "validation_f1": max(measured, default=None),
    }
    before = predecessor(run)
    return [step] if before is None else [*read_lineage(before), step]


def predecessor(run: Path) -> Path | None:
    """The folder of the run, or of the model on the Hub, that a run started from; None where it started anew.

    Raises:
        FileNotFoundError: it is not there any more.
        HubError: it cannot be had from the Hub.
    """
    init = read_run_recipe(run)[0].init
    if init in ("imagenet", "random"):
        return None
    if init.startswith(PREFIX):
        return pull(init)
    before = next((p for p in (run.parent / init, Path(init)) if is_finished(p)), None)
    if before is None:
        raise FileNotFoundError(
            f"{run} started from the run {run.parent / init}, which is not there any more: its "
            "history cannot be told"
        )
    return before


def write_recipes(folder: Path, training: list[dict[str, Any]]) -> None:
    """Write recipes/NUMBER-NAME.yaml of every step, in order."""
    region = read_config(folder)["glczoo"]["region"]
    for number, step in enumerate(training, 1):
        target = folder / "recipes" / f"{number}-{step['recipe']['name']}.yaml"
        target.parent.mkdir(parents=True, exist_ok=True)
        told = step["recipe"]
        write_recipe(target, told | {"region": "../region.yaml"} if told["region"] == region else told)


def portable(told: dict[str, Any], region: str) -> dict[str, Any]:
    """A recipe without the folders of this machine."""
    weights = told["imagenet"]["weights"]
    imagenet = told["imagenet"] | {"weights": Path(weights).name if weights else None}
    pseudo = told.get("pseudo") and told["pseudo"] | {"teacher": _name(told["pseudo"]["teacher"])}
    own = {"init": _name(told["init"]), "imagenet": imagenet, "pseudo": pseudo}
    return told | {"region": region, **own, "runs": "runs"}


def _name(run: str) -> str:
    return run if run.startswith(PREFIX) else Path(run).name
