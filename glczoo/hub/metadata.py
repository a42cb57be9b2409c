"""What metrics.json and the head of a card hold of a published model, for programs that read them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from glczoo.evaluation.held_out import PartScore
from glczoo.hub_client import PREFIX, split_id
from glczoo.runs.lineage import Step

__all__ = ["About", "Published", "metadata"]

# What `init: imagenet` loads where the recipe names no weights.
_IMAGENET = {
    "bioresnet50_glc23": "resnet50.tv_in1k",
    "fusresnet34_glc23": "resnet34.tv_in1k",
    "fusresnet50_glc23": "resnet50.tv_in1k",
}
_HUB_LICENCES = ("mit", "apache-2.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0")


@dataclass(frozen=True)
class Published:
    """What a card is about: metrics.json of a published folder."""

    training: list[Step]
    versions: str = ""  # of what computed the results
    results: list[PartScore] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """What metrics.json keeps."""
        return {
            "training": [step.to_json() for step in self.training],
            "versions": self.versions,
            "results": [part.to_json() for part in self.results],
        }


@dataclass(frozen=True)
class About:
    """What the card's metadata names, as it stands in the run."""

    name: str
    licence: str
    region: str
    data: str


def _plain(text: str) -> str:
    """Somebody's text in the metadata, which other programs show: one line, no tags."""
    return " ".join(text.replace("<", "‹").replace(">", "›").split())


def metadata(about: About, published: Published) -> str:
    """The YAML block that the Hub reads: tags, origins, and model-index.

    `about`: what the run was trained on; `published`: where it goes and by which licence.
    """
    results = []
    for part in published.results:
        first = part.rules[0]
        numbers = [
            ("f1", f"F1 over surveys, {_plain(first.rule)}", first.f1),
            ("roc_auc", "macro AUC", part.auc),
        ]
        results += [
            EvalResult(
                task_type="image-classification",
                task_name="multi-label species prediction",
                dataset_type=_plain(about.region),
                dataset_name=_plain(about.data),
                dataset_split=part.part,
                metric_type=kind,
                metric_name=name,
                metric_value=round(value, 4),
            )
            for kind, name, value in numbers
            if value is not None
        ]
    known = about.licence.lower() in _HUB_LICENCES
    other: dict[str, Any] = {} if known else {"license_name": _plain(about.licence)}
    data = ModelCardData(
        language="en",
        license=about.licence.lower() if known else "other",
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["glczoo", "timm", "biodiversity", "species-distribution-model", "multi-label"],
        datasets=[_plain(about.region)],
        base_model=_base_models(published.training) or None,
        model_name=_plain(about.name) if results else None,
        eval_results=results or None,
        **other,
    )
    return data.to_yaml().strip()


def _base_models(training: Sequence[Step]) -> list[str]:
    """What the first steps started from: ImageNet weights by timm, or models on the Hub."""
    names = set()
    for recipe in (step.recipe for step in training):
        weights = recipe.imagenet.tag or _IMAGENET.get(recipe.model)
        if recipe.init == "imagenet" and weights:
            names.add(f"timm/{weights}")
        elif recipe.init.startswith(PREFIX):
            names.add(split_id(recipe.init)[0])
    return sorted(names)
