"""The verb `glczoo pack`: all JPEG trees of a region as shards, and a list of the patches that it lacks."""

from pathlib import Path
from typing import Any

import numpy as np

from glczoo.data.region import Region
from glczoo.data.satellite import pack_folder
from glczoo.data.shards import Shards, write_shards
from glczoo.data.tables import read_points
from glczoo.files import whole

__all__ = ["pack_region", "pack_text"]


def pack_region(
    region: Region,
    out: Path | None = None,
    *,
    decoded: bool = False,
    verify: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Pack every JPEG tree of a region; a run that was killed, or trees packed before, are gone on with.

    `missing.csv` (patchID;tree;reason) lists the patches that a table names and a tree lacks, and the files
    that cannot be decoded.

    Args:
        region: whose trees; its tables say which patches are wanted.
        out: folder to write; where the region looks for shards if None.
        decoded: keep pixels instead of the files' bytes.
        verify: compare the CRC-32 of shards that are there and look for new files in the trees; pack such
            shards anew.
        progress: show a bar for each tree.

    Returns:
        folder, found (whether the region will find it), trees (by name: patches, bytes, unreadable, missing).

    Raises:
        FileNotFoundError: a tree or table is not there.
        ValueError: the region has no JPEG bands, or see `write_shards`.
    """
    modalities = [m for m in region.modalities if m.kind == "jpeg"]
    if not modalities:
        raise ValueError(f"region {region.name} has no modality of kind jpeg: there is nothing to pack")
    default = region.root_path / (region.packed or "packed")
    out = out or default
    wanted = _wanted(region)
    trees, lines = {}, []
    for modality in modalities:
        for file in dict.fromkeys(band.file for band in modality.bands):
            folder = pack_folder(region, modality, file, out)
            colour = any(band.index > 1 for band in modality.bands if band.file == file)
            try:
                tree = region.find_file(modality, file)
            except FileNotFoundError:
                if not folder.exists():
                    raise
                tree = region.root_path / modality.folder / file  # packed before and then deleted
            shards = write_shards(
                tree, folder, colour=colour, decoded=decoded, verify=verify, progress=progress
            )["shards"].values()
            unreadable = {int(patch): why for shard in shards for patch, why in shard["unreadable"].items()}
            missing = np.setdiff1d(wanted[~Shards(folder).has(wanted)], np.array([*unreadable], np.int64))
            name = f"{modality.name}/{file}"
            trees[name] = {
                "patches": sum(shard["patches"] for shard in shards),
                "bytes": sum(shard["bytes"] for shard in shards),
                "unreadable": len(unreadable),
                "missing": len(missing),
            }
            lines += [f"{patch};{name};{why}" for patch, why in unreadable.items()]
            lines += [f"{patch};{name};no file" for patch in missing.tolist()]
    with whole(out / "missing.csv") as partial:
        partial.write_text("\n".join(["patchID;tree;reason", *lines]) + "\n", "utf-8")
    return {"folder": str(out), "found": out.resolve() == default.resolve(), "trees": trees}


def pack_text(found: dict[str, Any]) -> str:
    """What `pack_region` did, for people."""
    lines = [
        f"{name}: {tree['patches']} patches, {tree['bytes'] / 1e6:.1f} MB; {tree['unreadable']} files cannot "
        f"be decoded, {tree['missing']} patches that tables name have none"
        for name, tree in found["trees"].items()
    ]
    if any(tree["unreadable"] or tree["missing"] for tree in found["trees"].values()):
        lines.append(f"they are listed in {found['folder']}/missing.csv")
    lines.append(
        f"{found['folder']} is read from now on instead of the trees"
        if found["found"]
        else f"to have it read instead of the trees, say in region.yaml: packed: {found['folder']}"
    )
    return "\n".join(lines)


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
