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
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from glczoo.data.loader import default_threads, load
from glczoo.data.patch_source import PatchSource
from glczoo.data.patches import dihedral
from glczoo.data.region import Region
from glczoo.data.schema import parse
from glczoo.data.tables import read_samples, read_species
from glczoo.errors import GlczooError
from glczoo.recipe import Recipe, override, read_recipe
from glczoo.regions.virtual import make_virtual
from glczoo.training.initial_model import visible_modalities
from glczoo.training.prepare import Prepared, prepare

__all__ = ["Bench", "bench"]

_MAXRSS = 1 if sys.platform == "darwin" else 1024  # bytes in a unit of getrusage
# Samples times epochs of each step on GeoLifeCLEF 2023 (Ung et al. 2023, Tables 1 and 2): 80 % of 5,948
# presence-absence surveys, 98 % of 4,908,319 presence-only records.
_PAPER = {"step 1": 0.8 * 5948 * 30, "step 2": 0.98 * 4908319 * 10, "step 3": 0.8 * 5948 * 30}

Batch = tuple[Tensor, Tensor]
"""Positions index[B] and patches x[B, C, S, S]."""


@dataclass(frozen=True)
class Bench:
    """What was measured. Rates are in table rows, or training samples, a second."""

    device: str
    torch_threads: int
    loader_threads: int
    region: str
    surveys: int  # training samples
    bands: int
    patch_size: int
    model: str
    loss: str
    species: int
    batch_size: int
    precision: str
    rows_per_second: float
    seconds_to_open: float
    patches_per_second: float
    loaded_per_second: float
    step_per_second: float
    training_per_second: float
    training_over_step: float
    training_over_step_quartiles: tuple[float, float]
    turns: int
    waiting_share: float
    memory_gb: float
    device_memory_gb: float | None  # None on a CPU

    @property
    def hours(self) -> dict[str, float]:
        """Of each of the paper's steps on all of GeoLifeCLEF 2023, at this rate."""
        return {step: number / self.training_per_second / 3600 for step, number in _PAPER.items()}

    def to_json(self) -> dict[str, Any]:
        """The fields and the hours, as JSON values."""
        quartiles = list(self.training_over_step_quartiles)
        return asdict(self) | {"training_over_step_quartiles": quartiles, "hours": self.hours}

    def text(self) -> str:
        """The result for people."""
        low, high = self.training_over_step_quartiles
        memory = f"{self.memory_gb:.2f} GB of the process at most"
        if self.device_memory_gb is not None:
            memory += f", {self.device_memory_gb:.2f} GB of the device"
        rows = [
            ("table", f"{_rate(self.rows_per_second)} rows/s", "read and checked"),
            ("open", f"{self.seconds_to_open:.2f} s", "rasters and JPEGs, stacks built before"),
            ("patch", f"{_rate(self.patches_per_second)} /s", "built by the calling thread"),
            (
                "batch",
                f"{_rate(self.loaded_per_second)} /s",
                f"built by {self.loader_threads or 2} loader threads",
            ),
            ("step", f"{_rate(self.step_per_second)} /s", "on one batch held in memory"),
            (
                "training",
                f"{_rate(self.training_per_second)} /s",
                f"with {self.loader_threads} loader threads",
            ),
            (
                "÷ step",
                f"{self.training_over_step:.3f}",
                f"median of {self.turns} turns, quartiles {low:.3f} and {high:.3f}",
            ),
            ("waiting", f"{100 * self.waiting_share:.1f} %", "of training, for data"),
        ]
        hours = ", ".join(f"{step} {number:,.1f} h" for step, number in self.hours.items())
        return "\n".join(
            [
                f"{self.model} by {self.loss} on {self.device}, {self.precision} precision, batches of "
                f"{self.batch_size}: {self.bands} bands of {self.patch_size} cells, "
                f"{self.species} species, {self.surveys} training samples of {self.region}",
                *(f"  {name:9}{value:>16}  {meaning}" for name, value, meaning in rows),
                f"  memory   {memory}",
                f"  at this rate the paper's steps on all of GeoLifeCLEF 2023 take: {hours}",
            ]
        )


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bench(
    path: Path | None = None,
    overrides: list[str] | None = None,
    region: Path | None = None,
    device: str | None = None,
    seconds: float = 10,
    size: int = 256,
) -> Bench:
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

    Raises:
        MissingError: recipe or data are missing.
        GlczooError: the recipe, the data and the model do not fit each other, or there is no such device.
    """
    cpu = device == "cpu" or (device is None and not torch.accelerator.is_available())
    changes = [*(overrides or []), *([f"region={region}"] if region else [])]
    with tempfile.TemporaryDirectory() as folder:
        if path is not None:
            recipe = read_recipe(path, changes)
        else:
            recipe = parse(Recipe, override(_default(cpu), changes), "bench")
            if region is None:
                recipe = recipe.model_copy(update={"region": f"{folder}/virtual"})
                made = Path(recipe.region)
                make_virtual(made, po=4000, pa=500, test=1, size=size, seed=0, progress=False)
        AcceleratorState._reset_state()
        accelerator = Accelerator(cpu=cpu, mixed_precision=recipe.precision)
        if device not in (None, accelerator.device.type):
            raise GlczooError(f"there is no device {device} here; the fastest is {accelerator.device.type}")
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


def _measure(accelerator: Accelerator, recipe: Recipe, seconds: float) -> Bench:
    region, device = Region.load(recipe.region), accelerator.device
    rows_per_second = _rows_per_second(recipe, region)
    data = recipe.data.model_copy(update={"incomplete": "drop"})
    prepared = prepare(recipe.model_copy(update={"data": data}), region, accelerator)
    start = time.perf_counter()
    source = PatchSource(region, visible_modalities(recipe, region), recipe.patch_size)
    seconds_to_open = time.perf_counter() - start  # the first time, in `prepare`, it built the stacks
    threads = default_threads(device) if recipe.data.workers is None else recipe.data.workers
    batches = _Batches(recipe, prepared)
    size, step = batches.size, _step(accelerator, prepared)

    def rate(threads: int) -> float:
        took, _ = _run(batches.load(4, threads), None, device)
        number = max(8, round(4 * seconds / took))
        return number * size / _run(batches.load(number, threads), None, device)[0]

    by_caller, by_threads = rate(0), rate(threads or 2)
    held = batches.held()
    once, _ = _run([held] * 2, step, device)  # the first, untimed, allocates and compiles
    # Short turns, so that others who use the machine slow both down alike, of more batches than a ring holds.
    turns = min(max(3, round(seconds / once / 8)), 15)
    number = max(threads + 3, round(seconds / once / turns))
    alone, together = [], []
    for _ in range(turns):
        alone.append(_run([held] * (number + 1), step, device)[0])
        together.append(_run(batches.load(number, threads), step, device))
    ratios = [a / b for a, (b, _) in zip(alone, together, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    cuda = device.type == "cuda"
    return Bench(
        device=torch.cuda.get_device_name(device) if cuda else device.type,
        torch_threads=torch.get_num_threads(),
        loader_threads=threads,
        region=region.name,
        surveys=len(prepared.training),
        bands=len(source.bands),
        patch_size=source.size,
        model=recipe.model,
        loss=recipe.loss.name,
        species=len(prepared.inputs.vocabulary),
        batch_size=size,
        precision=recipe.precision,
        rows_per_second=rows_per_second,
        seconds_to_open=seconds_to_open,
        patches_per_second=by_caller,
        loaded_per_second=by_threads,
        step_per_second=number * size / statistics.median(alone),
        training_per_second=number * size / statistics.median(took for took, _ in together),
        training_over_step=statistics.median(ratios),
        training_over_step_quartiles=(low, high),
        turns=turns,
        waiting_share=statistics.median(waited / took for took, waited in together),
        memory_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS / 1e9,
        device_memory_gb=torch.cuda.max_memory_allocated(device) / 1e9 if cuda else None,
    )


def _rows_per_second(recipe: Recipe, region: Region) -> float:
    """How fast the recipe's tables are read and checked."""
    vocabulary = read_species(region)
    start = time.perf_counter()
    rows = sum(len(read_samples(region, table, vocabulary).species) for table in recipe.data.tables)
    return rows / (time.perf_counter() - start)


class _Batches:
    """Full batches as the recipe's loss wants them, from as many epochs as it takes."""

    def __init__(self, recipe: Recipe, prepared: Prepared) -> None:
        self._recipe, self._prepared = recipe, prepared
        self._epoch = -1
        self._left: list[Tensor] = []
        self.size = len(prepared.order.batches(0)[0])  # samples that a batch trains on
        self._rows = len(prepared.objective.batches(prepared.order.batches(0), prepared.background, 0)[0])

    def load(self, number: int, threads: int) -> Iterator[Batch]:
        """One batch that starts the loader and `number` to measure, built by so many threads."""
        # More than are taken: the loader has as much to do at the end as in the middle.
        indices = [self._next() for _ in range(number + threads + 2)]
        turn = partial(dihedral, self._recipe.seed, 0) if self._recipe.data.augment else None
        return itertools.islice(load(self._prepared.build, indices, turn, threads), number + 1)

    def held(self) -> Batch:
        """One batch in memory of its own."""
        index = self._next()
        return index, self._prepared.build(index)

    def _next(self) -> Tensor:
        while not self._left:
            self._epoch += 1
            order = self._prepared.order.batches(self._epoch)
            batches = self._prepared.objective.batches(order, self._prepared.background, self._epoch)
            self._left = [batch for batch in batches if len(batch) == self._rows]
        return self._left.pop(0)


def _step(accelerator: Accelerator, prepared: Prepared) -> Callable[[Tensor, Tensor], None]:
    """A step as training takes it."""
    model, objective, optimizer = prepared.model, prepared.objective, prepared.optimizer
    model.train()

    def step(index: Tensor, x: Tensor) -> None:
        loss = objective(model(objective.view(x, index, 0)), index)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _run(
    batches: Iterable[Batch],
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
