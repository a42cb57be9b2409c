"""Every command of the documentation, on files as people have them; what needs more is parsed."""

from pathlib import Path

import click
import pandas as pd
import pytest
from docs_pages import COPIED, DOCS, Block, Scratch, blocks, check, pages, prerequisite
from loopback_hub import HubServer

from glczoo.cli import main

TUTORIAL = DOCS / "tutorials" / "own_region.md"
ALONE = [page for page in pages() if prerequisite(page) is None and page != TUTORIAL]


@pytest.fixture
def scratch(tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Scratch:
    """A folder to work in, a Hub to publish on, and a page that is not served."""
    monkeypatch.setenv("HF_TOKEN", "write")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("glczoo.prediction.app.serve", lambda *_, **__: None)
    return Scratch(tmp_path, main)


def test_the_tutorial_and_every_page_that_begins_where_it_ends(scratch: Scratch, hub: HubServer) -> None:
    scratch.follow(TUTORIAL)
    assert Path("my_region/check.png").stat().st_size > 10_000
    assert "<html" in Path("report.html").read_text()
    answers, left = pd.read_csv("species.csv"), pd.read_csv("species.left_out.csv")
    assert answers["id"].nunique() == 20
    assert len(left) == 1 and "outside" in left["reason"][0]
    assert {".png", ".tif"} <= {path.suffix for path in Path("maps").iterdir()}
    for page in pages():
        if prerequisite(page) == TUTORIAL:
            scratch.follow(page)
    assert {"my-org/my-region", "my-org/other-region"} <= set(hub.store.repos)
    assert Path("model.pt2").exists() and Path("odmap.csv").exists()


@pytest.mark.parametrize("page", ALONE, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_page_that_stands_alone(scratch: Scratch, page: Path) -> None:
    scratch.follow(page)


@pytest.mark.parametrize("page", COPIED, ids=lambda page: page.name)
def test_files_of_the_top_name_what_there_is(page: Path) -> None:
    for block in blocks(page):
        if block.language != "python" or "docs: parse" in page.read_text():
            check(block)


@pytest.mark.parametrize(
    "line",
    [
        "glczoo map RUN --resolutoin 1 --out maps",
        "glczoo maps",
        "glczoo train recipes/step9.yaml",
        "glczoo train step1 epohcs=3",
        "glczoo fit my_region fold=2",
        "accelerate launch --config_file recipes/accelerate/none.yaml -m glczoo.train step1",
        "pip install 'glczoo[everything]'",
        "make everything",
        "conda install glczoo",
    ],
)
def test_what_is_wrong_on_a_page_is_found(line: str) -> None:
    with pytest.raises((AssertionError, ValueError, click.ClickException)):
        check(Block(TUTORIAL, "sh", line + "\n"))


def test_a_key_that_there_is_not_is_found() -> None:
    check(Block(TUTORIAL, "yaml", "records: {cell_km: 1}\n"))
    for text in ("records: {cell_miles: 1}\n", "recrods: {cell_km: 1}\n"):
        with pytest.raises((AssertionError, ValueError)):
            check(Block(TUTORIAL, "yaml", text))
