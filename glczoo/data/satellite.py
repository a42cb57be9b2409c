"""JPEG patches by patchID: uint8[C, size, size] around the centre of 128 x 128 pixels.

The path rule of GeoLifeCLEF 2023: patch 3018575 lies in 75/85/3018575.jpeg (its last two digits, then the
two before).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg, read_file

from glczoo.data.region import Band

__all__ = ["JpegTree"]

_SIDE = 128


class JpegTree:
    """The bands of one modality whose patches are JPEG files, one tree for each folder."""

    def __init__(self, bands: Sequence[tuple[Band, Path]]) -> None:
        """Name the bands and the folder of each: red, green and blue share the colour tree."""
        self.bands = tuple(band.name for band, _ in bands)
        self._trees: dict[Path, tuple[list[int], list[int]]] = {}
        for position, (band, folder) in enumerate(bands):
            channels, planes = self._trees.setdefault(folder, ([], []))
            channels.append(position)
            planes.append(band.index - 1)

    def path(self, folder: Path, patch_id: int) -> Path | None:
        """The patch's file. Ids under 1000 lie by their own digits or by their digits padded to four."""
        for digits in (str(patch_id), f"{patch_id:04d}"):
            path = folder / digits[-2:] / digits[-4:-2] / f"{patch_id}.jpeg"
            if path.exists():
                return path
        return None

    def missing(self, patch_ids: np.ndarray) -> np.ndarray:
        """Which patches lack a file, bool[N]."""
        distinct, inverse = np.unique(patch_ids, return_inverse=True)
        lacks = [
            p < 0 or any(self.path(folder, p) is None for folder in self._trees) for p in distinct.tolist()
        ]
        return np.array(lacks, bool)[inverse]

    def read(self, patch_id: int, size: int) -> torch.Tensor:
        """Decode one patch: uint8[C, size, size], the centre of the file's 128 x 128 pixels.

        Raises:
            FileNotFoundError: the patch has no file.
            ValueError: a file is no JPEG, is truncated, or is not 128 x 128.
        """
        if not 0 < size <= _SIDE:
            raise ValueError(f"JPEG patches are {_SIDE} x {_SIDE} pixels, patch_size is {size}")
        patch = torch.empty(len(self.bands), size, size, dtype=torch.uint8)
        start = (_SIDE - size) // 2
        for folder, (channels, planes) in self._trees.items():
            path = self.path(folder, patch_id)
            if path is None:
                raise FileNotFoundError(
                    f"patch {patch_id} has no JPEG under {folder}; `glczoo region check` counts what is "
                    "missing, data.incomplete=drop leaves such surveys out"
                )
            mode = ImageReadMode.RGB if max(planes) > 0 else ImageReadMode.GRAY
            try:
                image = decode_jpeg(read_file(str(path)), mode)
            except RuntimeError as error:
                raise ValueError(f"{path} is not a whole JPEG: {str(error).splitlines()[0]}") from None
            if image.shape[1:] != (_SIDE, _SIDE):
                raise ValueError(f"{path} must be {_SIDE} x {_SIDE} pixels, it is {tuple(image.shape[1:])}")
            patch[channels] = image[planes, start : start + size, start : start + size]
        return patch
