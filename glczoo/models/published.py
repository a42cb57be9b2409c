"""Reading a model that somebody else exported: its config.json cannot make us import, fetch or run anything.

An export is what timm reads (model.safetensors, config.json) with a root key `glczoo`, which holds what timm
does not know: bands in order, patch size, activation, decoding (from probabilities to sets of species). The
schema below is both what is written and what is accepted. Only a registered architecture is built, from JSON
values, and only safetensors of exactly its names, shapes and types are loaded; shapes are compared with the
file's header before anything is allocated.
"""

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    model_validator,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from glczoo.decoding import Decoding
from glczoo.errors import GlczooError, MissingError
from glczoo.hub_client import DamagedError

__all__ = [
    "Activation",
    "BandDescription",
    "Calibration",
    "Config",
    "Section",
    "build",
    "create",
    "keywords_of",
    "load_weights",
    "read_config",
    "refuse_unsafe",
    "tensor_header",
]

Activation = Literal["sigmoid", "softmax", "rank"]
"""`rank`: a sigmoid too, but what it gives ranks places by suitability and is no probability of presence."""

# Arguments of timm.create_model and entries of a pretrained_cfg that would load something from elsewhere.
_UNSAFE_ARGS = {
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable",
    "exportable", "no_jit",
}  # fmt: skip
_UNSAFE_CFG = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}
_CONFIG = 64 << 20  # bytes of a config.json at most; that of 10,039 species is 0.2 MB
_HEADER = 16 << 20  # bytes of a safetensors header at most; that of thirty ResNet-50 is 1 MB
_TYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


class _Checked(BaseModel):
    """Values of exactly the JSON types named; keys of newer releases are let pass."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class BandDescription(_Checked):
    """One channel: what it measures, and where its values come from."""

    name: str
    modality: str
    unit: str
    source: str = Field(description="provider and version of the data")
    resolution: str = Field(description="size of a cell on the ground, for people")
    crs: str | None = None
    cell: float | None = Field(default=None, description="side of a cell, in units of the CRS")
    level: str | None = Field(default=None, description="name of the level of a categorical band")


class Calibration(_Checked):
    """How logits were calibrated; the weights of the head hold it already."""

    how: str
    mean_temperature: float


def _decoding(value: object) -> Decoding:
    if isinstance(value, Decoding):
        return value
    known = {"rule", "value", "by_source", "threshold"}
    if not isinstance(value, Mapping) or not {"rule"} <= set(value) <= known:
        raise GlczooError("a decoding has a rule, a value and perhaps by_source or threshold")
    if not isinstance(value["rule"], str) or not isinstance(value.get("by_source"), Mapping | None):
        raise GlczooError("the rule is text, and by_source maps names to numbers")
    return Decoding(**value)


class Section(_Checked):
    """What stands under `glczoo` in config.json."""

    region: str
    data: str = Field(default="", description="the region's description")
    data_licence: str = ""
    bands: list[BandDescription] = Field(min_length=1)
    modalities: list[str]
    patch_size: int = Field(ge=1)
    filled: dict[str, float] = Field(
        default={}, description="share of cells without data, by band, at the training samples"
    )
    init: str | None = Field(default=None, description="what the last step started from")
    epoch: int | None = Field(default=None, description="whose weights these are, counted from 0")
    activation: Activation
    calibration: Calibration | None = None
    decoding: Annotated[
        Decoding, PlainValidator(_decoding), PlainSerializer(lambda decoding: decoding.to_json())
    ]
    tuned: dict[str, int | float] = Field(
        default={}, description="the best number of every rule, where tuning samples allow it"
    )
    members: list[str] | None = Field(default=None, description="names of an ensemble's runs")

    @property
    def units(self) -> dict[str, str]:
        """The unit of each band, where it is known."""
        return {band.name: band.unit for band in self.bands if band.unit}

    @model_validator(mode="after")
    def _ranks_are_no_probabilities(self) -> "Section":
        """Refuse sets whose size follows from probabilities where the answers are ranks.

        Raises:
            GlczooError: the rule adds probabilities up.
        """
        if self.activation == "rank" and self.decoding.rule.adds_probabilities:
            raise GlczooError(
                f"answers are ranks of suitability and no probabilities of presence, which decoding by "
                f"{self.decoding.rule} adds up: take top_k, or a threshold of the ranks"
            )
        return self

    @property
    def band_names(self) -> list[str]:
        """All bands in the order of their channels."""
        return [band.name for band in self.bands]

    def to_json(self) -> dict[str, Any]:
        """What config.json keeps; what a model does not have is left out."""
        values = self.model_dump(mode="json")
        for band in values["bands"]:
            if band["level"] is None:
                del band["level"]
        optional = ("init", "epoch", "calibration", "members")
        return {key: value for key, value in values.items() if key not in optional or value is not None}


class PretrainedCfg(_Checked):
    """timm's part of a config: what is read of it here, and whatever else timm wrote."""

    model_config = ConfigDict(extra="allow")

    num_classes: int = Field(ge=0)
    input_size: tuple[int, int, int]
    mean: list[float]
    std: list[float]
    classifier: str | list[str] | None = None
    first_conv: str | None = None


class Config(_Checked):
    """The config.json of an export."""

    architecture: str
    model_args: dict[str, Any] = {}
    pretrained_cfg: PretrainedCfg
    label_names: list[str]
    glczoo: Section


def refuse_unsafe(architecture: Any, args: Mapping[str, Any], where: str) -> None:
    """Check what a config asks to be built, before it is.

    Raises:
        DamagedError: the architecture is not registered here, or the arguments would load something.
    """
    if not (isinstance(architecture, str) and timm.is_model(architecture)):
        raise DamagedError(
            f"{where}: no architecture {architecture!r} is registered; a newer glczoo or timm may know it"
        )
    if unsafe := sorted(_UNSAFE_ARGS & set(args)):
        raise DamagedError(f"{where}: {unsafe} is refused: a config must not make us load anything else")


def read_config(folder: Path) -> Config:
    """The config.json of an export, checked: types, names, counts, nothing that would load something else.

    Raises:
        MissingError: the folder holds no export.
        DamagedError: config.json is not one that glczoo wrote, or its parts do not fit each other; the
            message names the key.
    """
    path = folder / "config.json"
    if not (path.is_file() and (folder / "model.safetensors").is_file()):
        raise MissingError(
            f"{folder} is no finished run: it holds no model.safetensors and config.json"
            + ("; its training was started and not finished" if (folder / "recipe.yaml").exists() else "")
        )
    if path.stat().st_size > _CONFIG:
        raise DamagedError(f"{path} is not as glczoo writes it: it has {path.stat().st_size:,} bytes")
    try:
        config = Config.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise DamagedError(_mistakes(path, error)) from None
    refuse_unsafe(config.architecture, config.model_args, str(path))
    cfg, bands = config.pretrained_cfg, len(config.glczoo.bands)
    if unsafe := sorted(
        key for key, value in (cfg.model_extra or {}).items() if key in _UNSAFE_CFG and value
    ):
        raise DamagedError(f"{path}: pretrained_cfg.{unsafe} is refused: weights lie beside the config")
    if len(config.label_names) != cfg.num_classes:
        raise DamagedError(f"{path}: {len(config.label_names)} label_names for {cfg.num_classes} classes")
    counts = {"channels": cfg.input_size[0], "means": len(cfg.mean), "stds": len(cfg.std)}
    for what, number in counts.items():
        if number != bands:
            raise DamagedError(f"{path}: {number} {what} for {bands} bands")
    return config


def _mistakes(path: Path, error: ValidationError) -> str:
    """What is wrong with a config.json, key by key."""
    errors = error.errors(include_url=False, include_input=False)
    if errors[0]["type"] == "json_invalid":
        return f"{path} is damaged: {errors[0]['msg']}"
    if any(item["type"] == "missing" and item["loc"] == ("glczoo",) for item in errors):
        return f"{path} has no key glczoo: this model was not trained with glczoo"
    mistakes = []
    for item in errors[:5]:
        key = ".".join(map(str, item["loc"])) or "the file"
        words = "it is missing" if item["type"] == "missing" else item["msg"].removeprefix("Value error, ")
        mistakes.append(f"{key}: {words}")
    more = f"; {len(errors) - 5} more" if len(errors) > 5 else ""
    return f"{path} is not as glczoo writes it: {'; '.join(mistakes)}{more}"


def create(config: Config) -> Any:
    """The architecture of an export, with new weights."""
    cfg = config.pretrained_cfg.model_dump() | {"architecture": config.architecture}
    args = {"num_classes": config.pretrained_cfg.num_classes, **config.model_args}
    return timm.create_model(config.architecture, pretrained_cfg=cfg, **args)


def keywords_of(config: Config) -> dict[str, Any]:
    """What an export's architecture was made with, less what a model that holds it says."""
    outer = ("num_classes", "in_chans", "global_pool")
    return {key: value for key, value in config.model_args.items() if key not in outer}


def build(folder: Path, config: Config) -> nn.Module:
    """The model of an export, with its weights.

    Raises:
        DamagedError: the weights are no safetensors, or not exactly those of the config's architecture.
    """
    path = folder / "model.safetensors"
    header = tensor_header(path)
    members = config.model_args.get("members", ())
    if isinstance(members, list) and len(members) > len(header):
        raise DamagedError(f"{folder / 'config.json'}: {len(members)} members, {path} has fewer tensors")
    try:
        with (
            torch.device("meta"),
            _few_modules(10 * len(header) + 1000),
        ):  # the file may be small, and name a giant
            expected = create(config).state_dict()
    except Exception as error:  # whatever an architecture raises for arguments that somebody wrote
        raise DamagedError(f"{folder / 'config.json'}: the model cannot be built: {error}") from error
    _refuse_other(path, header, expected)
    model = create(config)
    load_weights(model, folder)
    return model


@contextmanager
def _few_modules(most: int) -> Iterator[None]:
    """Stop an architecture that goes on and on: arguments may ask for a thousand million layers."""
    made = 0

    def count(*_: object) -> None:
        nonlocal made
        made += 1
        if made > most:
            raise GlczooError(f"it has more than {most} modules, the weights are of fewer")

    handle = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill a model with the weights of an export, exactly.

    Raises:
        DamagedError: the file is no whole safetensors, or a tensor's name, shape or type is another.
    """
    path = folder / "model.safetensors"
    _refuse_other(path, tensor_header(path), model.state_dict())
    model.load_state_dict(load_file(path))


def tensor_header(path: Path) -> dict[str, tuple[torch.dtype | str, list[int]]]:
    """Type and shape of every tensor of a file, without reading them.

    Raises:
        DamagedError: the file is no safetensors.
    """
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if length > _HEADER:
            raise DamagedError(f"{path}: the weights cannot be loaded: a header of {length} bytes")
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return {
                name: (_TYPES.get(part.get_dtype(), part.get_dtype()), part.get_shape())
                for name, part in slices.items()
            }
    except SafetensorError as error:
        raise DamagedError(f"{path}: the weights cannot be loaded: {error}") from None


def _refuse_other(
    path: Path,
    header: Mapping[str, tuple[torch.dtype | str, list[int]]],
    expected: Mapping[str, torch.Tensor],
) -> None:
    wrong = [f"{name} is missing" for name in expected if name not in header]
    wrong += [f"{name} is unknown" for name in header if name not in expected]
    for name, (dtype, shape) in header.items():
        own = expected.get(name)
        if own is not None and (dtype, shape) != (own.dtype, list(own.shape)):
            wrong.append(f"{name} is {dtype}{shape}, not {own.dtype}{list(own.shape)}")
    if wrong:
        raise DamagedError(
            f"{path}: the weights do not fit the architecture: {len(wrong)} tensors, {'; '.join(wrong[:3])}"
        )
