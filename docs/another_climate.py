"""How right is a map of change? `another_climate.py WORLD MAP` compares it with a virtual region's truth."""

import csv
import sys
from pathlib import Path

import numpy as np
import rasterio


def compare(world: Path, folder: Path) -> str:
    """A table of the change of richness, predicted and true, by where the model is applicable."""
    with open(world / "truth" / "grid.csv", encoding="utf-8") as file:
        places = [(float(row["lon"]), float(row["lat"])) for row in csv.DictReader(file, delimiter=";")]
    with np.load(world / "truth" / "probabilities.npz") as truth:
        true = (truth["grid_warmer"] - truth["grid"]).sum(1)
    with rasterio.open(folder / "map.tif") as file:
        layers = dict(zip(file.descriptions, np.array(list(file.sample(places))).T, strict=True))
    titles = ["places in the warmer climate", "places", "mean change, predicted", "true"]
    titles += ["error (RMSE)", "correlation"]
    lines = [f"| {' | '.join(titles)} |", "|---|---:|---:|---:|---:|---:|"]
    change = layers["richness_change"]
    for name, inside in (("like the training samples", 1), ("unlike any of them", 0)):
        rows = (layers["applicable"] == inside) & np.isfinite(change)
        error = np.sqrt(np.mean((change[rows] - true[rows]) ** 2))
        together = np.corrcoef(change[rows], true[rows])[0, 1]
        numbers = [
            f"{change[rows].mean():+.2f}",
            f"{true[rows].mean():+.2f}",
            f"{error:.2f}",
            f"{together:.2f}",
        ]
        lines.append(f"| {name} | {rows.sum()} | {' | '.join(numbers)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(compare(Path(sys.argv[1]), Path(sys.argv[2])))
