"""Bands of `kind: cube` and `kind: tiff`: an image for each sample, by its number.

Shapes: values[B, J, a, b] of J bands at B samples, NaN without data and where a file is missing; a patch of
S x S cells is made of it by `patch_cells`.

The one door to them, whether they lie as files or in the shards that `glczoo pack` made of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from glczoo.data.image_shards import ImageShards
from glczoo.data.rasters import few
from glczoo.data.region import Modality, Region
from glczoo.data.sample_files import ImageKind, SampleFiles, read_image
from glczoo.data.shards import is_packed
from glczoo.data.units import Line, between
from glczoo.errors import GlczooError, MissingError

__all__ = ["SampleImages", "image_folder", "image_kind", "open_images", "patch_cells", "sample_files"]

_AT_ONCE = 256  # samples: bounds the memory


class SampleImages:
    """The bands of one modality of images."""

    def __init__(
        self,
        modality: Modality,
        files: SampleFiles | ImageShards,
        key: str,
        units: Mapping[str, str] | None = None,
    ) -> None:
        """Name the bands, and where the images of each sample lie.

        Args:
            modality: of kind cube or tiff.
            files: of the samples.
            key: the column of the samples' tables that names them, for messages.
            units: that bands are wanted in, where they convert.
        """
        self.modality, self.files, self._key = modality.name, files, key
        self.kind = image_kind(modality)
        self.bands = tuple(band.name for band in modality.bands)
        self._planes = [band.index - 1 for band in modality.bands]
        self._nodata = [band.nodata for band in modality.bands]
        self._lines = np.ones((2, len(self.bands), 1, 1), np.float32)
        for channel, band in enumerate(modality.bands):
            line = Line(1.0 if band.scale is None else band.scale, band.offset or 0.0)
            unit = (units or {}).get(band.name)
            converted = between(band.unit, unit, band.name) if unit is not None else None
            line = line if converted is None else converted.after(line)
            self._lines[:, channel, 0, 0] = line.factor, line.offset
        self._plain = bool((self._lines[0] == 1).all() and (self._lines[1] == 0).all())
        self._shape: tuple[int, ...] | None = files.shape if isinstance(files, ImageShards) else None
        if self._shape is not None:
            self._check_planes(self._shape, files.folder)

    @property
    def without_file(self) -> str:
        """What is said of samples without a file."""
        return f"without a {self.kind} of {self.modality} ({few(self.bands)})"

    @property
    def needed(self) -> str:
        """What a point must bring, for a message."""
        return f"a {self._key} that has a {self.kind} of {self.modality}"

    def missing(self, samples: np.ndarray) -> np.ndarray:
        """Which samples have no file, bool[N]."""
        distinct, inverse = np.unique(samples, return_inverse=True)
        return ~self.files.has(distinct)[inverse]

    def read(self, samples: np.ndarray) -> np.ndarray:
        """values[B, J, a, b] of samples, float32.

        Raises:
            GlczooError: a file is damaged, has another shape than the others, or fewer bands.
        """
        if isinstance(self.files, ImageShards):
            stored, known = self.files.read(samples)
            values = stored[:, self._planes].astype(np.float32)
            self._blank(values, self.files.nodata)
            values[~known] = np.nan
            return self._converted(values)
        paths = [self.files.path(number) if number >= 0 else None for number in samples.tolist()]
        images = {i: self._read_file(path) for i, path in enumerate(paths) if path is not None}
        shape = (self._shape or (0, 1, 1))[1:]
        values = np.full((len(paths), len(self.bands), *shape), np.nan, np.float32)
        for i, image in images.items():
            values[i] = image
        return self._converted(values)

    def read_one(self, sample: int) -> np.ndarray:
        """values[J, a, b] of one sample; see `read`."""
        image: np.ndarray = self.read(np.array([sample]))[0]
        return image

    def _read_file(self, path: Path) -> np.ndarray:
        """values[J, a, b] of one file."""
        image = read_image(path, self.kind)
        if self._shape is None:
            self._check_planes(image.values.shape, path)
            self._shape = image.values.shape
        if image.values.shape != self._shape:
            raise GlczooError(f"{path} has the shape {image.values.shape}, others have {self._shape}")
        values = image.values[self._planes].astype(np.float32)
        self._blank(values[None], image.nodata)
        return values

    def _check_planes(self, shape: tuple[int, ...], where: Path) -> None:
        if max(self._planes) >= shape[0]:
            raise GlczooError(
                f"{where} has {shape[0]} bands, modality {self.modality} asks for {max(self._planes) + 1}"
            )

    def _blank(self, values: np.ndarray, nodata: float | None) -> None:
        """Make NaN of what means no data in values[B, J, a, b]."""
        if nodata is not None:
            values[values == np.float32(nodata)] = np.nan
        for channel, own in enumerate(self._nodata):
            if own is not None:
                values[:, channel][values[:, channel] == np.float32(own)] = np.nan

    def _converted(self, values: np.ndarray) -> np.ndarray:
        values[np.isinf(values)] = np.nan
        return values if self._plain else values * self._lines[0] + self._lines[1]

    def moments(self, samples: np.ndarray, size: int) -> list[tuple[float, float, float]]:
        """Mean and standard deviation of each band over patches of `size`, and the share without data."""
        number, total, squares = np.zeros((3, len(self.bands)))
        for values, counts in self._counted(samples, size):
            number += counts.sum((0, 2))
            total += (counts * values).sum((0, 2))
        mean = total / np.maximum(number, 1)
        for values, counts in self._counted(samples, size):
            squares += (counts * (values - mean[:, None]) ** 2).sum((0, 2))
        std = np.sqrt(squares / np.maximum(number, 1))
        share = 1 - number / max(len(samples) * size**2, 1)
        return list(zip(mean.tolist(), std.tolist(), share.tolist(), strict=True))

    def _counted(self, samples: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """values[B, J, cells] and how often patches hold each; 0 where there are no data."""
        distinct, repeats = np.unique(samples, return_counts=True)
        for start in range(0, len(distinct), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            values = self.read(distinct[part])
            held = np.bincount(
                patch_cells(values.shape[2:], size, self.kind)[0].numpy(),
                minlength=values.shape[2] * values.shape[3],
            )
            values = values.reshape(*values.shape[:2], -1).astype(np.float64)
            counts = np.where(np.isnan(values), 0, held * repeats[part, None, None])
            yield np.nan_to_num(values), counts


def patch_cells(shape: Sequence[int], size: int, kind: ImageKind) -> Tensor:
    """Cells of an image[a, b] that a patch of `size` is made of, in each of its eight turns: int64[8, S S].

    A cube is resized to the patch, and its axes are no ground: it is not turned. A TIFF larger than the patch
    is cut around its centre, a smaller one is resized. Resizing takes the nearest cell.

    `shape`: a and b.
    """
    lines = []
    for cells in shape:
        if kind == "tiff" and cells >= size:
            lines.append(torch.arange(size) + (cells - size) // 2)
        else:
            lines.append(((torch.arange(size) + 0.5) * cells / size).long())
    patch = lines[0][:, None] * shape[1] + lines[1]
    if kind == "cube":
        return patch.flatten().repeat(8, 1)
    quarters = [torch.rot90(patch, code) for code in range(4)]
    return torch.stack([q.flatten() for q in quarters + [q.flip(1) for q in quarters]])


def image_kind(modality: Modality) -> ImageKind:
    """The kind of a modality that is one of images."""
    return "cube" if modality.kind == "cube" else "tiff"


def image_folder(region: Region, modality: Modality, packed: Path | None = None) -> Path:
    """The shards of a modality of images, under the region's folder of packs or another.

    `packed`: that other folder.
    """
    return (packed or region.root_path / (region.packed or "packed")) / modality.name / "samples"


def sample_files(region: Region, modality: Modality) -> SampleFiles:
    """The files of a modality of images, by those of its patterns whose folders are there.

    Raises:
        MissingError: no folder is there.
    """
    patterns, missing = [], None
    for pattern in modality.file:
        parts = PurePosixPath(pattern).parts
        fixed = next(i for i, part in enumerate(parts) if "{" in part)
        try:
            folder = region.find_file(modality, str(PurePosixPath(*parts[:fixed])))
        except MissingError as error:
            missing = error
            continue
        patterns.append((folder, "/".join(parts[fixed:])))
    if not patterns:
        raise MissingError(f"{missing}: the {modality.kind}s of modality {modality.name} lie there")
    return SampleFiles(image_kind(modality), patterns)


def open_images(
    region: Region, modalities: Sequence[Modality], units: Mapping[str, str] | None = None
) -> list[SampleImages]:
    """Open the images of some modalities: shards where there are any, else files.

    Args:
        region: says where they are.
        modalities: of any kind.
        units: that bands are wanted in, where they convert.

    Raises:
        MissingError: there are neither files nor a whole pack, or no pack where region.yaml names one.
        GlczooError: a pack is damaged, or has fewer bands.
    """
    opened = []
    for modality in modalities:
        if modality.kind not in ("cube", "tiff"):
            continue
        folder = image_folder(region, modality)
        files: SampleFiles | ImageShards
        if is_packed(folder):
            files = ImageShards(folder)
        elif region.packed is not None:
            raise MissingError(
                f"region {region.name}: region.yaml says packed: {region.packed}, and {folder} is no whole "
                "pack; `glczoo pack REGION` makes it"
            )
        else:
            files = sample_files(region, modality)
        key = next((table.patch for table in region.tables.values()), "patchID")
        opened.append(SampleImages(modality, files, key, units))
    return opened
