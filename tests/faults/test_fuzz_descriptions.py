"""Recipes, overrides and regions in which anything was replaced, added, cut out or exchanged."""

from pathlib import Path

import yaml
from hypothesis import given
from hypothesis import strategies as st
from mutations import changed_text, changed_yaml, fuzzed, refused_or_read, values, written

from glczoo.data.region import Region
from glczoo.recipe import read_recipe

RECIPES = Path(__file__).parents[2] / "recipes"


def texts(path: Path) -> st.SearchStrategy[str]:
    text = path.read_text("utf-8")
    return changed_yaml(text) | changed_text(text)


@fuzzed
@given(text=texts(RECIPES / "step2.yaml"))
def test_fuzzed_recipes(text, tmp_path):
    path = written(tmp_path / "fuzzed.yaml", text)
    refused_or_read(lambda: read_recipe(path, [f"region={RECIPES / 'regions/glc23.yaml'}"]))


KEYS = ["epochs", "optimizer", "optimizer.lr", "data", "data.blocks.folds", "loss", "loss.k", "decoding"]


@fuzzed
@given(key=st.sampled_from(KEYS) | st.text(max_size=10), value=st.text() | values.map(yaml.safe_dump))
def test_fuzzed_overrides(key, value):
    refused_or_read(lambda: read_recipe(RECIPES / "step2.yaml", [f"{key}={value}"]))


@fuzzed
@given(text=texts(RECIPES / "regions/swiss_trees.yaml"))
def test_fuzzed_regions(text, tmp_path):
    path = written(tmp_path / "region.yaml", text)

    def read() -> None:
        region = Region.load(path)
        assert Region.model_validate(yaml.safe_load(region.text())).name == region.name

    refused_or_read(read)
