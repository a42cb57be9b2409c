"""What makes an interrupted run go on exactly: the order, the count, and what is saved beside the weights.

A plain shuffled DataLoader with skipped batches is not exact: it draws its order from the global generator
and looks one batch ahead. Here the order of an epoch is a function of (seed, epoch), augmentation of
(seed, epoch, index), and the learning rate of the epoch, so that a checkpoint needs only the weights, the
optimiser, the generators' states (Accelerate's `save_state`) and `Progress`. A checkpoint is a folder step-N
that gets its name when all of it is on the disk; the file `whole.json` in it lists the others with their
SHA-256, so that one that is damaged, or half deleted, is never taken for a whole one.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors.torch import save_file
from torch import Tensor, nn

from glczoo.errors import GlczooError
from glczoo.files import disk_errors, lock, lock_file, sha256, whole, whole_files
from glczoo.recipe import Recipe, read_run_recipe, write_run_recipe
from glczoo.runs.run import is_finished
from glczoo.training.trackers import start_trackers, track

__all__ = [
    "EpochOrder",
    "Progress",
    "Record",
    "clean_up",
    "has_leftovers",
    "refuse_other_recipe",
    "work_alone",
]


class EpochOrder:
    """The batches of every epoch: a function of (seed, epoch) alone, so that a resumed run sees the same."""

    def __init__(self, number: int, batch_size: int, seed: int, process: int = 0, processes: int = 1) -> None:
        """Permute `number` samples and deal each run of batch_size x processes out to the processes.

        The last batches of an epoch are equally long on every process, and not of one sample (BatchNorm needs
        two): what does not fit, at most 2 x processes - 1 samples, is left out, others in every epoch.

        Raises:
            GlczooError: there are fewer than two samples for each process.
        """
        self._number, self._seed, self._together = number, seed, batch_size * processes
        self._process, self._processes = process, processes
        rest = number % self._together
        self._used = number - (rest if rest < 2 * processes else rest % processes)
        if not self._used:
            raise GlczooError(
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

    def __init__(self, process: int = 0) -> None:
        """Start at nothing. `process`: whose losses are counted here."""
        self.epoch = self.batch = self.step = 0
        self.loss_sum = 0.0
        self.loss_sums: list[float] = []  # of every process, as gathered for a checkpoint
        self.best, self.best_epoch = -1.0, -1
        self._process = process
        self._unread: list[Tensor] = []  # losses still on the device: reading each would wait for its step
        self._diverged: int | None = None

    def add(self, loss: Tensor) -> None:
        """Count a batch. `loss`: its mean."""
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

    @property
    def diverged(self) -> int | None:
        """The first batch of the epoch, counted from 0, whose loss is not finite; None: all are."""
        self._read()
        return self._diverged

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        self._read()
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint. `state`: as `state_dict` gave it."""
        self.__dict__.update(state)
        if self.loss_sums:  # gathered for a checkpoint of several processes
            self.loss_sum = self.loss_sums[self._process]

    def _read(self) -> None:
        losses = torch.stack(self._unread).tolist() if self._unread else []
        for batch, loss in enumerate(losses, self.batch - len(losses)):
            self.loss_sum += loss  # one by one: the sum is the same whenever it is read
            if self._diverged is None and not math.isfinite(loss):
                self._diverged = batch
        self._unread = []


@contextmanager
def work_alone(accelerator: Accelerator, path: Path) -> Iterator[None]:
    """Hold the lock of a run or of another file or folder, for all processes that work together.

    Raises:
        GlczooError: other processes work there, or nothing can be written there.
    """
    with ExitStack() as stack:
        problem = [None]  # type: list[str | None]
        if accelerator.is_main_process:
            try:
                stack.enter_context(lock(path))
            except GlczooError as error:
                problem = [str(error)]
        _share(accelerator, problem)
        if problem[0] is not None:
            raise GlczooError(problem[0])
        yield


def refuse_other_recipe(run: Path, recipe: Recipe, processes: int) -> None:
    """A folder holds one run.

    Raises:
        GlczooError: it holds a run of another recipe, or an unfinished one of another number of processes, or
            checkpoints of a recipe that cannot be read.
    """
    path = run / "recipe.yaml"
    if not path.exists():
        return
    try:
        before, before_processes = read_run_recipe(run)
    except ValueError as error:
        if not is_finished(run) and not (run / "checkpoints").exists():
            return  # nothing was trained yet: it is written anew
        remedy = "Copy the recipe back, or delete the folder to train again"
        raise GlczooError(f"its recipe is damaged ({error})", where=run, remedy=remedy) from None
    old, new = _comparable(before, before_processes), _comparable(recipe, processes)
    if is_finished(run):
        old["processes"] = processes
    changes = ", ".join(f"{key}: {old[key]} → {new[key]}" for key in new if old[key] != new[key])
    if changes:
        state = "a" if is_finished(run) else "an unfinished"
        raise GlczooError(
            f"{run} holds {state} run of another recipe ({changes})",
            remedy="Set the same values, delete the folder, or choose another name=…",
        )


def _comparable(recipe: Recipe, processes: int) -> dict[str, Any]:
    """What must be the same for a run to be continued."""
    values = recipe.model_dump(mode="json", exclude={"runs", "trackers"})
    return values | {"region": Path(recipe.region).resolve(), "processes": processes}


def has_leftovers(run: Path) -> bool:
    """Whether a training was killed after the export of a finished run, before it had tidied up."""
    return bool(_leftovers(run)) or lock_file(run).exists()


def _leftovers(run: Path) -> list[Path]:
    """What a finished run has no use for: checkpoints, the best weights so far, files half written."""
    named = [run / "checkpoints", run / ".deleted-checkpoints", run / "best.safetensors", run / ".export"]
    return [path for path in named if path.exists()] + list(run.glob(".*.glczoo-*"))


def clean_up(run: Path) -> None:
    """Delete the leftovers of a finished run. Call it with the run's lock held."""
    for path in _leftovers(run):
        _delete(path)


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
        """Load the newest whole checkpoint, if there is one, and forget what was logged after it.

        Raises:
            GlczooError: a checkpoint is whole and cannot be loaded, as by another release of torch.
        """
        newest = [self._newest() if self._accelerator.is_main_process else None]
        _share(self._accelerator, newest)
        if newest[0] is not None:
            try:
                self._accelerator.load_state(newest[0])
            except Exception as error:  # torch, safetensors and pickle each have their own
                reason = f"the checkpoint cannot be loaded ({error})"
                remedy = "Delete it and start the same command again: training goes on from the one before"
                raise GlczooError(reason, where=newest[0], remedy=remedy) from error
        kept: list[dict[str, Any]] = []
        if self._accelerator.is_main_process:
            kept = [
                line
                for line in _whole_lines(self._run / "metrics.jsonl")
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
        main = self._accelerator.is_main_process
        target = self._checkpoints / f"step-{progress.step}"
        progress.loss_sums = self._of_every_process(progress)
        if main:
            self.flush()
            self._checkpoints.mkdir(exist_ok=True)
            if target.exists():  # of the same step: it was followed by no other
                _delete(target)
        with whole(target) if main else nullcontext() as partial:
            folder = [str(partial)]
            _share(self._accelerator, folder)
            self._accelerator.save_state(folder[0])
            self._accelerator.wait_for_everyone()
            if main:
                files = sorted(path for path in Path(folder[0]).rglob("*") if path.is_file())
                sums = {path.relative_to(folder[0]).as_posix(): sha256(path) for path in files}
                (Path(folder[0]) / _WHOLE).write_text(json.dumps(sums, indent=1), "utf-8")
        if main:
            for old in self._saved()[:-2]:
                _delete(old)
        self._accelerator.wait_for_everyone()

    def save_weights(self, model: nn.Module, name: str) -> None:
        """Write RUN/NAME.safetensors: the best epoch's weights so far, or the last."""
        if self._accelerator.is_main_process:
            weights = {key: value.contiguous() for key, value in model.state_dict().items()}
            file = f"{name}.safetensors"
            with whole_files(self._run, file) as partial:  # safetensors writes a file of its own beside it
                save_file(weights, partial / file)
        self._accelerator.wait_for_everyone()

    def flush(self) -> None:
        """Have metrics.jsonl on the disk: a run goes on from a checkpoint with all lines before it."""
        path = self._run / "metrics.jsonl"
        if path.exists():
            with open(path, "rb") as file:
                os.fsync(file.fileno())

    def _of_every_process(self, progress: Progress) -> list[float]:
        """The sum of losses of every process, in their order."""
        sums = [progress.state_dict()["loss_sum"]]
        return gather_object(sums) if self._accelerator.num_processes > 1 else sums

    def _saved(self) -> list[Path]:
        """The checkpoints, oldest first."""
        return sorted(self._checkpoints.glob("step-*"), key=lambda path: int(path.name[5:]))

    def _newest(self) -> str | None:
        """The newest checkpoint that is whole; those after it are deleted, and what was half written."""
        for path in self._checkpoints.glob(".*"):
            _delete(path)
        saved = self._saved()
        while saved:
            damage = _damage(saved[-1])
            if damage is None:
                return str(saved[-1])
            damaged = saved.pop()
            before = saved[-1] if saved else "the start"
            self._accelerator.print(f"{damaged} is damaged ({damage}): training goes on from {before}")
            _delete(damaged)
        return None


_WHOLE = "whole.json"


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, if anything."""
    try:
        sums: dict[str, str] = json.loads((checkpoint / _WHOLE).read_text("utf-8"))
        wrong = [name for name, value in sums.items() if sha256(checkpoint / name) != value]
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, AttributeError) as error:
        return str(error)
    return f"{wrong[0]} is not what was saved" if wrong else None


def _delete(path: Path) -> None:
    """Delete a file or folder; a folder loses its name first, so that no half of it has it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = path if path.name.startswith(".") else path.with_name(f".deleted-{path.name}")
    if aside != path:
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of metrics.jsonl; one that a power cut has torn is left out with those after it."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            return
        if not isinstance(values, dict) or not {"kind", "epoch", "step"} <= values.keys():
            return
        yield values


def _share(accelerator: Accelerator, values: list[Any]) -> None:
    """Give every process the values of the main one, in place."""
    if accelerator.num_processes > 1:
        broadcast_object_list(values)
