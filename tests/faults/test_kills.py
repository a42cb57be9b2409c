"""A verb is killed, or its disk is full; the same command then ends as if nothing had been.

A library that is loaded before all others (`kill_at.c`) counts the calls of a process that write under its
folder (open to write, write, truncate, fsync, rename, link, unlink, rmdir, mkdir) and kills it at one of
them, a write done by half before, or lets all that need room fail from one of them on: a disk that is full.
Each command is also started twice at once. GLCZOO_KILLS=all kills at every call, of two processes and of long
commands at as many as `Kill.most` says, spread over all; else at a few.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import RECIPES, write_address_region

HERE = Path(__file__).parent
ALL = os.environ.get("GLCZOO_KILLS") == "all"


@dataclass(frozen=True)
class Kill:
    """A command and how often it is killed. Words in capitals are folders of the test."""

    words: str
    fewest_calls: int  # that write: fewer, and something is not counted
    few: int = 1  # kills of the short form
    most: int = 0  # of the long form; 0: at every call
    full: int = 40  # so often the disk is full in the long form
    full_at: tuple[str, ...] = ()  # kinds of calls where it is full; none: all
    template: str | None = None
    processes: int = 1
    victim: int = 0
    finished: str | None = None  # what is said, with exit code 1, where a kill came after the end

    def job(self, name: str, places: dict[str, Path]) -> dict[str, Any]:
        """What `kill_driver.Job` holds."""
        words = self.words.split()
        for place, path in places.items():
            words = [word.replace(place, str(path)) for word in words]
        return {
            "name": name,
            "words": words,
            "template": str(places[self.template]) if self.template else None,
            "processes": self.processes,
            "victim": self.victim,
            "kills": self.most if ALL else self.few,
            "full": 0 if self.processes > 1 else self.full if ALL else 1,
            "finished": self.finished,
            "full_at": list(self.full_at),
            "twice": self.processes == 1 and (ALL or self.few > 1),
        }


TRAIN = (
    "train RECIPES/step1.yaml region=WORLD runs=runs model=test_bioresnet_glc23 init=random patch_size=8 "
    "batch_size=8 epochs=2 data.pa_fraction=0.3 data.augment=true optimizer.name=sgd checkpoint_every=2 "
    "log_every=1"
)
TWO = f"{TRAIN} ema=0.5 checkpoint_every=1"  # of each process its own average
MAP = "map RUN --bbox 5.0 46.8 5.14 46.94 --resolution 0.001 --no-applicability --out map"
FOREST = "forest RECIPES/step1.yaml region=WORLD runs=runs modalities=[soil] top_k=5 --trees 3"
POINTS = "WORLD/Presence_Absence_surveys/Presences_Absences_train.csv"
VIRTUAL = "region make-virtual virtual --species 3 --po 4 --pa 2 --test 1 --size 32 --patch-size 8"
INIT = "region init mine --po mine/po.csv --pa mine/pa.csv"
FIT = (
    "fit WORLD --out fit --jobs 1 folds=2 blocks=10 patch_size=3 windows=[1,3] records.copies=1 "
    "records.epochs_species=2 records.epochs_sites=2 records.windows=[1] network.epochs=2 forest.trees=5 "
    "cnn.patch_sizes=[3] cnn.epochs=1 cnn.epochs_records=1 cnn.channels=[8,8,8,8]"
)
DENSITIES = "region densities ADDRESS/address --out densities"
KILLS = {
    "train": Kill(TRAIN, 150, few=2),
    "train, the first of two": Kill(TWO, 150, most=30, processes=2),
    "train, the second of two": Kill(TWO, 4, few=0, most=30, processes=2, victim=1),
    "pack": Kill("pack address --out packed", 100, few=2, template="ADDRESS"),
    # In the midst of a file GDAL may not end, or say nothing: the room is taken before (`require_room`).
    "map": Kill(MAP, 60, full_at=("open", "mkdir", "allocate")),
    "map, the second of two": Kill(MAP, 10, few=0, processes=2, victim=1),
    "densities": Kill(DENSITIES, 20, few=2, finished="holds a region.yaml"),
    "save": Kill("save RUN --out saved", 30, few=2, finished="is there already"),
    "cache": Kill("region stats WORLD --patch-size 8", 20),
    "coordinates": Kill("region coordinates ADDRESS/address --middle 5 45 --out coordinates", 15, few=0),
    "init": Kill(INIT, 20, template="OWN", finished="there already"),
    "virtual": Kill(VIRTUAL, 60, most=60, few=0, finished="is there and not empty"),
    "check": Kill("region check ADDRESS/address --out check.png --json check.json", 8, few=0),
    "forest": Kill(FOREST, 25, few=0),
    "ensemble": Kill("ensemble RUN OTHER --out both", 40, few=0, finished="holds a model"),
    "predict": Kill(f"predict RUN --points {POINTS} --out a.csv", 10),
    "evaluate": Kill("evaluate RUN --part validation --json scores.json", 4, few=0),
    "report": Kill("report RUN --sample 0 --out report.html", 4, few=0),
    "export": Kill("export RUN --out model.pt2", 4, few=0),
    "recipes copy": Kill("recipes copy --to recipes", 80, most=60, finished="are there already"),
    "fit": Kill(FIT, 200, few=0, most=24, full=8),
}


@pytest.fixture(scope="session")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that kills."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler on Linux: nothing can be killed at a system call")
    library = tmp_path_factory.mktemp("killer") / "kill_at.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, HERE / "kill_at.c", "-ldl"], check=True)
    return library


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory where there is one: on a disk each flush of each run is waited for."""
    memory = Path("/dev/shm")
    folder = Path(
        tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else tmp_path_factory.mktemp("out"))
    )
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def places(
    world: Path, trained_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The folders that commands name."""
    address, own = tmp_path_factory.mktemp("address"), tmp_path_factory.mktemp("own")
    write_address_region(address / "address")
    shutil.copytree(address / "address", own / "mine", ignore=shutil.ignore_patterns("region.yaml", "jpeg"))
    run = {"model": "test_resnet", "modalities": ["soil"]}
    return {
        "RECIPES": RECIPES,
        "WORLD": world,
        "ADDRESS": address,
        "OWN": own,
        "RUN": trained_run("step1", **run),
        "OTHER": trained_run("step1", seed=1, **run),
    }


Find = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def found(killer: Path, out: Path, places: dict[str, Path]) -> Find:
    """What came of the kills of a command; the short form runs all commands of it in one driver."""
    kept: dict[str, dict[str, Any]] = {}

    def find(name: str) -> dict[str, Any]:
        if name not in kept:
            names = [name] if ALL else [each for each, kill in KILLS.items() if kill.few]
            jobs = [KILLS[each].job(each, places) for each in names]
            workers = len(os.sched_getaffinity(0)) if ALL else 1
            described = {"out": str(out / f"out-{len(kept)}"), "workers": workers, "jobs": jobs}
            (out / "jobs.json").write_text(json.dumps(described))
            settings = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "LD_PRELOAD": str(killer)}
            words = [sys.executable, HERE / "kill_driver.py", out / "jobs.json", out / "found.json"]
            done = subprocess.run(words, env=os.environ | settings, capture_output=True, text=True)
            broken = {each: {"calls": [], "failures": done.stderr[-3000:]} for each in names}
            kept.update(broken if done.returncode else json.loads((out / "found.json").read_text()))
        return kept[name]

    return find


@pytest.mark.parametrize("name", KILLS)
def test_a_command_given_again_ends_as_one_that_was_left_alone(name: str, found: Find) -> None:
    """Every file is the same to the last byte, save seconds; nothing half written or of no use is left.

    On a full disk a command ends in one line that names a path. Of two that are started at once the second
    waits, or says who works there.
    """
    kill = KILLS[name]
    if not ALL and not kill.few:
        pytest.skip("killed by `make faults` alone")
    result = found(name)
    assert result["failures"] == []
    calls = len(result["calls"])
    counts = f"{result['kills']} kills, {result['full']} full disks, {calls} calls that write"
    print(f"{name}: {counts}, {result['seconds']:.0f} s of processors")
    most = kill.most if ALL else kill.few
    reached = 0.9 if kill.processes == 1 else 0.7  # how often the second looks for the first differs
    assert calls >= kill.fewest_calls and result["kills"] >= min(most or calls, calls) * reached
