"""Reading a model that somebody else exported: its config.json cannot make us import, fetch or run anything.

An export is what timm reads (model.safetensors, config.json) with a root key `glczoo` (see `runs.py`). Only a
registered architecture is built, from JSON values, and only safetensors of exactly its names, shapes and
types are loaded.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from glczoo.hub_client import DamagedError, HubError, pull

__all__ = [
    "build", "create", "fit_cfg", "from_zoo", "keywords_of", "load_weights", "read_config", "refuse_unsafe",
]  # fmt: skip

# Arguments of timm.create_model and entries of a pretrained_cfg that would load something from elsewhere.
_UNSAFE_ARGS = {
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable",
    "exportable", "no_jit",
}  # fmt: skip
_UNSAFE_CFG = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}


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


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of an export, checked: names, counts, and nothing that would load something else.

    Raises:
        FileNotFoundError: the folder holds no export.
        DamagedError: config.json is not one that glczoo wrote, or its parts do not fit each other.
    """
    path = folder / "config.json"
    if not (path.is_file() and (folder / "model.safetensors").is_file()):
        raise FileNotFoundError(
            f"{folder} is no finished run: it holds no model.safetensors and config.json"
            + ("; its training was started and not finished" if (folder / "recipe.yaml").exists() else "")
        )
    try:
        config = json.loads(path.read_text("utf-8"))
    except ValueError as error:  # not JSON, or not text
        raise DamagedError(f"{path} is damaged: {error}") from None
    if not isinstance(config, dict) or "glczoo" not in config:
        raise DamagedError(f"{path} has no key glczoo: this model was not trained with glczoo")
    try:
        told, cfg, names = config["glczoo"], config["pretrained_cfg"], config["label_names"]
        refuse_unsafe(config["architecture"], config.get("model_args", {}), str(path))
        if unsafe := sorted(key for key in _UNSAFE_CFG if cfg.get(key)):
            raise DamagedError(f"{path}: pretrained_cfg.{unsafe} is refused: weights lie beside the config")
        if not isinstance(names, list) or len(names) != cfg["num_classes"]:
            raise DamagedError(f"{path}: {len(names)} label_names for {cfg['num_classes']} classes")
        bands = len(told["bands"])
        for what, number in (
            ("channels", cfg["input_size"][0]), ("means", len(cfg["mean"])), ("stds", len(cfg["std"]))
        ):  # fmt: skip
            if number != bands:
                raise DamagedError(f"{path}: {number} {what} for {bands} bands")
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedError(f"{path} is not as glczoo writes it: {type(error).__name__} {error}") from None
    return config


def create(config: Mapping[str, Any]) -> Any:
    """The architecture of an export, with new weights."""
    cfg = {**config["pretrained_cfg"], "architecture": config["architecture"]}
    args = {"num_classes": cfg["num_classes"], **config.get("model_args", {})}
    return timm.create_model(config["architecture"], pretrained_cfg=cfg, **args)


def keywords_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What an export's architecture was made with, less what a model that holds it says."""
    given = config.get("model_args", {})
    return {
        key: value for key, value in given.items() if key not in ("num_classes", "in_chans", "global_pool")
    }


def build(folder: Path, config: Mapping[str, Any]) -> nn.Module:
    """The model of an export, with its weights.

    Raises:
        DamagedError: the weights are no safetensors, or not exactly those of the config's architecture.
    """
    try:
        model = create(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DamagedError(f"{folder / 'config.json'}: the model cannot be built: {error}") from error
    load_weights(model, folder)
    return model


def load_weights(model: nn.Module, folder: Path) -> None:
    """Fill a model with the weights of an export, exactly.

    Raises:
        DamagedError: the file is no whole safetensors, or a tensor's name, shape or type is another.
    """
    path = folder / "model.safetensors"
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise DamagedError(f"{path}: the weights cannot be loaded: {error}") from None
    own = model.state_dict()
    wrong = [f"{name} is missing" for name in own if name not in state]
    wrong += [f"{name} is unknown" for name in state if name not in own]
    for name, value in state.items():
        expected = own.get(name, value)
        if (value.shape, value.dtype) != (expected.shape, expected.dtype):
            wrong.append(
                f"{name} is {value.dtype}{list(value.shape)}, not {expected.dtype}{list(expected.shape)}"
            )
    if wrong:
        raise DamagedError(
            f"{path}: the weights do not fit the architecture: {len(wrong)} tensors, {'; '.join(wrong[:3])}"
        )
    model.load_state_dict(state)


def from_zoo(variant: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments for a plain `timm.create_model(variant, pretrained=True)`: those of the published model.

    The weights come from `ORG/VARIANT` (see `remote.organisation`), or from the id, with @revision or not,
    given as `pretrained_cfg_overlay=dict(hf_hub_id="ORG/NAME@v1")`. Where the caller names other weights
    (`hf-hub:`, `local-dir:`, a file, a state dict) nothing is changed.

    Raises:
        HubError: they cannot be had; the message says what was tried and the ways out.
        DamagedError: what came is not a whole published model of this architecture.
    """
    overlay = kwargs.get("pretrained_cfg_overlay") or {}
    if kwargs.get("pretrained_cfg") is not None or {"file", "url", "state_dict"} & overlay.keys():
        return kwargs
    model = overlay.get("hf_hub_id", variant)
    try:
        folder = pull(model, files=("config.json", "model.safetensors"), cache_dir=kwargs.get("cache_dir"))
        config = read_config(folder)
    except HubError as error:
        raise HubError(f"no pretrained weights for {variant}: {error}") from None
    if config["architecture"] != variant:
        raise DamagedError(f"{model} holds a {config['architecture']}, not a {variant}")
    cfg = {
        **config["pretrained_cfg"], "architecture": variant, "file": str(folder / "model.safetensors"),
        "label_names": config["label_names"],
    }  # fmt: skip
    args = dict(config.get("model_args", {}))
    if "branches" in kwargs:  # others than the published: the number of channels follows from them
        args.pop("in_chans", None)
    rest = {key: value for key, value in overlay.items() if key != "hf_hub_id"}
    return {
        **args, **kwargs,
        "pretrained_cfg": cfg, "pretrained_cfg_overlay": rest or None,
    }  # fmt: skip


def fit_cfg(kwargs: dict[str, Any], chans: int, **more: Any) -> None:
    """Make the zoo's cfg say how many channels a model of any number has, in place.

    `more`: further entries of the cfg. A published cfg knows its own and stays; what the caller overlays
    stands above.
    """
    if not isinstance(kwargs.get("pretrained_cfg"), dict):
        own = dict(input_size=(chans, 128, 128), mean=(0.0,) * chans, std=(1.0,) * chans, **more)
        kwargs["pretrained_cfg_overlay"] = own | (kwargs.get("pretrained_cfg_overlay") or {})
