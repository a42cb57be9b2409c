"""What `glczoo fit` can be told beside its region; every key has a default that no region was needed for."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from glczoo.data.region import Region, Strict, parse
from glczoo.errors import GlczooError
from glczoo.recipe import override
from glczoo.recipe.sections import Blocks

__all__ = [
    "CandidateName",
    "Cnn",
    "Fit",
    "Forest",
    "Linear",
    "Network",
    "Records",
    "Surveys",
    "read_settings",
]

CandidateName = Literal["points", "slopes", "linear", "network", "quadratic", "forest", "cnn"]
"""The candidates of a fit by surveys."""


class Surveys(Strict):
    """Which surveys train; those of the region's split, or of a held-out fold of blocks, do not."""

    split: Literal["random", "file", "blocks"] = Field(
        default="random", description="file: the region's fixed folds, which is the default where it has them"
    )
    blocks: Blocks = Blocks()
    pa_fraction: float = Field(default=1.0, gt=0, le=1, description="share of the surveys to use at all")
    seed: int = Field(default=0, ge=0, description="of the split")
    incomplete: Literal["error", "drop", "fill"] = Field(
        default="drop",
        description="surveys and records outside a raster or without a JPEG patch, cube or TIFF; fill: those "
        "without a file are filled with the mean",
    )


class Records(Strict):
    """Models of presence-only records, fitted once: which species is recorded here, and where each is."""

    copies: int = Field(default=4, ge=1, description="networks that are averaged")
    epochs_species: int = Field(default=20, ge=1, description="of the softmax over species")
    epochs_sites: int = Field(default=60, ge=1, description="of the softmax over sites")
    drop_rate: float = Field(default=0.2, ge=0, lt=1, description="of the softmax over species")
    windows: list[int] = Field(default=[1, 9], description="sides of the windows that are averaged, in cells")
    most: int = Field(default=200_000, ge=1, description="places to fit on; of more, so many at random")


class Linear(Strict):
    """The corrections that are convex problems."""

    shared: float | None = Field(
        default=None,
        gt=0,
        description="shrinkage of what all covariates add; null: 300 to records, 30 to none",
    )
    own: float = Field(default=10.0, gt=0, description="shrinkage of a species' slopes to the common ones")
    iterations: int = Field(default=150, ge=1, description="of L-BFGS at most")


class Network(Strict):
    """The correction by small networks."""

    copies: int = Field(default=2, ge=1, description="networks that are averaged")
    hidden: int = Field(default=128, ge=1, description="width of a layer")
    epochs: int = Field(default=15, ge=1, description="passes over the training surveys")
    drop_rate: float = Field(default=0.5, ge=0, lt=1, description="of dropout")


class Forest(Strict):
    """Both forests."""

    trees: int = Field(default=200, ge=1, description="how many")
    min_leaf: int = Field(default=2, ge=1, description="surveys in a leaf at least")


class Cnn(Strict):
    """Small ResNets, trained on surveys, then records, then surveys again."""

    patch_sizes: list[int] = Field(default=[9, 17], description="cells along a side: a candidate for each")
    layers: list[int] = Field(default=[1, 1, 1, 1], description="blocks of each stage")
    channels: list[int] = Field(default=[32, 64, 128, 256], description="width of each stage")
    epochs: int = Field(default=20, ge=1, description="of each step on surveys, at most")
    epochs_records: int = Field(default=6, ge=1, description="of the step on places of records, at most")
    minutes: float = Field(
        default=5.0,
        gt=0,
        description="that each patch size may take, by the time of a few steps: one that would take longer "
        "is named and not tried",
    )
    samples: int = Field(
        default=50_000,
        ge=1,
        description="patches that a step sees, at most: of many it has fewer epochs; where the places of "
        "records are more, no CNN is tried",
    )

    @field_validator("patch_sizes")
    @classmethod
    def _the_point_is_in_the_middle(cls, sizes: list[int]) -> list[int]:
        if any(size % 2 == 0 or not 3 <= size < 128 for size in sizes) or len(set(sizes)) < len(sizes):
            raise GlczooError("patch sizes are different odd numbers of cells from 3 to 127")
        return sizes


class Fit(Strict):
    """All that determines a fit beside the region's data."""

    data: Surveys = Surveys()
    modalities: list[str] | None = Field(default=None, description="what the models see; null: all")
    patch_size: int = Field(default=9, ge=1, description="cells along a side, but for CNNs")
    windows: list[int] = Field(
        default=[1, 3, 9], description="sides of the windows that are averaged, in cells"
    )
    densities: bool = Field(default=True, description="shares of the records nearby as covariates")
    folds: int = Field(default=4, ge=2, description="of the training surveys, by spatial blocks")
    blocks: int = Field(default=60, ge=2, description="about so many blocks hold surveys")
    candidates: list[CandidateName] | None = Field(default=None, description="which to try; null: all")
    records: Records = Records()
    linear: Linear = Linear()
    network: Network = Network()
    forest: Forest = Forest()
    cnn: Cnn = Cnn()
    least_weight: float = Field(default=0.02, ge=0, lt=1, description="candidates of less are dropped")
    seed: int = Field(default=0, ge=0, description="of folds, networks and forests")

    @field_validator("windows")
    @classmethod
    def _the_point_is_first(cls, windows: list[int]) -> list[int]:
        if windows[:1] != [1] or any(side % 2 == 0 for side in windows):
            raise GlczooError("windows are odd numbers of cells, the first 1: the point itself")
        return windows


def read_settings(region: Region, overrides: Sequence[str]) -> Fit:
    """The defaults for a region, and key=value overrides.

    Surveys that the region holds out (`split`) are held out here too; all others train.

    Raises:
        GlczooError: every mistake of the overrides, one a line.
    """
    defaults: dict[str, Any] = {"data": {"split": "file" if region.split else "random"}}
    return parse(Fit, override(defaults, list(overrides)), "glczoo fit")
