"""Training: what the recipes say, exact resume, two processes, and what stands in the way of each."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import timm
import torch
from safetensors.torch import load_file

from glczoo.data.region import Region
from glczoo.models.published import read_config
from glczoo.recipe import Recipe, read_recipe
from glczoo.runs.run import load_model
from glczoo.train import train
from glczoo.training.checkpoints import Record

RECIPES = Path(__file__).parent.parent / "recipes"
TINY = ["model=test_fusresnet_glc23", "init=random", "patch_size=16", "data.augment=true"]


def small(world: Path, runs: Path, *overrides: str, step: str = "step1") -> list[str]:
    """Arguments of a run that takes seconds."""
    return [
        str(RECIPES / f"{step}.yaml"),
        f"region={world}",
        f"runs={runs}",
        *TINY,
        "batch_size=16",
        "epochs=2",
        "data.pa_fraction=0.5",
        "log_every=1",
        "checkpoint_every=1",
        *overrides,
    ]


def recipe(arguments: list[str]) -> Recipe:
    return read_recipe(arguments[0], arguments[1:])


def environment(threads: int = 1) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": str(threads), "ACCELERATE_USE_CPU": "true"}


def launch(arguments: list[str], processes: int = 1) -> list[str]:
    if processes == 1:
        return [sys.executable, "-m", "glczoo.train", *arguments]
    return [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
        "-m",
        "glczoo.train",
        *arguments,
    ]


def losses(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init=step1", "name=step2"], "python -m glczoo.train recipes/step1.yaml"),
        (["model=nonsense"], "nonsense"),
        (["model=bioresnet50_glc23", "modalities=[soil]"], "bioclim 19"),
        (["modalities=[climate]"], r"has no modality \['climate'\]; it has \['bioclim'"),
        (["data.split=file"], "describes no split from file"),
        (["data.pa_fraction=0.0001", "data.validation={pa: 0}", "keep=last"], "no training sample is left"),
        (["keep=best", "data.validation={pa: 0}"], "keep: best needs validation samples"),
        (
            ["imagenet.weights=nowhere.safetensors", "init=imagenet", "imagenet.tag=resnet18.a1_in1k"],
            "nowhere",
        ),
        (["region=nowhere.yaml"], "region nowhere.yaml is neither here nor at"),
        (["epochs"], "write key=value"),
        (["data.nvjpeg=true"], "data.nvjpeg decodes on a CUDA device, this is cpu"),
        (["data.nvjpeg=true", "data.loader=processes"], "nvjpeg decodes in this process"),
    ],
)
def test_bad_input_says_what_to_do(world, tmp_path, overrides, message):
    with pytest.raises((ValueError, FileNotFoundError, RuntimeError), match=message):
        train(recipe(small(world, tmp_path, *overrides)))
    assert not list(tmp_path.glob("**/model.safetensors"))


def test_help_shows_the_keys_of_a_recipe():
    shown = subprocess.run(launch(["--help"]), capture_output=True, text=True, check=True).stdout
    assert "optimizer.lr  (float; required)" in shown and "[KEY=VALUE]…" in shown


def test_a_tracker_that_is_not_installed_is_refused_before_training(world, tmp_path, monkeypatch):
    monkeypatch.setattr("glczoo.training.trackers.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="trackers: wandb is not installed; pip install wandb"):
        train(recipe(small(world, tmp_path, "trackers=[wandb]")))
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_has_one_file_of_tensorboard_events(world, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    arguments = small(world, tmp_path, "trackers=[tensorboard]")
    whole, calls = Record.checkpoint, []

    def stopped(record, progress):
        calls.append(progress.step)
        if len(calls) == 3:  # after the step was logged, before it was saved: it is trained and logged again
            raise KeyboardInterrupt
        whole(record, progress)

    monkeypatch.setattr(Record, "checkpoint", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(recipe(arguments))
    run = train(recipe(arguments))
    (events,) = (run / "tensorboard").rglob("events*")
    read = EventAccumulator(str(events)).Reload()
    assert [event.value for event in read.Scalars("step/loss")] == pytest.approx(losses(run))
    assert [event.step for event in read.Scalars("step/loss")] == list(range(1, len(losses(run)) + 1))


def test_the_command_ends_in_one_line(world, tmp_path):
    done = subprocess.run(
        launch(small(world, tmp_path, "init=step1", "name=step2")),
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 1
    assert "glczoo.train: init: step1 starts from the run" in done.stderr and "Traceback" not in done.stderr


def test_three_steps_hand_on_weights_head_and_statistics(world, tmp_path):
    first = train(recipe(small(world, tmp_path)))
    second = train(
        recipe(small(world, tmp_path, "init=step1", "epochs=1", "data.validation={po: 0.9}", step="step2"))
    )
    third = train(recipe(small(world, tmp_path, "init=step2", step="step3")))
    before, after = load_model(first), load_model(third)
    assert (before.mean, before.std, before.bands) == (after.mean, after.std, after.bands)
    assert [read_config(run).glczoo.activation for run in (first, second, third)] == [
        "sigmoid",
        "softmax",
        "sigmoid",
    ]
    # With a vanishing learning rate the next step's weights are the former's, head included.
    still = train(recipe(small(world, tmp_path, "init=step1", "optimizer.lr=1e-30", "name=still")))
    old, new = (load_file(run / "model.safetensors") for run in (first, still))
    trained = [key for key in old if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert "fc.weight" in trained and all(torch.equal(old[key], new[key]) for key in trained)


def test_the_export_is_what_timm_reads(world, tmp_path):
    run = train(recipe(small(world, tmp_path, "channels_last=false")))
    ours = load_model(run)
    theirs = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    x = torch.randn(2, 33, 16, 16)
    with torch.no_grad():
        assert torch.equal(ours.model(x), theirs(x))
    assert len(theirs.pretrained_cfg["mean"]) == 33 and theirs.pretrained_cfg["input_size"] == (33, 16, 16)
    assert ours.bands == Region.load(world).band_names
    assert not (run / "checkpoints").exists() and not list(run.glob(".*"))
    assert train(recipe(small(world, tmp_path, "channels_last=false"))) == run
    with pytest.raises(ValueError, match=r"a run of another recipe \(epochs: 2 → 3\)"):
        train(recipe(small(world, tmp_path, "channels_last=false", "epochs=3")))


def test_seeded_loss_trace(world, tmp_path):
    trace = losses(train(recipe(small(world, tmp_path, "precision=no"))))[:4]
    again = losses(train(recipe(small(world, tmp_path / "again"))))[:4]
    other = losses(train(recipe(small(world, tmp_path / "other", "seed=1"))))[:4]
    assert trace == again and trace != other
    assert trace == pytest.approx(TRACE, abs=1e-4)


TRACE = [0.72151, 0.68301, 0.63944, 0.60282]


def test_options_train(world, tmp_path):
    run = train(
        recipe(
            small(
                world,
                tmp_path,
                "ema=0.5",
                "optimizer.clip_grad=1.0",
                "optimizer.accumulate=2",
                "trackers=[tensorboard]",
                "precision=bf16",
                "patch_size=32",
                "top_k=auto",
                "keep=last",
            )
        )
    )
    assert len(list((run / "tensorboard").rglob("events*"))) == 1
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [line["epoch"] for line in epochs] == [0, 1] and all(0 <= e["validation_f1"] <= 1 for e in epochs)


def test_ways_of_loading_change_no_weight(world, tmp_path):
    runs = [
        train(recipe(small(world, tmp_path / str(number), "epochs=1", *way)))
        for number, way in enumerate(
            (
                ["data.workers=0"],
                ["data.workers=3"],
                ["data.loader=processes", "data.workers=1"],
                ["grad_checkpointing=true"],
            )
        )
    ]
    first, *others, checkpointed = (load_file(run / "model.safetensors") for run in runs)
    for other in others:
        assert all(torch.equal(first[key], other[key]) for key in first)
    assert losses(runs[0]) == losses(runs[1]) == losses(runs[2]) == losses(runs[3])
    # Recomputed blocks count a batch twice in their running statistics, and in nothing else.
    twice = {key for key in first if not torch.equal(first[key], checkpointed[key])}
    counts = {key for key in twice if key.endswith("num_batches_tracked")}
    assert counts and all("running" in key for key in twice - counts)
    assert all(checkpointed[key] == 2 * first[key] for key in counts)


def test_a_compiled_model_trains_and_is_exported_as_any(world, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: calls.append(type(module).__name__))
    plain = train(recipe(small(world, tmp_path, "epochs=1", "compile=true", "ema=0.5")))
    assert calls == ["FusResNet"] and load_model(plain).bands


def test_places(world, tmp_path, capsys):
    arguments = ["data.validation={po: 0.5}", "epochs=1", "data.places=true", "init=random"]
    run = train(recipe(small(world, tmp_path, *arguments, step="step2")))
    number, places = re.search(
        r"(\d+) records at (\d+) places: \d\.\d\d times fewer", capsys.readouterr().out
    ).groups()
    assert int(number) == 200 and 50 < int(places) < 200 and load_model(run).bands
    assert len(losses(run)) == -(-int(places) // 16)
    for overrides in (["data.tables=[pa]"], ["data.tables=[po, pa]"]):
        with pytest.raises(
            ValueError, match=r"data.places needs data.tables: \[po\] and a loss that is linear"
        ):
            recipe(
                small(
                    world,
                    tmp_path,
                    *arguments,
                    "data.validation={po: 0.5, pa: 0.5}",
                    *overrides,
                    step="step2",
                )
            )


def test_the_learning_rate_is_scaled_to_the_surveys_of_a_step(world, tmp_path, capsys):
    arguments = ["epochs=1", "optimizer.lr=1e-3", "optimizer.accumulate=2", "optimizer.lr_batch_size=8"]
    run = train(recipe(small(world, tmp_path, *arguments)))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert {line["lr"] for line in lines} == {4e-3}
    told = "32 samples a step: 16 x 1 process(es) x 2 accumulated; lr 0.004, scaled from 0.001"
    assert told in capsys.readouterr().out


def test_the_best_epoch_is_kept(world, tmp_path):
    run = train(recipe(small(world, tmp_path, "epochs=4", "optimizer.lr=0.01")))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    f1 = [line["validation_f1"] for line in lines if line["kind"] == "epoch"]
    assert read_config(run).glczoo.epoch == f1.index(max(f1))
    best, last = (load_file(run / f"{name}.safetensors") for name in ("model", "last"))
    assert any(not torch.equal(best[key], last[key]) for key in best) == (f1.index(max(f1)) < 3)


@pytest.mark.parametrize("processes", [1, 2])
def test_resume_after_sigkill_equals_the_straight_run(world, tmp_path, processes):
    arguments = ["epochs=6", "optimizer.accumulate=2", "model_args={drop_rate: 0.2}", "checkpoint_every=1"]
    straight = small(world, tmp_path / "straight", *arguments)
    broken = small(world, tmp_path / "broken", *arguments)
    subprocess.run(launch(straight, processes), check=True, env=environment(), capture_output=True)
    kills = 0
    for after in (1, 3):  # early, and once more after a resume
        process = subprocess.Popen(
            launch(broken, processes),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        checkpoints = next_run(tmp_path / "broken") / "checkpoints"
        while process.poll() is None and not any(
            int(p.name[5:]) >= after for p in checkpoints.glob("step-*")
        ):
            time.sleep(0.01)
        if process.poll() is None:
            # Each process of a launcher leads a session of its own: a signal to the group spares them.
            family = [*psutil.Process(process.pid).children(recursive=True), process]
            for member in family:
                member.kill()
            psutil.wait_procs(family[:-1])
            kills += 1
        process.wait()
    assert kills == 2
    subprocess.run(launch(broken, processes), check=True, env=environment(), capture_output=True)
    runs = [next_run(tmp_path / name) for name in ("straight", "broken")]
    one, two = (load_file(run / "model.safetensors") for run in runs)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert losses(runs[0]) == losses(runs[1])


def next_run(runs: Path) -> Path:
    return runs / "virtual" / "test_fusresnet_glc23" / "step1"


@pytest.mark.parametrize(
    ("config", "flags"),
    [
        ("eight_gpus", [[]]),
        ("two_nodes", [[f"--machine_rank={rank}", "--main_process_ip=127.0.0.1"] for rank in (0, 1)]),
    ],
)
def test_shipped_launches_train_and_steps_fall_at_their_epochs(world, tmp_path, config, flags):
    """Two processes instead of eight or sixteen: of one launcher, or each of its own."""
    arguments = small(
        world, tmp_path, "epochs=4", "schedule.milestones=[1, 3]", "batch_size=8", "optimizer.lr=1e-3"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes=2"),
        *("--config_file", str(RECIPES / "accelerate" / f"{config}.yaml"), f"--main_process_port={port}"),
    ]
    started = [
        subprocess.Popen(
            [*launcher, *node, "-m", "glczoo.train", *arguments],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in flags
    ]
    told = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(flags), told
    assert "16 samples a step: 8 x 2 process(es) x 1 accumulated" in told[0]
    lines = [json.loads(line) for line in (next_run(tmp_path) / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [line["lr"] for line in epochs] == pytest.approx([1e-3, 1e-4, 1e-4, 1e-5])
    assert load_model(next_run(tmp_path)).bands
