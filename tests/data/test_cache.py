"""What is kept is what was read; it is made once, again when its source changes, and never half."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd
import pytest
from conftest import addresses, write_raster
from test_occurrences import PA, PO, VOCABULARY, region, rows

from glczoo.data import cache
from glczoo.data.cache import kept
from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.data.raster_files import BandFile
from glczoo.data.rasters import open_stacks
from glczoo.data.region import Band
from glczoo.data.tables import read_samples, read_species


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache; tables of any size are worth keeping."""
    monkeypatch.setenv("GLCZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_WORTH_KEEPING", 0)
    return tmp_path / "cache"


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tables that pandas parsed."""
    parsed, read_csv = [], pd.read_csv

    def counted(file: TextIO, **options: object) -> pd.DataFrame:
        parsed.append(Path(getattr(file, "_file", file).name).name)
        return read_csv(file, **options)

    monkeypatch.setattr(pd, "read_csv", counted)
    return parsed


def assert_equal(one: Samples, other: Samples) -> None:
    assert vars(one).keys() == vars(other).keys()
    for name, value in vars(one).items():
        np.testing.assert_array_equal(value, vars(other)[name])
        assert type(value) is type(vars(other)[name])


def test_tables_are_parsed_once(tmp_path: Path, folder: Path, parses: list[str]) -> None:
    described = region(tmp_path, po=PO, pa=PA)
    for kind in ("po", "pa"):
        first, again = (read_samples(described, kind, VOCABULARY) for _ in range(2))
        assert_equal(first, again)
        assert again.dataset_names == {"po": ("gbif", "other"), "pa": ("north", "south")}[kind]
        with pytest.raises(ValueError, match="read-only"):
            again.lon[0] = 1
    assert parses == ["po.csv", "pa.csv"]
    assert [read_species(described).ids.tolist() for _ in range(2)] == [[7, 12, 31, 40]] * 2
    assert parses == ["po.csv", "pa.csv"] * 2
    # What is asked of the table, and how it is told to be read, are part of the name.
    wider = SpeciesIndex(np.array([1, *VOCABULARY.ids]))
    assert read_samples(described, "po", wider).species.tolist() == [2, 2, 4]
    read_samples(described.model_copy(update={"bounds": None}), "po", VOCABULARY)
    assert len(parses) == 6


def test_a_changed_table_is_parsed_again(tmp_path: Path, folder: Path, parses: list[str]) -> None:
    described = region(tmp_path, po=PO)
    assert len(read_samples(described, "po", VOCABULARY)) == 3
    (tmp_path / "po.csv").write_text(PO + "4;;;gbif;;;;5.1;45.2;7;900;1\n")
    assert read_samples(described, "po", VOCABULARY).species.tolist() == [1, 1, 3, 0]
    status = (tmp_path / "po.csv").stat()
    (tmp_path / "po.csv").write_text(PO + "4;;;gbif;;;;5.1;45.2;12;90;1\n")
    os.utime(tmp_path / "po.csv", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert status.st_size == (tmp_path / "po.csv").stat().st_size
    assert read_samples(described, "po", VOCABULARY).species.tolist() == [1, 1, 3, 1]
    assert len(parses) == 3


def test_the_table_of_empty_surveys_counts_too(tmp_path: Path, folder: Path, parses: list[str]) -> None:
    described = region(tmp_path, tables={"pa": {"file": "pa.csv", "without_species": "empty.csv"}})
    (tmp_path / "pa.csv").write_text(rows("5;45;12;1;9"))
    (tmp_path / "empty.csv").write_text(rows("5;46;;2;9"))
    assert len(read_samples(described, "pa", VOCABULARY)) == 2
    (tmp_path / "empty.csv").write_text(rows("5;46;;2;9", "5;47;;3;9"))
    assert len(read_samples(described, "pa", VOCABULARY)) == 3


def test_a_bad_table_leaves_nothing(tmp_path: Path, folder: Path) -> None:
    described = region(tmp_path, po=rows("5;45;12.5;1;9"))
    for _ in range(2):
        with pytest.raises(ValueError, match="not whole numbers"):
            read_samples(described, "po", VOCABULARY)
    assert list(folder.rglob("*")) == [folder / "tables"]


def test_small_tables_are_not_kept(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_WORTH_KEEPING", len(PO) + 1)
    read_samples(region(tmp_path, po=PO), "po", VOCABULARY)
    assert not folder.exists()


def test_a_late_mistake_in_a_long_table_is_named(tmp_path: Path) -> None:
    places = ["5;45;12;1;9"] * 60_000  # long enough for pandas to read it in parts
    with pytest.raises(ValueError, match=r"1 values of patchID are not whole numbers, .*\[59002\]"):
        read_samples(region(tmp_path, po=rows(*places[:59_000], "5;45;12;x;9", *places)), "po", VOCABULARY)
    surveys = read_samples(region(tmp_path, po=rows(*places, "5;45;12.0;;9")), "po", VOCABULARY)
    assert surveys.patch_id[-2:].tolist() == [1, -1] and surveys.species[-1] == 1


def test_a_damaged_copy_is_named(tmp_path: Path, folder: Path) -> None:
    described = region(tmp_path, po=PO)
    read_samples(described, "po", VOCABULARY)
    (copy,) = (folder / "tables").iterdir()
    os.truncate(copy / "lon.npy", 130)
    with pytest.raises(ValueError, match=rf"lon\.npy is damaged .*; delete .*{copy.name}, it will be built"):
        read_samples(described, "po", VOCABULARY)


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files end at 20 KB, as on a disk that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_leaves_nothing(tmp_path: Path, folder: Path, small_disk: None) -> None:
    path = write_raster(tmp_path / "a.tif", [addresses(60, 70, 0, "int16")])
    with pytest.raises(OSError, match=r"requested and \d+ written|too large"):
        open_stacks([BandFile(Band(name="a", file="a.tif"), path)], 128)
    with pytest.raises(OSError, match=r"requested and \d+ written|too large"):
        kept("some", "key", lambda path: np.save(path, np.zeros(9999)), ".npy")
    assert [list((folder / kind).iterdir()) for kind in ("stacks", "some")] == [[], []]
