"""Runs verbs in forked processes that `kill_at.c` kills or whose disk it fills, runs them again, and compares
with those that were left alone: see test_kills.py.

Everything is imported once, so that a run takes a second or less. The first argument is a file of jobs, the
second the file for what was found.
"""

import hashlib
import json
import os
import re
import resource
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

PATIENCE = 600  # seconds after which a command is taken to hang


@dataclass(frozen=True)
class Job:
    """A command that is killed."""

    name: str
    words: list[str]  # after `glczoo`, given in a folder of its own
    template: str | None = None  # a folder whose copy is that folder
    processes: int = 1  # that work together
    victim: int = 0  # which of them is killed
    kills: int = 0  # spread over all calls; 0: at every call
    full: int = 0  # so often its disk is full, from a call on, spread over all
    full_at: list[str] = field(default_factory=list)  # kinds of those calls; none: all
    finished: str | None = None  # what a repeated command says, with exit code 1, of an output that is whole
    twice: bool = False  # also started twice at once


@dataclass
class Found:
    """What came of a job."""

    calls: list[str] = field(default_factory=list)  # that write, of a run that was not killed
    kills: int = 0
    full: int = 0  # disks that were
    failures: list[dict[str, Any]] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)  # of two starts at once
    seconds: float = 0.0  # of processors


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
        signal.alarm(PATIENCE)
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


def spread(number: int, wanted: int) -> list[int]:
    """So many of the numbers from 1 to `number`, in even steps."""
    return sorted({round((each + 0.5) * number / wanted + 0.5) for each in range(min(wanted, number))})


def faulty(job: Job, fault: str, number: int, out: Path, expected: dict[str, str], call: str) -> Found:
    """Kill the command at one call, or fill its disk, give it again, and compare what is there."""
    folder, found = out / f"{fault}-{number}", Found()
    code = end(start(job, folder, **{f"GLCZOO_{fault}_AT": str(number)}), job.victim)
    problem = None
    if fault == "KILL":
        found.kills = int(code == -signal.SIGKILL)
    else:
        found.full, left = 1, state(folder)
        problem = disk_problem(code, folder, left, not differences(expected, left))
    again = end(start(job, folder))
    wrong = differences(expected, state(folder))
    log = (folder / "log-0.txt").read_text()[-2000:]
    refused = again == 1 and not wrong and job.finished is not None and job.finished in log
    if problem or (again and not refused) or wrong:
        failure = {"fault": fault, "at": number, "call": call, "problem": problem, "code": again}
        found.failures = [failure | {"wrong": wrong, "log": log}]
    else:
        shutil.rmtree(folder)
    return found


def disk_problem(code: int, folder: Path, left: dict[str, str], whole: bool) -> str | None:
    """What is wrong with how a command ended on a full disk, if anything."""
    lines = (folder / "log-0.txt").read_text().splitlines()
    if not (code == 0 and whole):  # the disk may be full for what is of no use any more
        if code != 1:
            return f"exit code {code}"
        if not re.match(r"glczoo: [^:]+: No space left on device\. Make room", lines[-1]):
            return f"no path is named: {lines[-1]!r}"
    half = [name for name in left if ".glczoo-" in name or name.endswith(".lock")]
    return f"left behind: {half}" if half else None


def started_twice(job: Job, out: Path, expected: dict[str, str], found: Found) -> None:
    """Start a command twice at once in one folder: one ends as alone, the other too or says why not."""
    folder = out / "twice"
    children = [child for _ in range(2) for child in start(job, folder)]
    found.codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    wrong = differences(expected, state(folder))
    log = (folder / "log-0.txt").read_text()
    told = " works there" in log or (job.finished is not None and job.finished in log)
    if wrong or 0 not in found.codes or (max(found.codes) and not (max(found.codes) == 1 and told)):
        found.failures.append({"twice": True, "codes": found.codes, "wrong": wrong, "log": log[-2000:]})


def run(job: Job, out: Path, workers: int) -> Found:
    """A run that is left alone, then all that are killed or whose disk is full, and two at once."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    before = used.ru_utime + used.ru_stime
    straight = out / "straight"
    log = out / "calls.txt"
    straight.mkdir(parents=True)
    code = end(start(job, straight, GLCZOO_KILL_LOG=str(log)))
    assert code == 0, (straight / "log-0.txt").read_text()
    calls = log.read_text().splitlines()
    expected = state(straight)
    kills = spread(len(calls), job.kills or len(calls))
    wanted = [("KILL", number) for number in kills]
    places = [n for n, call in enumerate(calls, 1) if not job.full_at or call.split()[0] in job.full_at]
    wanted += [("FULL", places[number - 1]) for number in spread(len(places), job.full)]
    parts = [wanted[worker::workers] for worker in range(min(workers, len(wanted)))]
    children = []
    for worker, faults in enumerate(parts):
        child = os.fork()
        if child:
            children.append(child)
            continue
        each = [faulty(job, fault, number, out, expected, calls[number - 1]) for fault, number in faults]
        (out / f"found-{worker}.json").write_text(json.dumps([asdict(found) for found in each]))
        os._exit(0)
    total = Found(calls)
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for worker in range(len(parts)):
        for each in json.loads((out / f"found-{worker}.json").read_text()):
            total.kills += each["kills"]
            total.full += each["full"]
            total.failures += each["failures"]
    if job.twice:
        started_twice(job, out, expected, total)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    total.seconds = used.ru_utime + used.ru_stime - before
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
