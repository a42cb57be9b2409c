"""Model cards: `model_cards/template.md` filled with what a published folder holds, and nothing else.

A card is signed by whoever publishes the model, so rendering is strict: an undefined name, a None, a NaN or
a number that is not Python's own is an error, not an empty cell. `python -m glczoo.hub.card` renders those of
the zoo.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError

from glczoo.data.region import Region
from glczoo.decoding import Decoding, Rule
from glczoo.errors import GlczooError
from glczoo.hub.metadata import About, Published, metadata
from glczoo.hub_client import PREFIX, split_id
from glczoo.models.published import BandDescription, Config, PretrainedCfg, Section, create
from glczoo.recipe import Recipe, read_recipe
from glczoo.runs.lineage import Step

__all__ = ["card_text", "render", "zoo_cards"]

_HOME = Path(__file__).parents[2]
_PAPER = {  # Tables 3 and 4: per-sample F1 at top 20, public and private test set
    "bioresnet50_glc23": [("steps 1+2+3", ".243", ".239")],
    "fusresnet34_glc23": [("steps 1+2+3", ".254", ".249")],
    "fusresnet50_glc23": [("step 1 alone", ".200", ".196"), ("steps 1+2+3", ".254", ".249")],
    "ensemble_glc23": [("mean of the three models", ".276", ".270")],
}
_GEOPLANT = [  # Picek et al. 2024, trained on surveys alone: mean F1 of the test surveys of 2024
    ("the 25 commonest species of each district", ".206"),
    ("XGBoost on all tables", ".287"),
    ("ResNet-6 on climate cubes", ".262"),
    ("ResNet-6 on Landsat cubes", ".303"),
    ("ResNet-6 on Sentinel-2", ".220"),
    ("their ensemble, 25 species", ".341"),
    ("their ensemble, an estimated number of species", ".362"),
]
_LOSSES = {
    "bce": "binary cross-entropy",
    "ce": "cross-entropy over species",
    "deepmaxent": "DeepMaxent, cross-entropy over the places of a batch",
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
_FITTED = {
    "forest_glc23": "fitted by scikit-learn",
    "ensemble_glc23": "log-linear models by L-BFGS and extra trees by scikit-learn, chosen and weighted by "
    "records that were held out in spatial blocks (`glczoo fit`)",
    "corrected_glc23": "fitted on values at the surveys: slopes and weights by L-BFGS, networks by AdamW",
}
_INITS = {"imagenet": "ImageNet weights", "random": "random weights"}


def card_text(
    config: Config,
    published: Published,
    repo_id: str,
    licence: str,
    citations: Sequence[str] = (),
    leaderboard: str = "",
    by_records: bool = False,
) -> str:
    """The card of a published folder.

    Args:
        config: of the model.
        published: how it was trained, and what it scores.
        repo_id: `ORG/NAME` that the usage snippet loads.
        licence: of the weights.
        citations: of the data.
        leaderboard: what a fit has compared, or how held-out records judge the model, as Markdown.
        by_records: whether there are no surveys to judge it.

    Raises:
        GlczooError: something that the card states is missing or not a plain number.
    """
    repo_id, _ = split_id(repo_id)
    section = config.glczoo
    data = section.data or f"region {section.region}"
    facts = {
        **_model_facts(config, PREFIX + repo_id),
        "name": _markdown(repo_id.split("/")[-1]),
        "licence": _markdown(licence),
        "data": _markdown(data),
        "data_licence": _markdown(section.data_licence or "not stated in region.yaml"),
        "training": [_step(step) for step in published.training],
        "versions": f"; {_markdown(published.versions)}",
        "results": [_texts(part.to_json() | {"region": section.region}) for part in published.results],
        "benchmark": {},
        "citations": [_markdown(text) for text in citations],
        "leaderboard": leaderboard,
        "by_records": by_records,
    }
    about = About(repo_id.split("/")[-1], licence, section.region, section.data or f"region {section.region}")
    return render(facts, metadata(about, published))


def zoo_cards() -> dict[str, str]:
    """The cards of the zoo's models, by name: plans with published numbers."""
    return {name: _zoo_card(name) for name in [*_PAPER, "fusresnet18_glc24"]}


def _zoo_card(name: str) -> str:
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    of_2024 = name.endswith("_glc24")
    region = Region.load(_HOME / f"recipes/regions/{'glc24' if of_2024 else 'glc23'}.yaml")
    recipes = _HOME / "recipes" / ("glc24" if of_2024 else "")
    together = name == "ensemble_glc23"
    architectures = list(_PAPER)[:3] if together else [name]
    steps = [
        Step(
            read_recipe(recipes / f"step{number}.yaml", [f"model={architecture}"]).model_copy(
                update={"region": region.name}
            ),
            member=architecture if together else "",
        )
        for architecture in architectures
        for number in (1, 2, 3)
    ]
    facts = {
        **_model_facts(_zoo_config(name, model, region), name, trained=False),
        "name": name,
        "licence": "none yet",
        "data": _markdown(region.description),
        "data_licence": _markdown(region.licence),
        "training": [_step(step) for step in steps],
        "versions": "",
        "results": [],
        "citations": [],
        "benchmark": _of_2024() if of_2024 else _of_2023(name),
        "leaderboard": "",
        "by_records": False,
    }
    about = About(name, "none yet", region.name, region.description)
    return render(facts, metadata(about, Published(steps)))


def _of_2023(name: str) -> dict[str, Any]:
    """The table of a plan: the paper's numbers and, beside them, ours."""
    rows = []
    for steps, *scores in _PAPER[name]:
        rows.append({"what": f"{steps}, the paper", "scores": scores})
        rows.append({"what": f"{steps}, glczoo", "scores": ["not yet reproduced"] * 2})
    title = "GeoLifeCLEF 2023, per-sample F1, top 20"
    return {"title": title, "columns": ["public", "private"], "rows": rows, "whose": "the paper's"}


def _of_2024() -> dict[str, Any]:
    rows = [{"what": f"{what}, GeoPlant", "scores": [score]} for what, score in _GEOPLANT]
    rows += [{"what": f"{steps}, glczoo", "scores": ["not yet run"]} for steps in ("step 1", "steps 1+2+3")]
    title = "GeoLifeCLEF 2024, mean F1 of the test surveys"
    return {"title": title, "columns": ["F1"], "rows": rows, "whose": "published ones of other models"}


def _zoo_config(name: str, model: Any, region: Region) -> Config:
    """The config that an export of one of the zoo's models would have."""
    channels, side, _ = model.pretrained_cfg["input_size"]
    bands = [
        BandDescription(
            name=band.name,
            modality=modality.name,
            unit=band.unit,
            source=band.provenance or modality.provenance,
            resolution=modality.resolution,
        )
        for band, modality in region.bands()
    ][:channels]
    args = {}
    if name == "ensemble_glc23":
        pairs = zip(model.members, model.ranges, strict=True)
        args["members"] = [
            [member.pretrained_cfg["architecture"], {}, list(channels)] for member, channels in pairs
        ]
    return Config(
        architecture=name,
        model_args=args,
        pretrained_cfg=PretrainedCfg(
            num_classes=model.num_classes,
            input_size=(channels, side, side),
            mean=[0.0] * len(bands),
            std=[1.0] * len(bands),
        ),
        label_names=[],
        glczoo=Section(
            region=region.name,
            bands=bands,
            modalities=list(dict.fromkeys(band.modality for band in bands)),
            patch_size=side,
            activation="sigmoid",
            decoding=Decoding(Rule.EXPECTED_F1_EXACT)
            if name.endswith("_glc24")
            else Decoding(Rule.TOP_K, 20),
        ),
    )


def render(facts: Mapping[str, Any], header: str) -> str:
    """The template filled with plain values.

    `facts`: by the template's names; `header`: the YAML block above.

    Raises:
        GlczooError: a value is missing, None where text is due, NaN, infinite, or no plain Python value.
    """
    _refuse_odd(facts, "card")
    here = _HOME / "model_cards"
    folder = here if here.is_dir() else Path(__file__).parents[1] / "model_cards"  # of a clone, of a wheel
    environment = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        finalize=_refuse_none,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    try:
        return environment.get_template("template.md").render(**facts, metadata=header)
    except UndefinedError as error:
        raise GlczooError(f"the card cannot be filled: {error}") from None


def _refuse_none(value: Any) -> Any:
    if value is None:
        raise GlczooError("the card cannot be filled: a value is None where the template prints it")
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
        raise GlczooError(f"{where} is {value}: a card states numbers that exist")
    elif type(value) not in (str, int, float, bool, type(None)):
        raise GlczooError(f"{where} is a {type(value).__name__}, not a plain Python value")


def _model_facts(config: Config, load: str, trained: bool = True) -> dict[str, Any]:
    """What the card says of the architecture; of a model that was not trained, without statistics."""
    section, args = config.glczoo, config.model_args
    with torch.device("meta"):
        model = create(config)
    members = [
        {"architecture": name, "start": start, "stop": stop}
        for name, _, (start, stop) in args.get("members", [])
    ]
    for member, weight in zip(members, args.get("weights") or [], strict=False):
        member["weight"] = weight
    what = "models of presence-only records" if section.activation == "rank" else "networks"
    return {
        "architecture": config.architecture,
        "kind": f"An ensemble of {len(members)} {what}" if members else "A convolutional network",
        "parameters": sum(p.numel() for p in model.parameters()),
        "members": members,
        "average": args.get("average", "probabilities"),
        "channels": len(section.bands),
        "patch_size": section.patch_size,
        "species": config.pretrained_cfg.num_classes,
        "activation": section.activation,
        "decoding": _decoding(section.decoding),
        "load": load,
        "run": load if load.startswith(PREFIX) else f"{PREFIX}{load}",
        "modalities": _modalities(config, trained),
    }


def _loss(recipe_loss: Any) -> str:
    values = recipe_loss.model_dump(mode="json")
    settings = ", ".join(f"{key} {value}" for key, value in values.items() if key != "name")
    return _LOSSES[values["name"]] + (f" ({settings})" if settings else "")


def _decoding(decoding: Decoding) -> dict[str, Any]:
    """The rule in words, and the call that the snippet makes."""
    number = f"{decoding.value:.6g}" if decoding.value is not None else ""
    words = {
        "top_k": f"the {number} most probable",
        "threshold": f"those with probability {number} or more, one at least",
        "expected_size": f"the most probable, {number} times as many as the probabilities sum to",
        "expected_f1": "the most probable, as many as promise the highest F1",
        "expected_f1_exact": "the most probable, as many as promise the highest F1 of independent species",
        "recall": f"as few as hold {number} of the species, on average and near the tuning samples",
    }
    if decoding.by_source:
        each = ", ".join(f"{_markdown(name or 'not named')} {k}" for name, k in decoding.by_source.items())
        words["top_k"] += f"; in surveys of these sources another number: {each}"
    rule, argument = decoding.rule.removesuffix("_exact"), f", {number}" if number else ""
    if decoding.rule is Rule.RECALL:
        rule, argument = "threshold", f", {decoding.threshold:.6g}"
    elif rule != decoding.rule:
        argument = ", exact=True"
    return {"rule": rule, "words": words[decoding.rule], "call": f"{rule}(probabilities{argument})"}


def _modalities(config: Config, trained: bool) -> list[dict[str, Any]]:
    """Bands grouped as the region groups them, each with its channel."""
    section, cfg = config.glczoo, config.pretrained_cfg
    grouped: dict[str, dict[str, Any]] = {}
    for channel, band in enumerate(section.bands):
        described = f" of {_markdown(band.resolution)}" if band.resolution else ""
        if band.crs and band.cell:
            unit = "degrees" if band.crs == "EPSG:4326" else "units of the CRS"
            described += f" ({_markdown(band.crs)}, {section.patch_size * band.cell:.4g} {unit} a side)"
        described += f"; {_markdown(band.source)}" if band.source else ""
        modality = grouped.setdefault(
            band.modality, {"name": _markdown(band.modality), "described": described, "bands": []}
        )
        name, is_level, level = band.name.partition("=")
        if is_level and modality["bands"] and modality["bands"][-1]["name"] == _markdown(name):
            row = modality["bands"][-1]
            row["channel"] = f"{str(row['channel']).partition('–')[0]}–{channel}"
            row["unit"] += f", {level}"
            continue
        unit = f"levels {level}" if is_level else band.unit
        row = {"channel": channel, "name": _markdown(name), "unit": _markdown(unit)}
        for key, values in (("mean", cfg.mean), ("std", cfg.std)):
            row[key] = f"{values[channel]:.5g}" if trained else "–"
        modality["bands"].append(row)
    return list(grouped.values())


def _step(step: Step) -> dict[str, str]:
    """One training step: who, what, on which samples, how, and how long it took where it was run."""
    recipe, data = step.recipe, step.recipe.data
    tables = {"pa": "presence–absence surveys", "po": "presence-only records"}
    named = " and ".join(tables[table] for table in data.tables)
    part = "" if data.pa_fraction == 1 else f" ({100 * data.pa_fraction:g} % of the surveys)"
    took = f" ({step.seconds:.0f} s)" if step.seconds else ""
    how = _FITTED.get(recipe.model) or _settings(recipe)
    return {
        "member": step.member,
        "name": _markdown(recipe.name),
        "samples": f"{named} of {_markdown(recipe.region)}{part}",
        "how": how + took,
    }


def _settings(recipe: Recipe) -> str:
    """How a step by gradients was trained."""
    optimizer, schedule, pseudo = recipe.optimizer, recipe.schedule, recipe.pseudo
    init = _INITS.get(recipe.init, _code(recipe.init))
    drops = f", times {schedule.gamma:g} at epochs {schedule.milestones}" if schedule.milestones else ""
    best = ", the best by validation F1 kept" if recipe.keep == "best" else ""
    of_records = ""
    if pseudo:
        of_records = (
            f", records labelled by {_code(pseudo.teacher)} (absent at {pseudo.low:g} or below, present at "
            f"{pseudo.high:g} or above, between ignored)"
        )
    if recipe.po_loss:
        of_records += f", of records {_loss(recipe.po_loss)}"
    return (
        f"{_loss(recipe.loss)}{of_records}, from {init}; {optimizer.name}, learning rate "
        f"{optimizer.lr:g}{drops}, batches of {recipe.batch_size}, {recipe.epochs} epochs{best}"
    )


def _texts(value: Any) -> Any:
    """Fractions as text of three digits, names as Markdown; None stays: the template has words for it."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, str):
        return _markdown(value)
    if isinstance(value, list):
        return [_texts(inner) for inner in value]
    return {key: _texts(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _markdown(text: str) -> str:
    """Somebody's text in a card, as it stands: no HTML, no Markdown, one line."""
    line = " ".join(text.split())
    for sign, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        line = line.replace(sign, entity)
    return re.sub(r"([\\`*\[\]|~]|(?<!\w)_|_(?!\w)|^[#+-](?= )|!(?=\[))", r"\\\1", line)


def _code(text: str) -> str:
    """Somebody's text between backticks."""
    return "`" + " ".join(text.replace("`", "'").replace("|", "/").split()) + "`"


if __name__ == "__main__":
    for name, text in zoo_cards().items():
        (_HOME / "model_cards" / f"{name}.md").write_text(text, "utf-8")
