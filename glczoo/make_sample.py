"""Remake the sample that travels with glczoo: its region, three steps of training, the published folder.

    python -m glczoo.make_sample FOLDER     (`make sample` then puts it into the package)

The same machine makes the same bytes: one thread, seeds, and no times of day or of work in any file.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from glczoo.data.occurrences import Samples
from glczoo.decoding import best_k, expected_f1, top_k
from glczoo.errors import ExistsError
from glczoo.files import whole
from glczoo.hub.publish import save
from glczoo.hub_client import PREFIX
from glczoo.metrics import sample_f1
from glczoo.packaged import SAMPLE, folder
from glczoo.recipe import read_recipe
from glczoo.regions.sample_region import make_sample_region, true_probabilities
from glczoo.runs.run import Run
from glczoo.train import train

__all__ = ["make_sample"]

_STEPS = {"step1": "step 1 alone", "step2": "steps 1 + 2", "step3": "**steps 1 + 2 + 3: this model**"}
_ABOUT = """\
> **A model of an invented world, to learn with.** It travels with glczoo: `glczoo.load("sample")` and
> `timm.create_model("test_fusresnet_glc23", pretrained=True)` work without a network. Region, records and
> species are made up (by `make sample`), so that the truth is known: nothing here is about real plants.

| {surveys} surveys of squares that were held out | F1 |
|---|---:|
{rows}
"""


def make_sample(out: Path, overrides: Sequence[str] = ()) -> Path:
    """Make `region`, `runs` and `model` in a folder, and return it.

    Args:
        out: folder to write; must not be there.
        overrides: of keys of all three recipes, such as `epochs=1`.

    Raises:
        ExistsError: there is something at `out`.
    """
    if out.exists():
        raise ExistsError("it is there already", where=out, remedy="Name another folder, or delete it")
    torch.set_num_threads(1)
    region = make_sample_region(out / "region")
    everywhere = [f"region={region}", f"runs={out / 'runs'}", *overrides]
    runs = [_trained(step, everywhere) for step in _STEPS]
    model = save(runs[-1], out / "model", repo_id=f"glczoo/{SAMPLE}", licence="apache-2.0")
    with whole(model / "README.md") as partial:
        partial.write_text(_card((model / "README.md").read_text("utf-8"), runs), "utf-8")
    return out


def _trained(step: str, overrides: list[str]) -> Run:
    recipe = folder("recipes") / SAMPLE / f"{step}.yaml"
    run = train(read_recipe(recipe, overrides))
    metrics = run / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text("utf-8").splitlines()]
    for line in lines:
        if line["kind"] == "epoch":
            line["seconds"] = 0.0  # else no two folders would be alike
    metrics.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    return Run(run)


def _card(text: str, runs: list[Run]) -> str:
    """The card of the last run as `save` wrote it, with what this model is, and how good, at its head."""
    rows = [f"| {what} | {f1:.3f} |" for what, f1 in _compared(runs).items()]
    test = runs[-1].samples("test")
    hub, name = f"{PREFIX}glczoo/{SAMPLE}", f"glczoo predict {SAMPLE}"
    replaced = {
        "## Use\n": _ABOUT.format(surveys=len(test), rows="\n".join(rows)) + "\n## Use\n",
        f'"{hub}", pretrained=True': f'"test_fusresnet_glc23.{SAMPLE}", pretrained=True',
        f"GLCZOO_DATA=folder glczoo predict {hub}": name,
        "with the rasters described in\n`region.yaml` under one folder:": "its region travels with it:",
        f"glczoo verify {hub}": f"glczoo verify {SAMPLE}",
        "; no data are in this repository": "; the region lies beside these weights",
    }
    for old, new in replaced.items():
        assert old in text, f"the card has no {old!r} any more"
        text = text.replace(old, new)
    return text


def _compared(runs: list[Run]) -> dict[str, float]:
    """F1 of the held-out surveys by what knows nothing, by each step, and by what knows the truth."""
    parts = {part: runs[-1].samples(part) for part in ("train", "validation", "test")}
    species = len(runs[-1].species)
    target = {part: _targets(samples, species) for part, samples in parts.items()}
    test = parts["test"]
    frequency = target["train"].double().mean(0)

    def everywhere(part: str) -> torch.Tensor:
        return frequency.expand(len(parts[part]), -1)

    k = best_k(everywhere("validation"), target["validation"])
    sets = {f"the {k} commonest species, everywhere": top_k(everywhere("test"), k)}
    for run, what in zip(runs, _STEPS.values(), strict=True):
        sets[what] = run.model.decoding(run.model.probabilities(test), test.datasets)
    truth = torch.from_numpy(true_probabilities(np.stack([test.lon, test.lat], axis=1)))
    sets["the true probabilities, which no model can beat but by luck"] = expected_f1(truth.float())
    return {what: float(sample_f1(mask, target["test"]).mean()) for what, mask in sets.items()}


def _targets(samples: Samples, species: int) -> torch.Tensor:
    return samples.targets(torch.arange(len(samples)), species)


if __name__ == "__main__":
    print(make_sample(Path(sys.argv[1])))
