"""Maps say what predictions say, whole or interrupted, and where a model is not to be trusted."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from glczoo.cli import main
from glczoo.data.occurrences import Points
from glczoo.data.region import Region
from glczoo.data.sensitive import cell_centres
from glczoo.data.tables import read_points
from glczoo.decoding import expected_f1
from glczoo.prediction import map as mapping
from glczoo.prediction.applicability import Applicability
from glczoo.prediction.cartography import Layer, draw, write_cog
from glczoo.prediction.grids import DEGREES, Grid
from glczoo.prediction.map import make_map
from glczoo.prediction.points import answer
from glczoo.recipe import read_run_recipe
from glczoo.runs.combine import combine
from glczoo.runs.run import Run, load_model
from glczoo.training.initial_model import starting_samples

RECIPES = Path(__file__).parents[2] / "recipes"
BOX = (4.975, 46.825, 5.175, 47.025)
"""A corner of the virtual region: its climate reaches from 5 degrees east and 47 north."""


@pytest.fixture(scope="module")
def runs(trained_run):
    """Two runs that see the climate, one that sees all modalities."""
    climate = [trained_run("step1", model="test_bioresnet_glc23", seed=seed) for seed in (0, 1)]
    return [*climate, trained_run("step1", model="test_fusresnet_glc23", seed=0)]


@pytest.fixture
def no_pictures(monkeypatch):
    """Most of a small map's time, and no matter of its values."""
    monkeypatch.setattr(mapping, "draw", lambda *_: None)


def read(folder: Path) -> dict[str, np.ndarray]:
    with rasterio.open(folder / "map.tif") as file:
        return dict(zip(file.descriptions, file.read(), strict=True))


def test_a_map_is_what_predict_says_at_every_centre(runs, world, tmp_path, no_pictures):
    region, side = Region.load(world), 0.02
    found = make_map(
        runs[:2], tmp_path / "map", resolution=side, bbox=BOX, species=["3", "20", "3"], masked=False
    )
    layers = read(tmp_path / "map")
    col, row = np.meshgrid(np.arange(10), np.arange(10))
    lon, lat = BOX[0] + (col + 0.5) * side, BOX[3] - (row + 0.5) * side
    inside = (lon > 5) & (lat < 47)
    assert 50 < inside.sum() < 100 == found.height * found.width and found.cells == inside.sum()
    points = Points(lon[inside], lat[inside], np.full(inside.sum(), -1), np.arange(inside.sum()))
    each = torch.stack([Run.load([run]).probabilities(points, region) for run in runs[:2]])
    mean, apart = each.mean(0), (each[0] - each[1]).abs() / 2  # the standard deviation of two
    species = load_model(runs[0]).species.ids.tolist()
    a, b = species.index(3), species.index(20)
    expected = {
        "species_3": mean[:, a], "species_20": mean[:, b], "richness": mean.sum(1),
        "set_size": expected_f1(mean).sum(1), "disagreement": apart.sum(1), "disagreement_3": apart[:, a],
        "disagreement_20": apart[:, b],
    }  # fmt: skip
    assert list(layers) == [*expected, "dissimilarity", "applicable"]
    for name, values in expected.items():
        assert layers[name][inside] == pytest.approx(values.numpy(), abs=1e-5), name
        assert np.isnan(layers[name][~inside]).all()
    # The area of applicability, from the training surveys of the run's recipe.
    source = load_model(runs[0]).open(region)
    surveys = starting_samples(read_run_recipe(runs[0])[0], region).training
    near = Applicability(source.values(surveys))
    index = near.dissimilarity(source.values(points))
    assert layers["dissimilarity"][inside] == pytest.approx(index, abs=1e-6)
    assert (layers["applicable"][inside] == (index <= near.threshold)).all()
    assert found.applicable == pytest.approx((index <= near.threshold).mean())
    assert 0 < found.applicable < 1 and found.threshold == near.threshold


def test_a_sensitive_species_is_mapped_no_finer_than_its_kilometres(runs, world, tmp_path, no_pictures):
    region = Region.load(world)
    region.sensitive = {"3": 5.0}
    asked = {"resolution": 0.02, "bbox": BOX, "species": ["3", "20"], "masked": False}
    make_map(runs[:2], tmp_path / "fine", region=Region.load(world), **asked)
    make_map(runs[:2], tmp_path / "coarse", region=region, **asked)
    fine, coarse = read(tmp_path / "fine"), read(tmp_path / "coarse")
    np.testing.assert_array_equal(coarse["species_20"], fine["species_20"])
    col, row = np.meshgrid(np.arange(10), np.arange(10))
    lon, lat = (BOX[0] + (col + 0.5) * 0.02).ravel(), (BOX[3] - (row + 0.5) * 0.02).ravel()
    points = Points(lon, lat, np.full(100, -1), np.arange(100))
    centres, number = cell_centres(points, 5.0)
    model = Run.load(runs[:2])
    there = ~np.any(list(model.unanswerable(centres, region).values()), axis=0)
    values = np.full(len(centres), np.nan, np.float32)
    k = model.species.ids.tolist().index(3)
    values[there] = model.probabilities(centres.at(there), region)[:, k]
    shown = ~np.isnan(coarse["species_3"].ravel()) & ~np.isnan(fine["species_3"].ravel())
    assert 4 < len(np.unique(number[shown])) < shown.sum() / 3
    np.testing.assert_allclose(coarse["species_3"].ravel()[shown], values[number][shown], rtol=1e-4)
    for layer in ("disagreement_3", "richness"):
        assert (coarse[layer] != fine[layer]).any()


def test_points_show_a_sensitive_species_no_finer_than_its_kilometres(runs, world):
    region, model = Region.load(world), Run.load(runs[:1])
    region.sensitive = {3: 50.0}
    lon = np.linspace(5.05, 5.15, 6)
    points = Points(lon, np.full(6, 46.9), np.full(6, -1), np.arange(6))
    _, number = cell_centres(points, 50.0)
    columns = answer(model, points, region, top=24).columns
    mine = columns["speciesId"] == 3
    for cell in np.unique(number):
        here = mine & np.isin(columns["id"], np.flatnonzero(number == cell))
        assert here.any() and len(np.unique(columns["probability"][here])) == 1
    assert len(np.unique(columns["probability"][columns["speciesId"] == 20])) > 1


def test_the_geotiff_is_cloud_optimised_and_says_what_it_is(runs, tmp_path, capsys):
    out = tmp_path / "map"
    box = [str(v) for v in (5, 46.7, 5.3, 47)]
    main(["map", str(runs[0]), "--bbox", *box, "--resolution", "0.0005", "--species", "3", "--out", str(out)])
    assert "map.tif: 600 x 600 cells, 360000 with data" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == [
        "dissimilarity.png", "map.tif", "richness.png", "set_size.png", "species_3.png"
    ]  # fmt: skip
    with rasterio.open(out / "map.tif") as file:
        structure = file.tags(ns="IMAGE_STRUCTURE")
        assert structure["LAYOUT"] == "COG" and structure["COMPRESSION"] == "DEFLATE"
        assert file.block_shapes[0] == (512, 512) and file.overviews(1) == [2]
        assert file.crs == "EPSG:4326" and np.isnan(file.nodata) and file.dtypes[0] == "float32"
        assert file.bounds == pytest.approx((5, 46.7, 5.3, 47)) and file.res == (0.0005, 0.0005)
        assert file.descriptions == ("species_3", "richness", "set_size", "dissimilarity", "applicable")
        assert file.units[:2] == ("probability", "species")
        tags = file.tags()
        assert tags["model"] == load_model(runs[0]).name and tags["software"].startswith("glczoo ")
        assert len(tags["weights_sha256"]) == 64
        assert file.tags(1)["speciesId"] == "3" and float(file.tags(4)["threshold"]) > 0
        # Outside of the area of applicability nothing is predicted; what says so is kept.
        richness, applicable = file.read(2), file.read(5)
        assert (np.isnan(richness) == (applicable == 0)).all() and 0 < applicable.mean() < 1
        assert not np.isnan(file.read(4)).any()
    with pytest.raises(SystemExit, match="holds a map of other arguments; name another folder"):
        main(["map", str(runs[0]), "--bbox", *box, "--resolution", "0.1", "--out", str(out)])


def test_cells_of_one_raster_cell_are_asked_once(runs, tmp_path, monkeypatch, no_pictures):
    step = 1 / 120
    box = (5, 47 - 12 * step, 5 + 12 * step, 47)
    found = make_map(runs[:1], tmp_path / "fine", resolution=step / 10, bbox=box, applicability=False)
    assert found.computed == found.cells == 120 * 120
    assert found.places == 144  # one block: no raster cell stands in two
    monkeypatch.setattr(mapping, "_SIDE", 16)
    make_map(runs[:1], tmp_path / "blocks", resolution=step / 10, bbox=box, applicability=False)
    coarse = make_map(runs[:1], tmp_path / "coarse", resolution=step, bbox=box, applicability=False)
    assert coarse.places == 144 and coarse.applicable is None
    fine, blocks, whole = (read(tmp_path / name)["richness"] for name in ("fine", "blocks", "coarse"))
    assert fine == pytest.approx(np.kron(whole, np.ones((10, 10))), abs=1e-5)
    assert blocks == pytest.approx(fine, abs=1e-5)


def test_killed_and_continued_by_two_processes_is_the_same_map(runs, tmp_path):
    """SIGKILL in the middle; the rest is shared by two processes; every value is bit by bit the same."""
    box = (5, 46.7, 5.3, 47)
    arguments = ["--bbox", *map(str, box), "--resolution", "0.0005", "--no-applicability"]
    command = ["glczoo", "map", str(runs[0]), *arguments, "--out", str(tmp_path / "cut")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    blocks = tmp_path / "cut" / ".map"
    killed = subprocess.Popen(
        [sys.executable, "-m", *command], env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not list(blocks.glob("[0-9]*.npy")) and killed.poll() is None:
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = list(blocks.glob("[0-9]*.npy"))
    assert 0 < len(done) < 25 and not (tmp_path / "cut" / "map.tif").exists()
    with pytest.raises(
        FileExistsError, match="unfinished map of other grid, batch_size: repeat that command"
    ):
        make_map(runs[:1], tmp_path / "cut", resolution=0.001, bbox=box, applicability=False, batch_size=16)
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]
    again = subprocess.run(
        [sys.executable, "-m", *launcher, *command], env=environment, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    make_map(runs[:1], tmp_path / "whole", resolution=0.0005, bbox=box, applicability=False)
    cut, whole = read(tmp_path / "cut"), read(tmp_path / "whole")
    assert list(cut) == list(whole) and not blocks.exists()
    for name in cut:
        assert cut[name].tobytes() == whole[name].tobytes(), name
    assert np.isfinite(whole["richness"]).all()


def test_a_block_that_was_kept_is_not_asked_again(runs, tmp_path, monkeypatch, no_pictures):
    """What the kill above relies on: an interrupted map goes on where it was, and a damaged block is told."""
    monkeypatch.setattr(mapping, "_SIDE", 16)
    arguments = dict(resolution=0.005, bbox=(5, 46.8, 5.2, 47), applicability=False)

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(mapping, "write_cog", full)
        with pytest.raises(OSError, match="No space"):
            make_map(runs[:1], tmp_path, **arguments)
    assert [p.name for p in tmp_path.iterdir()] == [".map"]
    kept = sorted((tmp_path / ".map").glob("*.npy"))
    assert len(kept) == 9
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    with pytest.raises(ValueError, match="is damaged .*; delete it and repeat the command"):
        make_map(runs[:1], tmp_path, **arguments)
    kept[0].unlink()
    assert make_map(runs[:1], tmp_path, **arguments).computed in (64, 128, 256)


def test_an_ensembles_members_disagree_like_runs(runs, tmp_path, no_pictures):
    together = combine(runs[:2], tmp_path / "ensemble")
    arguments = dict(resolution=0.02, bbox=BOX, species=["3"], masked=False)
    make_map(runs[:2], tmp_path / "apart", **arguments)
    make_map([together], tmp_path / "together", **arguments)
    apart, one = read(tmp_path / "apart"), read(tmp_path / "together")
    assert np.nanmin(one["disagreement"]) > 0 and list(apart) == list(one)
    for name in apart:
        assert one[name] == pytest.approx(apart[name], abs=1e-4, nan_ok=True), name


def test_jpeg_bands_are_mapped_at_points_alone(runs, world, tmp_path, capsys, no_pictures):
    arguments = ["--resolution", "0.05", "--out", str(tmp_path / "map"), "--species", "3"]
    with pytest.raises(SystemExit, match="sees the modality satellite, which belongs to samples .* --points"):
        main(["map", str(runs[2]), "--bbox", "5", "46.6", "5.4", "47", *arguments])
    assert not (tmp_path / "map").exists()
    region = Region.load(world)
    test = read_points(region, region.find(*region.table("test").file), region.table("test"))
    rows = [
        f"{p},{lon},{lat}" for p, lon, lat in zip(test.patch_id, test.lon, test.lat, strict=True)
    ]  # fmt: skip
    table = tmp_path / "points.csv"
    table.write_text("\n".join(["patchID,lon,lat", *rows]) + "\n")
    main(["map", str(runs[2]), "--points", str(table), *arguments, "--unmasked"])
    layer = read(tmp_path / "map")["species_3"]
    model = load_model(runs[2])
    answers, species = model.probabilities(test, region), model.species
    values = answers[:, species.ids.tolist().index(3)].numpy()
    with rasterio.open(tmp_path / "map" / "map.tif") as file:
        cells = [file.index(lon, lat) for lon, lat in zip(test.lon, test.lat, strict=True)]
    alone = [i for i, cell in enumerate(cells) if cells.count(cell) == 1]
    assert len(alone) > 5 and np.isfinite(layer).sum() == len(set(cells))
    for i in alone:
        assert layer[cells[i]] == pytest.approx(values[i], abs=1e-5)


def test_a_softmax_has_no_richness(runs, tmp_path, no_pictures):
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    config = json.loads((run / "config.json").read_text())
    config["glczoo"]["activation"] = "softmax"
    (run / "config.json").write_text(json.dumps(config))
    arguments = dict(resolution=0.05, bbox=BOX, applicability=False)
    with pytest.raises(ValueError, match="softmax over species, which has neither a richness"):
        make_map([run], tmp_path / "map", **arguments)
    make_map([run], tmp_path / "map", species=["3"], **arguments)
    assert list(read(tmp_path / "map")) == ["species_3"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(species=["Rosa", "3", "99"]), "--species Rosa 99: the model predicts no such speciesId"),
        (dict(bbox=(20, 40, 21, 41)), r"no cell of the map has data: bio1 reaches from lon 5\.000 to 5\.533"),
        (dict(crs="nonsense"), "there is no CRS 'nonsense'"),
        (
            dict(crs="EPSG:3035", resolution=None, bbox=None),
            "units of EPSG:4326, the map is in EPSG",
        ),
    ],
)
def test_what_cannot_be_mapped(runs, tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        make_map(runs[:1], tmp_path / "map", **(dict(resolution=0.1, bbox=BOX) | given))
    assert not (tmp_path / "map").exists() or not list((tmp_path / "map").iterdir())


def test_without_the_training_surveys_there_is_no_area_of_applicability(runs, world, tmp_path, no_pictures):
    bare = tmp_path / "bare"
    shutil.copytree(world, bare)
    described = Region.load(bare)
    described.find(*described.table("pa").file).unlink()
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    recipe = (run / "recipe.yaml").read_text().replace(str(world), str(bare))
    (run / "recipe.yaml").write_text(recipe)
    with pytest.raises(FileNotFoundError, match="needs the samples .* --no-applicability maps without it"):
        make_map([run], tmp_path / "map", resolution=0.05, bbox=BOX)
    make_map([run], tmp_path / "map", resolution=0.05, bbox=BOX, applicability=False)
    assert "applicable" not in read(tmp_path / "map")


def test_a_picture_has_a_legend_a_scale_and_its_gaps(tmp_path, monkeypatch):
    grid = Grid.cover((5, 0, 6, 1), 0.01, DEGREES)
    layers = [Layer("richness", "Species", "species"), Layer("applicable", "", "")]
    values = np.ones((2, 100, 100), np.float32)
    values[0] = np.linspace(2, 4, 100)
    values[1, :, 50:], values[0, :, 50:] = 0, np.nan  # not applicable
    values[:, 60:] = np.nan  # no data

    def blocks(block):
        return values[:, block.top : block.top + block.height, block.left : block.left + block.width]

    write_cog(tmp_path / "map.tif", grid, layers, blocks, 64, dict)
    texts, saved = [], Figure.savefig

    def spy(figure, *args, **kwargs):
        texts.extend(text.get_text() for axis in figure.axes for text in axis.texts)
        texts.extend(axis.get_title() or axis.get_ylabel() for axis in figure.axes)
        texts.extend(text.get_text() for legend in figure.legends for text in legend.get_texts())
        saved(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", spy)
    draw(tmp_path / "map.png", tmp_path / "map.tif", layers[0], "a model")
    assert texts == ["20 km", "Species", "species", "outside the area of applicability"]
    pixels = imread(tmp_path / "map.png")
    grey = np.isclose(pixels[..., :3], 217 / 255, atol=0.01).all(-1).mean()
    white = (pixels[..., :3] == 1).all(-1).mean()
    coloured = (np.ptp(pixels[..., :3], axis=-1) > 0.1).mean()
    assert 0.1 < grey < 0.3 and white > 0.3 and 0.1 < coloured < 0.4
