"""No output shows a sensitive species finer than it may be shown, whatever the verb."""

import csv
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml

from glczoo.cli import main
from glczoo.data.occurrences import Points, Samples, SpeciesIndex
from glczoo.data.region import Region
from glczoo.data.sensitive import cell_centres, shown_places
from glczoo.data.tables import read_points, read_samples, read_species
from glczoo.prediction import map as mapping
from glczoo.prediction.layers import _training_values
from glczoo.prediction.map import make_map
from glczoo.prediction.place import PlacePredictor
from glczoo.regions import densities
from glczoo.runs.run import Run

KM = 20.0
ONE = 3  # a species of the virtual region


@pytest.fixture(scope="module")
def run(trained_run) -> Path:
    return trained_run("step1", model="test_bioresnet_glc23", seed=0)


def guarded(world: Path, folder: Path, sensitive: dict[int, float]) -> Path:
    """The virtual region, some of its species sensitive."""
    described = yaml.safe_load((world / "region.yaml").read_text())
    described |= {"root": str(world), "sensitive": sensitive}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "region.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def everything(world, tmp_path_factory) -> Path:
    """The region with all of its species sensitive."""
    species = read_species(Region.load(world)).ids.tolist()
    return guarded(world, tmp_path_factory.mktemp("all"), dict.fromkeys(species, KM))


def test_a_submission(run, world, tmp_path):
    region = guarded(world, tmp_path / "region", {ONE: KM})
    out = tmp_path / "submission.csv"
    main(["predict", str(run), "--region", str(region), "--submission", "--out", str(out)])
    with open(out) as file:
        holds = np.array([str(ONE) in row["Predicted"].split() for row in csv.DictReader(file)])
    opened = Region.load(region)
    points = read_points(opened, opened.find(*opened.table("test").file), opened.table("test"))
    number = cell_centres(points, KM)[1]
    assert len(np.unique(number)) < len(points)
    assert all(len(set(holds[number == cell])) == 1 for cell in np.unique(number))


def test_a_change_where_one_of_two_regions_protects_it(run, world, tmp_path, monkeypatch):
    monkeypatch.setattr(mapping, "draw", lambda *_: None)
    region = Region.load(guarded(world, tmp_path / "region", {ONE: KM}))
    asked = {"resolution": 0.05, "bbox": (4.975, 46.825, 5.175, 47.025), "species": [str(ONE)]}
    asked |= {"applicability": False, "masked": False}
    make_map([run], tmp_path / "map", region=region, against=Region.load(world), **asked)
    with rasterio.open(tmp_path / "map/map.tif") as file:
        values = dict(zip(file.descriptions, file.read(), strict=True))
    (change,) = [layer for name, layer in values.items() if name == f"change_{ONE}"]
    assert (change[~np.isnan(change)] == 0).all() and (~np.isnan(change)).any()


def test_the_page_that_is_clicked(run, everything):
    page = PlacePredictor([run], Region.load(everything))
    surveys = read_samples(page.region, "pa", read_species(page.region))
    assert not set(surveys.lon.tolist()) & set(page.places.lon.tolist())
    shown = shown_places(surveys, read_species(page.region))
    assert set(shown.lon.tolist()) <= set(page.places.lon.tolist())
    here, there = Points(np.array([5.05, 5.055]), np.full(2, 46.9), np.full(2, -1), np.arange(2)), []
    assert len(np.unique(cell_centres(here, KM)[1])) == 1
    for lon in here.lon:
        columns = page.at(float(lon), 46.9, top=24).answers.columns
        there.append(dict(zip(columns["speciesId"], columns["probability"], strict=True)))
    assert there[0] == there[1]


def exact(region: Path) -> set[str]:
    """Coordinates of all samples, as texts with four decimals."""
    opened = Region.load(region)
    species = read_species(opened)
    samples = [read_samples(opened, kind, species) for kind in ("po", "pa")]
    return {f"{v:.4f}" for s in samples for v in np.concatenate([s.lon, s.lat])}


def coordinates_in(text: str) -> set[str]:
    """Numbers with four decimals or more, cut to four."""
    return {number[: number.index(".") + 5] for number in re.findall(r"\d+\.\d{4,}", text)}


def test_the_report_and_the_protocol(run, everything, tmp_path):
    page, protocol = tmp_path / "page.html", tmp_path / "odmap.csv"
    words = ["--region", str(everything), "--out", str(page), "--odmap", str(protocol), "--sample", "0"]
    main(["report", str(run), *words])
    text = re.sub(r"<svg.*?</svg>|base64,[^\"']*", "", page.read_text("utf-8"), flags=re.DOTALL)
    assert "training samples: lon" in protocol.read_text("utf-8")
    assert not exact(everything) & coordinates_in(protocol.read_text("utf-8"))
    assert not {f"lon {place}" for place in exact(everything)} & set(re.findall(r"lon \d+\.\d{4}", text))


def test_a_published_folder(run, world, everything, tmp_path, capsys):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    species = SpeciesIndex.load(copied / "species.csv")
    species.guarded(Region.load(everything).sensitive).save(copied / "species.csv")
    main(["save", str(copied), "--out", str(tmp_path / "published")])
    assert "24 sensitive species: glczoo shows them no finer" in capsys.readouterr().err
    files = [path for path in (tmp_path / "published").rglob("*") if path.is_file()]
    texts = [path for path in files if path.suffix != ".safetensors"]
    places = exact(world)
    for path in texts:
        assert not {f"lon {p}" for p in places} & set(re.findall(r"lon \d+\.\d{4}", path.read_text("utf-8")))
    names = {path.name for path in files}
    assert not names & {"po.csv", "pa.csv", "samples.npz"} and "species.csv" in names
    published = Run.load([tmp_path / "published"]).species  # the promise goes along
    assert (published.sensitive_km == KM).all()


def test_densities_of_records(world, tmp_path, monkeypatch):
    region = Region.load(guarded(world, tmp_path / "region", {ONE: KM}))
    species = read_species(region)
    band = species.ids.tolist().index(ONE)

    def written(described: Region, name: str) -> np.ndarray:
        made = densities.write_densities(described, tmp_path / name, [1.5])
        (path,) = (tmp_path / name).rglob(made.modalities[-1].bands[band].file)
        with rasterio.open(path) as file:
            return file.read(made.modalities[-1].bands[band].index)

    ours, fine = written(region, "ours"), written(Region.load(world), "fine")

    def coarse(*words: object) -> Samples:
        return shown_places(read_samples(*words), species)

    monkeypatch.setattr(densities, "read_samples", coarse)
    np.testing.assert_array_equal(ours, written(Region.load(world), "coarse"))
    assert (ours != fine).any()


def test_what_a_dissimilarity_is_measured_from(run, everything):
    opened = Run.find(run).on(Region.load(everything))
    model = opened.model
    samples, values = _training_values(model, model.open(opened.region))
    shown = shown_places(samples, opened.species.guarded(opened.region.sensitive))
    assert (shown.lon != samples.lon).all()
    np.testing.assert_array_equal(values, model.open(opened.region).values(shown))
