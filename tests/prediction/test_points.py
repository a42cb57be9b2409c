"""Predictions at points: what the table holds, and that no point is dropped silently."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
import rasterio.warp

from glczoo.cli import main
from glczoo.data.occurrences import Points
from glczoo.data.patch_source import PatchSource
from glczoo.data.region import Region
from glczoo.data.table_files.writing import table_writer
from glczoo.data.tables import read_points
from glczoo.decoding import Decoding
from glczoo.prediction import points as predict
from glczoo.prediction.grids import DEGREES
from glczoo.prediction.points import predict_points
from glczoo.runs.run import load_model

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def run(trained_run):
    """A run that sees all modalities."""
    return trained_run("step1", decoding="{rule: expected_size, value: 0.5}")


@pytest.fixture
def table(world, tmp_path):
    """Ten points of the test table, one without a JPEG patch, one outside of the rasters, one both."""
    region = Region.load(world)
    points = read_points(region, region.find(*region.table("test").file), region.table("test"))
    rows = [
        f"{100 + i},{points.patch_id[i]},{points.lon[i]},{points.lat[i]}" for i in range(10)
    ]  # fmt: skip
    lon, lat = points.lon[0], points.lat[0]
    rows[4:4] = [f"7,,{lon},{lat}", f"8,{points.patch_id[0]},40,{lat}", f"9,,40,{lat}"]
    path = tmp_path / "points.csv"
    path.write_text("\n".join(["Id,patchID,lon,lat", *rows]) + "\n")
    return path


def read(path: Path) -> list[dict[str, str]]:
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("told", [[], ["--k", "3"]])
def test_top_species_and_the_set(run, world, table, tmp_path, capsys, monkeypatch, told):
    monkeypatch.setattr(predict, "_POINTS", 4)  # several parts, the last one shorter
    out = tmp_path / "species.csv"
    main(["predict", str(run), "--points", str(table), "--top", "4", *told, "--out", str(out)])
    region = Region.load(world)
    points = read_points(region, table)
    points = points.at(points.ids >= 100)
    model = load_model(run)
    probabilities, species, decoding = model.probabilities(points, region), model.species, model.decoding
    assert decoding == Decoding("expected_size", 0.5)
    sets = Decoding("top_k", 3)(probabilities) if told else decoding(probabilities)
    rows = read(out)
    assert list(rows[0]) == ["id", "lon", "lat", "rank", "speciesId", "species", "probability", "in_set"]
    for number, p, chosen in zip(points.ids.tolist(), probabilities, sets, strict=True):
        mine = [row for row in rows if row["id"] == str(number)]
        order = p.argsort(descending=True)[: max(4, int(chosen.sum()))]
        assert [row["speciesId"] for row in mine] == [str(i) for i in species.ids[order.numpy()]]
        assert [float(row["probability"]) for row in mine] == pytest.approx(p[order].tolist(), rel=1e-5)
        size = int(chosen.sum())
        assert [row["in_set"] for row in mine] == ["1"] * size + ["0"] * (len(mine) - size)
        assert [row["rank"] for row in mine] == [str(i + 1) for i in range(len(mine))]
    assert len(sets) == 10 and (told or int(sets.sum(1).max()) > 4)
    printed = capsys.readouterr().out
    mean = float(sets.sum(1).double().mean())
    assert f"{out}: 10 points, {mean:.1f} species each ({'top 3' if told else decoding})" in printed


def test_points_that_cannot_be_answered_are_listed(run, table, tmp_path, capsys):
    out, beside = tmp_path / "species.csv", tmp_path / "species.left_out.csv"
    main(["predict", str(run), "--points", str(table), "--out", str(out)])
    printed, rows = capsys.readouterr().out, read(beside)
    assert [row["id"] for row in rows] == ["7", "8", "9"] and rows[1]["lon"] == "40"
    assert rows[0]["reason"] == "without a patchID, which names its JPEG patch (red … nir)"
    assert rows[1]["reason"].startswith("outside the grid of bio1") and "JPEG" not in rows[1]["reason"]
    assert "outside the grid of bio1" in rows[2]["reason"] and "JPEG" in rows[2]["reason"]
    assert not any("without data" in row["reason"] for row in rows)  # outside says it
    assert (
        f"left out: 1 of 13 points without a patchID, which names its JPEG patch (red … nir); see {beside}"
        in printed
    )
    assert not {"7", "8", "9"} & {row["id"] for row in read(out)}
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines[:3]) + "\n")
    main(["predict", str(run), "--points", str(table), "--out", str(out)])
    assert not beside.exists()  # an older list would tell of other points
    table.write_text("\n".join([lines[0], lines[6], lines[7]]) + "\n")
    with pytest.raises(
        SystemExit, match="none of 2 points can be answered: .*1 outside the grid.* first: pat"
    ):
        main(["predict", str(run), "--points", str(table), "--out", str(tmp_path / "other.csv")])
    table.write_text("Id,lon,lat\n")
    with pytest.raises(SystemExit, match="has a header and no rows"):
        main(["predict", str(run), "--points", str(table), "--out", str(tmp_path / "other.csv")])
    assert [path.name for path in tmp_path.glob("other*")] == ["other.left_out.csv"]
    assert [row["id"] for row in read(tmp_path / "other.left_out.csv")] == ["8", "9"]


def test_a_row_without_coordinates_is_left_out_by_its_id(run, table, tmp_path):
    lines = table.read_text().splitlines()
    rows = [f"{name}{row[row.index(',') :]}" for name, row in zip("AB", lines[1:3], strict=True)]
    table.write_text("\n".join([lines[0], *rows, "C,,45" + "," * (lines[0].count(",") - 2)]) + "\n")
    main(["predict", str(run), "--points", str(table), "--out", str(tmp_path / "out.csv")])
    assert {row["id"] for row in read(tmp_path / "out.csv")} == {"A", "B"}
    (left,) = read(tmp_path / "out.left_out.csv")
    assert left["id"] == "C" and {left["lon"], left["lat"]} == {"", "45"} and "patchID" not in left
    assert left["reason"] == "without coordinates"


def test_a_place_without_any_value_is_left_out(address_region):
    place = np.array([5.035, 5.045])  # cell (2, 3) of `holes` has no data
    points = Points(place, np.array([44.975, 44.975]), np.array([-1, -1]), np.arange(2))
    source = PatchSource(address_region, ["other"])
    values = source.values(points)
    assert source.bands == ["shifted", "holes"] and np.isnan(values[0, 1]) and not np.isnan(values[0, 0])
    assert values[1].tolist() == [1303, 2404]  # `shifted` counts from one cell south-east
    assert not any(mask.any() for mask in source.unanswerable(points).values())
    address_region.modalities[1].bands = address_region.modalities[1].bands[1:]
    alone = PatchSource(address_region, ["other"]).unanswerable(points)
    assert alone["without data in any raster"].tolist() == [True, False]


def test_values_are_in_the_order_of_the_bands(address_region):
    """They lie on five grids, one of them in metres, and outside there is nothing."""
    source = PatchSource(address_region)
    points = Points(
        np.array([5.095, 9.0]), np.array([44.925, 44.9]), np.array([123, 123]), np.arange(2)
    )  # fmt: skip
    rasters = [band for band in source.bands if band not in ("red", "green", "blue", "nir")]
    assert rasters == ["first", "plain", "second", "shifted", "holes", "metres", "real"]
    with rasterio.open(address_region.find("rasters/metres.tif")) as file:
        (x,), (y,) = rasterio.warp.transform(DEGREES, file.crs, [5.095], [44.925])
        (metres,) = next(file.sample([(x, y)]))
    found = source.values(points)
    assert found[0, [0, 1, 2, 3, 4, 6]].tolist() == [7009, 7209, 7109, 6308, 7409, 7509]
    assert found[0, 5] == metres and np.isnan(found[1]).all()


def test_parquet(run, world, table, tmp_path, monkeypatch):
    region, columns = Region.load(world), ["speciesId", "rank", "in_set"]
    points = read_points(region, table)
    for name in ("a.csv", "a.parquet"):
        predict_points(load_model(run), points, tmp_path / name, region, k=3)
    one, other = pd.read_csv(tmp_path / "a.csv"), pd.read_parquet(tmp_path / "a.parquet")
    assert (one[columns] == other[columns]).all().all() and len(one) >= 30
    assert one["probability"].to_numpy() == pytest.approx(other["probability"].to_numpy(), rel=1e-4)
    assert (tmp_path / "a.left_out.csv").exists()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"Parquet needs pyarrow \(pip install 'glczoo\[parquet\]'\)"):
        table_writer(tmp_path / "b.parquet")
    assert not (tmp_path / "b.parquet").exists()
