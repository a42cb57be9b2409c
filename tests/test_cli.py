"""The command: every verb explains itself, words may stand in any order, and mistakes end in one line."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from glczoo import __version__
from glczoo.cli import command, main
from glczoo.errors import GlczooError, MissingError
from glczoo.runs.portable import format_of


def verbs(group: click.Group = command, *path: str) -> Iterator[tuple[str, ...]]:
    """Words of every verb, as the command knows them."""
    for name, verb in group.commands.items():
        if isinstance(verb, click.Group):
            yield from verbs(verb, *path, name)
        else:
            yield (*path, name)


VERBS = list(verbs())


def verb(words: tuple[str, ...]) -> click.Command:
    named: click.Command = command
    for word in words:
        assert isinstance(named, click.Group)
        named = named.commands[word]
    return named


def parsed(*words: str) -> dict[str, object]:
    """Values of a verb's parameters."""
    name, *rest = words
    return command.commands[name].make_context(name, rest).params


def test_there_are_as_many_verbs_as_are_tested():
    assert len(VERBS) == len(set(VERBS)) == 27


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_verb_explains_itself(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    printed = capsys.readouterr().out
    assert stop.value.code == 0 and f"Usage: glczoo {' '.join(words)}" in printed


@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_every_word_of_a_verb_is_explained(words):
    params = verb(words).params
    options = [param for param in params if isinstance(param, click.Option)]
    assert all(option.help for option in options)
    places = {str(param.metavar or param.name).upper() for param in params if param not in options}
    text = f"{verb(words).help} {[param.metavar for param in params]}"
    assert all(place.strip("[]…").split("[")[0].split("|")[0] in text for place in places)


def test_the_command_lists_every_verb_and_python_m_is_the_same():
    command = [sys.executable, "-m", "glczoo", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(f"\n  {words[0]} " in shown.stdout for words in VERBS)


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"glczoo {__version__}\n"


def test_the_help_of_train_lists_the_keys_of_a_recipe(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    printed = capsys.readouterr().out
    assert "\n  optimizer.lr  (float; required)\n" in printed and "\n  data.tables  (" in printed


def test_train_is_the_module(world, tmp_path, monkeypatch):
    recipes = []
    monkeypatch.setattr("glczoo.train.train", recipes.append)
    (tmp_path / "step1.yaml").write_text(Path(__file__).parents[1].joinpath("recipes/step1.yaml").read_text())
    main(["train", str(tmp_path / "step1.yaml"), f"region={world}", "epochs=3"])
    assert [(recipe.name, recipe.epochs, recipe.region) for recipe in recipes] == [("step1", 3, str(world))]


def test_region_check_and_stats(world, tmp_path, capsys):
    main(["region", "check", str(world), "--json", str(tmp_path / "check.json")])
    printed, result = capsys.readouterr().out, json.loads((tmp_path / "check.json").read_text())
    assert "no problems" in printed and result["tables"]["pa"]["rows"] == 120
    assert result["tables"]["po"]["rows"] == 400 and result["species"] == 24
    assert result["tables"]["test"]["incomplete"]["without a JPEG patch (red … nir)"] == 0
    main(["region", "stats", str(world), "--json", str(tmp_path / "stats.json")])
    printed, result = capsys.readouterr().out, json.loads((tmp_path / "stats.json").read_text())
    assert len(result["mean"]) == 33 and printed.count("\n") == 35 and result["surveys"] == 96


def test_region_check_names_what_is_missing(world, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(world, broken)
    first, second, *_ = sorted((broken / "SatelliteImages" / "rgb").rglob("*.jpeg"))
    first.unlink()
    second.write_bytes(b"no picture")
    main(["region", "check", str(broken)])
    printed = capsys.readouterr().out
    assert f"patchID {first.stem} at lon" in printed and f"{second.name} is not a whole JPEG" in printed


def test_make_virtual_reports_what_it_made(tmp_path, capsys):
    arguments = ["region", "make-virtual", str(tmp_path / "v"), "--species", "5", "--po", "40", "--pa", "20"]
    main([*arguments, "--test", "5", "--size", "48"])
    assert "5 species; 40 presence-only records" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="is there and not empty"):
        main(arguments)


OVERRIDDEN = {"study": "--jobs", "crossval": "--json", "forest": "--trees"}
"""Verbs that take a recipe (or a study), overrides, and options."""


@pytest.mark.parametrize("name", [*OVERRIDDEN, "bench"])
@pytest.mark.parametrize(
    "words", ["a.yaml {} 2 seed=1 epochs=3", "a.yaml seed=1 {} 2 epochs=3", "{} 2 a.yaml seed=1 epochs=3"]
)
def test_overrides_stand_anywhere_among_options(name, words):
    option = OVERRIDDEN.get(name, "--seconds")
    params = parsed(name, *words.format(option).split())
    overrides = ("a.yaml", *params["overrides"]) if name in OVERRIDDEN else params["words"]
    assert overrides == ("a.yaml", "seed=1", "epochs=3")
    assert str(params[option[2:].replace("json", "json_file")]).startswith("2")


def test_options_of_several_words():
    rest = ["--resolution", "1", "--out", "m"]
    together = parsed("map", "a", "b", "--species", "3", "Abies alba", *rest)
    apart = parsed("map", "--species", "3", "--species", "Abies alba", *rest, "a", "b")
    assert together == apart
    assert (together["runs"], together["species"]) == (("a", "b"), ("3", "Abies alba"))


def test_a_box_may_have_negative_sides():
    words = ["map", "a", "--bbox", "-5", "-46.5", "1", "0", "--resolution", "1", "--out", "m"]
    assert parsed(*words)["bbox"] == (-5, -46.5, 1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["region", "check", "nowhere"], "there is no file nowhere"),
        (["evaluate", "nowhere"], "there is no folder nowhere: train a run, or name one of the Hub"),
        (["train", "nowhere.yaml"], "there is no file nowhere.yaml"),
        (["study", "nowhere.yaml"], "there is no file nowhere.yaml"),
        (["ensemble", "nowhere", "--out", "x"], "needs two runs or more"),
        (["bench", "a.yaml", "b.yaml"], "one recipe is measured at a time"),
    ],
)
def test_what_a_user_can_mend_ends_in_one_line(arguments, message):
    with pytest.raises(SystemExit, match=message) as stop:
        main(arguments)
    assert str(stop.value.code).startswith("glczoo: ") and "\n" not in str(stop.value.code)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prune"], "No such command 'prune'"),
        (["study", "a.yaml", "--epochs=3"], "No such option"),
        (["train"], "Missing argument 'RECIPE'"),
        (["map", "run"], "Missing option '--out'"),
        (["evaluate", "run", "--part", "all"], "'all' is not one of"),
        (["predict", "run", "--out", "a.csv"], "give either --points CSV or --submission"),
        (["predict", "run", "--out", "a.csv", "--points", "p", "--submission"], "give either --points CSV"),
        (["predict", "run", "--out", "a.csv", "--points", "p", "--test", "iid"], "of a --submission"),
    ],
)
def test_mistakes_of_usage_end_with_code_two(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def raising(error: BaseException):
    def pull(_: str) -> None:
        raise error

    return pull


def test_an_error_holds_what_where_and_remedy(monkeypatch):
    error = MissingError("there is no table pa", where="region.yaml", remedy="Add it under tables:.")
    assert isinstance(error, GlczooError) and isinstance(error, FileNotFoundError)
    monkeypatch.setattr("glczoo.hub_client.pull", raising(error))
    with pytest.raises(SystemExit) as stop:
        main(["pull", "a/b"])
    assert stop.value.code == "glczoo: region.yaml: there is no table pa. Add it under tables:."


def test_an_error_of_glczoo_itself_leaves_its_traceback_in_a_file(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("glczoo.hub_client.pull", raising(RuntimeError("surprise\nin two lines")))
    with pytest.raises(SystemExit) as stop:
        main(["pull", "a/b"])
    (file,) = tmp_path.iterdir()
    printed = capsys.readouterr().err
    assert stop.value.code == 70 and printed.count("\n") == 1
    assert "RuntimeError: surprise" in printed and str(file) in printed and "/issues" in printed
    text = file.read_text()
    assert text.startswith(f"glczoo pull a/b\nglczoo {__version__}, Python 3") and "Traceback" in text


def test_ctrl_c_ends_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("glczoo.hub_client.pull", raising(KeyboardInterrupt()))
    with pytest.raises(SystemExit) as stop:
        main(["pull", "a/b"])
    assert stop.value.code == 130 and capsys.readouterr().err.strip() == "glczoo: interrupted"


def test_a_reader_that_has_read_enough_is_no_error():
    code = "import sys; from glczoo.cli import main\nsys.stdin.readline()\nmain(['map', '--help'])"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        process.stdout.close()
        _, printed = process.communicate(b"\n")
    assert printed == b""


@pytest.mark.parametrize("option", ["--k", "--batch-size"])
def test_a_number_below_one_is_a_mistake_of_usage(option, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "RUN", "--points", "points.csv", "--out", "out.csv", option, "0"])
    assert stop.value.code == 2 and "0 is not in the range x>=1" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["forest", "step1", "--trees", "0"],
        ["fit", "region", "--jobs", "0"],
        ["fit", "region", "--minutes", "-1"],
        ["bench", "--seconds", "0"],
        ["demo", "--seed", "-1"],
        ["app", "run", "--port", "100000"],
        ["region", "make-virtual", "x", "--species", "0"],
    ],
    ids=lambda words: words[0],
)
def test_a_number_out_of_range_is_a_mistake_of_usage(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2 and "is not in the range" in capsys.readouterr().err


def test_every_option_that_is_a_number_has_a_range():
    def options(verb):
        if isinstance(verb, click.Group):
            return [option for inner in verb.commands.values() for option in options(inner)]
        return [param for param in verb.params if param.type in (click.INT, click.FLOAT)]

    assert {param.name for param in options(command)} == {
        "bbox",
        "resolution",
        "cells",
        "middle",
    }  # checked inside


def test_a_file_name_says_the_format_of_an_export_or_is_refused(tmp_path):
    with pytest.raises(
        SystemExit, match=r"model.onnx is the name of a file of format onnx, asked for is torch"
    ):
        main(["export", "run", "--out", str(tmp_path / "model.onnx"), "--format", "torch"])
    assert format_of(Path("m.onnx"), None) == "onnx" and format_of(Path("m.pt2"), None) == "torch"
    assert format_of(Path("m.bin"), "onnx") == "onnx" and format_of(Path("m.bin"), None) == "torch"


def test_a_model_that_is_not_there_is_told_with_those_of_names_like_it(tmp_path):
    folder = tmp_path / "region"
    main(
        ["region", "make-virtual", str(folder), "--species", "30", "--po", "90", "--pa", "40", "--size", "48"]
    )
    with pytest.raises(SystemExit, match="no model 'fusresnet34_glc32': did you mean .*fusresnet34_glc23"):
        main(
            [
                "train",
                "step1",
                f"region={folder}",
                "model=fusresnet34_glc32",
                "top_k=2",
                f"runs={tmp_path}",
                "init=random",
            ]
        )


@pytest.mark.parametrize("name", ["./tinny", "runs/glc23/step1", "/nowhere/at/all"])
def test_a_folder_that_is_not_there_is_not_looked_for_on_the_hub(name):
    with pytest.raises(SystemExit, match=f"there is no folder {name}; a model on the Hub is named ORG/NAME"):
        main(["verify", name])
