"""How fast is this machine? From the table to the step of training, and the hours of the paper's three steps.

Every number is measured here and now. Training is measured in turns with the same step on one batch held in
memory, so that their ratio means something on a machine that others use too: 1 says that data cost nothing.
"""

import itertools
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from glczoo.data.loader import default_threads, load
from glczoo.data.patch_source import PatchSource
from glczoo.data.region import Region, parse
from glczoo.data.tables import read_samples, read_species
from glczoo.recipe import Recipe, override, read_recipe
from glczoo.regions.virtual import make_virtual
from glczoo.train import make_optimizer, prepare_model
from glczoo.training.initial_model import (
    starting_model,
    starting_samples,
    training_builder,
    visible_modalities,
)
from glczoo.training.objective import Objective

__all__ = ["bench", "bench_text"]

_MAXRSS = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of getrusage
# Samples times epochs of each step on GeoLifeCLEF 2023 (Ung et al. 2023, Tables 1 and 2): 80 % of 5,948
# presence-absence surveys, 98 % of 4,908,319 presence-only records.
_PAPER = {"step 1": 0.8 * 5948 * 30, "step 2": 0.98 * 4908319 * 10, "step 3": 0.8 * 5948 * 30}


def bench(
    path: Path | None = None,
    overrides: list[str] | None = None,
    region: Path | None = None,
    device: str | None = None,
    seconds: float = 10,
    size: int = 256,
) -> dict[str, Any]:
    """Measure table, patch, batch, step, and steps with their data, each for about `seconds`.

    Args:
        path: a recipe, of which model, batch, loader and precision are taken, and no weights; None: step 2 of
            the paper's largest model.
        overrides: `key=value` of the recipe.
        region: what to read, region.yaml or its folder; None: the recipe's, or without a recipe a virtual one
            in the layout of GeoLifeCLEF 2023 that is made and removed.
        device: where the step runs, such as cpu or cuda; None: the fastest there is.
        seconds: of each measurement.
        size: cells along a side of the virtual region.

    Returns:
        JSON values, which `bench_text` tells. Rates are in rows, or surveys, a second.

    Raises:
        FileNotFoundError: recipe or data are missing.
        ValueError: the recipe, the data and the model do not fit each other, or there is no such device.
    """
    cpu = device == "cpu" or (device is None and not torch.accelerator.is_available())
    given = [*(overrides or []), *([f"region={region}"] if region else [])]
    with tempfile.TemporaryDirectory() as folder:
        if path is not None:
            recipe = read_recipe(path, given)
        else:
            recipe = parse(Recipe, override(_default(cpu), given), "bench")
            if region is None:
                recipe = recipe.model_copy(update={"region": f"{folder}/virtual"})
                made = Path(recipe.region)
                make_virtual(made, po=4000, pa=500, test=1, size=size, seed=0, progress=False)
        AcceleratorState._reset_state()
        accelerator = Accelerator(cpu=cpu, mixed_precision=recipe.precision)
        if device not in (None, accelerator.device.type):
            raise ValueError(f"there is no device {device} here; the fastest is {accelerator.device.type}")
        return _measure(accelerator, recipe.model_copy(update={"init": "random", "finetune": None}), seconds)


def _default(cpu: bool) -> dict[str, Any]:
    return {
        "name": "bench",
        "region": "virtual",
        "model": "fusresnet50_glc23",
        "init": "random",
        "data": {"tables": ["po"], "validation": {"po": 0.02}},
        "loss": "ce",
        "optimizer": {"lr": 3e-3},
        "epochs": 1,
        "batch_size": 4 if cpu else 96,
        "precision": "no" if cpu else "bf16",
    }


def _measure(accelerator: Accelerator, recipe: Recipe, seconds: float) -> dict[str, Any]:
    region, device = Region.load(recipe.region), accelerator.device
    vocabulary = read_species(region)
    start = time.perf_counter()
    rows = sum(len(read_samples(region, table, vocabulary).species) for table in recipe.data.tables)
    rows_per_second = rows / (time.perf_counter() - start)
    surveys, modalities = starting_samples(recipe, region)[1], visible_modalities(recipe, region)
    PatchSource(region, modalities, recipe.patch_size)  # the first builds the stacks
    start = time.perf_counter()
    source = PatchSource(region, modalities, recipe.patch_size)
    seconds_to_open = time.perf_counter() - start
    surveys = surveys.subset(source.complete(surveys, "surveys", drop=True))
    model, numbers = starting_model(recipe, region, source, vocabulary, surveys)
    if recipe.data.places:
        surveys = surveys.merged(source.places(surveys))
    model = prepare_model(recipe, model)
    objective = Objective(recipe, region, vocabulary, surveys, device)
    model, optimizer = accelerator.prepare(model, make_optimizer(recipe, model, objective))
    model.train()
    build = training_builder(recipe, source, surveys, numbers, device)
    generator, size = torch.Generator().manual_seed(0), min(recipe.batch_size, len(surveys))

    def batches(number: int) -> list[Tensor]:
        return list(torch.randint(len(surveys), (number, size), generator=generator))

    def step(index: Tensor, x: Tensor) -> None:
        loss = objective(model(x), index)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    def loaded(number: int, threads: int) -> Iterator[tuple[Tensor, Tensor]]:
        # More than are taken: the loader has as much to do at the end as in the middle.
        return itertools.islice(load(build, batches(number + threads + 2), None, threads), number + 1)

    def rate(threads: int) -> float:
        took, _ = _run(loaded(4, threads), None, device)
        number = max(8, round(4 * seconds / took))
        return number * size / _run(loaded(number, threads), None, device)[0]

    threads = default_threads(device) if recipe.data.workers is None else recipe.data.workers
    by_caller, by_threads = rate(0), rate(threads or 2)
    (one,) = batches(1)
    held = (one, build(one))
    once, _ = _run([held] * 2, step, device)  # the first, untimed, allocates and compiles
    # Short turns, so that others who use the machine slow both down alike, of more batches than a ring holds.
    turns = min(max(3, round(seconds / once / 8)), 15)
    number = max(threads + 3, round(seconds / once / turns))
    alone, together = [], []
    for _ in range(turns):
        alone.append(_run([held] * (number + 1), step, device)[0])
        together.append(_run(loaded(number, threads), step, device))
    ratios = [a / b for a, (b, _) in zip(alone, together, strict=True)]
    surveys_per_second = number * size / statistics.median(took for took, _ in together)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch_threads": torch.get_num_threads(),
        "loader_threads": threads,
        "region": region.name,
        "surveys": len(surveys),
        "bands": len(source.bands),
        "patch_size": source.size,
        "model": recipe.model,
        "species": len(vocabulary),
        "batch_size": size,
        "precision": recipe.precision,
        "rows_per_second": rows_per_second,
        "seconds_to_open": seconds_to_open,
        "patches_per_second": by_caller,
        "loaded_per_second": by_threads,
        "step_per_second": number * size / statistics.median(alone),
        "training_per_second": surveys_per_second,
        "training_over_step": statistics.median(ratios),
        "training_over_step_quartiles": statistics.quantiles(ratios, n=4)[::2],
        "turns": turns,
        "waiting_share": statistics.median(waited / took for took, waited in together),
        "memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS / 1e9,
        "device_memory_gb": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None,
        "hours": {step: number / surveys_per_second / 3600 for step, number in _PAPER.items()},
    }


def _run(
    batches: Iterable[tuple[Tensor, Tensor]],
    step: Callable[[Tensor, Tensor], None] | None,
    device: torch.device,
) -> tuple[float, float]:
    """Seconds of all batches but the first, which starts the loader, and those that were waited for data."""
    stream, waited = iter(batches), 0.0
    batch = next(stream)
    if step:
        step(*batch)
    _finish(device)
    start = asked = time.perf_counter()
    for batch in stream:
        waited += time.perf_counter() - asked
        if step:
            step(*batch)
        asked = time.perf_counter()
    _finish(device)
    return time.perf_counter() - start, waited


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bench_text(found: dict[str, Any]) -> str:
    """The result for people."""
    f = {
        key: f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        for key, value in found.items()
        if key.endswith("_per_second")
    }
    low, high = found["training_over_step_quartiles"]
    memory = f"{found['memory_gb']:.2f} GB of the process at most"
    if found["device_memory_gb"] is not None:
        memory += f", {found['device_memory_gb']:.2f} GB of the device"
    rows = [
        ("table", f"{f['rows_per_second']} rows/s", "read and checked"),
        ("open", f"{found['seconds_to_open']:.2f} s", "rasters and JPEGs, stacks built before"),
        ("patch", f"{f['patches_per_second']} /s", "built by the calling thread"),
        ("batch", f"{f['loaded_per_second']} /s", f"built by {found['loader_threads'] or 2} loader threads"),
        ("step", f"{f['step_per_second']} /s", "on one batch held in memory"),
        ("training", f"{f['training_per_second']} /s", f"with {found['loader_threads']} loader threads"),
        (
            "÷ step",
            f"{found['training_over_step']:.3f}",
            f"median of {found['turns']} turns, quartiles {low:.3f} and {high:.3f}",
        ),
        ("waiting", f"{100 * found['waiting_share']:.1f} %", "of training, for data"),
    ]
    hours = ", ".join(f"{step} {number:,.1f} h" for step, number in found["hours"].items())
    return "\n".join(
        [
            f"{found['model']} on {found['device']}, {found['precision']} precision, batches of "
            f"{found['batch_size']}: {found['bands']} bands of {found['patch_size']} cells, "
            f"{found['species']} species, {found['surveys']} surveys of {found['region']}",
            *(f"  {name:9}{value:>16}  {meaning}" for name, value, meaning in rows),
            f"  memory   {memory}",
            f"  at this rate the paper's steps on all of GeoLifeCLEF 2023 take: {hours}",
        ]
    )
