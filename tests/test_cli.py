"""The command: every verb explains itself, what it writes is whole, and mistakes end in one line."""

import json
import shutil
import subprocess
import sys

import pytest

from glczoo.cli import main

VERBS = [
    ["demo"],
    ["region", "init"],
    ["region", "check"],
    ["region", "stats"],
    ["region", "make-virtual"],
    ["pack"],
    ["evaluate"],
    ["predict"],
    ["map"],
    ["ensemble"],
    ["forest"],
    ["save"],
    ["push"],
    ["pull"],
    ["verify"],
    ["study"],
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*verb, "--help"])
    assert stop.value.code == 0 and f"usage: glczoo {' '.join(verb)}" in capsys.readouterr().out


def test_python_m_is_the_same_command():
    shown = subprocess.run(
        [sys.executable, "-m", "glczoo", "--help"], capture_output=True, text=True, check=True
    )
    assert all(f"    {verb[0]} " in shown.stdout for verb in VERBS)


def test_region_check_and_stats(world, tmp_path, capsys):
    main(["region", "check", str(world), "--json", str(tmp_path / "check.json")])
    printed, found = capsys.readouterr().out, json.loads((tmp_path / "check.json").read_text())
    assert "no problems" in printed and found["tables"]["pa"]["rows"] == 120
    assert found["tables"]["po"]["rows"] == 400 and found["species"] == 24
    assert found["tables"]["test"]["incomplete"]["without a JPEG patch (red … nir)"] == 0
    main(["region", "stats", str(world), "--json", str(tmp_path / "stats.json")])
    printed, found = capsys.readouterr().out, json.loads((tmp_path / "stats.json").read_text())
    assert len(found["mean"]) == 33 and printed.count("\n") == 35 and found["surveys"] == 96


def test_region_check_names_what_is_missing(world, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(world, broken)
    first, second, *_ = sorted((broken / "SatelliteImages" / "rgb").rglob("*.jpeg"))
    first.unlink()
    second.write_bytes(b"no picture")
    main(["region", "check", str(broken)])
    printed = capsys.readouterr().out
    assert f"patchID {first.stem} at lon" in printed and f"{second.name} is not a whole JPEG" in printed


def test_make_virtual_says_what_it_made(tmp_path, capsys):
    arguments = ["region", "make-virtual", str(tmp_path / "v"), "--species", "5", "--po", "40", "--pa", "20"]
    main([*arguments, "--test", "5", "--size", "48"])
    assert "5 species; 40 presence-only records" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="is there and not empty"):
        main(arguments)


@pytest.mark.parametrize(
    "words", [["seed=1", "--jobs", "2", "epochs=3"], ["--jobs", "2", "seed=1", "epochs=3"]], ids=" ".join
)
def test_overrides_may_stand_after_an_option(words, monkeypatch):
    given = []
    monkeypatch.setattr("glczoo.cli._study", given.append)
    main(["study", "table.yaml", *words])
    assert given[0].overrides == ["seed=1", "epochs=3"] and given[0].jobs == 2
    with pytest.raises(SystemExit):
        main(["study", "table.yaml", *words, "--epochs=3"])
    assert len(given) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["region", "check", "nowhere"], "there is no file nowhere"),
        (["evaluate", "nowhere"], "nowhere is no finished run"),
        (["study", "nowhere.yaml"], "there is no file nowhere.yaml"),
        (["ensemble", "nowhere", "--out", "x"], "needs two runs or more"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message):
    with pytest.raises(SystemExit, match=message):
        main(arguments)
