"""CNNs as candidates: what a fold's training sees, and patches of two sizes in one ensemble."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml

from glczoo.data.region import Region
from glczoo.data.tables import read_samples
from glczoo.decoding import Decoding, Rule
from glczoo.fit.candidate import Verdict
from glczoo.fit.cnn import CnnCandidate
from glczoo.fit.fit import fit
from glczoo.fit.inputs import prepare
from glczoo.fit.settings import read_settings
from glczoo.runs.combine import combine
from glczoo.runs.run import Run

TINY = [
    "modalities=[bioclim]", "patch_size=5", "windows=[1, 3]", "folds=2", "blocks=8", "records.copies=1",
    "records.epochs_species=1", "records.epochs_sites=1", "records.windows=[1]", "linear.iterations=10",
    "forest.trees=4", "densities=false", "cnn.patch_sizes=[7]", "cnn.layers=[1, 1, 1, 1]",
    "cnn.channels=[4, 4, 4, 4]", "cnn.epochs=2", "cnn.epochs_records=1", "cnn.samples=2000",
    "cnn.minutes=1000",
]  # fmt: skip


@pytest.fixture(scope="module")
def inputs(world, tmp_path_factory):
    region = Region.load(world)
    return prepare(read_settings(region, TINY), region, str(world), tmp_path_factory.mktemp("inputs"))


def test_the_surveys_of_a_fold_are_not_in_the_region_that_it_trains_on(inputs, tmp_path):
    rows = np.flatnonzero(inputs.fold != 0)
    region = CnnCandidate(inputs, 7, tmp_path)._write_region(tmp_path, rows)
    written = read_samples(region, "pa", inputs.vocabulary)
    expected = inputs.surveys.subset(rows)
    for name in ("lon", "lat", "patch_id", "offsets", "species"):
        np.testing.assert_array_equal(getattr(written, name), getattr(expected, name), err_msg=name)


def test_a_survey_without_species_keeps_its_place(inputs, tmp_path):
    surveys = inputs.surveys.subset(np.arange(3))
    empty = replace(surveys, offsets=np.zeros(4, np.int64), species=surveys.species[:0])
    candidate = CnnCandidate(replace(inputs, surveys=empty), 7, tmp_path)
    written = read_samples(candidate._write_region(tmp_path, np.arange(3)), "pa", inputs.vocabulary)
    assert written.sizes().tolist() == [0, 0, 0] and written.lon.tolist() == surveys.lon.tolist()


@pytest.fixture(scope="module")
def run(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cnn")
    candidate = CnnCandidate(inputs, 7, folder)
    return Run.find(candidate.final(folder / "run", Verdict(Decoding(Rule.EXPECTED_F1_EXACT), {}, 1.0)))


def test_it_is_trained_in_three_steps_which_its_run_tells(run):
    steps = [(step.recipe.name, step.recipe.data.tables, step.recipe.init) for step in run.lineage]
    assert steps == [("step1", ["pa"], "random"), ("step2", ["po"], "step1"), ("step3", ["pa"], "step2")]


def test_it_reads_what_the_other_candidates_read(run, inputs):
    number = inputs.environment
    assert run.model.mean == pytest.approx(inputs.statistics.mean[:number])
    assert run.model.patch_size == 7 and run.model.bands == inputs.source.bands[:number]


def test_nothing_is_left_of_its_training(run):
    assert not list((run.folder.parent / "cnn").rglob("*.safetensors"))


def test_an_interrupted_training_ends_with_the_same_probabilities(inputs, tmp_path, monkeypatch):
    from glczoo.fit import cnn

    expected = CnnCandidate(inputs, 7, tmp_path / "whole").out_of_fold(0)
    trained = []

    def train_twice(recipe):
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append(recipe.name)
        return cnn_train(recipe)

    cnn_train = cnn.train
    monkeypatch.setattr(cnn, "train", train_twice)
    with pytest.raises(KeyboardInterrupt):
        CnnCandidate(inputs, 7, tmp_path / "again").out_of_fold(0)
    monkeypatch.setattr(cnn, "train", cnn_train)
    np.testing.assert_array_equal(CnnCandidate(inputs, 7, tmp_path / "again").out_of_fold(0), expected)
    assert trained == ["step1", "step2"]


def test_patches_of_two_sizes_are_one_ensemble(run, inputs, tmp_path):
    from glczoo.fit.tabular import ForestCandidate

    forest = ForestCandidate(inputs, "forest at the points", "points")
    verdict = Verdict(Decoding(Rule.EXPECTED_F1_EXACT), {}, 1.0)
    members = [run.folder, forest.final(tmp_path / "forest", verdict)]
    together = Run.find(combine(members, tmp_path / "both", weights=[0.3, 0.7])).model
    assert together.patch_size == 7 and together.run.config.model_args["patch_sizes"] == [7, 5]
    surveys = inputs.surveys.subset(np.arange(20))
    first, second = (Run.find(member).model.probabilities(surveys) for member in members)
    expected = 0.3 * first + 0.7 * second
    torch.testing.assert_close(together.probabilities(surveys), expected, atol=2e-5, rtol=1e-3)


def test_even_and_odd_patches_have_no_cell_in_common(run, tmp_path):
    import shutil

    other = shutil.copytree(run.folder, tmp_path / "even")
    config = json.loads((other / "config.json").read_text("utf-8"))
    config["glczoo"]["patch_size"] = 6
    (other / "config.json").write_text(json.dumps(config), "utf-8")
    (other / "model.safetensors").write_bytes(_other_weights(run.folder))
    with pytest.raises(ValueError, match="none is the middle of the other"):
        combine([run.folder, other], tmp_path / "both")


def _other_weights(folder) -> bytes:
    from safetensors.torch import load_file, save

    state = load_file(folder / "model.safetensors")
    return save({name: value + 1 if value.is_floating_point() else value for name, value in state.items()})


def test_few_surveys_and_very_many_records_are_no_task_for_a_cnn(inputs, tmp_path):
    few = replace(inputs, surveys=inputs.surveys.subset(np.arange(20)))
    assert CnnCandidate(few, 7, tmp_path).unfit == "20 surveys, fewer than 50"
    cnn = inputs.settings.cnn.model_copy(update={"samples": 10})
    many = replace(inputs, settings=inputs.settings.model_copy(update={"cnn": cnn}))
    assert "places of records, more than cnn.samples of 10" in CnnCandidate(many, 7, tmp_path).unfit


def test_a_fit_tries_it_after_the_quick_ones_and_says_why_it_has_no_weight(world, tmp_path):
    overrides = [*TINY, "candidates=[points, linear, cnn]"]
    board = fit(world, tmp_path / "run", None, 1, overrides, log=lambda _: None).leaderboard
    (line,) = [line for line in board.lines if line.name.startswith("CNN")]
    reason = board.left_out.get(line.name, "")
    assert line.weight > 0 or line.log_loss > board.together.log_loss
    assert line.weight == 0 or not reason
    recipe = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text("utf-8"))
    assert recipe["model"] == "forest_glc23" or Run.find(tmp_path / "run").model.number > 1


def test_one_that_would_not_fit_in_time_is_named_before_it_begins(world, tmp_path, monkeypatch):
    monkeypatch.setattr(CnnCandidate, "expected_seconds", lambda self: 6000.0)
    monkeypatch.setattr(CnnCandidate, "out_of_fold", None)
    overrides = [*TINY, "candidates=[points, cnn]"]
    board = fit(world, tmp_path / "run", 100, 1, overrides, log=lambda _: None).leaderboard
    (reason,) = [why for name, why in board.left_out.items() if name.startswith("CNN")]
    assert reason.endswith("minutes more, beyond --minutes 100")


def test_one_that_would_take_long_is_not_begun_but_what_has_begun_goes_on(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(CnnCandidate, "expected_seconds", lambda self: 40000.0)
    candidate = CnnCandidate(inputs, 7, tmp_path)
    assert candidate.unfit == "about 2666.7 minutes, more than cnn.minutes of 1000"
    (tmp_path / "cnn" / "7").mkdir(parents=True)
    assert CnnCandidate(inputs, 7, tmp_path).unfit == ""


def test_what_it_will_take_is_measured(inputs, tmp_path):
    assert 0 < CnnCandidate(inputs, 7, tmp_path).expected_seconds() < 600
