"""The sections of a `region.yaml`: bands, modalities, tables, filters of records, split and species."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from glczoo.data.region_paths import leads_out
from glczoo.data.schema import Strict
from glczoo.errors import GlczooError

__all__ = [
    "LARGEST_PATCH",
    "Band",
    "Modality",
    "Name",
    "RecordFilters",
    "SpeciesTable",
    "SplitFile",
    "Table",
    "band_of_column",
    "plain_name",
]

LARGEST_PATCH = 1024
"""Cells along a side: 135 MB for a sample of 33 bands."""
_MOST_COLUMNS = 4096  # of one modality
_MADE_BY = re.compile(
    r"(glczoo region (?:densities|coordinates))((?: --[a-z]+(?: -?[\d.]{1,20}){1,20}){1,5})"
)
Name = Annotated[
    str,
    Field(
        pattern=r"^\w[\w.+-]*( [\w.+-]+)*$",
        max_length=100,
        description="letters, digits, `_`, `.`, `+`, `-` and single blanks: it becomes part of file names",
    ),
]
"""A name of a region, a modality or a band."""


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
    file: str = Field(
        default="",
        description="GeoTIFF, or folder of the JPEG tree, relative to the modality's folder; of values none",
    )
    more: list[str] = Field(
        default=[],
        description="of a JPEG tree: further folders of the same tree, such as those of test surveys; those "
        "that are not there are passed over",
    )
    index: int = Field(default=1, ge=1, description="which band of the file, counted from 1")
    column: str = Field(default="", description="of values: their column; the band's name if empty")
    kind: Literal["number", "categorical"] = Field(
        default="number", description="categorical: whole numbers that stand for classes, such as land cover"
    )
    levels: dict[int, Annotated[str, Field(max_length=200)]] = Field(
        default={},
        max_length=1000,
        description="of a categorical band: names of its numbers; others as the file names them",
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
    kind: Literal["raster", "jpeg", "values", "cube", "tiff"] = Field(
        default="raster",
        description="raster: GeoTIFFs read around a point; jpeg: a tree of patches by patchID; values: "
        "columns of tables with a row for each sample, or of the samples' own tables; cube, tiff: a file for "
        "each sample, time series `.pt` [bands, a, b] or a small TIFF",
    )
    folder: str = Field(default="", description="folder of the files, relative to the region's root")
    file: list[str] = Field(
        default=[],
        description="of values: the table, or several whose rows are read as of one; those that are not "
        "there are passed over. None: the bands are columns of the samples' own tables. Of cubes and TIFFs: "
        "one pattern or several, in which {id} is the sample's number (the `patch` of its table), {cd} its "
        "last two digits and {ab} the two before",
    )
    key: str | None = Field(
        default=None,
        description="of values in tables: the column that names a sample, in them and in the samples' tables",
    )
    columns: list[str] = Field(
        default=[],
        exclude=True,
        description="short for a band for each of these columns of values, or for the bands of a cube or "
        "TIFF in their order; A00..A63 are 64. Of values without columns and bands: every column of numbers "
        "but the key",
    )
    crs: str | None = Field(default=None, description="of rasters whose files name none")
    resolution: str = Field(default="", description="size of a cell on the ground, for people")
    provenance: str = Field(default="", description="provider and version of the data")
    citation: str = Field(default="", description="how to cite the data, repeated on cards and reports")
    doi: str = Field(default="", description="of the data, without https://doi.org/")
    bands: list[Band] = []

    @property
    def made_by(self) -> str:
        """The command that made its rasters of other data of the region; "" where none did."""
        made = _MADE_BY.match(self.bands[0].provenance if self.bands else "")
        return f"{made[1]} REGION {made[2].strip()} --out OUT" if made else ""

    @field_validator("file", "columns", mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _columns_are_bands(self) -> "Modality":
        named = {band.column or band.name for band in self.bands}
        columns = _each_column(self.columns, self.name)
        if self.kind == "values":
            self.bands += [band_of_column(column) for column in columns if column not in named]
        elif self.kind in ("cube", "tiff"):
            bands = [Band(name=name, index=number) for number, name in enumerate(columns, 1)]
            self.bands += [band for band in bands if band.name not in named]
        return self

    @model_validator(mode="after")
    def _has_what_its_kind_needs(self) -> "Modality":
        if self.kind in ("cube", "tiff"):
            self._is_found_by_pattern()
        elif self.kind != "values":
            nameless = [band.name for band in self.bands if not band.file and self.kind == "raster"]
            if not self.bands or nameless:
                what = f"band {nameless[0]} names no file" if nameless else "it has no bands"
                raise GlczooError(f"modality {self.name}: {what}")
            if self.file or self.key or self.columns:
                raise GlczooError(
                    f"modality {self.name}: file, key and columns are of values, cubes and TIFFs"
                )
        elif self.file and self.key is None:
            raise GlczooError(
                f"modality {self.name}: which column of {self.file[0]} names the sample? key: COLUMN, which "
                "the samples' tables must have too"
            )
        elif not (self.file or self.bands):
            raise GlczooError(
                f"modality {self.name}: name the table of its values (file, key), or, where they stand in "
                "the samples' own tables, their columns"
            )
        return self

    def _is_found_by_pattern(self) -> None:
        for pattern in self.file:
            left = re.sub(r"\{(id|cd|ab)\}", "", pattern)
            if "{id}" not in pattern or "{" in left or "}" in left:
                raise GlczooError(
                    f"modality {self.name}: {pattern!r} is no pattern of files: {{id}} must stand in it, "
                    "{cd} and {ab} may, such as cubes/{cd}/{ab}/{id}_cube.pt"
                )
        if not self.file or not self.bands or self.key:
            raise GlczooError(
                f"modality {self.name}: {self.kind}s need a pattern of files (file) and the names of their "
                "bands (columns, or bands); the `patch` of a sample's table is their key"
            )
        if any(band.kind == "categorical" for band in self.bands):
            raise GlczooError(f"modality {self.name}: bands of {self.kind}s are numbers")

    @model_validator(mode="after")
    def _trees_lie_inside(self) -> "Modality":
        trees = [file for band in self.bands for file in (band.file, *band.more)]
        outside = [file for file in trees if leads_out(file) or file in ("", ".")]
        if self.kind == "jpeg" and outside:
            raise GlczooError(
                f"modality {self.name}: {outside[0]!r} is no folder of a JPEG tree: its name becomes part of "
                "the folder of shards that `glczoo pack` writes; name a folder inside of the modality's"
            )
        return self


def band_of_column(column: str) -> Band:
    """The band that a column of values is."""
    name = plain_name(column)
    return Band(name=name, column="" if name == column else column)


def _each_column(columns: list[str], modality: str) -> list[str]:
    """Names of columns, `A00..A63` and `A00..63` being 64 of them."""
    names: list[str] = []
    for column in columns:
        span = re.fullmatch(r"(.*?)(\d{1,9})\.\.(.*?)(\d{1,9})", column)
        if span is None or span[3] not in ("", span[1]):
            names.append(column)
            continue
        first, last = int(span[2]), int(span[4])
        if not 0 <= last - first < _MOST_COLUMNS:
            raise GlczooError(f"modality {modality}: {column} are no columns, or more than {_MOST_COLUMNS}")
        width = len(span[2]) if span[2].startswith("0") else 0
        names += [f"{span[1]}{number:0{width}d}" for number in range(first, last + 1)]
    return names


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
    lon: str = Field(default="lon", description="column of the longitude, or of x in the CRS")
    lat: str = Field(default="lat", description="column of the latitude, or of y in the CRS")
    layout: Literal["long", "wide"] = Field(
        default="long",
        description="long: a row for each species of a sample; wide: a column for each species, named as in "
        "the species table, that holds 0 and 1, counts or words",
    )
    species: str = Field(default="speciesId", description="column of the species")
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
    predicted: str = Field(
        default="Predicted", description="column of the sets in a submission for a test table"
    )
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

    file: str = Field(description="path of the table")
    separator: str = Field(default=";", description="between its columns")
    patch: str = Field(default="patchID", description="column that holds the survey's patchID")
    fold: str = Field(default="fold", description="column that holds the fold's number")
    rank: str | None = Field(default=None, description="column with a fixed rank in [0, 1): nested subsets")
    test: list[int] = Field(default=[0], description="folds held out: never trained on, never chosen by")


class SpeciesTable(Strict):
    """The vocabulary: which species the region's models answer with."""

    file: str = Field(description="path of the table")
    separator: str = Field(default=";", description="between its columns")
    id: str = Field(default="speciesId", description="column of the ids")
    name: str | None = Field(default=None, description="column with a name for people")
    sensitive: str | None = Field(
        default=None,
        description="column of kilometres: nothing shows finer where the species is; blank: all",
    )
