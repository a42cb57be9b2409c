"""The opened files of a region: what they hold at points, which points can be read, means and deviations.

`patches.PatchBuilder` makes patches from it; the two share the order of bands.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glczoo.data.occurrences import Points
from glczoo.data.raster_files import band_file
from glczoo.data.rasters import RasterStack, few, open_stacks
from glczoo.data.region import LARGEST_PATCH, Region
from glczoo.data.satellite import open_patches
from glczoo.errors import GlczooError
from glczoo.progress import Track

__all__ = ["PatchSource", "Shift", "Statistics"]

_MOST_LEVELS = 200
_SOME_CELLS = 10_000
_EXACT = 2**24  # up to which float32 tells whole numbers apart


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of every band over the training samples' patches, and what was filled."""

    mean: list[float]
    std: list[float]
    filled: list[float]  # share of cells without data, by band


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
    ):
        """Open the rasters (and build their stacks where that was not done) and the JPEG patches.

        Args:
            region: says where the files are.
            modalities: which to read, None for all; the order is the region's.
            patch_size: cells along a side, the region's if None.
            channels: of a trained model, which name the levels of categorical bands.
            units: of a trained model's bands: what is stored in another unit is converted where it can be.

        Raises:
            MissingError: a file is not there.
            GlczooError: an unknown modality, a patch too large, or a file that cannot be used.
        """
        self.size = patch_size or region.patch_size
        if not 1 <= self.size <= LARGEST_PATCH:
            raise GlczooError(f"patches of {self.size} cells along a side: 1 to {LARGEST_PATCH} can be built")
        self._chosen = region.select(modalities)
        files = [
            band_file(region, m, band, (units or {}).get(band.name))
            for m in self._chosen if m.kind == "raster" for band in m.bands
        ]  # fmt: skip
        self.stacks = open_stacks(files, self.size)
        self.jpegs = open_patches(region, self._chosen)
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
    def raster_channels(self) -> list[str]:
        """The channels that come from rasters, in order: the columns of `values`."""
        rasters = {band for stack in self.stacks for band in stack.bands}
        bands = [band.name for m in self._chosen for band in m.bands if band.name in rasters]
        return [channel for band in bands for channel in self.channels_of(band)]

    def channels_of(self, band: str) -> list[str]:
        """The channels that a band becomes."""
        if band not in self.levels:
            return [band]
        return [f"{band}={level}" for level in self.levels[band]]

    def fix_levels(self, points: Points) -> None:
        """Take the levels of categorical bands from the patches of these points, the training samples.

        Raises:
            GlczooError: a band holds no whole numbers, or too many different ones to be classes.
        """
        for stack, place in zip(self.stacks, self.locate(points), strict=True):
            for position, band in enumerate(stack.bands):
                if band in self._categorical and band not in self.levels:
                    self.levels[band] = self._levels_in(stack, position, place)

    def _levels_in(
        self, stack: RasterStack, position: int, place: tuple[np.ndarray, np.ndarray]
    ) -> list[int]:
        band, levels = stack.bands[position], np.empty(0)
        for rows, weight in stack.coverage(*place, self.size):
            values = stack.values[rows, :, position]
            levels = np.union1d(levels, values[(weight > 0) & ~stack.missing(values)])
            if len(levels) > _MOST_LEVELS or (np.abs(levels) >= _EXACT).any() or (levels % 1 != 0).any():
                raise GlczooError(
                    f"band {band} is categorical and holds {len(levels)} different values, up to "
                    f"{levels[-1]:g}; classes are whole numbers, {_MOST_LEVELS} at most. Or kind: number"
                )
        return levels.astype(int).tolist()

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
        """Which points have the same patch, int64[N]: points of one number read the same cells and JPEGs."""
        cells = [line for place in self.locate(points) for line in place]
        patches = [points.patch_id] if self.jpegs is not None else []
        place = np.zeros(len(points), np.int64)
        for line in cells + patches:
            values, number = np.unique(line, return_inverse=True)
            place = np.unique(place * len(values) + number, return_inverse=True)[1]
        return place

    def incomplete(self, points: Points) -> dict[str, np.ndarray]:
        """Points that cannot be read: bool[N] for each grid they lie outside of and for missing JPEGs."""
        reasons = {
            f"outside the grid of {few(stack.bands)}": stack.outside(*place)
            for stack, place in zip(self.stacks, self.locate(points), strict=True)
        }
        if self.jpegs is not None:
            missing, nameless = self.jpegs.missing(points.patch_id), points.patch_id < 0
            reasons[f"without a JPEG patch ({few(self.jpegs.bands)})"] = missing & ~nameless
            if nameless.any():
                reasons[f"without a patchID, which names its JPEG patch ({few(self.jpegs.bands)})"] = nameless
        return reasons

    def values(self, points: Points) -> np.ndarray:
        """What the rasters hold at the points, float32[N, R]: their channels in order, NaN without data."""
        columns = {}
        for stack in self.stacks:
            for band, values in zip(stack.bands, stack.values_at(points.lon, points.lat).T, strict=True):
                if band not in self.levels:
                    columns[band] = values
                    continue
                for channel, level in zip(self.channels_of(band), self.levels[band], strict=True):
                    columns[channel] = np.where(np.isnan(values), np.nan, values == level)
        ordered = [columns[channel] for channel in self.raster_channels]
        return np.array(ordered, np.float32).reshape(len(ordered), len(points)).T

    def unanswerable(self, points: Points) -> dict[str, np.ndarray]:
        """Points at which nothing can be said: `incomplete` ones and, bool[N], those without any raster data.

        Where some bands have a value the others are filled, as in training (lakes are holes of soil maps).
        """
        reasons = self.incomplete(points)
        if self.stacks:
            outside = np.any(list(reasons.values())[: len(self.stacks)], axis=0)
            reasons["without data in any raster"] = ~outside & np.isnan(self.values(points)).all(axis=1)
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
        """Share of the cells of these points' patches that have no data and are filled, by raster band."""
        shares: dict[str, float] = {}
        if not len(points):
            return {band: 0.0 for stack in self.stacks for band in stack.bands}
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
        mean: dict[str, float] = {}
        std: dict[str, float] = {}
        filled: dict[str, float] = {}
        for stack, place in zip(self.stacks, self.locate(points), strict=True):
            moments = self._moments(stack, place, len(points) * self.size**2)
            for band, of_band in zip(stack.bands, moments, strict=True):
                for channel in self.channels_of(band):
                    # One-hot channels stay 0 and 1, so that no data is no level.
                    mean[channel], std[channel] = (0.0, 1.0) if band in self.levels else of_band[:2]
                    filled[channel] = of_band[2]
        if self.jpegs is not None:
            total = torch.zeros(2, len(self.jpegs.bands), dtype=torch.float64)
            ids, repeats = np.unique(points.patch_id, return_counts=True)
            for patch, repeat in Track(
                zip(ids.tolist(), repeats.tolist(), strict=True),
                total=len(ids), title="satellite statistics", hidden=len(ids) < 2000,
            ):  # fmt: skip
                pixels = self.jpegs.read(patch, self.size).to(torch.float64)
                total += repeat * torch.stack([pixels.sum((1, 2)), (pixels**2).sum((1, 2))])
            first, second = (total / (len(points) * self.size**2)).tolist()
            for band, m, square in zip(self.jpegs.bands, first, second, strict=True):
                mean[band], std[band], filled[band] = m, max(square - m * m, 0) ** 0.5, 0.0
        empty = [band for band in self.bands if filled[band] == 1]
        if empty:
            raise GlczooError(
                f"no patch of {len(points)} surveys has data in {empty}; are the points at sea?"
            )
        # A constant band carries nothing: dividing by 1 leaves it zero.
        return Statistics(
            [float(mean[b]) for b in self.bands],
            [std[b] or 1.0 for b in self.bands],
            [filled[b] for b in self.bands],
        )

    def _moments(
        self, stack: RasterStack, place: tuple[np.ndarray, np.ndarray], cells: int
    ) -> list[tuple[float, float, float]]:
        """Mean and standard deviation of each band over the cells of patches, and the share without data."""
        bands = range(len(stack.bands))
        number, total, squares = ([0.0] * len(bands) for _ in range(3))
        blocks = stack.coverage(*place, self.size)
        first, is_all = [next(blocks)], next(blocks, None) is None

        def counted(band: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for rows, weight in first if is_all else stack.coverage(*place, self.size):
                values = stack.values[rows, :, band]
                counts = np.where(stack.missing(values), 0, weight)
                yield np.where(counts > 0, values, 0).astype(np.float64), counts

        for band in bands:
            for values, counts in counted(band):
                number[band] += counts.sum()
                total[band] += (counts * values).sum()
        mean = [total[band] / max(number[band], 1) for band in bands]
        for band in bands:
            for values, counts in counted(band):
                squares[band] += (counts * (values - mean[band]) ** 2).sum()
        return [
            (float(mean[b]), float(np.sqrt(squares[b] / max(number[b], 1))), float(1 - number[b] / cells))
            for b in bands
        ]

    def shifted(
        self, points: Points, mean: Sequence[float], std: Sequence[float], limit: float = 5.0
    ) -> list[Shift]:
        """Raster bands whose mean lies far from the one that a model was trained with.

        It does so at the points and over the whole raster: the band is in another unit, or another variable.

        Args:
            points: where the model is to predict, or is to be trained further.
            mean: of every channel of `bands`, as recorded with the model.
            std: of every channel.
            limit: in the recorded standard deviations.
        """
        rasters = {band for stack in self.stacks for band in stack.bands if band not in self.levels}
        values = dict(zip(self.raster_channels, self.values(points).T.astype(np.float64), strict=True))
        shifts = []
        for band, m, s in zip(self.bands, mean, std, strict=True):
            known = values[band][~np.isnan(values[band])] if band in rasters else np.empty(0)
            shift = Shift(band, float(known.mean()), m, s) if len(known) else None
            if shift and abs(shift.deviations) > limit:
                everywhere = Shift(band, self._mean_of_raster(band), m, s)
                shifts += [shift] if abs(everywhere.deviations) > limit else []
        return shifts

    def _mean_of_raster(self, band: str) -> float:
        """The mean of a band over some thousand cells spread over its raster."""
        stack = next(stack for stack in self.stacks if band in stack.bands)
        (height, width), pad = stack.shape, stack.pad
        step = max(1, int((height * width / _SOME_CELLS) ** 0.5))
        cells = stack.values[pad : pad + height : step, pad : pad + width : step, stack.bands.index(band)]
        return float(cells[~stack.missing(cells)].mean(dtype=np.float64))
