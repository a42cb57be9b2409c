"""The sections of a recipe: every key beside its explanation, and what it cannot go with."""

import inspect
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from glczoo.data.schema import Strict
from glczoo.decoding import Decoding, Rule
from glczoo.errors import GlczooError
from glczoo.losses import LOSSES, NEEDS

__all__ = [
    "Blocks",
    "Data",
    "Decode",
    "Finetune",
    "Imagenet",
    "Loss",
    "Optimizer",
    "Pseudo",
    "Schedule",
    "TableName",
]

TableName = Literal["po", "pa"]
"""Tables that can train."""


class Imagenet(Strict):
    """How `init: imagenet` adapts three-channel weights to each branch."""

    tag: str | None = Field(
        default=None, description="timm weights; the paper's ResNets by torchvision if null"
    )
    how: str | dict[str, str] = Field(
        default="repeat", description="way of adapting the stem, or one per branch"
    )
    rgb: dict[str, list[int]] | None = Field(default=None, description="positions of R, G, B in a branch")
    weights: str | None = Field(
        default=None, description="local safetensors file in timm's format, no download"
    )


class Blocks(Strict):
    """How `split: blocks` holds PA surveys out (see `data/splits.py`)."""

    size_km: float = Field(default=50.0, gt=0, description="side of a block (the organisers': 50)")
    folds: int = Field(default=5, ge=2, description="how many folds the blocks are dealt to")
    fold: int = Field(default=0, ge=0, description="the one that is held out")
    buffer_km: float = Field(
        default=0.0,
        ge=0,
        description="surveys this near to held-out or validation surveys do not train",
    )

    @model_validator(mode="after")
    def _fold_exists(self) -> "Blocks":
        if self.fold >= self.folds:
            raise GlczooError(f"fold {self.fold} of {self.folds}: they are counted from 0")
        return self


class Data(Strict):
    """Which samples are trained on, and how they are split."""

    tables: list[TableName] = Field(
        min_length=1, description="what to train on, together: records (po), surveys (pa)"
    )
    split: Literal["random", "file", "blocks"] = Field(
        default="random", description="of PA surveys; file: the region's fixed folds; blocks: spatial ones"
    )
    blocks: Blocks = Blocks()
    statistics: Literal["training", "all"] = Field(
        default="training",
        description="samples that inputs are normalised by (the paper: training); all: so that folds can be "
        "averaged as one model",
    )
    validation: dict[TableName, float] = Field(
        default={"pa": 0.2, "po": 0.02}, description="share of each table that validates (paper, Table 1)"
    )
    weights: dict[TableName, float] | None = Field(
        default=None, description="of each table's samples in the loss, e.g. {po: 0.1, pa: 1}; null: all one"
    )
    pa_fraction: float = Field(default=1.0, gt=0, le=1, description="share of the PA surveys to use at all")
    seed: int = Field(
        default=0, ge=0, description="of the split: the same for every step and seed of a study"
    )
    incomplete: Literal["error", "drop", "fill"] = Field(
        default="error",
        description="samples outside a raster or without a JPEG patch, cube or TIFF; fill: as drop, but what "
        "has no file is filled with the mean, in training and wherever the model is used",
    )
    augment: bool = Field(default=False, description="random flips and quarter turns of the training patches")
    places: bool = Field(
        default=False,
        description="train on presence-only records that share a patch as one place with their mean target: "
        "the same loss, fewer forward passes; batch_size and epochs then count places",
    )
    workers: int | None = Field(
        default=None,
        ge=0,
        description="loader threads; 0 builds batches between the steps; null: 2 beside a GPU, 0 on a CPU",
    )
    nvjpeg: bool = Field(
        default=False,
        description="decode the JPEGs on the GPU; its values may differ from the CPU's in the last bits",
    )
    loader: Literal["threads", "processes"] = Field(
        default="threads", description="processes: workers of a plain DataLoader, slower"
    )

    @model_validator(mode="after")
    def _one_decoder(self) -> "Data":
        if self.nvjpeg and self.loader == "processes":
            raise GlczooError("nvjpeg decodes in this process: take loader: threads, or nvjpeg: false")
        return self

    @field_validator("weights")
    @classmethod
    def _positive(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        if weights and any(weight <= 0 for weight in weights.values()):
            raise GlczooError("weights must be above 0; leave a table out of data.tables instead")
        return weights

    @field_validator("validation")
    @classmethod
    def _shares(cls, shares: dict[str, float]) -> dict[str, float]:
        if any(not 0 <= share < 1 for share in shares.values()):
            raise GlczooError("shares must be in [0, 1)")
        return {"po": 0.0, "pa": 0.0} | shares


class Loss(BaseModel):
    """One of `losses.py` and its settings. `loss: NAME` alone takes the authors'."""

    model_config = ConfigDict(extra="allow")
    name: str = Field(
        description=f"one of {', '.join(LOSSES)}; beside it the loss's settings, such as k, alpha"
    )

    @field_validator("name")
    @classmethod
    def _loss_exists(cls, name: str) -> str:
        if name not in LOSSES:
            raise GlczooError(f"there is no such loss; there are {', '.join(LOSSES)}")
        return name

    @model_validator(mode="after")
    def _settings_exist(self) -> "Loss":
        known = self._defaults()
        if unknown := sorted(set(self.settings) - set(known)):
            raise GlczooError(f"the loss {self.name} has no setting {unknown}; it has {sorted(known)}")
        return self

    @model_validator(mode="after")
    def _settings_are_numbers(self) -> "Loss":
        known = self._defaults()
        for key, value in self.settings.items():
            if isinstance(value, str) and not isinstance(known[key], str):
                with suppress(ValueError):  # YAML reads 1e-5 as a word
                    setattr(self, key, float(value))
        odd = {k: v for k, v in self.settings.items() if type(v) not in (int, float, type(known[k]))}
        if odd:
            raise GlczooError(f"settings of the loss {self.name} must be numbers, got {odd}")
        return self

    def _defaults(self) -> dict[str, Any]:
        """Every setting that the loss has, with its default."""
        parameters = inspect.signature(LOSSES[self.name]).parameters.values()
        settings = {p.name: p.default for p in parameters if p.name not in _FROM_BATCH}
        if "pseudo" in NEEDS.get(self.name, {}):
            settings |= {"warmup": 5, "share": 0.9}
        return settings

    @property
    def settings(self) -> dict[str, Any]:
        """What stands beside the name."""
        return dict(self.model_extra or {})


_FROM_BATCH = {"logits", "target", "weight"} | {n for needs in NEEDS.values() for n in needs} - {"k"}
"""Arguments of a loss that training fills in: no settings."""


class Optimizer(Strict):
    """One of timm's optimisers and what it needs."""

    name: str = Field(default="adam", description="name in timm.optim")
    lr: float = Field(gt=0, description="learning rate")
    weight_decay: float = Field(default=0.0, ge=0, description="as the optimiser understands it")
    clip_grad: float | None = Field(default=None, gt=0, description="largest norm of the gradient")
    accumulate: int = Field(default=1, ge=1, description="batches for one step")
    lr_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="samples in a step that lr is meant for: it is scaled linearly to those of all processes "
        "and accumulated batches (Goyal et al. 2017); null: as it is",
    )

    def scaled_lr(self, samples: int) -> float:
        """The learning rate for a step of that many samples."""
        return self.lr * samples / (self.lr_batch_size or samples)


class Schedule(Strict):
    """MultiStep: the learning rate times gamma at the start of each of these epochs, counted from 0."""

    milestones: list[int] = Field(default=[], description="epochs, counted from 0")
    gamma: float = Field(default=0.1, gt=0, description="factor at each milestone")

    def factor(self, epoch: int) -> float:
        """What the learning rate is multiplied by in an epoch."""
        return self.gamma ** sum(epoch >= milestone for milestone in self.milestones)


class Finetune(Strict):
    """From a model of other bands or species (see `finetune.py`); without it its weights must fit."""

    frozen: bool = Field(default=False, description="only the head learns; batch norm keeps its statistics")
    layer_decay: float | None = Field(
        default=None, gt=0, le=1, description="each layer further from the head learns slower by this factor"
    )


class Decode(Strict):
    """How many species are predicted (see `decoding.py`). `decoding: RULE` alone: its number is auto."""

    rule: Rule = Field(
        description="expected_f1 needs no number, and the calibrated probabilities of BCE on PA; "
        "expected_f1_exact: its optimum under independence instead of the fast surrogate; recall: the "
        "smallest sets that hold the share `value` of a survey's species, on average over surveys like the "
        "tuning samples"
    )
    value: int | float | Literal["auto"] = Field(
        default="auto",
        description="k, the threshold, α, or the recall to promise, such as 0.9; auto: the best on the PA "
        "tuning samples",
    )
    tune_on: Literal["validation", "train"] = Field(
        default="validation",
        description="PA samples that tune the number; train: where none validate, the score is optimistic",
    )
    by_source: bool = Field(
        default=False,
        description="of top_k with value auto: a k for each source (datasetName) of the tuning samples; "
        "where the source is another or not known, in maps too, the k of all samples",
    )

    @model_validator(mode="after")
    def _by_source_tunes_k(self) -> "Decode":
        if self.by_source and (self.rule, self.value) != (Rule.TOP_K, "auto"):
            raise GlczooError(
                f"by_source tunes the k of each source: it needs rule: top_k and value: auto, got "
                f"{self.rule} and {self.value}"
            )
        return self

    @model_validator(mode="after")
    def _value_fits_rule(self) -> "Decode":
        if self.rule is Rule.RECALL and self.value == "auto":
            raise GlczooError("recall promises what `value` says, such as {rule: recall, value: 0.9}")
        if self.value != "auto":
            self.fixed()
        return self

    @property
    def tuned(self) -> bool:
        """Whether its number, or the threshold of a recall, is tuned on samples."""
        return self.rule is Rule.RECALL or (self.value == "auto" and self.rule.has_number)

    def fixed(self, tuned: Mapping[str, float] | None = None) -> Decoding:
        """What is applied: with its own number, or the one of its rule among the tuned."""
        if self.value != "auto":
            return Decoding(self.rule, self.value)
        return Decoding(self.rule, (tuned or {}).get(self.rule))


class Pseudo(Strict):
    """Labels of presence-only records by a model trained before (see `objective.Teacher`)."""

    teacher: str = Field(
        description="a sibling run, a run's folder, or hf-hub:ORG/NAME, with sigmoids and this vocabulary; "
        "it predicts every batch anew: a forward pass more for each PO record, nothing kept"
    )
    low: float = Field(default=0.05, ge=0, le=1, description="absent at this probability or below")
    high: float = Field(
        default=0.6, ge=0, le=1, description="present at this probability or above; between: ignored"
    )

    @model_validator(mode="after")
    def _in_order(self) -> "Pseudo":
        if self.low >= self.high:
            raise GlczooError(f"low must be below high, got {self.low} and {self.high}")
        return self
