"""A training is killed at the calls that write, and the same command ends as if nothing had been.

A library that is loaded before all others (`kill_at.c`) counts the calls of a process that write under the
run's folder (open to write, write, fsync, rename, unlink, rmdir, mkdir) and kills it at one of them; a write
is done by half before. GLCZOO_KILLS=all kills at every one of one process and at 60 of each of two; else at
a few, spread over all.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ALL = os.environ.get("GLCZOO_KILLS") == "all"


@pytest.fixture(scope="module")
def killer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that kills."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler on Linux: nothing can be killed at a system call")
    library = tmp_path_factory.mktemp("killer") / "kill_at.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, HERE / "kill_at.c", "-ldl"], check=True)
    return library


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: on a disk each flush of each run is waited for."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else tmp_path))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("processes", "victim", "at_most", "fewest_calls"),
    [(1, 0, 4, 150), (2, 0, 1, 150), (2, 1, 1, 4)],
    ids=["one process", "the first of two", "the second of two"],
)
def test_a_killed_training_ends_as_the_straight_one(
    world: Path, killer: Path, out: Path, processes: int, victim: int, at_most: int, fewest_calls: int
) -> None:
    """Weights, average, configuration and metrics are the same; nothing half written or of no use is left."""
    jobs = {
        "out": str(out / "out"),
        "region": str(world),
        "processes": processes,
        "victim": victim,
        "at_most": at_most if not ALL else 0 if processes == 1 else 60,
        "offset": 7,
    }
    (out / "jobs.json").write_text(json.dumps(jobs))
    settings = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "LD_PRELOAD": str(killer)}
    words = [sys.executable, HERE / "kill_driver.py", out / "jobs.json", out / "found.json"]
    done = subprocess.run(words, env=os.environ | settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((out / "found.json").read_text())
    assert found["failures"] == []
    assert len(found["calls"]) >= fewest_calls and found["kills"] >= at_most
    print(f"{found['kills']} kills at {len(found['calls'])} calls")
