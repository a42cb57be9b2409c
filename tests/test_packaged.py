"""Recipes that travel with the package: found by name, listed with a sentence, copied to be edited."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from glczoo import packaged
from glczoo.cli import main
from glczoo.data.region import Region
from glczoo.recipe import read_recipe

TOP = Path(__file__).parents[1]
FILES = sorted(
    path.relative_to(TOP / "recipes").as_posix()
    for path in (TOP / "recipes").rglob("*")
    if path.suffix in (".yaml", ".slurm")
)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A working folder without recipes."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["step2", "step2.yaml", "recipes/step2.yaml", "recipes/step2"])
def test_a_recipe_that_is_not_here_is_the_packaged_one(name, elsewhere, capsys):
    assert packaged.locate(name) == TOP / "recipes/step2.yaml"
    assert f"{name} is not here, the packaged" in capsys.readouterr().err


def test_a_recipe_that_is_here_is_taken_and_nothing_said(elsewhere, capsys):
    Path("recipes").mkdir()
    shutil.copy(TOP / "recipes/step2.yaml", "recipes")
    assert packaged.locate("recipes/step2.yaml") == Path("recipes/step2.yaml")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "name", ["nothing", "recipes/nothing.yaml", "../recipes/step2.yaml", "/recipes/step2.yaml"]
)
def test_what_is_nowhere_stays_as_it_is_named(name, elsewhere):
    assert packaged.locate(name) == Path(name)


def test_only_one_of_several_processes_says_so(elsewhere, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    packaged.locate("step2")
    assert capsys.readouterr().err == ""


def test_a_packaged_recipe_finds_its_region(elsewhere):
    recipe = read_recipe("step1")
    assert recipe.region == str(TOP / "recipes/regions/glc23.yaml")
    assert Region.load("regions/glc23.yaml").name == "glc23"


def test_a_region_may_be_packaged_and_the_recipe_not(elsewhere):
    shutil.copy(TOP / "recipes/step1.yaml", "mine.yaml")
    recipe = read_recipe("mine.yaml", ["region=regions/swiss_trees.yaml"])
    assert recipe.region == str(TOP / "recipes/regions/swiss_trees.yaml")


@pytest.mark.parametrize("words", [["recipes"], ["recipes", "list"]])
def test_every_packaged_file_has_a_sentence(words, capsys):
    main(words)
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert sorted(name for name, _ in lines) == FILES and len(FILES) > 20
    assert all(sentence[-1] in ".?…" for _, sentence in lines)


def test_copies_are_whole_and_overwrite_nothing(elsewhere, capsys):
    main(["recipes", "copy", "--to", "mine"])
    assert sorted(path.relative_to("mine").as_posix() for path in Path("mine").rglob("*.*")) == FILES
    assert Path("mine/step1.yaml").read_text("utf-8") == (TOP / "recipes/step1.yaml").read_text("utf-8")
    assert f"mine: {len(FILES)} files" in capsys.readouterr().out
    shutil.rmtree("mine/studies")
    Path("mine/step1.yaml").write_text("mine")
    with pytest.raises(SystemExit, match="mine: step1.yaml is there already"):
        main(["recipes", "copy", "--to", "mine"])
    assert not Path("mine/studies").exists()


@pytest.mark.parametrize("name", ["step2", "step2.yaml", "recipes/step2.yaml"])
def test_one_recipe_is_copied_alone(name, elsewhere, capsys):
    main(["recipes", "copy", name])
    assert [path.as_posix() for path in Path().rglob("*.*")] == ["recipes/step2.yaml"]
    assert capsys.readouterr().out == "recipes/step2.yaml\n"
    with pytest.raises(SystemExit, match="recipes: step2.yaml is there already"):
        main(["recipes", "copy", name])


def test_a_recipe_that_there_is_not_is_no_folder(elsewhere):
    with pytest.raises(SystemExit, match="no packaged recipe is called stpe2.*mean step2"):
        main(["recipes", "copy", "stpe2"])
    with pytest.raises(SystemExit, match="copy --to mine` copies all there"):
        main(["recipes", "copy", "mine"])
    assert not any(Path().iterdir())


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Programs of a new environment with the wheel installed, which borrows torch and the other packages."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        (folder / "source").mkdir(exist_ok=True)
        shutil.copy(TOP / name, folder / "source")
    for name in ("glczoo", "model_cards", "recipes"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(TOP / name, folder / "source" / name, ignore=ignored)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, folder / "source"]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    programs = folder / "env/bin"
    subprocess.run([*pip, "--python", programs / "python", "install", "--no-deps", wheel], check=True)
    (packages,) = (folder / "env/lib").glob("python*/site-packages")
    (packages / "borrowed.pth").write_text(str(Path(torch.__file__).parents[1]), "utf-8")
    return programs


def test_the_wheel_holds_all_that_it_needs(installed):
    (package,) = installed.parent.glob("lib/python*/site-packages/glczoo")
    names = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
    assert {"py.typed", "evaluation/report.html", "model_cards/template.md"} <= names
    assert {f"recipes/{name}" for name in FILES} <= names
    source = {path.relative_to(TOP / "glczoo").as_posix() for path in (TOP / "glczoo").rglob("*.py")}
    travelling = (path for path in (TOP / "glczoo/sample").rglob("*") if path.is_file())
    assert {path.relative_to(TOP / "glczoo").as_posix() for path in travelling} <= names
    assert source <= names and not any(name.startswith("tests/") for name in names)


TINY = ["model=test_resnet", "modalities=[soil]", "patch_size=8", "epochs=1", "batch_size=32", "init=random"]


def test_a_wheel_trains_a_packaged_recipe_from_an_empty_folder(installed, world, tmp_path):
    words = [f"region={world}", *TINY]
    launch = [installed / "python", "-m", "accelerate.commands.accelerate_cli", "launch"]
    for command in (
        [installed / "python", "-m", "glczoo.train", "recipes/step1.yaml", *words],
        [*launch, "-m", "glczoo.train", "recipes/step2.yaml", *words],
        [installed / "glczoo", "train", "step3", *words],
    ):
        shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert shown.returncode == 0, shown.stderr
        assert f"is not here, the packaged {installed.parent}" in shown.stderr
    for step in ("step1", "step2", "step3"):
        assert (tmp_path / f"runs/virtual/test_resnet/{step}/model.safetensors").is_file()


SNIPPET = """
import glczoo, timm
print(glczoo.load("sample").predict(5.4, 46.6)["species"].iloc[0])
print(timm.create_model("test_fusresnet_glc23", pretrained=True).num_classes)
"""


def test_a_wheel_answers_without_a_network(installed, tmp_path):
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    python = subprocess.run(
        [installed / "python", "-c", SNIPPET], cwd=tmp_path, env=offline, capture_output=True, text=True
    )
    assert python.returncode == 0, python.stderr
    first, classes = python.stdout.splitlines()
    assert first[0].isupper() and len(first.split()) == 2 and classes == "120"
