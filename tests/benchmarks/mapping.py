"""Cells a second and peak memory of maps, with and without asking places of one patch once.

    GLCZOO_DATA=<swiss-trees> OMP_NUM_THREADS=1 python tests/benchmarks/mapping.py RUN [RUN ...] \\
        --bbox 18.7 42.8 23.4 47.5 --resolution 0.0047

Each map is made in a process of its own, in turns. `torch` is the memory of a process that has only imported
what maps need. Timings leave out loading, the GeoTIFF and the pictures, `whole` does not.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARTS = ("shared", "apart")


def one(part: str, given: argparse.Namespace) -> None:
    import numpy as np
    import torch

    from glczoo.data.patch_source import PatchSource
    from glczoo.prediction.map import make_map

    def peak() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

    torch.set_num_threads(1)
    if part == "apart":
        PatchSource.places = lambda self, points: np.arange(len(points))  # type: ignore[method-assign]
    imported, start = peak(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = make_map(
            given.runs, Path(folder) / "map", resolution=given.resolution, bbox=given.bbox,
            species=given.species,
        )  # fmt: skip
    found = found.to_json() | {"whole": time.perf_counter() - start, "torch": imported, "peak": peak()}
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--bbox", type=float, nargs=4, required=True)
    parser.add_argument("--resolution", type=float, required=True)
    parser.add_argument("--species", nargs="+", default=[])
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.part:
        return one(given.part, given)
    print("| places of one patch | cells | with data | places asked | s | cells/s | places/s | whole s "
          "| torch GB | peak GB |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")  # fmt: skip
    for part in PARTS * given.turns:
        command = [sys.executable, *sys.argv, "--part", part]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        found = json.loads(done.stdout)
        seconds = found["seconds"]
        print(
            f"| {part} | {found['computed']:,} | {found['cells']:,} | {found['places']:,} | {seconds:.1f} | "
            f"{found['computed'] / seconds:,.0f} | {found['places'] / seconds:,.0f} | {found['whole']:.1f} | "
            f"{found['torch']:.2f} | {found['peak']:.2f} |"
        )
    return None


if __name__ == "__main__":
    main()
