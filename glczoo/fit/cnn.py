"""CNNs as candidates of a fit, trained in the paper's three steps by the same code as `glczoo train`.

Ung et al. 2023, section 5.2: surveys, then records, then surveys again. Each training has a folder of its own

    OUT/cnn/SIZE/fold_K/region.yaml    the region with the surveys outside of fold K alone, surveys.csv
    OUT/cnn/SIZE/fold_K/start, step1…  runs; an interrupted fit goes on at their last checkpoint
    OUT/cnn/SIZE/fold_K/train.log      what training printed

that is deleted when it has given what it was for. Every run starts from random weights and the statistics of
the fit's inputs, so that all members of the ensemble read the same normalised values.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch

from glczoo.data.patch_source import PatchSource, Statistics
from glczoo.data.region import Region, SpeciesTable, Table
from glczoo.data.table_files.writing import write_csv
from glczoo.data.tables import read_samples
from glczoo.decoding import Decoding, Rule
from glczoo.files import disk_errors, whole
from glczoo.fit.candidate import Verdict, environment_of, write_member
from glczoo.fit.inputs import SurveyInputs
from glczoo.recipe import Recipe
from glczoo.runs.export import export_run
from glczoo.runs.lineage import own_step, write_recipes
from glczoo.runs.run import Run, is_finished
from glczoo.train import train

__all__ = ["CnnCandidate"]

_ARCHITECTURE = "fusresnet34_glc23"
_FEWEST = 50  # surveys that a network with a million weights is tried on


class CnnCandidate:
    """A small ResNet of one branch on patches of some size."""

    costly = True

    def __init__(self, inputs: SurveyInputs, size: int, out: Path) -> None:
        """Hold what it is trained on. `out`: the fit's folder."""
        self.inputs, self.size = inputs, size
        self.folder = out / "cnn" / str(size)
        self.in_steps = inputs.has_records and len(inputs.vocabulary) > 1
        self.name = f"CNN{' in three steps' if self.in_steps else ''}, patches of {size} cells"
        self.slug = f"cnn_{size}"

    @cached_property
    def unfit(self) -> str:
        """Why it is not tried; empty where it is."""
        number, most = len(self.inputs.surveys), self.inputs.settings.cnn.samples
        if number < _FEWEST:
            return f"{number} surveys, fewer than {_FEWEST}"
        if self._places > most:
            return f"{self._places} places of records, more than cnn.samples of {most}"
        return "" if self.folder.exists() else self._too_long()  # what has begun goes on

    def expected_seconds(self) -> float:
        """What a fold's training will take, from the time of two steps on noise."""
        batch = 64
        model = self._new_model().train()
        x = torch.randn(batch, model.in_chans, self.size, self.size)
        optimizer = torch.optim.Adam(model.parameters())
        seconds = 0.0
        for timed in (False, True, True):
            start = time.monotonic()
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            seconds += (time.monotonic() - start) * timed
        surveys = round(len(self.inputs.surveys) * (1 - 1 / (int(self.inputs.fold.max()) + 1)))
        patches = sum(number * self._epochs(table, number) for table, number in self._steps(surveys))
        return seconds * patches / (2 * batch)

    def _too_long(self) -> str:
        folds = int(self.inputs.fold.max()) + 1
        minutes = self.expected_seconds() * (folds + folds / (folds - 1)) / 60
        most = self.inputs.settings.cnn.minutes
        return f"about {minutes:.1f} minutes, more than cnn.minutes of {most:g}" if minutes > most else ""

    def out_of_fold(self, fold: int) -> np.ndarray:
        """Train without a fold and return the probabilities of the surveys in it, float32[n, K]."""
        held_out = self.inputs.fold == fold
        folder = self.folder / f"fold_{fold}"
        run = self._train(folder, np.flatnonzero(~held_out))[-1]
        probabilities = run.model.probabilities(self.inputs.surveys.subset(held_out)).numpy()
        shutil.rmtree(folder)
        return probabilities

    def final(self, folder: Path, verdict: Verdict) -> Path:
        """Train on all surveys and write a finished run, which tells every step."""
        inputs, work = self.inputs, self.folder / "all"
        runs = self._train(work, np.arange(len(inputs.surveys)))
        steps = [own_step(run) for run in runs]
        steps[0] = replace(steps[0], recipe=steps[0].recipe.model_copy(update={"init": "random"}))
        folder.mkdir(parents=True, exist_ok=True)
        history = {"training": [step.to_json() for step in steps]}
        with whole(folder / "metrics.json") as partial:
            partial.write_text(json.dumps(history, indent=1) + "\n", "utf-8")
        write_recipes(folder, steps, inputs.region.name)
        source, statistics = self._sees
        write_member(
            folder,
            inputs,
            runs[-1].model.model,
            source,
            statistics,
            verdict,
            slug=self.slug,
            architecture=_ARCHITECTURE,
            settings=self._settings,
        )
        shutil.rmtree(work)
        return folder

    @cached_property
    def _sees(self) -> tuple[PatchSource, Statistics]:
        return environment_of(self.inputs, self.size)

    @property
    def _settings(self) -> dict[str, Any]:
        own = self.inputs.settings.cnn
        stride = min(4, max(1, 2 ** int(math.log2(self.size / 4))))  # two cells or three are left of a side
        return {
            "branches": {"all": self.inputs.environment},
            "layers": own.layers,
            "channels": own.channels,
            "stem_stride": stride,
        }

    def _new_model(self) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.inputs.settings.seed)
            return timm.create_model(_ARCHITECTURE, num_classes=len(self.inputs.vocabulary), **self._settings)

    @cached_property
    def _places(self) -> int:
        """Patches that the records lie in; 0 where there is no step on records."""
        if not self.in_steps:
            return 0
        source = self._sees[0]
        records = read_samples(self.inputs.region, "po", self.inputs.vocabulary)
        records = records.subset(source.complete(records, "presence-only records", drop=True))
        return len(np.unique(source.places(records)))

    def _steps(self, surveys: int) -> list[tuple[Literal["pa", "po"], int]]:
        """The table of each step, and how many patches an epoch of it has."""
        if not self.in_steps:
            return [("pa", surveys)]
        return [("pa", surveys), ("po", self._places), ("pa", surveys)]

    def _epochs(self, table: str, number: int) -> int:
        own = self.inputs.settings.cnn
        most = own.epochs if table == "pa" else own.epochs_records
        return max(1, min(most, own.samples // number))

    def _train(self, folder: Path, rows: np.ndarray) -> list[Run]:
        """The runs of all steps on the surveys at `rows`."""
        folder.mkdir(parents=True, exist_ok=True)
        region = self._write_region(folder, rows)
        before, runs = self._start(folder, region), []
        for number, (table, patches) in enumerate(self._steps(len(rows)), 1):
            recipe = self._recipe(folder, f"step{number}", before, table, patches)
            with _log(folder / "train.log"):
                runs.append(Run.find(train(recipe)))
            before = recipe.name
        return runs

    def _recipe(self, folder: Path, name: str, init: str, table: str, patches: int) -> Recipe:
        """The settings of `recipes/swiss_trees`, sized to the data as `region init` sizes them."""
        epochs = self._epochs(table, patches)
        on_surveys = table == "pa"
        batch = min(128 if on_surveys else 32, 2 ** int(math.log2(max(2, patches / 8))))
        milestones = sorted({max(1, epochs // 2), max(1, round(epochs * 2 / 3))})
        return Recipe.model_validate(
            {
                "name": name,
                "region": str(folder),
                "model": _ARCHITECTURE,
                "model_args": self._settings,
                "modalities": list(self._sees[0].modalities),
                "patch_size": self.size,
                "init": init,
                "data": {
                    "tables": [table],
                    "validation": {"pa": 0.0, "po": 0.0},
                    "incomplete": "drop",
                    "augment": True,
                    "places": not on_surveys,
                },
                "loss": "bce" if on_surveys else "ce",
                "optimizer": {"name": "adam", "lr": 1e-3 if on_surveys else 3e-3},
                "schedule": {"milestones": milestones, "gamma": 0.1},
                "epochs": epochs,
                "batch_size": batch,
                "keep": "last",
                "decoding": "expected_f1" if on_surveys else {"rule": "top_k", "value": 1},
                "seed": self.inputs.settings.seed,
                "runs": str(folder / "runs"),
            }
        )

    def _start(self, folder: Path, region: Region) -> str:
        """A run of random weights that knows the statistics of the fit's inputs; its name."""
        name = "start"
        start = self._recipe(folder, name, "random", "pa", 1).run_folder(region)
        if not is_finished(start):
            start.mkdir(parents=True, exist_ok=True)
            export_run(
                start,
                self._new_model(),
                self.inputs.vocabulary,
                region,
                *self._sees,
                activation="sigmoid",
                decoding=Decoding(Rule.EXPECTED_F1),
                tuned={},
            )
        return name

    def _write_region(self, folder: Path, rows: np.ndarray) -> Region:
        """The region with these surveys alone; its records and rasters are the fit's."""
        region, surveys = self.inputs.region, self.inputs.surveys.subset(rows)
        sizes = np.maximum(surveys.sizes(), 1)  # a survey without species has a row of an absence
        row = np.repeat(np.arange(len(surveys)), sizes)
        found = np.repeat(surveys.sizes() > 0, sizes)
        species = np.full(len(row), self.inputs.vocabulary.ids[0])
        species[found] = self.inputs.vocabulary.ids[surveys.species]
        columns: dict[str, list[str] | np.ndarray] = {
            "survey": row,
            "patchID": surveys.patch_id[row],
            "lon": [repr(value) for value in surveys.lon[row].tolist()],
            "lat": [repr(value) for value in surveys.lat[row].tolist()],
            "speciesId": species,
            "found": found.astype(int),
        }
        write_csv(folder / "surveys.csv", columns)
        root = region.root_path.resolve()
        here = os.path.relpath(folder.resolve(), root)
        table = Table(file=[f"{here}/surveys.csv"], separator=",", survey=["survey"], presence={"found": [1]})
        changes: dict[str, Any] = {"tables": {**_without_tests(region), "pa": table}, "split": None}
        if region.species is None:  # else fewer surveys may mean fewer species
            with whole(folder / "species.csv") as partial:
                self.inputs.vocabulary.save(partial)
            changes["species"] = SpeciesTable(file=f"{here}/species.csv")
        text = region.model_copy(update=changes).text()
        with whole(folder / "region.yaml") as partial:
            partial.write_text(f"root: {json.dumps(str(root))}\n{text}", "utf-8")
        return Region.load(folder)


def _without_tests(region: Region) -> dict[str, Table]:
    return {kind: table for kind, table in region.tables.items() if kind == "po"}


@contextmanager
def _log(path: Path) -> Iterator[None]:
    """What training prints, in a file: a fit has lines of its own."""
    with disk_errors(path), open(path, "a", encoding="utf-8") as file:
        with redirect_stdout(file), redirect_stderr(file):
            yield
