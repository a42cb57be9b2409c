"""Bands of `kind: values`: columns of tables by a sample's key, and of the samples' own rows."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import NORTH, WEST, addresses, write_raster

from glczoo.data.occurrences import Points, Samples
from glczoo.data.patch_source import PatchSource
from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.data.tables import read_points, read_samples, read_species
from glczoo.errors import GlczooError
from glczoo.regions.check import check_region

SURVEYS = [7, 9, 3, 5]  # their keys; rows 0 to 3 of the raster
SOIL = "surveyId,soil,note,ph\n3,30,x,6.5\n9,90,y,\n7,70,z,-1\n"  # 5 has no row, 9 a blank cell, 7 no data
MODALITIES = [
    {"name": "base", "bands": [{"name": "height", "file": "height.tif"}]},
    {
        "name": "ground",
        "kind": "values",
        "file": "soil.csv",
        "key": "surveyId",
        "columns": "soil",
        "bands": [{"name": "ph", "nodata": -1, "scale": 10, "offset": 1}],
    },
    {"name": "own", "kind": "values", "columns": ["slope"]},
]


def write_region(folder: Path, modalities: list[dict] = MODALITIES, **tables: str) -> Region:
    write_raster(folder / "height.tif", [addresses(8, 8, 0, "int16")])
    (folder / "soil.csv").write_text(SOIL)
    rows = [
        f"{key};{WEST + 0.035};{NORTH - 0.005 - 0.01 * row};{species};{key};{0.5 * row}"
        for row, key in enumerate(SURVEYS)
        for species in (1, 2)
    ]
    head = "surveyId;lon;lat;speciesId;patchID;slope"
    (folder / "pa.csv").write_text("\n".join([head, *rows]) + "\n")
    for name, text in tables.items():
        (folder / f"{name}.csv").write_text(text)
    described = {
        "name": "here", "patch_size": 3, "modalities": modalities,
        "tables": {"pa": {"file": "pa.csv", "survey": ["surveyId"]}},
    }  # fmt: skip
    (folder / "region.yaml").write_text(yaml.safe_dump(described))
    return Region.load(folder)


def surveys_of(region: Region) -> Samples:
    return read_samples(region, "pa", read_species(region))


@pytest.fixture
def region(tmp_path: Path) -> Region:
    return write_region(tmp_path)


def test_values_are_found_by_the_key_and_in_the_row(region: Region):
    values = PatchSource(region).values(surveys_of(region))
    expected = [[70, np.nan, 0.0], [90, np.nan, 0.5], [30, 66, 1.0], [np.nan, np.nan, 1.5]]
    np.testing.assert_allclose(values[:, 1:], np.array(expected)[:, [1, 0, 2]])  # ph before soil


def test_bands_before_columns(region: Region):
    assert PatchSource(region).bands == ["height", "ph", "soil", "slope"]


def test_patches_are_planes_of_one_value(region: Region):
    source, surveys = PatchSource(region), surveys_of(region)
    x = PatchBuilder(source, surveys, [0.0] * 4, [1.0, 2.0, 1.0, 1.0])(torch.tensor([2, 0, 3]))
    assert (x[:, 1:] == x[:, 1:, :1, :1]).all()
    assert x[:, 1:, 0, 0].tolist() == [[33, 30, 1], [0, 70, 0], [0, 0, 1.5]]  # a gap becomes the mean


def test_statistics_leave_gaps_out_and_count_them(region: Region):
    statistics = PatchSource(region).statistics(surveys_of(region))
    assert statistics.mean[1:] == pytest.approx([66, 190 / 3, 0.75])
    assert statistics.std[1:] == pytest.approx([1, np.std([70, 90, 30]), np.std([0, 0.5, 1, 1.5])])
    assert statistics.filled[1:] == pytest.approx([0.75, 0.25, 0])


def test_gaps_do_not_stop_a_training(region: Region):
    assert PatchSource(region).complete(surveys_of(region), "surveys").all()


def test_samples_at_one_place_with_other_values_are_other_patches(region: Region):
    source, surveys = PatchSource(region), surveys_of(region)
    together = replace(surveys, lon=np.full(4, WEST + 0.035), lat=np.full(4, NORTH - 0.035))
    assert len(np.unique(source.places(together))) == 4


def test_check_counts_samples_without_a_row_and_names_them(region: Region):
    check = check_region(region, progress=False)
    assert check.tables["pa"].filled_samples["without a row in soil.csv (surveyId)"] == 1
    assert any("1 of 4 without a row" in text and "surveyId 5" in text for text in check.problems)
    assert (check.rasters["soil"].min, check.rasters["soil"].max) == (30, 90)


def test_points_without_values_are_not_answered_and_told_what_they_need(region: Region, tmp_path: Path):
    (tmp_path / "points.csv").write_text(f"lon,lat\n{WEST + 0.035},{NORTH - 0.035}\n")
    points = read_points(region, tmp_path / "points.csv")
    reasons = [reason for reason, mask in PatchSource(region).unanswerable(points).items() if mask[0]]
    assert reasons == ["without values: they need a surveyId that soil.csv has or the columns slope"]


def test_points_with_the_columns_are_answered(region: Region, tmp_path: Path):
    (tmp_path / "points.csv").write_text(f"lon,lat,surveyId,slope\n{WEST + 0.035},{NORTH - 0.035},3,0.25\n")
    points = read_points(region, tmp_path / "points.csv")
    source = PatchSource(region)
    assert not any(mask.any() for mask in source.unanswerable(points).values())
    assert source.values(points)[0, 1:].tolist() == [66, 30, 0.25]


def test_a_table_of_embeddings_is_one_line(tmp_path: Path):
    pytest.importorskip("pyarrow")
    numbers = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    frame = pd.DataFrame(numbers, columns=[f"A{i:02d}" for i in range(64)])
    frame.assign(surveyId=SURVEYS[::-1]).to_parquet(tmp_path / "embedded.parquet")
    table = {"name": "embedding", "kind": "values", "file": "embedded.parquet", "key": "surveyId"}
    region = write_region(tmp_path, [table])
    source = PatchSource(region)
    assert source.modalities == {"embedding": 64} and source.bands[63] == "A63"
    np.testing.assert_array_equal(source.values(surveys_of(region)), numbers[::-1])
    spelt_out = write_region(tmp_path, [table | {"columns": "A00..A63"}])
    assert spelt_out.modalities[0].bands == region.modalities[0].bands
    assert Region.model_validate(yaml.safe_load(region.published_text())).band_names == source.bands


def test_tables_are_read_as_one_and_those_not_there_are_passed_over(tmp_path: Path):
    table = {
        "name": "ground", "kind": "values", "key": "surveyId", "columns": "soil",
        "file": ["soil.csv", "elsewhere.csv", "more.csv"],
    }  # fmt: skip
    region = write_region(tmp_path, [table], more="surveyId;soil\n5;50\n9;90\n")
    assert PatchSource(region).values(surveys_of(region))[:, 0].tolist() == [70, 90, 30, 50]


def test_keys_may_be_texts(tmp_path: Path):
    table = {"name": "t", "kind": "values", "file": "soil.csv", "key": "surveyId", "columns": "soil"}
    region = write_region(tmp_path, [table], soil="surveyId,soil\nb2,2\na1,1\n7,7\n")
    points = Points(
        *np.zeros((2, 3)), np.full(3, -1), np.arange(3), columns={"surveyId": np.array(["a1", "", "7"])}
    )
    assert PatchSource(region).values(points)[:, 0].tolist() == pytest.approx([1, np.nan, 7], nan_ok=True)
    assert PatchSource(region).values(surveys_of(region))[0, 0] == 7  # of numbers in the samples' table


def test_categories_are_levels(tmp_path: Path):
    table = {
        "name": "t", "kind": "values", "file": "soil.csv", "key": "surveyId",
        "bands": [{"name": "soil", "kind": "categorical"}],
    }  # fmt: skip
    region = write_region(tmp_path, [table])
    source, surveys = PatchSource(region), surveys_of(region)
    source.fix_levels(surveys)
    assert source.bands == ["soil=30", "soil=70", "soil=90"]
    x = PatchBuilder(source, surveys, [0.0] * 3, [1.0] * 3)(torch.arange(4))
    assert x[:, :, 0, 0].tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]]


def test_units_are_those_of_the_model(tmp_path: Path):
    table = {
        "name": "t", "kind": "values", "file": "soil.csv", "key": "surveyId",
        "bands": [{"name": "soil", "unit": "degC"}],
    }  # fmt: skip
    region = write_region(tmp_path, [table])
    source = PatchSource(region, units={"soil": "K"})
    assert source.values(surveys_of(region))[0, 0] == pytest.approx(343.15)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"file": "soil.csv", "columns": "soil"}, "which column of soil.csv names the sample"),
        ({"file": "soil.csv", "key": "surveyId", "columns": "note"}, "3 values of note are no numbers"),
        ({"file": "soil.csv", "key": "plot", "columns": "soil"}, "column .*plot.* is missing"),
        ({"file": "no.csv", "key": "surveyId", "columns": "soil"}, "no.csv not found"),
        ({"file": "no.csv", "key": "surveyId"}, "no.csv not found"),
        ({"file": "twice.csv", "key": "surveyId", "columns": "soil"}, "1 rows name a surveyId that another"),
        ({"file": "soil.csv", "key": "surveyId", "columns": "A0..A999999999"}, "more than 4096"),
        ({}, "name the table of its values"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, table: dict, message: str):
    with pytest.raises((GlczooError, ValueError, FileNotFoundError), match=message):
        region = write_region(
            tmp_path, [{"name": "t", "kind": "values"} | table], twice="surveyId,soil\n3,1\n3,2\n"
        )
        PatchSource(region)


def test_a_survey_has_one_value(tmp_path: Path):
    region = write_region(tmp_path)
    rows = (tmp_path / "pa.csv").read_text().replace("0.5", "0.6", 1)
    (tmp_path / "pa.csv").write_text(rows)
    with pytest.raises(GlczooError, match="1 surveys have more than one slope"):
        surveys_of(region)


def test_a_published_description_reads_no_table_elsewhere(tmp_path: Path):
    write_region(tmp_path, [MODALITIES[0], MODALITIES[1] | {"file": "/etc/passwd"}])
    with pytest.raises(ValueError, match="inside of the data folder only.*'/etc/passwd'"):
        Region.load(tmp_path, published=True)


def test_large_tables_are_kept_with_their_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    region = write_region(tmp_path)
    fresh = surveys_of(region)
    monkeypatch.setattr("glczoo.data.cache._WORTH_KEEPING", 0)
    for _ in range(2):
        kept = surveys_of(region)
        np.testing.assert_array_equal(PatchSource(region).values(kept), PatchSource(region).values(fresh))
