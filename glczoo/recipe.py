"""A recipe: all that determines a run. Its schema, its reader, and the text of `--help`.

A recipe is a YAML file; any key is overridden by `key.sub=value` on the command line. Unknown keys are
refused and all mistakes are reported at once. Defaults are the paper's where it states one. Long because
every key stands beside its explanation and what it cannot go with.
"""

import inspect
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from glczoo.data.region import Region, Strict, parse, read_yaml
from glczoo.decoding import Decoding, Rule
from glczoo.files import whole
from glczoo.losses import ACTIVATION, LINEAR, LOSSES, NEEDS

__all__ = [
    "Recipe",
    "describe",
    "override",
    "read_recipe",
    "read_run_recipe",
    "recipe_text",
    "renamed",
    "write_recipe",
    "write_run_recipe",
]


RENAMED = {"data": {"surveys": "tables"}, "decoding": {"surveys": "tune_on"}}
"""Keys of earlier releases, by section. Recipes that people write are refused with the new key named."""


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
    buffer_km: float = Field(default=0.0, ge=0, description="surveys nearer to those that judge do not train")

    @model_validator(mode="after")
    def _there_is_such_a_fold(self) -> "Blocks":
        if self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds}: they are counted from 0")
        return self


class Data(Strict):
    """Which surveys are trained on, and how they are cut."""

    tables: list[Literal["po", "pa"]] = Field(
        min_length=1, description="what to train on, together: records (po), surveys (pa)"
    )
    split: Literal["random", "file", "blocks"] = Field(
        default="random", description="of PA surveys; file: the region's fixed folds; blocks: spatial ones"
    )
    blocks: Blocks = Blocks()
    statistics: Literal["training", "all"] = Field(
        default="training",
        description="surveys that inputs are normalised by (the paper: training); all: so that folds can be "
        "averaged as one model",
    )
    validation: dict[Literal["po", "pa"], float] = Field(
        default={"pa": 0.2, "po": 0.02}, description="share of each table that validates (paper, Table 1)"
    )
    weights: dict[Literal["po", "pa"], float] | None = Field(
        default=None, description="of each table's surveys in the loss, e.g. {po: 0.1, pa: 1}; null: all one"
    )
    pa_fraction: float = Field(default=1.0, gt=0, le=1, description="share of the PA surveys to use at all")
    seed: int = Field(
        default=0, ge=0, description="of the split: the same for every step and seed of a study"
    )
    incomplete: Literal["error", "drop"] = Field(
        default="error", description="surveys outside a raster or without a JPEG patch"
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
            raise ValueError("nvjpeg decodes in this process: take loader: threads, or nvjpeg: false")
        return self

    @field_validator("weights")
    @classmethod
    def _positive(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        if weights and any(weight <= 0 for weight in weights.values()):
            raise ValueError("weights must be above 0; leave a table out of data.tables instead")
        return weights

    @field_validator("validation")
    @classmethod
    def _shares(cls, shares: dict[str, float]) -> dict[str, float]:
        if any(not 0 <= share < 1 for share in shares.values()):
            raise ValueError("shares must be in [0, 1)")
        return {"po": 0.0, "pa": 0.0} | shares


class Loss(BaseModel):
    """One of `losses.py` and its settings. `loss: NAME` alone takes the authors'."""

    model_config = ConfigDict(extra="allow")
    name: str = Field(
        description=f"one of {', '.join(LOSSES)}; beside it the loss's settings, such as k, alpha"
    )

    @model_validator(mode="after")
    def _has_such_settings(self) -> "Loss":
        if self.name not in LOSSES:
            raise ValueError(f"there is no such loss; there are {', '.join(LOSSES)}")
        known = {p.name: p.default for p in inspect.signature(LOSSES[self.name]).parameters.values()}
        known = {name: default for name, default in known.items() if name not in _GIVEN}
        known |= {"warmup": 5, "share": 0.9} if "pseudo" in NEEDS.get(self.name, {}) else {}
        if unknown := sorted(set(self.settings) - set(known)):
            raise ValueError(f"the loss {self.name} has no setting {unknown}; it has {sorted(known)}")
        for key, value in self.settings.items():
            if isinstance(value, str) and not isinstance(known[key], str):
                with suppress(ValueError):  # YAML reads 1e-5 as a word
                    setattr(self, key, float(value))
        odd = {k: v for k, v in self.settings.items() if type(v) not in (int, float, type(known[k]))}
        if odd:
            raise ValueError(f"settings of the loss {self.name} must be numbers, got {odd}")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What is given beside the name."""
        return dict(self.model_extra or {})


_GIVEN = {"logits", "target", "weight"} | {need for needs in NEEDS.values() for need in needs} - {"k"}


class Optimizer(Strict):
    """One of timm's optimisers and what it needs."""

    name: str = Field(default="adam", description="name in timm.optim")
    lr: float = Field(gt=0, description="learning rate")
    weight_decay: float = Field(default=0.0, ge=0)
    clip_grad: float | None = Field(default=None, gt=0, description="largest norm of the gradient")
    accumulate: int = Field(default=1, ge=1, description="batches for one step")
    lr_batch_size: int | None = Field(
        default=None,
        ge=1,
        description="surveys in a step that lr is meant for: it is scaled linearly to those of all processes "
        "and accumulated batches (Goyal et al. 2017); null: as it is",
    )

    def scaled_lr(self, surveys: int) -> float:
        """The learning rate for a step of that many surveys."""
        return self.lr * surveys / (self.lr_batch_size or surveys)


class Schedule(Strict):
    """MultiStep: the learning rate times gamma at the start of each of these epochs, counted from 0."""

    milestones: list[int] = []
    gamma: float = Field(default=0.1, gt=0)

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
    """How many species are answered (see `decoding.py`). `decoding: RULE` alone leaves its number to auto."""

    rule: Literal["top_k", "threshold", "expected_size", "expected_f1", "expected_f1_exact"] = Field(
        description="expected_f1 needs no number, and the calibrated probabilities of BCE on PA; "
        "expected_f1_exact: its optimum under independence instead of the fast surrogate"
    )
    value: int | float | Literal["auto"] = Field(
        default="auto", description="k, the threshold, or α; auto: the best on PA surveys that may choose"
    )
    tune_on: Literal["validation", "train"] = Field(
        default="validation",
        description="PA surveys that choose the number; train: where none validate, the score is optimistic",
    )
    by_source: bool = Field(
        default=False,
        description="of top_k with value auto: a k for each source (datasetName) of the surveys that choose; "
        "where the source is another or not known, in maps too, the k of all answers",
    )

    @model_validator(mode="after")
    def _can_be_applied(self) -> "Decode":
        if self.by_source and (self.rule, self.value) != ("top_k", "auto"):
            raise ValueError(
                f"by_source tunes the k of each source: it needs rule: top_k and value: auto, got "
                f"{self.rule} and {self.value}"
            )
        if self.value != "auto":
            self.fixed()
        return self

    @property
    def tuned(self) -> bool:
        """Whether surveys choose its number."""
        return self.value == "auto" and not self.rule.startswith("expected_f1")

    def fixed(self, tuned: Mapping[str, float] | None = None) -> Decoding:
        """What is applied: with its own number, or the one of its rule among the tuned."""
        if self.value != "auto":
            return Decoding(Rule(self.rule), self.value)
        return Decoding(Rule(self.rule), (tuned or {}).get(self.rule))


class Pseudo(Strict):
    """Labels of presence-only records by a model trained before (see `objective.Teacher`)."""

    teacher: str = Field(
        description="a sibling run, a run's folder, or hf-hub:ORG/NAME, with sigmoids and this vocabulary; "
        "asked again for every batch: a forward pass more for each PO record, nothing kept"
    )
    low: float = Field(default=0.05, ge=0, le=1, description="absent at this probability or below")
    high: float = Field(
        default=0.6, ge=0, le=1, description="present at this probability or above; between: ignored"
    )

    @model_validator(mode="after")
    def _in_order(self) -> "Pseudo":
        if self.low >= self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        return self


class Recipe(Strict):
    """Everything that determines a run."""

    name: str = Field(pattern=r"^[\w.+-]+$", description="name of the run's folder: RUNS/REGION/MODEL/NAME")
    region: str = Field(description="region.yaml, or its folder; relative to here, or to the recipe")
    model: str = Field(description="any architecture that timm knows; glczoo's are bioresnet50_glc23, …")
    model_args: dict[str, Any] = Field(default={}, description="keywords of the architecture, e.g. branches")
    modalities: list[str] | None = Field(
        default=None, description="what the model sees; null: as it asks for"
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
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=2, description="surveys in a batch of one process")
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
    decoding: Decode = Decode(rule="top_k", value=20)
    calibration: Literal["temperature", "vector"] | None = Field(
        default=None,
        description="scale the trained logits so that probabilities fit PA validation",
    )
    seed: int = Field(default=0, ge=0, description="of the weights, the order and the augmentation")
    checkpoint_every: int = Field(default=1000, ge=1, description="steps between checkpoints within an epoch")
    log_every: int = Field(default=50, ge=1, description="steps between lines of metrics.jsonl")
    tensorboard: bool = Field(default=False, description="also write TensorBoard events into the run")
    runs: str = Field(default="runs", description="folder of all runs")

    @field_validator("precision", mode="before")
    @classmethod
    def _no_is_a_word(cls, precision: object) -> object:
        return "no" if precision is False else precision  # YAML reads a bare `no` as false

    @model_validator(mode="before")
    @classmethod
    def _in_full(cls, data: dict[str, Any]) -> dict[str, Any]:
        return _long_form(dict(data))

    @model_validator(mode="after")
    def _tunes_something(self) -> "Recipe":
        if self.finetune and self.init in ("imagenet", "random"):
            raise ValueError(f"finetune needs a trained model, init: {self.init} is none; say finetune: null")
        return self

    @model_validator(mode="after")
    def _places_are_exact(self) -> "Recipe":
        if self.data.places and (self.loss.name not in LINEAR or self.data.tables != ["po"]):
            raise ValueError(
                "data.places needs data.tables: [po] and a loss that is linear in the target, one of "
                f"{', '.join(sorted(LINEAR))}: with others the mean target is another loss"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_taken(self) -> "Recipe":
        if (self.data.weights or self.po_loss) and len(set(self.data.tables)) < 2:
            raise ValueError(
                "data.weights and po_loss set PO apart from PA surveys: they need data.tables: [po, pa], "
                f"got {self.data.tables}"
            )
        return self

    @model_validator(mode="after")
    def _losses_fit_together(self) -> "Recipe":
        if not self.po_loss:
            return self
        names = [self.loss.name, self.po_loss.name]
        if len({ACTIVATION[name] for name in names}) > 1:
            raise ValueError(
                f"{names[0]} and {names[1]} cannot share a model: ce is of a softmax, not sigmoids"
            )
        if len({need for name in names for need in NEEDS.get(name, {})} & {"background", "strong"}) > 1:
            raise ValueError(
                f"{names[0]} and {names[1]} cannot share a batch: one needs background places, the other a "
                "strong view of the same surveys"
            )
        return self

    @model_validator(mode="after")
    def _pseudo_labels_fit(self) -> "Recipe":
        other = self.loss.name != "bce" or self.po_loss
        if self.pseudo and ("po" not in self.data.tables or other or self.data.places):
            raise ValueError(
                "pseudo labels PO records and ignores what its teacher does not know: it needs data.tables "
                "with po, data.places: false, and the loss bce (no other can ignore an entry), got "
                f"{self.data.tables}, {self.data.places} and {self.loss.name}"
                + (f", {self.po_loss.name} for PO" if self.po_loss else "")
            )
        return self

    @model_validator(mode="after")
    def _needs_validation(self) -> "Recipe":
        if self.keep == "best" and not any(self.data.validation[table] for table in self.data.tables):
            raise ValueError("keep: best needs validation surveys; set data.validation, or keep: last")
        return self

    @model_validator(mode="after")
    def _may_choose(self) -> "Recipe":
        if self.calibration and (self.decoding.tune_on == "train" or not self.data.validation["pa"]):
            raise ValueError(
                "calibration is fitted on PA validation surveys; set data.validation={pa: 0.2} and leave "
                "decoding.tune_on at validation"
            )
        if self.decoding.tuned and self.decoding.tune_on == "validation" and not self.data.validation["pa"]:
            raise ValueError(
                f"decoding by {self.decoding.rule} with value: auto is tuned on PA validation surveys; set "
                "data.validation={pa: 0.2}, give the value, or set decoding.tune_on=train, with which the "
                "score is optimistic"
            )
        return self

    @property
    def activation(self) -> Literal["sigmoid", "softmax"]:
        """What turns the model's logits into probabilities."""
        return ACTIVATION[self.loss.name]

    @property
    def weights_apart(self) -> bool:
        """Whether tables are weighed in a loss that takes no weight of a row: their rows are told apart."""
        return self.data.weights is not None and self.loss.name not in LINEAR

    @property
    def predecessors(self) -> list[str]:
        """What must have been trained before: the run it starts from, and its teacher."""
        return [self.init, *([self.pseudo.teacher] if self.pseudo else [])]

    def run_folder(self, region: Region, name: str | None = None) -> Path:
        """Where this recipe's run lies, or a sibling's of the same model and region."""
        return Path(self.runs) / region.name / self.model / (name or self.name)


def read_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply `key.sub=value` overrides.

    Raises:
        FileNotFoundError: no such recipe, or the region it names is nowhere.
        ValueError: every mistake of the file and of the overrides, one a line.
    """
    path = Path(path)
    now = {
        f"{section}.{old}": f"{section}.{new}"
        for section, renames in RENAMED.items()
        for old, new in renames.items()
    }
    recipe = parse(Recipe, override(read_yaml(path), overrides or []), str(path), now)
    beside = path.parent / recipe.region
    if not Path(recipe.region).exists() and not beside.exists():
        raise FileNotFoundError(f"{path}: region {recipe.region} is neither here nor at {beside}")
    region = recipe.region if Path(recipe.region).exists() else str(beside)
    return recipe.model_copy(update={"region": region})


def override(data: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Write `key.sub=value` overrides into a recipe's values, and return them.

    `top_k=20` is short for `decoding={rule: top_k, value: 20}`, here and in a recipe.

    Raises:
        ValueError: an override is none, or names a key inside of a value.
    """
    _long_form(data)
    for given in overrides:
        key, equals, value = given.partition("=")
        if not equals or not key:
            raise ValueError(f"{given!r} is no override; write key=value, for example optimizer.lr=5e-4")
        target = data
        *parents, last = key.split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ValueError(f"{given!r}: {parent} holds a value, it has no keys inside")
        target[last] = yaml.safe_load(value)
        _long_form(data)
    return data


def _long_form(data: dict[str, Any]) -> dict[str, Any]:
    """What may be said in one word, in full, so that `loss.k=…` has something to write into."""
    if "top_k" in data:
        data["decoding"] = {"rule": "top_k", "value": data.pop("top_k")}
    for key, inner in (("decoding", "rule"), ("loss", "name"), ("po_loss", "name")):
        if isinstance(data.get(key), str):
            data[key] = {inner: data[key]}
    return data


def write_run_recipe(folder: Path, recipe: Recipe, processes: int) -> None:
    """Keep the resolved recipe, and the number of processes, in a run's folder."""
    write_recipe(folder / "recipe.yaml", recipe.model_dump(mode="json") | {"processes": processes})


def write_recipe(path: Path, told: dict[str, Any]) -> None:
    """Write a recipe that `read_recipe` reads."""
    with whole(path) as partial:
        partial.write_text(recipe_text(told), "utf-8")


def recipe_text(told: dict[str, Any]) -> str:
    """What `write_recipe` writes."""
    return yaml.safe_dump(told, sort_keys=False)


def read_run_recipe(folder: Path) -> tuple[Recipe, int]:
    """The resolved recipe of a run, and by how many processes it was trained.

    Raises:
        FileNotFoundError: the folder holds no recipe.
        ValueError: the recipe is damaged.
    """
    config = renamed(read_yaml(folder / "recipe.yaml"))
    processes = config.pop("processes", 1)
    return parse(Recipe, config, str(folder / "recipe.yaml")), processes


def renamed(config: dict[str, Any]) -> dict[str, Any]:
    """A recipe that a run or a published model keeps, with keys of earlier releases under today's names."""
    for section, renames in RENAMED.items():
        inner = config.get(section)
        if isinstance(inner, dict):
            config[section] = {renames.get(key, key): value for key, value in inner.items()}
    return config


def describe(schema: type[BaseModel] = Recipe, prefix: str = "") -> str:
    """The keys of a recipe with their types, defaults and meaning: one line each."""
    lines = []
    for key, field in schema.model_fields.items():
        inner = field.annotation
        sections = [t for t in (inner, *get_args(inner)) if isinstance(t, type) and issubclass(t, BaseModel)]
        nested = [describe(section, f"{prefix}{key}.") for section in sections]
        if inner in sections:
            lines += nested
            continue
        kind = re.sub(r"typing\.|<class '(\w+)'>|glczoo\.recipe\.", r"\1", str(inner)).replace(
            "NoneType", "null"
        )
        default = "required" if field.is_required() else f"default {field.default}"
        lines.append(f"  {prefix}{key}  ({kind}; {default})\n      {field.description or ''}".rstrip())
        lines += nested
    return "\n".join(lines)
