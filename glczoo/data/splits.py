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
from glczoo.data.sphere import EARTH_KM, block_bounds, nearest_km, spatial_blocks
from glczoo.data.tables import read_folds
from glczoo.errors import GlczooError

__all__ = [
    "EARTH_KM",
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
        GlczooError: the region describes no split, a sample is not in the split's table, or there are too few
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
            raise GlczooError(f"one block of {size_km} km cannot train and validate: take smaller blocks")
        cut = edges[np.abs(edges - cut).argmin()]
        near = ~outside_buffer(samples, np.isin(np.arange(number), used[:cut]), buffer_km)
        used = np.concatenate([used[:cut], used[cut:][~near[used[cut:]]]])
    return Split(
        train=samples.subset(np.sort(used[cut:])),
        validation=samples.subset(np.sort(used[:cut])),
        test=samples.subset(test),
    )


def block_folds(points: Points, size_km: float, folds: int, seed: int = 0) -> np.ndarray:
    """Fold of every point, int64[N] in 0..folds - 1, for cross-validation by blocks.

    Blocks are dealt in random order, each to the fold that holds fewest points: folds differ by no more
    points than the largest block holds.

    Raises:
        GlczooError: fewer than two folds, or fewer blocks than folds.
    """
    block = spatial_blocks(points, size_km)
    sizes = np.bincount(block)
    if not 2 <= folds <= len(sizes):
        raise GlczooError(
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
