"""What a candidate of a fit is, and those that are fitted on values at surveys.

Shapes: as in `inputs`.
"""

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import timm
import torch
from torch import Tensor, nn

from glczoo.data.patch_source import PatchSource, Statistics
from glczoo.decoding import Decoding
from glczoo.files import whole
from glczoo.fit.inputs import DENSITIES, SurveyInputs
from glczoo.fit.settings import CandidateName
from glczoo.recipe import write_run_recipe
from glczoo.recipe.sections import Decode
from glczoo.runs.export import export_run
from glczoo.training.fit_corrected import Shrinkage, fit_linear, fit_networks
from glczoo.training.fit_forest import grow

__all__ = ["Candidate", "CorrectedCandidate", "ForestCandidate", "candidates_of"]

_MOST_PRODUCTS = 60  # bands: of more, products would be more columns than surveys can weigh
_MOST_SPLITS = 3000  # values of all species among which trees look for splits; of more, components


class Candidate(Protocol):
    """A kind of model that a fit may give weight to."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def slug(self) -> str:
        """What its files are called."""

    def out_of_fold(self, fold: int) -> np.ndarray:
        """Fit without a fold and return the probabilities of the samples in it, float32[n, K]."""

    def final(self, folder: Path, decoding: Decoding, tuned: Mapping[str, float], seconds: float) -> Path:
        """Fit on all samples and write a finished run: an architecture that timm knows, in safetensors.

        `decoding` and `tuned`: chosen out of fold, kept with the run; `seconds`: what the fit took, noted in
        the run.
        """


class _Tabular(ABC):
    """A candidate that is fitted on values at surveys."""

    architecture: str
    name: str
    slug: CandidateName

    def __init__(self, inputs: SurveyInputs, name: str, slug: CandidateName) -> None:
        """Hold what it is fitted on."""
        self.inputs, self.name, self.slug = inputs, name, slug

    @abstractmethod
    def fitted(self, rows: np.ndarray) -> nn.Module:
        """A model fitted on the surveys at `rows`."""

    @abstractmethod
    def logits(self, model: Any, values: Tensor) -> Tensor:
        """values[B, V] to logits[B, K]."""

    @property
    def settings(self) -> dict[str, Any]:
        """Keywords of the architecture that people want to know."""
        return {}

    def out_of_fold(self, fold: int) -> np.ndarray:
        """Fit without a fold and return the probabilities of the surveys in it, float32[n, K]."""
        held_out = self.inputs.fold == fold
        model = self.fitted(np.flatnonzero(~held_out))
        with torch.inference_mode():
            probabilities = self.logits(model, self.inputs.values[np.flatnonzero(held_out)]).sigmoid()
        return probabilities.float().numpy()

    def final(self, folder: Path, decoding: Decoding, tuned: Mapping[str, float], seconds: float) -> Path:
        """Fit on all surveys and write a finished run."""
        model = self.fitted(np.arange(len(self.inputs.surveys)))
        source, statistics = self.sees()
        recipe = self.inputs.recipe.model_copy(
            update={
                "name": self.slug,
                "model": self.architecture,
                "model_args": self.settings,
                "modalities": list(source.modalities),
                "decoding": Decode(rule=decoding.rule),
            }
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_run_recipe(folder, recipe, processes=1)
        line = {
            "kind": "epoch",
            "epoch": 0,
            "step": 0,
            "loss": None,
            "validation_f1": None,
            "seconds": seconds,
        }
        with whole(folder / "metrics.jsonl") as partial:
            partial.write_text(json.dumps(line) + "\n", "utf-8")
        export_run(
            folder,
            model,
            self.inputs.vocabulary,
            self.inputs.region,
            source,
            statistics,
            activation="sigmoid",
            decoding=decoding,
            tuned=tuned,
            init="random",
            epoch=0,
        )
        return folder

    def sees(self) -> tuple[PatchSource, Statistics]:
        """The files that its model reads, and what their values are normalised by."""
        return self.inputs.source, self.inputs.statistics

    def _with_records(self, model: Any) -> None:
        """Give a model the weights of the records' models, and of the components where it has them."""
        state = self.inputs.covariates.state_dict()
        own = model.covariates.state_dict()
        model.covariates.load_state_dict({key: value for key, value in state.items() if key in own})


class ForestCandidate(_Tabular):
    """A random forest: at the point alone, or on windows, densities and what the records' models predict."""

    architecture = "forest_glc23"

    def __init__(self, inputs: SurveyInputs, name: str, slug: CandidateName, jobs: int = 1) -> None:
        """`jobs`: threads that grow trees."""
        super().__init__(inputs, name, slug)
        self.jobs = jobs
        self.at_points = slug == "points"
        few = inputs.covariates.layers * len(inputs.vocabulary) <= _MOST_SPLITS
        self.keywords = {k: v for k, v in inputs.keywords.items() if not (k == "reduced" and few)}

    def fitted(self, rows: np.ndarray) -> nn.Module:
        """A forest grown on the surveys at `rows`."""
        inputs, own = self.inputs, self.inputs.settings.forest
        channels = inputs.environment if self.at_points else len(inputs.source.bands)
        with warnings.catch_warnings():  # out-of-bag estimates, which a fit has no use for, may be few
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            model, _ = grow(
                self._splits(inputs.values[rows]).numpy(),
                inputs.target[rows].numpy(),
                own.trees,
                own.min_leaf,
                inputs.settings.seed,
                self.jobs,
                in_chans=channels,
                **({} if self.at_points else {"covariates": self.keywords}),
            )
        if not self.at_points:
            self._with_records(model)
        return model

    def logits(self, model: Any, values: Tensor) -> Tensor:
        """values[B, V] to logits[B, K]."""
        logits: Tensor = model.forward_head(model.shares(self._splits(values)))
        return logits

    def _splits(self, values: Tensor) -> Tensor:
        """What the trees split by: the first window is the point."""
        if self.at_points:
            return values[:, : self.inputs.environment]
        return self.inputs.covariates.shared(values) if "reduced" in self.keywords else values

    @property
    def settings(self) -> dict[str, Any]:
        """How many trees."""
        return {"trees": self.inputs.settings.forest.trees}

    def sees(self) -> tuple[PatchSource, Statistics]:
        """At the points: no densities."""
        if not self.at_points:
            return super().sees()
        whole_source, number = self.inputs.source, self.inputs.environment
        names = [name for name in whole_source.modalities if name != DENSITIES]
        statistics = self.inputs.statistics
        source = PatchSource(self.inputs.region, names, whole_source.size)
        source.levels.update(whole_source.levels)
        parts = (statistics.mean, statistics.std, statistics.filled)
        return source, Statistics(*(part[:number] for part in parts))


class CorrectedCandidate(_Tabular):
    """What records say, corrected by surveys; without records a model of the environment alone."""

    architecture = "corrected_glc23"

    def fitted(self, rows: np.ndarray) -> nn.Module:
        """A model fitted on the surveys at `rows`."""
        inputs, own = self.inputs, self.inputs.settings
        model: Any = timm.create_model(
            "corrected_glc23",
            num_classes=len(inputs.vocabulary),
            in_chans=len(inputs.source.bands),
            **inputs.keywords,
            **self.settings,
        ).eval()
        self._with_records(model)
        values, target = inputs.values[rows], inputs.target[rows]
        shared = own.linear.shared or (300.0 if inputs.has_records else 30.0)
        shrinkage = Shrinkage(shared, own.linear.own)
        if self.slug == "network":
            for layer in model.modules():  # not a keyword: an ensemble sets its own for all its members
                if isinstance(layer, nn.Dropout):
                    layer.p = own.network.drop_rate
            fit_networks(model, values, target, shrinkage, epochs=own.network.epochs, seed=own.seed)
        else:
            corrects = self.slug != "slopes"
            fit_linear(model, values, target, shrinkage, own.linear.iterations, corrects)
        return model

    def logits(self, model: Any, values: Tensor) -> Tensor:
        """values[B, V] to logits[B, K]."""
        logits: Tensor = model.forward_head(values)
        return logits

    @property
    def settings(self) -> dict[str, Any]:
        """What makes it this one of the corrected models."""
        network = self.inputs.settings.network
        if self.slug == "network":
            return {"hidden": network.hidden, "copies": network.copies}
        return {"products": True} if self.slug == "quadratic" else {}


def candidates_of(inputs: SurveyInputs, jobs: int = 1) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates that settings and data allow, the simplest first; and why others are left out.

    `inputs`: all that a fit by surveys read.
    """
    records = inputs.has_records
    what = "records, corrected" if records else "environment"
    names: dict[CandidateName, str] = {
        "points": "forest at the points",
        "slopes": "records, own slopes",
        "linear": f"{what}, linear",
        "network": f"{what}, network",
        "quadratic": f"{what}, quadratic",
        "forest": "forest with windows and records" if records else "forest with windows",
    }
    wanted = inputs.settings.candidates or list(names)
    chosen: list[Candidate] = []
    left_out = dict(inputs.notes)
    for slug, name in names.items():
        if slug == "slopes" and not records:
            continue
        if slug == "quadratic" and inputs.environment > _MOST_PRODUCTS:
            left_out[name] = f"{inputs.environment} bands, more than {_MOST_PRODUCTS}: too many products"
        elif slug in ("points", "forest") and slug in wanted:
            chosen.append(ForestCandidate(inputs, name, slug, jobs))
        elif slug in wanted:
            chosen.append(CorrectedCandidate(inputs, name, slug))
    return chosen, left_out
