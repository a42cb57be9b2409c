"""`glczoo.load(RUN).predict(lon, lat)`: the Python way answers as the command does."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import glczoo
from glczoo.cli import main
from glczoo.data.region import Region
from glczoo.data.tables import read_points

COLUMNS = ["id", "lon", "lat", "rank", "speciesId", "species", "probability", "in_set"]


@pytest.fixture(scope="module")
def run(trained_run) -> Path:
    return trained_run("step1", model="test_bioresnet_glc23", decoding="{rule: expected_size, value: 0.5}")


@pytest.fixture(scope="module")
def model(run):
    return glczoo.load(run)


def test_a_table_as_the_command_writes_it(model, run, tmp_path):
    (tmp_path / "points.csv").write_text("Id,lon,lat\n7,5.2,46.8\n9,5.3,46.7\n")
    main(["predict", str(run), "--points", str(tmp_path / "points.csv"), "--out", str(tmp_path / "s.csv")])
    written = pd.read_csv(tmp_path / "s.csv", keep_default_na=False)
    table = model.predict([5.2, 5.3], [46.8, 46.7], ids=[7, 9])
    assert list(table) == list(written) == COLUMNS
    pd.testing.assert_frame_equal(table, written, check_dtype=False, rtol=1e-5)
    assert table.attrs["left_out"] == []


def test_one_place_is_two_numbers(model):
    table = model.predict(5.2, 46.8, top=3)
    assert (table["id"] == 0).all() and table["rank"].tolist() == list(range(1, len(table) + 1))
    assert len(table) >= 3 and table["probability"].is_monotonic_decreasing


def test_k_species(model):
    table = model.predict(np.array([5.2, 5.3]), np.array([46.8, 46.7]), k=4)
    assert table.groupby("id").size().tolist() == [4, 4] and (table["in_set"] == 1).all()


def test_places_that_cannot_be_answered_are_listed(model):
    table = model.predict([5.2, 40.0], [46.8, 46.7], ids=[1, 2])
    assert table["id"].unique().tolist() == [1]
    (left,) = table.attrs["left_out"]
    assert (left["id"], left["lon"], left["lat"]) == (2, 40.0, 46.7) and "outside the grid" in left["reason"]
    assert list(pd.DataFrame(table.attrs["left_out"])) == ["id", "lon", "lat", "reason"]


def test_texts_are_ids_and_places_without_coordinates_are_listed(model):
    table = model.predict([5.2, np.nan, 5.3], [46.8, 46.7, None], ids=["a", "b", "c"])
    assert table["id"].unique().tolist() == ["a"]
    assert [(left["id"], left["reason"]) for left in table.attrs["left_out"]] == [
        ("b", "without coordinates in degrees"),
        ("c", "without coordinates in degrees"),
    ]


def test_no_place_that_can_be_answered_is_an_empty_table(model):
    table = model.predict(40.0, 46.7)
    assert list(table) == COLUMNS and len(table) == 0 and len(table.attrs["left_out"]) == 1


def test_tables_can_be_put_together(model):
    tables = [model.predict(40.0, 46.7), model.predict([5.2, 41.0], [46.8, 46.7])]
    assert len(pd.concat(tables)) == len(tables[1])


def test_several_runs_are_their_mean(model, run, trained_run):
    other = trained_run("step1", model="test_fusresnet_glc23", decoding="{rule: expected_size, value: 0.5}")
    together = glczoo.load([run, other])
    region = together.model.region
    points = read_points(region, region.find(*region.table("test").file), region.table("test"))
    point = points.at(np.array([0]))
    arguments = (point.lon, point.lat, point.patch_id)
    each = [glczoo.load(name).predict(*arguments, top=24).set_index("speciesId") for name in (run, other)]
    mean = (each[0]["probability"] + each[1]["probability"]) / 2
    table = together.predict(*arguments, top=24).set_index("speciesId")["probability"]
    np.testing.assert_allclose(table, mean[table.index], rtol=1e-5)


def test_another_region_by_its_folder(model, world):
    table = model.predict(5.2, 46.8, region=world)
    pd.testing.assert_frame_equal(table, model.predict(5.2, 46.8, region=Region.load(world)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([5.2, 5.3], 46.8), "one number or equally many each"),
        ((5.2, 146.8), "1 of 1 places are not on Earth, the first: lon 5.2, lat 146.8"),
        ((float("inf"), 46.8), "not on Earth"),
        (("east", 46.8), "lon and lat are numbers of degrees"),
        ((5.2, 46.8, None, 1.5), "ids are whole numbers or texts, got float64"),
        ((5.2, 46.8, 1.5), "patch_id are whole numbers"),
    ],
)
def test_what_is_no_place_is_refused(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model.predict(*arguments)


def test_importing_glczoo_stays_light():
    heavy = ("pandas", "rasterio", "accelerate")
    code = f"import sys, glczoo; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
