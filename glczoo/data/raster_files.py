"""Raster files: the one function that opens them, and what is checked before a value is read.

Which formats are read, which files a raster may name, whether its grid can be used and its size believed. A
file that a region's description names is opened with nothing of GDAL that reaches out: no network, no virtual
file systems, no drivers beyond a short list. In a region that came with a published model, formats that name
other files (VRT) are not read either.
"""

import math
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioIOError
from rasterio.io import DatasetReader

from glczoo.data.region import Band, Modality, Region
from glczoo.errors import GlczooError, MissingError
from glczoo.files import require_room, require_same

__all__ = [
    "BandFile",
    "RasterGrid",
    "band_file",
    "grid_of",
    "has_mask",
    "is_geographic",
    "open_raster",
    "read_planes",
    "write_geotiff",
]

# Drivers that read a file and those beside it of the same name, nothing else.
_PLAIN = ["GTiff", "AAIGrid", "JP2OpenJPEG", "EHdr", "RRASTER", "SAGA", "PCRaster", "SRTMHGT"]
_OWN = [*_PLAIN, "HFA", "ENVI", "GSAG", "GSBG", "GS7BG", "netCDF", "VRT"]
_UNREADABLE = (RasterioIOError, UnicodeDecodeError)  # GDAL may cut its message within a letter
_CLOSED = {
    "GDAL_CACHEMAX": 128,  # MB of decoded blocks; of itself GDAL takes a twentieth of the machine
    "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".none",
    "GDAL_HTTP_MAX_RETRY": 0,
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
}
_LARGEST_BLOCK = 2**29  # bytes that a file may ask for at once
_LARGEST_PROMISE = 4000  # bytes of values for each byte of a file: no packing of rasters does more
_DEEPEST = 8  # VRTs that name VRTs


@dataclass(frozen=True)
class BandFile:
    """A raster band of a region and the file to read it from."""

    band: Band
    path: Path
    crs: str | None = None  # of a file that names none
    published: bool = False  # the region's description came with a model
    virtual_files: bool = False  # VRTs may name /vsi… files
    unit: str | None = None  # to convert the values to, where the two convert


@dataclass(frozen=True)
class RasterGrid:
    """Where a raster's cells lie, rows from north to south and columns from west to east."""

    transform: rasterio.Affine
    crs: str
    height: int
    width: int
    from_south: bool = False  # the file's rows run from south to north
    from_east: bool = False  # the file's columns run from east to west


def band_file(region: Region, modality: Modality, band: Band, unit: str | None = None) -> BandFile:
    """Where a raster band of a region is read from, and the unit that it is wanted in.

    Raises:
        MissingError: the file is not there.
    """
    path = region.find_file(modality, band.file)
    return BandFile(band, path, modality.crs, region.published, region.virtual_files, unit)


@contextmanager
def open_raster(
    path: Path, *, published: bool = False, virtual_files: bool = False
) -> Iterator[rasterio.DatasetReader]:
    """Open a raster for reading.

    Args:
        path: a file on this machine.
        published: its name comes from a published model: only formats that name no other file.
        virtual_files: it may be a VRT that names files as `/vsizip/…` or `/vsicurl/…`.

    Raises:
        MissingError: a VRT names a file that is not there.
        GlczooError: it is no raster, of another format, damaged, or names files that it may not.
    """
    if _is_vrt(path):
        if published:
            raise GlczooError(f"{path} is a VRT, which names other files: published regions may not hold any")
        if not virtual_files:
            _check_sources(path, 0)
    options = _CLOSED | {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}  # files beside it are looked up by name
    if virtual_files:
        options.pop("CPL_VSIL_CURL_ALLOWED_EXTENSIONS")
    with rasterio.Env(**options):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)  # `grid_of` refuses it, in words
                source = DatasetReader(
                    str(path.absolute()), driver=_PLAIN if published else _OWN
                )  # no others
        except _UNREADABLE as error:
            raise GlczooError(f"{path} cannot be read as a raster: {error}") from None
        with source:
            yield source


def grid_of(source: rasterio.DatasetReader, crs: str | None = None) -> RasterGrid:
    """The raster's grid, and whether its size can be believed.

    Args:
        source: an opened raster.
        crs: where the file names none.

    Raises:
        GlczooError: it has no CRS, no georeference or one that cannot be inverted, or claims more values than
            its file can hold.
    """
    name = source.name
    if source.count == 0:
        variables = ", ".join(sub.split(":")[-1] for sub in source.subdatasets[:6])
        raise GlczooError(
            f"{name} holds several variables ({variables}) and no band of its own: write each to a GeoTIFF, "
            f'for example gdal_translate NETCDF:"FILE":{variables.split(", ")[0]} OUT.tif'
        )
    known = source.crs or _crs(crs)
    if known is None:
        raise GlczooError(
            f"{name} has no CRS; name it, `crs: EPSG:4326` in its modality in region.yaml, or write it into "
            "the file with `rio edit-info --crs`"
        )
    matrix, (height, width) = source.transform, source.shape
    if matrix.is_identity:
        raise GlczooError(f"{name} has no georeference: its cells have no place in {known.to_string()}")
    if not (all(map(math.isfinite, matrix)) and 0 < abs(matrix.determinant) < math.inf):
        raise GlczooError(f"{name} has a georeference that cannot be inverted: {tuple(matrix)[:6]}")
    _believe(source)
    text = known.to_string()
    text = "EPSG:4326" if text == "OGC:CRS84" else text
    if matrix.b or matrix.d:
        return RasterGrid(matrix, text, height, width)
    a, _, west, _, e, north = tuple(matrix)[:6]
    from_south, from_east = e > 0, a < 0
    if from_south:
        north, e = round(north + e * height, 9), -e
    if from_east:
        west, a = round(west + a * width, 9), -a
    return RasterGrid(rasterio.Affine(a, 0, west, 0, e, north), text, height, width, from_south, from_east)


def read_planes(path: Path, largest: int) -> tuple[np.ndarray, float | None]:
    """All bands of a small TIFF, values[P, height, width], and its value for no data; its place is not read.

    Args:
        path: of the file.
        largest: how many values it may hold.

    Raises:
        MissingError: there is no such file.
        GlczooError: it is no TIFF, is damaged, or claims more values.
    """
    if not path.is_file():
        raise MissingError(f"there is no file {path}")
    with rasterio.Env(**_CLOSED, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                source = DatasetReader(str(path.absolute()), driver=["GTiff"])
        except _UNREADABLE as error:
            raise GlczooError(f"{path} cannot be read as a TIFF: {error}") from None
        with source:
            height, width = source.shape
            if source.count * height * width > largest or source.dtypes[0].startswith("complex"):
                raise GlczooError(
                    f"{path} claims {source.count} bands of {height:,} x {width:,} cells of "
                    f"{source.dtypes[0]}; patches of samples are small"
                )
            _believe(source)
            try:
                return source.read(), source.nodata
            except _UNREADABLE as error:
                raise GlczooError(f"{path} is damaged: {error}") from None


def write_geotiff(
    path: Path,
    values: np.ndarray,
    crs: str,
    transform: rasterio.Affine,
    *,
    names: Sequence[str] = (),
    scale: float | None = None,
    **profile: Any,
) -> None:
    """Write a GeoTIFF and read it back: GDAL does not always say that the disk was full.

    Args:
        path: to write; its folder is made if need be.
        values: of the cells, [bands, height, width].
        crs: such as EPSG:4326.
        transform: from column and row to coordinates.
        names: of the bands.
        scale: what the numbers are multiplied by, of every band.
        profile: further options of the format, such as nodata and compress.

    Raises:
        OSError: there is no room, or it cannot be written; names `path`.
    """
    count, height, width = values.shape
    path.parent.mkdir(parents=True, exist_ok=True)
    require_room(path, values.nbytes + 2**16)
    profile |= {"count": count, "height": height, "width": width, "dtype": values.dtype.name}
    place = {"crs": CRS.from_string(crs), "transform": transform}
    with rasterio.open(path, "w", driver="GTiff", **place, **profile) as file:
        file.write(values)
        if names:
            file.descriptions = tuple(names)
        if scale is not None:
            file.scales = (scale,) * count
    with rasterio.open(path) as file:
        found = (file.read(band) for band in file.indexes)
        same = all(map(partial(np.array_equal, equal_nan=True), found, values))
    require_same(path, same)


def has_mask(source: rasterio.DatasetReader, index: int) -> bool:
    """Whether a band has a mask of its own (inside the file or beside it) or an alpha band."""
    flags = source.mask_flag_enums[index - 1]
    return MaskFlags.per_dataset in flags or MaskFlags.alpha in flags


@cache
def is_geographic(crs: str) -> bool:
    """Whether coordinates of a CRS are degrees of longitude and latitude."""
    return bool(CRS.from_user_input(crs).is_geographic)


def _crs(crs: str | None) -> CRS | None:
    if crs is None:
        return None
    try:
        return CRS.from_user_input(crs)
    except CRSError as error:
        raise GlczooError(f"there is no CRS {crs!r}: {error}") from None


def _believe(source: rasterio.DatasetReader) -> None:
    """Compare what the header claims with what the file can hold, before memory is taken for it."""
    height, width = source.shape
    sizes = [_BYTES.get(dtype, 8) for dtype in source.dtypes]
    for (rows, columns), size in zip(source.block_shapes, sizes, strict=True):
        if rows * columns * size > _LARGEST_BLOCK:
            raise GlczooError(
                f"{source.name} is stored in blocks of {rows} x {columns} cells, too large to be read: tile "
                "it, for example with `gdal_translate -co TILED=YES`"
            )
    promised, held = height * width * max(sizes), Path(source.name).stat().st_size
    if source.driver != "VRT" and promised > max(2**30, _LARGEST_PROMISE * held):
        raise GlczooError(
            f"{source.name} claims {height:,} x {width:,} cells in a file of {held:,} bytes: it is damaged, "
            "or nearly all of it is empty; crop it to the region"
        )


_BYTES = {"uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4, "int32": 4, "float32": 4}


def _is_vrt(path: Path) -> bool:
    """Whether GDAL would take a file for a VRT: by its first bytes, whatever it is called."""
    with open(path, "rb") as file:
        return b"<VRTDataset" in file.read(4096)


def _check_sources(path: Path, depth: int) -> None:
    """See that a VRT, and those that it names, name only files that are on this machine."""
    try:
        elements = list(ElementTree.parse(path).iter())
    except ElementTree.ParseError as error:
        raise GlczooError(f"{path} is damaged: {error}") from None
    if depth > _DEEPEST:
        raise GlczooError(f"{path}: VRTs that name VRTs, more than {_DEEPEST} deep")
    for element in elements:
        if element.tag not in ("SourceFilename", "SourceDataset", "Filename"):
            continue
        name = (element.text or "").strip()
        if name.startswith(("/vsi", "<")) or "://" in name or re.match(r"[A-Z][A-Z0-9_]+:", name):
            raise GlczooError(
                f"{path} names {name[:80]}, which is no file on this machine; download it, or, if this is "
                "what you want, say `virtual_files: true` in region.yaml"
            )
        relative = element.get("relativeToVRT", element.get("relativetoVRT")) == "1"
        source = path.parent / name if relative else Path(name)
        if not source.is_file():
            raise MissingError(f"{path} is made of {name}, and there is no file {source}")
        if _is_vrt(source):
            _check_sources(source, depth + 1)
