"""From a region to one run: what is fitted without a fold, what is kept, and what an ensemble is made of."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import glczoo
from glczoo.cli import main
from glczoo.data.region import Region
from glczoo.evaluation.evaluate import evaluate
from glczoo.fit.candidate import Verdict
from glczoo.fit.candidates import candidates_of
from glczoo.fit.fit import Fitted, fit
from glczoo.fit.inputs import SurveyInputs, prepare
from glczoo.fit.leaderboard import Leaderboard
from glczoo.fit.report import seen_whole
from glczoo.fit.settings import read_settings
from glczoo.fit.surveys import claim
from glczoo.hub.publish import save, verify
from glczoo.runs.run import Run

SMALL = [
    "patch_size=5", "windows=[1, 3]", "modalities=[bioclim, soil]", "folds=2", "blocks=8", "records.copies=1",
    "records.epochs_species=2", "records.epochs_sites=2", "records.windows=[1]", "linear.iterations=20",
    "candidates=[points, slopes, linear, network, quadratic, forest]",
    "network.copies=1", "network.hidden=8", "network.epochs=2", "forest.trees=8", "least_weight=0",
]  # fmt: skip


def small(
    world: Path, out: Path, *overrides: str, minutes: float | None = None, log=lambda _: None
) -> Fitted:
    return fit(world, out, minutes, jobs=1, overrides=[*SMALL, *overrides], log=log)


@pytest.fixture(scope="module")
def fitted(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """All candidates, on a region with records and surveys."""
    return small(world, tmp_path_factory.mktemp("fit") / "run")


@pytest.fixture(scope="module")
def inputs(world: Path, tmp_path_factory: pytest.TempPathFactory) -> SurveyInputs:
    """What the candidates of `fitted` read."""
    region = Region.load(world)
    return prepare(read_settings(region, SMALL), region, str(world), tmp_path_factory.mktemp("inputs"))


def test_every_candidate_has_a_line_and_the_weights_are_one_in_sum(fitted):
    board = fitted.leaderboard
    assert len(board.lines) == 6 and board.left_out == {}
    assert sum(line.weight for line in board.lines) == pytest.approx(1)
    assert board.over_simplest.over == "forest at the points" and (board.samples, board.folds) == (120, 2)
    assert board.together.log_loss <= min(line.log_loss for line in board.lines)


def test_the_leaderboard_is_kept_beside_the_weights(fitted):
    assert Leaderboard.load(fitted.folder) == fitted.leaderboard


def test_the_result_is_the_weighted_mean_of_its_members(fitted):
    run = Run.find(fitted.folder)
    surveys = run.samples("train")
    members = [line for line in fitted.leaderboard.lines if line.weight]
    assert len(members) == len(run.config.model_args["weights"]) >= 2
    slugs = [Path(name).name for name in run.config.glczoo.members]
    each = [Run.find(fitted.folder / "members" / slug).model.probabilities(surveys) for slug in slugs]
    expected = sum(w * p for w, p in zip(run.config.model_args["weights"], each, strict=True))
    torch.testing.assert_close(run.model.probabilities(surveys), expected, atol=2e-5, rtol=1e-3)


def test_timm_loads_the_result_from_safetensors_alone(fitted):
    model = timm.create_model(f"local-dir:{fitted.folder}", pretrained=True).eval()
    own = Run.find(fitted.folder).model
    x = torch.randn(3, model.in_chans, 5, 5)
    torch.testing.assert_close(model(x).sigmoid(), own.predict_patches(x))
    assert not [path for path in fitted.folder.rglob("*") if path.suffix in (".pt", ".pth", ".bin", ".pkl")]


def test_the_result_is_evaluated_and_asked_like_any_run(fitted, world):
    evaluation = evaluate([fitted.folder], truth=world / "truth" / "test_species.csv")
    assert evaluation.own.decoding.rule.startswith("expected_f1") and len(evaluation.samples) == 40
    where = evaluation.samples
    table = glczoo.load(fitted.folder).predict(where.lon[:3], where.lat[:3])
    assert len(table) >= 3


def test_evaluating_what_was_fitted_on_all_surveys_points_to_the_leaderboard(fitted):
    with pytest.raises(
        ValueError, match=r"no validation surveys .*leaderboard\.json has its scores out of fold"
    ):
        evaluate([fitted.folder])


def test_it_is_published_with_its_leaderboard_though_no_survey_is_held_out(fitted, tmp_path):
    folder = save(fitted.folder, tmp_path / "published")
    card = (folder / "README.md").read_text("utf-8")
    assert fitted.leaderboard.verdict() in card and "Not yet reproduced" not in card
    assert re.search(r"weight 0\.\d{1,3} \|", card)  # no digits that say nothing
    assert Leaderboard.load(folder) == fitted.leaderboard
    assert verify(folder).architecture == "ensemble_glc23"


def test_a_fold_is_predicted_by_what_has_not_seen_it(inputs, tmp_path):
    held_out = np.flatnonzero(inputs.fold == 0)
    for candidate in candidates_of(inputs, tmp_path)[0]:
        before = candidate.out_of_fold(0)
        kept = inputs.target[held_out].clone()
        inputs.target[held_out] = 1 - kept
        after = candidate.out_of_fold(0)
        inputs.target[held_out] = kept
        np.testing.assert_array_equal(after, before, err_msg=candidate.name)
        assert before.shape == (len(held_out), 24)


def test_no_block_is_in_two_folds(inputs):
    pairs = {(int(b), int(f)) for b, f in zip(inputs.block, inputs.fold, strict=True)}
    assert len(pairs) == len({block for block, _ in pairs}) > 2


def test_the_models_in_a_run_compute_what_was_fitted_on_values(inputs, tmp_path):
    from glczoo.decoding import Decoding, Rule

    for candidate in candidates_of(inputs, tmp_path)[0]:
        folder = candidate.final(tmp_path / candidate.slug, Verdict(Decoding(Rule.EXPECTED_F1), {}, 0.0))
        model = candidate.fitted(np.arange(len(inputs.surveys)))
        expected = candidate.logits(model, inputs.values).sigmoid()
        found = Run.find(folder).model.probabilities(inputs.surveys)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3, msg=candidate.name)


def test_an_interrupted_fit_ends_with_the_same_weights(world, fitted, tmp_path):
    class Stop(Exception):
        pass

    for stop_at in ("records, own slopes: log loss", "records, corrected, linear: on all"):

        def log(line: str, stop_at: str = stop_at) -> None:
            if line.startswith(stop_at):
                raise Stop

        with pytest.raises(Stop):
            small(world, tmp_path / "run", log=log)
        assert not (tmp_path / "run" / "model.safetensors").exists()
    small(world, tmp_path / "run")
    for name in ("model.safetensors", "members/network/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (fitted.folder / name).read_bytes()


def test_what_is_done_is_not_done_again(fitted, world):
    lines: list[str] = []
    again = small(world, fitted.folder, log=lines.append)
    assert again == fitted and lines == []


def test_a_folder_of_another_fit_is_refused(fitted, world):
    with pytest.raises(FileExistsError, match="a fit of other settings"):
        small(world, fitted.folder, "seed=1")


def test_a_folder_in_which_a_fit_has_only_failed_is_free(tmp_path):
    claim(tmp_path / "run", {"seed": 0})
    claim(tmp_path / "run", {"seed": 1})
    (tmp_path / "run" / "records.safetensors").touch()
    with pytest.raises(FileExistsError, match="a fit of other settings"):
        claim(tmp_path / "run", {"seed": 2})


def test_what_would_take_too_long_is_named(world, tmp_path):
    short = small(world, tmp_path / "run", minutes=1e-6)
    assert [line.name for line in short.leaderboard.lines] == ["forest at the points"]
    assert len(short.leaderboard.left_out) == 5
    assert all(reason.endswith("beyond --minutes 1e-06") for reason in short.leaderboard.left_out.values())


def test_a_single_candidate_is_the_result_itself(world, tmp_path):
    alone = small(world, tmp_path / "run", "candidates=[points]")
    assert alone.leaderboard.verdict().endswith("it has all the weight.")
    assert Run.find(alone.folder).config.architecture == "forest_glc23"
    assert len(evaluate([alone.folder], part="train").samples) == 120


def test_surveys_alone_are_fitted_without_records(world, tmp_path):
    values = json.loads(json.dumps(Region.load(world).model_dump(mode="json")))
    del values["tables"]["po"]
    values["root"] = str(world.resolve())
    (tmp_path / "region.yaml").write_text(json.dumps(values), "utf-8")  # JSON is YAML
    alone = small(tmp_path, tmp_path / "run")
    assert [line.name for line in alone.leaderboard.lines if "records" in line.name] == []
    assert len(alone.leaderboard.lines) == 5 and not (tmp_path / "run" / "densities").exists()


def test_a_mistake_in_a_setting_names_the_nearest_key(world, tmp_path):
    with pytest.raises(ValueError, match="did you mean 'forest.trees'"):
        small(world, tmp_path / "run", "forest.tree=3")
    assert not (tmp_path / "run").exists()


def test_a_fit_that_has_seen_every_survey_is_reported_out_of_fold(fitted, tmp_path, capsys):
    main(["report", str(fitted.folder), "--out", str(tmp_path / "r.html"), "--sample", "20"])
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "forest at the points" in page and fitted.leaderboard.verdict().splitlines()[-1][:30] in page
    assert page.count("<img") >= 1 and "120 surveys of 2 folds" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "report",
                str(fitted.folder),
                "--odmap",
                str(tmp_path / "o.csv"),
                "--out",
                str(tmp_path / "r.html"),
            ]
        )
    assert stop.value.code == 2
    assert seen_whole(Run.find(fitted.folder)) == fitted.leaderboard
