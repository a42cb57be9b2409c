"""Disks that are full or read-only: refused before the work, or in one line, and nothing is half-written."""

import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rasterio import Affine

from glczoo import files
from glczoo.cli import main
from glczoo.data import raster_files
from glczoo.data.cache import kept
from glczoo.errors import GlczooError
from glczoo.files import disk_errors, lock_file, require_room, require_writable, whole
from glczoo.prediction import cartography
from glczoo.prediction.grids import Grid

RECIPES = Path(__file__).parents[2] / "recipes"


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def message_of(arguments: list[str]) -> str:
    """The line that a verb ends with."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    message = str(stop.value.code)
    assert message.startswith("glczoo: ") and "\n" not in message, message
    return message


# Simulated, on every machine.


@pytest.mark.parametrize("at", ["fsync", "replace"])
def test_a_full_disk_is_named_with_the_file_and_leaves_what_was_there(tmp_path, monkeypatch, at):
    path = tmp_path / "table.csv"
    path.write_text("before", "utf-8")
    monkeypatch.setattr(os, at, full)
    with pytest.raises(OSError, match="No space left on device") as failed, whole(path) as partial:
        partial.write_text("after", "utf-8")
    assert failed.value.filename == str(path)
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"] and path.read_text("utf-8") == "before"


def test_a_librarys_own_words_for_a_full_disk_become_the_systems(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_is_full", lambda path: True)
    with pytest.raises(OSError, match="No space left on device") as failed, disk_errors(tmp_path / "weights"):
        raise RuntimeError("PytorchStreamWriter failed writing file data.pkl: file write failed")
    assert failed.value.filename == str(tmp_path / "weights") and failed.value.errno == errno.ENOSPC


def test_other_errors_stay_what_they_are_where_there_is_room(tmp_path):
    with pytest.raises(RuntimeError, match="a bug"), disk_errors(tmp_path / "weights"):
        raise RuntimeError("a bug")


def test_a_full_disk_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "TemporaryFile", lambda dir: full())
    with pytest.raises(
        GlczooError, match="map: No space left on device. Make room and give the same command"
    ):
        require_writable(tmp_path / "map", folder=True)


def test_what_cannot_be_written_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    for path, folder, message in (
        (tmp_path / "nowhere/a.csv", False, "the folder .*nowhere is not there"),
        (tmp_path / "file/a.csv", False, "the folder .*file is a file"),
        (tmp_path / "file/a/b", True, "the folder .*file is a file"),
        (tmp_path, False, "this is a folder, a file is to be written"),
    ):
        with pytest.raises(GlczooError, match=message):
            require_writable(path, folder=folder)
    require_writable(tmp_path / "a.csv")
    require_writable(tmp_path / "new/and/deeper", folder=True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_verb_says_where_it_will_write_before_it_starts(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("glczoo.demo.demo", lambda out, seed: print("started"))
    main(["demo", "--out", str(tmp_path / "demo")])
    printed = capsys.readouterr()
    assert printed.err == f"glczoo: writes {tmp_path / 'demo'}\n" and printed.out == "started\n"


def test_a_cache_that_cannot_be_made_is_named_with_what_sets_it(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GLCZOO_CACHE", str(tmp_path / "file"))
    with pytest.raises(GlczooError, match="file/stacks: the cache .* Name another folder with GLCZOO_CACHE"):
        kept("stacks", "key", Path.touch)


def test_the_lock_of_a_process_that_was_killed_when_all_was_done_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setenv("GLCZOO_CACHE", str(tmp_path))
    target = kept("stacks", "key", Path.touch)
    lock_file(target).write_text("process 1")
    assert kept("stacks", "key", Path.touch) == target and not lock_file(target).exists()


def test_room_that_is_not_there_is_refused_before_gdal_writes(tmp_path):
    with pytest.raises(OSError, match="No space left") as failed:
        require_room(tmp_path / "map.tif", 2**60)
    assert failed.value.filename == str(tmp_path / "map.tif") and not list(tmp_path.iterdir())
    require_room(tmp_path / "map.tif", 1000)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [100, 2000])
def test_a_map_that_gdal_cut_short_in_silence_is_not_kept(tmp_path, monkeypatch, cut):
    copy = cartography.rasterio.shutil.copy

    def cutting(source, target, **settings):
        copy(source, target, **settings)
        with open(target, "r+b") as file:
            file.truncate(os.path.getsize(target) - cut)

    monkeypatch.setattr(cartography.rasterio.shutil, "copy", cutting)
    grid = Grid.cover((5.0, 46.8, 5.14, 46.94), 0.001, "EPSG:4326")
    noise = np.random.default_rng(0)
    layers = [cartography.Layer("a", "A", "x")]
    with pytest.raises(OSError):
        cartography.write_cog(
            tmp_path / "map.tif",
            grid,
            layers,
            lambda block: noise.random((1, block.height, block.width), np.float32),
            128,
            dict,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", [1, 60])
def test_a_raster_that_gdal_cut_short_in_silence_is_an_error(tmp_path, monkeypatch, cut):
    values = np.random.default_rng(0).random((2, 30, 40)).astype(np.float32)
    values[0, 0, 0] = np.nan
    path = tmp_path / "raster.tif"
    raster_files.write_geotiff(path, values, "EPSG:4326", Affine.scale(0.01), names=["a", "b"])
    opened = raster_files.rasterio.open
    with opened(path) as file:
        assert file.descriptions == ("a", "b") and np.array_equal(file.read(), values, equal_nan=True)

    def cutting(path, mode="r", **settings):
        if mode == "r":
            os.truncate(path, os.path.getsize(path) - cut)
        return opened(path, mode, **settings)

    monkeypatch.setattr(raster_files.rasterio, "open", cutting)
    with pytest.raises(OSError):
        raster_files.write_geotiff(path, values, "EPSG:4326", Affine.scale(0.01))


# On a small disk of its own, where the machine allows one to be made.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "glczoo-test", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no small disk can be made here: it takes the right to mount one")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, free: int) -> Path:
    """Leave this many bytes."""
    filler = disk / "filler"
    with open(filler, "wb") as file:
        left = shutil.disk_usage(disk).free - free
        file.write(bytes(left))
    return filler


@pytest.fixture(scope="module")
def run(trained_run) -> Path:
    return trained_run("step1", model="test_resnet", modalities=["soil"])


@pytest.fixture(scope="module")
def other_run(trained_run) -> Path:
    return trained_run("step1", model="test_resnet", modalities=["soil"], seed=1)


VERBS = {
    "predict": (["--points", "POINTS", "--top", "20", "--out", "OUT.csv"], 6),
    "evaluate": (["--part", "validation", "--json", "OUT.json"], 4),
    "map": (["--bbox", "5.0", "46.8", "5.1", "46.9", "--resolution", "0.01", "--out", "OUT"], 12),
    "report": (["--sample", "0", "--out", "OUT.html"], 40),
    "save": (["--out", "OUT"], 100),
    "ensemble": (["OTHER", "--out", "OUT"], 100),
    "export": (["--out", "OUT.pt2"], 40),
}
"""Verbs that take a run, and the kB that are free when they begin."""


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_on_a_full_disk(verb, run, other_run, world, small_disk, capsys):
    words, kilobytes = VERBS[verb]
    names = {
        "POINTS": str(world / "Presence_Absence_surveys/Presences_Absences_train.csv"),
        "OTHER": str(other_run),
        **{f"OUT{end}": str(small_disk / f"out{end}") for end in ("", ".csv", ".json", ".html", ".pt2")},
    }
    command = [verb, str(run), *(names.get(word, word) for word in words)]
    filler = fill(small_disk, 1000 * kilobytes)
    message = message_of(command)
    assert f"{small_disk / 'out'}" in message and "No space left on device. Make room" in message
    left = [path for path in small_disk.rglob("*") if path != filler and path.is_file()]
    assert [path for path in left if ".map" not in path.parts] == []  # from there an unfinished map goes on
    filler.unlink()
    main(command)
    assert (small_disk / "out").exists() or list(small_disk.glob("out.*"))


def test_training_on_a_full_disk_goes_on_when_there_is_room(world, small_disk, trained_run):
    whole_run = trained_run("step1", model="test_resnet", modalities=["soil"], epochs=2)
    words = "model=test_resnet modalities=[soil] patch_size=16 epochs=2 batch_size=32 top_k=5".split()
    command = [
        "train",
        str(RECIPES / "step1.yaml"),
        f"region={world}",
        f"runs={small_disk}",
        "init=random",
        *words,
    ]
    filler = fill(small_disk, 200_000)
    message = message_of(command)
    assert f"{small_disk}/virtual/test_resnet/step1" in message and "No space left on device" in message
    filler.unlink()
    main(command)
    weights = small_disk / "virtual/test_resnet/step1/model.safetensors"
    assert weights.read_bytes() == (whole_run / "model.safetensors").read_bytes()
    assert not list(small_disk.rglob(".*"))


@pytest.mark.parametrize("verb", ["make-virtual", "densities"])
def test_a_region_on_a_full_disk(verb, world, small_disk):
    sizes = ["--species", "5", "--po", "40", "--pa", "20", "--test", "5", "--size", "48"]
    out = str(small_disk / "out")
    words = {"make-virtual": [out, *sizes], "densities": [str(world), "--out", out]}
    filler = fill(small_disk, 50_000)
    message = message_of(["region", verb, *words[verb]])
    assert out in message and "No space left on device" in message
    assert [path for path in small_disk.rglob("*") if path != filler and path.is_file()] == []
    filler.unlink()
    main(["region", verb, *words[verb]])


def test_a_read_only_disk_is_refused_before_the_work(small_disk, run):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    message = message_of(["report", str(run), "--out", str(small_disk / "report.html")])
    assert f"{small_disk / 'report.html'}: Read-only file system. Name another place" in message
