import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from glczoo import files
from glczoo.errors import GlczooError
from glczoo.files import lock, sha256, whole, whole_files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_by_all_of_it(tmp_path: Path):
    (tmp_path / "a.txt").write_text("before")
    with whole(tmp_path / "a.txt") as partial:
        partial.write_text("aft", "utf-8")
        assert (tmp_path / "a.txt").read_text() == "before"
        partial.write_text("after", "utf-8")
    assert (tmp_path / "a.txt").read_text() == "after" and names(tmp_path) == ["a.txt"]


def test_a_failure_leaves_what_was_there(tmp_path: Path):
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(KeyboardInterrupt), whole(tmp_path / "a.txt") as partial:
        partial.write_text("half", "utf-8")
        raise KeyboardInterrupt
    assert (tmp_path / "a.txt").read_text() == "before" and names(tmp_path) == ["a.txt"]


def test_a_failure_leaves_no_new_file(tmp_path: Path):
    with pytest.raises(ValueError), whole(tmp_path / "a.txt") as partial:
        partial.write_text("half", "utf-8")
        raise ValueError
    assert names(tmp_path) == []


def test_libraries_that_look_at_the_suffix_write_where_they_are_asked_to(tmp_path: Path):
    with whole(tmp_path / "a.npy") as partial:
        np.save(partial, np.arange(3))
    assert np.load(tmp_path / "a.npy").tolist() == [0, 1, 2] and names(tmp_path) == ["a.npy"]


def test_a_folder_is_there_when_it_is_whole(tmp_path: Path):
    with whole(tmp_path / "out") as partial:
        (partial / "inner").mkdir(parents=True)
        (partial / "inner" / "a").write_text("1", "utf-8")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "inner" / "a").read_text() == "1" and names(tmp_path) == ["out"]


def test_a_folder_that_holds_something_is_kept(tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("1")
    with pytest.raises(OSError, match="out"), whole(tmp_path / "out") as partial:
        partial.mkdir()
    assert names(tmp_path / "out") == ["mine"] and names(tmp_path) == ["out"]


def test_everything_is_flushed_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: seen.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    with whole(tmp_path / "out") as partial:
        partial.mkdir()
        (partial / "a").write_text("1", "utf-8")
        (partial / "b").write_text("2", "utf-8")
    assert sorted(Path(path).name for path in seen) == ["a", "b"]


def test_an_error_of_the_disk_names_the_file(tmp_path: Path):
    with pytest.raises(OSError, match=r"No space left.*a\.txt"), whole(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")


def test_a_missing_folder_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere"), whole(tmp_path / "nowhere" / "a.txt") as partial:
        partial.write_text("1", "utf-8")


def test_what_a_killed_process_left_is_deleted(tmp_path: Path):
    script = (
        "import os, pathlib, sys, types\npackage = sys.modules['glczoo'] = types.ModuleType('glczoo')\n"
        f"package.__path__ = [{str(Path(files.__file__).parent)!r}]\nfrom glczoo.files import whole\n"
        f"with whole(pathlib.Path({str(tmp_path / 'a.bin')!r})) as partial:\n"
        "    partial.write_bytes(b'half')\n    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    (left,) = names(tmp_path)
    assert left.startswith(".a.glczoo-") and left.endswith(".bin")
    with whole(tmp_path / "b.txt") as partial:
        partial.write_text("1", "utf-8")
    assert names(tmp_path) == ["b.txt"]


def test_what_an_earlier_process_of_the_same_number_left_is_deleted(tmp_path: Path):
    """As in a container, where the first process is number 1 each time."""
    with whole(tmp_path / "a.txt") as mine:
        mine.write_text("1", "utf-8")
        machine, process, start, _ = mine.name.removeprefix(".a.glczoo-").split("-")
        left = tmp_path / f".a.glczoo-{machine}-{process}-{int(start) - 1}-0"
        left.mkdir()
        files._delete_leftovers.cache_clear()
        files._delete_leftovers(tmp_path)
        assert names(tmp_path) == [mine.name]


def test_what_another_machine_left_is_deleted_after_a_day(tmp_path: Path):
    left = tmp_path / ".files.glczoo-elsewhere-1-1-0"
    left.mkdir()
    (left / "a").write_text("1")
    os.utime(left, (0, 0))
    files._delete_leftovers(tmp_path)
    assert names(tmp_path) == [left.name]
    os.utime(left / "a", (0, 0))
    files._delete_leftovers.cache_clear()
    files._delete_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_who_works_somewhere_deletes_what_a_killed_process_left_there(tmp_path: Path):
    (tmp_path / "run").mkdir()
    for folder in (tmp_path, tmp_path / "run"):
        (folder / f".files.glczoo-{files._machine()}-{2**22}-1-0").mkdir()
    with lock(tmp_path / "run"):
        assert names(tmp_path / "run") == [] and names(tmp_path) == [".run.lock", "run"]


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path):
    with whole(tmp_path / "a.txt") as first:
        first.write_text("1", "utf-8")
        files._delete_leftovers.cache_clear()
        with whole(tmp_path / "a.txt") as second:
            second.write_text("2", "utf-8")
        assert first.exists()
    assert (tmp_path / "a.txt").read_text() == "1"


def test_hidden_files_of_others_are_left_alone(tmp_path: Path):
    (tmp_path / ".mine.txt").write_text("1")
    with whole(tmp_path / "a.txt") as partial:
        partial.write_text("1", "utf-8")
    assert names(tmp_path) == [".mine.txt", "a.txt"]


def test_files_of_a_folder_get_their_names_together(tmp_path: Path):
    with pytest.raises(ValueError), whole_files(tmp_path, last="z") as partial:
        (partial / "a").write_text("1", "utf-8")
        raise ValueError
    assert names(tmp_path) == []


def test_the_file_that_says_whole_gets_its_name_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append(Path(new).name), rename(old, new)))
    with whole_files(tmp_path, last="a") as partial:
        for name in ("a", "inner/b", "c"):
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(name, "utf-8")
    assert order == ["c", "b", "a"] and names(tmp_path) == ["a", "c", "inner"]


HOLD = """
import pathlib, sys, time, types
package = sys.modules["glczoo"] = types.ModuleType("glczoo")  # leaves out the seconds that torch takes
package.__path__ = [sys.argv[1]]
from glczoo.files import lock
with lock(pathlib.Path(sys.argv[2])):
    pathlib.Path(sys.argv[3]).touch()
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the lock of `a.bin`."""
    mark = tmp_path / "held"
    arguments = [str(Path(files.__file__).parent), str(tmp_path / "a.bin"), str(mark)]
    process = subprocess.Popen([sys.executable, "-c", HOLD, *arguments])
    while not mark.exists() and process.poll() is None:
        time.sleep(0.02)
    yield process
    process.kill()
    process.wait()


def test_the_process_that_holds_a_lock_is_named(tmp_path: Path, holder: subprocess.Popen):
    with pytest.raises(GlczooError, match=rf"a\.bin: process {holder.pid} on .* works there"):
        with lock(tmp_path / "a.bin", wait=False):
            pass


def test_a_process_that_was_killed_holds_no_lock(tmp_path: Path, holder: subprocess.Popen):
    holder.kill()
    holder.wait()
    with lock(tmp_path / "a.bin", wait=False):
        pass
    assert names(tmp_path) == ["held"]


def test_who_waits_is_let_in_when_the_other_is_done(tmp_path: Path, holder: subprocess.Popen):
    killer = threading.Timer(0.3, holder.kill)
    killer.start()
    start = time.monotonic()
    with lock(tmp_path / "a.bin", wait=True):
        assert time.monotonic() - start > 0.2


def test_two_threads_do_not_hold_a_lock_at_once(tmp_path: Path):
    inside, most = [], []

    def work() -> None:
        for _ in range(20):
            with lock(tmp_path / "a.bin", wait=True):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80 and max(most) == 1 and names(tmp_path) == []


def test_sha256(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
