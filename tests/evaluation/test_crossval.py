"""Cross-validation by spatial blocks, and the ensemble of its members."""

import json
from pathlib import Path

import pytest
import torch

from glczoo.cli import main
from glczoo.evaluation.evaluate import evaluate
from glczoo.recipe import read_run_recipe
from glczoo.runs.run import load_model

RECIPE = Path(__file__).parents[2] / "recipes" / "step1.yaml"
TINY = ["model=test_fusresnet_glc23", "init=random", "patch_size=8", "batch_size=16", "epochs=1"]


def test_crossval_judges_every_survey_once_and_makes_one_model(world, tmp_path, capsys):
    given = [str(RECIPE), f"region={world}", f"runs={tmp_path}", *TINY, "data.blocks={size_km: 12, folds: 2}"]
    main(["crossval", *given, "--json", str(tmp_path / "c.json")])
    found = json.loads((tmp_path / "c.json").read_text())
    assert "their ensemble" in capsys.readouterr().out
    assert found["surveys"] == 120 == sum(row["surveys"] for row in found["rows"])
    mean, low, high = found["f1"]
    assert (
        mean == pytest.approx(sum(row["f1"] * row["surveys"] for row in found["rows"]) / 120)
        and low < mean < high
    )
    members = [load_model(tmp_path / f"virtual/test_fusresnet_glc23/step1-fold{i}") for i in (0, 1)]
    ensemble = load_model(found["ensemble"])
    x = torch.randn(2, 33, 8, 8)
    with torch.no_grad():
        each = [member.model(x).sigmoid() for member in members]
        torch.testing.assert_close(ensemble.model(x).sigmoid(), (each[0] + each[1]) / 2)
    assert not torch.equal(each[0], each[1])
    with pytest.raises(ValueError, match="there are no validation surveys"):  # all of them trained a member
        evaluate([found["ensemble"]])
    step3 = [str(RECIPE.with_name("step3.yaml")), *given[1:], "init=step1"]
    main(["crossval", *step3])
    for i in (0, 1):
        told = read_run_recipe(tmp_path / f"virtual/test_fusresnet_glc23/step3-fold{i}")[0]
        assert (told.init, told.data.blocks.fold) == (f"step1-fold{i}", i)
