"""Recipes, overrides and regions as anybody may have written them: read, or refused in a few plain words."""

import json
import re
import time
from pathlib import Path

import pytest
import yaml

from glczoo.cli import main
from glczoo.data.region import Region
from glczoo.errors import GlczooError
from glczoo.evaluation.nceas import run_benchmark
from glczoo.evaluation.study import read_study
from glczoo.recipe import read_recipe
from glczoo.yaml_text import parse_yaml

RECIPES = Path(__file__).parents[2] / "recipes"

ALIASES = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
BOMB = "\n".join(["a0: &a0 [x, x]", *ALIASES])
BROKEN = {
    "bomb": (BOMB, "stands for more than 100,000 values"),
    "circle": ("a: &a [*a]", "nested deeper than 20 levels"),
    "deep": ("a: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
    "rather deep": ("a: " + "[" * 30 + "]" * 30, "nested deeper than 20 levels"),
    "control": ("a: \x01", "special characters are not allowed"),
    "NUL": ('a: "b\\0c"', "holds the character 0x0000, which cannot be printed"),
    "half a letter": ('a: "\\ud800"', "holds the character 0xd800, which cannot be printed"),
    "unknown tag": ("a: !!python/object:os.system x", "line 1, column 4: could not determine a constructor"),
    "open bracket": ("a: [1,", "line 1, column 7: expected the node content, but found '<stream end>'"),
    "tab": ("a:\n\t- b", "line 2, column 1: found character '\\t' that cannot start any token"),
    "date": ("a: 2020-13-45", "a value is no month must be in 1..12"),
    "digits": ("a: " + "9" * 5000, "a value is no Exceeds the limit"),
    "bytes": ("a: !!binary aGFsbG8=", "it holds bytes"),
    "list as key": ("? [a, b]\n: c", "found unhashable key"),
    "long": ("a: " + "x" * 500_001, "500,004 characters are too many"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_yaml_is_refused_in_one_line_and_at_once(name):
    text, message = BROKEN[name]
    start = time.process_time()
    with pytest.raises(GlczooError, match=re.escape(message)) as refused:
        parse_yaml(text, "recipe.yaml")
    assert str(refused.value).startswith("recipe.yaml: ") and len(str(refused.value)) < 300
    assert "\n" not in str(refused.value) and time.process_time() - start < 5


def test_what_people_write_is_read():
    text = "# a comment\na: &shared {b: 1e-3, ö: 'naïve\ttab'}\nc: [*shared, *shared]\nd: 2020-01-02\n"
    assert parse_yaml(text, "here") == yaml.safe_load(text)


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "region.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(GlczooError, match="region.yaml: this is not UTF-8 text: .* at byte 6"):
        Region.load(tmp_path)


WORDS = ["decoding={rule: top_k", "name=[", f"name={'x' * 20_000}: 1: 2", "a" * 20_000, "=", "epochs.x=1"]


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word[:10])
def test_a_broken_override_is_refused_in_one_short_line(word):
    with pytest.raises(SystemExit) as stop:
        main(["train", str(RECIPES / "step1.yaml"), word])
    message = str(stop.value.code)
    assert message.startswith("glczoo: ") and "\n" not in message and len(message) < 300


def test_a_long_value_comes_back_cut(tmp_path):
    text = (RECIPES / "step1.yaml").read_text("utf-8")
    (tmp_path / "long.yaml").write_text(text.replace("epochs: 30", f"epochs: {'x' * 20_000}"), "utf-8")
    with pytest.raises(GlczooError, match="epochs: .*given 'xxx") as refused:
        read_recipe(tmp_path / "long.yaml")
    assert len(str(refused.value)) < 500


def test_many_mistakes_are_counted_and_not_listed(tmp_path):
    text = (RECIPES / "step1.yaml").read_text("utf-8")
    (tmp_path / "many.yaml").write_text(text + "\n".join(f"key{n}: 1" for n in range(5000)), "utf-8")
    with pytest.raises(GlczooError, match="5000 mistake") as refused:
        read_recipe(tmp_path / "many.yaml")
    assert str(refused.value).endswith("and 4,980 more") and str(refused.value).count("\n") == 21


@pytest.mark.parametrize(
    "path", ["a\0b.yaml", "x" * 5000, "a/" * 3000 + "b.yaml"], ids=["NUL", "name", "path"]
)
def test_a_path_that_cannot_be_one_is_refused_in_one_short_line(path):
    with pytest.raises(SystemExit) as stop:
        main(["train", path])
    message = str(stop.value.code)
    assert message.startswith("glczoo: ") and "\n" not in message and len(message) < 500


@pytest.mark.parametrize("name", ["..", ".", "../x", "/tmp/x", "a/b", ".hidden", "", "a\nb"])
def test_names_of_runs_studies_and_benchmarks_are_no_paths(tmp_path, name):
    with pytest.raises(GlczooError, match="name: "):
        read_recipe(RECIPES / "step1.yaml", [f"name={json.dumps(name)}"])
    with pytest.raises(GlczooError, match="name: "):
        read_study(RECIPES / "studies/losses.yaml", [f"name={json.dumps(name)}"])
    with pytest.raises(GlczooError, match="name: "):
        run_benchmark(RECIPES / "studies/nceas.yaml", [f"name={json.dumps(name)}", f"runs={tmp_path}"])
    assert not list(tmp_path.iterdir())
