"""What two processes that train on the same cores cost each other.

    python tests/benchmarks/shared_cores.py [--rounds 3]

In every round a process trains alone, then two at once, each with a thread for every core, as `glczoo` sets
the waiting of threads (GOMP_SPINCOUNT=2000) and as libgomp does by itself. A figure is the median over
rounds of the milliseconds of a step, the mean of four small networks; ideal is twice as many for two at once.
"""

import argparse
import os
import statistics
import subprocess
import sys

_STEP = """
import time
import glczoo, timm, torch

def steps(number, size, batch):
    small = {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 256]}
    model = timm.create_model("fusresnet34_glc23", num_classes=100, **small)
    x, optimizer = torch.randn(batch, model.in_chans, size, size), torch.optim.Adam(model.parameters())
    for _ in range(number):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

start = time.perf_counter()
for size, batch in ((33, 16), (9, 64), (9, 16), (17, 32)):
    steps(10, size, batch)
print(1000 * (time.perf_counter() - start) / 40)
"""
WAITING = {"as glczoo sets it": "2000", "libgomp's default": "300000"}


def step(processes: int, rounds: str) -> float:
    """Milliseconds of a step, the mean of the processes."""
    command = [sys.executable, "-c", _STEP]
    environment = os.environ | {"GOMP_SPINCOUNT": rounds}
    started = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    return statistics.mean(float(process.communicate()[0]) for process in started)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args().rounds
    measured: dict[tuple[str, int], list[float]] = {}
    for _ in range(wanted):
        for name, rounds in WAITING.items():
            for processes in (1, 2):
                measured.setdefault((name, processes), []).append(step(processes, rounds))
    print("| waiting | alone, ms a step | two at once |\n|---|---:|---:|")
    for name in WAITING:
        alone, both = (statistics.median(measured[name, processes]) for processes in (1, 2))
        print(f"| {name} | {alone:.0f} | {both:.0f} |")


if __name__ == "__main__":
    main()
