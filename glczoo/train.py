"""One training step, told by a recipe: `accelerate launch -m glczoo.train recipes/step2.yaml key=value …`.

The paper's strategy is three of these (Ung et al. 2023, section 5.2): step 1 BCE on presence-absence surveys,
step 2 cross-entropy on presence-only records, step 3 BCE on presence-absence surveys again, each from the
weights of the step before. Interrupt it at any time: the same command goes on where it was, and ends with the
same weights, bit for bit.
"""

import argparse
import inspect
import shutil
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from safetensors.torch import load_file
from timm.optim import create_optimizer_v2, get_optimizer_class
from timm.utils import ModelEmaV3
from torch import nn
from tqdm import tqdm

from glczoo.data.loader import load, load_by_processes
from glczoo.data.patch_source import PatchSource
from glczoo.data.patches import PatchBuilder, dihedral
from glczoo.data.region import Region
from glczoo.recipe import Recipe, describe, read_recipe
from glczoo.runs.export import export_run
from glczoo.runs.run import is_finished
from glczoo.runs.scoring import score
from glczoo.training.checkpoints import EpochOrder, Progress, Record, refuse_other_recipe
from glczoo.training.initial_model import (
    starting_model,
    starting_samples,
    training_builder,
    visible_modalities,
)
from glczoo.training.objective import Objective
from glczoo.training.tuning import settle, validation_f1

__all__ = ["make_optimizer", "prepare_model", "train"]


def train(recipe: Recipe) -> Path:
    """Execute a recipe and return its run, a folder (see `runs.py`).

    Raises:
        FileNotFoundError: data or the predecessor's run are missing; the message says what makes them.
        ValueError: the recipe, the data and the model do not fit each other, or the run's folder holds a run
            of another recipe.
    """
    AcceleratorState._reset_state()  # a study trains several recipes in a process, each with its precision
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=recipe.precision,
    )
    region = Region.load(recipe.region)
    run = recipe.run_folder(region)
    refuse_other_recipe(run, recipe, accelerator.num_processes)
    if is_finished(run):
        accelerator.print(f"{run} is finished already; delete it to train again, or give it another name=…")
        return run
    set_seed(recipe.seed)

    vocabulary, training, validation, choosing = starting_samples(recipe, region)
    with accelerator.local_main_process_first():  # one process builds the stacks, the others find them built
        source = PatchSource(region, visible_modalities(recipe, region), recipe.patch_size)
    drop = recipe.data.incomplete == "drop"
    training = training.subset(source.complete(training, "training surveys", drop))
    validation = validation.subset(source.complete(validation, "validation surveys", drop))
    choosing = choosing.subset(source.complete(choosing, "PA surveys that choose", drop))
    if (recipe.decoding.tuned or recipe.calibration) and not len(choosing):
        raise ValueError("no PA survey is left that may choose the set size; is data.validation too small?")
    if not len(training):
        raise ValueError(
            f"no training survey is left of {recipe.data.tables}; is data.pa_fraction too small?"
        )
    model, statistics = starting_model(recipe, region, source, vocabulary, training, accelerator.print)
    frozen = bool(recipe.finetune and recipe.finetune.frozen)
    if recipe.data.places:
        surveys, training = training, training.merged(source.places(training))
        accelerator.print(
            f"{len(surveys)} records at {len(training)} places: "
            f"{len(surveys) / len(training):.2f} times fewer forward passes"
        )
    process, processes = accelerator.process_index, accelerator.num_processes
    order, background = (
        EpochOrder(len(training), recipe.batch_size, seed, process, processes)
        for seed in (recipe.seed, recipe.seed + 1)
    )
    model = prepare_model(recipe, model)
    objective = Objective(recipe, region, vocabulary, training, accelerator.device, processes)
    model, optimizer = accelerator.prepare(model, make_optimizer(recipe, model, objective))
    build, eval_build = (
        training_builder(recipe, source, part, statistics, accelerator.device)
        for part in (training, validation)
    )
    load_batches = load if recipe.data.loader == "threads" else load_by_processes
    accumulate, clip_grad = recipe.optimizer.accumulate, recipe.optimizer.clip_grad
    surveys_per_step = recipe.batch_size * accelerator.num_processes * accumulate
    base_lr = recipe.optimizer.scaled_lr(surveys_per_step)
    average = ModelEmaV3(accelerator.unwrap_model(model), decay=recipe.ema) if recipe.ema else None
    progress = Progress()
    accelerator.register_for_checkpointing(progress, objective, *([average] if average else []))
    record = Record(run, recipe, accelerator)
    record.resume(progress)
    accelerator.print(
        f"{run}: {len(training)} training and {len(validation)} validation surveys, {len(vocabulary)} "
        f"species, {len(source.bands)} bands, from epoch {progress.epoch + 1} of {recipe.epochs}\n"
        f"{surveys_per_step} surveys a step: {recipe.batch_size} x {accelerator.num_processes} process(es) x "
        f"{accumulate} accumulated; lr {base_lr:g}"
        + (f", scaled from {recipe.optimizer.lr:g}" if recipe.optimizer.lr_batch_size else "")
    )

    for epoch in range(progress.epoch, recipe.epochs):
        lr = base_lr * recipe.schedule.factor(epoch)
        for group in optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)  # timm's layer decay
        model.train(not frozen)
        turn = partial(dihedral, recipe.seed, epoch) if recipe.data.augment else None
        indices = objective.batches(order.batches(epoch, progress.batch), background, epoch, progress.batch)
        batches = load_batches(build, indices, turn, recipe.data.workers)
        bar = tqdm(
            batches, f"epoch {epoch + 1}/{recipe.epochs}", len(order), initial=progress.batch, unit="batch",
            leave=False, disable=not accelerator.is_local_main_process,
        )  # fmt: skip
        start, seen = time.perf_counter(), 0
        for index, x in bar:
            steps = (progress.batch + 1) % accumulate == 0 or progress.batch + 1 == len(order)
            with nullcontext() if steps else accelerator.no_sync(model):
                loss = objective(model(objective.view(x, index, epoch)), index)
                accelerator.backward(loss / accumulate)
            progress.add(loss)
            seen += len(index) * accelerator.num_processes
            if not steps:
                continue
            if clip_grad:
                accelerator.clip_grad_norm_(model.parameters(), clip_grad)
            optimizer.step()
            optimizer.zero_grad()
            progress.step += 1
            if average:
                average.update(accelerator.unwrap_model(model))
            if progress.step % recipe.log_every == 0:  # the only time that a step is waited for
                record.log(progress, kind="step", loss=loss.item(), lr=lr)
                speed = seen / (time.perf_counter() - start)
                bar.set_postfix(loss=f"{progress.mean_loss:.4f}", samples_s=f"{speed:.0f}")
            if progress.step % recipe.checkpoint_every == 0:
                record.checkpoint(progress)
        seconds = time.perf_counter() - start
        result = average.module if average else accelerator.unwrap_model(model)
        f1 = None
        if len(validation):
            f1 = validation_f1(accelerator, recipe, result, eval_build, validation)
        mean_loss = (
            accelerator.gather(torch.tensor([progress.mean_loss], device=accelerator.device)).mean().item()
        )
        record.log(
            progress, kind="epoch", loss=mean_loss, lr=lr, validation_f1=f1, seconds=seconds,
            samples_per_second=seen / seconds,
        )  # fmt: skip
        accelerator.print(
            f"epoch {epoch + 1}/{recipe.epochs}  loss {mean_loss:.4f}  "
            + (f"validation F1 {f1:.4f}  " if f1 is not None else "")
            + f"lr {lr:g}  {seen / seconds:.0f} samples/s"
        )
        if recipe.keep == "best" and f1 is not None and f1 > progress.best:
            progress.best, progress.best_epoch = f1, epoch
            record.save_weights(result, "best")
        ask = partial(score, accelerator, model, build, recipe.batch_size, recipe.activation)
        objective.end_epoch(epoch, ask)
        progress.next_epoch()
        record.checkpoint(progress)

    final = average.module if average else accelerator.unwrap_model(model)
    if recipe.keep == "best":
        record.save_weights(final, "last")
        final.load_state_dict(load_file(run / "best.safetensors"))
    choose = PatchBuilder(source, choosing, statistics.mean, statistics.std, accelerator.device)
    settled = settle(accelerator, recipe, final, choose, choosing)
    if recipe.grad_checkpointing:
        final.set_grad_checkpointing(False)
    if accelerator.is_main_process:
        export_run(
            run, final, vocabulary, region, source, statistics, init=recipe.init,
            epoch=progress.best_epoch if recipe.keep == "best" else recipe.epochs - 1, **settled,
        )  # fmt: skip
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        (run / "best.safetensors").unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    accelerator.print(f"{run}: done (predicts by {settled['decoding']})")
    return run


def prepare_model(recipe: Recipe, model: nn.Module) -> nn.Module:
    """The model as the recipe wants it to be computed."""
    if recipe.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if recipe.grad_checkpointing:
        model.set_grad_checkpointing()  # type: ignore[operator]
    if recipe.compile:
        model.compile()
    return model


def make_optimizer(recipe: Recipe, model: nn.Module, objective: nn.Module) -> torch.optim.Optimizer:
    """One of timm's, fused into one kernel where it can be (for 62 million weights four times faster).

    What the loss itself learns (ROLE's estimates) does so at ten times the rate (Cole et al. 2021).
    """
    told = recipe.optimizer
    wide = inspect.signature(get_optimizer_class(told.name, bind_defaults=False)).parameters
    optimizer = create_optimizer_v2(
        model, told.name, lr=told.lr, weight_decay=told.weight_decay,
        layer_decay=recipe.finetune.layer_decay if recipe.finetune else None,
        **({"fused": True} if "fused" in wide else {}),
    )  # fmt: skip
    if learnt := list(objective.parameters()):
        optimizer.add_param_group({"params": learnt, "weight_decay": 0.0, "lr_scale": 10.0})
    return optimizer


def main(arguments: list[str] | None = None) -> None:
    """The command: read a recipe, train, and end with one line where something is wrong."""
    parser = argparse.ArgumentParser(
        "python -m glczoo.train",
        description=(__doc__ or "").split("\n\n")[0],
        epilog="keys of a recipe:\n" + describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("recipe", help="a YAML file, such as recipes/step1.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="such as optimizer.lr=5e-4")
    given = parser.parse_args(arguments)
    try:
        train(read_recipe(given.recipe, given.overrides))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"glczoo.train: {error}")


if __name__ == "__main__":
    main()
