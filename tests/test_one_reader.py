"""Whatever reads a table of places is one reader: all verbs take one awkward table and leave out the same.

The tables are as a spreadsheet of some French office saves them: semicolons, decimal commas, Windows-1252,
Lambert 93, rows of semicolons alone, a row without x, one with words in the place of numbers.
"""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import write_raster

from glczoo.cli import main
from glczoo.data.rasters import project
from glczoo.prediction.place import PlacePredictor

NAMES = ["Épicéa commun", "Hêtre", "Chêne pédonculé"]
CRS = "EPSG:2154"
HEAD = "relevé;date;x;y;espèce;présence"
LEFT_OUT = {"without coordinates": 2, "with coordinates that are no numbers": 1}  # rows of each table
TINY = ["epochs=1", "batch_size=16", "model=test_fusresnet_glc23", "patch_size=8"]


def comma(value: float) -> str:
    return f"{value:.2f}".replace(".", ",")


def awkward(head: str, rows: list[list[str]]) -> bytes:
    """A table with the three rows that are left out: a blank one, one without x, one with words."""
    width = head.count(";")
    last = f"{rows[1][0]};voir;carte" if width == 2 else f"{rows[1][0]};2020-05-01;voir;carte;;"
    odd = [";" * width, rows[0][0] + ";" * width, last]
    lines = [head, *(";".join(row) for row in rows[:5]), *odd, *(";".join(row) for row in rows[5:])]
    return ("\r\n".join(lines) + "\r\n").encode("cp1252")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A region that init made of these tables, with a run trained on it."""
    root = tmp_path_factory.mktemp("awkward")
    ramp = np.add.outer(np.arange(60.0), np.arange(60.0)).astype("float32")
    write_raster(root / "r/bio1.tif", [ramp], west=2.0, north=48.0, cell=0.01)
    write_raster(root / "r/bio12.tif", [600 + ramp[::-1]], west=2.0, north=48.0, cell=0.01)
    rng = np.random.default_rng(0)
    x, y = project("EPSG:4326", CRS, rng.uniform(2.05, 2.55, 48), rng.uniform(47.45, 47.95, 48))
    surveys = [
        [f"R{i}", "2020-05-01", comma(x[i]), comma(y[i]), name, ("oui", "non")[(i + 2 * j) % 3 % 2]]
        for i in range(48)
        for j, name in enumerate(NAMES)
    ]
    (root / "r/plots.csv").write_bytes(awkward(HEAD, surveys))
    records = [[f"O{i}", "2020-05-01", comma(x[i]), comma(y[i]), NAMES[i % 3], "oui"] for i in range(48)]
    (root / "r/records.csv").write_bytes(awkward(HEAD, records))
    points = [[f"P{i}", comma(x[i]), comma(y[i])] for i in range(6)]
    (root / "points.csv").write_bytes(awkward("id;x;y", points))
    run(root, "region", "init", "r", "--pa", "r/plots.csv", "--po", "r/records.csv", "--crs", CRS)
    (root / "r/region.yaml").write_text(in_units(root / "r", bio1="°C x 10", bio12="mm"), "utf-8")
    run(root, "train", "r/recipes/step1.yaml", *TINY)
    return root


def in_units(region: Path, **units: str) -> str:
    """A region.yaml that says the units of its bands."""
    text = (region / "region.yaml").read_text("utf-8")
    for band, unit in units.items():
        text = re.sub(rf'(name: {band},.*?unit: )"[^"]*"', rf'\g<1>"{unit}"', text)
    return text


def run(root: Path, *words: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("GLCZOO_CACHE", str(root / "cache"))
        main(list(words))


Reads = Callable[[Path, "pytest.CaptureFixture[str]"], tuple[int, dict[str, int]]]


def by_init(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, int]]:
    text = (root / "r/region.yaml").read_text("utf-8")
    (line,) = re.findall(r"pa:\n(?:.*\n)*?\s+incomplete: drop  # guessed: of (.*)", text)
    counts = {reason: int(n) for n, reason in re.findall(r"(\d+) (with(?:out)? [a-z ]+?)(?= and |$|,)", line)}
    (surveys,) = re.findall(r"# (\d+) surveys", text.split("  pa:")[1])
    return int(surveys), counts


def by_check(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, int]]:
    run(root, "region", "check", "r", "--json", "check.json")
    table = json.loads((root / "check.json").read_text())["tables"]["pa"]
    return table["rows"], {reason: number for reason, number in table["left_out"].items() if number}


def by_train(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, int]]:
    run(root, "train", "r/recipes/step1.yaml", *TINY, "name=again")
    training, validation = re.search(r"(\d+) training and (\d+) validation", capsys.readouterr().out).groups()
    return int(training) + int(validation), LEFT_OUT


def by_evaluate(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, int]]:
    run(root, "evaluate", str(trained(root)), "--part", "train", "--json", "e.json")
    return json.loads((root / "e.json").read_text())["surveys"], LEFT_OUT


@pytest.mark.parametrize("reads", [by_init, by_check, by_train, by_evaluate])
def test_every_verb_reads_the_same_surveys(folder: Path, reads: Reads, capsys) -> None:
    assert reads(folder, capsys) == (48, LEFT_OUT)


def trained(root: Path) -> Path:
    (found,) = (root / "runs").rglob("test_fusresnet_glc23/step1")
    return found.relative_to(root)


def by_predict(root: Path, out: str, options: list[str]) -> None:
    run(root, "predict", str(trained(root)), "--points", "points.csv", "--out", out, *options)


def by_app(root: Path, out: str, options: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        PlacePredictor([str(trained(root))]).table(root / "points.csv", root / out)


@pytest.mark.parametrize(
    ("asks", "options"), [(by_predict, []), (by_predict, ["--crs", CRS]), (by_app, [])]
)  # without --crs metres are in the CRS of the region's own tables
def test_points_are_answered_and_left_out_alike(
    folder: Path, asks: Callable[[Path, str, list[str]], None], options: list[str]
) -> None:
    asks(folder, "answers.csv", options)
    with open(folder / "answers.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["species"] for row in rows} <= set(NAMES) and len({row["lon"] for row in rows}) == 6
    with open(folder / "answers.left_out.csv", encoding="utf-8") as file:
        left = list(csv.DictReader(file))
    reasons = [row["reason"] for row in left]
    assert {reason: reasons.count(reason) for reason in reasons} == LEFT_OUT
    assert left[-1]["lon"] == "voir" and left[-1]["lat"] == "carte"


def test_a_map_shows_the_cells_of_the_same_points(folder: Path, capsys) -> None:
    options = ["--resolution", "0.01", "--no-applicability", "--out", "maps"]
    run(folder, "map", str(trained(folder)), "--points", "points.csv", "--points-crs", CRS, *options)
    printed = capsys.readouterr()
    assert re.search(r"maps/map.tif: .* cells, 6 with data", printed.out)
    for reason, number in LEFT_OUT.items():
        assert f"left out: {number} of the points {reason}" in printed.out
    # What it takes is said before.
    assert re.search(r"glczoo: map of [\d,]+ cells \(.* of disk .*\): at least .* of memory", printed.err)


# --- before long work -----------------------------------------------------------------------------------


def test_training_and_evaluation_say_what_they_take(folder: Path, capsys) -> None:
    run(folder, "evaluate", str(trained(folder)), "--part", "train")
    run(folder, "train", "r/recipes/step1.yaml", *TINY, "name=third")
    said = capsys.readouterr().err
    assert re.search(r"evaluation of \d+ samples: at least [\d.]+ [kM]B of memory \(.*probabilities\)", said)
    assert re.search(r"training, 1 epochs: at least .* of memory \(.*gradients and optimiser", said)
    assert said.count("how long it takes is said after the first batches") == 2


def test_a_map_without_room_is_refused_before_the_work(folder: Path, monkeypatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 100}))
    with pytest.raises(SystemExit, match=r"layers of .* cells take .*, and 100 bytes are free"):
        run(folder, "map", str(trained(folder)), "--out", "no_room")
    assert not (folder / "no_room").exists()


# --- units ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bio1", "factor", "shift"), [("°C", 0.1, 0.0), ("K", 0.1, 273.15), ("°F", 0.18, 32.0)]
)
def test_a_model_of_tenths_of_degrees_answers_a_region_in_other_units(
    folder: Path, tmp_path: Path, bio1: str, factor: float, shift: float
) -> None:
    for name in ("bio1", "bio12"):
        with rasterio.open(folder / f"r/{name}.tif") as file:
            values = file.read(1).astype("float64")
        values = values * factor + shift if name == "bio1" else values / 10
        write_raster(tmp_path / f"{name}.tif", [values.astype("float32")], west=2.0, north=48.0, cell=0.01)
    (tmp_path / "region.yaml").write_text(in_units(folder / "r", bio1=bio1, bio12="cm"), "utf-8")
    for table in ("plots.csv", "records.csv", "species.csv"):
        shutil.copy(folder / "r" / table, tmp_path)
    answers = []
    for region in ("r", str(tmp_path)):
        by_predict(folder, "units.csv", ["--region", region, "--top", "3"])
        with open(folder / "units.csv", encoding="utf-8") as file:
            answers.append({(r["id"], r["species"]): float(r["probability"]) for r in csv.DictReader(file)})
    assert answers[0].keys() == answers[1].keys() and len(set(answers[0].values())) > 6
    for key, probability in answers[0].items():
        assert answers[1][key] == pytest.approx(probability, abs=2e-4)


def test_a_region_that_says_no_unit_and_is_not_alike_is_refused(folder: Path, tmp_path: Path) -> None:
    values = np.add.outer(np.arange(60.0), np.arange(60.0)).astype("float32") * 0.1 + 273.15
    write_raster(tmp_path / "bio1.tif", [values * 10], west=2.0, north=48.0, cell=0.01)
    shutil.copy(folder / "r/bio12.tif", tmp_path)
    (tmp_path / "region.yaml").write_text(in_units(folder / "r", bio1=""), "utf-8")
    for table in ("plots.csv", "records.csv", "species.csv"):
        shutil.copy(folder / "r" / table, tmp_path)
    with pytest.raises(SystemExit, match="values of region r are not of the kind .* bio1.*unit"):
        by_predict(folder, "refused.csv", ["--region", str(tmp_path)])
    assert not (folder / "refused.csv").exists()
