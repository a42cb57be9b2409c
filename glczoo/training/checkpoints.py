"""What makes an interrupted run go on exactly: the order, the count, and what is saved beside the weights.

A plain shuffled DataLoader with skipped batches is not exact: it draws its order from the global generator
and looks one batch ahead. Here the order of an epoch is a function of (seed, epoch), augmentation of
(seed, epoch, index), and the learning rate of the epoch, so that a checkpoint needs only the weights, the
optimiser, the generators' states (Accelerate's `save_state`) and `Progress`.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from glczoo.files import disk_errors, whole
from glczoo.recipe import Recipe, read_run_recipe, write_run_recipe
from glczoo.runs.run import is_finished, read_metrics
from glczoo.training.trackers import start_trackers, track

__all__ = ["EpochOrder", "Progress", "Record", "refuse_other_recipe"]


class EpochOrder:
    """The batches of every epoch: a function of (seed, epoch) alone, so that a resumed run sees the same."""

    def __init__(self, number: int, batch_size: int, seed: int, process: int = 0, processes: int = 1) -> None:
        """Permute `number` samples and deal each run of batch_size x processes out to the processes.

        The last batches of an epoch are equally long on every process, and not of one sample (BatchNorm needs
        two): what does not fit, at most 2 x processes - 1 samples, is left out, others in every epoch.

        Raises:
            ValueError: there are fewer than two samples for each process.
        """
        self._number, self._seed, self._together = number, seed, batch_size * processes
        self._process, self._processes = process, processes
        rest = number % self._together
        self._used = number - (rest if rest < 2 * processes else rest % processes)
        if not self._used:
            raise ValueError(
                f"{number} training samples are too few: each of {processes} process(es) needs two"
            )

    def __len__(self) -> int:
        return -(-self._used // self._together)

    def batches(self, epoch: int, first: int = 0) -> list[Tensor]:
        """This process's batches of an epoch from the first that is not yet seen, int64[B] each."""
        order = np.random.default_rng([self._seed, epoch]).permutation(self._number)[: self._used]
        return [
            part[self._process :: self._processes]
            for part in torch.from_numpy(order).split(self._together)[first:]
        ]


class Progress:
    """How far a run is; saved with every checkpoint."""

    def __init__(self) -> None:
        """Start at nothing."""
        self.epoch = self.batch = self.step = 0
        self.loss_sum = 0.0
        self._unread: list[Tensor] = []  # losses still on the device: reading each would wait for its step
        self.best, self.best_epoch = -1.0, -1

    def add(self, loss: Tensor) -> None:
        """Count a batch."""
        self.batch += 1
        self._unread.append(loss.detach())

    def next_epoch(self) -> None:
        """Count an epoch."""
        self.epoch, self.batch, self.loss_sum, self._unread = self.epoch + 1, 0, 0.0, []

    @property
    def mean_loss(self) -> float:
        """Mean loss of the epoch's batches so far."""
        self._read()
        return self.loss_sum / max(self.batch, 1)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        self._read()
        return {key: value for key, value in self.__dict__.items() if key != "_unread"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.__dict__.update(state)

    def _read(self) -> None:
        for loss in torch.stack(self._unread).tolist() if self._unread else []:
            self.loss_sum += loss  # one by one: the sum is the same whenever it is read
        self._unread = []


def refuse_other_recipe(run: Path, recipe: Recipe, processes: int) -> None:
    """A folder holds one run.

    Raises:
        ValueError: it holds a run of another recipe, or an unfinished one of another number of processes.
    """
    if not (run / "recipe.yaml").exists():
        return
    before, before_processes = read_run_recipe(run)
    old, new = _comparable(before, before_processes), _comparable(recipe, processes)
    if is_finished(run):
        old["processes"] = processes
    changes = ", ".join(f"{key}: {old[key]} → {new[key]}" for key in new if old[key] != new[key])
    if changes:
        raise ValueError(
            f"{run} holds {'a' if is_finished(run) else 'an unfinished'} run of another recipe ({changes}); "
            "set the same values, delete the folder, or choose another name=…"
        )


def _comparable(recipe: Recipe, processes: int) -> dict[str, Any]:
    """What must be the same for a run to be continued."""
    values = recipe.model_dump(mode="json", exclude={"runs", "trackers"})
    return values | {"region": Path(recipe.region).resolve(), "processes": processes}


class Record:
    """What a run leaves in its folder while it trains. Written beside and renamed, by the main process."""

    def __init__(self, run: Path, recipe: Recipe, accelerator: Accelerator) -> None:
        """Start or find the folder."""
        self._run, self._accelerator, self._checkpoints = run, accelerator, run / "checkpoints"
        self._recipe = recipe
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            run.mkdir(parents=True, exist_ok=True)
            write_run_recipe(run, recipe, accelerator.num_processes)
        accelerator.wait_for_everyone()

    def resume(self, progress: Progress) -> None:
        """Load the newest whole checkpoint, if there is one, and forget what was logged after it."""
        saved = self._saved()
        if saved:
            try:
                self._accelerator.load_state(str(saved[-1]))
            except Exception as error:  # torch, safetensors and pickle each have their own
                raise ValueError(
                    f"the checkpoint {saved[-1]} is damaged ({error}); delete it and start the same command "
                    f"again: training goes on from {saved[-2] if len(saved) > 1 else 'the start'}"
                ) from error
        kept: list[dict[str, Any]] = []
        if self._accelerator.is_main_process:
            kept = [
                line
                for line in read_metrics(self._run)
                if line["epoch"] < progress.epoch
                or (line["kind"] == "step" and line["step"] <= progress.step)
            ]
            with whole(self._run / "metrics.jsonl") as partial:
                partial.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
        start_trackers(self._accelerator, self._recipe, self._run, kept)

    def log(self, progress: Progress, kind: Literal["step", "epoch"], **values: float | None) -> None:
        """Write one line of metrics.jsonl, and hand it to the trackers."""
        if not self._accelerator.is_main_process:
            return
        line = {"kind": kind, "epoch": progress.epoch, "step": progress.step, **values}
        metrics = self._run / "metrics.jsonl"
        with disk_errors(metrics), open(metrics, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        track(self._accelerator, line)

    def checkpoint(self, progress: Progress) -> None:
        """Save everything that resuming needs; keep the last two."""
        target, partial = self._checkpoints / f"step-{progress.step}", self._checkpoints / ".partial"
        if self._accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.rmtree(target, ignore_errors=True)
        self._accelerator.wait_for_everyone()
        with disk_errors(self._checkpoints):
            try:
                self._accelerator.save_state(str(partial))
            except Exception:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            os.replace(partial, target)
            for old in self._saved()[:-2]:
                shutil.rmtree(old)
        self._accelerator.wait_for_everyone()

    def _saved(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        return sorted(self._checkpoints.glob("step-*"), key=lambda path: int(path.name[5:]))

    def save_weights(self, model: nn.Module, name: str) -> None:
        """Write RUN/NAME.safetensors: the best epoch's weights so far, or the last."""
        if self._accelerator.is_main_process:
            weights = {key: value.contiguous() for key, value in model.state_dict().items()}
            with whole(self._run / f"{name}.safetensors") as partial:
                save_file(weights, partial)
        self._accelerator.wait_for_everyone()
