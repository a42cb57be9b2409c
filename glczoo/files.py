"""Files and folders that are whole or not there."""

import errno
import hashlib
import itertools
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile

from glczoo.errors import ExistsError, GlczooError, of_system

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "FULL",
    "disk_errors",
    "first_process",
    "lock",
    "lock_file",
    "new_folder",
    "require_room",
    "require_same",
    "require_writable",
    "sha256",
    "whole",
    "whole_files",
    "will_write",
]

# What is being written is called .NAME.glczoo-MACHINE-PROCESS-START-NUMBER.SUFFIX.
_PARTIAL = re.compile(r"\..*\.glczoo-(\w*)-(\d+)-(\d+)-\d+(\.[^.]*)?", re.ASCII)
_NUMBER = itertools.count()
_FORGOTTEN = 86400  # seconds without a change after which another machine's are taken for left behind
_BLOCK = 4096  # bytes that any output needs
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, or a quota, that has no room."""
_MANY = 100  # files of a folder: from there on one flush of the system is faster than one for each file


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Write a file or a folder beside its place; it gets its name when all of it is on the disk.

        with whole(path) as partial:
            partial.write_text(text, "utf-8")

    Whatever fails or is killed leaves what was at `path` before, or nothing. What killed processes left there
    is deleted: of this machine at once, of others when a day has passed.

    Args:
        path: of the file, which is replaced, or of the folder, which must not be there or be empty.

    Yields:
        Where to write: a path in the same folder, with the same suffix. Nothing is there yet.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    _delete_leftovers(path.parent)
    partial = path.with_name(f".{path.stem[:60]}{_mark()}{path.suffix}")
    try:
        with disk_errors(path):
            yield partial
            _flush(partial)
            os.replace(partial, path)
    except OSError as error:
        if error.errno is None or not str(error.filename or partial).startswith(str(partial)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        _delete(partial)


@contextmanager
def whole_files(folder: Path, last: str) -> Iterator[Path]:
    """Write several files of a folder that is there: each gets its name when all are on the disk.

    Args:
        folder: where; files of the same names are replaced.
        last: the file that says that the others are there, relative to the folder: it gets its name last.

    Yields:
        An empty folder to write them in, and their subfolders.
    """
    _delete_leftovers(folder)
    partial = folder / f".files{_mark()}"
    try:
        with disk_errors(folder):
            partial.mkdir()
            yield partial
            _flush(partial)
            names = [path.relative_to(partial) for path in sorted(partial.rglob("*")) if path.is_file()]
            for name in sorted(names, key=lambda name: name == Path(last)):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(partial / name, folder / name)
    finally:
        _delete(partial)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Name `path` when the disk is full: torch, GDAL, numpy and safetensors each fail in words of their own.

    Raises:
        OSError: the disk is full; no other error is changed.
    """
    try:
        yield
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        is_full = number in FULL or os.strerror(errno.ENOSPC) in str(error)
        if not is_full and not _is_full(path):
            raise
        number = number if number in FULL else errno.ENOSPC
        raise OSError(number, os.strerror(number or errno.ENOSPC), str(path)) from error


def _is_full(path: Path) -> bool:
    """Whether a file of a page's size cannot be written where `path` is to be."""
    place = next(folder for folder in (path, *path.parents) if folder.is_dir())
    try:
        with TemporaryFile(dir=place) as file:
            file.write(bytes(_BLOCK))
            file.flush()
    except OSError as error:
        return error.errno in FULL
    return False


def require_writable(path: Path, *, folder: bool = False) -> None:
    """Refuse an output that cannot be written, before the work that makes it.

    Args:
        path: of the file, in a folder that is there, or of the folder, whose parents need not be there.
        folder: whether it is a folder.

    Raises:
        GlczooError: there is no such folder, it may not be written, or the disk is full or read-only.
    """
    place = path if folder else path.parent
    if not folder and path.is_dir():
        raise GlczooError("this is a folder, a file is to be written", where=path)
    while folder and not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        what = "is a file" if place.exists() else "is not there"
        raise GlczooError(f"it cannot be written: the folder {place} {what}", where=path)
    try:
        with TemporaryFile(dir=place) as file:
            file.write(bytes(_BLOCK))
            file.flush()
    except OSError as error:
        raise of_system(OSError(error.errno, error.strerror, str(path))) from None


def require_room(path: Path, size: int) -> None:
    """Refuse a file for which the disk, or a quota, has no room: the room is taken for a moment.

    For what GDAL writes: on a disk that fills meanwhile it may leave a file cut short and say nothing, or
    not end.

    Raises:
        OSError: there is no room for so many bytes; names `path`.
    """
    if size > shutil.disk_usage(path.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    if not hasattr(os, "posix_fallocate"):
        return
    with TemporaryFile(dir=path.parent) as file:  # a quota may leave less
        try:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))
        except OSError as error:
            if error.errno in FULL:
                raise OSError(error.errno, error.strerror, str(path)) from None


def require_same(path: Path, same: bool) -> None:
    """Refuse a file that is not, when it is read back, what was written.

    Raises:
        OSError: it is not; names `path`.
    """
    if not same:
        raise OSError(errno.EIO, "what was written is not what is read back", str(path))


def first_process() -> bool:
    """Whether this process is the one that prints and writes, of those that a launcher started."""
    return int(os.environ.get("RANK", 0)) == 0


def will_write(
    *paths: Path | None, folder: bool = False, inputs: Callable[[], object] = lambda: None
) -> None:
    """Print where a verb will write, before the work, once it is known that it can.

    Of several processes that work together the first does.

    Args:
        paths: of files, those that are None are not wanted.
        folder: whether these are folders.
        inputs: looks at what the verb reads, before anything is printed.

    Raises:
        GlczooError: a path cannot be written.
    """
    if not first_process():
        return
    wanted = [path for path in paths if path is not None]
    for path in wanted:
        require_writable(path, folder=folder)
    inputs()
    for path in wanted:
        print(f"glczoo: writes {path}", file=sys.stderr)


@contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Work on a file or folder alone, whether it is there already or not.

    The lock is a file beside it, .NAME.lock, that names the process that works there. The system lets go of
    it when that process ends, however it ends. What killed processes left half-written in the folder, or in
    the one that is locked, is deleted. Folders that are made for a lock are removed again if nothing else
    came to lie in them.

    Args:
        path: of what is worked on.
        wait: until another process that works there is done, instead of an error.

    Raises:
        GlczooError: another process works there, or nothing can be written there.
    """
    name = lock_file(path)
    made = [folder for folder in name.parents if not folder.exists()]
    try:
        try:
            descriptor = _locked(name, path, wait)
        except OSError as error:
            raise of_system(OSError(error.errno, error.strerror, str(path))) from error
        try:
            for folder in (path.parent, path):
                _delete_leftovers(folder)
            yield
        finally:
            name.unlink(missing_ok=True)
            os.close(descriptor)
    finally:
        for folder in made:
            with suppress(OSError):  # something lies in it
                folder.rmdir()


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Fill a folder that is not there, or empty, alone: it is whole or as it was (see `lock` and `whole`).

    Raises:
        ExistsError: something is in it.
        GlczooError: another process fills it.
    """
    with lock(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ExistsError(f"{folder} is there and not empty: name another folder, or delete it first")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole(folder) as partial:
            yield partial


def lock_file(path: Path) -> Path:
    """The file that `lock` holds; one that is there and not held was left by a process that was killed."""
    return path.with_name(f".{path.name}.lock")


def _locked(name: Path, path: Path, wait: bool) -> int:
    """The descriptor of a lock's file, which this process holds."""
    while True:
        name.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(name, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # who held it has just deleted the folder that it made for it
            continue
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            there = os.stat(name)
        except BlockingIOError:
            holder = os.pread(descriptor, 500, 0).decode("utf-8", "replace") or "another process"
            os.close(descriptor)
            remedy = "Wait until it is done, or end it and start again"
            raise GlczooError(f"{holder} works there", where=path, remedy=remedy) from None
        except FileNotFoundError:  # who held it has just deleted it
            os.close(descriptor)
            continue
        if os.path.samestat(there, os.fstat(descriptor)):
            break
        os.close(descriptor)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}, since {since},".encode())
    except OSError:  # the disk is full
        name.unlink(missing_ok=True)
        os.close(descriptor)
        raise
    return descriptor


def sha256(path: Path) -> str:
    """SHA-256 of a file, as `sha256sum` prints it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Have a file, or all files of a folder, on the disk: after a power cut no name may lack its bytes."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    if len(files) > _MANY:
        os.sync()
        return
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _mark() -> str:
    process = os.getpid()
    return f".glczoo-{_machine()}-{process}-{_start_of(process)}-{next(_NUMBER)}"


@cache
def _machine() -> str:
    """This machine, and the container in it whose numbers of processes are its own."""
    with suppress(OSError):
        return re.sub(r"[^A-Za-z0-9]", "", f"{platform.node()}{os.stat('/proc/self/ns/pid').st_ino}")
    return re.sub(r"[^A-Za-z0-9]", "", platform.node())


@cache
def _delete_leftovers(folder: Path) -> None:
    """Delete what processes that are no more were writing in a folder; looked for once."""
    for path in folder.glob(".*.glczoo-*"):
        match = _PARTIAL.fullmatch(path.name)
        if match is None:
            continue
        machine, process, start = match[1], int(match[2]), int(match[3])
        lives = _lives(process, start) if machine == _machine() else _age(path) < _FORGOTTEN
        if not lives:
            _delete(path)


def _start_of(process: int) -> int:
    """When a process began, in ticks since the system did; 0 where that is not known.

    Another one that got the same number has another start: in a container it is often the same number.
    """
    try:
        return int(Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _lives(process: int, start: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # it is somebody else's
    return _start_of(process) in (start, 0) or not start


def _age(path: Path) -> float:
    """Seconds since a file, or the newest of a folder, changed."""
    changed = [0.0]
    for each in (path, *path.rglob("*")):
        with suppress(FileNotFoundError):
            changed.append(each.stat().st_mtime)
    return time.time() - max(changed)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
