"""The page that `glczoo region check` draws: where the samples lie, odd points, and every band in small."""

from collections.abc import Iterable, Mapping

import numpy as np

from glczoo.data.jpeg import SIDE
from glczoo.data.occurrences import Points, Samples, SpeciesIndex
from glczoo.data.patch_source import PatchSource
from glczoo.data.region import Region
from glczoo.data.sensitive import shown_places
from glczoo.figures.region import RegionPage, Thumbnail
from glczoo.regions.check_result import RegionCheck, TableName

__all__ = ["extent_of", "region_page"]

_CELLS = 240  # along a side of a thumbnail and of the map's background, at most
_TITLES = {"po": "presence-only records", "pa": "surveys", "test": "points"}


def region_page(
    region: Region,
    source: PatchSource,
    check: RegionCheck,
    tables: Mapping[TableName, Points],
    odd: Mapping[TableName, Mapping[str, np.ndarray]],
    species: SpeciesIndex,
) -> RegionPage:
    """What the page shows.

    Args:
        region: that was checked.
        source: its opened rasters and JPEG trees.
        check: the counts.
        tables: by their names.
        species: of the region: samples of sensitive ones are drawn at the centres of their cells.
        odd: table → reason → which of its points are suspicious, bool[N].
    """
    shown = {name: shown_places(points, species) for name, points in tables.items()}
    extent = extent_of(source, shown.values())
    return RegionPage(
        title=f"Region {region.name}",
        summary=_summary(check),
        land=_land(source, extent),
        extent=extent,
        tables={name: (points.lon, points.lat) for name, points in shown.items()},
        suspects={
            name: {r: (shown[name].lon[m], shown[name].lat[m]) for r, m in masks.items() if m.any()}
            for name, masks in odd.items()
        },
        records={
            name: np.bincount(points.species)
            for name, points in tables.items()
            if isinstance(points, Samples)
        },
        thumbnails=_thumbnails(region, source, check, tables),
    )


def extent_of(source: PatchSource, tables: Iterable[Points]) -> tuple[float, float, float, float]:
    """West, east, south, north of the points on the rasters, and a little more. `tables`: of points."""
    lon, lat = [], []
    for points in tables:
        on = np.ones(len(points), bool)
        for stack, place in zip(source.stacks, source.locate(points), strict=True):
            on &= ~stack.outside(*place)
        on = on if on.any() else ~on
        lon.append(points.lon[on])
        lat.append(points.lat[on])
    (west, east), (south, north) = ((np.min(a), np.max(a)) for a in map(np.concatenate, (lon, lat)))
    across, up = max(0.06 * (east - west), 0.01), max(0.06 * (north - south), 0.01)
    return west - across, east + across, south - up, north + up


def _land(source: PatchSource, extent: tuple[float, float, float, float]) -> np.ndarray:
    """Where every raster has data in some band, bool[240, 240], north up."""
    west, east, south, north = extent
    steps = (np.arange(_CELLS) + 0.5) / _CELLS
    lon, lat = np.meshgrid(west + steps * (east - west), north - steps * (north - south))
    land = np.full(lon.size, bool(source.stacks))
    for stack in source.stacks:
        land &= ~np.isnan(stack.values_at(lon.ravel(), lat.ravel())).all(axis=1)
    return land.reshape(lon.shape)


def _thumbnails(
    region: Region, source: PatchSource, check: RegionCheck, tables: Mapping[TableName, Points]
) -> list[Thumbnail]:
    groups, units = {}, {}
    for band, m in region.bands():
        units[band.name] = band.unit
        known = m.resolution not in ("", "unknown")
        groups[band.name] = f"{m.name}  {m.resolution}" if known else m.name
    drawn = {}
    for stack in source.stacks:
        (height, width), pad = stack.shape, stack.pad
        step = max(1, max(height, width) // _CELLS)
        values = stack.values[pad : pad + height : step, pad : pad + width : step]
        values = np.where(stack.missing(values), np.nan, values)
        for channel, name in enumerate(stack.bands):
            extremes = check.rasters[name]
            filled = max((table.filled.get(name, 0.0) for table in check.tables.values()), default=0.0)
            text = f"{extremes.min:.6g} to {extremes.max:.6g} {units[name]}\n"
            text += f"{_percent(extremes.missing)} no data"
            text += f"\n{_percent(filled)} filled" if filled else ""
            drawn[name] = Thumbnail(groups[name], name, values[..., channel], text)
    if source.jpegs is not None:
        there = [points.patch_id[~source.jpegs.missing(points.patch_id)] for points in tables.values()]
        ids = np.concatenate(there)
        if len(ids):
            pixels = source.jpegs.read(int(ids[0]), SIDE).numpy().astype(float)
            for channel, name in enumerate(source.jpegs.bands):
                values, unit = pixels[channel], units[name] or "0-255"
                text = f"patch {ids[0]}\n{values.min():.0f} to {values.max():.0f} of {unit}"
                drawn[name] = Thumbnail(groups[name], name, values, text)
    for images in source.images:
        ids = np.concatenate([points.patch_id for points in tables.values()])
        ids = ids[~images.missing(ids)]
        if len(ids):
            for name, values in zip(images.bands, images.read(ids[:1])[0], strict=True):
                low, high = np.nanmin(values, initial=np.inf), np.nanmax(values, initial=-np.inf)
                text = f"sample {ids[0]}\n{low:.6g} to {high:.6g} {units[name]}"
                drawn[name] = Thumbnail(groups[name], name, values.astype(float), text)
    return [drawn[name] for name in source.bands if name in drawn]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share == 0 or share >= 0.0005 else "<0.05 %"


def _summary(check: RegionCheck) -> list[str]:
    """Lines beside the title."""
    lines = [f"{len(check.bands)} bands, {check.species:,} species, patches of {check.patch_size} cells"]
    for name, table in check.tables.items():
        lines.append(f"{name.upper()}: {table.rows:,} {_TITLES[name]} at {table.places:,} places")
        if table.species is not None:
            line = f"     {table.species:,} species"
            line += f", {table.species_per_survey:.2f} a survey" if name == "pa" else ""
            line += f", {table.duplicates:,} duplicates" if table.duplicates else ""
            lines.append(line)
    problems = check.problems
    lines.append("Problems (the text of the check has all of them):" if problems else "No problems")
    return lines + [f"     {problem.split(', the first')[0][:60]}" for problem in problems[:5]]
