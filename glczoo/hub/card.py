"""Model cards: `model_cards/template.md` filled with what a published folder holds, and nothing else.

A card is signed by whoever publishes the model, so rendering is strict: an undefined name, a None, a NaN or
a number that is not Python's own is an error, not an empty cell. `python -m glczoo.hub.card` renders those of
the zoo.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from glczoo.data.region import Region
from glczoo.decoding import Decoding
from glczoo.hub_client import PREFIX, split_id
from glczoo.models.published import create, read_config
from glczoo.recipe import read_recipe

__all__ = ["card_of", "render", "zoo_cards"]

_HOME = Path(__file__).parents[2]
_PAPER = {  # Tables 3 and 4: per-sample F1 at top 20, public and private test set
    "bioresnet50_glc23": [("steps 1+2+3", ".243", ".239")],
    "fusresnet34_glc23": [("steps 1+2+3", ".254", ".249")],
    "fusresnet50_glc23": [("step 1 alone", ".200", ".196"), ("steps 1+2+3", ".254", ".249")],
    "ensemble_glc23": [("mean of the three models", ".276", ".270")],
}
_LOSSES = {
    "bce": "binary cross-entropy",
    "ce": "cross-entropy over species",
    "an": "assume-negative BCE",
    "an_ls": "assume-negative BCE with label smoothing",
    "wan": "weighted assume-negative BCE",
    "epr": "expected positive regularisation",
    "role": "regularised online label estimation",
    "em": "entropy maximisation",
    "em_apl": "entropy maximisation with asymmetric pseudo-labels",
    "sinr_full": "full assume-negative loss of SINR, background at other training places",
    "full_weighted": "full weighted loss, background at other training places",
    "plc": "pseudo-label consistency",
    "hill": "Hill loss",
    "asl": "asymmetric loss",
}
_INITS = {"imagenet": "ImageNet weights", "random": "random weights"}


def card_of(folder: Path, repo_id: str, licence: str) -> str:
    """The card of a published folder.

    Args:
        folder: holds config.json and metrics.json, as `hub.save` writes them.
        repo_id: `ORG/NAME` that the usage snippet loads.
        licence: of the weights.

    Raises:
        FileNotFoundError, DamagedError: the folder holds no model.
        ValueError: something that the card says is missing or not a plain number.
    """
    config = read_config(folder)
    metrics = json.loads((folder / "metrics.json").read_text("utf-8"))
    repo_id, _ = split_id(repo_id)
    told = config["glczoo"]
    facts = {
        **_model_facts(config, PREFIX + repo_id),
        "name": repo_id.split("/")[-1],
        "licence": licence,
        "region": told["region"],
        "data": told["data"] or f"region {told['region']}",
        "data_licence": told["data_licence"] or "not stated in region.yaml",
        "training": [_step(step["recipe"], step) for step in metrics["training"]],
        "versions": f"; {metrics['versions']}",
        "results": [_part(part, told["region"]) for part in metrics["results"]],
        "paper": [],
    }
    return render(facts, _metadata(facts, metrics))


def zoo_cards() -> dict[str, str]:
    """The cards of the zoo's models on GeoLifeCLEF 2023, by name: plans with the paper's numbers."""
    region = Region.load(_HOME / "recipes/regions/glc23.yaml")
    cards = {}
    for name, rows in _PAPER.items():
        with torch.device("meta"):
            model: Any = timm.create_model(name)
        bands = [
            {"name": b.name, "modality": m.name, "unit": b.unit, "source": b.provenance or m.provenance,
             "resolution": m.resolution, "crs": None, "cell": None}
            for b, m in region.bands()
        ][: model.pretrained_cfg["input_size"][0]]  # fmt: skip
        members = [("", name)] if name != "ensemble_glc23" else [(n, n) for n in list(_PAPER)[:3]]
        recipes = [
            (member, read_recipe(_HOME / f"recipes/step{number}.yaml", [f"model={architecture}"]))
            for member, architecture in members
            for number in (1, 2, 3)
        ]
        config = {
            "architecture": name,
            "pretrained_cfg": {"num_classes": model.num_classes, "input_size": (len(bands), 128, 128)},
            "model_args": {"members": _zoo_members(model)} if name == "ensemble_glc23" else {},
            "glczoo": {
                "bands": bands,
                "patch_size": 128,
                "activation": "sigmoid",
                "decoding": {"rule": "top_k", "value": 20},
            },
        }
        facts = {
            **_model_facts(config, name),
            "name": name,
            "licence": "none yet",
            "region": region.name,
            "data": region.description,
            "data_licence": region.licence,
            "training": [
                _step(r.model_dump(mode="json") | {"region": "glc23"}, {"member": m}) for m, r in recipes
            ],
            "versions": "",
            "results": [],
            "paper": [dict(zip(("steps", "public", "private"), row, strict=True)) for row in rows],
        }
        cards[name] = render(facts, _metadata(facts, {"training": [{"recipe": {"init": "imagenet",
            "imagenet": {"tag": None}, "model": m}} for _, m in members]}))  # fmt: skip
    return cards


def render(facts: Mapping[str, Any], metadata: str) -> str:
    """The template filled with plain values.

    Raises:
        ValueError: a value is missing, None where text is due, NaN, infinite, or no plain Python value.
    """
    _refuse_odd(facts, "card")
    here = _HOME / "model_cards"
    folder = (
        here if here.is_dir() else Path(__file__).parents[1] / "model_cards"
    )  # a clone, or an installed wheel
    environment = Environment(
        loader=FileSystemLoader(folder), undefined=StrictUndefined, finalize=_told, trim_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    try:
        return environment.get_template("template.md").render(**facts, metadata=metadata)
    except UndefinedError as error:
        raise ValueError(f"the card cannot be filled: {error}") from None


def _told(value: Any) -> Any:
    if value is None:
        raise ValueError("the card cannot be filled: a value is None where the template prints it")
    return value


def _refuse_odd(value: Any, where: str) -> None:
    """Jinja would print a NaN, and YAML would write a numpy scalar as binary."""
    if type(value) is dict:
        for key, inner in value.items():
            _refuse_odd(inner, f"{where}.{key}")
    elif type(value) in (list, tuple):
        for number, inner in enumerate(value):
            _refuse_odd(inner, f"{where}[{number}]")
    elif type(value) is float and not math.isfinite(value):
        raise ValueError(f"{where} is {value}: a card states numbers that exist")
    elif type(value) not in (str, int, float, bool, type(None)):
        raise ValueError(f"{where} is a {type(value).__name__}, not a plain Python value")


def _model_facts(config: Mapping[str, Any], load: str) -> dict[str, Any]:
    told, cfg, args = config["glczoo"], config["pretrained_cfg"], config.get("model_args", {})
    with torch.device("meta"):
        model = create(config)
    members = [
        {"architecture": name, "start": start, "stop": stop}
        for name, _, (start, stop) in args.get("members", [])
    ]
    return {
        "architecture": config["architecture"],
        "kind": f"An ensemble of {len(members)} networks" if members else "A convolutional network",
        "parameters": sum(p.numel() for p in model.parameters()),
        "members": members,
        "average": args.get("average", "probabilities"),
        "channels": len(told["bands"]),
        "patch_size": told["patch_size"],
        "species": cfg["num_classes"],
        "activation": told["activation"],
        "decoding": _decoding(Decoding(**told["decoding"])),
        "load": load,
        "run": load if load.startswith(PREFIX) else f"{PREFIX}{load}",
        "modalities": _modalities(told, cfg),
    }


def _loss(told: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in told.items() if key != "name")
    return _LOSSES[told["name"]] + (f" ({settings})" if settings else "")


def _decoding(decoding: Decoding) -> dict[str, Any]:
    """The rule in words, and the call that the snippet makes."""
    number = f"{decoding.value:.6g}" if decoding.value is not None else ""
    words = {
        "top_k": f"the {number} most probable",
        "threshold": f"those with probability {number} or more, one at least",
        "expected_size": f"the most probable, {number} times as many as the probabilities sum to",
        "expected_f1": "the most probable, as many as promise the highest F1",
        "expected_f1_exact": "the most probable, as many as promise the highest F1 of independent species",
    }
    if decoding.by_source:
        each = ", ".join(f"{name or 'not named'} {k}" for name, k in decoding.by_source.items())
        words["top_k"] += f"; in surveys of these sources another number: {each}"
    rule = decoding.rule.removesuffix("_exact")
    given = f", {number}" if number else ", exact=True" if rule != decoding.rule else ""
    return {"rule": rule, "words": words[decoding.rule], "call": f"{rule}(probabilities{given})"}


def _modalities(told: Mapping[str, Any], cfg: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Bands grouped as the region groups them, each with its channel."""
    grouped: dict[str, dict[str, Any]] = {}
    for channel, band in enumerate(told["bands"]):
        described = f" of {band['resolution']}" if band["resolution"] else ""
        if band["crs"]:
            unit = "degrees" if band["crs"] == "EPSG:4326" else "units of the CRS"
            described += f" ({band['crs']}, {told['patch_size'] * band['cell']:.4g} {unit} a side)"
        described += f"; {band['source']}" if band["source"] else ""
        modality = grouped.setdefault(
            band["modality"],
            {"name": band["modality"], "described": described, "bands": []},
        )  # fmt: skip
        modality["bands"].append(
            {
                "channel": channel,
                "name": band["name"],
                "unit": band["unit"],
                **{key: f"{cfg[key][channel]:.5g}" if key in cfg else "–" for key in ("mean", "std")},
            }
        )
    return list(grouped.values())


def _step(recipe: Mapping[str, Any], step: Mapping[str, Any]) -> dict[str, Any]:
    """One training step: who, what, on which surveys, how; `step` says how it went, where it was run."""
    data = recipe["data"]
    tables = {"pa": "presence–absence surveys", "po": "presence-only records"}
    part = "" if data["pa_fraction"] == 1 else f" ({100 * data['pa_fraction']:g} % of the surveys)"
    took = f" ({step['seconds']:.0f} s)" if step.get("seconds") else ""
    return {
        "member": step.get("member", ""),
        "name": recipe["name"],
        "surveys": f"{' and '.join(tables[table] for table in data['tables'])} of {recipe['region']}{part}",
        "how": ("fitted by scikit-learn" if recipe["model"] == "forest_glc23" else _settings(recipe)) + took,
    }


def _settings(recipe: Mapping[str, Any]) -> str:
    """What a step by gradients was told."""
    optimizer, schedule = recipe["optimizer"], recipe["schedule"]
    init = _INITS.get(recipe["init"], f"`{recipe['init']}`")
    drops = (
        f", times {schedule['gamma']:g} at epochs {schedule['milestones']}" if schedule["milestones"] else ""
    )
    best = ", the best by validation F1 kept" if recipe["keep"] == "best" else ""
    pseudo, po_loss = recipe.get("pseudo"), recipe.get("po_loss")
    taught = (
        f", records labelled by `{pseudo['teacher']}` (absent at {pseudo['low']:g} or below, present at "
        f"{pseudo['high']:g} or above, between ignored)"
        if pseudo else ""
    ) + (f", of records {_loss(po_loss)}" if po_loss else "")  # fmt: skip
    return (
        f"{_loss(recipe['loss'])}{taught}, from {init}; {optimizer['name']}, learning rate "
        f"{optimizer['lr']:g}{drops}, batches of {recipe['batch_size']}, {recipe['epochs']} epochs{best}"
    )


def _part(part: Mapping[str, Any], region: str) -> dict[str, Any]:
    """Numbers as text of three digits; None stays, where the template knows what to say."""

    def text(value: Any) -> Any:
        if isinstance(value, float):
            return f"{value:.3f}"
        if isinstance(value, list):
            return [text(each) for each in value]
        return {key: text(each) for key, each in value.items()} if isinstance(value, dict) else value

    return text({**part, "region": region})


def _metadata(facts: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The YAML block that the Hub reads: tags, origins, and model-index."""
    results = []
    for part in metrics.get("results", []):
        first = part["rules"][0]
        numbers = [
            ("f1", f"F1 over surveys, {first['rule']}", first["f1"]),
            ("roc_auc", "macro AUC", part["auc"]),
        ]
        results += [
            EvalResult(
                task_type="image-classification", task_name="multi-label species prediction",
                dataset_type=facts["region"], dataset_name=facts["data"],
                dataset_split=part["part"], metric_type=kind, metric_name=name, metric_value=round(value, 4),
            )
            for kind, name, value in numbers if value is not None
        ]  # fmt: skip
    known = facts["licence"].lower() in (
        "mit",
        "apache-2.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc0-1.0",
    )
    data = ModelCardData(
        language="en",
        license=facts["licence"].lower() if known else "other",
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["glczoo", "timm", "biodiversity", "species-distribution-model", "multi-label"],
        datasets=[facts["region"]],
        base_model=_base_models(metrics["training"]) or None,
        model_name=facts["name"] if results else None,
        eval_results=results or None,
        **({} if known else {"license_name": facts["licence"]}),
    )
    return data.to_yaml().strip()


def _base_models(training: list[Mapping[str, Any]]) -> list[str]:
    """What the first steps started from: ImageNet weights by timm, or models on the Hub."""
    found = []
    for step in training:
        recipe = step["recipe"]
        if recipe["init"] == "imagenet":
            depth = "50" if "50" in recipe["model"] else "34"
            found.append("timm/" + (recipe["imagenet"]["tag"] or f"resnet{depth}.tv_in1k"))
        elif recipe["init"].startswith(PREFIX):
            found.append(split_id(recipe["init"])[0])
    return sorted(set(found))


def _zoo_members(model: Any) -> list[Any]:
    return [[member.pretrained_cfg["architecture"], {}, list(channels)] for member, channels in zip(
        model.members, model.ranges, strict=True)]  # fmt: skip


if __name__ == "__main__":
    for name, text in zoo_cards().items():
        (_HOME / "model_cards" / f"{name}.md").write_text(text, "utf-8")
