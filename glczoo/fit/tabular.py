"""Candidates that are fitted on values at surveys: forests, and corrections of what records say.

Shapes: as in `inputs`.
"""

import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

from glczoo.data.patch_source import PatchSource, Statistics
from glczoo.fit.candidate import Verdict, environment_of, write_member
from glczoo.fit.inputs import SurveyInputs
from glczoo.fit.settings import CandidateName
from glczoo.training.fit_corrected import Shrinkage, fit_linear, fit_networks
from glczoo.training.fit_forest import bounded, grow

__all__ = ["CorrectedCandidate", "ForestCandidate"]

_MOST_SPLITS = 3000  # values of all species among which trees look for splits; of more, components


class _Tabular(ABC):
    """A candidate that is fitted on values at surveys."""

    architecture: str
    name: str
    slug: CandidateName
    costly = False

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

    def expected_seconds(self) -> float:
        """Seconds, or a few minutes: the first fold tells."""
        return 0.0

    def final(self, folder: Path, verdict: Verdict) -> Path:
        """Fit on all surveys and write a finished run."""
        model = self.fitted(np.arange(len(self.inputs.surveys)))
        source, statistics = self.sees()
        return write_member(
            folder,
            self.inputs,
            model,
            source,
            statistics,
            verdict,
            slug=self.slug,
            architecture=self.architecture,
            settings=self.settings,
        )

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
        trees, min_leaf = bounded(len(rows), len(inputs.vocabulary), own.trees, own.min_leaf)
        channels = inputs.environment if self.at_points else len(inputs.source.bands)
        with warnings.catch_warnings():  # out-of-bag estimates, which a fit has no use for, may be few
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            model, _ = grow(
                self._splits(inputs.values[rows]).numpy(),
                inputs.target[rows].numpy(),
                trees,
                min_leaf,
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
        own = self.inputs.settings.forest
        surveys, species = len(self.inputs.surveys), len(self.inputs.vocabulary)
        return {"trees": bounded(surveys, species, own.trees, own.min_leaf)[0]}

    def sees(self) -> tuple[PatchSource, Statistics]:
        """At the points: no densities."""
        if not self.at_points:
            return super().sees()
        return environment_of(self.inputs)


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
