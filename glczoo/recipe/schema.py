"""A recipe: all that determines a run.

A recipe is a YAML file; any key is overridden by `key.sub=value` on the command line. Unknown keys are
refused and all mistakes are reported at once. Defaults are the paper's where it states one.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from glczoo.data.region import Region
from glczoo.data.schema import Strict
from glczoo.decoding import Rule
from glczoo.errors import GlczooError
from glczoo.losses import ACTIVATION, LINEAR, NEEDS, RANKS
from glczoo.recipe.sections import (
    Data,
    Decode,
    Finetune,
    Imagenet,
    Loss,
    Optimizer,
    Pseudo,
    Schedule,
)

__all__ = ["Recipe", "long_form"]


class Recipe(Strict):
    """Everything that determines a run."""

    name: str = Field(pattern=r"^\w[\w.+-]*$", description="name of the run's folder: RUNS/REGION/MODEL/NAME")
    region: str = Field(description="region.yaml, or its folder; relative to here, or to the recipe")
    model: str = Field(description="any architecture that timm knows; glczoo's are bioresnet50_glc23, …")
    model_args: dict[str, Any] = Field(default={}, description="keywords of the architecture, e.g. branches")
    modalities: list[str] | None = Field(
        default=None, description="what the model sees; null: what the architecture takes"
    )
    patch_size: int | None = Field(default=None, ge=1, description="cells along a side; null: the region's")
    init: str = Field(
        description="imagenet, random, the name of a sibling run (step1), a run's folder, or hf-hub:ORG/NAME"
    )
    finetune: Finetune | None = Field(
        default=None, description="{}: match bands by name, new head; null: weights must fit exactly"
    )
    imagenet: Imagenet = Imagenet()
    data: Data
    loss: Loss
    po_loss: Loss | None = Field(
        default=None,
        description="of the PO records where data.tables has both tables, NAME or its settings as in loss; "
        "null: loss",
    )
    pseudo: Pseudo | None = Field(
        default=None,
        description="bce on PO records by a teacher's labels beside the recorded species, PA as they are; "
        "null: what is not recorded is absent",
    )
    optimizer: Optimizer
    schedule: Schedule = Schedule()
    epochs: int = Field(ge=1, description="passes over the training samples")
    batch_size: int = Field(ge=2, description="samples in a batch of one process")
    precision: Literal["no", "bf16", "fp16"] = Field(default="no", description="automatic mixed precision")
    channels_last: bool = Field(default=True, description="memory format of the model's weights")
    compile: bool = Field(default=False, description="torch.compile the model: minutes once, then faster")
    grad_checkpointing: bool = Field(
        default=False,
        description="compute activations twice and keep few: less memory, more time; batch norm's running "
        "statistics see each batch twice",
    )
    ema: float | None = Field(default=None, gt=0, lt=1, description="decay of averaged weights; null: none")
    keep: Literal["best", "last"] = Field(
        default="best", description="which weights are the result: of the best validation F1, or the last"
    )
    decoding: Decode = Decode(rule=Rule.TOP_K, value=20)
    calibration: Literal["temperature", "vector"] | None = Field(
        default=None,
        description="scale the trained logits so that probabilities fit PA validation",
    )
    seed: int = Field(default=0, ge=0, description="of the weights, the order and the augmentation")
    checkpoint_every: int = Field(default=1000, ge=1, description="steps between checkpoints within an epoch")
    log_every: int = Field(default=50, ge=1, description="steps between lines of metrics.jsonl")
    trackers: list[Literal["tensorboard", "trackio", "wandb"]] = Field(
        default=[], description="what shows metrics.jsonl live: Accelerate's trackers, each pip-installed"
    )
    runs: str = Field(default="runs", description="folder of all runs")

    @field_validator("precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, precision: object) -> object:
        return "no" if precision is False else precision  # YAML reads a bare `no` as false

    @model_validator(mode="before")
    @classmethod
    def _in_full(cls, data: dict[str, Any]) -> dict[str, Any]:
        return long_form(dict(data))

    @model_validator(mode="after")
    def _finetuning_starts_from_a_model(self) -> "Recipe":
        if self.finetune and self.init in ("imagenet", "random"):
            raise GlczooError(
                f"finetune needs a trained model, init: {self.init} is none; name a run, or drop finetune"
            )
        return self

    @model_validator(mode="after")
    def _places_are_exact(self) -> "Recipe":
        if self.data.places and (self.loss.name not in LINEAR or self.data.tables != ["po"]):
            raise GlczooError(
                "data.places needs data.tables: [po] and a loss that is linear in the target, one of "
                f"{', '.join(sorted(LINEAR))}: with others the mean target is another loss"
            )
        return self

    @model_validator(mode="after")
    def _two_tables_to_set_apart(self) -> "Recipe":
        if (self.data.weights or self.po_loss) and len(set(self.data.tables)) < 2:
            raise GlczooError(
                "data.weights and po_loss set PO apart from PA samples: they need data.tables: [po, pa], "
                f"got {self.data.tables}"
            )
        return self

    @model_validator(mode="after")
    def _losses_share_an_activation(self) -> "Recipe":
        if self.po_loss and ACTIVATION[self.loss.name] != ACTIVATION[self.po_loss.name]:
            raise GlczooError(
                f"{self.loss.name} and {self.po_loss.name} cannot share a model: "
                "ce is of a softmax, not sigmoids"
            )
        return self

    @model_validator(mode="after")
    def _losses_share_a_batch(self) -> "Recipe":
        names = [loss.name for loss in (self.loss, self.po_loss) if loss]
        needs = {need for name in names for need in NEEDS.get(name, {})}
        if {"background", "strong"} <= needs:
            raise GlczooError(
                f"{names[0]} and {names[1]} cannot share a batch: one needs background places, the other a "
                "strong view of the same samples"
            )
        return self

    @model_validator(mode="after")
    def _ranks_are_no_probabilities(self) -> "Recipe":
        by_probability = self.decoding.rule is not Rule.TOP_K
        if self.loss.name in RANKS and by_probability and self.calibration != "vector":
            raise GlczooError(
                f"the outputs of {self.loss.name} rank places for each species and are no probabilities of "
                f"presence, which decoding by {self.decoding.rule} needs: set decoding={{rule: top_k, value: "
                "20}, calibration=vector on PA validation surveys, or train a step of bce on surveys after it"
            )
        return self

    @model_validator(mode="after")
    def _pseudo_labels_fit(self) -> "Recipe":
        other_loss = self.loss.name != "bce" or self.po_loss
        if self.pseudo and ("po" not in self.data.tables or other_loss or self.data.places):
            po_loss = f", {self.po_loss.name} for PO" if self.po_loss else ""
            raise GlczooError(
                "pseudo labels PO records and ignores what its teacher does not know: it needs data.tables "
                "with po, data.places: false, and the loss bce (no other can ignore an entry), got "
                f"{self.data.tables}, {self.data.places} and {self.loss.name}{po_loss}"
            )
        return self

    @model_validator(mode="after")
    def _best_needs_validation(self) -> "Recipe":
        if self.keep == "best" and not any(self.data.validation[table] for table in self.data.tables):
            raise GlczooError("keep: best needs validation samples; set data.validation, or keep: last")
        return self

    @model_validator(mode="after")
    def _calibration_needs_validation(self) -> "Recipe":
        if self.calibration and (self.decoding.tune_on == "train" or not self.data.validation["pa"]):
            raise GlczooError(
                "calibration is fitted on PA validation surveys; set data.validation={pa: 0.2} and leave "
                "decoding.tune_on at validation"
            )
        return self

    @model_validator(mode="after")
    def _tuning_needs_validation(self) -> "Recipe":
        if self.decoding.tuned and self.decoding.tune_on == "validation" and not self.data.validation["pa"]:
            raise GlczooError(
                f"decoding by {self.decoding.rule} with value: {self.decoding.value} is tuned on PA "
                "validation surveys; set data.validation={pa: 0.2}, take another rule or value, or set "
                "decoding.tune_on=train, with which the score is optimistic"
            )
        return self

    @property
    def activation(self) -> Literal["sigmoid", "softmax"]:
        """What turns the model's logits into probabilities."""
        return ACTIVATION[self.loss.name]

    @property
    def weights_apart(self) -> bool:
        """Whether each table's rows need a loss of their own: weighed, and the loss takes no row's weight."""
        return self.data.weights is not None and self.loss.name not in LINEAR

    @property
    def predecessors(self) -> list[str]:
        """What must have been trained before: the run it starts from, and its teacher."""
        return [self.init, *([self.pseudo.teacher] if self.pseudo else [])]

    def run_folder(self, region: Region, name: str | None = None) -> Path:
        """Where this recipe's run lies, or a sibling's of the same model and region."""
        return Path(self.runs) / region.name / self.model / (name or self.name)


def long_form(data: dict[str, Any]) -> dict[str, Any]:
    """One-word values in full, so that `loss.k=…` has something to write into.

    `data`: as the YAML file has it; changed in place.
    """
    if "top_k" in data:
        data["decoding"] = {"rule": "top_k", "value": data.pop("top_k")}
    for key, inner in (("decoding", "rule"), ("loss", "name"), ("po_loss", "name")):
        if isinstance(data.get(key), str):
            data[key] = {inner: data[key]}
    return data
