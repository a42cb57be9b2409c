"""One training step of a recipe: `accelerate launch -m glczoo.train recipes/step2.yaml key=value …`.

The paper's strategy is three of these (Ung et al. 2023, section 5.2): step 1 BCE on presence-absence surveys,
step 2 cross-entropy on presence-only records, step 3 BCE on presence-absence surveys again, each from the
weights of the step before. Interrupt it at any time: the same command goes on where it was, and ends with the
same weights, bit for bit.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from glczoo.data.loader import load, load_by_processes
from glczoo.data.patches import PatchBuilder, dihedral
from glczoo.data.region import Region
from glczoo.errors import GlczooError, of_system
from glczoo.files import require_writable
from glczoo.losses import RANKS
from glczoo.memory import announce
from glczoo.progress import Track
from glczoo.recipe import Recipe, describe, read_recipe
from glczoo.runs.export import export_run
from glczoo.runs.run import is_finished
from glczoo.runs.scoring import score
from glczoo.training.checkpoints import (
    Progress,
    Record,
    clean_up,
    has_leftovers,
    refuse_other_recipe,
    work_alone,
)
from glczoo.training.divergence import refuse_diverged, require_finite
from glczoo.training.prepare import Prepared, prepare
from glczoo.training.trackers import finish_trackers, leave_processes, start_accelerator
from glczoo.training.tuning import level_ranks, sites_of, tune_run, validation_f1

__all__ = ["main", "train"]


@dataclass(frozen=True)
class Pace:
    """How fast an epoch went."""

    samples: int  # of all processes
    seconds: float

    @property
    def samples_per_second(self) -> float:
        """The rate of training, without validation."""
        return self.samples / self.seconds


@dataclass(frozen=True)
class Session:
    """A recipe in training: what was prepared for it, and what changes with every step."""

    recipe: Recipe
    accelerator: Accelerator
    prepared: Prepared
    average: ModelEmaV3 | None  # of the weights, where the recipe asks for one
    progress: Progress
    record: Record

    @property
    def samples_per_step(self) -> int:
        """Samples of all processes and accumulated batches."""
        return self.recipe.batch_size * self.accelerator.num_processes * self.recipe.optimizer.accumulate

    @property
    def base_lr(self) -> float:
        """The learning rate before the schedule."""
        return self.recipe.optimizer.scaled_lr(self.samples_per_step)

    @property
    def result(self) -> nn.Module:
        """The model whose weights are validated and kept."""
        if self.average:
            return self.average.module
        return self.accelerator.unwrap_model(self.prepared.model)


def train(recipe: Recipe) -> Path:
    """Execute a recipe and return its run, a folder (see `runs.py`).

    Raises:
        MissingError: data or the predecessor's run are missing; the message says what makes them.
        GlczooError: the recipe, the data and the model do not fit each other, or the run's folder holds a run
            of another recipe.
    """
    region = Region.load(recipe.region)
    run = recipe.run_folder(region)
    if recipe.model == "forest_glc23":
        raise GlczooError("forest_glc23 is not trained by gradients", remedy="Fit it with `glczoo forest`")
    if recipe.model == "ensemble_glc23" and not recipe.finetune:
        raise GlczooError(
            "ensemble_glc23 is made of runs by `glczoo ensemble`",
            remedy="Train each of its members by a recipe, or fine-tune an ensemble",
        )
    accelerator = start_accelerator(recipe, run)
    refuse_other_recipe(run, recipe, accelerator.num_processes)
    if not is_finished(run) or has_leftovers(run):
        require_writable(run, folder=True)
        with work_alone(accelerator, run):
            _train_alone(recipe, region, run, accelerator)
    else:
        accelerator.print(f"{run} is finished already; delete it to train again, or give it another name=…")
        accelerator.wait_for_everyone()
    return run


def _train_alone(recipe: Recipe, region: Region, run: Path, accelerator: Accelerator) -> None:
    """Train in a folder in which no other process works."""
    if not is_finished(run):
        set_seed(recipe.seed)
        session = _start(recipe, run, accelerator, prepare(recipe, region, accelerator))
        try:
            for epoch in range(session.progress.epoch, recipe.epochs):
                lr = session.base_lr * recipe.schedule.factor(epoch)
                pace = _train_epoch(session, epoch, lr)
                _end_epoch(session, epoch, lr, pace)
            _finish(session, run)
        finally:
            finish_trackers(accelerator)
    if accelerator.is_main_process:
        clean_up(run)
    accelerator.wait_for_everyone()


def _start(recipe: Recipe, run: Path, accelerator: Accelerator, prepared: Prepared) -> Session:
    """Start a run, or take it up at its newest checkpoint."""
    average = ModelEmaV3(accelerator.unwrap_model(prepared.model), decay=recipe.ema) if recipe.ema else None
    progress = Progress(accelerator.process_index)
    kept = [progress, prepared.objective, *([average] if average else [])]
    accelerator.register_for_checkpointing(*kept)
    record = Record(run, recipe, accelerator)
    record.resume(progress)
    session = Session(recipe, accelerator, prepared, average, progress, record)
    inputs = prepared.inputs
    scaled = f", scaled from {recipe.optimizer.lr:g}" if recipe.optimizer.lr_batch_size else ""
    accelerator.print(
        f"{run}: {len(prepared.training)} training and {len(inputs.validation)} validation samples, "
        f"{len(inputs.vocabulary)} species, {len(inputs.source.bands)} bands, from epoch "
        f"{progress.epoch + 1} of {recipe.epochs}\n"
        f"{session.samples_per_step} samples a step: {recipe.batch_size} x {accelerator.num_processes} "
        f"process(es) x {recipe.optimizer.accumulate} accumulated; lr {session.base_lr:g}{scaled}"
    )
    if accelerator.is_main_process:
        _announce(session)
    return session


def _announce(session: Session) -> None:
    """Say what memory a step takes at the least: weights with gradients and optimiser, and its batches."""
    prepared, recipe = session.prepared, session.recipe
    size = sum(p.numel() * p.element_size() for p in prepared.model.parameters())
    states = 2 if "betas" in prepared.optimizer.defaults else 1
    patch = len(prepared.inputs.source.bands) * prepared.inputs.source.size**2
    parts = {
        "weights": size * (2 if recipe.ema else 1),
        "gradients and optimiser": size * (1 + states),
        "a batch": 4.0 * recipe.batch_size * (patch + len(prepared.inputs.vocabulary)),
    }
    on_device = session.accelerator.device.type != "cpu"
    announce(f"training, {recipe.epochs} epochs", parts, on_device=on_device)


def _train_epoch(session: Session, epoch: int, lr: float) -> Pace:
    """Train on what is left of an epoch."""
    recipe, accelerator, prepared = session.recipe, session.accelerator, session.prepared
    model, optimizer, objective = prepared.model, prepared.optimizer, prepared.objective
    progress, record = session.progress, session.record
    accumulate, clip_grad = recipe.optimizer.accumulate, recipe.optimizer.clip_grad
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)  # timm's layer decay
    model.train(not (recipe.finetune and recipe.finetune.frozen))
    bar = Track(
        _batches(session, epoch),
        f"epoch {epoch + 1}/{recipe.epochs}",
        len(prepared.order),
        initial=progress.batch,
        unit="batches",
        hidden=not accelerator.is_local_main_process,
    )
    start, seen = time.perf_counter(), 0
    for index, x in bar:
        steps = (progress.batch + 1) % accumulate == 0 or progress.batch + 1 == len(prepared.order)
        with nullcontext() if steps else accelerator.no_sync(model):
            loss = objective(model(objective.view(x, index, epoch)), index)
            accelerator.backward(loss / accumulate)
        progress.add(loss)
        if accelerator.device.type == "cpu":  # elsewhere that would wait for the step
            refuse_diverged(recipe, session.prepared, session.progress, epoch)
        seen += len(index) * accelerator.num_processes
        if not steps:
            continue
        if clip_grad:
            accelerator.clip_grad_norm_(model.parameters(), clip_grad)
        optimizer.step()
        optimizer.zero_grad()
        progress.step += 1
        if session.average:
            session.average.update(accelerator.unwrap_model(model))
        if progress.step % recipe.log_every == 0:  # the only time that a step is waited for
            refuse_diverged(recipe, session.prepared, session.progress, epoch)
            record.log(progress, "step", loss=loss.item(), lr=lr)
            speed = seen / (time.perf_counter() - start)
            bar.note(f"loss {progress.mean_loss:.4f}, {speed:.0f} samples/s")
        if progress.step % recipe.checkpoint_every == 0 and progress.batch < len(prepared.order):
            _checkpoint(session, epoch)
    return Pace(seen, time.perf_counter() - start)


def _batches(session: Session, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions index[B] and patches x[B, C, S, S] of the batches of an epoch that are not yet seen."""
    recipe, prepared, first = session.recipe, session.prepared, session.progress.batch
    turn = partial(dihedral, recipe.seed, epoch) if recipe.data.augment else None
    order = prepared.order.batches(epoch, first)
    indices = prepared.objective.batches(order, prepared.background, epoch, first)
    loader = load if recipe.data.loader == "threads" else load_by_processes
    return loader(prepared.build, indices, turn, recipe.data.workers)


def _end_epoch(session: Session, epoch: int, lr: float, pace: Pace) -> None:
    """Validate, keep the weights if they are the best so far, and save a checkpoint."""
    recipe, accelerator, progress = session.recipe, session.accelerator, session.progress
    inputs, result = session.prepared.inputs, session.result
    refuse_diverged(recipe, session.prepared, session.progress, epoch)
    require_finite(result, epoch)
    _share_buffers(accelerator, result)
    f1 = None
    if len(inputs.validation):
        build = session.prepared.validation_build
        f1 = validation_f1(accelerator, recipe, result, build, inputs.validation)
    mean_loss = (
        accelerator.gather(torch.tensor([progress.mean_loss], device=accelerator.device)).mean().item()
    )
    session.record.log(
        progress,
        "epoch",
        loss=mean_loss,
        lr=lr,
        validation_f1=f1,
        seconds=pace.seconds,
        samples_per_second=pace.samples_per_second,
    )
    validated = "" if f1 is None else f"validation F1 {f1:.4f}  "
    accelerator.print(
        f"epoch {epoch + 1}/{recipe.epochs}  loss {mean_loss:.4f}  {validated}lr {lr:g}  "
        f"{pace.samples_per_second:.0f} samples/s"
    )
    if recipe.keep == "best" and f1 is not None and f1 > progress.best:
        progress.best, progress.best_epoch = f1, epoch
        session.record.save_weights(result, "best")
    build = session.prepared.build
    predict = partial(score, accelerator, session.prepared.model, build, recipe.batch_size, recipe.activation)
    session.prepared.objective.end_epoch(epoch, predict)
    progress.next_epoch()
    _checkpoint(session, epoch)


def _checkpoint(session: Session, epoch: int) -> None:
    """Save a checkpoint, never of a model that has diverged."""
    refuse_diverged(session.recipe, session.prepared, session.progress, epoch)
    model = session.accelerator.unwrap_model(session.prepared.model)
    for each in {session.result, model}:
        require_finite(each, epoch)
    session.record.checkpoint(session.progress)


def _share_buffers(accelerator: Accelerator, model: nn.Module) -> None:
    """Give every process the main one's running statistics: what is validated is what will be exported."""
    if accelerator.num_processes > 1:
        for buffer in model.buffers():
            broadcast(buffer)


def _finish(session: Session, run: Path) -> None:
    """Tune on the samples that are held out for it, and export the result."""
    recipe, accelerator, prepared = session.recipe, session.accelerator, session.prepared
    inputs, result = prepared.inputs, session.result
    epoch = recipe.epochs - 1
    if recipe.keep == "best":
        session.record.save_weights(result, "last")
        result.load_state_dict(load_file(run / "best.safetensors"))
        epoch = session.progress.best_epoch
    require_finite(result, epoch)
    if recipe.loss.name in RANKS and not recipe.calibration:
        sites = sites_of(prepared.training, len(inputs.vocabulary))
        statistics = prepared.statistics
        build = PatchBuilder(inputs.source, sites, statistics.mean, statistics.std, accelerator.device)
        level_ranks(accelerator, recipe, result, build, len(sites))
    tuning = tune_run(accelerator, recipe, result, prepared.tuning_build, inputs.tuning)
    if recipe.grad_checkpointing:
        result.set_grad_checkpointing(False)  # type: ignore[operator]
    if accelerator.is_main_process:
        export_run(
            run,
            result,
            inputs.vocabulary,
            inputs.region,
            inputs.source,
            prepared.statistics,
            init=recipe.init,
            epoch=epoch,
            **vars(tuning),
        )
    accelerator.wait_for_everyone()
    accelerator.print(f"{run}: done (set size by {tuning.decoding})")


@click.command(epilog="\b\nkeys of a recipe:\n" + describe())
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]…")
def main(recipe: str, overrides: tuple[str, ...]) -> None:
    """Train what a recipe describes; an interrupted run goes on where it was.

    RECIPE is a YAML file, such as recipes/step1.yaml; KEY=VALUE replaces one of its values, such as
    optimizer.lr=5e-4.
    """
    try:
        train(read_recipe(recipe, list(overrides)))
        leave_processes()
    except GlczooError as error:
        sys.exit(f"glczoo.train: {error}")
    except OSError as error:
        sys.exit(f"glczoo.train: {of_system(error)}")


if __name__ == "__main__":
    main()
