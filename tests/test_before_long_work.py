"""Before long work: outputs that cannot be written and memory that is not there are named first."""

import subprocess
import sys
from pathlib import Path

import pytest

from glczoo import memory
from glczoo.cli import main
from glczoo.errors import GlczooError
from glczoo.memory import announce, require_disk, size_text

BELOW_A_FILE = "file/out"
NO_FOLDER = "nowhere/out.json"


@pytest.mark.parametrize(
    "words",
    [
        ["map", "RUN", "--out", BELOW_A_FILE],
        ["predict", "RUN", "--points", "p.csv", "--out", "nowhere/out.csv"],
        ["predict", "RUN", "--submission", "--out", "nowhere/out.csv"],
        ["evaluate", "RUN", "--json", NO_FOLDER],
        ["report", "RUN", "--out", "nowhere/page.html"],
        ["report", "RUN", "--odmap", "nowhere/odmap.csv"],
        ["train", "step1", "region=r", f"runs={BELOW_A_FILE}"],
        ["forest", "step1", "region=r", f"runs={BELOW_A_FILE}"],
        ["crossval", "step1", "region=r", f"runs={BELOW_A_FILE}"],
        ["fit", "REGION", "--out", BELOW_A_FILE],
        ["fit", "REGION", "--json", NO_FOLDER],
        ["ensemble", "RUN", "RUN", "--out", BELOW_A_FILE],
        ["bench", "--json", NO_FOLDER],
        ["save", "RUN", "--out", BELOW_A_FILE],
        ["export", "RUN", "--out", "nowhere/model.pt2"],
        ["demo", "--out", BELOW_A_FILE],
        ["region", "check", "REGION", "--json", NO_FOLDER],
        ["region", "check", "REGION", "--out", "nowhere/check.png"],
        ["region", "stats", "REGION", "--json", NO_FOLDER],
        ["region", "densities", "REGION", "--out", BELOW_A_FILE],
        ["region", "make-virtual", BELOW_A_FILE],
    ],
    ids=" ".join,
)
def test_an_output_that_cannot_be_written_is_named_before_anything_is_opened(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "r").mkdir()
    (tmp_path / "r/region.yaml").touch()
    with pytest.raises(SystemExit, match=r"it cannot be written: the folder \S+ is (a file|not there)"):
        main(words)  # neither RUN nor REGION is there
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "r"]


def test_sizes_are_written_as_people_say_them() -> None:
    assert [size_text(v) for v in (12, 1500, 3.4e8, 1.24e9, 5e13)] == [
        "12 bytes", "1.5 kB", "340 MB", "1.2 GB", "50 TB",
    ]  # fmt: skip


def test_what_work_takes_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    announce("map", {"weights": 2e6, "a batch": 5e5, "nothing": 0})
    said = "glczoo: map: at least 2.5 MB of memory (2.0 MB weights, 500 kB a batch); how long it takes is"
    assert capsys.readouterr().err.startswith(said)


def test_more_than_the_machine_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_limited", lambda size: 1_000_000)
    with pytest.raises(GlczooError, match=r"at least 2.0 MB of memory .* and this machine has 1.0 MB"):
        announce("map", {"weights": 2e6})
    announce("map", {"weights": 2e6}, on_device=True)


def test_more_than_is_left_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda: 1000)
    announce("map", {"weights": 2e6})
    assert "1.0 kB of memory are left: it may be slow" in capsys.readouterr().err


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("4096\n")
    (tmp_path / "unlimited").write_text("max\n")
    monkeypatch.setattr(
        memory, "_LIMITS", (tmp_path / "gone", tmp_path / "unlimited", tmp_path / "memory.max")
    )
    assert memory.available_memory() == 4096


def test_a_disk_without_room_is_named(tmp_path: Path) -> None:
    require_disk(tmp_path / "new/folder", 1000, "3 layers")
    with pytest.raises(GlczooError, match=r"new: 3 layers take 1000000 TB, and .* are free. Make room"):
        require_disk(tmp_path / "new", 1e18, "3 layers")


def test_a_log_gets_a_line_now_and_then(tmp_path: Path) -> None:
    code = (
        "import glczoo.progress as p; p.SECONDS = 0.2; import time\n"
        "for _ in p.Track(range(3000), 'map', unit='blocks'): time.sleep(0.0002)\n"
    )
    written = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr
    lines = written.splitlines()
    assert 1 <= len(lines) < 100 and len(written) < 10_000 and "\r" not in written
    assert all(line.startswith("map: ") and "left" in line for line in lines)
