"""Maps: what models say of every cell of a grid, as GeoTIFF and PNG. `glczoo map RUN --bbox …`.

Shapes: values[L, h, w] of L layers in a block of cells · probability[B, K] of a batch of places.

The grid is cut into blocks. A block's cells that read the same patches are asked once (a map finer than its
rasters costs as many passes as there are raster cells), reduced to layers batch by batch, and kept in a file
of its own: [N, K] is held nowhere, an interrupted map goes on, and processes share the blocks.
"""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm

from glczoo import __version__
from glczoo.data.region import Region
from glczoo.data.tables import read_points
from glczoo.figures.style import SEQUENTIAL, UNCERTAIN
from glczoo.files import sha256, whole
from glczoo.prediction.cartography import draw, write_cog
from glczoo.prediction.grids import DEGREES, Block, Cells, Grid, bounds_of, read_polygon
from glczoo.prediction.layers import Layers
from glczoo.runs.run import load_members, locate, region_of

__all__ = ["make_map"]

_SIDE = 128  # cells along a block: what an interruption loses at most, for each process


def make_map(
    runs: Sequence[str | Path],
    out: Path,
    *,
    resolution: float,
    bbox: Sequence[float] | None = None,
    polygon: Path | None = None,
    points: Path | None = None,
    crs: str = DEGREES,
    species: Sequence[str] = (),
    region: Region | None = None,
    applicability: bool = True,
    masked: bool = True,
    batch_size: int = 256,
    accelerator: Accelerator | None = None,
) -> dict[str, Any]:
    """Map a run, or the mean of several, into `out`/map.tif and one PNG for each layer.

    Layers: `species_ID`, probability of presence of each chosen species · `richness`, Σp over all species ·
    `set_size` of the answer by the runs' decoding, or by expected F1 where that is top k · with several
    members (runs, or those of an `ensemble_glc23`) their `disagreement`, the sum over all species of the
    standard deviation of p, and `disagreement_ID` of each chosen species · `dissimilarity` to the training
    surveys and, 1 or 0, whether it is `applicable` there (see `applicability.Applicability`: of the values of
    the raster bands at the cell's centre, by the model that sees most bands, against the surveys that its
    last step was trained on, their folds those of the region's split where the recipe keeps it). Sums over
    species are left out where p is a softmax over species, which sums to one.

    A cell is asked at its centre. It has no data where the centre lies outside of a raster or the polygon, or
    where no raster has a value, and, if `masked`, outside of the area of applicability. Called again with the
    same arguments after an interruption it goes on, and the values are the same.

    Args:
        runs: folders of finished runs, or `hf-hub:ORG/NAME`, that share a vocabulary.
        out: folder to write.
        resolution: side of a cell, in units of the CRS.
        bbox: west, south, east, north in units of the CRS; None: as far as the polygon or the points reach.
        polygon: GeoJSON file; only cells whose centre is inside.
        points: CSV with lon, lat and patchID: only cells that hold a point are mapped, asked at that which
            lies nearest to the centre. The only way to map JPEG bands, whose patches lie around points.
        crs: of the map, such as EPSG:3035.
        species: speciesIds or names.
        region: where the rasters are; the first run's if None.
        applicability: needs the training surveys of the run.
        masked: False keeps predictions outside of the area of applicability.
        batch_size: places in a batch.
        accelerator: several processes share the blocks; the first puts them together when all are there.

    Returns:
        JSON values: file, height, width, threshold, computed (cells of the blocks of this process and call),
        places (asked for them), seconds; of the first process also cells (with data) and applicable (share
        of them, or None).

    Raises:
        FileExistsError: `out` holds a map, or an unfinished one of other arguments.
        FileNotFoundError: a run, raster, table or file is not there.
        ValueError: the runs do not fit each other or the region, JPEG bands without points, an unknown
            species, a grid without area, or no cell has data.
    """
    accelerator = accelerator or Accelerator(cpu=not torch.accelerator.is_available())
    if (out / "map.tif").exists():
        raise FileExistsError(f"{out} holds a map; name another folder or delete it first")
    members = load_members(runs)
    region = region or region_of(locate(runs[0]))
    shapes = read_polygon(polygon) if polygon else None
    given = read_points(region, points) if points else None
    grid = Grid.cover(bbox or bounds_of(shapes, given, resolution, crs), resolution, crs)
    asked = Layers(members, region, species, accelerator.device, batch_size)
    if given is None:
        asked.refuse_jpegs()
    if applicability:
        asked.add_applicability(runs)
    threshold = asked.near.threshold if asked.near else None
    cells = Cells(grid, shapes, given)
    plan: dict[str, Any] = {
        "glczoo": __version__, "weights": [_weights(run) for run in runs], "region": region.text(),
        "rasters": asked.rasters(), "grid": vars(grid), "layers": [layer.name for layer in asked.layers],
        "cells": cells.digest(), "batch_size": batch_size, "threshold": threshold,
    }  # fmt: skip
    folder = out / ".map"
    with accelerator.main_process_first():
        _agree(folder, plan)
    blocks = grid.blocks(_SIDE)
    start, computed, places = time.perf_counter(), 0, 0
    # Dealt out in a drawn order, the same for all: the sea costs nothing, and lies on one side.
    drawn = np.random.default_rng(0).permutation(len(blocks)).tolist()
    mine = drawn[accelerator.process_index :: accelerator.num_processes]
    for number in tqdm(mine, "map", unit="block", disable=not accelerator.is_main_process):
        if not (kept := _kept(folder, blocks[number])).exists():
            values, distinct = asked.block(cells, blocks[number])
            _keep(kept, values)
            computed, places = computed + len(blocks[number]), places + distinct
    seconds = time.perf_counter() - start
    found = {
        "file": str(out / "map.tif"), "height": grid.height, "width": grid.width,
        "threshold": threshold, "computed": computed, "places": places, "seconds": seconds,
    }  # fmt: skip
    if accelerator.is_main_process:
        while not all(_kept(folder, block).exists() for block in blocks):
            time.sleep(0.2)  # others are at theirs; a barrier would give up after some minutes
        names = " + ".join(member.name for member in members)
        tags = {
            "model": names, "weights_sha256": " ".join(plan["weights"]),
            "region": region.name, "software": f"glczoo {__version__}",
        }  # fmt: skip
        found |= _assemble(out, grid, asked, tags, masked)
    return found


def _weights(run: str | Path) -> str:
    return sha256(locate(run) / "model.safetensors")


def _agree(folder: Path, plan: dict[str, Any]) -> None:
    """Go on with an unfinished map of the same plan, or start one."""
    text, path = json.dumps(plan, indent=1) + "\n", folder / "plan.json"
    if path.exists() and path.read_text("utf-8") != text:
        before = json.loads(path.read_text("utf-8"))
        differ = [key for key in plan if json.loads(text)[key] != before.get(key)]
        raise FileExistsError(
            f"{folder} holds an unfinished map of other {', '.join(differ)}: repeat that command, name "
            f"another folder, or delete {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with whole(path) as partial:
        partial.write_text(text, "utf-8")


def _kept(folder: Path, block: Block) -> Path:
    return folder / f"{block.number}.npy"


def _keep(path: Path, values: np.ndarray) -> None:
    with whole(path) as partial:
        np.save(partial, values, allow_pickle=False)


def _assemble(out: Path, grid: Grid, asked: Layers, tags: dict[str, str], masked: bool) -> dict[str, Any]:
    """The blocks as one GeoTIFF and its pictures; counts the cells that have data and are applicable."""
    layers, counted = asked.layers, {"cells": 0, "applicable": 0}
    predicted = len(asked.predictions)

    def read(block: Block) -> np.ndarray:
        path = _kept(out / ".map", block)
        try:
            values = np.load(path)
        except (ValueError, EOFError) as error:
            raise ValueError(f"{path} is damaged ({error}); delete it and repeat the command") from None
        counted["cells"] += int((~np.isnan(values[0])).sum())
        if asked.near is not None:
            counted["applicable"] += int((values[-1] == 1).sum())
            if masked:
                values[:predicted, values[-1] != 1] = np.nan
        return values

    whole = out / ".map" / "map.tif"
    write_cog(whole, grid, layers, read, _SIDE, tags)
    if not counted["cells"]:
        shutil.rmtree(out / ".map")
        raise ValueError(f"no cell of the map has data: {asked.reach()}")
    for layer in layers:
        if layer.name != "applicable":
            colours = UNCERTAIN if layer.name.startswith("dis") else SEQUENTIAL
            draw(out / f"{layer.name}.png", whole, layer, f"{tags['model']} · {tags['software']}", colours)
    whole.replace(out / "map.tif")
    shutil.rmtree(out / ".map")
    share = counted["applicable"] / counted["cells"]
    return {"cells": counted["cells"], "applicable": share if asked.near else None}
