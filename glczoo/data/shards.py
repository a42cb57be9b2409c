"""A JPEG tree as shards: a few large files that are memory-mapped, instead of millions of small ones.

A folder of shards holds `pack.json` and, for each of the tree's top directories (75 has every patch whose
number ends in 75), two files: `75.bin`, the patches one after the other, and `75.npy`, int64[2, n]: their
numbers, which ascend, and where each ends in `75.bin`. A patch is the bytes of its JPEG, or the decoded
planes uint8[C, 128, 128]. `pack.json` says which, and the size, the CRC-32 (of both files) and the
unreadable JPEGs of every shard; it is written anew after each, so that a killed `glczoo pack` goes on where
it was.
"""

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from glczoo.data.jpeg import SIDE, Run, copy_centre, decode, directories, needs_colour
from glczoo.errors import GlczooError
from glczoo.files import lock, whole
from glczoo.json_text import read_json
from glczoo.progress import Track

__all__ = ["Pack", "Shard", "Shards", "is_packed", "write_shards"]

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
    whole: bool = False
    shards: dict[str, Shard] = field(default_factory=dict)

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
            ids, _, _ = self._open(name)
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
                ids, ends, data = self._open(name)
                place = int(ids.searchsorted(patch_id))
                if place < len(ids) and ids[place] == patch_id:
                    return name, data[ends[place - 1] if place else 0 : ends[place]]
        return "", None

    def _open(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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


def write_shards(
    tree: Path,
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
        tree: folder of JPEG files by the path rule of `directories`; need not exist if all shards are there.
        folder: made where it is not there.
        colour: the patches have red, green and blue, else grey.
        decoded: keep pixels (48 or 16 KB a patch), not the files' bytes (about 4 KB): reading is a copy.
        verify: compare every shard's CRC-32, and whether the tree has files that the shard lacks.
        progress: show a bar.

    Raises:
        GlczooError: the folder holds a pack of another kind, or a shard must be packed and there is no tree.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / "pack.json"):
        return _write_shards(tree, folder, colour, decoded, verify, progress)


def _write_shards(
    tree: Path, folder: Path, colour: bool, decoded: bool, verify: bool, progress: bool
) -> Pack:
    pack = Pack.read(folder)
    if pack.shards and (pack.decoded, pack.colour) != (decoded, colour):
        raise GlczooError(
            f"{folder} holds a pack with decoded={pack.decoded}, colour={pack.colour}; this one has "
            f"decoded={decoded}, colour={colour}: name another folder, or delete that one first"
        )
    pack.decoded, pack.colour, shards = decoded, colour, pack.shards
    tops = [p.name for p in tree.iterdir() if p.is_dir() and p.name.isdecimal()] if tree.is_dir() else []
    bar = Track(sorted({*tops, *shards}), title=f"packing {tree.name}", unit="shards", hidden=not progress)
    for name in bar:
        problem = _problem(folder, name, shards.get(name), checksum=verify)
        grown = verify and problem is None and name in tops and _grown(tree, folder, name)
        if problem is None and not grown:
            continue
        if name not in tops:
            raise GlczooError(f"{problem}, and {tree / name} is not there to pack it anew")
        pack.whole = False
        shards[name] = _write_shard(tree, folder, name, colour, decoded)
        pack.write(folder)
    if not shards:
        raise GlczooError(
            f"{tree} holds no JPEG patches: its top directories must be last digits of patchIDs"
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


def _grown(tree: Path, folder: Path, name: str) -> bool:
    """Whether the tree has files that a shard lacks: unreadable when it was packed, or new."""
    return not _files(tree, name).keys() <= set(np.load(folder / f"{name}.npy")[0].tolist())


def _write_shard(tree: Path, folder: Path, name: str, colour: bool, decoded: bool) -> Shard:
    ids, ends, unreadable, size, crc = [], [], {}, 0, 0
    with whole(folder / f"{name}.bin") as data_file, whole(folder / f"{name}.npy") as index_file:
        with open(data_file, "wb") as file:
            for patch_id, path in _files(tree, name).items():
                data = np.fromfile(path, np.uint8)
                try:
                    image = decode(data, colour, path)
                except ValueError as error:
                    unreadable[str(patch_id)] = str(error)
                    continue
                kept = (np.ascontiguousarray(image) if decoded else data).tobytes()
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
