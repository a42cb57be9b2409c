"""Where weights of `timm.create_model(NAME, pretrained=True)` come from: the Hub, or the packaged sample."""

import os
from typing import Any

from glczoo.hub_client import DamagedError, HubError, pull
from glczoo.models.published import read_config
from glczoo.packaged import SAMPLE, sample

__all__ = ["SAMPLE_ARCHITECTURE", "fit_cfg", "from_zoo"]

SAMPLE_ARCHITECTURE = "test_fusresnet_glc23"
"""What the packaged sample is."""


def from_zoo(variant: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments for a plain `timm.create_model(variant, pretrained=True)`: those of the published model.

    The weights come from `ORG/VARIANT` (see `hub_client.organisation`), or from the id, with @revision or
    not, given as `pretrained_cfg_overlay=dict(hf_hub_id="ORG/NAME@v1")`. Those of SAMPLE_ARCHITECTURE are the
    packaged sample's unless GLCZOO_HUB_ORG is set; the tag `.sample` always names them. Where the caller
    names other weights (`hf-hub:`, `local-dir:`, a file, a state dict) nothing is changed.

    Raises:
        HubError: they cannot be had; the message says what was tried and the ways out.
        DamagedError: what came is not a whole published model of this architecture.
    """
    overlay, tag = kwargs.get("pretrained_cfg_overlay") or {}, kwargs.get("pretrained_cfg")
    if tag not in (None, SAMPLE) or {"file", "url", "state_dict"} & overlay.keys():
        return kwargs
    named = "hf_hub_id" in overlay or (tag is None and os.environ.get("GLCZOO_HUB_ORG"))
    packaged = variant == SAMPLE_ARCHITECTURE and not named
    model = overlay.get("hf_hub_id", variant)
    try:
        if packaged:
            folder = sample("model")
        else:
            wanted = ("config.json", "model.safetensors")
            folder = pull(model, files=wanted, cache_dir=kwargs.get("cache_dir"))
        config = read_config(folder)
    except HubError as error:
        raise HubError(f"no pretrained weights for {variant}: {error}") from None
    if config.architecture != variant:
        raise DamagedError(f"{model} holds a {config.architecture}, not a {variant}")
    cfg = config.pretrained_cfg.model_dump() | {
        "architecture": variant,
        "file": str(folder / "model.safetensors"),
        "label_names": config.label_names,
    }
    args = dict(config.model_args)
    if "branches" in kwargs:  # others than the published: the number of channels follows from them
        args.pop("in_chans", None)
    rest = {key: value for key, value in overlay.items() if key != "hf_hub_id"}
    return args | kwargs | {"pretrained_cfg": cfg, "pretrained_cfg_overlay": rest or None}


def fit_cfg(kwargs: dict[str, Any], chans: int, **more: Any) -> None:
    """Make the zoo's cfg say how many channels a model of any number has, in place.

    `more`: further entries of the cfg. A published cfg knows its own and stays; what the caller overlays
    stands above.

    `chans`: how many.
    """
    if not isinstance(kwargs.get("pretrained_cfg"), dict):
        own = dict(input_size=(chans, 128, 128), mean=(0.0,) * chans, std=(1.0,) * chans, **more)
        kwargs["pretrained_cfg_overlay"] = own | (kwargs.get("pretrained_cfg_overlay") or {})
