"""Read a region once and report what is there, in words and in a picture, before anyone waits for a run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from glczoo.data.occurrences import Points, Samples, SpeciesIndex
from glczoo.data.patch_source import PatchSource
from glczoo.data.rasters import RasterStack
from glczoo.data.region import Region
from glczoo.data.sample_columns import NO_KEY
from glczoo.data.sensitive import shown_places
from glczoo.data.splits import leakage
from glczoo.data.table_rows import Reading
from glczoo.data.tables import read_and_report, read_folds, read_points, read_samples, read_species
from glczoo.data.values import Values
from glczoo.figures.region import draw_region
from glczoo.figures.style import save
from glczoo.progress import Track
from glczoo.regions.bands import raster_doubts
from glczoo.regions.check_page import region_page
from glczoo.regions.check_result import BandRange, RegionCheck, SplitCheck, TableCheck, TableName
from glczoo.regions.misgivings import doubts_of_names, doubts_of_patches, doubts_of_samples
from glczoo.regions.suspects import num_duplicates, suspects

__all__ = ["check_region", "read_table"]

TABLES: tuple[TableName, ...] = ("po", "pa", "test")
_LINES = 256  # of a raster looked at at a time: bounds the memory


def check_region(
    region: Region,
    patch_size: int | None = None,
    progress: bool = True,
    picture: Path | None = None,
    buffer_km: float = 0.0,
) -> RegionCheck:
    """Count samples, species, points outside, missing and unreadable patches, filled cells, odd points.

    Every table, raster and JPEG patch that the tables name is read once. What can be counted is counted;
    what would stop or mislead a training run is listed under `problems`, and so is a fixed split whose parts
    come nearer than `buffer_km`, or share a place.

    Args:
        region: to check.
        patch_size: cells along a side, the region's if None.
        progress: show bars.
        picture: a PNG to write, of one page; where that cannot be, it is a problem and no error.
        buffer_km: how far apart the parts of a fixed split should be.

    Raises:
        MissingError: a table or raster is not there.
        GlczooError: a table or raster cannot be read at all.
    """
    source = PatchSource(region, None, patch_size)
    species = read_species(region)
    ranges = {band: each for stack in source.stacks for band, each in _ranges(stack).items()}
    ranges |= {band: each for table in source.tables for band, each in _ranges_of_values(table).items()}
    check = RegionCheck(
        region.name, str(region.root_path), source.bands, source.size, len(species), rasters=ranges
    )
    check.problems += raster_doubts(region)
    tables: dict[TableName, Points] = {}
    odd: dict[TableName, dict[str, np.ndarray]] = {}
    for name in TABLES:
        if name not in region.tables:
            continue
        reading = Reading()
        try:
            if name == "test":
                points = read_table(region, name, species)
            else:
                points, reading = read_and_report(region, name, species)
        except FileNotFoundError as error:
            if name != "test":  # the organisers' sample and many regions come without one
                raise
            check.problems.append(str(error))
            continue
        check.problems += [f"{name}: {problem}" for problem in reading.stops]
        if isinstance(points, Samples):
            check.problems += [f"{name}: {doubt}" for doubt in doubts_of_samples(points, species)]
        check.tables[name] = _check_table(name, points, source, species, check.problems, progress)
        check.tables[name].left_out, check.tables[name].notes = reading.left_out, reading.notes
        tables[name], odd[name] = points, suspects(points, source, region.bounds)
        check.tables[name].suspicious = {reason: int(mask.sum()) for reason, mask in odd[name].items()}
        check.problems += [f"{name}: {doubt}" for doubt in doubts_of_patches(check.tables[name], source.size)]
    check.problems += doubts_of_names(species)
    check.guesses = region.guesses()
    check.citations = [": ".join(filter(None, parts)) for parts in region.citations()]
    if region.split and "pa" in region.tables:
        check.split = _check_split(region, species, buffer_km, check.problems)
    if picture is not None:
        try:
            save(draw_region(region_page(region, source, check, tables, odd, species)), picture)
            check.picture = str(picture)
        except OSError as error:  # the counts are worth having without
            check.problems.append(f"no picture: {error}; name another place: --out FILE.png")
    return check


def read_table(region: Region, name: TableName, species: SpeciesIndex) -> Points:
    """The places of a table, with their species where it names any; see `occurrences`."""
    if name != "test":
        return read_samples(region, name, species)
    table = region.table("test")
    return read_points(region, region.find(*table.file), table)


def _check_split(region: Region, species: SpeciesIndex, buffer_km: float, problems: list[str]) -> SplitCheck:
    assert region.split is not None
    surveys = read_samples(region, "pa", species)
    held_out = np.isin(read_folds(region, surveys)[0], region.split.test)
    near = leakage(surveys.at(~held_out), surveys.at(held_out), max(buffer_km, 1e-3))
    if near.within:
        problems.append(
            f"split: {near.within} of {held_out.sum()} held-out surveys lie within {near.buffer_km:g} km of "
            f"one that trains, the nearest at {near.nearest_km:.3g} km: the score will be optimistic"
        )
    nearest = near.nearest_km if np.isfinite(near.nearest_km) else None
    return SplitCheck(int(held_out.sum()), int((~held_out).sum()), nearest, near.within)


def _check_table(
    name: TableName,
    points: Points,
    source: PatchSource,
    species: SpeciesIndex,
    problems: list[str],
    progress: bool,
) -> TableCheck:
    places = len(np.unique(np.stack([points.lon, points.lat]), axis=1).T)
    check = TableCheck(name, len(points), places)
    if isinstance(points, Samples):
        sizes = points.sizes()
        check.occurrences, check.species = int(sizes.sum()), len(np.unique(points.species))
        check.species_per_survey = float(sizes.mean()) if len(sizes) else 0.0
        check.without_species = int((sizes == 0).sum())
        check.datasets = list(points.dataset_names)
        check.duplicates = num_duplicates(points) if points.presence_only else None
    reasons = source.incomplete(points)
    for reason, mask in reasons.items():
        check.incomplete[reason] = int(mask.sum())
        if mask.any():
            first = shown_places(points, species).named(int(mask.argmax()))
            problems.append(f"{name}: {mask.sum()} of {len(points)} {reason}, the first: {first}")
    for reason, mask in source.gaps(points).items():
        check.filled_samples[reason] = int(mask.sum())
        if mask.any():
            problems.append(
                f"{name}: {mask.sum()} of {len(points)} {reason}, filled with the mean: "
                f"{_named(points, np.flatnonzero(mask), source)}"
            )
    unreadable = _unreadable_patches(source, points, f"{name} patches" if progress else "")
    check.unreadable_patches = len(unreadable)
    if unreadable:
        problems.append(f"{name}: {len(unreadable)} patches cannot be decoded, the first: {unreadable[0]}")
    readable = ~np.any([*reasons.values(), np.zeros(len(points), bool)], axis=0)
    check.filled = source.filled(points.at(readable)) if readable.any() else {}
    return check


def _unreadable_patches(source: PatchSource, points: Points, title: str) -> list[str]:
    """What is wrong with the points' JPEG patches, cubes and TIFFs that are there and cannot be decoded."""
    jpegs, unreadable = source.jpegs, []
    if jpegs is not None:
        there = points.patch_id[~jpegs.missing(points.patch_id)]
        unreadable += _errors_of(lambda patch: jpegs.read(patch, 1), there, title)
    for images in source.images:
        there = points.patch_id[~images.missing(points.patch_id)]
        unreadable += _errors_of(images.read_one, there, title)
    return unreadable


def _errors_of(read: Callable[[int], object], patches: np.ndarray, title: str) -> list[str]:
    """What is said of those patches that cannot be read."""
    errors = []
    for patch in Track(np.unique(patches).tolist(), title, hidden=not title):
        try:
            read(patch)
        except ValueError as error:
            errors.append(str(error))
    return errors


def _named(points: Points, index: np.ndarray, source: PatchSource) -> str:
    """The first of some points, by their keys where their bands have one."""
    keys = {table.key: points.columns[table.key] for table in source.tables if table.key in points.columns}
    if not keys:
        return f"the first: {points.named(int(index[0]))}"
    key, column = next(iter(keys.items()))
    shown = ", ".join("none" if each in ("", NO_KEY) else str(each) for each in column[index[:5]].tolist())
    return f"{key} {shown}{' …' if len(index) > 5 else ''}"


def _ranges_of_values(table: Values) -> dict[str, BandRange]:
    """Of each band of a table over all of its rows."""
    rows = table.everywhere()
    if not len(rows):  # they stand in the samples' own rows
        return {}
    values = rows.at(slice(None))
    missing = np.isnan(values)
    low = np.where(missing, np.inf, values).min(axis=0).tolist()
    high = np.where(missing, -np.inf, values).max(axis=0).tolist()
    share = missing.mean(axis=0).tolist()
    return {band: BandRange(low[i], high[i], share[i]) for i, band in enumerate(table.bands)}


def _ranges(stack: RasterStack) -> dict[str, BandRange]:
    """Least and greatest value and share of cells without data of each band, exact."""
    (height, width), pad = stack.shape, stack.pad
    low, high = np.full(len(stack.bands), np.inf), np.full(len(stack.bands), -np.inf)
    num_missing = np.zeros(len(stack.bands), np.int64)
    for top in range(pad, pad + height, _LINES):
        values = stack.values[top : min(top + _LINES, pad + height), pad : pad + width]
        missing = stack.missing(values)
        low = np.minimum(low, np.where(missing, np.inf, values).min(axis=(0, 1)))
        high = np.maximum(high, np.where(missing, -np.inf, values).max(axis=(0, 1)))
        num_missing += missing.sum(axis=(0, 1))
    share = num_missing / (height * width)
    return {
        band: BandRange(float(low[i]), float(high[i]), float(share[i])) for i, band in enumerate(stack.bands)
    }
