"""A region without surveys: the run that `fit_records` writes, and what every verb says of its ranks."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import yaml

from glczoo.cli import main
from glczoo.data.occurrences import SpeciesIndex
from glczoo.data.region import Region
from glczoo.data.sphere import east_north
from glczoo.errors import GlczooError
from glczoo.evaluation.evaluate import evaluate
from glczoo.files import sha256
from glczoo.fit.fit import fit
from glczoo.hub.publish import save, verify
from glczoo.hub_client import DamagedError
from glczoo.prediction.map import make_map
from glczoo.runs.combine import combine
from glczoo.runs.run import Run
from glczoo.runs.trained import TrainedModel
from glczoo.training import presence_only
from glczoo.training.fit_records import RecordsLeaderboard, fit_records


@pytest.fixture(scope="module")
def records(world, tmp_path_factory):
    """The virtual region without its surveys."""
    folder = tmp_path_factory.mktemp("records")
    region = yaml.safe_load((world / "region.yaml").read_text("utf-8"))
    region["tables"].pop("pa")
    region["tables"].pop("test", None)
    region.pop("split", None)
    region |= {"name": "records", "root": str(world)}
    region["modalities"] = [m for m in region["modalities"] if m.get("kind", "raster") == "raster"][:1]
    (folder / "region.yaml").write_text(yaml.safe_dump(region), "utf-8")
    return folder


@pytest.fixture(scope="module")
def run(records, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(presence_only, "_LINEAR", {"quadratic": {}, "quadratic, surface": {"surfaces": 1}})
    patch.setattr(presence_only, "_TREES", {"trees": False})
    out = tmp_path_factory.mktemp("runs") / "fit"
    fit_records(Region.load(records), str(records), out, log=lambda text: None)
    yield out
    patch.undo()


def test_its_leaderboard_is_kept_and_read(run):
    board = RecordsLeaderboard.load(run)
    assert len(board.candidates) == 7 and board.species_auc and 0.4 < board.auc < 1
    text = board.text()
    assert all(candidate.name in text for candidate in board.candidates)
    assert "not probabilities of presence" in text and "only surveys can tell" in text


def test_answers_are_those_of_the_exact_model_up_to_the_size_of_a_cell(run):
    trained = Run.find(run).model
    assert trained.answers_ranks and trained.bands[-2:] == ["east", "north"]
    assert trained.mean[-2:] == [0, 0] and trained.std[-2] == trained.std[-1] > 1
    records = Run.find(run).split("po").train
    build = trained.builder(records)
    plane = build(torch.arange(20))[:, -2:, 0, 0] * trained.std[-1]
    exact = east_north(records, _middle(run))[:20]
    assert np.abs(plane.numpy() - exact).max() < 2  # cells of about 1 km


def _middle(run) -> tuple[float, float]:
    (east,) = [band for band in Run.find(run).config.glczoo.bands if band.name == "east"]
    lon, lat = east.source.removeprefix("glczoo region coordinates --middle ").split()
    return float(lon), float(lat)


def test_the_same_call_goes_on_from_what_is_kept(run, records):
    before = sha256(run / "model.safetensors")
    kept = sorted((run / "folds").glob("*.safetensors"))
    ages = [path.stat().st_mtime_ns for path in kept]
    (run / "model.safetensors").unlink()
    fit_records(Region.load(records), str(records), run, log=lambda text: None)
    assert len(kept) == 3 and [path.stat().st_mtime_ns for path in kept] == ages
    assert sha256(run / "model.safetensors") == before


def test_a_limit_of_time_names_what_was_left_out(run, records, tmp_path):
    board = fit_records(
        Region.load(records), str(records), tmp_path / "fit", minutes=0, log=lambda text: None
    )
    assert board.left_out == {"quadratic, surface": "no time left", "trees": "no time left"}
    assert "Left out: trees (no time left)" in board.text()


def test_predicted_tables_call_ranks_suitability(run, records, tmp_path, capsys):
    record = Run.find(run).split("po").train
    points = tmp_path / "points.csv"
    points.write_text(f"Id;lon;lat\n1;{record.lon[0]};{record.lat[0]}\n", "utf-8")
    main(["predict", str(run), "--points", str(points), "--out", str(tmp_path / "out.csv")])
    with open(tmp_path / "out.csv", encoding="utf-8") as file:
        header = next(csv.reader(file))
    assert "suitability" in header and "probability" not in header
    assert "no probability of presence" in capsys.readouterr().out


def test_maps_say_what_they_show_and_add_nothing_up(run, tmp_path):
    record = Run.find(run).split("po").train
    bbox = [record.lon.min(), record.lat.min(), record.lon.max(), record.lat.max()]
    number = str(Run.find(run).species.ids[0])
    settings = dict(resolution=(bbox[2] - bbox[0]) / 4, bbox=bbox, crs="EPSG:4326", applicability=False)
    make_map([run], tmp_path / "map", species=[number], **settings)
    drawn = {path.name for path in (tmp_path / "map").glob("*.png")}
    assert f"species_{number}.png" in drawn and not {"richness.png", "set_size.png"} & drawn


def test_evaluation_is_by_held_out_records(run, capsys):
    main(["evaluate", str(run)])
    text = capsys.readouterr().out
    assert f"{RecordsLeaderboard.load(run).auc:.3f}" in text
    assert "out of fold" in text and "Only surveys can tell" in text


def test_surveys_elsewhere_judge_by_auc_and_by_no_rule_of_probabilities(run, world, records):
    region = yaml.safe_load((run / "coordinates" / "region.yaml").read_text("utf-8"))
    tables = yaml.safe_load((world / "region.yaml").read_text("utf-8"))["tables"]
    with_surveys = run.parent / "region.yaml"
    with_surveys.write_text(yaml.safe_dump(region | {"tables": tables}), "utf-8")
    result = evaluate([run], part="train", region=Region.load(with_surveys))
    assert [row.decoding.rule for row in result.rows] == ["top_k"] and result.rows[0].summary["auc"] > 0.4


def test_the_report_says_what_the_number_is_worth(run, tmp_path, capsys):
    main(["report", str(run), "--out", str(tmp_path / "page.html"), "--sample", "20"])
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "What that is worth" in page and "ranks of suitability" in page
    assert "quadratic, surface; ridge 300" in page and page.count("data:image/svg") >= 2
    assert "AUC" in capsys.readouterr().out


def test_ranks_and_probabilities_have_no_mean(run, records):
    ranks = Run.find(run).model
    other = dataclasses.replace(ranks, activation="sigmoid", name="other")
    with pytest.raises(ValueError, match="ranks of suitability, other probabilities of presence"):
        TrainedModel.ensemble([ranks, other])


def judged_by_validation(run, tmp_path):
    """The run as if a recipe had trained it that set records aside."""
    copy = tmp_path / "other"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("leaderboard.json", "folds"))
    recipe = yaml.safe_load((copy / "recipe.yaml").read_text("utf-8"))
    recipe["data"]["validation"]["po"] = 0.3
    (copy / "recipe.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    return copy


def test_a_recipes_run_is_judged_by_the_records_that_validated(run, tmp_path, capsys):
    main(["evaluate", str(judged_by_validation(run, tmp_path))])
    assert "drawn at random" in capsys.readouterr().out


def test_a_run_that_held_nothing_out_cannot_be_judged(run, tmp_path):
    copy = tmp_path / "other"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("leaderboard.json", "folds"))
    with pytest.raises(SystemExit, match="held out no records"):
        main(["evaluate", str(copy)])


def test_rules_that_add_probabilities_up_are_refused(run, tmp_path):
    copy = tmp_path / "other"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("folds"))
    config = json.loads((copy / "config.json").read_text("utf-8"))
    config["glczoo"]["decoding"] = {"rule": "expected_f1", "value": None}
    (copy / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(DamagedError, match="ranks of suitability and no probabilities of presence"):
        Run.load([copy])


def test_two_runs_of_ranks_are_one_model_of_ranks(run, records, tmp_path):
    other = tmp_path / "second"
    fit_records(Region.load(records), str(records), other, seed=1, minutes=0, log=lambda text: None)
    together = Run.find(combine([run, other], tmp_path / "both")).model
    assert together.answers_ranks
    build = together.builder(Run.find(run).split("po").train.at(np.arange(10)))
    x = build(torch.arange(10))
    parts = [Run.find(one).model.predict_patches(x) for one in (run, other)]
    torch.testing.assert_close(together.predict_patches(x), (parts[0] + parts[1]) / 2)


def test_it_is_published_with_what_its_records_say(run, tmp_path):
    folder = save(run, tmp_path / "published", repo_id="org/records")
    card = (folder / "README.md").read_text("utf-8")
    assert "quadratic, surface; ridge 300" in card and "only surveys can tell how good the model is" in card
    assert "ranks of suitability among the places of the records, not probabilities of presence" in card
    assert "No survey has judged this model" in card and "lowest log loss" not in card
    assert "Not yet reproduced" not in card and "GeoLifeCLEF 2023, per-sample F1" not in card
    assert verify(folder).difference < 1e-3
    assert RecordsLeaderboard.load(folder) == RecordsLeaderboard.load(run)


def test_a_published_run_says_how_its_coordinates_are_made_again(run, world, tmp_path, monkeypatch):
    folder = save(run, tmp_path / "published", repo_id="org/records")
    lon, lat = _middle(folder)
    card = (folder / "README.md").read_text("utf-8")
    assert f"glczoo region coordinates --middle {lon:.6f} {lat:.6f}" in card
    monkeypatch.setenv("GLCZOO_DATA", str(world))
    again = tmp_path / "again"
    main(["region", "coordinates", str(folder), "--middle", str(lon), str(lat), "--out", str(again)])
    records = Run.find(run).split("po").train.at(np.arange(5))
    here = Run.find(run).model.probabilities(records)
    there = Run.find(folder).on(Region.load(again)).model.probabilities(records, Region.load(again))
    torch.testing.assert_close(there, here, atol=1e-4, rtol=0)


def test_a_recipes_run_is_published_with_the_records_that_validated(run, tmp_path):
    folder = save(judged_by_validation(run, tmp_path), tmp_path / "published", repo_id="org/records")
    assert "drawn at random" in (folder / "README.md").read_text("utf-8")


def test_a_damaged_leaderboard_is_refused(run, tmp_path):
    board = json.loads((run / "leaderboard.json").read_text("utf-8"))
    board["candidates"][0]["name"] = "<script>"
    (tmp_path / "leaderboard.json").write_text(json.dumps(board), "utf-8")
    with pytest.raises(GlczooError, match="'<script>' is no name"):
        RecordsLeaderboard.load(tmp_path)


def test_glczoo_fit_takes_a_region_without_surveys(records, tmp_path, capsys):
    out = tmp_path / "fit"
    main(["fit", str(records), "--out", str(out), "--minutes", "0.001"])
    text = capsys.readouterr().out
    assert "Answers are ranks of suitability" in text and RecordsLeaderboard.load(out)
    ages = (out / "model.safetensors").stat().st_mtime_ns
    main(["fit", str(records), "--out", str(out), "--minutes", "0.001"])
    assert (out / "model.safetensors").stat().st_mtime_ns == ages


def test_settings_of_a_fit_to_surveys_are_refused(records, tmp_path):
    with pytest.raises(GlczooError, match="no surveys, and .'folds=3'. are settings of a fit to surveys"):
        fit(records, tmp_path / "fit", overrides=["folds=3"])


def test_records_of_one_species_are_refused_before_anything_is_fitted(records, tmp_path, monkeypatch):
    only = SpeciesIndex(np.array([3]))
    monkeypatch.setattr("glczoo.training.fit_records.read_species", lambda region: only)
    with pytest.raises(GlczooError, match="are of one species: .* loss=sinr_full"):
        fit_records(Region.load(records), str(records), tmp_path / "run")
    assert not (tmp_path / "run").exists()
