"""Files of patches as shards: a few large files that are memory-mapped, instead of millions of small ones.

A folder of shards holds `pack.json` and, for each two last digits (75 has every patch whose number ends in
75), two files: `75.bin`, the patches one after the other, and `75.npy`, int64[2, n]: their numbers, which
ascend, and where each ends in `75.bin`. A patch is the bytes of its JPEG, the decoded planes
uint8[C, 128, 128], or the values of a sample's cube or TIFF, all of one shape and type. `pack.json` says
which, and the size, the CRC-32 (of both files) and the unreadable files of every shard; it is written anew
after each, so that a killed `glczoo pack` goes on where it was.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from glczoo.data.jpeg import SIDE, Run, copy_centre, decode, directories, needs_colour
from glczoo.errors import GlczooError
from glczoo.files import lock, whole
from glczoo.json_text import read_json
from glczoo.progress import Track

__all__ = [
    "Pack",
    "PackableFiles",
    "Shard",
    "Shards",
    "is_packed",
    "write_files",
    "write_shards",
]

_FORMAT = 1
_MEND = "`glczoo pack REGION --verify` packs such shards anew"


@dataclass(frozen=True)
class Shard:
    """What was packed of one top directory of a tree."""

    patches: int
    bytes: int
    crc32: int
    unreadable: dict[str, str]  # patch and why its JPEG cannot be decoded


@dataclass
class Pack:
    """`pack.json`: what a folder of shards holds."""

    decoded: bool = False
    colour: bool = False
    shape: list[int] | None = None  # of a sample's values; None: JPEGs
    dtype: str = ""  # of a sample's values
    nodata: float | None = None  # which of the values mean no data
    whole: bool = False
    shards: dict[str, Shard] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """What each patch is kept as: packs of two kinds do not mix."""
        if self.shape is None:
            return f"decoded={self.decoded}, colour={self.colour}"
        return f"shape={self.shape}, dtype={self.dtype}, nodata={self.nodata}"

    @classmethod
    def read(cls, folder: Path) -> "Pack":
        """Read the folder's `pack.json`; an empty pack where there is none.

        Raises:
            GlczooError: the file is damaged, or of another format.
        """
        path = folder / "pack.json"
        if not path.exists():
            return cls()
        try:
            content = read_json(path)
            version = content.pop("format")
            shards = {name: Shard(**shard) for name, shard in content.pop("shards").items()}
            pack = cls(**content, shards=shards)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise GlczooError(f"{path} is damaged ({error}); delete it and run `glczoo pack` again") from None
        if version != _FORMAT:
            raise GlczooError(f"{path} has format {version}, this glczoo reads {_FORMAT}")
        return pack

    def write(self, folder: Path) -> None:
        """Write `pack.json`."""
        with whole(folder / "pack.json") as partial:
            partial.write_text(json.dumps({"format": _FORMAT, **asdict(self)}), "utf-8")


def is_packed(folder: Path) -> bool:
    """Whether a folder holds a whole pack."""
    return Pack.read(folder).whole


class Shards:
    """What `write_shards` made of a tree, read like the tree."""

    def __init__(self, folder: Path) -> None:
        """Open a pack; the shards themselves are opened when they are first read.

        Raises:
            GlczooError: the folder holds no whole pack, a shard is missing or has another size than packed.
        """
        self.folder, pack = folder, Pack.read(folder)
        if not pack.whole:
            raise GlczooError(f"{folder} holds no whole pack; `glczoo pack REGION` makes it whole")
        for name, shard in pack.shards.items():
            problem = _problem(folder, name, shard, checksum=False)
            if problem:
                raise GlczooError(f"{problem}; {_MEND}")
        self.decoded = pack.decoded
        self._shards = {name: shard.patches for name, shard in pack.shards.items()}
        self._opened: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return sum(self._shards.values())

    def has(self, patch_ids: np.ndarray) -> np.ndarray:
        """Which patches are packed, bool[N]."""
        packed, ending = np.zeros(len(patch_ids), bool), patch_ids % 100
        for name in self._shards:
            ids, _, _ = self.open(name)
            rows = np.flatnonzero(ending == int(name))
            place = np.searchsorted(ids, patch_ids[rows])
            packed[rows] |= np.append(ids, -1)[place] == patch_ids[rows]
        return packed & (patch_ids >= 0)

    def read(self, patch_id: int, runs: Sequence[Run], out: np.ndarray) -> bool:
        """Copy or decode the centre of a patch's planes into `out[J, size, size]`; False if not packed.

        Raises:
            GlczooError: the bytes are damaged.
        """
        name, patch = self._find(patch_id)
        if patch is None:
            return False
        if self.decoded:
            image = patch.reshape(-1, SIDE, SIDE)
        else:
            try:
                image = decode(patch, needs_colour(runs), f"patch {patch_id}")
            except ValueError as error:
                raise GlczooError(f"{self.folder / name}.bin is damaged: {error}; {_MEND}") from None
        copy_centre(image, runs, out)
        return True

    def encoded(self, patch_id: int) -> np.ndarray | None:
        """The bytes of a patch's JPEG, uint8[n]; None where it is not packed, or packed decoded."""
        return None if self.decoded else self._find(patch_id)[1]

    def _find(self, patch_id: int) -> tuple[str, np.ndarray | None]:
        """A patch's shard and its bytes, None where no shard has it."""
        for name, _ in directories(patch_id):
            if name in self._shards:
                ids, ends, data = self.open(name)
                place = int(ids.searchsorted(patch_id))
                if place < len(ids) and ids[place] == patch_id:
                    return name, data[ends[place - 1] if place else 0 : ends[place]]
        return "", None

    def names(self, wanted: set[str]) -> list[str]:
        """Those of some names that are shards. `wanted`: those names."""
        return [name for name in sorted(wanted) if name in self._shards]

    def open(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A shard's numbers int64[n], where each patch ends int64[n], and its bytes, memory-mapped.

        Raises:
            GlczooError: a file of it is damaged.
        """
        if name not in self._opened:
            try:
                ids, ends = np.asarray(np.load(self.folder / f"{name}.npy", mmap_mode="r"))
            except (ValueError, OSError, EOFError) as error:
                raise GlczooError(f"{self.folder / name}.npy is damaged ({error}); {_MEND}") from None
            if len(ids) != self._shards[name]:
                raise GlczooError(f"{self.folder / name}.npy is not of this pack; {_MEND}")
            empty = len(ids) == 0  # which cannot be mapped
            data = np.empty(0, np.uint8) if empty else np.memmap(self.folder / f"{name}.bin", np.uint8, "r")
            self._opened[name] = ids, ends, np.asarray(data)
        return self._opened[name]


class PackableFiles(Protocol):
    """Files of patches, and what is kept of each."""

    @property
    def title(self) -> str:
        """What a bar says."""

    def pack(self) -> Pack:
        """What kind of pack they make: without shards."""

    def tops(self) -> list[str]:
        """Names of the shards that there are files for."""

    def of(self, top: str) -> dict[int, Path]:
        """The files of one shard by the patches' numbers, which ascend."""

    def where(self, top: str) -> Path:
        """Where the files of a shard lie, for messages."""

    def kept(self, path: Path) -> bytes:
        """What is kept of a file.

        Raises:
            GlczooError: it cannot be read.
        """


class _JpegFiles:
    """Trees of JPEG files; a patch lies in the first that has it."""

    def __init__(self, trees: Sequence[Path], colour: bool, decoded: bool) -> None:
        self._trees, self._colour, self._decoded = trees, colour, decoded

    @property
    def title(self) -> str:
        return self._trees[0].name

    def pack(self) -> Pack:
        return Pack(decoded=self._decoded, colour=self._colour)

    def tops(self) -> list[str]:
        there = [tree for tree in self._trees if tree.is_dir()]
        return [
            path.name for tree in there for path in tree.iterdir() if path.is_dir() and path.name.isdecimal()
        ]

    def of(self, top: str) -> dict[int, Path]:
        found: dict[int, Path] = {}
        for tree in self._trees:
            found = _files(tree, top) | found
        return dict(sorted(found.items()))

    def where(self, top: str) -> Path:
        return self._trees[0] / top

    def kept(self, path: Path) -> bytes:
        data = np.fromfile(path, np.uint8)
        image = decode(data, self._colour, path)
        return (np.ascontiguousarray(image) if self._decoded else data).tobytes()


def write_shards(
    tree: Path | Sequence[Path],
    folder: Path,
    *,
    colour: bool,
    decoded: bool = False,
    verify: bool = False,
    progress: bool = True,
) -> Pack:
    """Pack a tree into `folder`, or go on with it: shards that are there and sound are left as they are.

    Every file is decoded once; those that cannot be are left out and named. Each shard is written beside and
    renamed, so that a killed process leaves whole shards only.

    Args:
        tree: folder of JPEG files by the path rule of `directories`, or several, of which the first that has
            a patch counts; need not exist if all shards are there.
        folder: made where it is not there.
        colour: the patches have red, green and blue, else grey.
        decoded: keep pixels (48 or 16 KB a patch), not the files' bytes (about 4 KB): reading is a copy.
        verify: compare every shard's CRC-32, and whether the tree has files that the shard lacks.
        progress: show a bar.

    Raises:
        GlczooError: the folder holds a pack of another kind, or a shard must be packed and there is no tree.
    """
    trees = [tree] if isinstance(tree, Path) else list(tree)
    return write_files(_JpegFiles(trees, colour, decoded), folder, verify=verify, progress=progress)


def write_files(files: PackableFiles, folder: Path, *, verify: bool = False, progress: bool = True) -> Pack:
    """Pack files of any kind into `folder`, as `write_shards` does.

    Args:
        files: what to pack.
        folder: made where it is not there.
        verify: see `write_shards`.
        progress: show a bar.

    Raises:
        GlczooError: see `write_shards`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / "pack.json"):
        return _write_files(files, folder, verify, progress)


def _write_files(files: PackableFiles, folder: Path, verify: bool, progress: bool) -> Pack:
    tops = files.tops()
    pack = Pack.read(folder)
    wanted = files.pack() if tops or not pack.shards else pack
    if pack.shards and pack.kind != wanted.kind:
        raise GlczooError(
            f"{folder} holds a pack with {pack.kind}; this one has {wanted.kind}: name another folder, or "
            "delete that one first"
        )
    wanted.shards, shards = pack.shards, pack.shards
    wanted.whole, pack = pack.whole, wanted
    names = sorted({*tops, *shards})
    for name in Track(names, title=f"packing {files.title}", unit="shards", hidden=not progress):
        problem = _problem(folder, name, shards.get(name), checksum=verify)
        grown = verify and problem is None and name in tops and _grown(files, folder, name)
        if problem is None and not grown:
            continue
        if name not in tops:
            raise GlczooError(f"{problem}, and {files.where(name)} is not there to pack it anew")
        pack.whole = False
        shards[name] = _write_shard(files, folder, name)
        pack.write(folder)
    if not shards:
        raise GlczooError(
            f"{files.where('')} holds no JPEG patches: its top directories must be last digits of patchIDs"
        )
    pack.whole = True
    pack.write(folder)
    return pack


def _files(tree: Path, name: str) -> dict[int, Path]:
    """The patches of one top directory, in ascending order, where the path rule looks for them."""
    numbers = {int(path.stem) for path in (tree / name).rglob("*.jpeg") if path.stem.isdecimal()}
    files = {}
    for patch_id in sorted(numbers):
        paths = [tree.joinpath(*parts, f"{patch_id}.jpeg") for parts in directories(patch_id)]
        path = next((path for path in paths if path.parts[len(tree.parts)] == name and path.exists()), None)
        if path is not None:
            files[patch_id] = path
    return files


def _grown(files: PackableFiles, folder: Path, name: str) -> bool:
    """Whether there are files that a shard lacks: unreadable when it was packed, or new."""
    return not files.of(name).keys() <= set(np.load(folder / f"{name}.npy")[0].tolist())


def _write_shard(files: PackableFiles, folder: Path, name: str) -> Shard:
    ids, ends, unreadable, size, crc = [], [], {}, 0, 0
    with whole(folder / f"{name}.bin") as data_file, whole(folder / f"{name}.npy") as index_file:
        with open(data_file, "wb") as file:
            for patch_id, path in files.of(name).items():
                try:
                    kept = files.kept(path)
                except GlczooError as error:
                    unreadable[str(patch_id)] = str(error)
                    continue
                file.write(kept)
                size, crc = size + len(kept), zlib.crc32(kept, crc)
                ids.append(patch_id)
                ends.append(size)
        np.save(index_file, np.array([ids, ends], np.int64))
        crc = zlib.crc32(index_file.read_bytes(), crc)
    return Shard(len(ids), size, crc, unreadable)


def _problem(folder: Path, name: str, shard: Shard | None, checksum: bool) -> str | None:
    """What is wrong with a shard; None if it is as it was packed."""
    if shard is None:
        return f"{folder / name}.bin is not packed"
    data, index = folder / f"{name}.bin", folder / f"{name}.npy"
    for path in (data, index):
        if not path.exists():
            return f"{path} is missing"
    size = data.stat().st_size
    if size != shard.bytes:
        return f"{data} is damaged: it has {size} bytes, packed were {shard.bytes}"
    if checksum:
        crc = 0
        for path in (data, index):
            with open(path, "rb") as file:
                while block := file.read(1 << 24):
                    crc = zlib.crc32(block, crc)
        if crc != shard.crc32:
            return f"{data} or {index.name} is damaged: their CRC-32 is not that of what was packed"
    return None
