"""glczoo bench: what it says follows from what it measured, and it says why it cannot."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glczoo import bench as module
from glczoo.bench import Bench, bench
from glczoo.cli import main
from glczoo.training.objective import Objective

RECIPES = Path(__file__).parent.parent / "recipes"
TINY = ["model=test_fusresnet_glc23", "patch_size=16", "batch_size=8"]


@pytest.fixture(scope="module")
def places(world: Path) -> Bench:
    """Step 2 by places, measured for a moment."""
    changes = [*TINY, "data.places=true", "data.validation={po: 0.5}"]
    return bench(RECIPES / "step2.yaml", changes, world, "cpu", 0.05)


def test_a_recipe_is_measured_on_a_region(places: Bench) -> None:
    assert (places.device, places.region, places.model) == ("cpu", "virtual", "test_fusresnet_glc23")
    assert (places.bands, places.patch_size, places.batch_size, places.species) == (33, 16, 8, 24)
    assert 50 < places.surveys < 200  # places, not records


def test_rates_are_of_something(places: Bench) -> None:
    rates = [
        places.rows_per_second, places.patches_per_second, places.loaded_per_second,
        places.step_per_second, places.training_per_second,
    ]  # fmt: skip
    assert min(rates) > 1 and places.training_per_second < places.loaded_per_second
    assert 0 <= places.waiting_share < 1 and 0 < places.training_over_step < 3


def test_the_hours_follow_from_the_rate_of_training(places: Bench) -> None:
    hours = 0.98 * 4908319 * 10 / places.training_per_second / 3600
    assert places.hours["step 2"] == pytest.approx(hours)
    assert places.hours["step 1"] == pytest.approx(hours * (0.8 * 5948 * 30) / (0.98 * 4908319 * 10))


def test_a_bench_is_json(places: Bench) -> None:
    values = places.to_json()
    assert json.loads(json.dumps(values)) == values and values["hours"] == places.hours


def test_a_bench_as_text(places: Bench) -> None:
    text = replace(places, step_per_second=1.2345).text()
    assert "1.23 /s" in text and "step 2" in text and "of the process" in text
    assert f"{places.patches_per_second:,.0f} /s" in text


@pytest.mark.parametrize(("loss", "rows"), [("sinr_full", 16), ("full_weighted", 16), ("plc", 16), ("ce", 8)])
def test_training_is_measured_with_what_the_loss_adds_to_a_batch(
    world: Path, monkeypatch: pytest.MonkeyPatch, loss: str, rows: int
) -> None:
    """Background places and strong views are patches that are built, seen by the model, and counted once."""
    seen: list[tuple[int, int]] = []
    view = Objective.view

    def watched(self: Objective, x: Tensor, index: Tensor, epoch: int) -> Tensor:
        seen.append((len(x), len(index)))
        return view(self, x, index, epoch)

    monkeypatch.setattr(Objective, "view", watched)
    changes = [*TINY, f"loss={loss}", "data.validation={po: 0.8}"]
    found = bench(RECIPES / "step2.yaml", changes, world, "cpu", 0.02)
    assert seen and set(seen) == {(rows, rows)}
    assert found.batch_size == 8


def test_the_strong_view_is_cut_out_while_it_is_measured(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: list[bool] = []
    forward = Objective.forward
    last: list[Tensor] = []
    view = Objective.view

    def viewed(self: Objective, x: Tensor, index: Tensor, epoch: int) -> Tensor:
        last[:] = [view(self, x, index, epoch)]
        return last[0]

    def watched(self: Objective, logits: Tensor, index: Tensor) -> Tensor:
        x = last[0]
        cut.append(not torch.equal(x[: len(x) // 2], x[len(x) // 2 :]))
        return forward(self, logits, index)

    monkeypatch.setattr(Objective, "view", viewed)
    monkeypatch.setattr(Objective, "forward", watched)
    bench(RECIPES / "step2.yaml", [*TINY, "loss=plc", "data.validation={po: 0.8}"], world, "cpu", 0.02)
    assert cut and all(cut)


def test_the_command_measures_a_virtual_region_and_removes_it(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made = []

    def make_virtual(folder: Path, **size: int) -> None:
        made.append((folder, size["size"]))
        shutil.copytree(world, folder)

    monkeypatch.setattr(module, "make_virtual", make_virtual)
    main(["bench", *TINY, "--seconds=0.05", "--size=64", "--device=cpu", f"--json={tmp_path / 'b.json'}"])
    ((folder, size),) = made
    assert size == 64 and not folder.exists()
    assert json.loads((tmp_path / "b.json").read_text())["surveys"] == 392
    assert "test_fusresnet_glc23 by ce on cpu" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device=tpu", *TINY], "there is no device tpu here"),
        (["nowhere.yaml"], "there is no file nowhere.yaml"),
        (["a.yaml", "b.yaml"], "one recipe is measured at a time"),
        (["batch=3"], "unknown key 'batch'"),
        ([str(RECIPES / "step2.yaml"), "--region=nowhere"], "region nowhere is neither here nor at"),
    ],
)
def test_what_cannot_be_measured_is_said(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "make_virtual", lambda *_, **__: None)
    with pytest.raises(SystemExit, match=message):
        main(["bench", *arguments])
