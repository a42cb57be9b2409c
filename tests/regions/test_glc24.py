"""GeoLifeCLEF 2024 and 2025 as region files and recipes: on real files, and on a virtual region."""

import csv
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from glczoo.cli import main
from glczoo.data.occurrences import Points
from glczoo.data.patch_source import PatchSource
from glczoo.data.region import Region
from glczoo.data.tables import read_samples, read_species
from glczoo.data.truth import read_test_points
from glczoo.evaluation.evaluate import evaluate
from glczoo.fit.fit import fit
from glczoo.recipe import read_recipe
from glczoo.regions.virtual import make_virtual
from glczoo.train import train

RECIPES = Path(__file__).parents[2] / "recipes"
SAMPLE = {"glc24": [1322301, 1621686], "glc25": [1027998, 5000108]}  # a training and a test survey
CHANNELS = {
    "glc24": {"landsat": 6, "climate": 4, "sentinel": 4, "bioclim": 19, "elevation": 1, "footprint": 16},
    "glc25": {"landsat": 6, "climate": 4, "sentinel": 4, "bioclim": 19, "elevation": 1, "footprint": 22},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("glc24") / "world"
    make_virtual(folder, layout="glc24", species=12, po=40, pa=60, test=10, size=32, seed=1, progress=False)
    return folder


@pytest.mark.parametrize("name", SAMPLE)
def test_the_channels_are_those_of_the_benchmark(name: str) -> None:
    region = Region.load(RECIPES / "regions" / f"{name}.yaml")
    counted = {modality.name: len(modality.bands) for modality in region.modalities}
    assert counted == CHANNELS[name] | {"landcover": 13, "soil": 9}
    assert region.tables["test"].predicted == "predictions" and list(region.tests) == ["iid", "ood", "glc25"]


@pytest.mark.parametrize("name", SAMPLE)
def test_every_file_of_a_real_survey_is_read(name: str, test_data: Path, monkeypatch) -> None:
    """Cubes and patches of a training and a test survey, whose trees are spelt differently."""
    folder = test_data / "glc24-sample" / f"{name}_pre_extracted"
    monkeypatch.setenv("GLCZOO_DATA", str(folder))
    region = Region.load(RECIPES / "regions" / f"{name}.yaml")
    source = PatchSource(region, ["landsat", "climate", "sentinel"], 64)
    ids = np.array(SAMPLE[name])
    points = Points(np.array([9.7, 18.7]), np.array([56.2, 42.6]), ids, ids)
    assert not any(mask.any() for mask in source.incomplete(points).values())
    statistics = source.statistics(points)
    for first, kind in ((0, "landsat"), (6, "bioclimatic_monthly")):
        cubes = [torch.load(path, weights_only=True) for path in folder.rglob(f"*{kind}*_cube.pt")]
        assert len(cubes) == 2
        low, high = torch.stack(cubes).amin((0, 2, 3)), torch.stack(cubes).amax((0, 2, 3))
        mean = torch.tensor(statistics.mean[first : first + len(low)])
        assert ((low <= mean) & (mean <= high)).all()
    tas, tasmax, tasmin = statistics.mean[7:10]
    assert tasmin < tas < tasmax
    tiffs = list(folder.rglob("*.tiff"))
    if tiffs:
        pixels = np.stack([rasterio.open(path).read().astype(float) for path in tiffs])
        assert np.allclose(statistics.mean[10:], pixels.mean((0, 2, 3)))
    else:
        assert all(0 < mean < 255 for mean in statistics.mean[10:])


@pytest.mark.parametrize(("name", "moved"), [("glc24", []), ("glc25", [3, 6])])
def test_real_metadata_are_read(
    name: str, moved: list[int], test_data: Path, tmp_path: Path, monkeypatch
) -> None:
    """In the sample of 2025 one surveyId was written into rows of three places: they are refused by line."""
    lines = (test_data / "glc24-sample" / f"{name}_pre_extracted" / "metadata.csv").read_text().splitlines()
    monkeypatch.setenv("GLCZOO_DATA", str(tmp_path))
    region = Region.load(RECIPES / "regions" / f"{name}.yaml")
    region.tables["pa"].file[:] = ["metadata.csv"]
    del region.tables["po"]
    if moved:
        (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n")
        with pytest.raises(ValueError, match=r"more than one place, the first at line\(s\) \[3, 6\]"):
            read_samples(region, "pa", read_species(region))
    kept = [line for number, line in enumerate(lines, 1) if number not in moved]
    (tmp_path / "metadata.csv").write_text("\n".join(kept) + "\n")
    vocabulary = read_species(region)
    samples = read_samples(region, "pa", vocabulary)
    rows = list(csv.DictReader(kept))
    assert set(samples.patch_id.tolist()) == {int(row["surveyId"]) for row in rows}
    assert set(vocabulary.ids.tolist()) == {int(float(row["speciesId"])) for row in rows}
    found = {(int(row["surveyId"]), int(float(row["speciesId"]))) for row in rows}
    assert samples.sizes().sum() == len(found)


@pytest.mark.parametrize("name", SAMPLE)
def test_the_virtual_region_is_read_by_the_files_of_the_real_one(name: str, world: Path, monkeypatch) -> None:
    """glc24.yaml finds all of it; of glc25.yaml, whose tables and cubes are spelt otherwise, the TIFFs."""
    monkeypatch.setenv("GLCZOO_DATA", str(world))
    region = Region.load(RECIPES / "regions" / f"{name}.yaml")
    source = PatchSource(region, None if name == "glc24" else ["sentinel"], 16)
    points = read_test_points(Region.load(world))
    assert not any(mask.any() for mask in source.incomplete(points).values())
    assert len(source.bands) == (72 if name == "glc24" else 4)


def small(world: Path, runs: Path) -> list[str]:
    """A recipe in seconds."""
    return [
        f"region={world}", f"runs={runs}", "epochs=1", "patch_size=16", "batch_size=16",
        "model_args.layers=[1,1,1,1]", "model_args.channels=[4,4,4,4]", "data.blocks={size_km: 2, folds: 4}",
        "data.validation={pa: 0.2, po: 0.1}",
    ]  # fmt: skip


def test_recipes_train_score_and_submit(world: Path, tmp_path: Path) -> None:
    """Three steps and the baseline; the truth of the competition; its file."""
    runs = {}
    for name in ("step1", "step2", "step3", "baseline"):
        overrides = small(world, tmp_path) + (["decoding.value=5"] if name in ("step2", "baseline") else [])
        runs[name] = train(read_recipe(RECIPES / "glc24" / f"{name}.yaml", overrides))
    truth = world / "truth/GLC24_SOLUTION_FILE.csv"
    found = evaluate([runs["step3"]], truth=truth)
    assert len(found.samples) == 10 and found.samples.unknown is None and 0 < found.own.f1 < 1
    by_rows = evaluate(
        [runs["step3"]], truth=world / "truth/test_species.csv", region=_by_rows(world, tmp_path)
    )
    assert by_rows.own.f1 == found.own.f1
    out = tmp_path / "submission.csv"
    main(["predict", str(runs["step3"]), "--submission", "--out", str(out)])
    lines = out.read_text().splitlines()
    assert lines[0] == "surveyId,predictions" and len(lines) == 11
    scored = []
    with open(truth, newline="") as file:
        answers = dict(line.split(",") for line in lines[1:])
        for row in csv.DictReader(file):
            true, mine = set(row["target_species_ids"].split()), set(answers[row["surveyId"]].split())
            scored.append(2 * len(true & mine) / (len(true) + len(mine)))
    assert found.own.f1 == pytest.approx(np.mean(scored), abs=1e-6)


def _by_rows(world: Path, folder: Path) -> Region:
    """The same region for a truth of rows, whose id is called Id."""
    table = (world / "GLC24_PA_metadata_test.csv").read_text().replace("surveyId", "Id", 1)
    ids = [line.rsplit(",", 1)[1] for line in table.splitlines()]
    both = [
        f"{line},{number}" for line, number in zip(table.splitlines(), ["surveyId", *ids[1:]], strict=True)
    ]
    (folder / "test.csv").write_text("\n".join(both) + "\n")
    region = Region.load(world)
    region.tables["test"] = region.tables["test"].model_copy(
        update={"file": [str(folder / "test.csv")], "id": "Id"}
    )
    return region


def test_a_fit_of_tabular_models_runs_on_the_packaged_region(
    world: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("GLCZOO_DATA", str(world))
    words = [
        "folds=2",
        "blocks=8",
        "candidates=[points,linear]",
        "records.copies=1",
        "records.epochs_species=1",
    ]
    words += ["records.epochs_sites=1", "forest.trees=5", "linear.iterations=5"]
    fitted = fit(RECIPES / "regions/glc24.yaml", tmp_path / "fit", jobs=1, overrides=words)
    found = evaluate([fitted.folder], truth=world / "truth/GLC24_SOLUTION_FILE.csv")
    assert len(found.samples) == 10 and 0 < found.own.f1 < 1
