"""Verbs about a region: describe one's own data, check it, statistics, densities, a virtual one, shards."""

from pathlib import Path
from typing import Literal

import click

from glczoo.cli.verbs import CONTEXT, PATH, Several, Verb, Verbs, json_option, pairs, will_write, write_json

__all__ = ["pack", "region"]

region_argument = click.argument("region", type=PATH)
patch_size_option = click.option(
    "--patch-size", type=click.IntRange(min=1), help="Cells along a side; by default the region's patch_size."
)


@click.command("init", cls=Verb)
@click.argument("folder", type=PATH)
@click.option("--po", type=PATH, metavar="TABLE", help="Presence-only records, e.g. a download of GBIF.")
@click.option(
    "--pa",
    type=PATH,
    metavar="TABLE",
    help="Surveys: a row for each species recorded in one, or a column for each.",
)
@click.option("--name", help="Name of the region; by default the folder's.")
@click.option(
    "--columns", cls=Several, metavar="KEY=COLUMN",
    help="Columns that are guessed wrong: lon, lat, species, survey (several: comma-separated), patch, day, "
    "presence (COLUMN:WORD,WORD for those that say yes, or none).",
)  # fmt: skip
@click.option("--crs", help="Of the coordinates, such as EPSG:2154; by default degrees.")
@click.option("--encoding", help="Of the tables' text; by default UTF-8, else Windows-1252.")
def init(
    folder: Path,
    po: Path | None,
    pa: Path | None,
    name: str | None,
    columns: tuple[str, ...],
    crs: str | None,
    encoding: str | None,
) -> None:
    """Describe a folder of rasters and tables: region.yaml and recipes.

    FOLDER holds the rasters; region.yaml and recipes are written there.
    """
    from glczoo.regions.init import init_region

    will_write(folder, folder=True)
    print(init_region(folder, po, pa, name, pairs(columns), crs, encoding).text())


@click.command("check", cls=Verb)
@region_argument
@patch_size_option
@click.option("--buffer", type=float, default=0.0, help="km between training and held-out surveys.")
@click.option("--out", type=PATH, metavar="PNG", help="Picture; by default check.png beside region.yaml.")
@json_option
def check(
    region: Path, patch_size: int | None, buffer: float, out: Path | None, json_file: Path | None
) -> None:
    """Read every table, raster and patch once: counts, problems, and a page to look at.

    REGION is a region.yaml or its folder.
    """
    from glczoo.data.region import Region
    from glczoo.regions.check import check_region

    beside = region if region.is_dir() else region.parent
    picture = out or beside / "check.png"
    will_write(picture, json_file, region=region)
    checked = check_region(Region.load(region), patch_size, picture=picture, buffer_km=buffer)
    print(checked.text() + (f"\n\npicture: {checked.picture}" if checked.picture else ""))
    write_json(json_file, checked.to_json())


@click.command("stats", cls=Verb)
@region_argument
@patch_size_option
@click.option(
    "--table",
    type=click.Choice(["pa", "po"]),
    help="Samples to use: surveys or records; by default surveys where there are any.",
)
@json_option
def stats(
    region: Path, patch_size: int | None, table: Literal["pa", "po"] | None, json_file: Path | None
) -> None:
    """Mean and standard deviation of every band over the training samples.

    REGION is a region.yaml or its folder.
    """
    from glczoo.data.patch_source import PatchSource
    from glczoo.data.region import Region
    from glczoo.data.splits import split_samples
    from glczoo.data.tables import read_samples, read_species
    from glczoo.regions.check_result import ROWS

    will_write(json_file)
    described = Region.load(region)
    table = table or ("pa" if "pa" in described.tables else "po")
    samples = read_samples(described, table, read_species(described))
    if described.split and table == "pa":
        training = split_samples(described, samples, kind="file", validation=0).train
    else:
        share = {"pa": 0.2, "po": 0.02}[table]
        training = split_samples(described, samples, kind="random", validation=share).train
    source = PatchSource(described, None, patch_size)
    training = training.subset(source.complete(training, f"training {ROWS[table]}", drop=True))
    source.fix_levels(training)
    statistics = source.statistics(training)
    print(f"{described.name}: {len(training)} training {ROWS[table]}, patches of {source.size} cells")
    print(f"{'band':12} {'mean':>14} {'std':>14} {'filled':>8}")
    columns = zip(source.bands, statistics.mean, statistics.std, statistics.filled, strict=True)
    for band, mean, std, filled in columns:
        print(f"{band:12} {mean:14.4f} {std:14.4f} {100 * filled:6.2f} %")
    names = source.level_names()
    for band, levels in names.items():
        if levels:
            print(f"{band}: " + ", ".join(f"{level} {name}" for level, name in levels.items()))
    write_json(
        json_file,
        {"bands": source.bands, ROWS[table]: len(training), **vars(statistics), "levels": names},
    )


@click.command("densities", cls=Verb)
@region_argument
@click.option("--out", type=PATH, required=True, help="Folder for the rasters and their region.yaml.")
@click.option(
    "--cells", cls=Several, metavar="CELLS", type=float, default=[1.5, 5.0, 15.0],
    help="Standard deviations of the Gaussians, in cells of the first raster.",
)  # fmt: skip
@click.option(
    "--coarser", type=click.IntRange(min=1), default=1,
    help="So many cells of that raster along each side are one cell here, which --cells count too.",
)  # fmt: skip
def densities(region: Path, out: Path, cells: tuple[float, ...], coarser: int) -> None:
    """Presence-only records as rasters: each species' share of those nearby.

    REGION is a region.yaml or its folder. A published model brings no rasters along, and says of its bands
    with which options they are made anew; the records must be the same.
    """
    from glczoo.data.region import Region
    from glczoo.regions.densities import write_densities

    will_write(out, folder=True, region=region)
    made = write_densities(Region.load(region), out, list(cells), coarser)
    print(f"{out}: {len(made.modalities[-1].bands)} bands; name it: region={out}")


@click.command("coordinates", cls=Verb)
@region_argument
@click.option(
    "--middle", type=float, nargs=2, metavar="LON LAT", required=True,
    help="Where the plane touches the Earth, in degrees; a published model says it of its bands.",
)  # fmt: skip
@click.option("--out", type=PATH, required=True, help="Folder for the raster and its region.yaml.")
def coordinates(region: Path, middle: tuple[float, float], out: Path) -> None:
    """Kilometres east and north of a place as bands, which a fit to presence-only records reads.

    REGION is a region.yaml or its folder. A published model brings no rasters along: this writes these anew.
    """
    from glczoo.data.patch_source import PatchSource
    from glczoo.data.region import Region
    from glczoo.regions.coordinates import COORDINATES, write_coordinates

    will_write(out, folder=True, region=region)
    described = Region.load(region)
    rasters = [m.name for m in described.modalities if m.kind == "raster" and m.name != COORDINATES]
    write_coordinates(described, PatchSource(described, rasters, 1), middle, out)
    print(f"{out}: 2 bands; name it: --region {out}")


@click.command("make-virtual", cls=Verb)
@click.argument("folder", type=PATH)
@click.option("--species", type=int, default=200, help="Species.")
@click.option("--po", type=int, default=20000, help="Presence-only records.")
@click.option("--pa", type=int, default=1000, help="Presence–absence surveys.")
@click.option("--test", type=int, default=500, help="Rows of the test table.")
@click.option("--size", type=int, default=256, help="Cells of 30 arc seconds along a side.")
@click.option(
    "--grid", type=int, default=0, help="Points along a side of a regular grid with known truth, for maps."
)
@click.option("--patch-size", type=click.IntRange(min=1), help="patch_size of its region.yaml.")
@click.option("--seed", type=int, default=0, help="Another number, another world.")
@click.option(
    "--plain", is_flag=True,
    help="Rasters in folders, gbif.csv, plots.csv and points.csv, as people have their own, and no more; "
    "--test, --grid and --patch-size do not count.",
)  # fmt: skip
@click.option(
    "--layout", type=click.Choice(["glc23", "glc24"]), default="glc23",
    help="Of which GeoLifeCLEF: rasters and JPEG patches, or cubes, patches and values of each survey.",
)  # fmt: skip
def make_virtual(
    folder: Path,
    species: int,
    po: int,
    pa: int,
    test: int,
    size: int,
    grid: int,
    patch_size: int | None,
    seed: int,
    plain: bool,
    layout: Literal["glc23", "glc24"],
) -> None:
    """A virtual region with known truth, in a GeoLifeCLEF's layout, or files to practise region init on.

    FOLDER does not exist yet or is empty.
    """
    from glczoo.regions.virtual import make_virtual as make
    from glczoo.regions.virtual_own import make_own_files

    will_write(folder, folder=True)
    if plain:
        files = make_own_files(folder, species=species, records=po, plots=pa, size=size, seed=seed)
        print(
            f"{folder}: {len(files.species)} species, {files.records} records, {files.plots} plots. Now: "
            f"glczoo region init {folder} --po {folder / 'gbif.csv'} --pa {folder / 'plots.csv'}"
        )
        return
    made = make(
        folder,
        species=species,
        po=po,
        pa=pa,
        test=test,
        size=size,
        grid=grid,
        patch_size=patch_size,
        seed=seed,
        layout=layout,
    )
    print(
        f"{made.folder}: {made.num_species} species; {made.num_po} presence-only records at "
        f"{made.num_po_places} places; {made.num_pa} surveys of {made.mean_set_size:.1f} species; "
        f"{made.num_test} test rows; {made.num_patches} patches. Now: glczoo region check {made.folder}"
    )


region = Verbs(
    "region",
    help="Describe your own data, check a region, its statistics, or make a virtual one.",
    subcommand_metavar="VERB …",
    context_settings=CONTEXT,
    sections={"Verbs": [init, check, stats, densities, coordinates, make_virtual]},
)


@click.command("pack", cls=Verb)
@region_argument
@click.option("--out", type=PATH, help="Folder to write; by default where the region looks.")
@click.option("--decoded", is_flag=True, help="Keep pixels: 16 times the space, no decoding.")
@click.option("--verify", is_flag=True, help="Compare CRC-32 and look for new files.")
def pack(region: Path, out: Path | None, decoded: bool, verify: bool) -> None:
    """A region's trees of JPEG files become a few memory-mapped shards.

    REGION is a region.yaml or its folder.
    """
    from glczoo.data.region import Region
    from glczoo.regions.pack import pack_region, packed_folder

    described = Region.load(region)
    will_write(out or packed_folder(described), folder=True)
    print(pack_region(described, out, decoded=decoded, verify=verify).text())
