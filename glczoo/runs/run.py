"""A run: a folder, and everything that is known about the model that was trained in it.

Each file is read when it is first asked for, and once. What lies in the folder: see `export`.
"""

import copy
import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.data.region import Region
from glczoo.data.splits import Split
from glczoo.errors import GlczooError, MissingError
from glczoo.hub_client import PREFIX, DamagedError, pull, split_id
from glczoo.json_text import parse_json, read_json
from glczoo.models.published import Config, build, read_config
from glczoo.packaged import SAMPLE, locate_model, sample
from glczoo.published_files import SUMS
from glczoo.recipe import Recipe, read_run_recipe
from glczoo.runs.lineage import Step, own_step
from glczoo.runs.split import Kind, Part, Tables, counts_by_species, split_table
from glczoo.runs.trained import TrainedModel

__all__ = ["Run", "is_finished", "load_model", "read_metrics"]


class Run:
    """A run's folder, or a published model's.

    Attributes:
        folder: where it lies.
        name: what tables call it: the last two parts of the folder, or ORG/NAME of a model on the Hub.
    """

    def __init__(self, folder: str | Path, name: str = "", tables: Tables | None = None) -> None:
        """Nothing is read yet.

        Args:
            folder: of the run.
            name: what tables call it.
            tables: what runs that belong together have read of the region's tables.
        """
        self.folder = Path(folder)
        self.name = name or "/".join(self.folder.resolve().parts[-2:])
        self._tables = tables or Tables()
        self._splits: dict[str, Split] = {}
        self._weights: Run | None = None  # the same run, which loads them

    @classmethod
    def find(
        cls, name: "str | Path | Run", sibling_of: Path | None = None, tables: Tables | None = None
    ) -> "Run":
        """A finished run by its name.

        Args:
            name: `hf-hub:ORG/NAME[@REVISION]`, which is downloaded if need be; a folder; `sample`, the model
                that travels with glczoo; or, with `sibling_of`, the name of a run beside that folder (also
                `../MODEL/NAME`).
            sibling_of: folder of a run, finished or not.
            tables: see `Run`.

        Raises:
            MissingError: there is no such run, or it is not finished.
            HubError: the model cannot be had from the Hub.
            DamagedError: what came from there is not what was published.
        """
        if isinstance(name, Run):
            return name
        packaged = locate_model(name)
        if packaged != name:
            return cls(Path(packaged), SAMPLE, tables)
        if str(name).startswith(PREFIX):
            return cls(pull(str(name)), split_id(str(name))[0], tables)
        places = [Path(name)]
        if sibling_of is not None:
            places.insert(0, Path(os.path.normpath(sibling_of.parent / name)))
        for place in places:
            if is_finished(place):
                return cls(place, tables=tables)
        if sibling_of is None:
            if not places[0].exists():
                raise MissingError(f"there is no folder {places[0]}{_near(places[0])}")
            read_config(places[0])  # says what is missing
        state = "is not finished" if places[0].exists() else "does not exist"
        raise MissingError(f"the run {places[0]} {state}")

    @classmethod
    def load(cls, names: "Sequence[str | Path | Run]") -> TrainedModel:
        """One model, or several as their ensemble (see `TrainedModel.ensemble`).

        Args:
            names: see `find`.

        Raises:
            FileNotFoundError, HubError, DamagedError: see `find` and `model`.
            GlczooError: no name, or the models do not share one vocabulary.
        """
        tables = Tables()
        return TrainedModel.ensemble([cls.find(name, tables=tables).model for name in names])

    def on(self, region: Region | None) -> "Run":
        """The same run asked in another region; itself for None. The weights are shared."""
        if region is None:
            return self
        other = copy.copy(self)
        other.__dict__["region"], other._splits, other._weights = region, {}, self
        other.__dict__.pop("model", None)
        return other

    @property
    def finished(self) -> bool:
        """Whether the run has been exported."""
        return is_finished(self.folder)

    @cached_property
    def _read_recipe(self) -> tuple[Recipe, int]:
        return read_run_recipe(self.folder)

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe of its last step.

        Raises:
            MissingError: the folder holds no recipe.
            GlczooError: it is damaged.
        """
        return self._read_recipe[0]

    @property
    def processes(self) -> int:
        """By how many processes it was trained."""
        return self._read_recipe[1]

    @cached_property
    def config(self) -> Config:
        """Its config.json; see `read_config` for what is raised."""
        return read_config(self.folder)

    @cached_property
    def region(self) -> Region:
        """The region that it was trained on: a published run brings its description along.

        Raises:
            MissingError: the region's file is not where it was.
        """
        own = self.folder / "region.yaml"
        if self.folder.resolve() == sample("model").resolve():
            return Region.load(sample("region"))  # its data travel with it
        if self.from_others and not own.is_file():
            raise DamagedError(f"{self.folder} holds no region.yaml: it was not published with glczoo")
        if own.is_file():
            return Region.load(own, published=True)
        return Region.load(self.recipe.region)

    @cached_property
    def species(self) -> SpeciesIndex:
        """The vocabulary.

        Raises:
            DamagedError: species.csv is damaged, or not the vocabulary of the weights.
        """
        try:
            species = SpeciesIndex.load(self.folder / "species.csv")
        except (ValueError, FileNotFoundError) as error:
            raise DamagedError(f"the vocabulary cannot be read: {error}") from None
        if [str(i) for i in species.ids.tolist()] != self.config.label_names:
            raise DamagedError(f"{self.folder}: species.csv and the label_names of config.json differ")
        return species

    @cached_property
    def model(self) -> TrainedModel:
        """The model with its weights, ready to predict.

        Raises:
            MissingError: the folder is no finished run.
            DamagedError: weights, config or vocabulary are damaged, or do not belong together.
        """
        if self._weights is not None:
            return replace(self._weights.model, run=self)
        section, cfg = self.config.glczoo, self.config.pretrained_cfg
        return TrainedModel(
            species=self.species,
            model=build(self.folder, self.config).eval(),
            name=self.name,
            modalities=section.modalities,
            bands=section.band_names,
            patch_size=section.patch_size,
            mean=cfg.mean,
            std=cfg.std,
            activation=section.activation,
            decoding=section.decoding,
            tuned=section.tuned,
            run=self,
        )

    def split(self, kind: Kind) -> Split:
        """The samples of a table of the region, cut as the recipe says.

        Raises:
            MissingError: the table is not there.
            GlczooError: the region has no such table, or it cannot be split so.
        """
        if kind not in self._splits:
            self._splits[kind] = split_table(self.recipe, self.region, kind, self.species, self._tables)
        return self._splits[kind]

    def samples(self, part: Part) -> Samples:
        """The surveys of one part of the split; all of them, also those that cannot be read."""
        split = self.split("pa")
        return {"train": split.train, "validation": split.validation, "test": split.test}[part]

    def records(self) -> dict[Kind, np.ndarray]:
        """How often the training samples of each table that the region has name every species: int64[K]."""
        kinds: tuple[Kind, ...] = ("po", "pa")
        return {
            kind: counts_by_species(self.split(kind), len(self.species))
            for kind in kinds
            if kind in self.region.tables
        }

    def citations(self, of: Literal["tables", "rasters", "all"] = "all") -> list[str]:
        """How the data sets ask to be cited, each once: of the region's tables, and of the rasters seen."""
        texts = []
        if of != "rasters":
            texts += [_citation(table.citation, table.doi) for table in self.region.tables.values()]
        if of != "tables":
            seen = [m for m in self.region.modalities if m.name in self.config.glczoo.modalities]
            texts += [_citation(modality.citation, modality.doi) for modality in seen]
        return [text for text in dict.fromkeys(texts) if text]

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; none where training left no record."""
        return list(read_metrics(self.folder))

    @cached_property
    def published(self) -> dict[str, Any]:
        """metrics.json of an ensemble or a published model; empty for a run that was trained here."""
        path = self.folder / "metrics.json"
        if not path.is_file():
            return {}
        try:
            values = read_json(path)
        except GlczooError as error:
            raise DamagedError(f"{path} is damaged: {error.what}") from None
        if not isinstance(values, dict) or not isinstance(values.get("training"), list):
            raise DamagedError(f"{path} is not as glczoo writes it: it has no list `training`")
        return values

    @property
    def from_others(self) -> bool:
        """Whether the folder was published: runs and folders that it names are not looked for."""
        return (self.folder / SUMS).is_file() or (self.folder / "region.yaml").is_file()

    @property
    def brings_history(self) -> bool:
        """Whether the steps that led here are kept in the folder: of an ensemble or a published model."""
        return self.from_others or (self.folder / "recipes").is_dir()

    @cached_property
    def before(self) -> "Run | None":
        """The run, or the model on the Hub, that this one started from.

        None where it started anew, and of a published model.

        Raises:
            MissingError: it is not there any more.
            HubError: it cannot be had from the Hub.
        """
        init = self.recipe.init
        if self.from_others or init in ("imagenet", "random"):
            return None
        try:
            return Run.find(init, self.folder, self._tables)
        except FileNotFoundError:
            raise MissingError(
                f"{self.folder} started from the run {self.folder.parent / init}, which is not there any "
                "more: its history is lost"
            ) from None

    @cached_property
    def lineage(self) -> list[Step]:
        """Every step that led to the run, the first first.

        Raises:
            MissingError: a run that another started from is not there any more.
        """
        if self.brings_history:
            where = self.folder / "metrics.json"
            return [Step.from_json(step, where) for step in self.published.get("training", [])]
        before = self.before
        return [*(before.lineage if before else []), own_step(self)]


def _near(folder: Path) -> str:
    """What lies where a folder was looked for, with names like its own."""
    above = folder.parent
    names = sorted(path.name for path in above.iterdir() if path.is_dir()) if above.is_dir() else []
    near = difflib.get_close_matches(folder.name, names, n=3)
    if near:
        return f"; did you mean {' or '.join(str(above / name) for name in near)}?"
    where = "" if above.is_dir() else f", nor {above}"
    return f"{where}: train a run, or name one of the Hub as hf-hub:ORG/NAME"


def _citation(text: str, doi: str) -> str:
    return f"{text} doi:{doi}".strip() if doi and doi not in text else text


def is_finished(folder: Path) -> bool:
    """Whether a run has been exported."""
    return (folder / "model.safetensors").is_file() and (folder / "config.json").is_file()


def load_model(run: str | Path) -> TrainedModel:
    """The model of a run, a published folder or `hf-hub:ORG/NAME`; see `Run.find` and `Run.model`."""
    return Run.find(run).model


def read_metrics(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; none where training left no record.

    A last line that a power cut has torn, without its end, is left out.

    Raises:
        DamagedError: a line is none that training writes; the message names it.
    """
    path = folder / "metrics.jsonl"
    if not path.exists():
        return
    for number, text in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        try:
            line = parse_json(text, "")
        except GlczooError as error:
            if not text.endswith(b"\n"):
                return
            raise DamagedError(f"{path} is damaged in line {number}: {error.what}") from None
        if not (isinstance(line, dict) and _is_line(line)):
            raise DamagedError(f"{path} is damaged in line {number}: it is none that training writes")
        yield line


def _is_line(line: dict[str, Any]) -> bool:
    """Whether training writes such a line: of a step, or of an epoch with its numbers or null for them."""
    numbers = [line.get(key, "") for key in ("loss", "validation_f1")]
    is_epoch = isinstance(line.get("seconds"), int | float) and all(
        isinstance(number, int | float | None) for number in numbers
    )
    return line.get("kind") == "step" or (line.get("kind") == "epoch" and is_epoch)
