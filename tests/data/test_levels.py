"""Categorical bands: a channel for each level that a training sample has seen."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CELL, NORTH, WEST, write_raster

from glczoo.data.occurrences import Points
from glczoo.data.patch_source import PatchSource
from glczoo.data.patches import PatchBuilder
from glczoo.data.region import Region
from glczoo.runs.export import describe_bands

CODES = np.array([[1, 1, 3, 3, 9], [1, 1, 3, 3, 9], [0, 0, 7, 7, 9], [0, 0, 7, 7, 9]], "uint8")  # 0: no data
REGION = """
name: here
patch_size: 1
modalities:
  - name: land
    bands:
      - {name: before, file: before.tif}
      - {name: cover, file: cover.tif, kind: categorical}
      - {name: after, file: after.tif}
tables: {}
"""


@pytest.fixture(params=["one grid", "another type"])
def region(tmp_path: Path, request: pytest.FixtureRequest) -> Region:
    numbers = np.arange(20).reshape(4, 5).astype("uint8" if request.param == "one grid" else "float32")
    write_raster(tmp_path / "before.tif", [numbers])
    write_raster(tmp_path / "cover.tif", [CODES], nodata=0)
    write_raster(tmp_path / "after.tif", [numbers * 2])
    (tmp_path / "region.yaml").write_text(REGION)
    return Region.load(tmp_path)


def at(*cells: tuple[int, int]) -> Points:
    row, col = np.array(cells).T
    nowhere = np.full(len(cells), -1)
    return Points(WEST + (col + 0.5) * CELL, NORTH - (row + 0.5) * CELL, nowhere, np.arange(len(cells)))


TRAINING = at((0, 0), (0, 2), (1, 1), (2, 0))  # levels 1 and 3, and no data


@pytest.fixture
def source(region: Region) -> PatchSource:
    source = PatchSource(region)
    source.fix_levels(TRAINING)
    return source


def test_until_its_levels_are_known_a_band_is_one_channel(region: Region):
    assert PatchSource(region).bands == ["before", "cover", "after"]


def test_levels_are_those_of_the_training_samples(source: PatchSource):
    assert source.bands == ["before", "cover=1", "cover=3", "after"] and source.modalities == {"land": 4}


def test_levels_are_those_of_whole_patches(region: Region):
    source = PatchSource(region, patch_size=3)
    source.fix_levels(at((1, 1)))
    assert source.bands == ["before", "cover=1", "cover=3", "cover=7", "after"]


def test_a_trained_model_brings_its_levels(region: Region):
    source = PatchSource(region, channels=["before", "cover=3", "cover=9", "after"])
    source.fix_levels(TRAINING)
    assert source.bands == ["before", "cover=3", "cover=9", "after"]


def test_patches_are_one_hot(source: PatchSource):
    statistics = source.statistics(TRAINING)
    build = PatchBuilder(source, TRAINING, statistics.mean, statistics.std)
    x = build(torch.arange(4))[:, :, 0, 0]
    assert x[:, 1].tolist() == [1, 0, 1, 0] and x[:, 2].tolist() == [0, 1, 0, 0]


def test_an_unseen_level_and_no_data_are_all_zeros(source: PatchSource):
    statistics, new = source.statistics(TRAINING), at((0, 4), (3, 3), (3, 0))
    x = PatchBuilder(source, new, statistics.mean, statistics.std)(torch.arange(3))
    assert (x[:, 1:3] == 0).all()


@pytest.mark.parametrize("turn", [None, 3])
def test_numbers_beside_are_as_they_would_be_without(source: PatchSource, region: Region, turn: int | None):
    index, plain = torch.arange(4), PatchSource(region)
    turned = None if turn is None else torch.full((4,), turn)
    one = PatchBuilder(source, TRAINING, [3.0, 0, 0, 5], [2.0, 1, 1, 4])(index, turned)
    other = PatchBuilder(plain, TRAINING, [3.0, 0, 5], [2.0, 1, 4])(index, turned)
    torch.testing.assert_close(one[:, [0, 3]], other[:, [0, 2]], rtol=0, atol=0)


def test_levels_are_not_normalised(source: PatchSource):
    statistics = source.statistics(TRAINING)
    assert statistics.mean[1:3] == [0, 0] and statistics.std[1:3] == [1, 1]
    assert statistics.filled[1:3] == [0.25, 0.25]


def test_values_at_points_are_one_hot_too(source: PatchSource):
    values = source.values(at((0, 0), (0, 4), (2, 0)))
    np.testing.assert_array_equal(values[:, 1:3], [[1, 0], [0, 0], [np.nan, np.nan]])
    assert values[:, 3].tolist() == [0, 8, 20]


def test_levels_shift_no_mean(source: PatchSource):
    assert source.shifted(at((0, 4)), [4.0, 50, 50, 8], [1.0, 1, 1, 1]) == []


def test_classes_are_whole_numbers(region: Region):
    write_raster(region.root_path / "cover.tif", [CODES + np.float32(0.5)])
    source = PatchSource(region)
    with pytest.raises(ValueError, match="cover is categorical and holds .* classes are whole numbers"):
        source.fix_levels(TRAINING)


# --- means that lie far off -----------------------------------------------------------------------------


def test_a_band_in_another_unit_is_found(source: PatchSource):
    (shift,) = source.shifted(TRAINING, [283.0, 0, 0, 8.0], [3.0, 1, 1, 9.0])
    assert shift.band == "before" and shift.deviations < -50
    assert "mean 4.5 here, 283 ± 3 in training" in str(shift)


def test_points_at_an_odd_place_of_a_usual_raster_are_let_pass(source: PatchSource):
    assert source.shifted(at((0, 0)), [9.0, 0, 0, 19.0], [0.5, 1, 1, 1.0]) == []


CATEGORIES = """<PAMDataset><PAMRasterBand band="1"><CategoryNames><Category>none</Category>
<Category>forest</Category><Category></Category><Category>lake &amp; mire</Category></CategoryNames>
</PAMRasterBand></PAMDataset>"""
ATTRIBUTES = """<PAMDataset><PAMRasterBand band="1"><GDALRasterAttributeTable>
<FieldDefn index="0"><Name>Value</Name><Type>0</Type><Usage>5</Usage></FieldDefn>
<FieldDefn index="1"><Name>Class</Name><Type>2</Type><Usage>2</Usage></FieldDefn>
<Row index="0"><F>1</F><F>forest</F></Row><Row index="1"><F>3</F><F>lake &amp; mire</F></Row>
<Row index="2"><F>none</F><F>x</F></Row></GDALRasterAttributeTable></PAMRasterBand></PAMDataset>"""


@pytest.mark.parametrize("text", [CATEGORIES, ATTRIBUTES])
def test_names_of_levels_are_those_beside_the_raster(source: PatchSource, region: Region, text: str):
    (region.root_path / "cover.tif.aux.xml").write_text(text)
    assert source.level_names() == {"cover": {1: "forest", 3: "lake & mire"}}
    assert [each.level for each in describe_bands(region, source)] == [None, "forest", "lake & mire", None]


def test_names_in_the_region_go_before_others(region: Region):
    (region.root_path / "cover.tif.aux.xml").write_text(CATEGORIES)
    described = REGION.replace("kind: categorical", "kind: categorical, levels: {1: wood, 7: ice}")
    (region.root_path / "region.yaml").write_text(described)
    source = PatchSource(Region.load(region.root_path))
    source.fix_levels(TRAINING)
    assert source.level_names() == {"cover": {1: "wood", 3: "lake & mire"}}


@pytest.mark.parametrize("text", ["", "<PAM", '<!DOCTYPE a [<!ENTITY b "c">]><PAMDataset/>', "<a/>"])
def test_a_file_of_names_that_is_none_names_nothing(source: PatchSource, region: Region, text: str):
    (region.root_path / "cover.tif.aux.xml").write_text(text)
    assert source.level_names() == {"cover": {}}
