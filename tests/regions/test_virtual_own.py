"""Files as people have their own: a whole way from nothing to described, and what the records are like."""

import csv
from pathlib import Path

import pytest

from glczoo.cli import main
from glczoo.data.region import Region
from glczoo.data.tables import read_samples, read_species
from glczoo.regions.virtual_own import make_own_files

SMALL = {"species": 12, "records": 200, "plots": 40, "size": 32}


def rows(path: Path, separator: str = ",") -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter=separator))


def test_the_command_makes_files_that_region_init_describes(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "place"
    sizes = ["--species", "12", "--po", "200", "--pa", "40", "--size", "32"]
    main(["region", "make-virtual", str(folder), "--plain", *sizes])
    assert not (folder / "region.yaml").exists() and not list(folder.rglob("*.jpeg"))
    named = capsys.readouterr().out.partition("Now: glczoo ")[2].split()
    main(named)
    region = Region.load(folder)
    assert [m.name for m in region.modalities] == ["climate", "soil"]
    vocabulary = read_species(region)
    assert len(read_samples(region, "po", vocabulary)) == 200
    assert len(read_samples(region, "pa", vocabulary)) == 40
    assert {"Virtua alba", "Ficta alba"} <= set(vocabulary.names)


def test_records_hold_what_filters_look_at(tmp_path: Path) -> None:
    records = rows(make_own_files(tmp_path / "place", **SMALL).folder / "gbif.csv", "\t")
    assert sum(row["coordinateUncertaintyInMeters"] == "5000" for row in records) == 20
    assert sum(row["basisOfRecord"] == "PRESERVED_SPECIMEN" for row in records) == 10
    assert sum(row["issue"] == "COORDINATE_ROUNDED" for row in records) == 4


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (make_own_files(tmp_path / name, seed=3, **SMALL).folder for name in ("one", "two"))
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert len(files) == 19 + 9 + 3
    assert all((one / path).read_bytes() == (two / path).read_bytes() for path in files)


def test_every_wrong_argument_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"species = 999.*size = 5"):
        make_own_files(tmp_path / "place", species=999, records=2000, plots=5, size=5)
    assert not (tmp_path / "place").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        make_own_files(tmp_path / "full", **SMALL)
