"""README.md: its Python prints what it says, its commands work, its links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from matplotlib.image import imread
from readme_walk import TOP, blocks, commands

from glczoo.cli import main

PAGE = (TOP / "README.md").read_text("utf-8")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_python_prints_what_it_says(elsewhere, capsys):
    (python,) = [number for number, block in enumerate(blocks()) if block.language == "python"]
    code, expected = blocks()[python : python + 2]
    exec(compile(code.text, "README.md", "exec"), {})
    assert expected.language == "text" and capsys.readouterr().out == expected.text
    assert len(code.text.splitlines()) <= 10


def test_its_commands_work(elsewhere, monkeypatch, capsys):
    served = []
    monkeypatch.setattr("glczoo.prediction.app.serve", lambda runs, *_, **__: served.append(runs))
    given = [line for block in blocks() if block.language == "sh" for line in commands(block)]
    for command in given:
        program, *words = shlex.split(command)
        if program == "glczoo":
            main(words)
    assert len(given) == 4 and served == [["sample"]]
    assert "whole. test_fusresnet_glc23" in capsys.readouterr().out and list(Path("maps").glob("*.png"))


def test_its_other_commands_are_verbs(capsys):
    lines = re.findall(r"^glczoo ([a-z]+(?: [a-z-]+)?)", PAGE, re.M)
    lines += re.findall(r"`glczoo ([a-z]+)", PAGE)
    for words in {line.split()[0] for line in lines}:
        with pytest.raises(SystemExit) as ended:
            main([words, "--help"])
        assert ended.value.code == 0
    assert len(lines) > 8


def test_its_links_and_pictures_are_there():
    names = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", PAGE)
    assert [name for name in names if not (TOP / name).exists()] == []
    pictures = [name for name in names if name.endswith(".png")]
    assert len(pictures) == 2 and all(imread(TOP / name).shape[1] > 600 for name in pictures)


def test_it_is_a_first_screen_and_not_a_manual():
    assert len(PAGE.splitlines()) <= 130
