"""The ODMAP protocol holds what recipe, region, splits and scores say, and leaves the rest to the authors."""

import csv
import re
import shutil
from pathlib import Path

import pytest
import yaml

from glczoo.cli import main
from glczoo.evaluation.evaluate import evaluate
from glczoo.evaluation.odmap import Entry, unanswered, write_odmap
from glczoo.hub.publish import save
from glczoo.runs.run import Run

SECTIONS = ["Overview", "Data", "Model", "Assessment", "Prediction"]


@pytest.fixture(scope="module")
def run(trained_run) -> Path:
    return trained_run(
        "step1", "step2", "step3", model="test_resnet", modalities="[soil, footprint]", epochs=2
    )


@pytest.fixture(scope="module")
def written(run, tmp_path_factory) -> tuple[list[dict[str, str]], Path]:
    """The rows of the table, and the folder that it lies in."""
    folder = tmp_path_factory.mktemp("odmap")
    out = ["--out", str(folder / "report.html"), "--odmap", str(folder / "odmap.csv")]
    with pytest.MonkeyPatch.context() as patch:
        for module in ("report", "sections"):
            patch.setattr(f"glczoo.evaluation.{module}.svg_uri", lambda figure: "data:,")
        main(["report", str(run), *out, "--sample", "10"])
    with open(folder / "odmap.csv") as file:
        return list(csv.DictReader(file)), folder


@pytest.fixture(scope="module")
def value(written):
    """What the table says of an element, of a subsection if several have it."""

    def find(element: str, subsection: str | None = None) -> str:
        (row,) = [
            row for row in written[0] if row["element"] == element and subsection in (None, row["subsection"])
        ]
        return row["value"]

    return find


def test_every_section_stands_there_in_the_papers_order(written):
    rows, _ = written
    assert list(rows[0]) == ["section", "subsection", "element", "value"]
    assert list(dict.fromkeys(row["section"] for row in rows)) == SECTIONS
    assert len({(row["section"], row["subsection"], row["element"]) for row in rows}) == len(rows) == 84


def test_what_only_the_authors_know_is_empty(value):
    for element in ("Study title", "Author names", "Contact", "Hypotheses", "Expert judgement"):
        assert value(element) == "", element


def test_steps_and_splits_are_those_of_the_recipes(value):
    workflow = value("Model workflow")
    assert re.findall(r"(\d)\. (\w+): (\w+) on", workflow) == [
        ("1", "step1", "bce"), ("2", "step2", "ce"), ("3", "step3", "bce")
    ]  # fmt: skip
    assert value("Training data").startswith("96 presence-absence surveys")
    assert value("Validation data").startswith("24 presence-absence surveys")
    assert value("Test data") == "" and "at random, seed 0" in value("Training data")
    assert value("Threshold selection") == "top 5, set in the recipe"


def test_scores_are_those_of_evaluate(value, run):
    found = evaluate([run], part="validation").own
    text = value("Performance on validation data")
    assert f"F1 by survey {found.f1:.3f}" in text and f"AUC {found.summary['auc']:.3f}" in text
    assert all(f"{name} " in text for name in ("PR-AUC", "TSS", "Boyce index"))
    assert value("Performance on training data") == value("Performance on test data") == ""


def test_bands_species_and_place_are_those_of_the_region(value, run):
    section = Run(run).config.glczoo
    bands = value("Predictor variables")
    assert bands.count(";") == len(section.bands) - 1 and bands.startswith("bdod [cg/cm3]")
    assert value("Coordinate reference system") == "EPSG:4326"
    assert value("Taxon names").count(";") == 23 and "24 species" in value("Focal taxon")
    assert value("Spatial extent", "Scale of analysis").startswith("training samples: lon 5.")


def test_the_command_lists_what_is_left_to_the_authors(run, tmp_path, capsys, written, monkeypatch):
    for module in ("report", "sections"):
        monkeypatch.setattr(f"glczoo.evaluation.{module}.svg_uri", lambda figure: "data:,")
    out = ["--out", str(tmp_path / "r.html"), "--odmap", str(tmp_path / "o.csv"), "--sample", "0"]
    main(["report", str(run), *out])
    printed = capsys.readouterr().out
    assert "elements filled in; yours are Overview: Study title; Overview: Author names" in printed


def test_elements_without_a_value_are_the_authors():
    entries = [Entry("Data", "a", "b", "c"), Entry("Data", "a", "d")]
    assert unanswered(entries) == ["Data: d"]


def test_formulas_of_names_are_text(tmp_path):
    write_odmap(tmp_path / "o.csv", [Entry("Data", "a", "b", "=1+1")])
    assert (tmp_path / "o.csv").read_text().splitlines()[1] == "Data,a,b,'=1+1"


def test_citations_are_repeated_on_protocol_card_and_report(run, world, tmp_path, monkeypatch):
    region = Path(shutil.copytree(world, tmp_path / "region", symlinks=True))
    described = yaml.safe_load((region / "region.yaml").read_text())
    described["tables"]["pa"].update(citation="Doe 2020, Surveys", doi="10.1/pa")
    described["modalities"][1].update(citation="Soil people", doi="10.2/soil")  # seen
    described["modalities"][0].update(citation="Climate people")  # not seen by this model
    (region / "region.yaml").write_text(yaml.safe_dump(described, sort_keys=False))
    folder = Path(shutil.copytree(run.parent, tmp_path / "runs")) / "step3"
    for step in folder.parent.iterdir():
        recipe = (step / "recipe.yaml").read_text().replace(str(world), str(region))
        (step / "recipe.yaml").write_text(recipe)
    assert Run(folder).citations() == ["Doe 2020, Surveys doi:10.1/pa", "Soil people doi:10.2/soil"]
    assert Run(folder).citations("rasters") == ["Soil people doi:10.2/soil"]
    card = (save(folder, tmp_path / "saved") / "README.md").read_text()
    assert "- Data: Doe 2020, Surveys doi:10.1/pa\n- Data: Soil people doi:10.2/soil\n" in card
