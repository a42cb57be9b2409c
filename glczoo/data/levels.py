"""What the levels of categorical bands are called: in region.yaml, or in GDAL's file beside the raster."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

from glczoo.data.region import Band, Modality, Region

__all__ = ["category_names", "level_names"]

_LARGEST = 2**20  # bytes of a file of names
_CLASS_NAMES = "2"  # what GDAL's attribute tables call the column of names (GFU_Name)
_CODES = ("5", "0", "3")  # and that of codes: GFU_MinMax, GFU_Generic, GFU_Min


def level_names(
    region: Region, levels: Mapping[str, Sequence[int]], modalities: Sequence[Modality] | None = None
) -> dict[str, dict[int, str]]:
    """Names of the levels of categorical bands, as far as they have any.

    Args:
        region: whose bands.
        levels: of each band.
        modalities: to look at, None for all.

    Returns:
        band → level → name. Names in region.yaml go before those beside the raster.
    """
    named: dict[str, dict[int, str]] = {}
    for modality in region.modalities if modalities is None else modalities:
        for band in modality.bands:
            if band.name in levels:
                known = _beside(region, modality, band) | band.levels
                named[band.name] = {level: known[level] for level in levels[band.name] if level in known}
    return named


def _beside(region: Region, modality: Modality, band: Band) -> dict[int, str]:
    if modality.kind != "raster":
        return {}
    try:
        return category_names(region.find_file(modality, band.file), band.index)
    except FileNotFoundError:
        return {}


def category_names(path: Path, index: int = 1) -> dict[int, str]:
    """Names of the classes of a raster's band by their codes, from NAME.aux.xml; none where there are none.

    Args:
        path: of the raster.
        index: of the band, counted from 1.
    """
    beside = path.with_name(f"{path.name}.aux.xml")
    if not beside.is_file() or beside.stat().st_size > _LARGEST:
        return {}
    text = beside.read_text("utf-8", errors="replace")
    if "<!" in text:  # names need no entities, which may unfold without end
        return {}
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return {}
    for band in root.iter("PAMRasterBand"):
        if band.get("band") == str(index):
            return _categories(band) or _attributes(band)
    return {}


def _categories(band: ElementTree.Element) -> dict[int, str]:
    """GDAL's list of names, whose first is that of code 0."""
    names = [(each.text or "").strip() for each in band.iter("Category")]
    return {code: name for code, name in enumerate(names) if name}


def _attributes(band: ElementTree.Element) -> dict[int, str]:
    """Names of a raster attribute table."""
    usages = [(field.findtext("Usage") or "").strip() for field in band.iter("FieldDefn")]
    codes = [usages.index(usage) for usage in _CODES if usage in usages]
    if not codes or _CLASS_NAMES not in usages:
        return {}
    named = {}
    for row in band.iter("Row"):
        cells = [(cell.text or "").strip() for cell in row.iter("F")]
        try:
            named[int(float(cells[codes[0]]))] = cells[usages.index(_CLASS_NAMES)]
        except (ValueError, IndexError, OverflowError):
            continue
    return {code: name for code, name in named.items() if name}
