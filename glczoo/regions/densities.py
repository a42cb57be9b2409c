"""Presence-only records as rasters: which share of the records nearby is of each species.

What is recorded around a place says which species the region holds there, beyond what climate and soil say.
The rasters are bands like any other, named in a region of their own: `glczoo region densities REGION`.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
import torch
import torch.nn.functional as F

from glczoo.data.patch_source import PatchSource
from glczoo.data.raster_files import write_geotiff
from glczoo.data.region import Band, Modality, Region
from glczoo.data.sensitive import shown_places
from glczoo.data.tables import read_samples, read_species
from glczoo.errors import ExistsError, GlczooError
from glczoo.files import lock, whole

__all__ = ["DENSITIES", "add_modality", "write_densities"]

DENSITIES = "densities"
"""Name of the modality that holds shares of records nearby."""
_PRIOR = (
    2.0  # records as the whole region has them, added everywhere: where none is near, the share is theirs
)
_LARGEST = 16e9  # bytes of all rasters together


def write_densities(
    region: Region, out: Path, cells: Sequence[float] = (1.5, 5.0, 15.0), coarser: int = 1
) -> Region:
    """Write a raster of every species' share of the records nearby, and the region that names them.

    A band holds log((n_k + 2 s_k) / (n + 2)): n_k records of the species and n of all are weighed by a
    Gaussian of the distance that is 1 at the cell itself, s_k is the species' share of all records.

    Args:
        region: its first modality of rasters gives the grid, its PO table the records.
        out: folder for density_CELLS.tif, a band for each species, and for region.yaml: the region with one
            more modality, `densities`, its last. It takes the place of one that the region has: a published
            model brings none along.
        cells: standard deviations of the Gaussians, in cells of the grid: where those are degrees, fewer
            kilometres from west to east than from south to north.
        coarser: so many cells of the grid along each side are one cell here, which `cells` count too.

    Returns:
        The region that was written.

    Raises:
        ExistsError: `out` holds a region.
        MissingError: data are missing.
        GlczooError: the region has no rasters, no record lies on them, a width is not positive or named
            twice, the rasters would take more than 16 GB, or another process writes there.
    """
    with lock(out / "region.yaml"):
        if (out / "region.yaml").exists():
            raise ExistsError(f"{out} holds a region.yaml; name another folder or delete it first")
        return _write_densities(region, out, cells, coarser)


def _write_densities(region: Region, out: Path, cells: Sequence[float], coarser: int) -> Region:
    """Write them in a folder in which no other process works."""
    if not cells or min(cells) <= 0 or len(set(cells)) < len(cells):
        raise GlczooError(f"cells must be different numbers above 0, got {list(cells)}")
    base = next((modality for modality in region.modalities if modality.kind == "raster"), None)
    if base is None:
        raise GlczooError(f"region {region.name} has no rasters: there is no grid to count records on")
    species = read_species(region)
    stack = PatchSource(region, [base.name], 1).stacks[0]
    height, width = (-(-cells_along // coarser) for cells_along in stack.shape)
    if (size := 4.0 * height * width * len(species) * len(cells)) > _LARGEST:
        raise GlczooError(
            f"{len(cells)} densities of {len(species)} species on {height} x {width} cells would take "
            f"{size / 1e9:.0f} GB; they are meant for smaller regions, of hundreds of species"
        )
    records = shown_places(
        read_samples(region, "po", species), species
    )  # sensitive ones at their cells' centres
    row, col = stack.locate(records.lon, records.lat)
    inside = ~stack.outside(row, col)
    if not inside.any():
        raise GlczooError(f"no record of {region.name} lies on the grid of {base.bands[0].name}")
    to = stack.transform
    grid = rasterio.Affine(to.a * coarser, to.b * coarser, to.c, to.d * coarser, to.e * coarser, to.f)
    counts = torch.zeros(len(species), height, width)
    counts.index_put_(
        tuple(
            torch.from_numpy(x[inside].astype(np.int64))
            for x in (records.species, row // coarser, col // coarser)
        ),
        torch.ones(int(inside.sum())),
        accumulate=True,
    )
    prior = (_PRIOR * counts.sum((1, 2)) / counts.sum())[:, None, None]
    out.mkdir(parents=True, exist_ok=True)
    names = [str(each) for each in species.ids.tolist()]
    widths = " ".join(f"{width_in_cells:g}" for width_in_cells in cells)
    provenance = (
        f"glczoo region densities --cells {widths} --coarser {coarser} of {int(inside.sum())} records"
    )
    bands = []
    for width_in_cells in cells:
        near = _blur(counts, width_in_cells)
        shares = (near + prior).clamp_min_(1e-6).log_() - (near.sum(0) + _PRIOR).log_()
        file = f"density_{width_in_cells:g}.tif"
        with whole(out / file) as partial:
            write_geotiff(
                partial, shares.numpy(), stack.crs, grid, names=names,
                compress="deflate", predictor=3, bigtiff="if_safer",
            )  # fmt: skip
        bands += [
            Band(
                name=f"density_{width_in_cells:g}_{name}",
                file=file,
                index=number,
                unit="log share",
                provenance=provenance,
            )
            for number, name in enumerate(names, 1)
        ]
    others = [modality for modality in region.modalities if modality.name != DENSITIES]
    plain = region.model_copy(update={"modalities": others})
    return add_modality(plain, out, DENSITIES, bands, f"presence-only records of {region.name}")


def add_modality(region: Region, out: Path, name: str, bands: list[Band], provenance: str) -> Region:
    """Write OUT/region.yaml: the region with one more modality, its last, whose files lie in `out`.

    Args:
        region: whose first modality of rasters gives the resolution.
        out: folder that is there.
        name: of the modality.
        bands: their files are named within `out`.
        provenance: where the values come from.
    """
    root = region.root_path.resolve()
    resolution = next(modality.resolution for modality in region.modalities if modality.kind == "raster")
    modality = Modality(
        name=name, folder=os.path.relpath(out.resolve(), root), bands=bands, resolution=resolution,
        provenance=provenance,
    )  # fmt: skip
    described = region.model_copy(update={"modalities": [*region.modalities, modality]})
    with whole(out / "region.yaml") as partial:
        partial.write_text(f"root: {json.dumps(str(root))}\n{described.text()}", "utf-8")
    return Region.load(out)


def _blur(counts: torch.Tensor, width: float) -> torch.Tensor:
    """counts[K, H, W], each cell weighed by exp(-d² / 2 width²): rows and columns one after the other."""
    reach = int(np.ceil(4 * width))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2)
    for shape in ((-1, 1), (1, -1)):
        weight = kernel.view(1, 1, *shape)
        counts = F.conv2d(counts[:, None], weight, padding=[side // 2 for side in weight.shape[2:]])[:, 0]
    return counts
