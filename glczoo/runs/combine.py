"""Several runs as one model: one folder, one file of weights."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import timm
import torch

from glczoo.errors import ExistsError, GlczooError
from glczoo.files import lock, sha256, whole
from glczoo.models.published import keywords_of
from glczoo.recipe import write_run_recipe
from glczoo.runs.export import export_model
from glczoo.runs.lineage import write_recipes
from glczoo.runs.run import Run, is_finished
from glczoo.runs.trained import TrainedModel

__all__ = ["combine"]


def combine(
    runs: Sequence[str | Path],
    out: Path,
    average: Literal["probabilities", "logits"] = "probabilities",
    weights: Sequence[float] | None = None,
) -> Path:
    """Build `ensemble_glc23` from runs: one folder, one file of weights, read by timm like any run.

    Its logits give the mean of the runs' probabilities, as `glczoo evaluate` computes it.

    Args:
        runs: finished runs; members may see a part of the bands of the one that sees most.
        out: folder to write; must not be there or be empty.
        average: of what the mean is taken.
        weights: of the members, non-negative and one in sum; None: they count alike.

    Raises:
        ExistsError: `out` is there and not empty.
        MissingError: a run is not there or not finished.
        GlczooError: fewer than two runs, one of them twice, weights that do not fit, or runs that differ in
            vocabulary, bands, statistics or in whether the sides of their patches are even or odd; the
            message says which. Or another process writes there.
    """
    if len(runs) < 2:
        raise GlczooError(f"an ensemble needs two runs or more, given {[str(run) for run in runs]}")
    with lock(out):
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            what = "holds a model" if is_finished(out) else "is there and not empty"
            raise ExistsError(f"{out} {what}; name another folder or delete it first")
        return _combine(runs, out, average, weights)


def _combine(
    runs: Sequence[str | Path],
    out: Path,
    average: Literal["probabilities", "logits"],
    weights: Sequence[float] | None,
) -> Path:
    """Combine them in a folder where nothing is and no other process works."""
    members = [Run.find(run) for run in runs]
    _refuse_twins(members)
    together = TrainedModel.ensemble([member.model for member in members], weights)
    widest = next(member for member in members if member.model is together.widest)
    ranges = [_channels(member, widest) for member in members]
    sizes = _patch_sizes(members)
    keywords: dict[str, Any] = {"average": average}
    if together.weights is not None:
        keywords["weights"] = list(together.weights)
    if len(set(sizes)) > 1:
        keywords["patch_sizes"] = sizes
    model: Any = timm.create_model(
        "ensemble_glc23",
        members=[
            [member.config.architecture, keywords_of(member.config), list(channels)]
            for member, channels in zip(members, ranges, strict=True)
        ],
        num_classes=len(together.species),
        activations=[member.model.activation for member in members],
        **keywords,
    )
    for own, member in zip(model.members, members, strict=True):
        own.load_state_dict(member.model.model.state_dict())
    section = widest.config.glczoo.model_copy(
        update={
            "activation": together.activation,
            "decoding": together.decoding,
            "tuned": together.tuned,
            "members": [member.name for member in members],
            "patch_size": max(sizes),
        }
    )
    steps = [
        replace(step, member=step.member or member.config.architecture)
        for member in members
        for step in member.lineage
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as partial:
        partial.mkdir()
        write_run_recipe(partial, members[0].recipe, members[0].processes)
        export_model(partial, model, together.species, together.mean, together.std, section)
        history = {"training": [step.to_json() for step in steps]}
        (partial / "metrics.json").write_text(json.dumps(history, indent=1) + "\n", "utf-8")
        write_recipes(partial, steps, section.region)
    return out


def _refuse_twins(members: Sequence[Run]) -> None:
    """The same weights twice add nothing, and count one member double."""
    seen: dict[str, Path] = {}
    for member in members:
        digest = sha256(member.folder / "model.safetensors")
        if digest in seen:
            raise GlczooError(
                f"{member.folder} and {seen[digest]} hold the same weights: a member may stand there once"
            )
        seen[digest] = member.folder


def _patch_sizes(members: Sequence[Run]) -> list[int]:
    """The members' patch sizes: those of smaller ones are the middle of the largest."""
    largest = max(members, key=lambda member: member.model.patch_size)
    for member in members:
        if (largest.model.patch_size - member.model.patch_size) % 2:
            raise GlczooError(
                f"{member.folder} was trained on patches of {member.model.patch_size} cells, "
                f"{largest.folder} on those of {largest.model.patch_size}: of an even and an odd number none "
                "is the middle of the other"
            )
    return [member.model.patch_size for member in members]


def _channels(run: Run, widest: Run) -> tuple[int, int]:
    """The channels of `widest` that are the run's bands, with the same statistics."""
    member, whole = run.model, widest.model
    start = whole.bands.index(member.bands[0]) if member.bands[0] in whole.bands else 0
    stop = start + len(member.bands)
    if whole.bands[start:stop] != member.bands:
        raise GlczooError(
            f"the bands of {run.folder} are no run of neighbours among those of {whole.name}: "
            f"{member.bands} in {whole.bands}"
        )
    for what, own, other in (("mean", member.mean, whole.mean), ("std", member.std, whole.std)):
        differ = ~torch.isclose(torch.tensor(own), torch.tensor(other[start:stop]), rtol=1e-5)
        if differ.any():
            named = [band for band, wrong in zip(member.bands, differ.tolist(), strict=True) if wrong]
            raise GlczooError(
                f"{run.folder} and {whole.name} were normalised by another {what} in {named}: train both "
                "from step 1 on the same samples"
            )
    return start, stop
