"""What a candidate of a fit is, and the run that each of them becomes.

Shapes: as in `inputs`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import nn

from glczoo.data.patch_source import PatchSource, Statistics
from glczoo.decoding import Decoding
from glczoo.files import whole
from glczoo.fit.inputs import DENSITIES, SurveyInputs
from glczoo.recipe import write_run_recipe
from glczoo.recipe.sections import Decode
from glczoo.runs.export import export_run

__all__ = ["Candidate", "Verdict", "environment_of", "write_member"]


class Candidate(Protocol):
    """A kind of model that a fit may give weight to."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def slug(self) -> str:
        """What its files are called."""

    @property
    def costly(self) -> bool:
        """Whether it must lower the log loss beyond chance to have weight, because it makes maps slow."""

    def expected_seconds(self) -> float:
        """What the fit without a fold will take, about, before any was done; 0 where that is short."""

    def out_of_fold(self, fold: int) -> np.ndarray:
        """Fit without a fold and return the probabilities of the samples in it, float32[n, K]."""

    def final(self, folder: Path, verdict: "Verdict") -> Path:
        """Fit on all samples and write a finished run: an architecture that timm knows, in safetensors."""


@dataclass(frozen=True)
class Verdict:
    """What the folds said, and every member keeps."""

    decoding: Decoding
    tuned: Mapping[str, float]  # the best number of every rule
    seconds: float  # that the folds took


def environment_of(inputs: SurveyInputs, size: int | None = None) -> tuple[PatchSource, Statistics]:
    """The source without densities, and its statistics; `size`: of its patches in cells."""
    names = [name for name in inputs.source.modalities if name != DENSITIES]
    source = PatchSource(inputs.region, names, size or inputs.source.size)
    source.levels.update(inputs.source.levels)
    statistics, number = inputs.statistics, inputs.environment
    parts = (statistics.mean, statistics.std, statistics.filled)
    return source, Statistics(*(part[:number] for part in parts))


def write_member(
    folder: Path,
    inputs: SurveyInputs,
    model: nn.Module,
    source: PatchSource,
    statistics: Statistics,
    verdict: Verdict,
    *,
    slug: str,
    architecture: str,
    settings: Mapping[str, Any],
) -> Path:
    """Write a candidate that was fitted on all surveys as a finished run.

    Args:
        folder: of the run.
        inputs: that it was fitted on.
        model: with its weights.
        source: what it sees.
        statistics: what that is normalised by.
        verdict: of the folds.
        slug: name of the run.
        architecture: that timm knows.
        settings: keywords of the architecture that people want to know.
    """
    recipe = inputs.recipe.model_copy(
        update={
            "name": slug,
            "model": architecture,
            "model_args": dict(settings),
            "modalities": list(source.modalities),
            "patch_size": source.size,
            "decoding": Decode(rule=verdict.decoding.rule),
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_run_recipe(folder, recipe, processes=1)
    line = {"kind": "epoch", "epoch": 0, "step": 0, "loss": None, "validation_f1": None}
    with whole(folder / "metrics.jsonl") as partial:
        partial.write_text(json.dumps(line | {"seconds": verdict.seconds}) + "\n", "utf-8")
    export_run(
        folder,
        model,
        inputs.vocabulary,
        inputs.region,
        source,
        statistics,
        activation="sigmoid",
        decoding=verdict.decoding,
        tuned=verdict.tuned,
        init="random",
        epoch=0,
    )
    return folder
