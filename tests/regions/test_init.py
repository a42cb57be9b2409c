"""`glczoo region init`: what is guessed of GBIF's downloads, plots and rasters, and from there to a run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from conftest import addresses, write_raster

from glczoo.cli import main
from glczoo.data.region import Region
from glczoo.data.tables import read_samples, read_species
from glczoo.recipe import read_recipe
from glczoo.regions.bands import find_modalities
from glczoo.regions.columns import guess_table
from glczoo.regions.init import init_region
from glczoo.regions.starter_recipes import Sizes, starter_recipes
from glczoo.train import train

GBIF = (  # the columns of a "simple" download, in its order
    "gbifID datasetKey occurrenceID kingdom phylum class order family genus species infraspecificEpithet "
    "taxonRank scientificName verbatimScientificName verbatimScientificNameAuthorship countryCode locality "
    "stateProvince occurrenceStatus individualCount publishingOrgKey decimalLatitude decimalLongitude "
    "coordinateUncertaintyInMeters coordinatePrecision elevation elevationAccuracy depth depthAccuracy "
    "eventDate day month year taxonKey speciesKey basisOfRecord institutionCode collectionCode catalogNumber "
    "recordNumber identifiedBy dateIdentified license rightsHolder recordedBy typeStatus establishmentMeans "
    "lastInterpreted mediaType issue"
).split()
ZIP = b"PK\5\6" + bytes(18)  # an archive of no files
TREES = {"Abies alba": 2685484, "Fagus sylvatica": 2882316, "Quercus robur": 2878688}


def gbif_row(number: int, lon: float, lat: float, species: str, **changes: str) -> dict[str, str]:
    return {
        "gbifID": str(4_000_000_000 + number),
        "species": species,
        "scientificName": f"{species} L.",
        "locality": '"Old mill, beside' if number % 3 == 0 else "",  # one quotation mark, as GBIF writes it
        "occurrenceStatus": "PRESENT",
        "decimalLatitude": f"{lat:.5f}",
        "decimalLongitude": f"{lon:.5f}",
        "eventDate": "2019-06-03T10:22",
        "taxonKey": str(TREES.get(species, 7)),
        "speciesKey": str(TREES[species]) if species in TREES else "",
        "basisOfRecord": "HUMAN_OBSERVATION",
    } | changes


def write_gbif(path: Path, rows: list[dict[str, str]]) -> Path:
    lines = ["\t".join(row.get(column, "") for column in GBIF) for row in rows]
    path.write_text("\n".join(["\t".join(GBIF), *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two bands at 1 km in 5-6 E, 44-45 N; a GBIF download of 60 records and five odd rows; 20 plots."""
    root = tmp_path / "my region"
    for name in ("bio1", "bio12"):
        write_raster(root / f"climate/wc2.1_30s_{name}.tif", [addresses(100, 100, 1, "int16")])
    rng = np.random.default_rng(0)
    lon, lat = rng.uniform(5.1, 5.9, 80), rng.uniform(44.1, 44.9, 80)
    names = list(TREES)
    rows = [gbif_row(i, lon[i], lat[i], names[i % 3]) for i in range(60)]
    rows += [
        gbif_row(60, 5.5, 44.5, "", scientificName="Quercus L.", taxonRank="GENUS"),
        gbif_row(61, 5.5, 44.5, names[0], decimalLatitude="", decimalLongitude=""),
        gbif_row(62, 5.5, 44.5, names[0], occurrenceStatus="ABSENT", individualCount="0"),
        gbif_row(63, 4.0, 44.5, names[0]),
        gbif_row(
            64, 5.5, 44.5, names[0], basisOfRecord="LIVING_SPECIMEN", coordinateUncertaintyInMeters="5000"
        ),
    ]
    write_gbif(root / "0012345-gbif.csv", rows)
    plots = ["Plot ID,Date,Longitude,Latitude,Species,Presence"]
    for i in range(20):
        for j, name in enumerate([*names, "Larix decidua"]):
            place = f"{lon[60 + i]:.5f},{lat[60 + i]:.5f}"
            plots.append(f"P{i:02d},2020-05-{1 + i:02d},{place},{name},{int((i + j) % 4 > 1 and i > 0)}")
    (root / "plots.csv").write_text("\n".join(plots) + "\n")
    return root


def test_a_gbif_download_and_plots_become_a_region_that_reads(folder: Path) -> None:
    found = init_region(folder, folder / "0012345-gbif.csv", folder / "plots.csv")
    region = Region.load(folder)
    po, pa = region.table("po"), region.table("pa")
    assert (po.separator, po.lon, po.lat, po.species) == (
        "\t", "decimalLongitude", "decimalLatitude", "speciesKey",
    )  # fmt: skip
    assert po.presence == {"occurrenceStatus": ["PRESENT"]} and po.incomplete == "drop"
    assert pa.survey == ["Plot ID", "Date"] and pa.species_by == "name" and pa.presence == {"Presence": [1]}
    assert region.band_names == ["bio1", "bio12"] and region.modalities[0].name == "climate"
    species = read_species(region)
    assert dict(zip(species.names, species.ids.tolist(), strict=True)) == TREES | {"Larix decidua": 2882317}
    records = read_samples(region, "po", species)
    assert len(records) == 62  # 65 without the genus, the row without coordinates and the absence
    surveys = read_samples(region, "pa", species)
    assert len(surveys) == 20 and surveys.sizes()[0] == 0 and surveys.sizes()[1:].tolist() == [2] * 19
    told = found.text()
    assert "1 rows lie outside of the rasters" in told and "1 records are fossils or living" in told
    assert "1 of 62 rows are less exact than 1 km" in told
    assert "1 species in plots.csv alone, by name: Larix decidua" in told
    text = (folder / "region.yaml").read_text()
    for reason in (
        "guessed: of 65 rows 1 without coordinates, 1 of 63 rows without speciesKey",
        "guessed: 63 presences, 1 absences (ABSENT)",
    ):
        assert reason in text


def test_from_init_by_check_to_the_first_batches(folder: Path, tmp_path: Path, capsys) -> None:
    main(
        [
            "region",
            "init",
            str(folder),
            "--po",
            str(folder / "0012345-gbif.csv"),
            "--pa",
            str(folder / "plots.csv"),
        ]
    )
    assert f"glczoo region check {folder}" in capsys.readouterr().out
    main(["region", "check", str(folder)])
    printed = capsys.readouterr().out
    assert "1 of 62 outside the grid of bio1, bio12" in printed
    assert 'presence: {"Presence": [1]} # guessed: ' in printed and "guessed by init: delete" in printed
    written = sorted(path.stem for path in (folder / "recipes").iterdir())
    assert written == ["finetune", "step1", "step2", "step3"]
    few = [f"runs={tmp_path / 'runs'}", "epochs=1", "data.workers=0", "model_args.channels=[8,8,8,8]"]
    few += ["model_args.layers=[1,1,1,1]"]
    for step in ("step1", "step2", "step3"):
        run = train(read_recipe(folder / f"recipes/{step}.yaml", few))
    tuned = [f"init={run}", "model=fusresnet34_glc23", "finetune.frozen=true", *few[:3]]
    assert (train(read_recipe(folder / "recipes/finetune.yaml", tuned)) / "model.safetensors").exists()


def test_a_virtual_region_is_found_again(world: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(world, tmp_path / "found")
    told = Region.load(folder)
    (folder / "region.yaml").unlink()
    init_region(folder, *(folder / told.table(kind).file[0] for kind in ("po", "pa")))
    found = Region.load(folder)
    assert {m.folder: (m.kind, [b.name for b in m.bands]) for m in found.modalities} == {
        m.folder: (m.kind, ["HFP2009_WGS84"] if m.name == "footprint" else [b.name for b in m.bands])
        for m in told.modalities
    }
    assert found.table("pa").survey is None and found.species is None
    for kind in ("po", "pa"):
        ours, theirs = (read_samples(r, kind, read_species(r)) for r in (found, told))
        np.testing.assert_array_equal(ours.species, theirs.species)
        np.testing.assert_array_equal(ours.offsets, theirs.offsets)
    for name in ("step1", "step2", "step3"):  # JPEG and raster branches, two batches
        few = [
            f"runs={tmp_path}", "epochs=1", "data.pa_fraction=0.2", "data.validation={po: 0.95, pa: 0}",
            "decoding={rule: top_k, tune_on: train}",
        ]  # fmt: skip
        few += ["keep=last", "batch_size=8", "model_args.channels=[8,8,8,8]", "model_args.layers=[1,1,1,1]"]
        assert train(read_recipe(folder / f"recipes/{name}.yaml", few)).name == name


def test_nothing_is_overwritten_and_nothing_is_left_half(folder: Path) -> None:
    (folder / "recipes").mkdir()
    (folder / "recipes/step1.yaml").write_text("mine")
    before = sorted(folder.rglob("*"))
    with pytest.raises(FileExistsError, match=r"step1.yaml: there already, nothing was written"):
        init_region(folder, pa=folder / "plots.csv")
    assert sorted(folder.rglob("*")) == before and (folder / "recipes/step1.yaml").read_text() == "mine"
    (folder / "recipes/step1.yaml").unlink()
    init_region(folder, folder / "0012345-gbif.csv")
    with pytest.raises(FileExistsError, match=r"region.yaml is there already"):
        init_region(folder, folder / "0012345-gbif.csv")


def test_a_killed_init_goes_on_and_tables_are_looked_for_in_the_folder_too(folder: Path) -> None:
    written = init_region(folder, pa=Path("plots.csv"))
    texts = {path: path.read_text() for path in written.files}
    (folder / "region.yaml").unlink()  # the last to be written
    again = init_region(folder, pa=Path("plots.csv"))
    assert again.files == [folder / "region.yaml"] and again.text().endswith(f"glczoo train {written.recipe}")
    assert {path: path.read_text() for path in texts} == texts
    with pytest.raises(FileNotFoundError, match=r"elsewhere\.csv"):
        init_region(folder / "recipes", pa=Path("elsewhere.csv"))


def test_a_species_table_that_is_there_is_used_or_left_alone(folder: Path) -> None:
    written = init_region(folder, pa=folder / "plots.csv").files
    (species,) = [path for path in written if path.name == "species.csv"]
    for path in set(written) - {species}:
        path.unlink()
    species.write_bytes(species.read_bytes().replace(b"\n", b"\r\n"))
    again = init_region(folder, pa=folder / "plots.csv").files  # the same table, saved by Windows
    assert species not in again and Region.load(folder).species.file == "species.csv"
    for path in again:
        path.unlink()
    species.write_text("taxon;code\nAbies alba;1\n")
    other = init_region(folder, pa=folder / "plots.csv").files
    assert folder / "species_of_init.csv" in other and species.read_text().startswith("taxon")
    assert Region.load(folder).species.file == "species_of_init.csv"


def test_presence_only_data_get_a_recipe_of_their_own(folder: Path, tmp_path: Path) -> None:
    elsewhere = Path(shutil.move(folder / "0012345-gbif.csv", tmp_path / "gbif.csv"))
    init_region(folder, elsewhere, name="Drôme: trees")
    recipe = read_recipe(folder / "recipes/step2.yaml")
    assert (recipe.init, recipe.data.tables, recipe.decoding.value) == ("random", ["po"], 1)
    assert not (folder / "recipes/step1.yaml").exists()
    shutil.rmtree(folder / "recipes")
    for file in ("species.csv", "region.yaml"):
        (folder / file).unlink()
    init_region(folder, pa=folder / "plots.csv")
    recipe = read_recipe(folder / "recipes/step1.yaml")
    assert (recipe.init, recipe.data.tables, recipe.decoding.rule) == ("random", ["pa"], "expected_f1")
    assert not (folder / "recipes/step2.yaml").exists()
    for file in ("species.csv", "region.yaml", "recipes/step1.yaml", "recipes/finetune.yaml"):
        (folder / file).unlink()
    init_region(folder, elsewhere, name="Drôme: trees")
    region = Region.load(folder)
    assert region.name == "Drôme trees" and len(read_samples(region, "po", read_species(region))) == 62


@pytest.mark.parametrize(("rows", "size"), [(300_000, 128), (300_000, 32), (900, 16), (7, 8)])
def test_recipes_are_sized_to_the_data(tmp_path: Path, rows: int, size: int) -> None:
    modalities = {f"m{i}": 3 for i in range(3 if rows > 1000 else 5)}
    bands = [f"b{i}" for i in range(sum(modalities.values()))]
    sizes = Sizes({"po": rows, "pa": max(rows // 100, 2)}, modalities, bands, 50, size, outside=0)
    (tmp_path / "region.yaml").touch()
    for name, text in starter_recipes(tmp_path, sizes).items():
        (tmp_path / f"{name}.yaml").write_text(text)
        recipe = read_recipe(tmp_path / f"{name}.yaml", ["region=region.yaml"])
        branches = recipe.model_args["branches"]
        assert branches == (modalities if len(modalities) <= 4 else {"all": len(bands)})
        large = rows == 300_000 and size == 128
        assert ("layers" not in recipe.model_args) == large
        assert recipe.model_args.get("stem_stride", 4) == {16: 2, 8: 1}.get(size, 4)
        assert recipe.batch_size <= max(2, sizes.rows[recipe.data.tables[0]] // 8)
        if name == "step2":
            expected = (10, [], "step1") if large else (6, [3, 4], "step1")
            assert (recipe.epochs, recipe.schedule.milestones, recipe.init) == expected
        if name == "step1":
            assert recipe.init == ("imagenet" if large else "random")


def test_records_of_one_species_are_not_told_apart_by_cross_entropy(tmp_path: Path) -> None:
    sizes = Sizes({"po": 900}, {"m": 2}, ["a", "b"], 1, 16, outside=0)
    (tmp_path / "step2.yaml").write_text(starter_recipes(tmp_path, sizes)["step2"])
    (tmp_path / "region.yaml").touch()
    recipe = read_recipe(tmp_path / "step2.yaml", ["region=region.yaml"])
    assert recipe.loss.name == "sinr_full" and recipe.decoding.value == 1


# --- tables ---------------------------------------------------------------------------------------------


def table(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize(
    ("head", "rows", "keys", "surveys"),
    [
        ("patchID;dayOfYear", ["7;100", "7;200", "8;100"], None, 3),  # GeoLifeCLEF's own: nothing to say
        ("patchID;date", ["7;2020-01-01", "7;2020-06-01", "8;2020-01-01"], ["patchID", "date"], 3),
        ("site;year", ["a;2020", "a;2021", "b;2020"], ["site", "year"], 3),
        ("eventID;eventDate", ["x;2020-01-01T08:00", "x;2020-01-01T08:05", "y;2020-01-01"], ["eventID"], 2),
        ("year;month;day", ["2020;1;1", "2020;1;1", "2020;1;1"], ["lon", "lat", "year", "month", "day"], 2),
        ("note", ["a", "b", "c"], ["lon", "lat"], 2),
    ],
)
def test_what_tells_surveys_apart(tmp_path, head, rows, keys, surveys):
    places = ["5.5;44.5;3", "5.5;44.5;4", "5.6;44.5;3"]
    lines = [f"lon;lat;speciesId;{head}", *(f"{p};{r}" for p, r in zip(places, rows, strict=True))]
    found = guess_table(table(tmp_path / "pa.csv", "\n".join(lines)), "pa", {})
    assert found.keys.get("survey") == keys and found.num_surveys == surveys
    assert any("no column of dates" in doubt for doubt in found.doubts) == (head == "note")


def test_a_site_of_several_places_does_not_tell_surveys_apart(tmp_path):
    text = "lon,lat,species,site\n5.5,44.5,Abies alba,a\n5.6,44.5,Fagus sylvatica,a\n"
    found = guess_table(table(tmp_path / "pa.csv", text), "pa", {})
    assert found.keys["survey"] == ["lon", "lat"] and found.num_surveys == 2
    assert "1 surveys by site have more than one place" in found.doubts


@pytest.mark.parametrize(
    ("text", "said", "message"),
    [
        ("a,b\n1,2\n", {}, r"no column looks like lon or lat or species; it has \['a', 'b'\]"),
        ("lon,lat,Kraut\n1,2,x\n", {}, r"looks like species; .* --columns species=COLUMN"),
        ("x,y,species\n4034867,2235568,3\n", {}, r"x, y hold no degrees, but for example \[4034867"),
        ("lon;lat;species\neast;north;3\n", {}, r"hold no degrees, but for example \['east'"),
        ("lon,lat,species\n", {}, "has a header and no rows"),
        ("lon-lat-species\n", {}, "its first line names no columns"),
        ("lon,lat,species\n5,44,\n", {}, "name no species in any row"),
        (ZIP, {}, r"is a zip archive with no table \(nothing\): unpack it"),
    ],
)
def test_tables_that_cannot_be_guessed_say_why(tmp_path, text, said, message):
    with pytest.raises(ValueError, match=message):
        guess_table(table(tmp_path / "t.csv", text), "po", said)


def test_what_a_person_says_is_not_guessed(folder: Path) -> None:
    (folder / "own.csv").write_text("x,y,Kraut\n5.5,44.5,Tanne\n5.6,44.6,Buche\n")
    with pytest.raises(ValueError, match=r"--columns taxon=… is not known; there are lon, lat, species"):
        init_region(folder, folder / "own.csv", columns={"taxon": "Kraut"})
    with pytest.raises(ValueError, match=r"no table has the column Zahl"):
        init_region(folder, folder / "own.csv", columns={"species": "Kraut", "day": "Zahl"})
    init_region(folder, folder / "own.csv", columns={"species": "Kraut"})
    region = Region.load(folder)
    assert read_species(region).names == ("Buche", "Tanne")
    (folder / "own.csv").write_text("x,y,Kraut\n5.5,44.5,Tanne\n5.6,44.6,Eiche\n")
    with pytest.raises(
        ValueError, match=r"1 species of 1 rows are not in the species table .*\['Eiche'\]; add"
    ):
        read_samples(region, "po", read_species(region))


def test_names_need_a_table_of_ids(folder: Path) -> None:
    init_region(folder, folder / "0012345-gbif.csv", folder / "plots.csv")
    told = yaml.safe_load((folder / "region.yaml").read_text())
    del told["species"]
    (folder / "region.yaml").write_text(yaml.safe_dump(told))
    with pytest.raises(ValueError, match=r"the pa table names species .* describe a species table"):
        Region.load(folder)
    (folder / "region.yaml").write_text(yaml.safe_dump(told | {"species": {
        "file": "species.csv", "separator": ",", "name": "name"}}))  # fmt: skip
    (folder / "species.csv").write_text("speciesId,name\n1,Abies alba\n2,Abies alba\n")
    region = Region.load(folder)
    with pytest.raises(ValueError, match=r"two species of the vocabulary are \['Abies alba', 'Abies alba'\]"):
        read_samples(region, "pa", read_species(region))


# --- rasters --------------------------------------------------------------------------------------------


def test_bands_are_named_and_grouped_and_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    values = addresses(16, 16, 1, "int16")
    write_raster(tmp_path / "soil/crop_clay_mean.tif", [values])
    write_raster(tmp_path / "soil/crop_sand_mean.tif", [values])
    write_raster(tmp_path / "soil/coarse.tif", [values], cell=0.05)
    filled = values.copy()
    filled[:4] = -9999
    write_raster(tmp_path / "dem.tif", [filled])
    with rasterio.open(tmp_path / "dem.tif", "r+") as dem:
        dem.set_band_unit(1, "m")
        dem.set_band_description(1, "elevation above the sea")
    write_raster(tmp_path / "optical.tif", [values, values, values])
    with rasterio.open(tmp_path / "optical.tif", "r+") as optical:
        for number, name in enumerate(("red", "nir (8 bit)", ""), 1):
            optical.set_band_description(number, name)
        optical.scales = (1, 0.1, 1)
    write_raster(tmp_path / "lost.tif", [values], crs=None, west=4e5, north=5e6, cell=1e3)
    write_raster(tmp_path / "empty.tif", [np.full((16, 16), -1, "int16")], nodata=-1)
    (tmp_path / "broken.tif").write_text("no raster")
    found, unusable = find_modalities(tmp_path)
    told = {m.name: [b.name for b in m.bands] for m in found}
    assert told == {
        "rasters": ["dem", "red", "nir", "optical_3"],
        "soil_36_arc_seconds": ["clay", "sand"],
        "soil_180_arc_seconds": ["coarse"],
    }
    dem, _, nir, _ = found[0].bands
    assert (dem.unit, dem.nodata, nir.unit, nir.index) == ("m", -9999, "8 bit", 2)
    assert "elevation above the sea" in dem.comment and "nodata guessed" in dem.comment
    assert sorted(line.split(": ")[0] for line in unusable) == ["broken.tif", "empty.tif", "lost.tif"]


def test_rasters_of_another_place_are_left_out_and_swapped_columns_are_suspected(folder: Path) -> None:
    write_raster(folder / "far/dem.tif", [addresses(16, 16, 1, "int16")], west=100)
    found = init_region(folder, folder / "0012345-gbif.csv")
    assert Region.load(folder).band_names == ["bio1", "bio12"]
    assert "not used: far (dem): it holds 0% of the rows" in found.text()
    (folder / "region.yaml").unlink()
    swapped = {"lon": "decimalLatitude", "lat": "decimalLongitude"}
    with pytest.raises(ValueError, match=r"no raster can be used for 62 rows .* are lon and lat exchanged\?"):
        init_region(folder, folder / "0012345-gbif.csv", columns=swapped)


@pytest.mark.parametrize(("cell", "side", "size"), [(0.0083, 2000, 128), (0.1667, 300, 8), (0.0083, 200, 32)])
def test_patches_are_sized_to_the_rasters(tmp_path, cell, side, size):
    write_raster(tmp_path / "a.tif", [np.eye(side, dtype="uint8")], cell=cell, nodata=255)
    lon, lat = 5 + side / 2 * cell, 45 - side / 2 * cell  # its middle
    (tmp_path / "po.csv").write_text(f"lon,lat,species\n{lon},{lat},3\n{lon + cell},{lat},4\n")
    init_region(tmp_path, tmp_path / "po.csv")
    assert Region.load(tmp_path).patch_size == size


@pytest.mark.real_data
def test_swiss_trees_and_the_sample_are_found_as_they_are(test_data: Path, tmp_path: Path) -> None:
    swiss = shutil.copytree(test_data / "swiss-trees", tmp_path / "swiss")
    tables = (
        "Presence_only_occurrences/Presences_only_train.csv",
        "Presence_Absences_occurrences/Presences_Absences_train.csv",
    )
    init_region(swiss, *(swiss / table for table in tables))
    region = Region.load(swiss)
    assert region.patch_size == 16 and len(region.band_names) == 14
    assert len(read_samples(region, "pa", read_species(region))) == 10013
    sample = shutil.copytree(test_data / "glc23-sample", tmp_path / "sample")
    told = init_region(sample, sample / tables[0], sample / tables[1]).text()
    assert "not used: SatelliteImages: no JPEG patches for most rows of Presences_Absences_train.csv" in told
    (sample / "region.yaml").unlink()
    shutil.rmtree(sample / "recipes")
    init_region(sample, sample / tables[0])
    assert Region.load(sample).band_names == ["Built2009", "Lights2009", "red", "green", "blue", "nir"]
