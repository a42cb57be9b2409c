"""Distances, cells and neighbours on the sphere, in kilometres whatever the CRS of the rasters."""

import numpy as np

from glczoo.data.occurrences import Points
from glczoo.errors import GlczooError

__all__ = ["EARTH_KM", "block_bounds", "block_size", "east_north", "nearest_km", "spatial_blocks", "thinned"]

EARTH_KM = 6371.0088
"""Mean radius (IUGG)."""


def spatial_blocks(points: Points, size_km: float) -> np.ndarray:
    """Number of the block that every point lies in, int64[N], counted from 0 without gaps.

    Rows of blocks are `size_km` high; each row is cut into as many equal blocks as make them about `size_km`
    wide at its middle latitude, so that blocks have about the same area everywhere and none is cut at 180°.

    Raises:
        GlczooError: the size is not positive.
    """
    cells, _ = _block_cells(points, size_km)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)


def block_size(points: Points, number: int) -> float:
    """Side of blocks in km, of which about `number` hold points; fewer where points share their places."""
    low, high = 1e-3, 2 * EARTH_KM
    for _ in range(40):
        middle = float(np.sqrt(low * high))
        if spatial_blocks(points, middle).max(initial=0) + 1 > number:
            low = middle
        else:
            high = middle
    return high


def block_bounds(points: Points, size_km: float) -> np.ndarray:
    """West, south, east, north in degrees of every block that holds points, float64[n, 4].

    Row b is the block that `spatial_blocks` numbers b.

    Raises:
        GlczooError: the size is not positive.
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
        raise GlczooError(f"the size of a block is {size_km} km; it must be positive")
    height = np.degrees(size_km / EARTH_KM)
    row = np.floor((points.lat + 90) / height)
    middle = np.radians(np.clip((row + 0.5) * height - 90, -90, 90))
    columns = np.maximum(1, np.round(2 * np.pi * EARTH_KM * np.cos(middle) / size_km))
    column = np.floor((points.lon + 180) / 360 * columns) % columns
    return np.stack([row, column], axis=1), columns


def thinned(points: Points, group: np.ndarray, apart_km: float) -> np.ndarray:
    """Which points stay so that no two of a group[N] are nearer than `apart_km`, bool[N]: the first ones.

    As spThin does for one species (Aiello-Lammens et al. 2015, doi:10.1111/ecog.01132), in the order of rows
    instead of the best of many random ones. Distances are chords, of points in a grid of cubes.
    """
    xyz = _unit_vectors(points) * EARTH_KM
    chord = 2 * EARTH_KM * np.sin(min(apart_km / EARTH_KM, np.pi) / 2)
    cube = np.floor(xyz / chord).astype(np.int64)
    kept = np.zeros(len(points), bool)
    taken: dict[tuple[int, ...], list[int]] = {}
    steps = [(i, j, k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]
    for number, (of, (a, b, c)) in enumerate(zip(group.tolist(), cube.tolist(), strict=True)):
        near = [m for i, j, k in steps for m in taken.get((of, a + i, b + j, c + k), ())]
        if not near or (((xyz[near] - xyz[number]) ** 2).sum(1) >= chord**2).all():
            kept[number] = True
            taken.setdefault((of, a, b, c), []).append(number)
    return kept


def east_north(points: Points, middle: tuple[float, float]) -> np.ndarray:
    """Kilometres east and north of middle (lon, lat), on a plane that is true near it: float64[N, 2]."""
    lon, lat = middle
    km = np.radians(EARTH_KM)
    return np.stack([(points.lon - lon) * km * np.cos(np.radians(lat)), (points.lat - lat) * km], axis=1)


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
