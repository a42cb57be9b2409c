"""Trains in forked processes that `kill_at.c` kills, resumes, and compares: run by test_training_kills.py.

Everything is imported once, so that a training takes a second: the file of jobs names the region, the folder
to work in, how many processes train together and where they are killed; the answer goes to a second file.
"""

import json
import os
import shutil
import signal
import socket
import sys
import traceback
from pathlib import Path

import torch

from glczoo.recipe import read_recipe
from glczoo.train import train

RECIPE = Path(__file__).parents[2] / "recipes" / "step1.yaml"
RUN = Path("runs/virtual/test_fusresnet_glc23/step1")
CHANGES = [
    "runs=runs", "model=test_fusresnet_glc23", "init=random", "patch_size=8", "batch_size=8", "epochs=2",
    "data.pa_fraction=0.3", "data.augment=true", "optimizer.name=sgd", "checkpoint_every=2", "log_every=1",
]  # fmt: skip


def start(folder: Path, region: str, processes: int, victim: int = -1, **kill: str) -> list[int]:
    """Fork the processes of a training that works in a folder; `kill`: settings of `kill_at.c`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(processes):
        child = os.fork()
        if child:
            children.append(child)
            continue
        if processes > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        try:
            os.chdir(folder)
            log = os.open(f"log-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if rank == victim:
                os.environ |= {"GLCZOO_KILL_UNDER": str(folder / "runs"), **kill}
            torch.set_num_threads(1)
            ema = ["ema=0.5"] if processes > 1 else []  # of each process its own
            train(read_recipe(RECIPE, [*CHANGES, *ema, f"region={region}"]))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return children


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
    """Every file of the runs' folder, and what is in it that must be the same."""
    found = {}
    for path in sorted((folder / "runs").rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            found[name] = path.read_bytes().hex() if path.name != "metrics.jsonl" else lines(path)
    return found


def lines(path: Path) -> str:
    """metrics.jsonl without how long things took."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return json.dumps([{k: v for k, v in row.items() if "second" not in k} for row in rows])


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    out, region, processes = Path(jobs["out"]), jobs["region"], jobs["processes"]
    victim = jobs["victim"]
    straight = out / "straight"
    straight.mkdir(parents=True)
    log = out / "calls.txt"
    code = end(start(straight, region, processes, victim, GLCZOO_KILL_LOG=str(log)))
    assert code == 0, (straight / "log-0.txt").read_text()
    calls = log.read_text().splitlines()
    expected = state(straight)
    wanted = range(1, len(calls) + 1)
    if jobs["at_most"]:
        step = max(1, len(calls) // jobs["at_most"])
        wanted = range(1 + jobs["offset"] % step, len(calls) + 1, step)
    failures, kills = [], 0
    for number in wanted:
        folder = out / str(number)
        folder.mkdir()
        code = end(start(folder, region, processes, victim, GLCZOO_KILL_AT=str(number)), victim)
        kills += code == -signal.SIGKILL
        again = end(start(folder, region, processes))
        wrong = differences(expected, state(folder))
        if again or wrong:
            text = (folder / "log-0.txt").read_text()[-2000:]
            call = calls[number - 1]
            failures.append({"at": number, "call": call, "code": again, "wrong": wrong, "log": text})
        else:
            shutil.rmtree(folder)
    Path(sys.argv[2]).write_text(json.dumps({"calls": calls, "kills": kills, "failures": failures}))


if __name__ == "__main__":
    main()
