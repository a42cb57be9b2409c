"""Maps of change: what is there then and not before, and what no training place was like."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from glczoo.cli import main
from glczoo.data.occurrences import Points
from glczoo.data.region import Region
from glczoo.decoding import expected_f1
from glczoo.prediction import map as mapping
from glczoo.prediction.layers import training_range
from glczoo.prediction.map import make_map
from glczoo.recipe import read_recipe
from glczoo.regions.virtual import make_virtual
from glczoo.runs.run import Run
from glczoo.train import train

RECIPES = Path(__file__).parents[2] / "recipes"
GUIDE = Path(__file__).parents[2] / "docs" / "another_climate.py"
BOX = (5.0, 46.9, 5.1, 47.0)
SIDE = 0.01


@pytest.fixture(scope="module")
def region(tmp_path_factory) -> Path:
    """A virtual region, and the same seven kelvins warmer: further than most of its training places."""
    folder = tmp_path_factory.mktemp("warmer") / "region"
    make_virtual(folder, species=12, po=60, pa=60, test=5, size=32, grid=4, warming=7, progress=False)
    return folder


@pytest.fixture(scope="module")
def run(region, tmp_path_factory) -> Path:
    keys = [f"region={region}", f"runs={tmp_path_factory.mktemp('runs')}", "model=test_bioresnet_glc23"]
    keys += ["init=random", "patch_size=8", "epochs=3", "batch_size=16", "top_k=2", "optimizer.lr=1e-2"]
    return train(read_recipe(RECIPES / "step1.yaml", keys))


@pytest.fixture(scope="module")
def regions(region) -> tuple[Region, Region]:
    """Now, and then."""
    return Region.load(region / "region.yaml"), Region.load(region / "warmer.yaml")


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(mapping, "draw", lambda *_: None)


def read(folder: Path) -> dict[str, np.ndarray]:
    with rasterio.open(folder / "map.tif") as file:
        return dict(zip(file.descriptions, file.read(), strict=True))


def centres() -> Points:
    col, row = np.meshgrid(np.arange(10), np.arange(10))
    lon, lat = BOX[0] + (col.ravel() + 0.5) * SIDE, BOX[3] - (row.ravel() + 0.5) * SIDE
    return Points(lon, lat, np.full(100, -1), np.arange(100))


@pytest.fixture
def changed(run, regions, tmp_path, no_pictures) -> dict[str, np.ndarray]:
    """A map of change with all that the model says, masked or not."""
    now, then = regions
    make_map([run], tmp_path / "m", resolution=SIDE, bbox=BOX, species=["3"], region=then, against=now,
             masked=False)  # fmt: skip
    return read(tmp_path / "m")


def both(run, regions) -> list[np.ndarray]:
    model = Run.load([run])
    return [model.probabilities(centres(), region).numpy() for region in regions]


def column(run) -> int:
    return Run.load([run]).species.ids.tolist().index(3)


def test_change_is_the_probability_then_less_that_before(run, regions, changed):
    before, then = both(run, regions)
    difference = (then - before)[:, column(run)].reshape(10, 10)
    assert np.abs(difference).max() > 1e-3
    np.testing.assert_allclose(changed["change_3"], difference, atol=1e-5)


def test_richness_change_is_that_of_the_sum_over_species(run, regions, changed):
    before, then = both(run, regions)
    np.testing.assert_allclose(changed["richness_change"].ravel(), (then - before).sum(1), atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "turn"),
    [
        ("gain", lambda then, before: then & ~before),
        ("loss", lambda then, before: before & ~then),
        ("stable", lambda then, before: then & before),
    ],
)
def test_species_are_gained_lost_or_stay_in_the_predicted_set(run, regions, changed, layer, turn):

    before, then = (expected_f1(torch.from_numpy(p)).numpy() for p in both(run, regions))
    expected = turn(then, before)
    np.testing.assert_array_equal(changed[layer].ravel(), expected.sum(1))
    np.testing.assert_array_equal(changed[f"{layer}_3"].ravel(), expected[:, column(run)])


def test_nothing_changes_against_the_same_region(run, regions, tmp_path, no_pictures):
    now, _ = regions
    make_map([run], tmp_path / "m", resolution=SIDE, bbox=BOX, species=["3"], region=now, against=now,
             masked=False)  # fmt: skip
    layers = read(tmp_path / "m")
    assert not layers["change_3"].any() and not layers["gain"].any() and not layers["loss"].any()


def test_what_no_training_place_was_like_is_masked(run, regions, changed, tmp_path, no_pictures):
    now, then = regions
    result = make_map(
        [run], tmp_path / "masked", resolution=SIDE, bbox=BOX, species=["3"], region=then, against=now
    )
    layers = read(tmp_path / "masked")
    outside = layers["applicable"] == 0
    assert 0 < outside.sum() and result.applicable == pytest.approx(1 - outside.mean())
    assert (np.isnan(layers["change_3"]) == outside).all()
    assert (layers["dissimilarity"][~outside] <= result.threshold).all()
    assert np.isfinite(changed["change_3"]).all()


def test_a_place_is_applicable_only_if_it_is_so_both_times(run, regions, changed, tmp_path, no_pictures):
    for name, region in zip(("now", "then"), regions, strict=True):
        make_map([run], tmp_path / name, resolution=SIDE, bbox=BOX, region=region, masked=False)
    now, then = (read(tmp_path / name)["applicable"] for name in ("now", "then"))
    np.testing.assert_array_equal(changed["applicable"], now * then)


def test_clamped_bands_stay_within_the_training_samples(run, regions, tmp_path, no_pictures):
    now, then = regions
    make_map([run], tmp_path / "m", resolution=SIDE, bbox=BOX, species=["3"], region=then, clamp=True)
    layers = read(tmp_path / "m")
    model = Run.load([run])
    build = model.builder(centres(), then)

    x = build(torch.arange(100))
    low, high = training_range(model, model.open(then))
    assert ((x < low) | (x > high)).any()
    expected = model.predict_patches(torch.minimum(torch.maximum(x, low), high))[:, column(run)]
    np.testing.assert_allclose(layers["species_3"].ravel(), expected.numpy(), atol=1e-5)
    assert np.isfinite(layers["species_3"]).all()  # clamped instead of masked


def test_the_range_is_that_of_the_values_at_training_samples(run, regions):
    model = Run.load([run])
    low, high = training_range(model, model.open(regions[0]))
    assert low.shape == (19, 1, 1) and (low < high).all() and (low <= 0).all() and (high >= 0).all()


def test_the_command_maps_change(run, region, tmp_path, capsys):
    arguments = ["--region", str(region / "warmer.yaml"), "--against", str(region), "--species", "3"]
    arguments += ["--unmasked", "--resolution", "0.02", "--bbox", *map(str, BOX)]
    out = tmp_path / "m"
    main(["map", str(run), *arguments, "--out", str(out)])
    assert "% of them lie in the area of applicability" in capsys.readouterr().out
    assert {"change_3.png", "gain.png", "loss.png", "stable.png", "richness_change.png"} <= {
        path.name for path in out.iterdir()
    }
    with rasterio.open(out / "map.tif") as file:
        assert file.tags()["against"] == "virtual"


def test_an_unfinished_map_of_one_region_is_no_part_of_a_map_of_change(run, regions, tmp_path, monkeypatch):
    now, then = regions
    monkeypatch.setattr(mapping, "_assemble", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_map([run], tmp_path / "m", resolution=SIDE, bbox=BOX, region=then)
    with pytest.raises(FileExistsError, match="an unfinished map of other .*against"):
        make_map([run], tmp_path / "m", resolution=SIDE, bbox=BOX, region=then, against=now)


def test_the_guide_compares_a_map_with_the_truth(run, regions, region, tmp_path, no_pictures):
    now, then = regions
    grid = region / "truth" / "grid.csv"
    make_map([run], tmp_path / "m", resolution=0.005, points=grid, region=then, against=now, masked=False)
    table = runpy.run_path(str(GUIDE))["compare"](region, tmp_path / "m").splitlines()
    places = [int(line.split("|")[2]) for line in table[2:]]
    assert sum(places) == 16 and len(places) == 2
    with np.load(region / "truth" / "probabilities.npz") as truth:
        true = (truth["grid_warmer"] - truth["grid"]).sum(1)
    means = [float(line.split("|")[4]) for line in table[2:]]
    assert np.dot(places, means) / 16 == pytest.approx(true.mean(), abs=0.01)
