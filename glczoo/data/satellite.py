"""Satellite patches by patchID: uint8[J, size, size] around the centre of 128 x 128 pixels.

The one door to them, whether they lie in a tree of JPEG files or in the shards that `glczoo pack` made of it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from glczoo.data.jpeg import SIDE, JpegTree, Run, decode_together, needs_colour
from glczoo.data.region import Band, Modality, Region
from glczoo.data.shards import Shards, is_packed
from glczoo.errors import GlczooError, MissingError

__all__ = ["SatellitePatches", "jpeg_trees", "open_patches", "pack_folder"]


def pack_folder(region: Region, modality: Modality, file: str, packed: Path | None = None) -> Path:
    """The shards of one tree of a region, under the region's folder of packs or another.

    `packed`: that other folder.
    """
    return (packed or region.root_path / (region.packed or "packed")) / modality.name / file


def jpeg_trees(region: Region, modality: Modality, band: Band) -> list[Path]:
    """The folders of a JPEG band's files, those that are there.

    Raises:
        MissingError: none is there.
    """
    trees = []
    for file in [band.file, *band.more]:
        try:
            trees.append(region.find_file(modality, file))
        except MissingError:
            continue
    return trees or [region.find_file(modality, band.file)]


def open_patches(region: Region, modalities: Sequence[Modality]) -> "SatellitePatches | None":
    """Open the JPEG bands of some modalities: shards where there are any, else trees.

    Raises:
        MissingError: there is neither a tree nor a whole pack, or no pack where region.yaml names one.
        GlczooError: a pack is damaged.
    """
    bands: list[tuple[Band, JpegTree | Shards]] = []
    opened: dict[Path, JpegTree | Shards] = {}
    for modality in modalities:
        for band in modality.bands if modality.kind == "jpeg" else ():
            folder = pack_folder(region, modality, band.file)
            if folder not in opened:
                if is_packed(folder):
                    opened[folder] = Shards(folder)
                elif region.packed is not None:
                    raise MissingError(
                        f"region {region.name}: region.yaml says packed: {region.packed}, and {folder} is no "
                        "whole pack; `glczoo pack REGION` makes it"
                    )
                else:
                    opened[folder] = JpegTree(*jpeg_trees(region, modality, band))
            bands.append((band, opened[folder]))
    return SatellitePatches(bands) if bands else None


class SatellitePatches:
    """The JPEG bands of a region, in order; red, green and blue share the colour files."""

    def __init__(self, bands: Sequence[tuple[Band, JpegTree | Shards]]) -> None:
        """Name the bands and where the patches of each lie."""
        self.bands = tuple(band.name for band, _ in bands)
        self._files: dict[JpegTree | Shards, list[Run]] = {}
        for channel, (band, files) in enumerate(bands):
            runs, plane = self._files.setdefault(files, []), band.index - 1
            if runs and (runs[-1][0].stop, runs[-1][1].stop) == (plane, channel):
                planes, channels = runs.pop()
                runs.append((slice(planes.start, plane + 1), slice(channels.start, channel + 1)))
            else:
                runs.append((slice(plane, plane + 1), slice(channel, channel + 1)))

    def missing(self, patch_ids: np.ndarray) -> np.ndarray:
        """Which patches cannot be read because a file of theirs is not there, bool[N]."""
        distinct, inverse = np.unique(patch_ids, return_inverse=True)
        has = distinct >= 0
        for files in self._files:
            has[has] = files.has(distinct[has])
        return ~has[inverse]

    def read(self, patch_id: int, size: int, out: torch.Tensor | None = None) -> torch.Tensor:
        """One patch: uint8[J, size, size], the centre of the 128 x 128 pixels.

        Args:
            patch_id: which.
            size: pixels along a side.
            out: where to decode to, for example a slice of a batch; made if None.

        Raises:
            MissingError: the patch has no file.
            GlczooError: a file is no JPEG, is truncated, or is not 128 x 128.
        """
        if not 0 < size <= SIDE:
            raise GlczooError(f"JPEG patches are {SIDE} x {SIDE} pixels, patch_size is {size}")
        patch = torch.empty(len(self.bands), size, size, dtype=torch.uint8) if out is None else out
        pixels = patch.numpy()
        for files, runs in self._files.items():
            if not files.read(patch_id, runs, pixels):
                raise MissingError(
                    f"patch {patch_id} has no JPEG under {files.folder}; `glczoo region check` counts what "
                    "is missing, data.incomplete=drop leaves such surveys out"
                )
        return patch

    def read_together(self, patch_ids: Sequence[int], size: int, device: torch.device) -> torch.Tensor | None:
        """Many patches, decoded on a device: uint8[B, J, size, size] there.

        None where that cannot be done, so that `read` must: a file is missing, damaged or packed decoded.
        """
        patches = torch.empty(len(patch_ids), len(self.bands), size, size, dtype=torch.uint8, device=device)
        start = (SIDE - size) // 2
        for files, runs in self._files.items():
            encoded = [data for patch in patch_ids if (data := files.encoded(patch)) is not None]
            if len(encoded) < len(patch_ids):
                return None
            try:
                images = decode_together(encoded, needs_colour(runs), device)
            except RuntimeError:
                return None
            if images.shape[2:] != (SIDE, SIDE):
                return None
            for planes, channels in runs:
                patches[:, channels] = images[:, planes, start : start + size, start : start + size]
        return patches
