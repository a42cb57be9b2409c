"""Which samples train, which validate, and which only test.

Neighbours resemble each other: the score on a random split is optimistic (Roberts et al. 2017). Blocks and
buffers keep the parts apart, in kilometres on the sphere whatever the CRS of the rasters; `leakage` measures
how far.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from glczoo.data.occurrences import Points, Samples
from glczoo.data.region import Region
from glczoo.data.tables import read_folds

__all__ = [
    "Leakage",
    "Split",
    "block_bounds",
    "block_folds",
    "leakage",
    "nearest_km",
    "outside_buffer",
    "spatial_blocks",
    "split_samples",
]

EARTH_KM = 6371.0088  # mean radius (IUGG)


@dataclass(frozen=True)
class Split:
    """Samples to train on, to tune on (checkpoint, set size), and to test on, which tune nothing."""

    train: Samples
    validation: Samples
    test: Samples


def split_samples(
    region: Region,
    samples: Samples,
    *,
    kind: Literal["random", "file", "blocks"],
    validation: float,
    fraction: float = 1.0,
    seed: int = 0,
    size_km: float = 50.0,
    folds: int = 5,
    fold: int = 0,
    buffer_km: float = 0.0,
) -> Split:
    """Split samples (paper, Table 1: PA 80 / 20, PO 98 / 2).

    Args:
        region: has the table of a split from file.
        samples: what to split.
        kind: `random`, seeded, without test samples (the competition's are elsewhere), or `file`: the folds
            that the region holds out are the test samples and the others are split at random. `blocks`: the
            test samples are one fold of spatial blocks, and whole blocks of the others validate.
        validation: share of the used samples that validate.
        fraction: share of the samples outside the test folds to use. Nested: less is a subset of more (train
            and validation together).
        seed: of the random split, of the deal of blocks, and of `fraction` where the file has no rank.
        size_km: side of a block.
        folds: into how many folds the blocks are dealt.
        fold: the one that is held out.
        buffer_km: samples nearer than this to one that tests or validates do not train (`blocks`).

    Raises:
        ValueError: the region describes no split, a sample is not in the split's table, or there are too few
            blocks.
    """
    number = len(samples)
    order, rank = np.random.default_rng(seed).random((2, number))
    test = np.zeros(number, bool)
    if kind == "file":
        fixed, fixed_rank = read_folds(region, samples)
        assert region.split is not None
        test = np.isin(fixed, region.split.test)
        rank = rank if fixed_rank is None else fixed_rank
    block, apart = np.arange(number), np.ones(number, bool)
    if kind == "blocks":
        test = block_folds(samples, size_km, folds, seed) == fold
        apart = outside_buffer(samples, test, buffer_km)
        block = spatial_blocks(samples, size_km)
        order = order[block]  # a block's samples stay together
    used = np.flatnonzero(~test & apart & (rank < fraction))
    used = used[np.argsort(order[used], kind="stable")]
    cut = round(validation * len(used))
    if kind == "blocks" and cut:
        edges = np.flatnonzero(np.diff(block[used])) + 1  # between two blocks
        if not len(edges):
            raise ValueError(f"one block of {size_km} km cannot train and validate: take smaller blocks")
        cut = edges[np.abs(edges - cut).argmin()]
        near = ~outside_buffer(samples, np.isin(np.arange(number), used[:cut]), buffer_km)
        used = np.concatenate([used[:cut], used[cut:][~near[used[cut:]]]])
    return Split(
        train=samples.subset(np.sort(used[cut:])),
        validation=samples.subset(np.sort(used[:cut])),
        test=samples.subset(test),
    )


def spatial_blocks(points: Points, size_km: float) -> np.ndarray:
    """Number of the block that every point lies in, int64[N], counted from 0 without gaps.

    Rows of blocks are `size_km` high; each row is cut into as many equal blocks as make them about `size_km`
    wide at its middle latitude, so that blocks have about the same area everywhere and none is cut at 180°.

    Raises:
        ValueError: the size is not positive.
    """
    cells, _ = _block_cells(points, size_km)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


def block_bounds(points: Points, size_km: float) -> np.ndarray:
    """West, south, east, north in degrees of every block that holds points, float64[n, 4].

    Row b is the block that `spatial_blocks` numbers b.

    Raises:
        ValueError: the size is not positive.
    """
    cells, columns = _block_cells(points, size_km)
    distinct, first = np.unique(cells, axis=0, return_index=True)
    row, column = distinct.T
    height, width = np.degrees(size_km / EARTH_KM), 360 / columns[first]
    west, south = column * width - 180, row * height - 90
    return np.stack([west, south, west + width, south + height], axis=1)


def _block_cells(points: Points, size_km: float) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the block of every point, float64[N, 2], and how many columns its row has."""
    if not size_km > 0:
        raise ValueError(f"the size of a block is {size_km} km; it must be positive")
    height = np.degrees(size_km / EARTH_KM)
    row = np.floor((points.lat + 90) / height)
    middle = np.radians(np.clip((row + 0.5) * height - 90, -90, 90))
    columns = np.maximum(1, np.round(2 * np.pi * EARTH_KM * np.cos(middle) / size_km))
    column = np.floor((points.lon + 180) / 360 * columns) % columns
    return np.stack([row, column], axis=1), columns


def block_folds(points: Points, size_km: float, folds: int, seed: int = 0) -> np.ndarray:
    """Fold of every point, int64[N] in 0..folds - 1, for cross-validation by blocks.

    Blocks are dealt in random order, each to the fold that holds fewest points: folds differ by no more
    points than the largest block holds.

    Raises:
        ValueError: fewer than two folds, or fewer blocks than folds.
    """
    block = spatial_blocks(points, size_km)
    sizes = np.bincount(block)
    if not 2 <= folds <= len(sizes):
        raise ValueError(
            f"{folds} folds of {len(sizes)} blocks of {size_km} km: there must be at least two folds, and a "
            "block for each; take smaller blocks or fewer folds"
        )
    held, fold_of = np.zeros(folds, np.int64), np.empty(len(sizes), np.int64)
    for number in np.random.default_rng(seed).permutation(len(sizes)):
        fold_of[number] = held.argmin()
        held[fold_of[number]] += sizes[number]
    return fold_of[block]


def outside_buffer(points: Points, held_out: np.ndarray, buffer_km: float) -> np.ndarray:
    """Buffered leave-out: which points may train while `held_out[N]` test, bool[N].

    Those that are not held out and lie at least `buffer_km` from every point that is.
    """
    kept = ~held_out
    kept[kept] = nearest_km(points.at(kept), points.at(held_out)) >= buffer_km
    return kept


@dataclass(frozen=True)
class Leakage:
    """How near two parts of a split come: no point within the buffer means no leakage."""

    nearest_km: float  # smallest distance between the parts; inf where one has no points
    within: int  # test points nearer than the buffer to one that trains
    buffer_km: float


def leakage(train: Points, test: Points, buffer_km: float) -> Leakage:
    """Measure how near the test points lie to those that train."""
    distance = nearest_km(test, train)
    return Leakage(float(distance.min(initial=np.inf)), int((distance < buffer_km).sum()), buffer_km)


def nearest_km(points: Points, others: Points) -> np.ndarray:
    """Great-circle distance from every point to the nearest of the others, float64[N]; inf without others.

    By a k-d tree (Bentley 1975) over unit vectors, which have neither a seam at 180° nor poles, traversed for
    thousands of points at a time; numpy alone, because SciPy would be a dependency for this one search.
    """
    nearest = np.full(len(points), np.inf)
    if len(others):
        tree = _Tree(_unit_vectors(others))
        here = _unit_vectors(points)
        for start in range(0, len(points), 4096):
            nearest[start : start + 4096] = tree.nearest(here[start : start + 4096])
        nearest = 2 * EARTH_KM * np.arcsin(np.minimum(1, nearest / 2))
    return nearest


def _unit_vectors(points: Points) -> np.ndarray:
    lon, lat = np.radians(points.lon), np.radians(points.lat)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


class _Tree:
    """A balanced k-d tree: node i of level l holds the points i·n >> l to (i + 1)·n >> l of `xyz`[n, 3]."""

    def __init__(self, xyz: np.ndarray, leaf: int = 32):
        num = len(xyz)
        depth = max(0, int(np.ceil(np.log2(num / leaf))))
        self.xyz = xyz = xyz.copy()
        for level in range(depth):
            for i in range(1 << level):
                low, mid, high = i * num >> level, (2 * i + 1) * num >> (level + 1), (i + 1) * num >> level
                part = xyz[low:high]
                axis = np.ptp(part, axis=0).argmax()
                xyz[low:high] = part[np.argpartition(part[:, axis], mid - low)]
        self.edges = np.arange((1 << depth) + 1) * num >> depth  # of the leaves
        boxes = [np.stack([f.reduceat(xyz, self.edges[:-1]) for f in (np.minimum, np.maximum)])]
        for _ in range(depth):
            low, high = boxes[0]
            boxes.insert(0, np.stack([np.minimum(low[::2], low[1::2]), np.maximum(high[::2], high[1::2])]))
        self.boxes = boxes  # of each level: lowest and highest corners, [2, nodes, 3]

    def nearest(self, here: np.ndarray) -> np.ndarray:
        """Straight distance of each of here[B, 3] to the nearest point, float64[B]."""
        all_points = np.arange(len(here))
        node = np.zeros(len(here), np.int64)
        for level in range(1, len(self.boxes)):  # down to one near leaf, which bounds the distance
            left, right = (self._to_box(here, level, 2 * node + side) for side in (0, 1))
            node = 2 * node + (right < left)
        best = self._to_leaf(here, node)
        point, node = all_points, np.zeros(len(here), np.int64)
        for level in range(1, len(self.boxes)):  # then to every leaf whose box is nearer than that
            point, node = np.repeat(point, 2), np.stack([2 * node, 2 * node + 1], axis=1).reshape(-1)
            near = self._to_box(here[point], level, node) < best[point]
            point, node = point[near], node[near]
        np.minimum.at(best, point, self._to_leaf(here[point], node))
        return np.sqrt(best)

    def _to_box(self, here: np.ndarray, level: int, node: np.ndarray) -> np.ndarray:
        low, high = self.boxes[level][:, node]
        return (np.maximum(0, np.maximum(low - here, here - high)) ** 2).sum(1)

    def _to_leaf(self, here: np.ndarray, node: np.ndarray) -> np.ndarray:
        widest = np.diff(self.edges).max()
        index = np.minimum(self.edges[node][:, None] + np.arange(widest), self.edges[node + 1][:, None] - 1)
        return ((self.xyz[index] - here[:, None]) ** 2).sum(2).min(1)
