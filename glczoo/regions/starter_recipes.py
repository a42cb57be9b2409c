"""Recipes to start from on a new region, sized to its data.

Two sizes, each with settings that have been run: the paper's (Table 2) from 200,000 records on, and below
those of `recipes/swiss_trees` (35,105 records, 10,013 surveys): half the width, half the depth, no ImageNet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import log2
from pathlib import Path

__all__ = ["ROWS", "Sizes", "starter_recipes"]

_LARGE = 200_000  # rows
_BRANCHES = 4  # modalities that get a branch each; more share one
# Bands that the zoo's models know by name (recipes/regions/glc23.yaml): reason enough to fine-tune one.
_KNOWN = {f"bio{i}" for i in range(1, 20)} | {"red", "green", "blue", "nir", "hfp2009"}
_KNOWN |= {"bdod", "cec", "cfvo", "clay", "nitrogen", "phh2o", "sand", "silt", "soc"}

_RECIPE = """\
# {what}
# Written by `glczoo region init`, sized to {rows}.
# Command:    python -m glczoo.train {path} [key=value …]
# Settings:   {settings}
name: {name}
region: ../region.yaml
{model}
init: {init}
data:
  tables: [{table}]
  validation: {{{table}: {validation}}}
{incomplete}  augment: true
loss: {loss}
optimizer: {optimizer}
schedule: {{milestones: {milestones}, gamma: 0.1}}
epochs: {epochs}
batch_size: {batch_size}
keep: {keep}
decoding: {decoding}
"""
_FINETUNED_MODEL = """\
model: fusresnet50_glc23         # the architecture of what init names
finetune:
  layer_decay: 0.75              # layers far from the head learn slower; or frozen: true, the head alone"""
ROWS = {"po": "presence-only records", "pa": "presence-absence surveys"}
"""What the rows of a table are called."""
_WHAT = {
    "step1": "Step 1: BCE on presence-absence surveys.",
    "step2": "Step 2: cross-entropy on presence-only records.",
    "step3": "Step 3: BCE on presence-absence surveys again, from step 2.",
    "finetune": "Fine-tune a published model: bands are matched by name, the head is made for these species.",
}
_TABLE = {"step1": "pa", "step2": "po", "step3": "pa"}


@dataclass(frozen=True)
class Sizes:
    """What decides on a recipe."""

    rows: Mapping[str, int]  # po: records, pa: surveys
    modalities: Mapping[str, int]  # name → bands
    bands: list[str]
    species: int
    patch_size: int
    outside: int  # rows that lie outside of the rasters


def starter_recipes(folder: Path, sizes: Sizes) -> dict[str, str]:
    """Texts of recipes by their names: the three steps or what the tables allow of them, and fine-tuning.

    Args:
        folder: where they will lie, for their comments.
        sizes: of the region.
    """
    large = sum(sizes.rows.values()) >= _LARGE and sizes.patch_size >= 64
    init = "imagenet" if large else "random"
    if len(sizes.rows) == 2:
        inits = {"step1": init, "step2": "step1", "step3": "step2"}
    else:
        inits = {"step1" if "pa" in sizes.rows else "step2": init}
    model = _model(sizes, large)
    settings = "the paper's (Ung et al. 2023, Table 2)" if large else "those of Swiss trees: a small network"
    texts = {
        name: _text(folder, name, _TABLE[name], sizes, large, model=model, init=init, settings=settings)
        for name, init in inits.items()
    }
    if known := _KNOWN.intersection(sizes.bands):
        texts["finetune"] = _text(
            folder,
            "finetune",
            "pa" if "pa" in sizes.rows else "po",
            sizes,
            large,
            model=_FINETUNED_MODEL,
            init="hf-hub:fusresnet50_glc23   # ORG/NAME of a published model, or the folder of a run",
            settings=f"those of recipes/finetune.yaml; the zoo's models know {len(known)} bands by name",
        )
    return texts


def _model(sizes: Sizes, large: bool) -> str:
    shared = len(sizes.modalities) > _BRANCHES
    branches = {"all": len(sizes.bands)} if shared else sizes.modalities
    lines = ["model: fusresnet34_glc23", "model_args:"]
    lines += [f"  branches: {{{', '.join(f'{name}: {number}' for name, number in branches.items())}}}"]
    if not large:
        lines += ["  layers: [2, 2, 2, 2]           # blocks of each stage, ResNet-18's"]
        lines += ["  channels: [32, 64, 128, 256]   # half of its width"]
        stride = min(4, max(1, sizes.patch_size // 8))  # one cell is left at the end, or more
        lines += [f"  stem_stride: {stride}                 # 4 is ImageNet's, less suits small patches"]
    return "\n".join(lines)


def _text(
    folder: Path, name: str, table: str, sizes: Sizes, large: bool, *, model: str, init: str, settings: str
) -> str:
    rows = sizes.rows[table]
    share = 0.2 if table == "pa" or rows < 10_000 else 0.02  # the paper's 2 % of few records measure nothing
    validated = share * rows >= 10
    if name == "finetune":
        epochs, milestones, batch = 30, [20, 25], 32
    elif table == "pa":
        epochs, milestones, batch = (30, [15, 20], 128) if large else (20, [10, 13], 128)
    else:
        epochs, milestones, batch = (10, [], 96) if large else (6, [3, 4], 96)
    lr = "1e-3" if table == "pa" or name == "finetune" else "3e-3"
    optimizer = f"adamw, lr: {lr}, weight_decay: 0.01" if name == "finetune" else f"adam, lr: {lr}"
    outside = f"  incomplete: drop               # {sizes.outside} rows lie outside of the rasters\n"
    return _RECIPE.format(
        what=_WHAT[name],
        rows=" and ".join(f"{number:,} {ROWS[kind]}" for kind, number in sizes.rows.items()),
        path=folder / f"{name}.yaml",
        settings=settings,
        name=name,
        model=model,
        init=init,
        table=table,
        validation=share if validated else 0,
        incomplete=outside if sizes.outside else "",
        loss=_loss(sizes, table),
        optimizer=f"{{name: {optimizer}}}",
        milestones=milestones,
        epochs=epochs,
        batch_size=min(batch, max(2, 2 ** int(log2(max(2, rows / 8))))),  # eight steps an epoch or more
        keep="best" if validated else "last",
        decoding=_decoding(sizes, table),
    )


def _loss(sizes: Sizes, table: str) -> str:
    if table == "pa":
        return "bce"
    if sizes.species == 1:  # a softmax over one species is 1 whatever it sees
        return "sinr_full                  # compares the one species' records with background places"
    return "ce"


def _decoding(sizes: Sizes, table: str) -> str:
    """Expected F1 where BCE on surveys makes probabilities of presence, else a k."""
    if table == "pa":
        return "expected_f1"
    if "pa" not in sizes.rows:
        k = min(20, max(1, sizes.species // 4))
        return (
            f"{{rule: top_k, value: {k}}}  # a guess of {sizes.species} species: records do not say how many"
        )
    return "{rule: top_k, tune_on: train}"
