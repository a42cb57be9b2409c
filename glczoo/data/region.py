"""A region: a folder of data and the `region.yaml` that describes it.

Words (one meaning each, everywhere in the package): a *band* is one covariate; a *modality* is an ordered
list of bands of one ground resolution; a *region* is the ordered list of modalities, the tables of
occurrences and the place where the files lie. The order of the bands is data: it fixes the channels of every
patch `x[B, C, H, W]` and is written into every model.

A `region.yaml` is explained key by key by the fields below; `recipes/regions/glc23.yaml` is the worked
example.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, PrivateAttr, field_validator, model_validator

from glczoo.data.region_paths import find_ignoring_case, inside, leads_out
from glczoo.data.schema import Strict, parse, read_yaml
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


LARGEST_PATCH = 1024  # cells along a side: 135 MB for a sample of 33 bands
Name = Annotated[
    str,
    Field(
        pattern=r"^\w[\w.+-]*( [\w.+-]+)*$",
        max_length=100,
        description="letters, digits, `_`, `.`, `+`, `-` and single blanks: it becomes part of file names",
    ),
]


def plain_name(text: str) -> str:
    """A name as region files have them, made of any text."""
    return re.sub(r"[^\w.+-]+", " ", text).strip(" .+-")[:100].strip() or "unnamed"


class _Provenance(Strict):
    """What says where values come from; `source` is how region files of version 0.1 call it."""

    @model_validator(mode="before")
    @classmethod
    def _earlier_name(cls, data: object) -> object:
        if isinstance(data, dict) and "source" in data and "provenance" not in data:
            return {"provenance" if key == "source" else key: value for key, value in data.items()}
        return data


class Band(_Provenance):
    """One covariate: what it measures and where it is read."""

    name: Name = Field(description="short name, unique within the region")
    file: str = Field(description="GeoTIFF, or folder of the JPEG tree, relative to the modality's folder")
    index: int = Field(default=1, ge=1, description="which band of the file, counted from 1")
    kind: Literal["number", "categorical"] = Field(
        default="number", description="categorical: whole numbers that stand for classes, such as land cover"
    )
    unit: str = Field(default="", description="unit of the values, after scale and offset")
    scale: float | None = Field(
        default=None, description="values are stored * scale + offset; null: as the file's tags say"
    )
    offset: float | None = Field(default=None, description="see scale")
    provenance: str = Field(default="", description="where the values come from; the modality's if empty")
    nodata: float | None = Field(default=None, description="value that means no data, beside the file's own")


class Modality(_Provenance):
    """Bands of one ground resolution, in the order of their channels."""

    name: Name
    kind: Literal["raster", "jpeg"] = Field(
        default="raster", description="GeoTIFFs read around a point, or a tree of JPEG patches by patchID"
    )
    folder: str = Field(default="", description="folder of the files, relative to the region's root")
    crs: str | None = Field(default=None, description="of rasters whose files name none")
    resolution: str = Field(default="", description="size of a cell on the ground, for people")
    provenance: str = Field(default="", description="provider and version of the data")
    citation: str = Field(default="", description="how to cite the data, repeated on cards and reports")
    doi: str = Field(default="", description="of the data, without https://doi.org/")
    bands: list[Band] = Field(min_length=1)

    @model_validator(mode="after")
    def _trees_lie_inside(self) -> "Modality":
        outside = [band.file for band in self.bands if leads_out(band.file) or band.file in ("", ".")]
        if self.kind == "jpeg" and outside:
            raise ValueError(
                f"modality {self.name}: {outside[0]!r} is no folder of a JPEG tree: its name becomes part of "
                "the folder of shards that `glczoo pack` writes; name a folder inside of the modality's"
            )
        return self


class Table(Strict):
    """A table of occurrences or points and the names of its columns (defaults: GeoLifeCLEF 2023).

    Text, or what else `data.table_files` reads: archives of GBIF, GeoPackage, GeoJSON, Excel, Parquet.
    """

    file: list[str] = Field(description="path, or several spellings of which the first that exists is read")
    separator: str = Field(default=";", description="between the columns of a text")
    encoding: str | None = Field(
        default=None, description="of a text; null: UTF-8, or UTF-16 by its mark, else Windows-1252"
    )
    crs: str | None = Field(
        default=None, description="of the columns lon and lat, such as EPSG:2154; null: degrees, WGS84"
    )
    lon: str = "lon"
    lat: str = "lat"
    layout: Literal["long", "wide"] = Field(
        default="long",
        description="long: a row for each species of a sample; wide: a column for each species, named as in "
        "the species table, that holds 0 and 1, counts or words",
    )
    species: str = "speciesId"
    species_by: Literal["id", "name"] = Field(
        default="id", description="what the species column holds: ids, or names that the species table knows"
    )
    patch: str = Field(default="patchID", description="place of the record; names the JPEG patch")
    day: str = Field(
        default="dayOfYear", description="with the patch it names a survey; may be absent or empty"
    )
    survey: list[str] | None = Field(
        default=None,
        description="PA only: columns that tell surveys apart, of any type; `day of COLUMN` leaves out the "
        "time of day; null: patch and day",
    )
    presence: dict[str, Literal["above 0", "above 0 or blank"] | list[str | int]] = Field(
        default={},
        description="columns and their values where the species was found: `above 0`, or a list. Other rows "
        "of a PA table stand for their survey alone, those of a PO table are left out",
    )
    absence: dict[str, list[str | int]] = Field(
        default={},
        description="columns and values where it was not found, beside 0, blank and the usual words for no",
    )
    incomplete: Literal["error", "drop"] = Field(
        default="error", description="PO and PA: rows without coordinates, or without a species in PO"
    )
    citation: str = Field(default="", description="how to cite the data, repeated on cards and reports")
    doi: str = Field(default="", description="of the data, without https://doi.org/")
    id: str = Field(default="Id", description="row id of a test table, written into the submission")
    without_species: str | None = Field(
        default=None, description="PA only: table of surveys that found none of the species (same columns)"
    )

    @field_validator("file", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value


class RecordFilters(Strict):
    """Which presence-only records to use; nothing is left out that no key asks for."""

    max_uncertainty_m: float | None = Field(
        default=None, gt=0, description="greatest uncertainty of the coordinates; records without one stay"
    )
    require_uncertainty: bool = Field(
        default=False, description="leave out records whose uncertainty is not known"
    )
    basis: list[str] = Field(default=[], description="basisOfRecord to use, such as HUMAN_OBSERVATION")
    years: tuple[int, int] | None = Field(
        default=None, description="first and last year to use; records without a year are left out"
    )
    issues: list[str] = Field(
        default=[], description="GBIF's flags, such as ZERO_COORDINATE: a record with any of them is left out"
    )
    cell_km: float | None = Field(
        default=None, gt=0, description="one record of a species in each square of this side"
    )
    thin_km: float | None = Field(
        default=None, gt=0, description="no two records of a species nearer than this: the first one stays"
    )
    columns: dict[Literal["uncertainty", "basis", "year", "issues"], str] = Field(
        default={}, description="columns that are not named as in Darwin Core"
    )


class SplitFile(Strict):
    """A fixed split of the PA surveys, read from a table with one row for each patch."""

    file: str
    separator: str = ";"
    patch: str = Field(default="patchID", description="column that holds the survey's patchID")
    fold: str = Field(default="fold", description="column that holds the fold's number")
    rank: str | None = Field(default=None, description="column with a fixed rank in [0, 1): nested subsets")
    test: list[int] = Field(default=[0], description="folds held out: never trained on, never chosen by")


class SpeciesTable(Strict):
    """The vocabulary: which species the region's models answer with."""

    file: str
    separator: str = ";"
    id: str = "speciesId"
    name: str | None = Field(default=None, description="column with a name for people")
    sensitive: str | None = Field(
        default=None,
        description="column of kilometres: nothing shows finer where the species is; blank: all",
    )


class Region(Strict):
    """Everything that is known about a region's data before it is read."""

    name: Name
    description: str = ""
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
    records: RecordFilters | None = Field(default=None, description="which presence-only records to use")
    split: SplitFile | None = None
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
            raise ValueError(
                f"names of modalities and of bands must be unique, these are not: {twice or names}"
            )
        return modalities

    @model_validator(mode="after")
    def _names_have_ids(self) -> "Region":
        by_name = [
            n for n, table in self.tables.items() if table.species_by == "name" or table.layout == "wide"
        ]
        if by_name and not (self.species and self.species.name):
            raise ValueError(
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
            FileNotFoundError: there is no such file.
            ValueError: the file is not a region; every mistake is named at once.
        """
        path = locate(path)
        path = path / "region.yaml" if path.is_dir() else path
        region = parse(cls, read_yaml(path), str(path))
        region._folder, region._published = path.parent, published
        if published:
            reaching = [file for file in region._files() if leads_out(file)]
            reaching += ["root"] * (region.root is not None) + ["virtual_files"] * region.virtual_files
            if reaching:
                raise ValueError(
                    f"{path} came with a published model and may name files inside of the data folder only; "
                    f"it says {', '.join(map(repr, reaching))}"
                )
        return region

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
            yield from (band.file for band in modality.bands)
        for table in self.tables.values():
            yield from table.file
            yield from filter(None, [table.without_species])

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
            ValueError: a name is not one of the region's.
        """
        known = [m.name for m in self.modalities]
        unknown = [name for name in modalities or [] if name not in known]
        if unknown:
            raise ValueError(f"region {self.name} has no modality {unknown}; it has {known}")
        return [m for m in self.modalities if modalities is None or m.name in modalities]

    def table(self, name: Literal["po", "pa", "test"]) -> Table:
        """A table's description.

        Raises:
            ValueError: the region has no such table.
        """
        if name not in self.tables:
            raise ValueError(f"region {self.name} describes no {name} table; it has {sorted(self.tables)}")
        return self.tables[name]

    def guesses(self) -> list[str]:
        """Lines of its file that `glczoo region init` marked as guessed, which nobody has confirmed since."""
        path = self._folder / "region.yaml"
        if not path.is_file():
            return []
        lines = path.read_text("utf-8", errors="replace").splitlines()
        return [" ".join(line.split()) for line in lines if "# guessed:" in line]

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
        return self.find(str(Path(modality.folder, file)))

    def find(self, *spellings: str) -> Path:
        """The first of the spellings that exists under the root, letter case ignored.

        Raises:
            FileNotFoundError: none exists; the message names the root and every spelling tried.
        """
        root = self.root_path
        if not root.is_dir():
            raise FileNotFoundError(
                f"region {self.name}: the data folder {root} does not exist; put the data there, or name "
                "the folder that holds it: `root` in region.yaml, or GLCZOO_DATA where there is no root"
            )
        for spelling in spellings:
            path = find_ignoring_case(root, Path(spelling).parts)
            if path is not None:
                return path
        tried = " or ".join(spellings)
        hint = "; GLCZOO_DATA names the folder of the data" if self.root is None else ""
        raise FileNotFoundError(
            f"region {self.name}: {tried} not found under {root} (letter case ignored){hint}"
        )


def _dump(content: object) -> str:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
