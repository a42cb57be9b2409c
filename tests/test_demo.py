"""The demo and the README's first snippet, as a newcomer meets them."""

import csv
import re
import shutil
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from safetensors.torch import load_file

from glczoo import demo as demo_module
from glczoo.data.region import Region
from glczoo.decoding import Decoding
from glczoo.demo import demo
from glczoo.evaluation.study import read_study, run_study
from glczoo.losses import LOSSES
from glczoo.recipe import read_run_recipe
from glczoo.train import train

ROOT = Path(__file__).parent.parent


def test_the_demo_makes_everything_it_names_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    small = {"species": 20, "po": 200, "pa": 60, "test": 30, "size": 64, "grid": 6, "patch_size": 16}
    short = {name: told | {"epochs": 1} for name, told in demo_module._RECIPES.items()}
    monkeypatch.setattr(demo_module, "_WORLD", small)
    monkeypatch.setattr(demo_module, "_RECIPES", short)
    report = demo(tmp_path / "demo", seed=3).read_text()
    for row in ("baseline, one branch", "1, three branches", "1+2+3, one branch", "ensemble of the two"):
        assert f"| {row}" in report
    assert re.search(r"three steps beat step 1 \| 0\.\d{3} → 0\.\d{3} \| (yes|level|NO)", report)
    assert imread(tmp_path / "demo" / "demo.png").shape[0] > 500
    with open(tmp_path / "demo" / "submission.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30 and list(rows[0]) == ["Id", "Predicted"]
    capsys.readouterr()
    demo(tmp_path / "demo", seed=3)
    printed = capsys.readouterr().out
    assert printed.count("is finished already") == 7 and "epoch 1/1" not in printed


def test_studies_are_whole():
    studies = sorted((ROOT / "recipes" / "studies").glob("*.yaml"))
    assert [path.stem for path in studies] == [
        "ablations", "finetune", "losses", "swiss_best", "swiss_trees", "table3", "table4",
    ]  # fmt: skip
    for path in studies:
        study = read_study(path)
        recipes = {name: study.recipe(name, seed=1) for name in study.runs}
        for name, recipe in recipes.items():
            assert (recipe.name, recipe.seed) == (name, 1)
            for sibling in recipe.predecessors:  # it lies beside, and is trained before: of the same model
                before = recipes.get(sibling)
                assert before is None or before.model == recipe.model
                assert before is None or list(recipes).index(sibling) < list(recipes).index(name)
    assert read_study(studies[0]).recipe("pseudo", 0).predecessors == ["s12", "s123"]
    forest = read_study(studies[3]).recipe("forest_all", 0)
    assert (forest.model, forest.init) == ("forest_glc23", "../quadratic_glc23/records")
    assert set(read_study(studies[2]).rows) == set(LOSSES) - {"bce"}
    table3, table4 = studies[5:]
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
    assert [row["row"] for row in table["rows"]] == ["1", "2", "1+2", "2+3", "1+2+3"] and table[
        "surveys"
    ] == 40
    f1 = {row["row"]: row for row in table["rows"]}
    for line in table["differences"]:
        for rule in ("f1", "f1_expected"):
            mean, low, high = line[rule]
            assert mean == pytest.approx(f1[line["row"]][rule] - f1[line["minus"]][rule], abs=1e-6)
            assert low <= mean <= high
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


def test_the_readme_snippet_prints_what_it_says(capsys):
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert snippet is not None
    exec(compile(snippet.group(1), "README.md", "exec"), {})
    assert "torch.Size([1, 20])" in capsys.readouterr().out
