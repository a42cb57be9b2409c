"""What shows a run live, beside its own metrics.jsonl: Accelerate's trackers (`trackers: [tensorboard]`)."""

import hashlib
import shutil
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import ProjectConfiguration

from glczoo.errors import GlczooError
from glczoo.recipe import Recipe

__all__ = ["finish_trackers", "leave_processes", "start_accelerator", "start_trackers", "track"]


def start_accelerator(recipe: Recipe, run: Path) -> Accelerator:
    """The accelerator of a recipe: its precision, and its trackers.

    Raises:
        GlczooError: a tracker is not installed.
    """
    for tracker in recipe.trackers:
        if find_spec(tracker) is None:
            raise GlczooError(f"trackers: {tracker} is not installed; pip install {tracker}, or leave it out")
    AcceleratorState._reset_state()  # a study trains several recipes in a process, each with its precision
    return Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=recipe.precision,
        log_with=list(recipe.trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(run), logging_dir=str(run / "tensorboard")),
    )


def leave_processes() -> None:
    """End a process's part in those that train together, after its last run.

    Without it one may end while another still talks to it, which then is ended by the system now and then.
    """
    PartialState().destroy_process_group()


def start_trackers(
    accelerator: Accelerator, recipe: Recipe, run: Path, lines: Iterable[Mapping[str, Any]]
) -> None:
    """Start the trackers of a run, or go on with them after the `lines` of its metrics.jsonl.

    TensorBoard's events are written anew from these lines: however often a run is interrupted, it has one
    file of events, and nothing in it that was trained again. The others keep a run by its name.
    """
    if not recipe.trackers:
        return
    if accelerator.is_main_process:
        shutil.rmtree(run / "tensorboard", ignore_errors=True)
    name = "/".join(run.parts[-3:])
    identity = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
    settings = {
        "wandb": {"name": name, "id": identity, "resume": "allow", "dir": str(run)},
        "trackio": {"name": name, "resume": "allow"},
    }
    accelerator.init_trackers("glczoo", init_kwargs=settings)
    for line in lines:
        for tracker in accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.log(_numbers(line), step=line["step"])


def track(accelerator: Accelerator, line: Mapping[str, Any]) -> None:
    """Hand one line of metrics.jsonl to the trackers."""
    accelerator.log(_numbers(line), step=line["step"])


def finish_trackers(accelerator: Accelerator) -> None:
    """Close them; the processes stay together, unlike after `Accelerator.end_training`."""
    for tracker in accelerator.trackers:
        tracker.finish()


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line as trackers show them: step/loss, epoch/validation_f1 and so on."""
    kind = line["kind"]
    return {
        f"{kind}/{key}": value
        for key, value in line.items()
        if key not in ("kind", "epoch", "step") and value is not None
    }
