"""Runs verbs in forked processes that `kill_at.c` kills, runs them again, and compares: see test_kills.py.

Everything is imported once, so that a run takes a second or less. The first argument is a file of jobs, the
second the file for what was found.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

import glczoo.evaluation.report
import glczoo.hub.publish
import glczoo.prediction.map
import glczoo.regions.check
import glczoo.regions.densities
import glczoo.regions.init
import glczoo.regions.pack
import glczoo.train  # noqa: F401  what verbs import when they are run
from glczoo.cli import main as glczoo_main


@dataclass(frozen=True)
class Job:
    """A command that is killed."""

    name: str
    words: list[str]  # after `glczoo`, given in a folder of its own
    template: str | None = None  # a folder whose copy is that folder
    processes: int = 1  # that work together
    victim: int = 0  # which of them is killed
    at_most: int = 0  # kills, spread over all calls; 0: at every call
    offset: int = 7  # of the first of them
    finished: str | None = None  # what a repeated command says, with exit code 1, of an output that is whole
    twice: bool = False  # also started twice at once


@dataclass
class Found:
    """What came of a job."""

    calls: list[str] = field(default_factory=list)  # that write, of a run that was not killed
    kills: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)  # of two starts at once


def start(job: Job, folder: Path, **kill: str) -> list[int]:
    """Fork the processes of a command; `kill`: settings of `kill_at.c` for the victim."""
    work = folder / "work"
    if not work.exists():
        shutil.copytree(job.template, work) if job.template else work.mkdir(parents=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(job.processes):
        child = os.fork()
        if child:
            children.append(child)
            continue
        if job.processes > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job.processes)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ["GLCZOO_CACHE"] = str(work / "cache" if job.name == "cache" else folder.parent / "cache")
        log = os.open(folder / f"log-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if rank == job.victim:
            os.environ |= {"GLCZOO_KILL_UNDER": str(work), **kill}
        os._exit(command(job.words, work))
    return children


def command(words: Sequence[str], work: Path) -> int:
    """Run `glczoo` in a folder; its exit code."""
    try:
        os.chdir(work)
        torch.set_num_threads(1)
        glczoo_main(list(words))
    except SystemExit as stop:
        if not isinstance(stop.code, int | None):
            print(stop.code, flush=True)
            return 1
        return stop.code or 0
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def end(children: list[int], victim: int = -1) -> int:
    """Wait for all, kill the others when the victim dies, as a launcher does; return the worst code."""
    codes = []
    waiting = list(children)
    if victim >= 0:
        codes.append(os.waitstatus_to_exitcode(os.waitpid(children[victim], 0)[1]))
        waiting.remove(children[victim])
        if codes[0]:
            for child in waiting:
                os.kill(child, signal.SIGKILL)
    for child in waiting:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if victim < 0:
            codes.append(code)
    return next((code for code in codes if code), 0)


def state(folder: Path) -> dict[str, str]:
    """Every file and folder that a command left, and what is in it that must be the same."""
    return {
        path.relative_to(folder).as_posix(): content(path, folder) if path.is_file() else "folder"
        for path in sorted((folder / "work").rglob("*"))
    }


def content(path: Path, folder: Path) -> str:
    """A digest of a file, without how long things took and the folder that it lies in."""
    with suppress(ValueError, OSError, BadZipFile):  # half written
        return timed(path)
    data = path.read_bytes().replace(f"{folder.parent.name}/{folder.name}/".encode(), b"FOLDER/")
    return hashlib.sha256(data).hexdigest()


def timed(path: Path) -> str:
    """What a file holds that keeps seconds.

    Raises:
        ValueError: it is none, or it is torn.
    """
    if path.name == "metrics.jsonl":
        return json.dumps([timeless(json.loads(line)) for line in path.read_text().splitlines()])
    if path.suffix == ".json":
        return json.dumps(timeless(json.loads(path.read_text())))
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return "".join(f"{k}{arrays[k].tobytes().hex()}" for k in sorted(arrays) if "second" not in k)
    raise ValueError(path)


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(each) for key, each in value.items() if "second" not in key}
    return [timeless(each) for each in value] if isinstance(value, list) else value


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def killed_at(job: Job, number: int, out: Path, expected: dict[str, str], call: str) -> Found:
    """Kill the command at one call, give it again, and compare what is there with what should be."""
    folder, found = out / str(number), Found()
    code = end(start(job, folder, GLCZOO_KILL_AT=str(number)), job.victim)
    found.kills = int(code == -signal.SIGKILL)
    whole = not differences(expected, state(folder))
    again = end(start(job, folder))
    wrong = differences(expected, state(folder))
    log = (folder / "log-0.txt").read_text()[-2000:]
    refused = again == 1 and whole and job.finished is not None and job.finished in log
    if (again and not refused) or wrong:
        found.failures = [{"at": number, "call": call, "code": again, "wrong": wrong, "log": log}]
    else:
        shutil.rmtree(folder)
    return found


def started_twice(job: Job, out: Path, expected: dict[str, str], found: Found) -> None:
    """Start a command twice at once in one folder: one ends as alone, the other too or says why not."""
    folder = out / "twice"
    children = [child for _ in range(2) for child in start(job, folder)]
    found.codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    wrong = differences(expected, state(folder))
    log = (folder / "log-0.txt").read_text()[-2000:]
    told = " works there" in log or (job.finished is not None and job.finished in log)
    if wrong or 0 not in found.codes or (max(found.codes) and not (max(found.codes) == 1 and told)):
        found.failures.append({"twice": True, "codes": found.codes, "wrong": wrong, "log": log})


def run(job: Job, out: Path, workers: int) -> Found:
    """A run that is not killed, then all that are, and two at once."""
    straight = out / "straight"
    log = out / "calls.txt"
    straight.mkdir(parents=True)
    code = end(start(job, straight, GLCZOO_KILL_LOG=str(log)))
    assert code == 0, (straight / "log-0.txt").read_text()
    calls = log.read_text().splitlines()
    expected = state(straight)
    step = max(1, len(calls) // job.at_most) if job.at_most else 1
    first = 1 + job.offset % step if job.at_most else 1
    wanted = list(range(first, len(calls) + 1, step))[: job.at_most or None]
    parts = [wanted[worker::workers] for worker in range(min(workers, len(wanted)))]
    children = []
    for worker, numbers in enumerate(parts):
        child = os.fork()
        if child:
            children.append(child)
            continue
        each = [killed_at(job, number, out, expected, calls[number - 1]) for number in numbers]
        (out / f"found-{worker}.json").write_text(json.dumps([asdict(found) for found in each]))
        os._exit(0)
    total = Found(calls)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for worker in range(len(parts)):
        for each in json.loads((out / f"found-{worker}.json").read_text()):
            total.kills += each["kills"]
            total.failures += each["failures"]
    if job.twice:
        started_twice(job, out, expected, total)
    return total


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    out = Path(settings["out"])
    found = {}
    for described in settings["jobs"]:
        job = Job(**described)
        found[job.name] = asdict(run(job, out / job.name, settings["workers"]))
        shutil.rmtree(out / job.name / "cache", ignore_errors=True)
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
