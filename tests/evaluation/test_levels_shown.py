"""A categorical band in what people look at: bars of levels in reports, levels on cards and in the app."""

from pathlib import Path

import numpy as np
import pytest
from conftest import COLS, RECIPES, ROWS, addresses, place, write_raster

from glczoo.evaluation.explain import permutation_importance, response_curves
from glczoo.evaluation.report import report
from glczoo.figures.report import responses
from glczoo.hub.publish import save
from glczoo.prediction.place import PlacePredictor
from glczoo.recipe import read_recipe
from glczoo.runs.run import Run
from glczoo.train import train
from glczoo.training.fit_forest import fit_forest

REGION = """
name: here
patch_size: 3
modalities:
  - name: ground
    bands:
      - {name: height, file: height.tif, unit: m}
      - {name: cover, file: cover.tif, kind: categorical, levels: {2: meadow}}
tables:
  pa: {file: pa.csv, separator: ',', survey: [surveyId]}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A forest on a region where species 1 stands on cover 2 and species 2 on cover 5."""
    folder = tmp_path_factory.mktemp("levels")
    cover = np.full((ROWS, COLS), 2, "uint8")
    cover[:, COLS // 2 :] = 5
    write_raster(folder / "cover.tif", [cover])
    write_raster(folder / "height.tif", [addresses(ROWS, COLS, 1, "float32") % 7])
    rows = ["surveyId,lon,lat,speciesId"]
    rng = np.random.default_rng(0)
    for survey in range(90):
        row, col = rng.integers(1, ROWS - 1), rng.integers(1, COLS - 1)
        lon, lat = place(row, col)
        rows.append(f"{survey},{lon},{lat},{1 if cover[row, col] == 2 else 2}")
    (folder / "pa.csv").write_text("\n".join(rows))
    (folder / "region.yaml").write_text(REGION)
    places = [f"region={folder / 'region.yaml'}", f"runs={folder / 'runs'}"]
    return Run(fit_forest(read_recipe(RECIPES / "step1.yaml", [*places, "decoding=top_k"]), trees=20))


def test_a_response_at_each_level(run: Run):
    curves = response_curves(run.model, run.region, run.samples("train"), [0, 1])
    assert curves.bands == ["height"] and curves.answers.shape == (1, 33, 2)
    cover = curves.levels["cover"]
    assert cover.levels == ["2 meadow", "5"] and cover.commonest in cover.levels
    assert (cover.answers.argmax(1) == [0, 1]).all() and np.ptp(cover.answers[:, 0]) > 0.5


def test_the_levels_of_a_band_are_permuted_together(run: Run):
    lost = permutation_importance(run.model, run.region, run.samples("train")).lost
    assert lost.shape == (2,) and lost[1] > 0.2


def test_the_report_draws_them(run: Run, tmp_path: Path):
    facts = report(run.folder, tmp_path / "report.html")
    assert list(facts.responses.pictures) == ["ground"]
    assert set(facts.importance.bands.lost) == {"height (ground)", "cover (ground)"}


def test_bars_for_each_level_and_species():
    figure = responses(
        np.zeros((1, 4)), np.zeros((1, 4, 2)), ["height"], ["a", "b"],
        levels={"cover": (["2", "5", "8"], np.arange(6).reshape(3, 2))},
    )  # fmt: skip
    axis = figure.axes[1]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["2", "5", "8"]
    assert [bar.get_height() for bar in axis.patches] == [0, 2, 4, 1, 3, 5]


def test_the_card_names_them_in_one_row(run: Run, tmp_path: Path):
    card = (save(run, tmp_path / "published") / "README.md").read_text()
    assert "| 1–2 | cover | levels 2 meadow, 5 |" in card


def test_a_recipe_counts_the_bands_of_a_branch_and_not_their_levels(run: Run, tmp_path: Path):
    region = run.folder.parents[3] / "region.yaml"
    small = ["model=test_fusresnet_glc23", "model_args={branches: {ground: 2}}", "init=random", "epochs=1"]
    places = [f"region={region}", f"runs={tmp_path}", "decoding=top_k", "patch_size=16"]
    trained = Run(train(read_recipe(RECIPES / "step1.yaml", [*small, *places])))
    assert trained.config.model_args["branches"] == {"ground": 3}
    assert trained.model.bands == ["height", "cover=2", "cover=5"]


def test_the_app_says_which_level_is_at_the_place(run: Run):
    predictor = PlacePredictor([run.folder])
    patches = {patch.name: patch.text for patch in predictor.at(*place(3, 3)).patches}
    assert patches["cover"] == "level 2 meadow"
