"""A run finds its region from any working directory, and after it was moved together with it."""

import shutil
from pathlib import Path

import pytest
import yaml

from glczoo.fit.surveys import _join
from glczoo.hub.publish import save
from glczoo.recipe import read_run_recipe, write_run_recipe
from glczoo.runs.combine import combine
from glczoo.runs.run import Run, read_metrics

RUN = Path("runs/virtual/test_resnet/step1")


@pytest.fixture
def project(trained_run, world, tmp_path, monkeypatch) -> Path:
    """The working directory, with a run whose recipe names `world` relative to it."""
    folder = tmp_path / "project"
    trained = trained_run("step1", model="test_resnet", modalities=["soil"])
    shutil.copytree(trained, folder / RUN)
    (folder / "world").mkdir()
    shutil.copy(world / "region.yaml", folder / "world")
    monkeypatch.chdir(folder)
    write_run_recipe(RUN, Run(trained).recipe.model_copy(update={"region": "world"}), processes=1)
    return folder


def test_the_region_is_found_from_another_working_directory(project, tmp_path, monkeypatch):
    assert read_run_recipe(RUN)[0].region == "world"
    monkeypatch.chdir(tmp_path)
    assert Run(project / RUN).region.root_path.resolve() == project / "world"
    assert Run(Path("project") / RUN).recipe.region == "project/world"
    monkeypatch.chdir(project / RUN)
    assert Run(".").region.name == "virtual"


def test_the_region_is_found_after_both_were_moved(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project.rename("elsewhere")
    assert Run(tmp_path / "elsewhere" / RUN).recipe.region == "elsewhere/world"


def test_a_run_that_was_moved_alone_looks_from_the_working_directory(project, tmp_path):
    shutil.copytree(RUN, tmp_path / "far" / "run")
    assert Run(tmp_path / "far" / "run").recipe.region == "world"


def test_an_ensemble_finds_the_region_of_its_members(project, trained_run, tmp_path, monkeypatch):
    other = trained_run("step1", model="test_resnet", modalities=["soil"], seed=1)
    combine([RUN, other], Path("both"))
    Path("fit").mkdir()
    _join([RUN], [1.0], Path("fit"))
    monkeypatch.chdir(tmp_path)
    for folder in ("both", "fit"):
        assert Run(project / folder).region.root_path.resolve() == project / "world"


def test_a_published_folder_names_no_folder_of_this_machine(project, world, monkeypatch):
    shutil.copytree(world, project / "world", dirs_exist_ok=True)
    saved = save(RUN, project / "saved")
    for path in saved.rglob("*.*"):
        assert path.suffix == ".safetensors" or str(project).encode() not in path.read_bytes(), path
        if path.suffix == ".yaml":
            assert "region_from_run" not in yaml.safe_load(path.read_text())


def test_what_a_published_recipe_says_of_folders_is_not_looked_for(project):
    (RUN / "region.yaml").write_text((project / "world/region.yaml").read_text())
    recipe = yaml.safe_load((RUN / "recipe.yaml").read_text()) | {"region_from_run": "../../../../world"}
    (RUN / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"region": "region.yaml"}))
    assert read_run_recipe(RUN)[0].region == "region.yaml"


def test_a_torn_last_line_of_the_metrics_is_left_out(project):
    lines = list(read_metrics(RUN))
    with open(RUN / "metrics.jsonl", "a") as file:
        file.write('{"kind": "epoch", "epo')
    assert list(read_metrics(RUN)) == lines and lines
