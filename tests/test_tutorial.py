"""TUTORIAL.md, every command of it, on the files of a virtual region as a user would have them."""

import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
from loopback_hub import HubServer
from test_init import gbif_row, write_gbif

from glczoo.cli import main

PAGE = Path(__file__).parents[1] / "TUTORIAL.md"
EPITHETS = ("alba", "arvensis", "montana", "palustris", "vulgaris", "perennis")


FEWER = " folds=2 blocks=8 forest.trees=5 records.copies=1 records.epochs_species=2 records.epochs_sites=2"
"""What makes a fit short enough for a test."""


def commands() -> list[str]:
    """Lines of the page's shell blocks, without comments, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if shlex.split(line, comments=True)]


def write_files(world: Path, folder: Path) -> None:
    """What the page starts from: rasters in folders, a download of GBIF, a table of plots, points."""
    rasters = folder / "my_region/rasters"
    shutil.copytree(next(world.glob("EnvironmentalRasters/Climate/*")), rasters / "climate")
    shutil.copytree(world / "EnvironmentalRasters/Soilgrids", rasters / "soil")
    names = {number: f"Virtua {EPITHETS[number % 6]}{number}" for number in range(1, 100)}
    (records,) = (world / "Presence_only_occurrences").glob("*.csv")
    po = pd.read_csv(records, sep=";")
    rows = zip(po["lon"], po["lat"], po["speciesId"], strict=True)
    write_gbif(
        folder / "my_region/gbif.csv",
        [
            gbif_row(i, lon, lat, names[species], speciesKey=str(10_000 + species))
            for i, (lon, lat, species) in enumerate(rows)
        ],
    )
    (surveys,) = (world / "Presence_Absence_surveys").glob("*.csv")
    pa = pd.read_csv(surveys, sep=";")
    plots = pa[["patchID", "date", "lon", "lat"]].set_axis(["plot", "date", "longitude", "latitude"], axis=1)
    plots.assign(species=pa["speciesId"].map(names)).to_csv(folder / "my_region/plots.csv", index=False)
    places = plots.drop_duplicates("plot")[["longitude", "latitude"]].head(5)
    extra = pd.DataFrame({"longitude": [0.0], "latitude": [0.0]})  # nobody's region
    pd.concat([places, extra]).set_axis(["lon", "lat"], axis=1).to_csv(folder / "points.csv", index=False)


@pytest.fixture
def folder(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_files(world, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str) -> None:
    """A line of the page, in this process: an import for each would take most of the time."""
    program, *words = shlex.split(command, comments=True)
    assert program == "glczoo"
    main(words)


def smaller(recipe: Path) -> None:
    """The recipe that `init` wrote, for a test: one epoch of narrow layers."""
    text = re.sub(r"^epochs: .*", "epochs: 1", recipe.read_text(), flags=re.M)
    recipe.write_text(re.sub(r"channels: .*", "channels: [4, 8, 8, 8]", text))


def test_every_command_of_the_page(folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "write")
    served: list[list[str]] = []
    monkeypatch.setattr("glczoo.prediction.app.serve", lambda runs, *_, **__: served.append(runs))
    for command in commands():
        run(command + FEWER if command.startswith("glczoo fit") else command)
        if " init " in command:
            for recipe in (folder / "my_region/recipes").glob("step*.yaml"):
                smaller(recipe)
    assert (folder / "my_region/check.png").stat().st_size > 10_000
    assert "<html" in (folder / "report.html").read_text() and served
    answers, left = pd.read_csv(folder / "species.csv"), pd.read_csv(folder / "species.left_out.csv")
    assert answers["id"].nunique() == 5
    assert left["reason"].tolist() == ["at 0, 0"]
    drawn = sorted(path.suffix for path in (folder / "maps").iterdir())
    assert ".png" in drawn and ".tif" in drawn
    assert "my-org/my-region" in hub.store.repos
