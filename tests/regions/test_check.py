"""`glczoo region check`: odd points, exact ranges, and the page that shows them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import addresses, place, write_raster
from matplotlib.image import imread

from glczoo.cli import main
from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.data.patch_source import PatchSource
from glczoo.data.region import Region
from glczoo.data.splits import block_folds, nearest_km
from glczoo.data.tables import read_samples, read_species
from glczoo.regions.check import check_region
from glczoo.regions.check_result import BandRange
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
    check = check_region(region, progress=False)
    assert check.tables["po"].suspicious == {
        "at 0° E, 0° N": 0,
        "lon and lat exchanged?": 1,
        "outside of the rasters": 1,
        "no data at the point (sea?)": 1,
        "piles of one place (centroids?)": PILE,
        "rounded to 0.1° or coarser": 1,
        "gaps at the point": 1,
    }
    assert check.tables["po"].left_out["at 0, 0"] == 1
    # Of the pile all but the first and the one of another species; of the pair one.
    assert check.tables["po"].duplicates == PILE - 2 + 1
    low, high = int(addresses(20, 30, 1, "int16")[0, 2]), 19000 + 28 + 100
    assert check.rasters["one"] == BandRange(low, high, (20 + 4) / 600)
    assert check.rasters["two"].min == 200


def test_surveys_of_one_place_are_no_pile(region: Region) -> None:
    number = 300
    lon, lat = (np.repeat(value, number) for value in place(8, 8))
    lon[:200] += np.linspace(0.001, 0.05, 200)
    ids, offsets = np.arange(number), np.arange(number + 1)
    surveys = Samples(lon, lat, ids, ids, offsets, ids * 0)
    assert not any(mask.any() for mask in suspects(surveys, PatchSource(region), None).values())
    records = replace(surveys, presence_only=True)
    odd = suspects(records, PatchSource(region), None)["piles of one place (centroids?)"]
    assert np.flatnonzero(odd).tolist() == list(range(200, 300))


def test_the_page_shows_all_of_it(region: Region, tmp_path: Path, capsys) -> None:
    main(["region", "check", str(tmp_path), "--json", str(tmp_path / "check.json")])
    told = capsys.readouterr().out
    assert f"picture: {tmp_path / 'check.png'}" in told and "left out at 0, 0  1" in told
    picture = imread(tmp_path / "check.png")
    assert picture.shape[1] > 1200 and picture.std() > 0.05
    assert json.loads((tmp_path / "check.json").read_text())["picture"].endswith("check.png")
    with pytest.raises(SystemExit, match="nowhere/at/all.png: it cannot be written"):
        main(["region", "check", str(tmp_path), "--out", str(tmp_path / "nowhere/at/all.png")])
    assert not list(tmp_path.glob(".*"))


def test_check_of_a_sound_region(address_region: Region) -> None:
    check = check_region(address_region, progress=False)
    assert json.loads(json.dumps(check.to_json())) == check.to_json()
    assert check.problems == [] and check.bands == address_region.band_names and check.species == 4
    pa, po, test = (check.tables[name] for name in ("pa", "po", "test"))
    assert (pa.rows, pa.occurrences, pa.species, pa.places) == (5, 8, 4, 4)
    assert (po.rows, po.occurrences, po.datasets) == (5, 5, ["record"])
    assert (test.rows, test.places) == (5, 4)
    assert pa.species_per_survey == 1.6 and pa.without_species == 0
    species = SpeciesIndex(np.array([11, 12, 15, 20]))
    expected = PatchSource(address_region).filled(read_samples(address_region, "pa", species))
    assert pa.filled == expected
    text = check.text()
    assert "region address at" in text and "11 bands, 4 species" in text and text.endswith("no problems")


def test_check_lists_what_is_wrong(address_region: Region) -> None:
    root = address_region.root_path
    with open(root / "po.csv", "a") as table:
        table.write(";;;record;;160;2020;5.055;44.995;;;;11;123;\n")  # on row 0: not on the shifted grid
        table.write(";;;record;;160;2020;5.055;44.935;;;;11;999;\n")  # no JPEG
    path = root / "jpeg/nir/23/1/123.jpeg"
    path.write_bytes(path.read_bytes()[:400])
    (root / "test.csv").unlink()
    check = check_region(address_region, progress=False)
    po = check.tables["po"]
    assert po.rows == 7 and po.incomplete["outside the grid of shifted"] == 1 and po.unreadable_patches == 1
    assert po.incomplete["without a JPEG patch (red … nir)"] == 1
    problems = "\n".join(check.problems)
    assert len(check.problems) == 5  # three of PO, the JPEG again in PA, the test table
    assert "po: 1 of 7 outside the grid of shifted, the first: patchID 123 at lon 5.05500" in problems
    assert "po: 1 of 7 without a JPEG patch (red … nir), the first: patchID 999" in problems
    assert "pa: 1 patches cannot be decoded, the first:" in problems and "123.jpeg is not a whole" in problems
    assert "test.csv not found under" in problems and "test" not in check.tables
    assert json.loads(json.dumps(check.to_json())) == check.to_json()
    assert "problems\n  po: 1 of 7" in check.text()


def test_check_names_no_exact_place_of_a_sensitive_species(address_region: Region) -> None:
    with open(address_region.root_path / "po.csv", "a") as table:
        table.write(";;;record;;160;2020;5.055;44.995;;;;11;123;\n")
    assert any("lon 5.05500, lat 44.99500" in line for line in check_region(address_region).problems)
    address_region.sensitive = {11: 10.0}
    problems = check_region(address_region).problems
    assert any("outside the grid of shifted" in line for line in problems)
    assert not any("5.05500" in line or "44.99500" in line for line in problems)


def test_check_measures_how_near_a_fixed_split_comes(world, tmp_path):
    folder = tmp_path / "region"
    shutil.copytree(world, folder)
    surveys = read_samples(Region.load(world), "pa", read_species(Region.load(world)))
    fold = block_folds(surveys, 12, 3)
    rows = {p: f for p, f in zip(surveys.patch_id.tolist(), fold.tolist(), strict=True)}
    (folder / "split.csv").write_text("patchID;fold\n" + "".join(f"{p};{f}\n" for p, f in rows.items()))
    with open(folder / "region.yaml", "a") as file:
        file.write("\nsplit: {file: split.csv, patch: patchID, fold: fold, test: [0]}\n")
    held = fold == 0
    nearest = nearest_km(surveys.at(held), surveys.at(~held))
    check = check_region(Region.load(folder), progress=False, buffer_km=3.0)
    assert check.split.nearest_km == pytest.approx(nearest.min())
    assert check.split.within == (nearest < 3.0).sum() > 0 and check.split.held_out == held.sum()
    problem = f"split: {(nearest < 3.0).sum()} of {held.sum()} held-out surveys lie within 3 km"
    assert problem in check.text() and any(line.startswith(problem) for line in check.problems)
    assert not any("held-out" in line for line in check_region(Region.load(folder), progress=False).problems)
