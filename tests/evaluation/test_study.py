"""Studies: ours are whole, one runs in two processes, and its forest is a run as any other."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from glczoo.data.region import Region
from glczoo.decoding import Decoding
from glczoo.evaluation.evaluate import evaluate
from glczoo.evaluation.study import Interval, StudyTable, read_study, run_study
from glczoo.losses import LOSSES
from glczoo.recipe import read_run_recipe
from glczoo.runs.run import Run, load_model
from glczoo.train import train

ROOT = Path(__file__).parents[2]


def test_studies_are_whole():
    studies = sorted((ROOT / "recipes" / "studies").glob("*.yaml"))
    studies.remove(ROOT / "recipes" / "studies" / "nceas.yaml")  # of another form: see test_nceas.py
    assert [path.stem for path in studies] == [
        "ablations", "finetune", "glc24_virtual", "losses", "swiss_best", "swiss_trees", "table3", "table4",
    ]  # fmt: skip
    by_name = {path.stem: path for path in studies}
    for path in studies:
        study = read_study(path)
        recipes = {name: study.recipe(name, seed=1) for name in study.runs}
        for name, recipe in recipes.items():
            assert (recipe.name, recipe.seed) == (name, 1)
            for sibling in recipe.predecessors:  # it lies beside, and is trained before: of the same model
                before = recipes.get(sibling)
                assert before is None or before.model == recipe.model
                assert before is None or list(recipes).index(sibling) < list(recipes).index(name)
    assert read_study(by_name["ablations"]).recipe("pseudo", 0).predecessors == ["s12", "s123"]
    forest = read_study(by_name["swiss_best"]).recipe("forest_all", 0)
    assert (forest.model, forest.init) == ("forest_glc23", "../quadratic_glc23/records")
    assert set(read_study(by_name["losses"]).rows) == set(LOSSES) - {"bce"}
    table3, table4 = by_name["table3"], by_name["table4"]
    models = {name: read_study(table3).recipe(name, 0) for name in ("early3", "late34_3", "late50_3")}
    assert [r.model for r in models.values()] == [
        "bioresnet50_glc23",
        "fusresnet34_glc23",
        "fusresnet50_glc23",
    ]
    assert all(recipe.decoding.fixed() == Decoding("top_k", 20) for recipe in models.values())
    steps = {name: read_study(table4).recipe(name, 0) for name in read_study(table4).runs}
    assert {name: r.init for name, r in steps.items()} == {
        "s1": "imagenet", "s2": "imagenet", "s12": "s1", "s23": "s2", "s123": "s12",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["table3", "table4"])
def test_the_papers_tables_load_for_swiss_trees(name):
    path = ROOT / "recipes" / "studies" / f"{name}.yaml"
    given = [
        f"recipes={ROOT / 'recipes' / 'swiss_trees'}",
        *(f"models.{m}={{}}" for m in read_study(path).models),
    ]
    study = read_study(path, given)
    for run in study.runs:
        recipe = study.recipe(run, 0)
        assert recipe.region.endswith("swiss_trees.yaml") and recipe.data.split == "file"


def test_table_4_runs_on_a_virtual_region_in_two_processes(world, tmp_path):
    path = ROOT / "recipes" / "studies" / "table4.yaml"
    model = "{model: test_fusresnet_glc23, init: random}"
    given = [f"models.{name}={model}" for name in ("one", "first")]
    given += [
        f"region={world}",
        f"runs={tmp_path}",
        "epochs=1",
        "batch_size=40",
        "patch_size=8",
        "block_km=20",
    ]
    given += ["data.validation={pa: 0.2, po: 0.8}", "seeds=[3]"]
    truth = world / "truth" / "test_species.csv"
    table = run_study(path, given, truth, jobs=2)
    assert [row.row for row in table.rows] == ["1", "2", "1+2", "2+3", "1+2+3"] and table.surveys == 40
    means = {row.row: row.means for row in table.rows}
    for line in table.differences:
        for rule in ("f1", "f1_expected"):
            interval: Interval = getattr(line, rule)
            assert interval.mean == pytest.approx(means[line.row][rule] - means[line.minus][rule], abs=1e-6)
            assert interval.low <= interval.mean <= interval.high
    text = (tmp_path / "table4" / "table.md").read_text()
    assert "| 1+2+3 − 1 " in text and "blocks of 20 km" in text and text.count("[") == 7
    runs = {name: tmp_path / "table4/seed3/virtual/test_fusresnet_glc23" / name for name in ("s1", "s12")}
    again = read_run_recipe(runs["s12"])[0].model_copy(update={"runs": str(tmp_path / "again")})
    shutil.copytree(runs["s1"], again.run_folder(Region.load(world), "s1"))
    alone, together = (load_file(run / "model.safetensors") for run in (train(again), runs["s12"]))
    assert all(torch.equal(alone[key], together[key]) for key in alone)  # processes change no number


def test_a_study_that_names_no_such_run(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("name: s\nruns: {a: {recipe: r.yaml}}\nrows: {one: [a, b]}\n")
    with pytest.raises(ValueError, match=r"rows name the runs \['b'\], there are \['a'\]"):
        read_study(path)
    path.write_text("name: s\nruns: {a: {recipe: r.yaml, model: m}}\nrows: {one: [a]}\npairs: [[one, two]]\n")
    with pytest.raises(ValueError, match=r"runs name the models \['m'\], there are \[\]"):
        read_study(path)
    with pytest.raises(ValueError, match=r"pairs name the rows \['two'\], there are \['one'\]"):
        read_study(path, ["models.m={}"])


def write_study(folder: Path, runs: str = "a") -> Path:
    """A study of one run of step 1 beside a forest."""
    path = folder / "study.yaml"
    path.write_text(
        f"name: small\nrecipes: {ROOT / 'recipes'}\nruns: {{{runs}: {{recipe: step1.yaml}}}}\n"
        f"rows: {{one: [{runs}]}}\nanchors: [random_forest, commonest]\n"
        'pairs: [[one, "random forest on PA, values at the point"]]\n'
    )
    return path


@pytest.fixture(scope="module")
def anchored(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyTable, Path]:
    """The table of a study with a forest, and its folder."""
    folder = tmp_path_factory.mktemp("anchored")
    small = ["model=test_fusresnet_glc23", "init=random", "epochs=1", "batch_size=40", "top_k=5"]
    table = run_study(write_study(folder), [f"region={world}", f"runs={folder}", *small])
    return table, folder / "small"


def test_the_anchor_is_a_run_of_the_forest(anchored):
    table, folder = anchored
    run = folder / "seed0/virtual/forest_glc23/random_forest"
    row = evaluate([run]).own
    assert table.f1("random forest on PA, values at the point") == pytest.approx(row.f1)
    assert load_model(run).decoding.rule == "top_k"


def test_the_anchors_trees_are_grown_on_the_runs_surveys(anchored):
    _, folder = anchored
    runs = folder / "seed0/virtual"
    forest, other = (
        read_run_recipe(runs / name)[0] for name in ("forest_glc23/random_forest", "test_fusresnet_glc23/a")
    )
    assert forest.data.model_dump() == other.data.model_dump() and forest.modalities == other.modalities


def test_the_commonest_species_are_a_row(anchored):
    """The slow way, from counts of the training surveys."""
    table, folder = anchored
    run = Run(folder / "seed0/virtual/test_fusresnet_glc23/a")
    training, judged = run.samples("train"), run.samples("validation")
    counts = np.bincount(training.species, minlength=len(run.species))
    commonest = set(np.argsort(-counts, kind="stable")[:25].tolist())
    f1 = []
    for start, stop in zip(judged.offsets[:-1], judged.offsets[1:], strict=True):
        found = set(judged.species[start:stop].tolist())
        f1.append(2 * len(found & commonest) / (len(found) + len(commonest)))
    assert table.f1("the 25 commonest species") == pytest.approx(np.mean(f1))
    assert table.rows[-1].row == "the 25 commonest species"


def test_the_table_keeps_its_keys(anchored):
    table, folder = anchored
    values = json.loads((folder / "table.json").read_text())
    assert list(values) == [
        "name", "part", "surveys", "species_per_survey", "seeds", "rows", "each", "differences", "block_km",
    ]  # fmt: skip
    assert values["rows"][0]["f1"] == table.f1("one") and "f1_sd" in values["rows"][0]
    assert values["each"][0]["members"] == 1 and values["each"][0]["rule"] == "top 5"
    assert values["differences"][0]["f1"] == list(table.differences[0].f1)


def test_no_run_may_have_the_anchors_name(tmp_path):
    with pytest.raises(ValueError, match="the anchor random_forest needs this name"):
        read_study(write_study(tmp_path, "random_forest"))
