"""Interrupted runs go on from what is whole, alone, and leave nothing of no use."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from glczoo.files import lock, lock_file
from glczoo.recipe import Recipe, read_recipe
from glczoo.train import train
from glczoo.training.checkpoints import Progress, Record

RECIPES = Path(__file__).parents[2] / "recipes"


def recipe(world: Path, runs: Path, *overrides: str) -> Recipe:
    """Step 1 of two epochs with three steps each."""
    small = ["model=test_fusresnet_glc23", "init=random", "patch_size=8", "batch_size=16", "epochs=2"]
    shared = [f"region={world}", f"runs={runs}", "data.pa_fraction=0.5", "checkpoint_every=1", "log_every=1"]
    return read_recipe(RECIPES / "step1.yaml", [*small, *shared, *overrides])


def interrupted(recipe: Recipe, after: int) -> Path:
    """The folder of a run that was stopped when so many checkpoints were written."""
    written = 0
    whole = Record.checkpoint

    def stops(record: Record, progress: Progress) -> None:
        nonlocal written
        whole(record, progress)
        written += 1
        if written == after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Record, "checkpoint", stops)
        train(recipe)
    (folder,) = Path(recipe.runs).glob("*/*/step1")
    return folder


def lines(run: Path) -> list[dict[str, object]]:
    """metrics.jsonl without how long things took."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if "second" not in key} for row in rows]


@pytest.fixture(scope="module")
def straight(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe(world, tmp_path_factory.mktemp("straight")))


@pytest.fixture(scope="module")
def stopped(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after its fourth checkpoint, in the second epoch."""
    return interrupted(recipe(world, tmp_path_factory.mktemp("stopped")), 4)


@pytest.fixture
def broken(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    run = tmp_path / stopped.relative_to(stopped.parents[2])
    shutil.copytree(stopped, run)
    return run


def same(one: Path, other: Path) -> bool:
    a, b = (load_file(run / "model.safetensors") for run in (one, other))
    return all(torch.equal(a[key], b[key]) for key in a) and lines(one) == lines(other)


def cut(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"cut")


def flip(checkpoint: Path) -> None:
    """One bit of the optimiser's state."""
    path = checkpoint / "optimizer.bin"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def half_deleted(checkpoint: Path) -> None:
    (checkpoint / "optimizer.bin").unlink()


def unmarked(checkpoint: Path) -> None:
    (checkpoint / "whole.json").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut, "model.safetensors is not what was saved"),
        (flip, "optimizer.bin is not what was saved"),
        (half_deleted, "optimizer.bin is missing"),
        (unmarked, "whole.json is missing"),
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    world: Path, straight: Path, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None], reason: str,
) -> None:  # fmt: skip
    before, newest = sorted((broken / "checkpoints").iterdir())
    damage(newest)
    train(recipe(world, tmp_path))
    expected = f"{newest} is damaged ({reason}): training goes on from {before}"
    assert expected in capsys.readouterr().out and same(straight, broken)


def test_where_every_checkpoint_is_damaged_training_starts_again(world, straight, broken, tmp_path, capsys):
    for checkpoint in (broken / "checkpoints").iterdir():
        cut(checkpoint)
    train(recipe(world, tmp_path))
    assert "training goes on from the start" in capsys.readouterr().out and same(straight, broken)


def test_what_was_half_written_or_half_deleted_goes(world, straight, broken, tmp_path):
    newest = broken / "checkpoints" / "step-4"
    for name in (".deleted-step-1", ".step-9.glczoo-elsewhere-1-0"):
        shutil.copytree(newest, newest.with_name(name))
    train(recipe(world, tmp_path))
    assert same(straight, broken) and not (broken / "checkpoints").exists()


def test_a_torn_last_line_of_the_metrics_is_trained_again(world, straight, broken, tmp_path):
    with open(broken / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "epo')
    train(recipe(world, tmp_path))
    assert same(straight, broken)


def test_an_empty_recipe_with_checkpoints_is_refused_in_plain_words(world, broken, tmp_path):
    (broken / "recipe.yaml").write_text("")
    with pytest.raises(ValueError, match="its recipe is damaged .* Copy the recipe back"):
        train(recipe(world, tmp_path))
    assert len(list((broken / "checkpoints").iterdir())) == 2


def test_an_empty_recipe_before_anything_was_trained_is_written_anew(world, straight, broken, tmp_path):
    (broken / "recipe.yaml").write_text("")
    shutil.rmtree(broken / "checkpoints")
    train(recipe(world, tmp_path))
    assert same(straight, broken)


def test_what_a_kill_after_the_export_left_is_cleaned_at_the_next_start(world, straight, stopped, tmp_path):
    run = tmp_path / straight.relative_to(straight.parents[2])
    shutil.copytree(straight, run)
    shutil.copytree(stopped / "checkpoints", run / "checkpoints")
    shutil.copy(run / "model.safetensors", run / "best.safetensors")
    (run / ".files.glczoo-elsewhere-1-0").mkdir()
    shutil.copytree(stopped / "checkpoints", run / ".deleted-checkpoints")
    lock_file(run).write_text("process 1 on elsewhere")
    own = run / ".notes"
    own.write_text("of the user")
    train(recipe(world, tmp_path))
    assert {path.name for path in run.iterdir()} == {path.name for path in straight.iterdir()} | {".notes"}
    assert [path.name for path in run.parent.iterdir()] == ["step1"]


def test_a_second_start_says_who_trains_there(world, broken, tmp_path):
    with lock(broken), pytest.raises(ValueError, match=r"step1: process \d+ on .* works there"):
        train(recipe(world, tmp_path))


def test_runs_that_cannot_be_written_are_refused_before_training(world, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        train(recipe(world, tmp_path / "file"))


def test_another_number_of_epochs_does_not_continue_a_run(world, broken, tmp_path):
    with pytest.raises(ValueError, match=r"an unfinished run of another recipe \(epochs: 2 → 3\)"):
        train(recipe(world, tmp_path, "epochs=3"))
