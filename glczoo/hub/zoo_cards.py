"""Cards of the zoo's own models, plans with published numbers (`python -m glczoo.hub.zoo_cards`)."""

from pathlib import Path
from typing import Any

import timm
import torch

from glczoo.data.region import Region
from glczoo.decoding import Decoding, Rule
from glczoo.hub.card import markdown_text, model_facts, render, step_facts
from glczoo.hub.metadata import About, Published, metadata
from glczoo.models.published import BandDescription, Config, PretrainedCfg, Section
from glczoo.recipe import read_recipe
from glczoo.runs.lineage import Step

__all__ = ["zoo_cards"]

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
        **model_facts(_zoo_config(name, model, region), name, trained=False),
        "name": name,
        "licence": "none yet",
        "data": markdown_text(region.description),
        "data_licence": markdown_text(region.licence),
        "training": [step_facts(step) for step in steps],
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


if __name__ == "__main__":
    for name, text in zoo_cards().items():
        (_HOME / "model_cards" / f"{name}.md").write_text(text, "utf-8")
