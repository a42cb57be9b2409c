"""Evaluation and prediction agree with the slow way, with each other, and across processes."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from glczoo.cli import main
from glczoo.data.region import Region
from glczoo.data.tables import read_points
from glczoo.decoding import Decoding, tune_by_source
from glczoo.evaluation.evaluate import evaluate
from glczoo.metrics import sample_f1
from glczoo.recipe import Recipe, override, read_run_recipe
from glczoo.runs.combine import combine
from glczoo.runs.run import Run, load_model
from glczoo.train import train

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def runs(trained_run):
    models = ("test_fusresnet_glc23", "test_bioresnet_glc23")
    return [trained_run("step1", model=model, epochs=2, batch_size=16) for model in models]


def test_the_ensemble_is_the_mean_of_probabilities(runs, world):
    region = Region.load(world)
    test = region.find(*region.table("test").file)
    points = read_points(region, test, region.table("test"))
    each = [Run.load([run]).probabilities(points, region) for run in runs]
    ensemble = Run.load(runs)
    together = ensemble.probabilities(points, region)
    assert torch.equal(together, (each[0] + each[1]) / 2) and ensemble.decoding == Decoding("top_k", 5)
    assert together.shape == (len(points), len(ensemble.species))


def test_rows_by_every_rule_and_truth(runs, world, capsys, tmp_path):
    truth = world / "truth" / "test_species.csv"
    main(["evaluate", *map(str, runs), "--truth", str(truth), "--json", str(tmp_path / "e.json")])
    printed, found = capsys.readouterr().out, json.loads((tmp_path / "e.json").read_text())
    rules = [re.sub(r"\d+\.\d+|(?<=threshold )1", "N", row["rule"]) for row in found["rows"]]
    assert rules == ["top 5", "threshold N", "N × expected size", "expected F1"] * 3
    assert "ensemble of 2" in printed and "f1_macro" in printed
    # The slow way, from the files alone.
    answered = tmp_path / "s.csv"
    main(["predict", str(runs[0]), "--submission", "--out", str(answered)])
    with open(truth) as file:
        true: dict[str, set[str]] = {}
        for row in csv.DictReader(file, delimiter=";"):
            true.setdefault(row["Id"], set()).add(row["speciesId"])
    with open(answered) as file:
        rows = list(csv.DictReader(file))
    f1 = [
        2 * len(true[row["Id"]] & set(row["Predicted"].split())) / (5 + len(true[row["Id"]])) for row in rows
    ]
    assert found["rows"][0]["f1"] == pytest.approx(np.mean(f1), abs=1e-6)
    assert all(len(set(row["Predicted"].split())) == 5 for row in rows)


def test_a_solution_file_scores_as_rows_do_and_unknown_species_count_as_missed(runs, world, tmp_path, capsys):
    truth = world / "truth" / "test_species.csv"
    with open(truth) as file:
        found: dict[str, list[str]] = {}
        for row in csv.DictReader(file, delimiter=";"):
            found.setdefault(row["Id"], []).append(row["speciesId"])
    lines = [f"{number},{' '.join(ids + ids[:1])},Public" for number, ids in found.items()]
    head = "Id,target_species_ids,Usage\n"
    (tmp_path / "solution.csv").write_text(head + "\n".join(lines) + "\n")
    by_rows = evaluate([runs[0]], truth=truth)
    by_sets = evaluate([runs[0]], truth=tmp_path / "solution.csv")
    assert torch.equal(by_sets.own.f1_each, by_rows.own.f1_each)
    (tmp_path / "more.csv").write_text(
        head + "\n".join(line.replace(",Public", " 999,") for line in lines) + "\n"
    )
    main(
        [
            "evaluate",
            str(runs[0]),
            "--truth",
            str(tmp_path / "more.csv"),
            "--json",
            str(tmp_path / "more.json"),
        ]
    )
    assert f"{len(found)} of them are of species that the models do not know" in capsys.readouterr().out
    sizes = torch.from_numpy(by_rows.samples.sizes())
    expected = by_rows.own.f1_each * (5 + sizes) / (6 + sizes)  # the rule is top 5; one more was there
    more = json.loads((tmp_path / "more.json").read_text())
    assert more["rows"][0]["f1"] == pytest.approx(float(expected.mean()))
    assert more["species_per_survey"] == pytest.approx(float(sizes.double().mean()) + 1)


def test_a_submission_has_the_columns_of_its_test_table(runs, world, tmp_path):
    """surveyId,predictions in 2024 and 2025, for any of the region's test tables."""
    region = Region.load(world)
    test = region.find(*region.table("test").file)
    (tmp_path / "iid.csv").write_text(
        "\n".join(test.read_text().replace("Id;", "surveyId;", 1).splitlines()[:4])
    )
    own = region.model_dump(mode="json") | {"root": str(world)}
    own["tests"] = {"iid": {"file": str(tmp_path / "iid.csv"), "id": "surveyId", "predicted": "predictions"}}
    (tmp_path / "region.yaml").write_text(json.dumps(own))
    words = [
        "predict",
        str(runs[0]),
        "--region",
        str(tmp_path),
        "--submission",
        "--out",
        str(tmp_path / "s.csv"),
    ]
    main([*words, "--test", "iid"])
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert lines[0] == "surveyId,predictions" and len(lines) == 4
    main(words)
    whole = (tmp_path / "s.csv").read_text().splitlines()
    assert whole[0] == "Id,Predicted" and whole[1:4] == lines[1:]


@pytest.mark.parametrize(
    "told",
    ["expected_f1", "{rule: threshold, value: auto}", "expected_f1_exact", "{rule: top_k, by_source: true}"],
)
def test_a_run_keeps_its_decoding_and_everything_answers_by_it(runs, world, tmp_path, told, capsys):
    """From the recipe into config.json, and from there into evaluation, files, ensembles and the card."""
    recipe = read_run_recipe(runs[0])[0].model_dump(mode="json") | {"runs": str(tmp_path), "epochs": 1}
    run = train(Recipe.model_validate(override(recipe, [f"decoding={told}"])))
    kept = json.loads((run / "config.json").read_text())["glczoo"]
    decoding = Decoding(**kept["decoding"])
    assert decoding.rule in told and set(kept["tuned"]) == {"top_k", "threshold", "expected_size"}
    assert decoding.value == kept["tuned"].get(decoding.rule)
    found = evaluate([run], part="validation").rows
    assert found[0].decoding == decoding and len(found) == 4 + ("exact" in told or "source" in told)

    region = Region.load(world)
    points = read_points(region, region.find(*region.table("test").file), region.table("test"))
    trained = load_model(run)
    probabilities, species = trained.probabilities(points, region), trained.species
    assert trained.decoding == decoding
    sets = [set(species.ids[row.numpy()].tolist()) for row in decoding(probabilities, points.datasets)]
    assert len({len(each) for each in sets}) > 1 or decoding.rule not in ("threshold", "top_k")
    if "by_source" in told:
        surveys = Run(run).samples("validation")
        p = Run.load([run]).probabilities(surveys, region)
        target = surveys.targets(torch.arange(len(surveys)), len(species))
        assert decoding.by_source == tune_by_source(p, target, surveys.datasets)
        assert points.datasets is not None and set(points.datasets) <= set(decoding.by_source)
        sizes = [decoding.by_source[name] for name in points.datasets]
        assert [len(each) for each in sets] == sizes
    main(["predict", str(run), "--submission", "--out", str(tmp_path / "s.csv")])
    assert f"species each ({decoding})" in capsys.readouterr().out
    with open(tmp_path / "s.csv") as file:
        assert [set(map(int, row["Predicted"].split())) for row in csv.DictReader(file)] == sets
    path = region.find(*region.table("test").file)
    (tmp_path / "points.csv").write_text(path.read_text().replace("Id;", "id;"))
    main(["predict", str(run), "--points", str(tmp_path / "points.csv"), "--out", str(tmp_path / "p.csv")])
    answered: list[list[tuple[int, float]]] = []
    with open(tmp_path / "p.csv") as file:
        for row in csv.DictReader(file):
            if row["rank"] == "1":
                answered.append([])
            answered[-1].append((int(row["speciesId"]), float(row["probability"])))
    assert [{species for species, _ in each} for each in answered] == sets
    assert all(each == sorted(each, key=lambda pair: -pair[1]) for each in answered)
    combine([runs[1], run], tmp_path / "both")  # where rules differ: the one that needs no number
    together = load_model(tmp_path / "both").decoding
    assert together == Decoding.mean([Decoding("top_k", 5), decoding])
    assert together.rule == ("top_k" if "source" in told else "expected_f1")


def test_several_processes_agree(runs, world, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    for name, launcher in (
        ("one", []),
        ("two", ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]),
    ):
        command = [
            sys.executable,
            "-m",
            *launcher,
            "glczoo",
            "evaluate",
            *map(str, runs),
            "--part",
            "validation",
        ]
        subprocess.run(
            [*command, "--json", str(tmp_path / name)], check=True, env=environment, capture_output=True
        )
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    assert one["surveys"] == two["surveys"]
    for first, second in zip(one["rows"], two["rows"], strict=True):
        assert {k: v for k, v in first.items() if isinstance(v, float)} == pytest.approx(
            {k: v for k, v in second.items() if isinstance(v, float)}, abs=1e-4
        )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "model.safetensors").write_bytes(b"x" * 50), "the weights cannot be loaded"),
        (lambda run: (run / "config.json").write_text("{"), "config.json is damaged"),
        (lambda run: (run / "config.json").write_text("{}"), "was not trained with glczoo"),
        (
            lambda run: (run / "config.json").write_text(
                (run / "config.json").read_text().replace('"top_k"', '"top_p"')
            ),
            "glczoo.decoding: there is no decoding rule 'top_p'",
        ),
        (lambda run: (run / "model.safetensors").unlink(), "no finished run"),
        (lambda run: (run / "species.csv").write_text("class;speciesId;name\n0;1;\n"), "label_names"),
    ],
)
def test_damaged_runs(runs, tmp_path, damage, message):
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    damage(run)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_model(run)


def test_band_order_is_compared_by_name(runs, world):
    region = Region.load(world)
    region.modalities[0].bands.reverse()
    with pytest.raises(ValueError, match="channel 0: bio19 instead of bio1"):
        evaluate(runs[:1], region=region)


def test_an_ensemble_of_runs_is_one_model(runs, world, tmp_path, capsys):
    out = tmp_path / "ensemble"
    main(["ensemble", *map(str, runs), "--out", str(out)])
    capsys.readouterr()
    region = Region.load(world)
    points = read_points(region, region.find(*region.table("test").file), region.table("test"))
    apart = Run.load(runs).probabilities(points, region)
    together = load_model(out).probabilities(points, region)
    torch.testing.assert_close(apart, together, atol=1e-6, rtol=1e-5)
    assert load_model(out).decoding == Decoding("top_k", 5) and sorted(p.name for p in out.iterdir()) == [
        "config.json",
        "metrics.json",
        "model.safetensors",
        "recipe.yaml",
        "recipes",
        "species.csv",
    ]
    assert evaluate([out]).own.f1 == pytest.approx(evaluate(runs).own.f1, abs=1e-6)
    for folders, message in (
        ([runs[0], runs[0]], "hold the same weights"),
        (runs[:1], "needs two runs or more"),
    ):
        with pytest.raises(ValueError, match=message):
            combine(folders, tmp_path / "other")
    with pytest.raises(FileExistsError, match="holds a model"):
        combine(runs, out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["mean"], r"another mean in \['bio1'\]"),
        (["patch_size"], "trained on patches of"),
        (["bands"], "no run of neighbours"),
    ],
)
def test_members_that_differ_are_told_apart(runs, tmp_path, change, message):
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    config = json.loads((other / "config.json").read_text())
    if change == ["mean"]:
        config["pretrained_cfg"]["mean"][0] += 1
    elif change == ["patch_size"]:
        config["glczoo"]["patch_size"] -= 1
    else:
        config["glczoo"]["bands"].reverse()
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        combine([runs[0], other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_top_k_of_all_species_is_everything():
    target = torch.ones(2, 3)
    assert sample_f1(torch.ones(2, 3, dtype=torch.bool), target).tolist() == [1, 1]
