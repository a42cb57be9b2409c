"""The opened files of a region: what they hold at points, which points can be read, means and deviations.

`patches.PatchBuilder` makes patches from it; the two share the order of bands.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glczoo.data.band_statistics import (
    Statistics,
    checked_levels,
    jpeg_moments,
    raster_levels,
    raster_moments,
)
from glczoo.data.levels import level_names
from glczoo.data.occurrences import Points
from glczoo.data.raster_files import band_file
from glczoo.data.rasters import few, open_stacks
from glczoo.data.region import LARGEST_PATCH, Region
from glczoo.data.sample_images import open_images
from glczoo.data.satellite import open_patches
from glczoo.data.values import open_values
from glczoo.errors import GlczooError

__all__ = ["PatchSource", "Shift", "Statistics"]

_SOME_CELLS = 10_000


@dataclass(frozen=True)
class Shift:
    """A band whose mean lies far from the one that a model was trained with."""

    band: str
    mean: float  # here
    trained_mean: float
    trained_std: float

    @property
    def deviations(self) -> float:
        """How many of the trained standard deviations the mean lies off."""
        return (self.mean - self.trained_mean) / self.trained_std

    def __str__(self) -> str:
        trained = f"{self.trained_mean:.4g} ± {self.trained_std:.4g} in training"
        return f"{self.band}: mean {self.mean:.4g} here, {trained}"


class PatchSource:
    """The opened files of some of a region's modalities.

    `bands` names the channels of a patch. A categorical band is one channel of codes until its levels are
    known (`fix_levels`, or `channels` of a trained model); then it is a channel for each level, `BAND=LEVEL`,
    that is 1 where the level is and 0 elsewhere, where there is no data, and where no training sample had it.
    """

    def __init__(
        self,
        region: Region,
        modalities: list[str] | None = None,
        patch_size: int | None = None,
        *,
        channels: Sequence[str] = (),
        units: Mapping[str, str] | None = None,
        fill: bool = False,
    ):
        """Open rasters (building stacks where that was not done), pictures of samples, tables of values.

        Args:
            region: says where the files are.
            modalities: which to read, None for all; the order is the region's.
            patch_size: cells along a side, the region's if None.
            channels: of a trained model, which name the levels of categorical bands.
            units: of a trained model's bands: what is stored in another unit is converted where it can be.
            fill: a sample whose pictures have no file is filled as cells without data are, and no reason to
                stop: see `gaps`.

        Raises:
            MissingError: a file is not there.
            GlczooError: an unknown modality, a patch too large, or a file that cannot be used.
        """
        self.size = patch_size or region.patch_size
        if not 1 <= self.size <= LARGEST_PATCH:
            raise GlczooError(f"patches of {self.size} cells along a side: 1 to {LARGEST_PATCH} can be built")
        self._region, self._chosen = region, region.select(modalities)
        files = [
            band_file(region, m, band, (units or {}).get(band.name))
            for m in self._chosen if m.kind == "raster" for band in m.bands
        ]  # fmt: skip
        self.stacks = open_stacks(files, self.size)
        self.jpegs = open_patches(region, self._chosen)
        self.tables = open_values(region, self._chosen, units)
        self.images = open_images(region, self._chosen, units)
        self.fills = fill
        self.units = dict(units or {})
        self.levels: dict[str, list[int]] = {}  # of categorical bands, where they are known
        self._categorical = [
            band.name for m in self._chosen for band in m.bands if band.kind == "categorical"
        ]
        for channel in channels:
            band, equals, level = channel.rpartition("=")
            if equals and band in self._categorical and re.fullmatch(r"-?\d+", level):
                self.levels.setdefault(band, []).append(int(level))
        self._tensors: dict[torch.device, list[Tensor]] = {}

    @property
    def bands(self) -> list[str]:
        """The channels of a patch, in order."""
        return [channel for m in self._chosen for band in m.bands for channel in self.channels_of(band.name)]

    @property
    def modalities(self) -> dict[str, int]:
        """How many channels each modality has."""
        return {m.name: sum(len(self.channels_of(band.name)) for band in m.bands) for m in self._chosen}

    @property
    def value_channels(self) -> list[str]:
        """The channels that have one value at a point, of rasters and tables: the columns of `values`."""
        return [channel for channel in self.bands if channel not in self.pictures]

    @property
    def pictures(self) -> tuple[str, ...]:
        """The channels that are pictures of a sample, and have no value at a point: JPEGs, cubes, TIFFs."""
        images = [band for images in self.images for band in images.bands]
        return (*(self.jpegs.bands if self.jpegs is not None else ()), *images)

    @property
    def keyed(self) -> dict[str, str]:
        """Modalities that only samples with a key have, and what a point must bring for each."""
        by_patch = {
            m.name: f"a patchID that {few([band.file for band in m.bands])} has"
            for m in self._chosen if m.kind == "jpeg"
        }  # fmt: skip
        by_patch |= {images.modality: images.needed for images in self.images}
        return by_patch | {table.modality: table.needed for table in self.tables}

    def channels_of(self, band: str) -> list[str]:
        """The channels that a band becomes."""
        if band not in self.levels:
            return [band]
        return [f"{band}={level}" for level in self.levels[band]]

    def level_names(self) -> dict[str, dict[int, str]]:
        """Names of the levels of categorical bands, band → level → name, as far as they are known."""
        return level_names(self._region, self.levels, self._chosen)

    def fix_levels(self, points: Points, extend: bool = False) -> None:
        """Take the levels of categorical bands from the patches of these points, the training samples.

        Args:
            points: training samples.
            extend: levels that a trained model does not know come after those that it knows.

        Raises:
            GlczooError: a band holds no whole numbers, or too many different ones to be classes.
        """
        for stack, place in zip(self.stacks, self.locate(points), strict=True):
            for position, band in enumerate(stack.bands):
                if band in self._categorical and (extend or band not in self.levels):
                    self._add_levels(band, raster_levels(stack, position, place, self.size))
        for table in self.tables:
            for band, values in zip(table.bands, table.at(points).T, strict=True):
                if band in self._categorical and (extend or band not in self.levels):
                    found = checked_levels(band, np.unique(values[~np.isnan(values)]))
                    self._add_levels(band, found.astype(int).tolist())

    def _add_levels(self, band: str, levels: list[int]) -> None:
        known = self.levels.get(band, [])
        self.levels[band] = known + [level for level in levels if level not in known]

    def tensors(self, device: torch.device) -> list[Tensor]:
        """The stacks' values on a device, copied there once; on the CPU they are the memory maps."""
        if device not in self._tensors:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes
                mapped = [torch.from_numpy(stack.values) for stack in self.stacks]
            self._tensors[device] = [values.to(device) for values in mapped]
        return self._tensors[device]

    def locate(self, points: Points) -> list[tuple[np.ndarray, np.ndarray]]:
        """(row[N], col[N]) of every point on the grid of every stack."""
        return [stack.locate(points.lon, points.lat) for stack in self.stacks]

    def places(self, points: Points) -> np.ndarray:
        """Which points have the same patch, int64[N]: those of one number read the same cells and files."""
        cells = [line for place in self.locate(points) for line in place]
        patches = [points.patch_id] if self.jpegs is not None or self.images else []
        rows = [table.places(points) for table in self.tables]
        place = np.zeros(len(points), np.int64)
        for line in cells + patches + rows:
            values, number = np.unique(line, return_inverse=True)
            place = np.unique(place * len(values) + number, return_inverse=True)[1]
        return place

    def incomplete(self, points: Points) -> dict[str, np.ndarray]:
        """Points that cannot be read: bool[N] for each grid they lie outside of and for missing JPEGs."""
        reasons = {
            f"outside the grid of {few(stack.bands)}": stack.outside(*place)
            for stack, place in zip(self.stacks, self.locate(points), strict=True)
        }
        return reasons if self.fills else reasons | self.without_file(points)

    def without_file(self, points: Points) -> dict[str, np.ndarray]:
        """Points whose pictures have no file, bool[N] for each kind of them."""
        reasons = {images.without_file: images.missing(points.patch_id) for images in self.images}
        if self.jpegs is not None:
            missing, nameless = self.jpegs.missing(points.patch_id), points.patch_id < 0
            reasons[f"without a JPEG patch ({few(self.jpegs.bands)})"] = missing & ~nameless
            if nameless.any():
                reasons[f"without a patchID, which names its JPEG patch ({few(self.jpegs.bands)})"] = nameless
        return reasons

    def gaps(self, points: Points) -> dict[str, np.ndarray]:
        """Points that are filled, as cells without data are, bool[N] each.

        Those that a table of values says nothing of and, where `fills`, those whose pictures have no file.
        """
        gaps = {table.without_row: table.gaps(points) for table in self.tables}
        return gaps | self.without_file(points) if self.fills else gaps

    def values(self, points: Points) -> np.ndarray:
        """What rasters and tables hold at the points, float32[N, R]: their channels, NaN without data."""
        bands: dict[str, np.ndarray] = {}
        for stack in self.stacks:
            bands |= dict(zip(stack.bands, stack.values_at(points.lon, points.lat).T, strict=True))
        for table in self.tables:
            bands |= dict(zip(table.bands, table.at(points).T, strict=True))
        columns = {}
        for band, values in bands.items():
            if band not in self.levels:
                columns[band] = values
                continue
            for channel, level in zip(self.channels_of(band), self.levels[band], strict=True):
                columns[channel] = np.where(np.isnan(values), np.nan, values == level)
        ordered = [columns[channel] for channel in self.value_channels]
        return np.array(ordered, np.float32).reshape(len(ordered), len(points)).T

    def unanswerable(self, points: Points) -> dict[str, np.ndarray]:
        """Points at which nothing can be said: bool[N] for each reason.

        `incomplete` ones, those without any raster data, and those of which no table of values says anything.
        Where some bands have a value the others are filled, as in training (lakes are holes of soil maps).
        """
        reasons = self.incomplete(points)
        if self.stacks:
            outside = np.any(list(reasons.values())[: len(self.stacks)], axis=0)
            here = np.array([np.isnan(s.values_at(points.lon, points.lat)).all(axis=1) for s in self.stacks])
            reasons["without data in any raster"] = ~outside & here.all(axis=0)
        if gaps := self.gaps(points):
            needed = " or ".join(self.keyed.values())
            reasons[f"without values: they need {needed}"] = np.all([*gaps.values()], axis=0)
        if (unplaced := points.unplaced).any():
            reasons = {reason: mask & ~unplaced for reason, mask in reasons.items()}
            reasons = points.unplaced_reasons() | reasons
        return reasons

    def complete(self, points: Points, what: str, drop: bool = False) -> np.ndarray:
        """Which points can be read, bool[N]: all of them unless `drop`.

        `what` names the points in a message.

        Raises:
            GlczooError: a point cannot be read and `drop` is false, or no point is left. The message counts
                the reasons and names the first points.
        """
        reasons = {reason: mask for reason, mask in self.incomplete(points).items() if mask.any()}
        readable = ~np.any([*reasons.values(), np.zeros(len(points), bool)], axis=0)
        if reasons and not (drop and readable.any()):
            counts = [
                f"{mask.sum()} {reason}, the first: {points.named(int(mask.argmax()))}"
                for reason, mask in reasons.items()
            ]
            raise GlczooError(
                f"{what}: {(~readable).sum()} of {len(points)} cannot be read: {'; '.join(counts)}. "
                "`glczoo region check` lists them all; data.incomplete=drop leaves them out"
            )
        return readable

    def filled(self, points: Points) -> dict[str, float]:
        """Share of the cells of these points' patches that have no data and are filled, by band."""
        shares: dict[str, float] = {}
        for table in self.tables:
            shares |= dict(zip(table.bands, table.moments(points)[2].tolist(), strict=True))
        if not len(points):
            return shares | {band: 0.0 for stack in self.stacks for band in stack.bands}
        for stack, place in zip(self.stacks, self.locate(points), strict=True):
            missing = np.zeros(len(stack.bands), np.int64)
            for rows, weight in stack.coverage(*place, self.size):
                for channel in range(len(stack.bands)):
                    missing[channel] += weight[stack.missing(stack.values[rows, :, channel])].sum()
            shares |= dict(zip(stack.bands, (missing / (len(points) * self.size**2)).tolist(), strict=True))
        return shares

    def statistics(self, points: Points) -> Statistics:
        """Exact mean and standard deviation of every band over the patches of these points, in one pass.

        Cells without data are left out (paper, section 4: standard normalisation by the average and standard
        deviation of the training samples).

        Raises:
            GlczooError: a band has no data in any of the patches.
        """
        moments: dict[str, tuple[float, float, float]] = {}
        for stack, place in zip(self.stacks, self.locate(points), strict=True):
            moments |= dict(zip(stack.bands, raster_moments(stack, place, self.size), strict=True))
        for table in self.tables:
            columns = (column.tolist() for column in table.moments(points))
            moments |= dict(zip(table.bands, zip(*columns, strict=True), strict=True))
        for images in self.images:
            of_images = images.moments(points.patch_id, self.size)
            moments |= dict(zip(images.bands, of_images, strict=True))
        if self.jpegs is not None:
            of_patches = jpeg_moments(self.jpegs, points.patch_id, self.size, self.fills)
            moments |= dict(zip(self.jpegs.bands, of_patches, strict=True))
        mean: dict[str, float] = {}
        std: dict[str, float] = {}
        filled: dict[str, float] = {}
        for band, of_band in moments.items():
            for channel in self.channels_of(band):
                # One-hot channels stay 0 and 1, so that no data is no level.
                mean[channel], std[channel] = (0.0, 1.0) if band in self.levels else of_band[:2]
                filled[channel] = of_band[2]
        empty = [band for band in self.bands if filled[band] == 1]
        if empty:
            hint = "do their tables and files name these samples?" if self.keyed else "are the points at sea?"
            raise GlczooError(f"no patch of {len(points)} surveys has data in {empty}; {hint}")
        # A constant band carries nothing: dividing by 1 leaves it zero.
        return Statistics(
            [float(mean[b]) for b in self.bands],
            [std[b] or 1.0 for b in self.bands],
            [filled[b] for b in self.bands],
        )

    def shifted(
        self, points: Points, mean: Sequence[float], std: Sequence[float], limit: float = 5.0
    ) -> list[Shift]:
        """Bands whose mean lies far from the one that a model was trained with.

        It does so at the points and over the whole raster or table: the band is in another unit, or another
        variable.

        Args:
            points: where the model is to predict, or is to be trained further.
            mean: of every channel of `bands`, as recorded with the model.
            std: of every channel.
            limit: in the recorded standard deviations.
        """
        wide = {band for stack in self.stacks for band in stack.bands}
        wide |= {band for table in self.tables if table.files for band in table.bands}
        wide -= {*self.levels}
        values = dict(zip(self.value_channels, self.values(points).T.astype(np.float64), strict=True))
        shifts = []
        for band, m, s in zip(self.bands, mean, std, strict=True):
            known = values[band][~np.isnan(values[band])] if band in wide else np.empty(0)
            shift = Shift(band, float(known.mean()), m, s) if len(known) else None
            if shift and abs(shift.deviations) > limit:
                everywhere = Shift(band, self._mean_everywhere(band), m, s)
                shifts += [shift] if abs(everywhere.deviations) > limit else []
        return shifts

    def _mean_everywhere(self, band: str) -> float:
        """The mean of a band over some thousand cells or rows spread over its raster or table."""
        for table in self.tables:
            if band in table.bands:
                rows = table.everywhere()
                some = rows.at(slice(None, None, max(1, len(rows) // _SOME_CELLS)))
                return float(np.nanmean(some[:, table.bands.index(band)], dtype=np.float64))
        stack = next(stack for stack in self.stacks if band in stack.bands)
        (height, width), pad = stack.shape, stack.pad
        step = max(1, int((height * width / _SOME_CELLS) ** 0.5))
        cells = stack.values[pad : pad + height : step, pad : pad + width : step, stack.bands.index(band)]
        return float(cells[~stack.missing(cells)].mean(dtype=np.float64))
