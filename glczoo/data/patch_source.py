"""The opened files of a region: what they hold at points, which points can be read, means and deviations.

`patches.PatchBuilder` makes patches from it; the two share the order of bands.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glczoo.data.occurrences import Points
from glczoo.data.rasters import few, open_stacks
from glczoo.data.region import Region
from glczoo.data.satellite import open_patches
from glczoo.progress import Track

__all__ = ["PatchSource", "Statistics"]


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of every band over the training samples' patches, and what was filled."""

    mean: list[float]
    std: list[float]
    filled: list[float]  # share of cells without data, by band


class PatchSource:
    """The opened files of some of a region's modalities."""

    def __init__(self, region: Region, modalities: list[str] | None = None, patch_size: int | None = None):
        """Open the rasters (and build their stacks where that was not done) and the JPEG patches.

        Args:
            region: says where the files are.
            modalities: which to read, None for all; the order is the region's.
            patch_size: cells along a side, the region's if None.

        Raises:
            FileNotFoundError: a file is not there.
            ValueError: an unknown modality or a file that cannot be used.
        """
        self.size = patch_size or region.patch_size
        chosen = region.select(modalities)
        self.modalities = {m.name: len(m.bands) for m in chosen}
        self.bands = [band.name for m in chosen for band in m.bands]
        rasters = [(band, m) for m in chosen if m.kind == "raster" for band in m.bands]
        files = [(band, region.find_file(m, band.file)) for band, m in rasters]
        self.stacks = open_stacks(files, self.size)
        self.jpegs = open_patches(region, chosen)
        self._tensors: dict[torch.device, list[Tensor]] = {}

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
            reasons[f"without a JPEG patch ({few(self.jpegs.bands)})"] = self.jpegs.missing(points.patch_id)
        return reasons

    def values(self, points: Points) -> np.ndarray:
        """What the rasters hold at the points, float32[N, R]: their bands in order, NaN without data."""
        columns = [np.empty((len(points), 0), np.float32)]
        columns += [stack.values_at(points.lon, points.lat) for stack in self.stacks]
        bands = [band for stack in self.stacks for band in stack.bands]
        order = [bands.index(band) for band in self.bands if band in bands]
        return np.concatenate(columns, axis=1)[:, order]

    def unanswerable(self, points: Points) -> dict[str, np.ndarray]:
        """Points at which nothing can be said: `incomplete` ones and, bool[N], those without any raster data.

        Where some bands have a value the others are filled, as in training (lakes are holes of soil maps).
        """
        reasons = self.incomplete(points)
        if self.stacks:
            outside = np.any(list(reasons.values())[: len(self.stacks)], axis=0)
            reasons["without data in any raster"] = ~outside & np.isnan(self.values(points)).all(axis=1)
        return reasons

    def complete(self, points: Points, what: str, drop: bool = False) -> np.ndarray:
        """Which points can be read, bool[N]: all of them unless `drop`.

        Raises:
            ValueError: a point cannot be read and `drop` is false, or no point is left. The message counts
                the reasons and names the first points.
        """
        reasons = {reason: mask for reason, mask in self.incomplete(points).items() if mask.any()}
        readable = ~np.any([*reasons.values(), np.zeros(len(points), bool)], axis=0)
        if reasons and not (drop and readable.any()):
            counts = [
                f"{mask.sum()} {reason}, the first: {points.named(int(mask.argmax()))}"
                for reason, mask in reasons.items()
            ]
            raise ValueError(
                f"{what}: {(~readable).sum()} of {len(points)} cannot be read: {'; '.join(counts)}. "
                "`glczoo region check` lists them all; data.incomplete=drop leaves them out"
            )
        return readable

    def filled(self, points: Points) -> dict[str, float]:
        """Share of the cells of these points' patches that have no data and are filled, by raster band."""
        shares = {}
        for stack, place in zip(self.stacks, self.locate(points), strict=True):
            weight = stack.coverage(*place, self.size)
            for channel, band in enumerate(stack.bands):
                shares[band] = float(weight[stack.missing(stack.values[..., channel])].sum() / weight.sum())
        return shares

    def statistics(self, points: Points) -> Statistics:
        """Exact mean and standard deviation of every band over the patches of these points, in one pass.

        Cells without data are left out (paper, section 4: standard normalisation by the average and standard
        deviation of the training samples).

        Raises:
            ValueError: a band has no data in any of the patches.
        """
        mean, std, filled = ({} for _ in range(3))  # type: dict[str, float], dict[str, float], dict[str, float]
        for stack, place in zip(self.stacks, self.locate(points), strict=True):
            weight = stack.coverage(*place, self.size)
            used = np.flatnonzero(weight.any(axis=1))
            rows = slice(used[0], used[-1] + 1)
            for channel, band in enumerate(stack.bands):
                values = stack.values[rows, :, channel]
                counts = np.where(stack.missing(values), 0, weight[rows])
                values = np.where(counts > 0, values, 0).astype(np.float64)
                mean[band] = (counts * values).sum() / max(counts.sum(), 1)
                std[band] = float(np.sqrt((counts * (values - mean[band]) ** 2).sum() / max(counts.sum(), 1)))
                filled[band] = float(1 - counts.sum() / weight.sum())
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
            raise ValueError(f"no patch of {len(points)} surveys has data in {empty}; are the points at sea?")
        # A constant band carries nothing: dividing by 1 leaves it zero.
        return Statistics(
            [float(mean[b]) for b in self.bands],
            [std[b] or 1.0 for b in self.bands],
            [filled[b] for b in self.bands],
        )
