"""Blocks, folds and buffers on the sphere, distances against the haversine formula for every pair."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_occurrences import PA, as_sets, made, region

from glczoo.data.occurrences import Points
from glczoo.data.region import Region
from glczoo.data.splits import (
    Split,
    block_folds,
    leakage,
    nearest_km,
    outside_buffer,
    spatial_blocks,
    split_samples,
)
from glczoo.data.tables import read_folds, read_samples, read_species
from glczoo.recipe import read_recipe
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


# --- splits ---------------------------------------------------------------------------------------------

MANY = made([{i % 5} for i in range(200)])


def ids(split: Split) -> list[set[int]]:
    return [set(part.ids.tolist()) for part in (split.train, split.validation, split.test)]


def test_a_random_split_is_80_20_seeded_and_disjoint(tmp_path: Path) -> None:
    described = region(tmp_path, pa=PA)
    split = split_samples(described, MANY, kind="random", validation=0.2, seed=3)
    train, validation, test = ids(split)
    assert (len(train), len(validation), len(test)) == (160, 40, 0)
    assert train | validation == set(range(200))
    assert as_sets(split.validation) == [(10 * i, {i % 5}) for i in sorted(validation)]
    assert ids(split_samples(described, MANY, kind="random", validation=0.2, seed=3)) == ids(split)
    assert ids(split_samples(described, MANY, kind="random", validation=0.2, seed=4)) != ids(split)


def with_folds(folder: Path, rank: str | None = "u", **keys: object) -> Region:
    lines = [f"{10 * i};{i % 5};{(i * 37 % 200) / 200}" for i in reversed(range(200))]
    (folder / "split.csv").write_text("\n".join(["siteId;fold;u", *lines]) + "\n")
    described = {"file": "split.csv", "patch": "siteId", "fold": "fold", "rank": rank, "test": [0, 3]} | keys
    return region(folder, pa=PA, split=described)


@pytest.mark.parametrize("rank", ["u", None])
def test_a_split_from_file_holds_its_folds_out(tmp_path: Path, rank: str | None) -> None:
    described = with_folds(tmp_path, rank)
    wholes = []
    for fraction in (0.1, 0.3, 1.0):
        train, validation, test = ids(
            split_samples(described, MANY, kind="file", validation=0.2, fraction=fraction, seed=1)
        )
        assert test == {i for i in range(200) if i % 5 in (0, 3)}
        assert not train & validation and not (train | validation) & test
        assert len(validation) == round(0.2 * len(train | validation))
        wholes.append(train | validation)
        if rank:
            assert train | validation == {i for i in set(range(200)) - test if i * 37 % 200 < 200 * fraction}
    assert wholes[0] < wholes[1] < wholes[2] and len(wholes[2]) == 120


def test_a_random_fraction_is_nested(tmp_path: Path) -> None:
    described = region(tmp_path, pa=PA)
    wholes = []
    for fraction in (0.2, 0.5):
        train, validation, _ = ids(
            split_samples(described, MANY, kind="random", validation=0.2, fraction=fraction, seed=0)
        )
        wholes.append(train | validation)
        assert abs(len(wholes[-1]) - 200 * fraction) < 25
    assert wholes[0] < wholes[1]


def test_folds_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="describes no split from file; set data.split=random"):
        read_folds(region(tmp_path, pa=PA), MANY)
    with pytest.raises(ValueError, match=r"split\.csv: 2 surveys are not in the split, .* \[5, 9990\]"):
        read_folds(with_folds(tmp_path), replace(made([{1}] * 3), patch_id=np.array([10, 5, 9990])))
    with pytest.raises(ValueError, match=r"split\.csv: column \['block'\] is missing"):
        read_folds(with_folds(tmp_path, fold="block"), MANY)
