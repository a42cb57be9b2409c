"""Files of one sample each: time-series cubes (`.pt`) and small TIFFs, found by a pattern of the sample's id.

Shapes: values[P, a, b] of P planes; a cube's planes are images of its two further axes.

A file may be anybody's: what it claims is compared with what it holds before memory is taken for it. A `.pt`
is read by `torch.load(weights_only=True)`, which makes tensors and executes nothing.
"""

import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from glczoo.data.jpeg import directories
from glczoo.data.raster_files import read_planes
from glczoo.errors import GlczooError

__all__ = ["KEPT_TYPES", "LARGEST_IMAGE", "Image", "ImageKind", "SampleFiles", "read_image"]

ImageKind = Literal["cube", "tiff"]
"""Kinds of files that hold an image of one sample."""
LARGEST_IMAGE = 2**22
"""Values of one file, all planes together: 16 MB."""
_LARGEST_PICKLE = 2**16  # bytes that describe one tensor
KEPT_TYPES = ("uint8", "int16", "uint16", "float32")
"""Types of values that stay; others become float32."""
_PLACES = {"{id}": r"(?P<id>\d+)", "{cd}": r"(?P<cd>\d{1,2})", "{ab}": r"(?P<ab>\d{1,2})"}


@dataclass(frozen=True)
class Image:
    """What a file holds: values[P, a, b] and the value that means no data, if any."""

    values: np.ndarray
    nodata: float | None = None


def read_image(path: Path, kind: ImageKind) -> Image:
    """Read one file.

    Args:
        path: of the file.
        kind: what it is.

    Raises:
        MissingError: there is no such file.
        GlczooError: it is damaged, of another kind, or claims more than `LARGEST_IMAGE` values.
    """
    values, nodata = (_read_cube(path), None) if kind == "cube" else read_planes(path, LARGEST_IMAGE)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or not values.size:
        raise GlczooError(f"{path} holds an array of shape {values.shape}; bands and two axes are needed")
    if values.dtype.name not in KEPT_TYPES:
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
    is_value = nodata is not None and nodata == nodata  # nan is no data of itself
    return Image(np.ascontiguousarray(values), nodata if is_value else None)


def _read_cube(path: Path) -> np.ndarray:
    """The tensor of a `.pt` file, as numpy's array; may be no contiguous one."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise GlczooError(f"{path} is no file of torch.save: {error}") from None
    size = sum(entry.file_size for entry in entries)
    pickled = sum(entry.file_size for entry in entries if entry.filename.endswith(".pkl"))
    if size > 8 * LARGEST_IMAGE or size > 2 * path.stat().st_size + 4096 or pickled > _LARGEST_PICKLE:
        raise GlczooError(f"{path} claims {size:,} bytes, more than a sample's cube has")
    try:
        tensor = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, ValueError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise GlczooError(f"{path} cannot be read as a tensor: {reason}") from None
    if not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided or tensor.is_complex():
        raise GlczooError(f"{path} holds {type(tensor).__name__}, and no tensor of numbers")
    if tensor.numel() > LARGEST_IMAGE:  # strides of 0 make much of little
        raise GlczooError(f"{path} claims a shape of {tuple(tensor.shape)}, more than a sample's cube has")
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


class SampleFiles:
    """Files by patterns: `{id}` is the sample's number, `{cd}` its last two digits, `{ab}` the two before."""

    def __init__(self, kind: ImageKind, patterns: Sequence[tuple[Path, str]]) -> None:
        """Name the folders and, below each, the pattern of the files."""
        self.kind: ImageKind = kind
        self.patterns = list(patterns)

    @property
    def folder(self) -> Path:
        """The first folder, for messages."""
        return self.patterns[0][0]

    def path(self, sample: int) -> Path | None:
        """A sample's file by the first pattern that has one; None where there is none."""
        for folder, pattern in self.patterns:
            for cd, ab in directories(sample):
                filled = pattern.replace("{id}", str(sample)).replace("{cd}", cd).replace("{ab}", ab)
                path = os.path.join(folder, filled)
                if os.path.exists(path):
                    return Path(path)
        return None

    def has(self, samples: np.ndarray) -> np.ndarray:
        """Which samples have a file, bool[N]. Asks the file system for each."""
        return np.array([n >= 0 and self.path(n) is not None for n in samples.tolist()], bool)

    def find(self) -> Iterator[tuple[int, Path]]:
        """Every file with the number of its sample; of a sample's files the first pattern's alone."""
        seen: set[int] = set()
        for folder, pattern in self.patterns:
            parts = re.split(r"(\{id\}|\{cd\}|\{ab\})", pattern)
            expression, named = "", set()
            for part in parts:
                place = _PLACES.get(part, re.escape(part))
                name = part.strip("{}")
                expression += rf"(?P={name})" if part in named else place
                named |= {part} & {*_PLACES}
            for where, _, names in os.walk(folder):
                for name in names:
                    path = os.path.join(where, name)
                    match = re.fullmatch(expression, os.path.relpath(path, folder).replace(os.sep, "/"))
                    if match and (number := int(match["id"])) not in seen and _in_its_place(match, number):
                        seen.add(number)
                        yield number, Path(path)


def _in_its_place(match: re.Match[str], number: int) -> bool:
    """Whether the folders are those of the number's digits."""
    found = match.groupdict()
    return any(
        found.get("cd") in (None, cd) and found.get("ab") in (None, ab) for cd, ab in directories(number)
    )
