"""A large raster is checked in little memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml

ALL = os.environ.get("GLCZOO_KILLS") == "all"
MEASURED = """
import resource, sys
from glczoo.cli import main
main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def national(folder: Path, side: int) -> Path:
    """A region of 5 degrees with one raster of so many cells along a side, and a hundred records."""
    cell = 5 / side
    folder.mkdir()
    with rasterio.open(
        folder / "cover.tif", "w", driver="GTiff", height=side, width=side, count=1, dtype="uint8",
        crs="EPSG:4326", transform=rasterio.Affine(cell, 0, 5, 0, -cell, 50), compress="deflate", tiled=True,
        nodata=255,
    ) as target:  # fmt: skip
        lines = (np.arange(side, dtype=np.int64) * 37 // 256 % 200).astype(np.uint8)
        for top in range(0, side, 256):
            rows = min(256, side - top)
            window = rasterio.windows.Window(0, top, side, rows)
            target.write(np.tile(lines, (rows, 1)), 1, window=window)
    places = np.random.default_rng(0).uniform(0.1, 4.9, (100, 2))
    rows = [f"{5 + x:.5f};{50 - y:.5f};{i % 5}" for i, (x, y) in enumerate(places.tolist())]
    (folder / "po.csv").write_text("\n".join(["lon;lat;speciesId", *rows]) + "\n", "utf-8")
    described = {
        "name": "national",
        "bounds": [5.0, 45.0, 10.0, 50.0],
        "patch_size": 32,
        "modalities": [{"name": "land", "bands": [{"name": "cover", "file": "cover.tif"}]}],
        "tables": {"po": {"file": "po.csv"}},
    }
    (folder / "region.yaml").write_text(yaml.safe_dump(described), "utf-8")
    return folder


def peak(region: Path, cache: Path) -> int:
    """Megabytes that `glczoo region check` holds at most."""
    command = [sys.executable, "-c", MEASURED, "region", "check", str(region), "--patch-size", "32"]
    environment = os.environ | {"GLCZOO_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cover" in done.stdout
    return int(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in other units there")
def test_a_large_raster_is_checked_in_little_memory(tmp_path: Path):
    """20,000 x 20,000 cells take less than 1 GB more than 40 x 40; 400 MB of it are the mapped raster."""
    if not ALL:
        pytest.skip("measured by `make faults` alone")
    small, large = (
        peak(national(tmp_path / f"of {side}", side), tmp_path / "cache") for side in (40, 20_000)
    )
    assert large - small < 1000
