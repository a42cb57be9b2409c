"""A lock says who works on a file or folder, and a process that has died holds none."""

import errno
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import glczoo
from glczoo.errors import GlczooError
from glczoo.files import lock

HOLDS = f"""
import sys, time, types
from pathlib import Path
package = types.ModuleType("glczoo")  # without what it imports: seconds
package.__path__ = [{str(Path(glczoo.__file__).parent)!r}]
sys.modules["glczoo"] = package
from glczoo.files import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """Another process that works there."""
    process = subprocess.Popen([sys.executable, "-c", HOLDS, path], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_the_second_learns_who_works_there(tmp_path):
    other = holder(tmp_path / "run")
    try:
        expected = f"process {other.pid} on {platform.node()}, since .*, works there. Wait until it is done"
        with pytest.raises(GlczooError, match=expected), lock(tmp_path / "run"):
            pass
    finally:
        other.kill()
        other.communicate()


def test_a_killed_process_holds_nothing(tmp_path):
    other = holder(tmp_path / "run")
    os.kill(other.pid, signal.SIGKILL)
    other.communicate()
    assert (tmp_path / ".run.lock").exists()
    with lock(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())


def test_who_waits_works_after_the_other(tmp_path):
    other = holder(tmp_path / "run")
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLDS.replace("sys.argv[1])", "sys.argv[1]), wait=True"), tmp_path / "run"],
        stdout=subprocess.PIPE,
        text=True,
    )
    other.kill()
    other.communicate()
    assert waiting.stdout is not None and waiting.stdout.readline() == "held\n"
    waiting.kill()
    waiting.communicate()


def test_folders_that_were_made_for_a_lock_are_removed_unless_they_are_used(tmp_path):
    with lock(tmp_path / "runs" / "region" / "step1"):
        pass
    assert not list(tmp_path.iterdir())
    with lock(tmp_path / "runs" / "region" / "step1"):
        (tmp_path / "runs" / "note.txt").write_text("kept")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["note.txt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(GlczooError, match="file/step1: (Not a directory|File exists)"):
        with lock(tmp_path / "file" / "step1"):
            pass


def test_a_disk_that_is_full_for_the_lock_is_left_without_it(tmp_path, monkeypatch):
    def full(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("glczoo.files.os.write", full)
    with pytest.raises(GlczooError, match="No space left"), lock(tmp_path / "new" / "run"):
        pass
    assert list(tmp_path.iterdir()) == []
