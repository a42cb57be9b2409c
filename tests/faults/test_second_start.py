"""What the second of two starts of a verb does, and that every verb says first where it cannot write.

`test_kills.py` starts each verb twice at once in two processes; here one of them holds its place.
"""

import errno
import os
import threading
from pathlib import Path

import pytest
from click import Group
from conftest import RECIPES, write_address_region

from glczoo import files
from glczoo.cli import command, main
from glczoo.files import lock

SECOND = {
    "demo": "is refused",
    "region init": "is refused",
    "region check": "writes as well",
    "region stats": "writes as well",
    "region densities": "is refused",
    "region coordinates": "is refused",
    "region make-virtual": "is refused",
    "pack": "is refused",
    "fit": "is refused",
    "recipes copy": "waits",
    "recipes list": "writes nothing",
    "train": "is refused",
    "forest": "waits",
    "crossval": "is refused",  # where it trains what the first does
    "study": "is refused",  # where it trains what the first does
    "ensemble": "is refused",
    "bench": "writes as well",
    "evaluate": "writes as well",
    "report": "writes as well",
    "predict": "writes as well",
    "map": "is refused",
    "app": "writes nothing",
    "save": "is refused",
    "push": "writes as well",  # in a temporary folder; the Hub takes one commit after the other
    "pull": "waits",  # by the Hub's client
    "verify": "writes nothing",
    "export": "writes as well",
}
"""Of every verb. One that writes as well writes a file that is whole: the later one is kept."""

COMMANDS = {
    "demo": ("demo --out out", "out/report.md"),
    "region init": ("region init mine --po mine/po.csv --pa mine/pa.csv", "mine/region.yaml"),
    "region densities": ("region densities address --out out", "out/region.yaml"),
    "region coordinates": ("region coordinates address --middle 5 45 --out out", "out/region.yaml"),
    "region make-virtual": ("region make-virtual out", "out"),
    "pack": ("pack address --out out", "out/satellite/rgb/pack.json"),
    "fit": ("fit WORLD --out out", "out/fit.json"),
    "recipes copy": ("recipes copy --to out", None),
    "train": ("train RECIPES/step1.yaml region=WORLD init=random model=test_resnet runs=out", None),
    "forest": ("forest RECIPES/step1.yaml region=WORLD runs=out modalities=[soil] top_k=5 --trees 60", None),
    "crossval": ("crossval RECIPES/step1.yaml region=WORLD init=random model=test_resnet runs=out", None),
    "ensemble": ("ensemble RUN OTHER --out out", "out"),
    "map": ("map RUN --bbox 5 46.8 5.1 46.9 --resolution 0.05 --out out", "out/map.tif"),
    "save": ("save RUN --out out", "out"),
    "predict": ("predict RUN --points address/pa.csv --out out.csv", "out.csv"),
    "evaluate": ("evaluate RUN --json out.json", "out.json"),
    "report": ("report RUN --out out.html", "out.html"),
    "export": ("export RUN --out out.pt2", "out.pt2"),
    "region check": ("region check address --out out.png", "out.png"),
    "region stats": ("region stats address --json out.json", "out.json"),
    "study": ("study RECIPES/studies/losses.yaml region=WORLD runs=out", None),
    "bench": ("bench --json out.json", "out.json"),
}
"""Each verb that writes to a place that is named, and what is locked where the second is refused."""
RUNS = {
    "train": "out/virtual/test_resnet/step1",
    "forest": "out/virtual/forest_glc23/step1",
    "crossval": "out/virtual/test_resnet/step1-fold0",
    "recipes copy": "out/studies/xx",
}


def verbs(group: Group, before: str = "") -> list[str]:
    """The names of all verbs of a group."""
    names = []
    for name, verb in group.commands.items():
        names += verbs(verb, f"{before}{name} ") if isinstance(verb, Group) else [before + name]
    return names


def test_of_every_verb_it_is_said_what_the_second_does():
    assert sorted(SECOND) == sorted(verbs(command))
    assert {verb for verb, second in SECOND.items() if second != "writes nothing"} - COMMANDS.keys() == {
        "push",
        "pull",
    }


@pytest.fixture
def words(world, trained_run, tmp_path, monkeypatch):
    """The words of a verb's command, given in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    write_address_region(tmp_path / "address")
    run = {"model": "test_resnet", "modalities": ["soil"]}
    places = {"WORLD": world, "RECIPES": RECIPES}

    def of(verb: str) -> list[str]:
        text = COMMANDS[verb][0]
        if "RUN" in text:
            places["RUN"] = trained_run("step1", **run)
        if "OTHER" in text:
            places["OTHER"] = trained_run("step1", seed=1, **run)
        if "mine" in text:
            Path("address").rename("mine")
            Path("mine/region.yaml").unlink()
        words = text.split()
        for name, place in places.items():
            words = [word.replace(name, str(place)) for word in words]
        return words

    return of


@pytest.mark.parametrize("verb", [v for v, s in SECOND.items() if s == "is refused" and v != "study"])
def test_the_second_says_who_works_there(verb, words):
    place = Path(COMMANDS[verb][1] or RUNS[verb])
    arguments = words(verb)
    with lock(place), pytest.raises(SystemExit, match=rf"process {os.getpid()} on .* works there") as stop:
        main(arguments)
    assert "\n" not in str(stop.value.code)
    assert not [path for path in Path().rglob(".*") if path.is_file()]


@pytest.mark.parametrize("verb", ["forest", "recipes copy"])
def test_the_second_waits(verb, words):
    arguments = words(verb)
    place = Path(RUNS[verb])
    if verb == "recipes copy":
        from glczoo.packaged import recipes

        place = Path("out") / list(recipes())[-1]
    second = threading.Thread(target=main, args=(arguments,))
    with lock(place):
        second.start()
        second.join(0.5)
        assert second.is_alive()
    second.join(120)
    assert not second.is_alive() and list(Path("out").rglob("*.yaml"))


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(verb, words, monkeypatch, capsys):
    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    arguments = words(verb)
    before = sorted(Path().rglob("*"))
    monkeypatch.setattr(files, "TemporaryFile", read_only)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    message = str(stop.value.code)
    assert message.startswith("glczoo: ") and "\n" not in message
    assert "Read-only file system. Name another place" in message
    assert sorted(Path().rglob("*")) == before
