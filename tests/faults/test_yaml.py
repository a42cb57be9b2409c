"""Recipes, overrides and regions as anybody may have written them: read, or refused in a few plain words."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glczoo.cli import main
from glczoo.data.region import Region
from glczoo.errors import GlczooError
from glczoo.recipe import read_recipe
from glczoo.yaml_text import parse_yaml

RECIPES = Path(__file__).parents[2] / "recipes"
EXAMPLES = int(os.environ.get("GLCZOO_FUZZ", "200"))
fuzzed = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

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


# Fuzzing: a recipe or a region in which anything was replaced, added, cut out or exchanged.

ODD = ["", "no", "../..", "/etc", "hf-hub:a/b", "top_k", "auto", "x" * 20_000, "\0", "pa", "1e-3"]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=30),
    st.dates(),
    st.sampled_from(ODD),
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8) | scalars, inner, max_size=4)
    ),
    max_leaves=12,
)
LETTERS = ["&a ", "*a", "!!set ", "\t", "\x07", "[", "{", "- ", ": ", "'", '"', "|\n", "\n\n", "%", "\ud7ff"]


@st.composite
def changed_values(draw: st.DrawFn, text: str) -> str:
    """A YAML file some of whose values are others."""
    data = yaml.safe_load(text)
    for _ in range(draw(st.integers(1, 3))):
        place = data
        while True:
            names = [*place, "another"] if isinstance(place, dict) else list(range(len(place)))
            name = draw(st.sampled_from(names))
            inner = None if name == "another" else place[name]
            if not (isinstance(inner, dict | list) and inner and draw(st.booleans())):
                break
            place = inner
        place[name] = draw(values)
    return yaml.safe_dump(data, allow_unicode=True)


@st.composite
def changed_text(draw: st.DrawFn, text: str) -> str:
    """A YAML file with letters cut out or put in."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = start + draw(st.sampled_from([0, 0, 1, 5, 200]))
        text = text[:start] + draw(st.sampled_from(LETTERS) | st.text(max_size=5)) + text[end:]
    return text


def texts(path: Path) -> st.SearchStrategy[str]:
    text = path.read_text("utf-8")
    return changed_values(text) | changed_text(text)


def written(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    return folder / name


def refused_or_read(read: Callable[[], object]) -> None:
    """Reading ends, at once, in a value or in a message that a person can read."""
    start = time.process_time()
    try:
        read()
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        assert 0 < len(message) < 15_000 and max(map(len, message.splitlines())) < 1000
        message.encode()
    assert time.process_time() - start < 10


@fuzzed
@given(text=texts(RECIPES / "step2.yaml"))
def test_fuzzed_recipes(text, tmp_path):
    path = written(tmp_path, "fuzzed.yaml", text)
    refused_or_read(lambda: read_recipe(path, [f"region={RECIPES / 'regions/glc23.yaml'}"]))


KEYS = ["epochs", "optimizer", "optimizer.lr", "data", "data.blocks.folds", "loss", "loss.k", "decoding"]


@fuzzed
@given(key=st.sampled_from(KEYS) | st.text(max_size=10), value=st.text() | values.map(yaml.safe_dump))
def test_fuzzed_overrides(key, value):
    refused_or_read(lambda: read_recipe(RECIPES / "step2.yaml", [f"{key}={value}"]))


@fuzzed
@given(text=texts(RECIPES / "regions/swiss_trees.yaml"))
def test_fuzzed_regions(text, tmp_path):
    path = written(tmp_path, "region.yaml", text)

    def read() -> None:
        region = Region.load(path)
        assert Region.model_validate(yaml.safe_load(region.text())).name == region.name

    refused_or_read(read)
