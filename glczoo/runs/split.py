"""Which samples of a region's tables train, validate and test, by a recipe; each table is read once."""

from typing import Literal

import numpy as np

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.data.region import Region
from glczoo.data.splits import Split, split_samples
from glczoo.data.tables import read_samples
from glczoo.recipe import Recipe

__all__ = ["Kind", "Part", "Tables", "counts_by_species", "split_table"]

Kind = Literal["po", "pa"]
"""Records or surveys."""
Part = Literal["train", "validation", "test"]
"""What a sample is used for."""


class Tables:
    """What was read of regions' tables, kept for whoever asks for the same again."""

    def __init__(self) -> None:
        """Nothing is read yet."""
        self._read: dict[tuple[str, str, str, bytes], Samples] = {}

    def read(self, region: Region, kind: Kind, vocabulary: SpeciesIndex) -> Samples:
        """The samples of a table.

        Raises:
            MissingError, GlczooError: see `read_samples`.
        """
        key = (str(region.root_path), region.text(), kind, vocabulary.ids.tobytes())
        if key not in self._read:
            self._read[key] = read_samples(region, kind, vocabulary)
        return self._read[key]


def split_table(
    recipe: Recipe, region: Region, kind: Kind, vocabulary: SpeciesIndex, tables: Tables | None = None
) -> Split:
    """The samples of a table, cut as the recipe says: PO always at random, PA by its split and fraction.

    `tables`: where what was read is kept; None: the table is read.
    """
    data = recipe.data
    return split_samples(
        region,
        (tables or Tables()).read(region, kind, vocabulary),
        kind=data.split if kind == "pa" else "random",
        validation=data.validation[kind],
        fraction=data.pa_fraction if kind == "pa" else 1.0,
        seed=data.seed,
        **data.blocks.model_dump(),
    )


def counts_by_species(split: Split, number: int) -> np.ndarray:
    """How often the training samples name every species, int64[K]. `split`: of a table; `number`: K."""
    return np.bincount(split.train.species, minlength=number)
