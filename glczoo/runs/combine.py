"""Several runs as one model: one folder, one file of weights."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from glczoo.files import sha256, whole
from glczoo.models.published import keywords_of, read_config
from glczoo.runs.lineage import read_lineage, write_recipes
from glczoo.runs.run import TrainedModel, export_model, is_finished, load_members, mean_decoding

__all__ = ["combine"]


def combine(runs: Sequence[str | Path], out: Path, average: str = "probabilities") -> Path:
    """Build `ensemble_glc23` from runs: one folder, one file of weights, read by timm like any run.

    Its logits give the mean of the runs' probabilities, as `glczoo evaluate` computes it.

    Args:
        runs: finished runs; members may see a part of the bands of the one that sees most.
        out: folder to write; must not hold a model.
        average: 'probabilities' or 'logits'.

    Raises:
        FileExistsError: `out` holds a model.
        FileNotFoundError: a run is not there or not finished.
        ValueError: fewer than two runs, one of them twice, or runs that differ in vocabulary, bands,
            statistics or patch size; the message says which.
    """
    folders = [Path(run) for run in runs]
    if len(folders) < 2:
        raise ValueError(f"an ensemble needs two runs or more, given {[str(f) for f in folders]}")
    if is_finished(out):
        raise FileExistsError(f"{out} holds a model; name another folder or delete it first")
    members = load_members(folders)
    _refuse_twins(folders)
    widest = max(members, key=lambda member: len(member.bands))
    ranges = [_channels(member, widest, folder) for member, folder in zip(members, folders, strict=True)]
    configs = [read_config(folder) for folder in folders]
    model: Any = timm.create_model(
        "ensemble_glc23",
        members=[
            [config["architecture"], keywords_of(config), list(channels)]
            for config, channels in zip(configs, ranges, strict=True)
        ],
        num_classes=len(widest.species),
        average=average,
        activations=[member.activation for member in members],
    )
    for own, member in zip(model.members, members, strict=True):
        own.load_state_dict(member.model.state_dict())
    decoding, tuned = mean_decoding(members)
    told = dict(configs[members.index(widest)]["glczoo"])
    told |= {
        "activation": "softmax" if all(m.activation == "softmax" for m in members) else "sigmoid",
        "decoding": decoding.to_json(),
        "tuned": tuned,
        "members": [member.name for member in members],
    }
    training = [
        {"member": config["architecture"], **step}
        for config, folder in zip(configs, folders, strict=True)
        for step in read_lineage(folder)
    ]
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folders[0] / "recipe.yaml", out / "recipe.yaml")
    export_model(out, model, widest.species, widest.mean, widest.std, told)
    with whole(out / "metrics.json") as partial:
        partial.write_text(json.dumps({"training": training}, indent=1) + "\n", "utf-8")
    write_recipes(out, training)
    return out


def _refuse_twins(folders: Sequence[Path]) -> None:
    """The same weights twice add nothing, and count one member double."""
    seen: dict[str, Path] = {}
    for folder in folders:
        digest = sha256(folder / "model.safetensors")
        if digest in seen:
            raise ValueError(
                f"{folder} and {seen[digest]} hold the same weights: a member may stand there once"
            )
        seen[digest] = folder


def _channels(member: TrainedModel, widest: TrainedModel, folder: Path) -> tuple[int, int]:
    """The channels of `widest` that are the member's bands, with the same statistics."""
    if member.patch_size != widest.patch_size:
        raise ValueError(
            f"{folder} was trained on patches of {member.patch_size} cells, {widest.name} on those of "
            f"{widest.patch_size}"
        )
    start = widest.bands.index(member.bands[0]) if member.bands[0] in widest.bands else 0
    stop = start + len(member.bands)
    if widest.bands[start:stop] != member.bands:
        raise ValueError(
            f"the bands of {folder} are no run of neighbours among those of {widest.name}: {member.bands} in "
            f"{widest.bands}"
        )
    for what, own, other in (("mean", member.mean, widest.mean), ("std", member.std, widest.std)):
        differ = ~torch.isclose(torch.tensor(own), torch.tensor(other[start:stop]), rtol=1e-5)
        if differ.any():
            named = [band for band, wrong in zip(member.bands, differ.tolist(), strict=True) if wrong]
            raise ValueError(
                f"{folder} and {widest.name} were normalised by another {what} in {named}: train both from "
                "step 1 on the same surveys"
            )
    return start, stop
