"""The verb `glczoo pack`: JPEG trees, cubes and TIFFs as shards, and a list of the patches that it lacks."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from glczoo.data.image_shards import PackableImages
from glczoo.data.region import Region
from glczoo.data.sample_files import SampleFiles
from glczoo.data.sample_images import image_folder, image_kind, sample_files
from glczoo.data.satellite import jpeg_trees, pack_folder
from glczoo.data.shards import Pack, Shards, write_files, write_shards
from glczoo.data.tables import read_points
from glczoo.errors import GlczooError, MissingError
from glczoo.files import whole

__all__ = ["PackedRegion", "PackedTree", "pack_region", "packed_folder"]


@dataclass(frozen=True)
class PackedTree:
    """A JPEG tree, or a modality of cubes or TIFFs, as shards: patches and bytes, and what was not packed."""

    patches: int
    bytes: int
    unreadable: int  # files that cannot be decoded
    missing: int  # patches that tables name and the tree lacks


@dataclass(frozen=True)
class PackedRegion:
    """The shards of a region's trees."""

    folder: Path
    is_default: bool  # whether the region looks there
    trees: dict[str, PackedTree]  # by MODALITY/FILE

    def to_json(self) -> dict[str, object]:
        """As JSON values."""
        return {**asdict(self), "folder": str(self.folder)}

    def text(self) -> str:
        """What was packed, for people."""
        lines = [
            f"{name}: {tree.patches} patches, {tree.bytes / 1e6:.1f} MB; {tree.unreadable} files cannot be "
            f"decoded, {tree.missing} patches that tables name have none"
            for name, tree in self.trees.items()
        ]
        if any(tree.unreadable or tree.missing for tree in self.trees.values()):
            lines.append(f"they are listed in {self.folder}/missing.csv")
        if self.is_default:
            lines.append(f"{self.folder} is read from now on instead of the trees")
        else:
            lines.append(f"to have it read instead of the trees, write in region.yaml: packed: {self.folder}")
        return "\n".join(lines)


def packed_folder(region: Region) -> Path:
    """Where a region looks for its shards."""
    return region.root_path / (region.packed or "packed")


def pack_region(
    region: Region,
    out: Path | None = None,
    *,
    decoded: bool = False,
    verify: bool = False,
    progress: bool = True,
) -> PackedRegion:
    """Pack the JPEG trees, cubes and TIFFs of a region; what was packed before or killed is gone on with.

    `missing.csv` (patchID;tree;reason) lists the patches that a table names and a tree lacks, and the files
    that cannot be decoded.

    Args:
        region: whose trees; its tables say which patches are wanted.
        out: folder to write; where the region looks for shards if None.
        decoded: keep pixels instead of the files' bytes.
        verify: compare the CRC-32 of shards that are there and look for new files in the trees; pack such
            shards anew.
        progress: show a bar for each tree.

    Raises:
        MissingError: a tree or table is not there.
        GlczooError: the region has no such bands, or see `write_shards`.
    """
    if not any(modality.kind in ("jpeg", "cube", "tiff") for modality in region.modalities):
        raise GlczooError(
            f"region {region.name} has no JPEG patches, cubes or TIFFs of samples: there is nothing to pack"
        )
    default = packed_folder(region)
    out = out or default
    wanted = _wanted(region)
    trees, lines = {}, []
    for name, folder, pack in _packed(region, out, decoded, verify, progress):
        shards = pack.shards.values()
        unreadable = {int(patch): reason for shard in shards for patch, reason in shard.unreadable.items()}
        missing = np.setdiff1d(wanted[~Shards(folder).has(wanted)], np.array([*unreadable], np.int64))
        trees[name] = PackedTree(
            patches=sum(shard.patches for shard in shards),
            bytes=sum(shard.bytes for shard in shards),
            unreadable=len(unreadable),
            missing=len(missing),
        )
        lines += [f"{patch};{name};{reason}" for patch, reason in unreadable.items()]
        lines += [f"{patch};{name};no file" for patch in missing.tolist()]
    with whole(out / "missing.csv") as partial:
        partial.write_text("\n".join(["patchID;tree;reason", *lines]) + "\n", "utf-8")
    return PackedRegion(out, out.resolve() == default.resolve(), trees)


def _packed(
    region: Region, out: Path, decoded: bool, verify: bool, progress: bool
) -> Iterator[tuple[str, Path, Pack]]:
    """Pack one tree, or the files of one modality, after another: its name, its folder, what was packed."""
    for modality in region.modalities:
        if modality.kind == "jpeg":
            for file in dict.fromkeys(band.file for band in modality.bands):
                bands = [band for band in modality.bands if band.file == file]
                folder = pack_folder(region, modality, file, out)
                colour = any(band.index > 1 for band in bands)
                try:
                    found = jpeg_trees(region, modality, bands[0])
                except MissingError:
                    if not folder.exists():
                        raise
                    found = [region.root_path / modality.folder / file]  # packed before and then deleted
                pack = write_shards(
                    found, folder, colour=colour, decoded=decoded, verify=verify, progress=progress
                )
                yield f"{modality.name}/{file}", folder, pack
        elif modality.kind in ("cube", "tiff"):
            folder = image_folder(region, modality, out)
            try:
                files = sample_files(region, modality)
            except MissingError:
                if not folder.exists():
                    raise
                files = SampleFiles(image_kind(modality), [(region.root_path / modality.folder, "")])
            yield (
                modality.name,
                folder,
                write_files(PackableImages(files), folder, verify=verify, progress=progress),
            )


def _wanted(region: Region) -> np.ndarray:
    """Patches that the region's tables name, int64[N], distinct; many regions come without the test table."""
    ids = [np.empty(0, np.int64)]
    for name, described in region.tables.items():
        try:
            path = region.find(*described.file)
        except FileNotFoundError:
            if name != "test":
                raise
            continue
        ids.append(read_points(region, path, described).patch_id)
    distinct = np.unique(np.concatenate(ids))
    return distinct[distinct >= 0]
