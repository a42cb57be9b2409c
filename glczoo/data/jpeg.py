"""JPEG patches of 128 x 128 pixels: where a tree keeps them, and how their bytes become planes.

The path rule of GeoLifeCLEF 2023: patch 3018575 lies in 75/85/3018575.jpeg (its last two digits, then the
two before).

simplejpeg, where it is installed (`pip install glczoo[fast]`), decodes in two thirds of torchvision's time
and to the same values. A GPU's own decoder, nvJPEG, is used when a recipe asks for it: nothing promises that
its values are theirs to the last bit.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision.io import ImageReadMode, decode_jpeg

from glczoo.errors import GlczooError

try:
    import simplejpeg
except ImportError:
    simplejpeg = None

__all__ = [
    "SIDE",
    "JpegTree",
    "Run",
    "copy_centre",
    "decode",
    "decode_together",
    "directories",
    "needs_colour",
    "num_planes",
]

SIDE = 128
"""Pixels along a side of a JPEG patch."""
_MOST_PIXELS = 2**24
_HEADER = 2**16  # bytes of a file that are searched for its size
Run = tuple[slice, slice]
"""Neighbouring planes of a file, and the channels of the patch that they become."""


def directories(patch_id: int) -> list[tuple[str, str]]:
    """Where to look for a patch, first things first: by its own digits, and ids under 1000 padded to four."""
    spellings = (str(patch_id),) if patch_id > 999 else (str(patch_id), f"{patch_id:04d}")
    return [(digits[-2:], digits[-4:-2]) for digits in spellings]


def decode(data: np.ndarray, colour: bool, where: object) -> np.ndarray:
    """Decode one file's bytes: uint8[3, 128, 128] of red, green and blue, or uint8[1, 128, 128] of grey.

    Args:
        data: uint8[n], need not be writable.
        colour: three planes, whatever the file holds; else one.
        where: names the bytes in a message.

    Raises:
        GlczooError: the bytes are no JPEG, are truncated, or are not 128 x 128 pixels.
    """
    if (claimed := _claimed_size(data)) not in (None, (SIDE, SIDE)):  # before memory is taken for it
        raise GlczooError(f"{where} must be {SIDE} x {SIDE} pixels, it is {claimed}")
    image = None
    if simplejpeg is not None:
        try:
            image = simplejpeg.decode_jpeg(data, "RGB" if colour else "GRAY").transpose(2, 0, 1)
        except ValueError:
            pass  # also at flaws that torchvision passes over: its verdict holds with simplejpeg and without
    if image is None:
        mode = ImageReadMode.RGB if colour else ImageReadMode.GRAY
        try:
            image = decode_jpeg(torch.from_numpy(np.array(data)), mode).numpy()
        except RuntimeError as error:
            raise GlczooError(f"{where} is not a whole JPEG: {str(error).splitlines()[0]}") from None
    if image.shape[1:] != (SIDE, SIDE):
        raise GlczooError(f"{where} must be {SIDE} x {SIDE} pixels, it is {image.shape[1:]}")
    return image


def _claimed_size(data: np.ndarray) -> tuple[int, int] | None:
    """Height and width that a JPEG's header claims (ITU-T T.81, annex B); None where there is none."""
    content, place = memoryview(data[:_HEADER].tobytes()), 2
    while place + 9 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            height = content[place + 5] << 8 | content[place + 6]
            return height, content[place + 7] << 8 | content[place + 8]
        filled = marker == 0xFF  # any number of these may stand before a marker
        place += 1 if filled else 2 + (content[place + 2] << 8 | content[place + 3])
    return None


def decode_together(files: Sequence[np.ndarray], colour: bool, device: torch.device) -> torch.Tensor:
    """Decode many files on a device, by nvJPEG on CUDA: uint8[B, 3 or 1, 128, 128] there.

    `colour`: three channels, else one.

    Raises:
        RuntimeError: a file is no whole JPEG; torchvision does not say which.
    """
    mode = ImageReadMode.RGB if colour else ImageReadMode.GRAY
    return torch.stack(decode_jpeg([torch.from_numpy(np.array(data)) for data in files], mode, device))


def num_planes(path: Path) -> int:
    """Planes of a file: 3 of a colour picture, 1 of a grey one.

    Raises:
        GlczooError: the file is no JPEG.
    """
    data = np.fromfile(path, np.uint8)
    height, width = _claimed_size(data) or (SIDE, SIDE)
    if height * width > _MOST_PIXELS:
        raise GlczooError(f"{path} claims {height} x {width} pixels; patches have {SIDE} x {SIDE}")
    try:
        return len(decode_jpeg(torch.from_numpy(data), ImageReadMode.UNCHANGED))
    except RuntimeError as error:
        raise GlczooError(f"{path} is not a whole JPEG: {str(error).splitlines()[0]}") from None


class JpegTree:
    """Folders of JPEG files by patchID, one for each patch, which lies in the first folder that has it."""

    def __init__(self, folder: Path, *more: Path) -> None:
        """Name the folders; nothing is read yet."""
        self.folder = folder
        self._folders = (folder, *more)

    def path(self, patch_id: int) -> Path | None:
        """The patch's file, None where there is none."""
        for folder in self._folders:
            for parts in directories(patch_id):
                path = os.path.join(folder, *parts, f"{patch_id}.jpeg")
                if os.path.exists(path):
                    return Path(path)
        return None

    def has(self, patch_ids: np.ndarray) -> np.ndarray:
        """Which patches have a file, bool[N]. Asks the file system for each."""
        return np.array([self.path(patch) is not None for patch in patch_ids.tolist()], bool)

    def read(self, patch_id: int, runs: Sequence[Run], out: np.ndarray) -> bool:
        """Decode the centre of a patch's planes into `out[J, size, size]`; False where there is no file.

        Raises:
            GlczooError: the file is no JPEG, is truncated, or is not 128 x 128.
        """
        path = self.path(patch_id)
        if path is not None:
            copy_centre(decode(np.fromfile(path, np.uint8), needs_colour(runs), path), runs, out)
        return path is not None

    def encoded(self, patch_id: int) -> np.ndarray | None:
        """The bytes of a patch's JPEG, uint8[n]; None where there is no file."""
        path = self.path(patch_id)
        return None if path is None else np.fromfile(path, np.uint8)


def needs_colour(runs: Sequence[Run]) -> bool:
    """Whether any plane but the first is read."""
    return any(planes.stop > 1 for planes, _ in runs)


def copy_centre(image: np.ndarray, runs: Sequence[Run], out: np.ndarray) -> None:
    """Copy the centre of some planes of `image[C, 128, 128]` to their channels in `out[J, size, size]`."""
    start, size = (SIDE - out.shape[-1]) // 2, out.shape[-1]
    for planes, channels in runs:
        out[channels] = image[planes, start : start + size, start : start + size]
