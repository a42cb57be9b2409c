"""What the rasters and JPEG trees of a stranger's folder hold, grouped into modalities."""

import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from rasterio.errors import RasterioError

from glczoo.data.jpeg import num_planes
from glczoo.data.raster_files import RasterGrid, open_raster
from glczoo.data.rasters import missing_values, whole_degrees
from glczoo.data.region import Region
from glczoo.regions.band_look import FoundBand, Raster, look, standing_apart
from glczoo.regions.mosaics import join_tiles

__all__ = ["FoundBand", "FoundModality", "Bounds", "common_bounds", "find_modalities", "raster_doubts"]

Bounds = tuple[float, float, float, float]
"""West, south, east, north in degrees."""

# GDAL reads these, alone or with a file of the same name beside them.
_RASTERS = {".tif", ".tiff", ".vrt", ".img", ".asc", ".bil", ".bip", ".bsq", ".flt", ".grd", ".nc", ".jp2"}
_RASTERS |= {".sdat", ".map", ".hgt", ".dat", ".envi"}
# These hold rasters too, and a line says that they are not read.
_OTHERS = {".hdf": "HDF4", ".h5": "HDF5", ".hdf5": "HDF5", ".grb": "GRIB", ".grib": "GRIB", ".grb2": "GRIB"}
_OTHERS |= {".ecw": "ECW", ".sid": "MrSID", ".e00": "Arc/Info", ".gpkg": "GeoPackage", ".zarr": "Zarr"}
_OTHERS |= {
    ".rds": "an R object",
    ".rdata": "an R object",
    ".mat": "MATLAB",
    ".npy": "NumPy",
    ".adf": "Arc/Info",
    ".kea": "KEA",
}
_RASTERS |= {".rst", ".dem", ".dt0", ".dt1", ".dt2", ".gtif", ".gtiff", ".geotiff"}
_PACKED = {".gz", ".zip", ".tar", ".tgz", ".7z", ".bz2", ".rar", ".xz"}
_ABSURD = 1e9  # beyond what covariates are
_TABLES_TOO = {".dat", ".map", ".grd", ".asc"}  # of a zip archive these may be anything
_WORLD_FILES = (".jgw", ".pgw", ".gfw", ".wld", ".jpgw", ".pngw")
_KM = 111.32  # of a degree of latitude


@dataclass
class FoundModality:
    """Bands of one folder and one resolution."""

    name: str
    folder: str  # relative to the root
    kind: str = "raster"
    resolution: str = ""
    cell_km: float = 0.01
    cells: int = 128  # along the shorter side of its smallest raster
    bounds: Bounds = (-180, -90, 180, 90)  # common to its bands, in degrees
    bands: list[FoundBand] = field(default_factory=list)
    crs: str | None = None  # guessed, where files name none
    grids: list[RasterGrid] = field(default_factory=list)
    mosaics: dict[str, str] = field(default_factory=dict)  # VRTs to write: text by path, relative to the root


def find_modalities(root: Path) -> tuple[list[FoundModality], list[str]]:
    """Look at every raster and JPEG tree under a folder.

    `root`: that folder.

    Returns:
        Modalities, one for each folder, CRS and resolution, in the order of their names; and what cannot be
        used, with the reason.
    """
    files, trees, unusable = _walk(root)
    rasters = []
    for path in files:
        try:
            rasters.append(look(path))
        except (RasterioError, ValueError, OSError) as error:
            reason = str(error).removeprefix(str(path)).strip()
            unusable.append(f"{path.relative_to(root)}: {reason}")
    modalities = []

    def kin(raster: Raster) -> tuple[str, str, str]:
        return str(raster.path.parent), raster.grid.crs, f"{raster.cell:.3g}"

    for _, group in groupby(sorted(rasters, key=lambda r: (kin(r), _natural(r.path.name))), key=kin):
        members, mosaics = join_tiles(list(group))
        modality = _modality(root, sorted(members, key=lambda raster: _natural(raster.path.name)))
        modality.mosaics = {path.relative_to(root).as_posix(): text for path, text in mosaics.items()}
        modalities.append(modality)
    for parent, tree_group in groupby(trees, key=lambda tree: tree.parent):
        folder = "" if parent == root else parent.relative_to(root).as_posix()
        bands = [band for tree in tree_group for band in _jpeg_bands(tree)]
        name = _title(parent.name) if folder else "images"
        modalities.append(FoundModality(name, folder, "jpeg", resolution="unknown", bands=bands))
    _distinct(modalities)
    return modalities, unusable


def raster_doubts(region: Region) -> list[str]:
    """What of a region's rasters is not as `region.yaml` has it, as far as a look at them shows."""
    doubts = []
    for band, modality in region.bands():
        if modality.kind != "raster":
            continue
        path = region.find_file(modality, band.file)
        with open_raster(path, published=region.published, virtual_files=region.virtual_files) as source:
            shape = tuple(min(side, 256) for side in source.shape)
            values = source.read(band.index, out_shape=shape)
            own = source.nodatavals[band.index - 1]
            palette = source.colorinterp[band.index - 1].name == "palette"
        held = values[~missing_values(values, [own, band.nodata])]
        if len(held) and held.min() == held.max():
            doubts.append(f"{band.name}: {held[0]:g} everywhere, nothing can be learnt from it; leave it out")
        elif len(held) and np.abs(held.astype(np.float64)).max() > _ABSURD:
            doubts.append(
                f"{band.name}: reaches from {held.min():g} to {held.max():g}; is one of these no data? "
                "Say so in region.yaml: nodata: …"
            )
        if band.nodata is None:
            fill = standing_apart(held)
            if fill is not None:
                share = float((values == fill).mean())
                doubts.append(
                    f"{band.name}: {fill:g} stands apart from all other values, in {share:.0%} of the cells; "
                    f"if it is no data, say so in region.yaml: nodata: {fill:g}"
                )
        if palette and band.kind == "number":
            doubts.append(
                f"{band.name}: the file has a palette, its numbers stand for classes; say so in region.yaml: "
                "kind: categorical"
            )
    return doubts


def common_bounds(several: Sequence[Bounds]) -> Bounds:
    """What several bounds share, in degrees; west is larger than east where it crosses 180°.

    Where they share nothing, a box without area at the border of the first.
    """
    first_west, south, first_east, north = several[0]
    west, east = first_west, first_east + 360 * (first_east < first_west)
    for other_west, other_south, other_east, other_north in several[1:]:
        other_east += 360 * (other_east < other_west)
        if east - west >= 360:  # the whole circle: wherever the other begins
            west, east = other_west, other_east
        elif other_east - other_west < 360:
            turn = max((-360, 0, 360), key=lambda t: min(east, other_east + t) - max(west, other_west + t))
            west, east = max(west, other_west + turn), min(east, other_east + turn)
            east = max(west, east)
        south, north = max(south, other_south), min(north, other_north)
    return whole_degrees(west, south, east, north)


def _walk(root: Path) -> tuple[list[Path], list[Path], list[str]]:
    """Raster files, folders that hold JPEG patches as CD/AB/XXABCD.jpeg, and files that are not read."""
    rasters: list[Path] = []
    trees: list[Path] = []
    others: list[str] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if any(re.fullmatch(r"\d{1,2}", name) for name in subfolders) and _first_jpeg(Path(folder)):
            trees.append(Path(folder))
            subfolders.clear()  # millions of files may lie there
        visible = [Path(folder, name) for name in sorted(names) if name[0] != "."]
        rasters += [path for path in visible if path.suffix.lower() in _RASTERS]
        others += [f"{p.relative_to(root)}: {why}" for p in visible if (why := _reason_not_read(p))]
    trees.sort(key=lambda tree: (str(tree.parent), tree.name != "rgb", tree.name))
    return rasters, trees, others


def _reason_not_read(path: Path) -> str | None:
    """Why a file that may hold rasters is not looked at."""
    suffix, inner = path.suffix.lower(), Path(path.stem).suffix.lower()
    if suffix in _OTHERS:
        return f"{_OTHERS[suffix]} is not read; write it to GeoTIFFs, for example with gdal_translate"
    if suffix in _PACKED and inner in _RASTERS:
        return "is packed; unpack it"
    if suffix == ".zip" and (held := _rasters_in_zip(path)):
        return f"is a zip archive of {len(held)} raster(s), {held[0]} …; unpack it"
    if suffix in (".tar", ".tgz") or path.name.lower().endswith((".tar.gz", ".tar.bz2", ".tar.xz")):
        return "is an archive; unpack it if it holds rasters"
    if suffix in (".jpg", ".png", ".gif") and any(path.with_suffix(s).exists() for s in _WORLD_FILES):
        return "is a picture with a place; write it to a GeoTIFF, for example with gdal_translate"
    return None


def _rasters_in_zip(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [n for n in archive.namelist() if Path(n).suffix.lower() in _RASTERS - _TABLES_TOO]
    except (OSError, zipfile.BadZipFile):
        return []


def _first_jpeg(tree: Path) -> Path | None:
    for first in sorted(tree.iterdir()):
        if re.fullmatch(r"\d{1,2}", first.name) and first.is_dir():
            for second in sorted(first.iterdir()):
                if re.fullmatch(r"\d{1,2}", second.name) and second.is_dir():
                    for path in second.iterdir():
                        if path.suffix == ".jpeg":
                            return path
    return None


def _jpeg_bands(tree: Path) -> list[FoundBand]:
    path = _first_jpeg(tree)
    assert path is not None
    planes = num_planes(path)
    names = ["red", "green", "blue"] if planes == 3 else [_word(tree.name)]
    return [FoundBand(name, tree.name, i, unit="0-255") for i, name in enumerate(names, 1)]


def _modality(root: Path, members: list[Raster]) -> FoundModality:
    parent = members[0].path.parent
    folder = "" if parent == root else parent.relative_to(root).as_posix()
    names = [band.name for raster in members for band in raster.bands]
    short = iter(_shortened(names, [len(raster.bands) == 1 for raster in members for _ in raster.bands]))
    first = members[0]
    return FoundModality(
        _title(parent.name) if folder else "rasters",
        folder,
        resolution=_resolution(first),
        cell_km=first.cell * (_KM if first.geographic else 0.001),
        cells=min(min(raster.grid.height, raster.grid.width) for raster in members),
        bounds=common_bounds([raster.bounds for raster in members]),
        bands=[replace(band, name=_word(next(short))) for raster in members for band in raster.bands],
        crs=first.grid.crs if any(raster.crs_is_guessed for raster in members) else None,
        grids=[raster.grid for raster in members],
    )


def _resolution(raster: Raster) -> str:
    if not raster.geographic:
        return f"{raster.cell:g} m"
    seconds, degrees = raster.cell * 3600, f"{raster.cell:.5g} degrees"
    size = f"{seconds:.0f} arc seconds" if abs(seconds - round(seconds)) < 0.01 else degrees
    return f"{size} (about {raster.cell * _KM:.2g} km)"


def _shortened(names: Sequence[str], alone: Sequence[bool]) -> list[str]:
    """Names of bands without what all of them share; bioclimatic variables by their number: bio1 … bio19.

    Args:
        names: of the bands.
        alone: whether each is the only one of its file: these are called as the file.
    """
    bioclim = [
        re.search(r"(?:^|[^a-z])bio(?:clim)?[_\s.-]*0*(\d{1,2})(?=$|[^\d])", name, re.IGNORECASE)
        for name in names
    ]
    short = [f"bio{match[1]}" if match else name for match, name in zip(bioclim, names, strict=True)]
    stems = [name for name, single in zip(short, alone, strict=True) if single]
    if any(bioclim) or len(stems) < 2:
        return short
    words = [re.split(r"[_\s.-]", stem) for stem in stems]
    while all(len(w) > 1 for w in words) and len({w[0] for w in words}) == 1:
        words = [w[1:] for w in words]
    while all(len(w) > 1 for w in words) and len({w[-1] for w in words}) == 1:
        words = [w[:-1] for w in words]
    shared = iter(["_".join(w) for w in words])
    return [next(shared) if single else name for name, single in zip(short, alone, strict=True)]


def _distinct(modalities: list[FoundModality]) -> None:
    """Make the names of modalities and of bands unique, and put the modalities in order."""
    modalities.sort(key=lambda modality: (modality.kind == "jpeg", modality.folder, modality.cell_km))
    for modality in modalities:
        if sum(other.name == modality.name for other in modalities) > 1:
            parent = Path(modality.folder).parent.name
            alike = [other for other in modalities if other.name == modality.name]
            if len({other.folder for other in alike}) == 1:
                for other in alike:
                    other.name = f"{other.name}_{_title(other.resolution.split(' (')[0])}"
            else:
                modality.name = f"{_title(parent)}_{modality.name}" if parent else f"{modality.name}_0"
    taken: set[str] = set()
    for modality in modalities:
        for position, band in enumerate(modality.bands):
            name, number = band.name, 2
            if name in taken:
                name = f"{modality.name}_{name}"
            while name in taken:
                name, number = f"{modality.name}_{band.name}_{number}", number + 1
            taken.add(name)
            modality.bands[position] = replace(band, name=name)


def _word(text: str) -> str:
    """Letters, digits, points and hyphens; everything else is an underscore."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_") or "unnamed"


def _title(text: str) -> str:
    """A word that may name a branch of a network: without points."""
    return _word(text).replace(".", "_")


def _natural(name: str) -> list[object]:
    """Sorts bio2 before bio10."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]
