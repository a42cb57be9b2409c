"""Read a region once and say what is there, in words and in a picture, before anyone waits for a run."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from glczoo.data.jpeg import SIDE
from glczoo.data.occurrences import Points, Samples, SpeciesIndex
from glczoo.data.patch_source import PatchSource
from glczoo.data.rasters import RasterStack
from glczoo.data.region import Region
from glczoo.data.splits import leakage
from glczoo.data.tables import read_folds, read_points, read_samples, read_species
from glczoo.figures.region import RegionPage, Thumbnail, draw_region
from glczoo.figures.style import save
from glczoo.regions.suspects import num_duplicates, suspects

__all__ = ["check_region", "check_text", "extent_of", "read_table"]


_ROWS = 256  # of a raster looked at at a time: bounds the memory
_SIDE = 240  # cells along a side of a thumbnail and of the map's background, at most


def check_region(
    region: Region,
    patch_size: int | None = None,
    progress: bool = True,
    picture: Path | None = None,
    buffer_km: float = 0.0,
) -> dict[str, Any]:
    """Count surveys, species, points outside, missing and unreadable patches, filled cells, odd points.

    Every table, raster and JPEG patch that the tables name is read once. What can be counted is counted;
    the findings that would stop a training run are listed under `problems`, and so is a fixed split whose
    sides come nearer than `buffer_km`, or share a place.

    Args:
        region: to check.
        patch_size: cells along a side, the region's if None.
        progress: show bars.
        picture: a PNG to write, of one page; where that cannot be, it is a problem and no error.
        buffer_km: how far apart the sides of a fixed split should be.

    Returns:
        JSON values: region, root, bands, species, rasters (min, max and share of cells without data, by
        band), tables (by name), problems, and split (surveys of each side, nearest_km, within) where the
        region has a fixed one.

    Raises:
        FileNotFoundError: a table or raster is not there.
        ValueError: a table or raster cannot be read at all.
    """
    source = PatchSource(region, None, patch_size)
    species = read_species(region)
    found: dict[str, Any] = {
        "region": region.name,
        "root": str(region.root_path),
        "bands": source.bands,
        "patch_size": source.size,
        "species": len(species),
        "rasters": {band: facts for stack in source.stacks for band, facts in _ranges(stack).items()},
        "tables": {},
        "problems": [],
    }
    seen: dict[str, Points] = {}
    odd: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]] = {}
    for name in ("po", "pa", "test"):
        if name not in region.tables:
            continue
        try:
            points = read_table(region, name, species)
            counts = _check_table(name, points, source, found["problems"], progress)
            masks = suspects(points, source, region.bounds)
            counts["suspicious"] = {reason: int(mask.sum()) for reason, mask in masks.items()}
            found["tables"][name], seen[name] = counts, points
            odd[name] = {r: (points.lon[mask], points.lat[mask]) for r, mask in masks.items() if mask.any()}
        except FileNotFoundError as error:
            if name != "test":  # the organisers' sample and many regions come without one
                raise
            found["problems"].append(str(error))
    if region.split and "pa" in region.tables:
        found["split"] = _check_split(region, species, buffer_km, found["problems"])
    if picture is not None:
        try:
            _draw(picture, region, source, found, seen, odd)
            found["picture"] = str(picture)
        except OSError as error:  # the counts are worth having without
            found["problems"].append(f"no picture: {error}; name another place: --out FILE.png")
    return found


def read_table(region: Region, name: Literal["po", "pa", "test"], species: SpeciesIndex) -> Points:
    """The places of a table, with their species where it names any; see `occurrences`."""
    if name != "test":
        return read_samples(region, name, species)
    described = region.table("test")
    return read_points(region, region.find(*described.file), described)


def _check_split(
    region: Region, species: SpeciesIndex, buffer_km: float, problems: list[str]
) -> dict[str, Any]:
    """How near the held-out folds come to the others."""
    assert region.split is not None
    surveys = read_samples(region, "pa", species)
    held_out = np.isin(read_folds(region, surveys)[0], region.split.test)
    near = leakage(surveys.at(~held_out), surveys.at(held_out), max(buffer_km, 1e-3))
    if near.within:
        problems.append(
            f"split: {near.within} of {held_out.sum()} held-out surveys lie within {near.buffer_km:g} km of "
            f"one that trains, the nearest at {near.nearest_km:.3g} km: the result will flatter"
        )
    nearest = near.nearest_km if np.isfinite(near.nearest_km) else None
    return {
        "held_out": int(held_out.sum()),
        "training": int((~held_out).sum()),
        "nearest_km": nearest,
        "within": near.within,
    }


def _check_table(
    name: str, points: Points, source: PatchSource, problems: list[str], progress: bool
) -> dict[str, Any]:
    if not isinstance(points, Samples):
        counts: dict[str, Any] = {"points": len(points)}
    else:
        surveys, sizes = points, points.sizes()
        counts = {
            "surveys": len(surveys),
            "occurrences": int(sizes.sum()),
            "species": len(np.unique(surveys.species)),
            "species_per_survey": float(sizes.mean()),
            "surveys_without_species": int((sizes == 0).sum()),
            "sources": list(surveys.source_names),
        }
        if surveys.presence_only:
            counts["duplicates"] = num_duplicates(surveys)
    counts["places"] = len(np.unique(np.stack([points.lon, points.lat]), axis=1).T)
    lacks = source.incomplete(points)
    for reason, mask in lacks.items():
        counts[reason] = int(mask.sum())
        if mask.any():
            first = points.named(int(mask.argmax()))
            problems.append(f"{name}: {mask.sum()} of {len(points)} {reason}, the first: {first}")
    readable = ~np.any([*lacks.values(), np.zeros(len(points), bool)], axis=0)
    if source.jpegs is not None:
        unreadable = []
        whole = ~next(reversed(lacks.values()))
        ids = np.unique(points.patch_id[whole]).tolist()
        for patch in tqdm(ids, f"{name} patches", leave=False, disable=not progress):
            try:
                source.jpegs.read(patch, 1)
            except ValueError as error:
                unreadable.append(str(error))
        counts["unreadable patches"] = len(unreadable)
        if unreadable:
            problems.append(
                f"{name}: {len(unreadable)} patches cannot be decoded, the first: {unreadable[0]}"
            )
    counts["filled"] = source.filled(points.at(readable)) if readable.any() else {}
    return counts


def check_text(found: dict[str, Any]) -> str:
    """What `check_region` found, for people."""
    lines = [
        f"region {found['region']} at {found['root']}: {len(found['bands'])} bands, "
        f"{found['species']} species, patches of {found['patch_size']} cells"
    ]
    for name, counts in found["tables"].items():
        lines.append(f"\n{name}")
        for key, value in counts.items():
            if key == "filled":
                worst = sorted(value.items(), key=lambda item: -item[1])[:3]
                told = (
                    ", ".join(f"{band} {100 * share:.2f} %" for band, share in worst if share > 0) or "none"
                )
                lines.append(f"  filled cells (most)  {told}")
            elif key == "suspicious":
                lines += [f"  {reason}  {number}" for reason, number in value.items() if number]
            elif key == "sources":
                lines.append(f"  sources  {', '.join(value[:5])}" + (" …" if len(value) > 5 else ""))
            else:
                lines.append(f"  {key}  {value:.2f}" if isinstance(value, float) else f"  {key}  {value}")
    if split := found.get("split"):
        near = (
            f", {split['nearest_km']:.3g} km apart at the nearest" if split["nearest_km"] is not None else ""
        )
        lines.append(f"\nsplit  {split['held_out']} surveys held out of {split['training']} others{near}")
    problems = found["problems"]
    lines.append("\nno problems" if not problems else "\nproblems\n  " + "\n  ".join(problems))
    return "\n".join(lines)


def _ranges(stack: RasterStack) -> dict[str, dict[str, float]]:
    """Least and greatest value and share of cells without data of each band, exact."""
    (height, width), pad = stack.shape, stack.pad
    low, high = np.full(len(stack.bands), np.inf), np.full(len(stack.bands), -np.inf)
    missing = np.zeros(len(stack.bands), np.int64)
    for top in range(pad, pad + height, _ROWS):
        values = stack.values[top : min(top + _ROWS, pad + height), pad : pad + width]
        lacks = stack.missing(values)
        low = np.minimum(low, np.where(lacks, np.inf, values).min(axis=(0, 1)))
        high = np.maximum(high, np.where(lacks, -np.inf, values).max(axis=(0, 1)))
        missing += lacks.sum(axis=(0, 1))
    share = missing / (height * width)
    return {
        band: {"min": float(low[i]), "max": float(high[i]), "missing": float(share[i])}
        for i, band in enumerate(stack.bands)
    }


def _draw(
    path: Path,
    region: Region,
    source: PatchSource,
    found: dict[str, Any],
    seen: dict[str, Points],
    odd: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]],
) -> None:
    places = {name: (points.lon, points.lat) for name, points in seen.items()}
    extent = extent_of(source, seen)
    page = RegionPage(
        title=f"Region {region.name}",
        summary=_summary(found),
        land=_land(source, extent),
        extent=extent,
        tables=places,
        suspects=odd,
        records={
            name: np.bincount(points.species) for name, points in seen.items() if isinstance(points, Samples)
        },
        thumbnails=_thumbnails(region, source, found, seen),
    )
    save(draw_region(page), path)


def extent_of(source: PatchSource, seen: dict[str, Points]) -> tuple[float, float, float, float]:
    """West, east, south, north of the points on the rasters, and a little more."""
    lon, lat = [], []
    for points in seen.values():
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
    steps = (np.arange(_SIDE) + 0.5) / _SIDE
    lon, lat = np.meshgrid(west + steps * (east - west), north - steps * (north - south))
    land = np.full(lon.size, bool(source.stacks))
    for stack in source.stacks:
        land &= ~np.isnan(stack.values_at(lon.ravel(), lat.ravel())).all(axis=1)
    return land.reshape(lon.shape)


def _thumbnails(
    region: Region, source: PatchSource, found: dict[str, Any], seen: dict[str, Points]
) -> list[Thumbnail]:
    told = {
        band.name: (m.name + f"  {m.resolution}" * (m.resolution not in ("", "unknown")), band.unit)
        for band, m in region.bands()
    }
    drawn = {}
    for stack in source.stacks:
        (height, width), pad = stack.shape, stack.pad
        step = max(1, max(height, width) // _SIDE)
        values = stack.values[pad : pad + height : step, pad : pad + width : step]
        values = np.where(stack.missing(values), np.nan, values)
        for channel, band in enumerate(stack.bands):
            facts = found["rasters"][band]
            filled = max(counts["filled"].get(band, 0.0) for counts in found["tables"].values())
            group, unit = told[band]
            text = f"{facts['min']:.6g} to {facts['max']:.6g} {unit}\n{_percent(facts['missing'])} no data"
            text += f"\n{_percent(filled)} filled" if filled else ""
            drawn[band] = Thumbnail(group, band, values[..., channel], text)
    if source.jpegs is not None:
        ids = np.concatenate(
            [points.patch_id[~source.jpegs.missing(points.patch_id)] for points in seen.values()]
        )
        if len(ids):
            pixels = source.jpegs.read(int(ids[0]), SIDE).numpy().astype(float)
            for channel, band in enumerate(source.jpegs.bands):
                values = pixels[channel]
                text = (
                    f"patch {ids[0]}\n{values.min():.0f} to {values.max():.0f} of {told[band][1] or '0-255'}"
                )
                drawn[band] = Thumbnail(told[band][0], band, values, text)
    return [drawn[band] for band in source.bands if band in drawn]


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share == 0 or share >= 0.0005 else "<0.05 %"


def _summary(found: dict[str, Any]) -> list[str]:
    """Lines for the page."""
    lines = [
        f"{len(found['bands'])} bands, {found['species']:,} species, patches of {found['patch_size']} cells"
    ]
    for name, counts in found["tables"].items():
        number = counts.get("surveys", counts.get("points"))
        what = {"po": "presence-only records", "pa": "surveys", "test": "points"}[name]
        lines.append(f"{name.upper()}: {number:,} {what} at {counts['places']:,} places")
        if "species" in counts:
            told = f"     {counts['species']:,} species"
            told += f", {counts['species_per_survey']:.2f} a survey" if name == "pa" else ""
            told += f", {counts['duplicates']:,} duplicates" if counts.get("duplicates") else ""
            lines.append(told)
    problems = found["problems"]
    lines.append("Problems (the first is named in the text of the check):" if problems else "No problems")
    return lines + [f"     {problem.split(', the first')[0][:60]}" for problem in problems[:5]]
