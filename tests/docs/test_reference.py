"""The pages made from the code hold every verb, key and public name, and miss no explanation."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("mkdocs")
sys.path.insert(0, str(ROOT / "docs"))

import reference_pages as reference  # noqa: E402

from glczoo.cli import command  # noqa: E402
from glczoo.recipe import Recipe  # noqa: E402


def test_nothing_public_is_unexplained() -> None:
    assert reference.unexplained_options() == []
    assert reference.unexplained_keys() == []
    assert reference.unexplained_names() == []


def test_every_verb_and_option_stands_on_a_page() -> None:
    text = "\n".join(t for uri, t in reference.pages().items() if uri.startswith("reference/commands/"))
    for words, verb in reference.verbs():
        part = text.partition(f"## glczoo {' '.join(words)}\n")[2].partition("\n## ")[0]
        assert part, words
        assert all(f"`{param.opts[0]}`" in part for param in verb.params if param.opts[0].startswith("--"))
    assert len(list(reference.verbs())) >= sum(len(verbs) for verbs in command.sections.values())


def test_every_key_of_a_recipe_stands_on_its_page() -> None:
    text = reference.pages()["reference/recipe.md"]
    keys = [key for key, _, _ in reference.keys(Recipe)]
    assert "data.blocks.buffer_km" in keys and "optimizer.lr" in keys
    assert all(f"`{key}` (" in text for key in keys)
    assert "`decoding.rule` (`top_k` or `threshold`" in text
    assert "`batch_size` (whole number, at least 2, required)" in text


def test_every_environment_variable_that_the_code_reads_is_explained() -> None:
    page = (ROOT / "docs" / "reference" / "environment.md").read_text()
    read = set()
    for path in (ROOT / "glczoo").rglob("*.py"):
        read |= set(re.findall(r"""environ(?:\.get\(|\.setdefault\(|\[)\s*["'](\w+)""", path.read_text()))
    assert {"GLCZOO_DATA", "GLCZOO_CACHE"} <= read
    assert {name for name in read if f"`{name}`" not in page} == set()


def test_words_of_parameters_are_read_from_their_page() -> None:
    assert {"region", "lon", "lat", "batch_size", "target"} <= reference.words()
