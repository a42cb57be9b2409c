"""Blocks, folds and buffers on the sphere, distances against the haversine formula for every pair."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from glczoo.cli import main
from glczoo.data.occurrences import Points
from glczoo.data.region import Region
from glczoo.data.splits import block_folds, leakage, nearest_km, outside_buffer, spatial_blocks
from glczoo.data.tables import read_samples, read_species
from glczoo.evaluation.evaluate import evaluate
from glczoo.recipe import read_recipe, read_run_recipe
from glczoo.regions.check import check_region, check_text
from glczoo.runs.run import load_model
from glczoo.training.initial_model import split_table


def points(lon: np.ndarray, lat: np.ndarray) -> Points:
    number = np.arange(len(lon))
    return Points(np.asarray(lon, float), np.asarray(lat, float), number, number)


def scattered(num: int, seed: int = 0) -> Points:
    random = np.random.default_rng(seed)
    return points(random.uniform(-10, 30, num), random.uniform(35, 70, num))


def haversine(a: Points, b: Points) -> np.ndarray:
    """Kilometres between all pairs, [len(a), len(b)]."""
    lat_a, lat_b = np.radians(a.lat)[:, None], np.radians(b.lat)
    half = (lat_a - lat_b) / 2, np.radians(a.lon[:, None] - b.lon) / 2
    h = np.sin(half[0]) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin(half[1]) ** 2
    return 2 * 6371.0088 * np.arcsin(np.sqrt(h))


@pytest.mark.parametrize("num", [1, 31, 33, 1000])
def test_nearest_equals_all_pairs(num: int) -> None:
    a, b = scattered(300), scattered(num, 1)
    np.testing.assert_allclose(nearest_km(a, b), haversine(a, b).min(1), rtol=1e-9)


def test_nearest_among_crowds_twins_and_across_the_seam() -> None:
    random = np.random.default_rng(0)
    lon = np.concatenate([random.normal(5, 1e-3, 500), np.full(300, 7.0), random.uniform(-180, 180, 700)])
    lat = np.concatenate([random.normal(45, 1e-3, 500), np.full(300, 46.0), random.uniform(-90, 90, 700)])
    crowd = points(lon, lat)
    for here in (crowd, scattered(200), points([179.99, -179.99, 0, 7], [0, 0, 90, 46])):
        # To a millimetre: float64 leaves no more of the distance of twins.
        np.testing.assert_allclose(
            nearest_km(here, crowd), haversine(here, crowd).min(1), rtol=1e-6, atol=1e-6
        )
    west, east = points([-179.99], [10.0]), points([179.99], [10.0])
    assert nearest_km(west, east)[0] == pytest.approx(0.02 * 111.195 * np.cos(np.radians(10)), rel=1e-4)
    assert nearest_km(west, points([], []))[0] == np.inf and len(nearest_km(points([], []), west)) == 0


@pytest.mark.parametrize("size", [20, 150])
def test_blocks_are_as_large_as_they_say(size: float) -> None:
    many = scattered(4000)
    block = spatial_blocks(many, size)
    assert sorted(set(block)) == list(range(block.max() + 1))
    diagonals = [haversine(many.at(block == b), many.at(block == b)).max() for b in np.unique(block)[::7]]
    assert max(diagonals) < 1.1 * np.sqrt(2) * size
    # Points fill an area of known size: so many blocks, and some more at its edges.
    area = np.radians(40) * (np.sin(np.radians(70)) - np.sin(np.radians(35))) * 6371.0088**2
    if size == 150:
        assert area / size**2 < block.max() + 1 < 1.3 * area / size**2


def test_blocks_hold_at_poles_and_at_the_seam() -> None:
    block = spatial_blocks(points([0, 180, -180, 10, 190 - 360], [90, 90, -90, 0, 0]), 500)
    assert block[0] == block[1]  # a pole is one place
    lon = np.array([179.99, 180, -180, -179.99])
    assert len(set(spatial_blocks(points(lon, lon * 0 + 1), 100).tolist())) == 2


def test_folds_keep_blocks_whole_and_are_balanced() -> None:
    many = scattered(3000)
    fold, block = block_folds(many, 100, 5), spatial_blocks(many, 100)
    assert all(len(set(fold[block == b])) == 1 for b in np.unique(block))
    sizes = np.bincount(fold)
    assert len(sizes) == 5 and sizes.max() - sizes.min() <= np.bincount(block).max()
    assert (
        np.array_equal(fold, block_folds(many, 100, 5)) and (fold != block_folds(many, 100, 5, seed=1)).any()
    )


def test_no_point_that_trains_lies_within_the_buffer() -> None:
    many = scattered(2000)
    held_out = block_folds(many, 200, 4) == 2
    kept = outside_buffer(many, held_out, 30)
    before = leakage(many.at(~held_out), many.at(held_out), 30)
    after = leakage(many.at(kept), many.at(held_out), 30)
    distance = haversine(many, many.at(held_out)).min(1)
    assert np.array_equal(kept, ~held_out & (distance >= 30)) and kept.sum() < (~held_out).sum()
    assert before.nearest_km == pytest.approx(distance[~held_out].min()) and before.nearest_km < 30
    near = haversine(many.at(held_out), many.at(~held_out)).min(1) < 30
    assert before.within == near.sum() > 0
    assert after.nearest_km >= 30 and after.within == 0
    assert leakage(many.at(kept), many.at(np.zeros(2000, bool)), 30).nearest_km == np.inf


def test_what_makes_no_folds_is_refused() -> None:
    with pytest.raises(ValueError, match="size of a block is -1 km"):
        spatial_blocks(scattered(9), -1)
    with pytest.raises(ValueError, match="3 folds of [12] blocks of 20000 km"):
        block_folds(scattered(9), 20000, 3)
    with pytest.raises(ValueError, match="1 folds of .* at least two folds"):
        block_folds(scattered(9), 10, 1)


RECIPE = Path(__file__).parents[2] / "recipes" / "step1.yaml"
TINY = ["model=test_fusresnet_glc23", "init=random", "patch_size=8", "batch_size=16", "epochs=1"]
BLOCKS = ["data.split=blocks", "data.blocks={size_km: 12, folds: 3, fold: 1, buffer_km: 6}"]


def test_a_recipe_holds_out_blocks_and_keeps_the_sides_apart(world):
    region = Region.load(world)
    recipe = read_recipe(RECIPE, [f"region={world}", *BLOCKS])
    vocabulary = read_species(region)
    everything = read_samples(region, "pa", vocabulary)
    split = split_table(recipe, region, "pa", vocabulary)
    fold = block_folds(everything, 12, 3, recipe.data.seed)
    assert np.array_equal(np.sort(split.test.ids), everything.ids[fold == 1])
    for judge in (split.test, split.validation):
        assert len(judge) and leakage(split.train, judge, 6.0).within == 0
    # Whole blocks validate, about the share that is asked for; what the buffer takes is in no part.
    block = dict(zip(everything.ids, spatial_blocks(everything, 12), strict=True))
    sides = [{block[i] for i in part.ids} for part in (split.train, split.validation)]
    assert not sides[0] & sides[1] and len(split.validation) < 0.5 * len(split.train)
    assert len(split.train) + len(split.validation) + len(split.test) < len(everything)
    with pytest.raises(ValueError, match="fold 3 of 3"):
        read_recipe(RECIPE, [f"region={world}", *BLOCKS, "data.blocks.fold=3"])
    with pytest.raises(ValueError, match="blocks of 5000.0 km"):
        split_table(
            read_recipe(RECIPE, [f"region={world}", *BLOCKS, "data.blocks.size_km=5000"]),
            region,
            "pa",
            vocabulary,
        )


def test_crossval_judges_every_survey_once_and_makes_one_model(world, tmp_path, capsys):
    given = [str(RECIPE), f"region={world}", f"runs={tmp_path}", *TINY, "data.blocks={size_km: 12, folds: 2}"]
    main(["crossval", *given, "--json", str(tmp_path / "c.json")])
    found = json.loads((tmp_path / "c.json").read_text())
    assert "their ensemble" in capsys.readouterr().out
    assert found["surveys"] == 120 == sum(row["surveys"] for row in found["rows"])
    mean, low, high = found["f1"]
    assert (
        mean == pytest.approx(sum(row["f1"] * row["surveys"] for row in found["rows"]) / 120)
        and low < mean < high
    )
    members = [load_model(tmp_path / f"virtual/test_fusresnet_glc23/step1-fold{i}") for i in (0, 1)]
    ensemble = load_model(found["ensemble"])
    x = torch.randn(2, 33, 8, 8)
    with torch.no_grad():
        each = [member.model(x).sigmoid() for member in members]
        torch.testing.assert_close(ensemble.model(x).sigmoid(), (each[0] + each[1]) / 2)
    assert not torch.equal(each[0], each[1])
    with pytest.raises(ValueError, match="there are no validation surveys"):  # all of them trained a member
        evaluate([found["ensemble"]])
    step3 = [str(RECIPE.with_name("step3.yaml")), *given[1:], "init=step1"]
    main(["crossval", *step3])
    for i in (0, 1):
        told = read_run_recipe(tmp_path / f"virtual/test_fusresnet_glc23/step3-fold{i}")[0]
        assert (told.init, told.data.blocks.fold) == (f"step1-fold{i}", i)


def test_region_check_tells_how_near_a_fixed_split_comes(world, tmp_path):
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
    found = check_region(Region.load(folder), progress=False, buffer_km=3.0)
    assert found["split"]["nearest_km"] == pytest.approx(nearest.min())
    assert found["split"]["within"] == (nearest < 3.0).sum() > 0 and found["split"]["held_out"] == held.sum()
    told = f"split: {(nearest < 3.0).sum()} of {held.sum()} held-out surveys lie within 3 km"
    assert told in check_text(found) and any(line.startswith(told) for line in found["problems"])
    assert not any(
        "held-out" in line for line in check_region(Region.load(folder), progress=False)["problems"]
    )
