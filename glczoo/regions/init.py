"""`glczoo region init`: from a folder of rasters and tables to a `region.yaml` and recipes to start from.

What the files say is written down; what they do not say is guessed, and the comments of the files and the
screen name every guess. Nothing that is there is overwritten, and files are written all or none.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from glczoo.data.jpeg import JpegTree
from glczoo.data.rasters import without_values
from glczoo.data.region import Region, plain_name
from glczoo.errors import ExistsError, GlczooError, MissingError
from glczoo.files import lock, whole_files
from glczoo.regions.bands import FoundModality, common_bounds, find_modalities
from glczoo.regions.columns import KEYS, guess_table
from glczoo.regions.guessed_table import GuessedTable
from glczoo.regions.patch_sizes import suggest_patch_size
from glczoo.regions.species_names import make_vocabulary
from glczoo.regions.starter_recipes import ROWS, Sizes, starter_recipes

__all__ = ["InitResult", "init_region"]

_REGION = """\
# Written by `glczoo region init` from what the files say, and guessed where a comment says so: read it once.
# Then: glczoo region check {folder}
name: {name}
description: {description}
licence: ""                       # not known: terms of your data; model cards repeat them
root: .                           # the data lies beside this file
bounds: {bounds}  # west, south, east, north: common to all rasters
patch_size: {patch_size}                    # guessed: {patch_reason}
modalities:                       # one for each folder and resolution; the order fixes the channels
{modalities}
tables:
{tables}
"""
_RESERVED = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}  # words that YAML reads as values
_SPECIES = """\
species:                          # written by init as well: the ids of species and their names
  {{file: {file}, separator: ",", id: speciesId, name: name}}
"""


@dataclass
class InitResult:
    """What `glczoo region init` wrote, guessed and left open."""

    files: list[Path]  # that were not there, the region's first
    recipe: Path  # to start with
    guesses: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For people."""
        folder = self.files[0].parent
        lines = ["guessed", *(f"  {line}" for line in self.guesses)]
        lines += ["look at these", *(f"  {line}" for line in self.doubts)] if self.doubts else []
        lines += ["wrote", *(f"  {path}" for path in self.files)]
        lines += [
            f"now\n  glczoo region check {folder}\n  glczoo fit {folder}",
            f"or, a model step by step\n  glczoo train {self.recipe}",
        ]
        return "\n".join(lines)

    def to_json(self) -> dict[str, list[str]]:
        """JSON values."""
        return {"files": [str(path) for path in self.files], "guesses": self.guesses, "doubts": self.doubts}


def init_region(
    folder: Path,
    po: Path | None = None,
    pa: Path | None = None,
    name: str | None = None,
    columns: dict[str, str] | None = None,
    crs: str | None = None,
    encoding: str | None = None,
) -> InitResult:
    """Describe a folder of rasters and tables of records.

    Args:
        folder: holds GeoTIFFs (and JPEG trees) in any depth; `region.yaml` is written there.
        po: presence-only records, a row each; a path from here or from the folder.
        pa: presence-absence surveys, a row for each species of a survey, or a column for each; likewise.
        name: of the region; the folder's if None.
        columns: key → column where the guess would be wrong or impossible (see `guess_table`).
        crs: of the tables' coordinates; degrees if None.
        encoding: of the tables' texts; see `open_table`.

    Raises:
        MissingError: the folder or a table is not there.
        ExistsError: a file that would be written is there already, with other text.
        GlczooError: no table, no raster that covers the records, columns that cannot be guessed, or another
            process describes the folder.
    """
    if not folder.is_dir():
        raise MissingError(f"there is no folder {folder}")
    po, pa = _found(folder, po), _found(folder, pa)
    with lock(folder / "region.yaml"):
        return _described(folder, po, pa, name, columns or {}, crs, encoding)


def _found(folder: Path, table: Path | None) -> Path | None:
    """A table as it is named from here or, if there is none, from the folder."""
    if table is None or table.exists() or not (folder / table).is_file():
        return table
    return folder / table


def _described(
    folder: Path,
    po: Path | None,
    pa: Path | None,
    name: str | None,
    columns: dict[str, str],
    crs: str | None,
    encoding: str | None,
) -> InitResult:
    """Describe a folder in which no other process writes."""
    if (folder / "region.yaml").exists():
        raise ExistsError(f"{folder / 'region.yaml'} is there already: move it away to start anew")
    if po is None and pa is None:
        raise GlczooError("name a table of records: --po records.csv, --pa surveys.csv, or both")
    if unknown := set(columns) - set(KEYS):
        raise GlczooError(
            f"--columns {', '.join(sorted(unknown))}=… is not known; there are {', '.join(KEYS)}"
        )
    tables = [guess_table(po, "po", columns, crs, encoding)] if po else []
    tables += [guess_table(pa, "pa", columns, crs, encoding)] if pa else []
    if unused := set(columns) - set().union(*(table.named for table in tables)):
        raise GlczooError(f"no table has the column {', '.join(columns[key] for key in sorted(unused))}")
    modalities, unusable = find_modalities(folder)
    doubts = [f"not used: {line}" for line in unusable]
    modalities = _covering(folder, modalities, tables, doubts)
    species = make_vocabulary(tables)
    species_file = _species_file(folder, species.text)
    guesses = [*(_guess_text(table) for table in tables), *species.guesses]
    guesses += [f"modality {m.name}: {len(m.bands)} band(s), {m.resolution}" for m in modalities]
    lon, lat = (np.concatenate([getattr(table, axis) for table in tables]) for axis in ("lon", "lat"))
    patch_size, reason = suggest_patch_size(folder, modalities, lon, lat)
    guesses += [f"patch_size {patch_size}: {reason}", f"{species.size} species"]
    outside = sum(int((~_inside(modalities, table)).sum()) for table in tables)
    if outside:
        doubts.append(f"{outside} rows lie outside of the rasters: the recipes leave them out")
    sizes = Sizes(
        rows={t.kind: len(t.lon) if t.kind == "po" else t.num_surveys for t in tables},
        modalities={m.name: len(m.bands) for m in modalities},
        bands=[band.name for m in modalities for band in m.bands],
        species=species.size,
        patch_size=patch_size,
        outside=outside,
    )
    recipes = starter_recipes(folder / "recipes", sizes)
    region_text = _region_text(folder, name, modalities, tables, sizes, reason)
    if species.text:
        region_text += _SPECIES.format(file=species_file)
    texts = {"region.yaml": region_text}
    texts |= {species_file: species.text} if species.text else {}
    texts |= {f"recipes/{recipe}.yaml": text for recipe, text in recipes.items()}
    texts |= {file: text for modality in modalities for file, text in modality.mosaics.items()}
    doubts += [f"{table.path.name}: {doubt}" for table in tables for doubt in table.doubts]
    first = folder / "recipes" / f"{next(iter(recipes))}.yaml"
    doubts += [*species.doubts, *_unknown(modalities)]
    return InitResult(_write(folder, texts), first, guesses, doubts)


def _species_file(folder: Path, text: str | None) -> str:
    """Where the species table goes: beside one that is there and says something else."""
    for name in ("species.csv", "species_of_init.csv"):
        path = folder / name
        if not path.exists() or (text and _same_text(path, text)):
            return name
    return "species_of_init.csv"


def _same_text(path: Path, text: str) -> bool:
    if not path.is_file() or path.stat().st_size > 4 * len(text) + 4:
        return False
    return _tidy(path.read_bytes()) == _tidy(text.encode())


def _tidy(text: bytes) -> bytes:
    return text.replace(b"\r\n", b"\n").strip()


def _covering(
    folder: Path, modalities: list[FoundModality], tables: list[GuessedTable], doubts: list[str]
) -> list[FoundModality]:
    """The modalities that hold the records: rasters that cover half of them, JPEG trees for half of them.

    Raises:
        GlczooError: there is none.
    """
    kept, exchanged_fits = [], False
    for modality in modalities:
        if modality.kind == "jpeg":
            without = [table.path.name for table in tables if not _has_patches(folder, modality, table)]
            if without:
                where = modality.folder or "."
                doubts.append(f"not used: {where}: no JPEG patches for most rows of {' and '.join(without)}")
            else:
                kept.append(modality)
            continue
        inside = np.concatenate([_inside([modality], table) for table in tables]).mean()
        if inside >= 0.5:
            kept.append(modality)
            continue
        exchanged = np.concatenate([_inside([modality], table, exchanged=True) for table in tables]).mean()
        exchanged_fits |= exchanged >= 0.5
        west, south, east, north = modality.bounds
        doubts.append(
            f"not used: {modality.folder or '.'} ({_few([band.name for band in modality.bands])}): it holds "
            f"{inside:.0%} of the rows (from {west:.2f} to {east:.2f} E, {south:.2f} to {north:.2f} N)"
        )
    if not kept:
        lon, lat = (np.concatenate([getattr(t, axis) for t in tables]) for axis in ("lon", "lat"))
        raise GlczooError(
            f"no raster can be used for {len(lon)} rows from {lon.min():.2f} to {lon.max():.2f} E, "
            f"{lat.min():.2f} to {lat.max():.2f} N"
            + ("; are lon and lat exchanged? Name them: --columns lon=… lat=…" if exchanged_fits else "")
            + "".join(f"\n  {doubt}" for doubt in doubts)
        )
    return kept


def _has_patches(folder: Path, modality: FoundModality, table: GuessedTable) -> bool:
    """Whether half of a table's rows, or of a hundred of them, have their JPEG patches."""
    if table.patch_ids is None:
        return False
    some = table.patch_ids[:: max(1, len(table.patch_ids) // 100)]
    trees = {band.file for band in modality.bands}
    return all(JpegTree(folder / modality.folder / file).has(some).mean() >= 0.5 for file in trees)


def _inside(modalities: list[FoundModality], table: GuessedTable, exchanged: bool = False) -> np.ndarray:
    """Which rows lie on the grids of all rasters, bool[n]."""
    lon, lat = (table.lat, table.lon) if exchanged else (table.lon, table.lat)
    inside = np.ones(len(lon), bool)
    for grid in {grid for modality in modalities for grid in modality.grids}:  # JPEG trees have none
        stack = without_values(grid)
        inside &= ~stack.outside(*stack.locate(lon, lat))
    return inside


def _region_text(
    folder: Path,
    name: str | None,
    modalities: list[FoundModality],
    tables: list[GuessedTable],
    sizes: Sizes,
    reason: str,
) -> str:
    west, south, east, north = common_bounds([modality.bounds for modality in modalities])
    common = [*np.floor([west * 1e4, south * 1e4]), *np.ceil([east * 1e4, north * 1e4])]
    rows = ", ".join(f"{number} {ROWS[kind]}" for kind, number in sizes.rows.items())
    return _REGION.format(
        folder=folder,
        name=_quoted(plain_name(name or folder.resolve().name)),
        description=_quoted(f"{sizes.species} species, {rows}"),
        bounds=[float(value / 1e4) for value in common],
        patch_size=sizes.patch_size,
        patch_reason=reason,
        modalities="\n".join(_modality_text(modality) for modality in modalities),
        tables="\n".join(_table_text(folder, table) for table in tables),
    )


def _modality_text(modality: FoundModality) -> str:
    lines = [f"  - name: {_quoted(modality.name)}"]
    lines += ["    kind: jpeg"] if modality.kind == "jpeg" else []
    lines += [f"    folder: {_quoted(modality.folder)}"] if modality.folder else []
    lines += [
        f"    resolution: {_quoted(modality.resolution)}",
        '    provenance: ""  # not known',
    ]
    lines += [f"    crs: {modality.crs}  # guessed: the files name none"] if modality.crs else []
    lines += ["    bands:"]
    for band in modality.bands:
        keys: dict[str, object] = {"name": band.name, "file": band.file}
        keys |= {"index": band.index} if band.index > 1 else {}
        keys |= {"kind": band.kind} if band.kind == "categorical" else {}
        keys |= {"unit": band.unit}
        keys |= {"nodata": band.nodata} if band.nodata is not None else {}
        pairs = ", ".join(f"{key}: {_quoted(value)}" for key, value in keys.items())
        comment = f"  # {' '.join(band.comment.split())}" if band.comment else ""
        lines.append(f"      - {{{pairs}}}{comment}")
    return "\n".join(lines)


def _table_text(folder: Path, table: GuessedTable) -> str:
    path = table.path.resolve()
    inside = path.is_relative_to(folder.resolve())
    file = path.relative_to(folder.resolve()).as_posix() if inside else path.as_posix()
    note = [f"{len(table.lon)} rows to read", table.reasons.get("file", "")]
    note += [] if inside else ["outside of the folder: the region cannot be moved"]
    lines = [f"  {table.kind}:", f"    file: {_quoted(file)}  # {'; '.join(filter(None, note))}"]
    for key, value in table.keys.items():
        reason = " ".join(table.reasons.get(key, "").split())
        lines.append(f"    {key}: {_quoted(value)}" + (f"  # {reason}" if reason else ""))
    return "\n".join(lines)


def _quoted(value: object) -> str:
    """JSON, which is YAML too; plain words as they are."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w./-]*", value, re.ASCII):
        if value.lower() not in _RESERVED:
            return value
    return json.dumps(value, ensure_ascii=False)


def _guess_text(table: GuessedTable) -> str:
    separator = str(table.keys.get("separator", ""))
    names = {"": "no text", "\t": "separator tab", " ": "separator blank"}
    shown = names.get(separator, f"separator {separator}")
    keys = [f"{key} = {value}" for key, value in table.keys.items() if key not in ("separator", "citation")]
    rows = f"{len(table.lon)} rows" + (f", {table.num_surveys} surveys" if table.kind == "pa" else "")
    lines = [f"{table.kind} {table.path.name}: {rows}; {shown}, {', '.join(keys)}"]
    guessed = {key: why for key, why in table.reasons.items() if why.startswith("guessed: ")}
    lines += [f"  {key}: {why.removeprefix('guessed: ')}" for key, why in guessed.items()]
    return "\n  ".join(lines)


def _unknown(modalities: list[FoundModality]) -> list[str]:
    """What only a person can know."""
    unknown = [band.name for m in modalities for band in m.bands if not band.unit]
    filled = [f"{b.name} ({b.nodata:g})" for m in modalities for b in m.bands if b.nodata is not None]
    coded = [band.name for m in modalities for band in m.bands if band.coded]
    lines = []
    if classes := [band.name for m in modalities for band in m.bands if band.kind == "categorical"]:
        lines.append(f"kind: categorical is a guess of {_few(classes)}: do their numbers stand for classes?")
    if named := [m.folder or "." for m in modalities if m.crs]:
        lines.append(f"the CRS is a guess of the rasters in {_few(named)}")
    if coded:
        lines.append(f"few whole numbers, or classes (`kind: categorical`)? {_few(coded)}")
    if unknown:
        lines.append(f"units are not known of {_few(unknown)}")
    if filled:
        lines.append(f"nodata is a guess of {_few(filled)}")
    return [*lines, "the licence of the data and the sources of the bands are not known"]


def _few(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _write(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Write all files or none, but for those that are the same; the region's is the last to get its name."""
    texts = {file: text for file, text in texts.items() if not _same_text(folder / file, text)}
    existing = [str(folder / file) for file in texts if (folder / file).exists()]
    if existing:
        raise ExistsError(f"{', '.join(existing)}: there already, nothing was written; move them away")
    with whole_files(folder, last="region.yaml") as partial:
        for file, text in texts.items():
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            (partial / file).write_text(text, "utf-8")
        Region.load(partial / "region.yaml")
    return [folder / file for file in texts]
