"""`glczoo region check`: odd points, exact ranges, and the page that shows them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import addresses, place, write_raster
from matplotlib.image import imread

from glczoo.cli import main
from glczoo.data.occurrences import Samples
from glczoo.data.patch_source import PatchSource
from glczoo.data.region import Region
from glczoo.regions.check import check_region
from glczoo.regions.suspects import PILE, suspects


@pytest.fixture
def region(tmp_path: Path) -> Region:
    """Two bands of 20 x 30 cells: the first lacks the north-west corner, both lack the last column."""
    one, two = addresses(20, 30, 1, "int16"), addresses(20, 30, 2, "int32")
    one[:2, :2] = -9999
    one[:, -1] = two[:, -1] = -9999
    write_raster(tmp_path / "one.tif", [one], nodata=-9999)
    write_raster(tmp_path / "two.tif", [two], nodata=-9999)
    odd = [
        (0.0, 0.0),
        place(5, 5)[::-1],  # exchanged
        (100.0, 10.0),
        place(4, 29),  # no data in any band
        place(1, 1),  # a gap in one
        (5.2, 44.9),  # rounded
        *[place(8, 8)] * PILE,
        place(10, 10), place(10, 10),  # a record twice
    ]  # fmt: skip
    places = [*odd, *[place(r + 0.1, c + 0.2) for r in range(10, 15) for c in range(15, 25)]]
    rows = [f"{lon:.6f};{lat:.6f};{7 if i != 10 else 8}" for i, (lon, lat) in enumerate(places)]
    (tmp_path / "po.csv").write_text("\n".join(["lon;lat;speciesId", *rows]) + "\n")
    (tmp_path / "region.yaml").write_text(
        "{name: odd, root: ., bounds: [5, 44.8, 5.3, 45], patch_size: 4, tables: {po: {file: po.csv}}, "
        "modalities: [{name: m, bands: [{name: one, file: one.tif, unit: m}, {name: two, file: two.tif}]}]}"
    )
    return Region.load(tmp_path)


def test_every_kind_of_odd_point_is_counted_once(region: Region) -> None:
    found = check_region(region, progress=False)
    assert found["tables"]["po"]["suspicious"] == {
        "at 0° E, 0° N": 1,
        "lon and lat exchanged?": 1,
        "outside of the rasters": 1,
        "no data at the point (sea?)": 1,
        "piles of one place (centroids?)": PILE,
        "rounded to 0.1° or coarser": 1,
        "gaps at the point": 1,
    }
    # Of the pile all but the first and the one of another species; of the pair one.
    assert found["tables"]["po"]["duplicates"] == PILE - 2 + 1
    low, high = int(addresses(20, 30, 1, "int16")[0, 2]), 19000 + 28 + 100
    assert found["rasters"]["one"] == {"min": low, "max": high, "missing": (20 + 4) / 600}
    assert found["rasters"]["two"]["min"] == 200


def test_surveys_of_one_place_are_no_pile(region: Region) -> None:
    number = 300
    lon, lat = (np.repeat(value, number) for value in place(8, 8))
    lon[:200] += np.linspace(0.001, 0.05, 200)
    ids, offsets = np.arange(number), np.arange(number + 1)
    surveys = Samples(lon, lat, ids, ids, offsets, ids * 0, ids * 0)
    assert not any(mask.any() for mask in suspects(surveys, PatchSource(region), None).values())
    records = replace(surveys, presence_only=True)
    odd = suspects(records, PatchSource(region), None)["piles of one place (centroids?)"]
    assert np.flatnonzero(odd).tolist() == list(range(200, 300))


def test_the_page_shows_all_of_it(region: Region, tmp_path: Path, capsys) -> None:
    main(["region", "check", str(tmp_path), "--json", str(tmp_path / "check.json")])
    told = capsys.readouterr().out
    assert f"picture: {tmp_path / 'check.png'}" in told and "at 0° E, 0° N  1" in told
    picture = imread(tmp_path / "check.png")
    assert picture.shape[1] > 1200 and picture.std() > 0.05
    assert json.loads((tmp_path / "check.json").read_text())["picture"].endswith("check.png")
    main(["region", "check", str(tmp_path), "--out", str(tmp_path / "nowhere/at/all.png")])
    assert "no picture: " in capsys.readouterr().out and not (tmp_path / "nowhere").exists()
    assert not list(tmp_path.glob(".*"))
