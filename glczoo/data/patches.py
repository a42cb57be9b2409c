"""Patches: from places to x[B, C, S, S], normalised, channels last.

Shapes: row[N], col[N] on each grid · values[B, V] of tables, planes of one value · satellite
uint8[B, J, S, S] · x float32[B, C, S, S] · mean[C], std[C].

`PatchBuilder` gathers the raster patches, masks cells without data, normalises and turns, on the device of
the model. Patches share a centre, not a footprint: 128 cells are 1.28 km of satellite and about 128 km of
climate.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glczoo.data.occurrences import Points
from glczoo.data.patch_source import PatchSource
from glczoo.data.rasters import few
from glczoo.data.sample_images import SampleImages, patch_cells
from glczoo.errors import GlczooError

__all__ = ["PatchBuilder", "dihedral"]


_AT_ONCE = 2**21  # values of a batch: the fastest of 2**16 … 2**30, by one thread and by two
_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32}


class PatchBuilder:
    """Builds x[B, C, S, S] for batches of one table of points. May be called from several threads at once.

    One code path: every stack is seen as a list of cells (or of rows of S cells, which overlap), and a patch
    is an `index_select` from it, into integers. That happens where the stack lies: on the device (`resident`,
    only indices and satellite bytes cross the bus) or in the memory map, a few samples at once while they are
    in a core's cache. A turn is another order of the same cells, so it costs nothing.
    """

    def __init__(
        self,
        source: PatchSource,
        points: Points,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        resident: bool | None = None,
        dtype: torch.dtype = torch.float32,
        decode_there: bool = False,
    ) -> None:
        """Place the points on every grid.

        Args:
            source: the opened files.
            points: what the batches' indices count.
            mean: of every band, in the source's order.
            std: of every band.
            device: where x is made.
            resident: keep the stacks on the device and gather there; None: on any device but the CPU.
            dtype: of x; whatever it is, x is computed in float32 and then rounded.
            decode_there: decode the JPEGs on `device` too, many at once; those that it refuses on the CPU.
        """
        if not len(mean) == len(std) == len(source.bands):
            raise GlczooError(
                f"mean and std must have one value for each of {len(source.bands)} bands, they have "
                f"{len(mean)} and {len(std)}"
            )
        self.device, self.dtype = torch.device(device), dtype
        self.size, self.num_bands = source.size, len(source.bands)
        self._jpegs, self._patch_id, self._decode_there = source.jpegs, points.patch_id, decode_there
        resident = self.device.type != "cpu" if resident is None else resident
        self._pinned = self.device.type == "cuda"
        self._in_cache = self.device.type == "cpu" and not resident
        self._scratch = threading.local()  # buffers are reused: new pages cost more than the copy into them
        self._grids = []
        tensors = source.tensors(self.device if resident else torch.device("cpu"))
        for stack, values, (row, col) in zip(source.stacks, tensors, source.locate(points), strict=True):
            if stack.outside(row, col).any():
                raise GlczooError(f"points lie outside the grid of {few(stack.bands)}; leave them out first")
            width, first = values.shape[1], stack.pad - self.size // 2
            corner = torch.from_numpy((row + first).astype(np.int64) * width + (col + first))
            self._grids.append(
                _Grid(
                    values.view(_SIGNED.get(values.dtype, values.dtype)).flatten(0, 1),
                    values.dtype,
                    corner.to(values.device),
                    _turned_cells(self.size, width).to(values.device),
                    stack.sentinel,
                    self._bands(source, stack.bands, mean, std),
                )
            )
        self._values = [
            (table.rows(points), self._bands(source, table.bands, mean, std)) for table in source.tables
        ]
        self._images = [(images, self._bands(source, images.bands, mean, std)) for images in source.images]
        self._cells: dict[tuple[int, ...], Tensor] = {}  # of images of a shape
        self._pixels = _turned_cells(self.size, self.size).to(self.device)
        self._satellite = self._bands(source, source.jpegs.bands if source.jpegs else (), mean, std)
        self._without = np.zeros(len(points), bool)  # JPEG patches, which are filled
        if source.fills and source.jpegs is not None:
            self._without = source.jpegs.missing(points.patch_id)

    def __len__(self) -> int:
        return len(self._patch_id)

    def __call__(
        self,
        index: Tensor,
        turn: Tensor | None = None,
        out: Tensor | None = None,
        satellite: Tensor | None = None,
    ) -> Tensor:
        """Build x[B, C, S, S] of the points `index`, channels last; it is complete when this returns.

        Args:
            index: int64[B] on the CPU.
            turn: int64[B] in 0..7, how each patch is flipped and turned (see `dihedral`).
            out: memory to build it in, as `empty` makes it; new memory if None.
            satellite: uint8[B, J, S, S] where the JPEG patches have been read already.
        """
        x = self.empty(len(index)) if out is None else out[: len(index)]
        # Several samples at once: small operations spend their time in handing over Python's lock, so threads
        # would not scale; a large batch in one would leave the core's caches.
        step = max(1, _AT_ONCE // (self.size**2 * self.num_bands)) if self._in_cache else max(1, len(index))
        for start in range(0, len(index), step):
            part = slice(start, start + step)
            turned = None if turn is None else turn[part]
            for number, grid in enumerate(self._grids):
                cells = self._gather(number, grid, index[part], turned)
                self._normalise(cells, grid.sentinel, grid.bands, x[part])
            for rows, bands in self._values:
                values = torch.from_numpy(rows.at(index[part].numpy())).to(self.device)
                self._fill(values, bands, x[part])
            for images, bands in self._images:
                self._show(images, bands, index[part], turned, x[part])
            if self._jpegs is not None:
                pixels = self._read(index[part]) if satellite is None else satellite[part]
                self._normalise(self._turn(pixels, turned), np.nan, self._satellite, x[part])
                self._blank_missing(index[part], x[part])
        if self._pinned:  # buffers may be filled again, and another stream may read x
            torch.cuda.current_stream(self.device).synchronize()
        return x.permute(0, 3, 1, 2)

    def empty(self, number: int) -> Tensor:
        """Memory for a batch: [number, S, S, C]."""
        return torch.empty(number, self.size, self.size, self.num_bands, dtype=self.dtype, device=self.device)

    def gather(self, index: Tensor, turn: Tensor | None = None) -> list[Tensor]:
        """The integers that x is made of, [B, S, S, C] of each stack, in memory that the next call reuses."""
        return [self._gather(number, grid, index, turn) for number, grid in enumerate(self._grids)]

    def _gather(self, number: int, grid: "_Grid", index: Tensor, turn: Tensor | None) -> Tensor:
        size, width, device = self.size, grid.cells.shape[1], grid.cells.device
        corner = grid.corner[index.to(device, non_blocking=self._pinned)]
        if turn is None:  # whole rows of a patch
            source = grid.cells.as_strided((len(grid.cells) - size + 1, size * width), (width, 1))
            wanted = corner[:, None] + grid.turned[0, ::size]
        else:
            source, wanted = (
                grid.cells,
                corner[:, None] + grid.turned[turn.to(device, non_blocking=self._pinned)],
            )
        out = self._buffer(f"grid {number}", (wanted.numel(), source.shape[1]), source.dtype, device)
        torch.index_select(source, 0, wanted.flatten(), out=out)
        return out.view(grid.dtype).view(-1, size, size, width).to(self.device, non_blocking=self._pinned)

    def read_satellite(self, index: Tensor) -> Tensor:
        """Satellite bytes of points, uint8[B, J, S, S] on the CPU; J is 0 where there are no JPEG bands."""
        return self._read(index).clone()

    def _read(self, index: Tensor) -> Tensor:
        num_bands = len(self._jpegs.bands) if self._jpegs else 0
        shape = (len(index), num_bands, self.size, self.size)
        patches = self._patch_id[index.numpy()].tolist()
        if self._jpegs is not None and self._decode_there:
            together = self._jpegs.read_together(patches, self.size, self.device)
            if together is not None:
                return together
        pixels = self._buffer("satellite", shape, torch.uint8, torch.device("cpu"))
        if self._jpegs is not None:
            without = self._without[index.numpy()]
            for i, patch in enumerate(patches):
                if without[i]:
                    pixels[i] = 0
                else:
                    self._jpegs.read(patch, self.size, pixels[i])
        return pixels

    def _turn(self, pixels: Tensor, turn: Tensor | None) -> Tensor:
        pixels = pixels.to(self.device, non_blocking=self._pinned).permute(0, 2, 3, 1)
        if turn is None:
            return pixels
        cells = torch.arange(len(pixels), device=self.device)[:, None] * self.size**2
        wanted = cells + self._pixels[turn.to(self.device, non_blocking=self._pinned)]
        return pixels.reshape(-1, pixels.shape[3])[wanted.flatten()].view(pixels.shape)

    def _normalise(self, cells: Tensor, sentinel: float, bands: "_Bands", x: Tensor) -> None:
        """Write (cells - mean) / std into the bands' channels of x, and 0 where there is no data."""
        # Rows of S cells: elementwise work on the few bands of a cell would be mostly overhead.
        buffer = self._buffer("float", cells.shape, torch.float32, self.device)
        rows = buffer.view(*cells.shape[:2], -1)
        buffer.copy_(cells)
        if sentinel < 0:  # a threshold is ten times faster than a mask
            torch.threshold_(rows, sentinel, np.nan)
        elif sentinel > 0:
            torch.threshold_(rows.neg_(), -sentinel, np.nan).neg_()
        for position, channel, levels in bands.levels:  # no data is no level
            x[..., channel : channel + len(levels)] = buffer[..., position, None] == levels
        rows.sub_(bands.mean).nan_to_num_(0.0)
        for start, stop, channel in bands.runs:
            channels = x[..., channel : channel + stop - start]
            torch.mul(buffer[..., start:stop], bands.scale[start:stop], out=channels)

    def _fill(self, values: Tensor, bands: "_Bands", x: Tensor) -> None:
        """Write (values[B, V] - mean) / std as planes of one value, and 0 where there is none."""
        planes = values[:, None, None, :]
        for position, channel, levels in bands.levels:
            x[..., channel : channel + len(levels)] = planes[..., position, None] == levels
        normalised = (planes - bands.mean[: values.shape[1]]).nan_to_num_(0.0)
        for start, stop, channel in bands.runs:
            part = normalised[..., start:stop] * bands.scale[start:stop]
            x[..., channel : channel + stop - start] = part

    def _show(
        self, images: SampleImages, bands: "_Bands", index: Tensor, turn: Tensor | None, x: Tensor
    ) -> None:
        """Write images (values - mean) / std, resized or cut to the patch, and 0 where there are no data."""
        stored = torch.from_numpy(images.read(self._patch_id[index.numpy()])).to(self.device)
        number, num_bands, *shape = stored.shape
        if (*shape, images.kind == "cube") not in self._cells:
            found = patch_cells(shape, self.size, images.kind).to(self.device)
            self._cells[(*shape, images.kind == "cube")] = found
        cells = self._cells[(*shape, images.kind == "cube")]
        values = stored.flatten(2).transpose(1, 2).sub(bands.mean[:num_bands]).nan_to_num_(0.0)
        values = values.mul_(bands.scale).reshape(-1, num_bands)
        codes = torch.zeros(number, dtype=torch.int64) if turn is None else turn
        first = torch.arange(number, device=self.device)[:, None] * math.prod(shape)
        wanted = (first + cells[codes.to(self.device)]).flatten()
        patches = values[wanted].view(number, self.size, self.size, num_bands)
        for start, stop, channel in bands.runs:
            x[..., channel : channel + stop - start] = patches[..., start:stop]

    def _blank_missing(self, index: Tensor, x: Tensor) -> None:
        """Zeros, the mean, in the satellite channels of points whose patch is missing."""
        without = self._without[index.numpy()]
        if without.any():
            rows = torch.from_numpy(np.flatnonzero(without)).to(self.device)
            for start, stop, channel in self._satellite.runs:
                x[rows, ..., channel : channel + stop - start] = 0

    def _bands(
        self, source: PatchSource, names: Sequence[str], mean: Sequence[float], std: Sequence[float]
    ) -> "_Bands":
        channels = [source.bands.index(source.channels_of(name)[0]) for name in names]
        each = [[mean[c] for c in channels], [std[c] for c in channels]]
        numbers = torch.tensor(each, dtype=torch.float32, device=self.device)  # whatever the caller's are
        coded = [i for i, name in enumerate(names) if name in source.levels]
        breaks = [
            i
            for i in range(1, len(channels))
            if channels[i] != channels[i - 1] + 1 or i in coded or i - 1 in coded
        ]
        edges = [0, *breaks, len(channels)]
        runs = [
            (a, b, channels[a]) for a, b in zip(edges, edges[1:], strict=False) if b > a and a not in coded
        ]
        levels = [
            (i, channels[i], torch.tensor(source.levels[names[i]], dtype=torch.float32, device=self.device))
            for i in coded
        ]
        return _Bands(numbers[0].repeat(self.size), 1 / numbers[1], runs, levels)

    def _buffer(self, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Memory of the calling thread, pinned where it is copied to a GPU from."""
        held, number = getattr(self._scratch, name, None), math.prod(shape)
        if held is None or held.numel() < number:
            pinned = self._pinned and device.type == "cpu"
            held = torch.empty(number, dtype=dtype, device=device, pin_memory=pinned)
            setattr(self._scratch, name, held)
        return held[:number].view(shape)


@dataclass(frozen=True)
class _Bands:
    """How some of the channels are normalised, and where they go."""

    mean: Tensor  # float32[S C], repeated for a row of cells
    scale: Tensor  # float32[C]
    runs: list[tuple[int, int, int]]  # bands start..stop go to the channels from the third on
    levels: list[tuple[int, int, Tensor]]  # this categorical band goes to the channels from the second on


@dataclass(frozen=True)
class _Grid:
    """A stack as a list of cells, and where the points' patches start in it."""

    cells: Tensor  # [cells of the stack, C], integers as signed ones: GPUs select no others
    dtype: torch.dtype  # what they are
    corner: Tensor  # int64[N]
    turned: Tensor  # int64[8, S S]: steps from the corner to the cells of a patch, in each of its turns
    sentinel: float
    bands: _Bands


def dihedral(seed: int, epoch: int, index: Tensor) -> Tensor:
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


def _turned_cells(size: int, width: int) -> Tensor:
    """Where the cells of a patch lie from its corner, in lines of `width` cells: int64[8, S S]."""
    cells = torch.arange(size)[:, None] * width + torch.arange(size)
    quarters = [torch.rot90(cells, code) for code in range(4)]
    return torch.stack([q.flatten() for q in quarters + [q.flip(1) for q in quarters]])
