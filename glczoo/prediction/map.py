"""Maps: what models predict at every cell of a grid, as GeoTIFF and PNG. `glczoo map RUN --bbox …`.

Shapes: values[L, h, w] of L layers in a block of cells · probability[B, K] of a batch of places.

The grid is cut into blocks. A block's cells that read the same patches are predicted once (a map finer than
its rasters costs as many passes as there are raster cells), reduced to layers batch by batch, and kept in a
file of its own: [N, K] is held nowhere, an interrupted map goes on, and processes share the blocks.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from glczoo import __version__
from glczoo.data.region import Region
from glczoo.data.tables import read_points
from glczoo.errors import ExistsError, GlczooError
from glczoo.figures.style import SEQUENTIAL, UNCERTAIN
from glczoo.files import sha256, whole
from glczoo.json_text import read_json
from glczoo.memory import announce, require_disk, size_text
from glczoo.prediction.cartography import draw, read_tags, write_cog
from glczoo.prediction.change import ChangeLayers
from glczoo.prediction.grids import DEGREES, Block, Cells, Grid, bounds_of, box_of, grid_like, read_polygon
from glczoo.prediction.layers import Layers
from glczoo.progress import Track
from glczoo.runs.run import Run
from glczoo.runs.scoring import default_accelerator
from glczoo.runs.trained import TrainedModel
from glczoo.training.checkpoints import work_alone

__all__ = ["DrawnMap", "make_map"]

_PLAN = "plan_sha256"  # tag of a map: of all that its values depend on
_SIDE = 128  # cells along a block: what an interruption loses at most, for each process


@dataclass(frozen=True)
class DrawnMap:
    """A map that was made, and what it took."""

    file: Path
    height: int
    width: int
    threshold: float | None  # of dissimilarity; None: without an area of applicability
    computed: int  # cells of the blocks of this process and call
    places: int  # where the model predicted for them
    seconds: float
    cells: int  # with data; 0 in processes other than the first
    applicable: float | None  # share of them; None: not measured
    left_out: dict[str, int] = field(default_factory=dict)  # rows of the points without a place, by reason

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"file": str(self.file)}


def make_map(
    runs: Sequence[str | Path],
    out: Path,
    *,
    resolution: float | None = None,
    bbox: Sequence[float] | None = None,
    polygon: Path | None = None,
    points: Path | None = None,
    points_crs: str | None = None,
    encoding: str | None = None,
    crs: str | None = None,
    species: Sequence[str] = (),
    region: Region | None = None,
    against: Region | None = None,
    applicability: bool = True,
    masked: bool = True,
    clamp: bool = False,
    batch_size: int = 256,
    accelerator: Accelerator | None = None,
) -> DrawnMap:
    """Map a run, or the mean of several, into `out`/map.tif and one PNG for each layer.

    Layers: `species_ID`, probability of presence of each chosen species · `richness`, Σp over all species ·
    `set_size` by the runs' decoding, or by expected F1 where that is top k · with several members (runs, or
    those of an `ensemble_glc23`) their `disagreement`, the sum over all species of the standard deviation of
    p, and `disagreement_ID` of each chosen species · `dissimilarity` to the training samples and, 1 or 0,
    whether it is `applicable` there (see `applicability.Applicability`: of the values of the raster bands at
    the cell's centre, by the model that sees most bands, against the samples that its last step was trained
    on, their folds those of the region's split where the recipe keeps it). Sums over species are left out
    where p is a softmax over species, which sums to one, or a rank of suitability, which is no probability.

    With `against` the layers are those of the change from that region to `region` (see
    `change.ChangeLayers`), such as from one climate to another; a cell needs data in both.

    A cell is predicted at its centre. It has no data where the centre lies outside of a raster or the
    polygon, or where no raster has a value, and, if `masked`, outside of the area of applicability. Called
    again with the same arguments after an interruption it goes on, and the values are the same.

    Args:
        runs: folders of finished runs, or `hf-hub:ORG/NAME`, that share a vocabulary.
        out: folder to write.
        resolution: side of a cell, in units of the CRS; None: the cells of the finest raster.
        bbox: west, south, east, north in units of the CRS; None: as far as the polygon, the points, or the
            rasters reach.
        polygon: GeoJSON file; only cells whose centre is inside.
        points: table of points: only cells that hold one are mapped; JPEG bands cannot be mapped otherwise.
        points_crs: of the table of points; see `tables.read_points`.
        encoding: of its text.
        crs: of the map, such as EPSG:3035; None: that of the finest raster, degrees with a resolution.
        species: speciesIds or names.
        region: where the rasters are; the first run's if None.
        against: a region of the same bands from other files, to map what changes from it to `region`.
        applicability: needs the training samples of the run.
        masked: False keeps predictions outside of the area of applicability.
        clamp: hold every raster band within the range of the training samples' values, and keep what is
            outside of the area of applicability.
        batch_size: places in a batch.
        accelerator: several processes share the blocks; the first puts them together when all are there.

    Raises:
        ExistsError: `out` holds a map of other arguments, finished or not.
        MissingError: a run, raster, table or file is not there.
        GlczooError: runs, region, points or species do not fit each other, no cell has data, or another
            process draws a map there.
    """
    accelerator = accelerator or default_accelerator()
    if (out / "map.tif").exists() and _PLAN not in read_tags(out / "map.tif"):
        raise ExistsError(f"{out} holds a map; name another folder or delete it first")
    with work_alone(accelerator, out / "map.tif"):
        model = Run.load(runs)
        region = region or model.region
        shapes = read_polygon(polygon) if polygon else None
        table = read_points(region, points, crs=points_crs, encoding=encoding) if points else None
        places = table.placed() if table else None
        stacks = model.open(region).stacks
        if resolution is None:
            grid = grid_like(stacks, bbox, shapes, places, crs)
        else:
            area = bbox or bounds_of(shapes or box_of(stacks), places, resolution, crs or DEGREES)
            grid = Grid.cover(area, resolution, crs or DEGREES)
        layers: Layers | ChangeLayers
        if against is None:
            layers = Layers(model, region, species, accelerator.device, batch_size, clamp)
        else:
            layers = ChangeLayers(model, region, against, species, accelerator.device, batch_size, clamp)
        if places is None:
            layers.refuse_keyed()
        if applicability:
            layers.add_applicability()
        if accelerator.is_main_process:
            _announce(layers, grid, out, batch_size, accelerator)
        cells = Cells(grid, shapes, places)
        drawn = _drawn(out, grid, layers, cells, batch_size, masked, accelerator)
        reasons = table.unplaced_reasons() if table else {}
        return replace(drawn, left_out={reason: int(mask.sum()) for reason, mask in reasons.items()})


def _announce(
    layers: Layers | ChangeLayers, grid: Grid, out: Path, batch_size: int, accelerator: Accelerator
) -> None:
    """Say what a map takes, and refuse one that has no room on the disk."""
    model, channels = layers.model, max(len(member.bands) for member in layers.model.each)
    size = sum(p.numel() * p.element_size() for member in model.each for p in member.model.parameters())
    parts = {
        "weights": size,
        "a batch": 4.0 * batch_size * (channels * model.patch_size**2 + len(model.species)),
    }
    cells, number = grid.height * grid.width, len(layers.layers)
    require_disk(out, 4.0 * cells * number, f"{number} layers of {cells:,} cells")
    disk = size_text(4.0 * cells * number)
    work = f"map of {cells:,} cells ({disk} of disk while it is made)"
    announce(work, parts, on_device=accelerator.device.type != "cpu")


def _plan(
    layers: Layers | ChangeLayers, grid: Grid, cells: Cells, batch_size: int, masked: bool
) -> dict[str, Any]:
    """All that the values of a map depend on."""
    return {
        "glczoo": __version__,
        "weights": _weights(layers.model),
        "region": layers.region.text(),
        "against": layers.against.text() if layers.against else None,
        "clamp": layers.clamp,
        "rasters": layers.rasters(),
        "grid": vars(grid),
        "layers": [layer.name for layer in layers.layers],
        "cells": cells.digest(),
        "batch_size": batch_size,
        "masked": masked,
        "threshold": _threshold(layers),
    }


def _threshold(layers: Layers | ChangeLayers) -> float | None:
    return layers.applicability.threshold if layers.applicability else None


def _drawn(
    out: Path,
    grid: Grid,
    layers: Layers | ChangeLayers,
    cells: Cells,
    batch_size: int,
    masked: bool,
    accelerator: Accelerator,
) -> DrawnMap:
    """Compute the blocks that are not there yet, and put all of them together."""
    folder, blocks, start = out / ".map", grid.blocks(_SIDE), time.perf_counter()
    text = json.dumps(_plan(layers, grid, cells, batch_size, masked), indent=1) + "\n"
    plan = hashlib.sha256(text.encode()).hexdigest()
    if accelerator.is_main_process and not _is_finished(out, plan):
        _agree(folder, text)
    accelerator.wait_for_everyone()
    missing = [] if _is_finished(out, plan) else _missing(blocks, folder, accelerator)
    accelerator.wait_for_everyone()  # the first process deletes the blocks when all are there
    computed, predicted = _compute(layers, cells, blocks, missing, folder, accelerator)
    seconds = time.perf_counter() - start
    if accelerator.is_main_process and not _is_finished(out, plan):
        while not all(_kept(folder, block).exists() for block in blocks):
            time.sleep(0.2)  # others are at theirs; a barrier would give up after some minutes
        tags = {
            "model": layers.model.name,
            "weights_sha256": " ".join(_weights(layers.model)),
            "region": layers.region.name,
            **({"against": layers.against.name} if layers.against else {}),
            "software": f"glczoo {__version__}",
            _PLAN: plan,
        }
        if run := layers.model.run:
            tags["citation"] = "; ".join(run.on(layers.region).citations())
        _assemble(out, grid, layers, tags, masked and not layers.clamp)
    made = {}
    if accelerator.is_main_process:
        made = read_tags(out / "map.tif")
        shutil.rmtree(folder, ignore_errors=True)  # a kill may have left it beside a finished map
    return DrawnMap(
        file=out / "map.tif",
        height=grid.height,
        width=grid.width,
        threshold=_threshold(layers),
        computed=computed,
        places=predicted,
        seconds=seconds,
        cells=int(made.get("cells", 0)),
        applicable=float(made["applicable_share"]) if "applicable_share" in made else None,
    )


def _is_finished(out: Path, plan: str) -> bool:
    """Whether the map of a plan is there.

    Raises:
        ExistsError: another one is.
    """
    path = out / "map.tif"
    if not path.exists():
        return False
    if read_tags(path).get(_PLAN) != plan:
        raise ExistsError(f"{out} holds a map of other arguments; name another folder or delete it first")
    return True


def _weights(model: TrainedModel) -> list[str]:
    """Which weights the map is of, so that those of another run are not taken for the same."""
    return [sha256(m.run.folder / "model.safetensors") for m in model.each if m.run is not None]


def _missing(blocks: Sequence[Block], folder: Path, accelerator: Accelerator) -> list[int]:
    """This process's share of the blocks that are not there yet."""
    # Dealt out in a drawn order, the same for all: the sea costs nothing, and lies on one side.
    drawn = np.random.default_rng(0).permutation(len(blocks)).tolist()
    mine = drawn[accelerator.process_index :: accelerator.num_processes]
    return [number for number in mine if not _kept(folder, blocks[number]).exists()]


def _compute(
    layers: Layers | ChangeLayers,
    cells: Cells,
    blocks: Sequence[Block],
    missing: list[int],
    folder: Path,
    accelerator: Accelerator,
) -> tuple[int, int]:
    """Compute blocks and keep each; how many cells and places it took."""
    computed, places = 0, 0
    for number in Track(missing, "map", unit="blocks", hidden=not accelerator.is_main_process):
        values, distinct = layers.block(cells, blocks[number])
        _keep(_kept(folder, blocks[number]), values)
        computed, places = computed + len(blocks[number]), places + distinct
    return computed, places


def _agree(folder: Path, text: str) -> None:
    """Go on with an unfinished map of the same plan, or start one."""
    path = folder / "plan.json"
    if path.exists() and path.read_text("utf-8") != text:
        before, plan = read_json(path), json.loads(text)
        if not isinstance(before, dict):
            raise GlczooError(f"{path} is damaged: delete {folder}, and repeat the command")
        differ = [key for key in plan if plan[key] != before.get(key)]
        raise ExistsError(
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


def _assemble(
    out: Path, grid: Grid, layers: Layers | ChangeLayers, tags: dict[str, str], masked: bool
) -> None:
    """Make one GeoTIFF of the blocks, and its pictures; its tags say how many cells have data."""
    column = {layer.name: number for number, layer in enumerate(layers.layers)}
    cells, applicable = 0, 0

    def read(block: Block) -> np.ndarray:
        nonlocal cells, applicable
        path = _kept(out / ".map", block)
        try:
            values = np.load(path)
        except (ValueError, EOFError) as error:
            raise GlczooError(f"{path} is damaged ({error}); delete it and repeat the command") from None
        cells += int((~np.isnan(values[0])).sum())
        if "applicable" in column:
            inside = values[column["applicable"]] == 1
            applicable += int(inside.sum())
            if masked:
                values[: len(layers.predictions), ~inside] = np.nan
        return values

    def all_tags() -> dict[str, str]:
        share = {"applicable_share": repr(applicable / cells)} if "applicable" in column and cells else {}
        return tags | {"cells": str(cells)} | share

    whole = out / ".map" / "map.tif"
    write_cog(whole, grid, layers.layers, read, _SIDE, all_tags)
    if not cells:
        shutil.rmtree(out / ".map")
        raise GlczooError(f"no cell of the map has data: {layers.reach()}")
    for layer in layers.layers:
        if layer.name != "applicable":
            colours = UNCERTAIN if layer.name in layers.uncertain else SEQUENTIAL
            draw(out / f"{layer.name}.png", whole, layer, f"{tags['model']} · {tags['software']}", colours)
    whole.replace(out / "map.tif")
