"""Patches: from places to x[B, C, S, S], normalised, channels last.

Shapes: row[N], col[N] on each grid · satellite uint8[B, J, S, S] · x float32[B, C, S, S] · mean[C], std[C].

The loader moves indices and satellite bytes only; `PatchBuilder` gathers the raster patches, masks cells
without data, normalises and turns, on the device of the model. Patches share a centre, not a footprint: 128
cells are 1.28 km of satellite and about 128 km of climate.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from glczoo.data.occurrences import Points
from glczoo.data.rasters import RasterStack, open_stacks
from glczoo.data.region import Region
from glczoo.data.satellite import JpegTree

__all__ = ["PatchBuilder", "PatchDataset", "PatchSource", "Statistics", "turns"]


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of every band over the training surveys' patches, and what was filled."""

    mean: list[float]
    std: list[float]
    filled: list[float]  # share of cells without data, by band


class PatchSource:
    """The opened files of some of a region's modalities."""

    def __init__(self, region: Region, modalities: list[str] | None = None, patch_size: int | None = None):
        """Open the rasters (and build their stacks where that was not done) and the JPEG trees.

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
        files = {m.kind: [] for m in chosen}  # type: dict[str, list]
        for m in chosen:
            files[m.kind] += [(band, region.find(f"{m.folder}/{band.file}")) for band in m.bands]
        self.stacks = open_stacks(files.get("raster", []), self.size)
        self.jpegs = JpegTree(files["jpeg"]) if "jpeg" in files else None

    def locate(self, points: Points) -> list[tuple[np.ndarray, np.ndarray]]:
        """(row[N], col[N]) of every point on the grid of every stack."""
        return [stack.locate(points.lon, points.lat) for stack in self.stacks]

    def incomplete(self, points: Points) -> dict[str, np.ndarray]:
        """Points that cannot be read: bool[N] for each grid they lie outside of and for missing JPEGs."""
        lacks = {
            f"outside the grid of {_few(stack.bands)}": stack.outside(*place)
            for stack, place in zip(self.stacks, self.locate(points), strict=True)
        }
        if self.jpegs is not None:
            lacks[f"without a JPEG patch ({_few(self.jpegs.bands)})"] = self.jpegs.missing(points.patch_id)
        return lacks

    def complete(self, points: Points, what: str, drop: bool = False) -> np.ndarray:
        """Which points can be read, bool[N]: all of them unless `drop`.

        Raises:
            ValueError: a point cannot be read and `drop` is false, or no point is left. The message counts
                the reasons and names the first points.
        """
        lacks = {reason: mask for reason, mask in self.incomplete(points).items() if mask.any()}
        readable = ~np.any([*lacks.values(), np.zeros(len(points), bool)], axis=0)
        if lacks and not (drop and readable.any()):
            reasons = [
                f"{mask.sum()} {reason}, the first: {points.named(int(mask.argmax()))}"
                for reason, mask in lacks.items()
            ]
            raise ValueError(
                f"{what}: {(~readable).sum()} of {len(points)} cannot be read: {'; '.join(reasons)}. "
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
            for patch, repeat in tqdm(
                zip(ids.tolist(), repeats.tolist(), strict=True),
                total=len(ids), desc="satellite statistics", leave=False, disable=len(ids) < 2000,
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


class PatchDataset(Dataset):
    """What a loader must fetch for a point: its number and its satellite bytes."""

    def __init__(self, source: PatchSource, points: Points) -> None:
        """Serve the points of one table."""
        self._jpegs, self._size, self._patch_id = source.jpegs, source.size, points.patch_id

    def __len__(self) -> int:
        return len(self._patch_id)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """`index`: int64 scalar; `satellite`: uint8[J, S, S] where the source has JPEG bands."""
        item = {"index": torch.tensor(index)}
        if self._jpegs is not None:
            item["satellite"] = self._jpegs.read(int(self._patch_id[index]), self._size)
        return item


class PatchBuilder:
    """Builds x[B, C, S, S] for batches of one table of points."""

    def __init__(
        self,
        source: PatchSource,
        points: Points,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        resident: bool | None = None,
    ) -> None:
        """Place the points on every grid.

        Args:
            source: the opened files.
            points: what the batches' indices count.
            mean: of every band, in the source's order.
            std: of every band.
            device: where x is made.
            resident: keep the stacks on the device and gather there; None: on any device but the CPU.
        """
        if not len(mean) == len(std) == len(source.bands):
            raise ValueError(
                f"mean and std must have one value for each of {len(source.bands)} bands, they have "
                f"{len(mean)} and {len(std)}"
            )
        self._device = torch.device(device)
        self._size, self._num_bands = source.size, len(source.bands)
        self._resident = self._device.type != "cpu" if resident is None else resident
        self._mean = torch.tensor(mean, dtype=torch.float32, device=self._device)
        self._scale = 1 / torch.tensor(std, dtype=torch.float32, device=self._device)
        self._stacks = []
        for stack, place in zip(source.stacks, source.locate(points), strict=True):
            if stack.outside(*place).any():
                raise ValueError(f"points lie outside the grid of {_few(stack.bands)}; leave them out first")
            channels = torch.tensor([source.bands.index(band) for band in stack.bands], device=self._device)
            values = torch.tensor(stack.values, device=self._device) if self._resident else None
            self._stacks.append((stack, place, channels, values))
        jpeg_bands = source.jpegs.bands if source.jpegs else ()
        self._satellite = torch.tensor(
            [source.bands.index(b) for b in jpeg_bands], device=self._device
        ).long()

    def __call__(self, batch: dict[str, Tensor], turn: Tensor | None = None) -> Tensor:
        """Build x[B, C, S, S] of a batch from `PatchDataset`, optionally flipped and turned (see `turns`)."""
        index = batch["index"].cpu().numpy()
        size = self._size
        x = torch.empty(len(index), size, size, self._num_bands, device=self._device)
        for stack, (row, col), channels, values in self._stacks:
            for part in _chunks(len(index), size * size * len(channels)):
                patch = self._gather(stack, row[index[part]], col[index[part]], values).to(torch.float32)
                missing = patch.isnan() if np.isnan(stack.sentinel) else patch == stack.sentinel
                patch.sub_(self._mean[channels]).mul_(self._scale[channels]).masked_fill_(missing, 0)
                x[part][..., channels] = patch
        if len(self._satellite):
            patch = batch["satellite"].to(self._device, torch.float32).permute(0, 2, 3, 1)
            x[..., self._satellite] = (patch - self._mean[self._satellite]) * self._scale[self._satellite]
        x = x.permute(0, 3, 1, 2)  # channels last in memory
        return x if turn is None else _turned(x, turn.to(self._device))

    def _gather(self, stack: RasterStack, row: np.ndarray, col: np.ndarray, values: Tensor | None) -> Tensor:
        size = self._size
        if values is None:
            out = np.empty((len(row), size, size, len(stack.bands)), stack.values.dtype)
            stack.gather(row, col, size, out)
            return torch.from_numpy(out)
        steps = torch.arange(size, device=self._device) + (stack.pad - size // 2)
        rows = torch.from_numpy(row).to(self._device)[:, None, None] + steps[:, None]
        cols = torch.from_numpy(col).to(self._device)[:, None, None] + steps
        return values[rows.long(), cols.long()]


def turns(seed: int, epoch: int, index: Tensor) -> Tensor:
    """One of the eight flips and quarter turns for each survey, int64[B] in 0..7.

    A function of (seed, epoch, index) alone: the order of batches, the number of processes and a resumed run
    change nothing.
    """
    with np.errstate(over="ignore"):  # splitmix64, word by word: wrapping around is what it does
        mixed = np.zeros(len(index), np.uint64)
        for word in (np.uint64(seed), np.uint64(epoch), index.cpu().numpy().astype(np.uint64)):
            mixed = (mixed ^ word) + np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy((mixed >> np.uint64(61)).astype(np.int64))


def _turned(x: Tensor, turn: Tensor) -> Tensor:
    out = torch.empty_like(x)
    for code in range(8):
        chosen = turn == code
        if chosen.any():
            part = torch.rot90(x[chosen], code % 4, (2, 3))
            out[chosen] = part.flip(3) if code >= 4 else part
    return out


def _chunks(number: int, cells: int) -> list[slice]:
    """Slices of a batch whose float32 patches fit a core's cache: six times faster than the whole at once."""
    step = max(1, 65536 // cells)
    return [slice(start, start + step) for start in range(0, number, step)]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} … {names[-1]}"
