"""A region: a folder of data and the `region.yaml` that describes it.

Words (one meaning each, everywhere in the package): a *band* is one covariate; a *modality* is an ordered
list of bands of one ground resolution; a *region* is the ordered list of modalities, the tables of
occurrences and the place where the files lie. The order of the bands is data: it fixes the channels of every
patch `x[B, C, H, W]` and is written into every model.

A `region.yaml` is explained key by key by the fields below and in `region_sections.py`;
`recipes/regions/glc23.yaml` is the worked example.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, PrivateAttr, field_validator, model_validator

from glczoo.data.region_paths import find_ignoring_case, inside, leads_out
from glczoo.data.region_sections import (
    LARGEST_PATCH,
    Band,
    Modality,
    Name,
    RecordFilters,
    SpeciesTable,
    SplitFile,
    Table,
    band_of_column,
    plain_name,
)
from glczoo.data.schema import Strict, parse, read_yaml
from glczoo.errors import GlczooError, MissingError
from glczoo.packaged import locate

__all__ = [
    "LARGEST_PATCH",
    "Band",
    "Modality",
    "RecordFilters",
    "Region",
    "SplitFile",
    "Table",
    "plain_name",
]


class Region(Strict):
    """Everything that is known about a region's data before it is read."""

    name: Name
    description: str = Field(default="", description="what the region is, for people")
    licence: str = Field(default="", description="terms of the data, repeated on model cards")
    root: str | None = Field(
        default=None,
        description="folder of the data, relative to this file; null: GLCZOO_DATA, else this file's folder",
    )
    bounds: tuple[float, float, float, float] | None = Field(
        default=None, description="west, south, east, north in degrees: where records may lie"
    )
    patch_size: int = Field(
        default=128, ge=1, le=LARGEST_PATCH, description="cells along one side of a patch"
    )
    packed: str | None = Field(
        default=None,
        description="folder of shards that `glczoo pack` made of the JPEG trees and that are read instead of "
        "them, relative to the root; null: `packed`, where it is there",
    )
    virtual_files: bool = Field(
        default=False,
        description="VRTs of this region may name files as GDAL knows them, /vsizip/… or /vsicurl/…: the "
        "network is then asked",
    )
    modalities: list[Modality] = Field(min_length=1)
    tables: dict[Literal["po", "pa", "test"], Table]
    tests: dict[Name, Table] = Field(
        default={}, description="further test tables by name, such as iid and ood of a benchmark"
    )
    records: RecordFilters | None = Field(default=None, description="which presence-only records to use")
    split: SplitFile | None = Field(default=None, description="fixed folds of the surveys; null: none")
    species: SpeciesTable | None = Field(
        default=None, description="explicit vocabulary; else every species of the PO and PA tables"
    )
    sensitive: dict[str | int, float] = Field(
        default={},
        description="kilometres by names or ids of species: predictions and pictures show no finer where "
        "they are",
    )
    _folder: Path = PrivateAttr(default=Path())
    _published: bool = PrivateAttr(default=False)

    @field_validator("modalities")
    @classmethod
    def _unique(cls, modalities: list[Modality]) -> list[Modality]:
        names = [m.name for m in modalities] + [b.name for m in modalities for b in m.bands]
        twice = sorted({name for name in names if names.count(name) > 1} - {m.name for m in modalities})
        if twice or len({m.name for m in modalities}) < len(modalities):
            raise GlczooError(
                f"names of modalities and of bands must be unique, these are not: {twice or names}"
            )
        return modalities

    @model_validator(mode="after")
    def _names_have_ids(self) -> "Region":
        by_name = [
            n for n, table in self.tables.items() if table.species_by == "name" or table.layout == "wide"
        ]
        if by_name and not (self.species and self.species.name):
            raise GlczooError(
                f"the {' and '.join(by_name)} table names species (species_by: name, or layout: wide): "
                "describe a species table that holds these names and their ids, "
                "species: {file: …, id: …, name: …}"
            )
        return self

    @classmethod
    def load(cls, path: str | Path, *, published: bool = False) -> "Region":
        """Read a `region.yaml` (or the folder that holds one), here or packaged (see `packaged.locate`).

        Args:
            path: of the file.
            published: it came with a model that others published: it may describe data, and reach nothing.

        Raises:
            MissingError: there is no such file.
            GlczooError: the file is not a region; every mistake is named at once.
        """
        path = locate(path)
        path = path / "region.yaml" if path.is_dir() else path
        region = parse(cls, read_yaml(path), str(path))
        region._folder, region._published = path.parent, published
        if published:
            reaching = [file for file in region._files() if leads_out(file)]
            reaching += ["root"] * (region.root is not None) + ["virtual_files"] * region.virtual_files
            if reaching:
                raise GlczooError(
                    f"{path} came with a published model and may name files inside of the data folder only; "
                    f"it says {', '.join(map(repr, reaching))}"
                )
        for modality in region.modalities:
            if not modality.bands:
                region._find_columns(modality)
        return region

    def _find_columns(self, modality: Modality) -> None:
        """Describe the bands of a table whose columns region.yaml does not list."""
        from glczoo.data.value_tables import numeric_columns  # which knows regions itself

        path = self.find(*(str(Path(modality.folder, file)) for file in modality.file))
        modality.bands = [band_of_column(column) for column in numeric_columns(path, modality.key or "")]
        self._unique(self.modalities)

    @property
    def published(self) -> bool:
        """Whether the description came with a model that others published."""
        return self._published

    def _files(self) -> Iterator[str]:
        """Every path of the description."""
        yield from filter(None, [self.packed, self.split and self.split.file])
        yield from filter(None, [self.species and self.species.file])
        for modality in self.modalities:
            yield modality.folder
            yield from modality.file
            for band in modality.bands:
                yield from (band.file, *band.more)
        for table in [*self.tables.values(), *self.tests.values()]:
            yield from table.file
            yield from filter(None, [table.without_species])

    def sample_columns(self) -> tuple[list[str], list[str]]:
        """Columns of the samples' tables that bands ask for: keys of tables of values, and values."""
        values = [modality for modality in self.modalities if modality.kind == "values"]
        keys = [modality.key for modality in values if modality.file and modality.key]
        own = [band.column or band.name for m in values if not m.file for band in m.bands]
        return list(dict.fromkeys(keys)), list(dict.fromkeys(own))

    @property
    def root_path(self) -> Path:
        """The folder of the data. A region that names its root keeps it whatever GLCZOO_DATA says."""
        if self.root is None and "GLCZOO_DATA" in os.environ:
            return Path(os.environ["GLCZOO_DATA"])
        return self._folder / (self.root or ".")

    @property
    def band_names(self) -> list[str]:
        """All bands in the order of their channels."""
        return [band.name for band, _ in self.bands()]

    def bands(self) -> Iterator[tuple[Band, Modality]]:
        """Every band with its modality, in the order of the channels."""
        for modality in self.modalities:
            for band in modality.bands:
                yield band, modality

    def select(self, modalities: list[str] | None) -> list[Modality]:
        """The named modalities in the region's order; all of them for None.

        Raises:
            GlczooError: a name is not one of the region's.
        """
        known = [m.name for m in self.modalities]
        unknown = [name for name in modalities or [] if name not in known]
        if unknown:
            raise GlczooError(f"region {self.name} has no modality {unknown}; it has {known}")
        return [m for m in self.modalities if modalities is None or m.name in modalities]

    def table(self, name: Literal["po", "pa", "test"]) -> Table:
        """A table's description.

        Raises:
            GlczooError: the region has no such table.
        """
        if name not in self.tables:
            raise GlczooError(f"region {self.name} describes no {name} table; it has {sorted(self.tables)}")
        return self.tables[name]

    def guesses(self) -> list[str]:
        """Lines of its file that `glczoo region init` marked as guessed, which nobody has confirmed since."""
        path = self._folder / "region.yaml"
        if not path.is_file():
            return []
        lines = path.read_text("utf-8", errors="replace").splitlines()
        return [" ".join(line.split()) for line in lines if re.search(r"\S.*# .*\bguessed\b", line)]

    def citations(self) -> list[tuple[str, str, str]]:
        """What its data ask to be cited by: name of a table or modality, citation, DOI."""
        named: list[tuple[str, Table | Modality]] = [*self.tables.items()]
        named += [(modality.name, modality) for modality in self.modalities]
        return [(name, data.citation, data.doi) for name, data in named if data.citation or data.doi]

    def text(self) -> str:
        """The region as YAML without its root: for others, who have the data elsewhere."""
        return _dump(self.model_dump(mode="json", exclude_defaults=True, exclude={"root"}))

    def published_text(self) -> str:
        """The region as YAML as it may be published: paths that lead out of the data folder end in it."""
        content = self.model_dump(mode="json", exclude_defaults=True, exclude={"root", "virtual_files"})
        return _dump(inside(content))

    def find_file(self, modality: Modality, file: str) -> Path:
        """Where a modality's raster or tree of JPEGs lies; see `find`."""
        try:
            return self.find(str(Path(modality.folder, file)))
        except MissingError as error:
            if not modality.made_by:
                raise
            of = " of the same records (tables.po)" if "densities" in modality.made_by else ""
            raise MissingError(
                error.what,
                remedy=f"No model brings it along: `{modality.made_by}` makes it anew{of}; then name OUT in "
                "place of REGION",
            ) from None

    def find(self, *spellings: str) -> Path:
        """The first of the spellings that exists under the root, letter case ignored.

        Raises:
            MissingError: none exists; the message names the root and every spelling tried.
        """
        root = self.root_path
        if not root.is_dir():
            raise MissingError(
                f"region {self.name}: the data folder {root} does not exist; put the data there, or name "
                "the folder that holds it: `root` in region.yaml, or GLCZOO_DATA where there is no root"
            )
        for spelling in spellings:
            path = find_ignoring_case(root, Path(spelling).parts)
            if path is not None:
                return path
        tried = " or ".join(spellings)
        hint = "; GLCZOO_DATA names the folder of the data" if self.root is None else ""
        raise MissingError(f"region {self.name}: {tried} not found under {root} (letter case ignored){hint}")


def _dump(content: object) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
