"""How a model came about: every step that led to a run, printed on its card and published with it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glczoo.hub_client import PREFIX, DamagedError
from glczoo.recipe import Recipe, renamed, write_recipe

if TYPE_CHECKING:
    from glczoo.runs.run import Run

__all__ = ["Step", "portable", "write_recipes"]


@dataclass(frozen=True)
class Step:
    """One training step: what it was asked for, and how it went."""

    recipe: Recipe  # without folders of the machine; its region is a name
    processes: int = 1
    seconds: float = 0.0
    loss: float | None = None  # of the last epoch
    validation_f1: float | None = None  # the best
    member: str = ""  # architecture of the member of an ensemble that it trained

    def to_json(self) -> dict[str, Any]:
        """What metrics.json keeps under `training`."""
        member = {"member": self.member} if self.member else {}
        return member | {
            "recipe": self.recipe.model_dump(mode="json"),
            "processes": self.processes,
            "seconds": self.seconds,
            "loss": self.loss,
            "validation_f1": self.validation_f1,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], where: Path) -> "Step":
        """What `to_json` wrote, also in an earlier release.

        Raises:
            DamagedError: it is no step.
        """
        try:
            recipe = Recipe.model_validate(renamed(dict(values["recipe"])))
            rest = {key: values[key] for key in ("processes", "seconds", "loss", "validation_f1")}
            return cls(recipe, member=str(values.get("member", "")), **rest)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"{where}: a training step cannot be read: {error}") from None


def own_step(run: "Run") -> Step:
    """The last step of a run."""
    epochs = [line for line in run.metrics if line["kind"] == "epoch"]
    measured = [line["validation_f1"] for line in epochs if line["validation_f1"] is not None]
    return Step(
        recipe=portable(run.recipe, run.config.glczoo.region),
        processes=run.processes,
        seconds=sum(line["seconds"] for line in epochs),
        loss=epochs[-1]["loss"] if epochs else None,
        validation_f1=max(measured, default=None),
    )


def write_recipes(folder: Path, steps: Sequence[Step], region: str) -> None:
    """Write recipes/NUMBER-NAME.yaml of every step, in order; `region`: whose region.yaml lies there."""
    for number, step in enumerate(steps, 1):
        target = folder / "recipes" / f"{number}-{step.recipe.name}.yaml"
        target.parent.mkdir(parents=True, exist_ok=True)
        values = step.recipe.model_dump(mode="json")
        if step.recipe.region == region:
            values["region"] = "../region.yaml"
        write_recipe(target, values)


def portable(recipe: Recipe, region: str) -> Recipe:
    """A recipe without the folders of this machine."""
    weights, pseudo = recipe.imagenet.weights, recipe.pseudo
    return recipe.model_copy(
        update={
            "region": region,
            "init": _name(recipe.init),
            "imagenet": recipe.imagenet.model_copy(
                update={"weights": Path(weights).name if weights else None}
            ),
            "pseudo": pseudo and pseudo.model_copy(update={"teacher": _name(pseudo.teacher)}),
            "runs": "runs",
        }
    )


def _name(run: str) -> str:
    return run if run.startswith(PREFIX) else Path(run).name
