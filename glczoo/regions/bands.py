"""What the rasters and JPEG trees of a stranger's folder hold, grouped into modalities.

Names, units, CRS, nodata and resolution are the files' own where they say them; values are looked at on a
coarse grid of at most 256 x 256 cells.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import rasterio
import rasterio.warp
from rasterio.errors import RasterioError, RasterioIOError

from glczoo.data.jpeg import num_planes

__all__ = ["FoundBand", "FoundModality", "find_modalities"]

_RASTERS = {".tif", ".tiff", ".vrt", ".img", ".asc"}
_LOOK = 256  # cells along a side that values are looked at
# What people write where there is nothing, in files that do not say so.
_FILLS = (-9999, -99999, -32768, 32767, 65535, 255, -3.4028234663852886e38)
_KM = 111.32  # of a degree of latitude


@dataclass(frozen=True)
class FoundBand:
    """A band as `region.yaml` describes it, and what is told beside it."""

    name: str
    file: str  # relative to the modality's folder
    index: int = 1
    unit: str = ""
    nodata: float | None = None  # guessed, where the file says none
    comment: str = ""
    coded: bool = False  # whole numbers, of three values at most


@dataclass
class FoundModality:
    """Bands of one folder and one resolution."""

    name: str
    folder: str  # relative to the root
    kind: str = "raster"
    resolution: str = ""
    cell_km: float = 0.01
    cells: int = 128  # along the shorter side of its smallest raster
    bounds: tuple[float, float, float, float] = (-180, -90, 180, 90)  # common to its bands, in degrees
    bands: list[FoundBand] = field(default_factory=list)


@dataclass(frozen=True)
class _Raster:
    path: Path
    crs: str
    cell: float  # in units of the CRS
    geographic: bool
    cells: int
    bounds: tuple[float, float, float, float]
    bands: list[FoundBand]


def find_modalities(root: Path) -> tuple[list[FoundModality], list[str]]:
    """Look at every raster and JPEG tree under a folder.

    Returns:
        Modalities, one for each folder, CRS and resolution, in the order of their names; and what cannot be
        used, with the reason.
    """
    files, trees = _walk(root)
    rasters, unusable = [], []
    for path in files:
        try:
            rasters.append(_look(path))
        except (RasterioError, ValueError) as error:
            unusable.append(f"{path.relative_to(root)}: {error}")
    modalities = []

    def kin(raster: _Raster) -> tuple[str, str, str]:
        return str(raster.path.parent), raster.crs, f"{raster.cell:.3g}"

    for _, members in groupby(sorted(rasters, key=lambda r: (kin(r), _natural(r.path.name))), key=kin):
        modalities.append(_modality(root, list(members)))
    for parent, group in groupby(trees, key=lambda tree: tree.parent):
        folder = "" if parent == root else parent.relative_to(root).as_posix()
        bands = [band for tree in group for band in _jpeg_bands(tree)]
        name = _title(parent.name) if folder else "images"
        modalities.append(FoundModality(name, folder, "jpeg", resolution="unknown", bands=bands))
    _distinct(modalities)
    return modalities, unusable


def _walk(root: Path) -> tuple[list[Path], list[Path]]:
    """Raster files, and folders that hold JPEG patches as CD/AB/XXABCD.jpeg."""
    rasters, trees = [], []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if any(re.fullmatch(r"\d{1,2}", name) for name in subfolders) and _first_jpeg(Path(folder)):
            trees.append(Path(folder))
            subfolders.clear()  # millions of files may lie there
        rasters += [Path(folder, n) for n in names if Path(n).suffix.lower() in _RASTERS and n[0] != "."]
    return rasters, sorted(trees, key=lambda tree: (str(tree.parent), tree.name != "rgb", tree.name))


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


def _look(path: Path) -> _Raster:
    with rasterio.open(path) as source:
        if source.crs is None:
            raise ValueError("has no CRS; set one, for example with `rio edit-info --crs EPSG:4326`")
        if source.transform.is_identity:
            raise ValueError("has no georeference")
        bounds = rasterio.warp.transform_bounds(source.crs, "EPSG:4326", *source.bounds)
        bands = [_band(source, index) for index in source.indexes]
        return _Raster(
            path, source.crs.to_string(), abs(source.transform.a) or abs(source.transform.b),
            source.crs.is_geographic, min(source.shape), bounds, bands,
        )  # fmt: skip


def _band(source: rasterio.DatasetReader, index: int) -> FoundBand:
    shape = tuple(min(side, _LOOK) for side in source.shape)
    try:
        values = source.read(index, out_shape=shape)
    except RasterioIOError as error:
        raise ValueError(f"is damaged: {error}") from None
    dtype, own = source.dtypes[index - 1], source.nodatavals[index - 1]
    if values.dtype.kind == "c":
        raise ValueError("holds complex numbers")
    known = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    if own is not None and not np.isnan(own):
        known &= ~np.isclose(values, own, rtol=1e-6, atol=0)
    nodata = _fill(values[known]) if own is None else None
    if nodata is not None:
        known &= ~np.isclose(values, nodata, rtol=1e-6, atol=0)
    if not known.any():
        raise ValueError(
            f"band {index} has no data" + (f" beside its nodata {own:g}" if own is not None else "")
        )
    distinct = np.unique(values[known])
    described = (source.descriptions[index - 1] or "").strip()
    notes = [described] if described else []
    if len(distinct) == 1:
        notes.append(f"{dtype}, {distinct[0]:g} everywhere: leave it out?")
    else:
        notes.append(f"{dtype}, about {distinct[0]:g} to {distinct[-1]:g}")
    if nodata is not None:
        notes.append("nodata is a guess, the file says none")
    elif own is None:
        notes.append("the file says no nodata")
    notes += [f"{(~known).mean():.0%} no data"] if not known.all() else []
    return FoundBand(
        name=_band_name(source, index),
        file=Path(source.name).name,
        index=index,
        unit=_unit(source, index),
        nodata=nodata,
        comment="; ".join(notes),
        coded=len(distinct) <= 3 and bool((distinct == np.round(distinct)).all()),
    )


def _fill(values: np.ndarray) -> float | None:
    """A usual fill value that stands apart from all others: further than they reach."""
    for fill in _FILLS:
        equal = np.isclose(values, fill, rtol=1e-6, atol=0)
        rest = values[~equal].astype(np.float64)
        if equal.any() and len(rest):
            gap = max(rest.min() - fill, fill - rest.max())
            if gap > max(np.ptp(rest), 1):
                return fill
    return None


def _unit(source: rasterio.DatasetReader, index: int) -> str:
    """Unit of the stored values, with the file's scale before it."""
    tags = {key.lower(): value for key, value in source.tags(index).items()}
    described = source.descriptions[index - 1] or ""
    bracket = re.search(r"[(\[]([^()\[\]]{1,20})[)\]]\s*$", described)
    unit = source.units[index - 1] or tags.get("units") or tags.get("unit") or (bracket and bracket[1]) or ""
    scale, offset = source.scales[index - 1], source.offsets[index - 1]
    if scale != 1:
        unit = f"{scale:g} {unit}".strip()
    return f"{unit} from {offset:g}".strip() if offset else unit


def _band_name(source: rasterio.DatasetReader, index: int) -> str:
    """The description's first word if it is one, else the file's name and the band's number."""
    stem = Path(source.name).stem
    if source.count == 1:
        return stem
    described = re.split(r"[:(\[]", source.descriptions[index - 1] or "")[0].strip()
    if re.fullmatch(r"[A-Za-z][\w.-]{0,23}", described):
        return described
    colour = source.colorinterp[index - 1].name
    return colour if colour in ("red", "green", "blue") else f"{stem}_{index}"


def _modality(root: Path, members: list[_Raster]) -> FoundModality:
    parent = members[0].path.parent
    folder = "" if parent == root else parent.relative_to(root).as_posix()
    stems = [raster.path.stem for raster in members if len(raster.bands) == 1]
    short = dict(zip(stems, _shortened(stems), strict=True))
    sides = np.array([raster.bounds for raster in members])
    (west, south), (east, north) = sides[:, :2].max(axis=0).tolist(), sides[:, 2:].min(axis=0).tolist()
    first = members[0]
    unit_km = _KM if first.geographic else 0.001
    return FoundModality(
        _title(parent.name) if folder else "rasters",
        folder,
        resolution=_resolution(first),
        cell_km=first.cell * unit_km,
        cells=min(raster.cells for raster in members),
        bounds=(west, south, east, north),
        bands=[
            FoundBand(**{**vars(band), "name": _word(short.get(band.name, band.name))})
            for raster in members
            for band in raster.bands
        ],
    )


def _resolution(raster: _Raster) -> str:
    if not raster.geographic:
        return f"{raster.cell:g} m"
    seconds, degrees = raster.cell * 3600, f"{raster.cell:.5g} degrees"
    size = f"{seconds:.0f} arc seconds" if abs(seconds - round(seconds)) < 0.01 else degrees
    return f"{size} (about {raster.cell * _KM:.2g} km)"


def _shortened(stems: Sequence[str]) -> list[str]:
    """File names without what all of them share; bioclimatic variables by their number: bio1 … bio19."""
    bioclim = [
        re.search(r"(?:^|[^a-z])bio[_-]?0*(\d{1,2})(?=$|[^\d])", stem, re.IGNORECASE) for stem in stems
    ]
    if any(bioclim):
        return [f"bio{match[1]}" if match else stem for match, stem in zip(bioclim, stems, strict=True)]
    if len(stems) < 2:
        return list(stems)
    words = [re.split(r"[_\s.-]", stem) for stem in stems]
    while all(len(w) > 1 for w in words) and len({w[0] for w in words}) == 1:
        words = [w[1:] for w in words]
    while all(len(w) > 1 for w in words) and len({w[-1] for w in words}) == 1:
        words = [w[:-1] for w in words]
    return ["_".join(w) for w in words]


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
            modality.bands[position] = FoundBand(**{**vars(band), "name": name})


def _word(text: str) -> str:
    """Letters, digits, points and hyphens; everything else is an underscore."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_") or "unnamed"


def _title(text: str) -> str:
    """A word that may name a branch of a network: without points."""
    return _word(text).replace(".", "_")


def _natural(name: str) -> list[object]:
    """Sorts bio2 before bio10."""
    return [(int(part), "") if part.isdigit() else (-1, part.lower()) for part in re.split(r"(\d+)", name)]
