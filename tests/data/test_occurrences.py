"""Tables: what a survey is, what real files look like, bad input."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.data.region import Region
from glczoo.data.table_files.writing import write_csv
from glczoo.data.tables import (
    read_points,
    read_samples,
    read_species,
)

HEAD = "glcID;gbifID;observer;datasetName;date;dayOfYear;year;lon;lat;speciesId;patchID;timeSerieID"
GLC23_PA = [
    "Presence_Absence_surveys/Presences_Absences_train.csv",
    "Presence_Absences_occurrences/Presences_Absences_train.csv",
]
PA = f"""{HEAD}
1;;;north;2020-06-01;153;2020;5.10;45.20;12;900;1
2;;;north;2020-06-01;153;2020;5.10;45.20;31;900;1
3;;;north;1596240000;214;2020;5.10;45.20;12;900;2
4;;;south;2020-06-01;153;2020;6.00;44.00;7;17;3
5;;;north;2020-06-01;153;2020;5.10;45.20;31;900;1
"""
PO = f"""{HEAD}
1;;;gbif;2020-06-01;153;2020;5.10;45.20;12;900;1
2;;;gbif;2020-06-01;153;2020;5.10;45.20;12;900;1
3;;;other;2020-06-01;153;2020;5.30;45.30;40;901;1
"""
VOCABULARY = SpeciesIndex(np.array([7, 12, 31, 40]))


def region(folder: Path, po: str | None = None, pa: str | None = None, **keys: object) -> Region:
    """A region of these tables; only its tables are ever opened."""
    tables = {}
    for name, text in (("po", po), ("pa", pa)):
        if text is not None:
            tables[name] = {"file": f"{name}.csv"}
            (folder / f"{name}.csv").write_text(text)
    described = {
        "name": "tables",
        "bounds": [-10, 40, 12, 60],
        "modalities": [{"name": "m", "bands": [{"name": "b", "file": "b.tif"}]}],
        "tables": tables,
    }
    (folder / "region.yaml").write_text(yaml.safe_dump(described | keys))
    return Region.load(folder)


def pa(folder: Path, text: str, vocabulary: SpeciesIndex = VOCABULARY) -> Samples:
    return read_samples(region(folder, pa=text), "pa", vocabulary)


def as_sets(surveys: Samples) -> list[tuple[int, set[int]]]:
    return [
        (int(surveys.patch_id[i]), set(surveys.species[surveys.offsets[i] : surveys.offsets[i + 1]].tolist()))
        for i in range(len(surveys))
    ]


# --- surveys --------------------------------------------------------------------------------------------


def test_a_survey_is_a_patch_on_a_day_and_duplicates_collapse(tmp_path: Path) -> None:
    surveys = pa(tmp_path, PA)
    # Patch 900 was visited twice: 5 rows are 3 surveys; row 5 repeats row 2.
    assert as_sets(surveys) == [(900, {1, 2}), (900, {1}), (17, {0})]
    assert surveys.sizes().tolist() == [2, 1, 1] and len(surveys.species) == 4
    assert surveys.lon.tolist() == [5.1, 5.1, 6.0] and surveys.lat.tolist() == [45.2, 45.2, 44.0]
    assert surveys.datasets.tolist() == ["north", "north", "south"]
    assert not surveys.presence_only


def test_every_presence_only_row_is_a_survey(tmp_path: Path) -> None:
    surveys = read_samples(region(tmp_path, po=PO), "po", VOCABULARY)
    assert as_sets(surveys) == [(900, {1}), (900, {1}), (901, {3})]
    assert surveys.presence_only and surveys.dataset_names == ("gbif", "other")


def test_real_files_quirks(tmp_path: Path) -> None:
    # Unnamed index column, an unknown extra column, float ids, mixed dates, a quoted separator, a day as
    # float, letter case of columns, columns in another order.
    surveys = pa(
        tmp_path,
        ";glcID;LON;Lat;observer;datasetname;date;DayOfYear;year_ecodatacube_quarter;SPECIESID;patchid\n"
        '74594;1;5.1;45.2;"Bø, Åse; Roe";CBNMed;2020-06-01;153.0;2.0;12.0;900.0\n'
        "18728;2;5.1;45.2;;CBNMed;1591000000;153.0;;31.0;900.0\n",
    )
    assert as_sets(surveys) == [(900, {1, 2})]
    assert surveys.patch_id.dtype == surveys.species.dtype == np.int64


def test_a_table_without_days_groups_by_patch(tmp_path: Path) -> None:
    assert as_sets(pa(tmp_path, "lon;lat;speciesId;patchID\n5;45;12;1\n5;45;7;1\n6;45;7;2\n")) == [
        (1, {0, 1}),
        (2, {0}),
    ]
    empty_days = "lon;lat;speciesId;patchID;dayOfYear\n5;45;12;1;\n5;45;7;1;\n"
    assert as_sets(pa(tmp_path, empty_days)) == [(1, {0, 1})]


@pytest.mark.parametrize("spelling", [*GLC23_PA, GLC23_PA[0].upper(), GLC23_PA[1].lower()])
def test_both_spellings_and_any_letter_case_of_folders(tmp_path: Path, spelling: str) -> None:
    (tmp_path / spelling).parent.mkdir()
    (tmp_path / spelling).write_text(PA)
    assert len(read_samples(region(tmp_path, tables={"pa": {"file": GLC23_PA}}), "pa", VOCABULARY)) == 3


def test_surveys_without_species_join_the_table(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text(f"{HEAD}\n9;;;north;;10;2020;7.0;46.0;;77;\n8;;;north;;;;7;46;;78;\n")
    described = {"pa": {"file": "pa.csv", "without_species": "empty.csv"}}
    surveys = read_samples(region(tmp_path, pa=PA, tables=described), "pa", VOCABULARY)
    assert as_sets(surveys)[3:] == [(77, set()), (78, set())]
    assert surveys.targets(torch.tensor([3, 4]), 4).sum() == 0


# --- arithmetic of surveys ------------------------------------------------------------------------------


def made(sets: list[set[int]], name: str = "made") -> Samples:
    sizes = [len(s) for s in sets]
    number = np.arange(len(sets))
    return Samples(
        number + 0.5, number + 40.0, number * 10, number, np.concatenate([[0], np.cumsum(sizes)]).astype(int),
        np.array([k for s in sets for k in sorted(s)], int), dataset=number * 0, dataset_names=(name,),
    )  # fmt: skip


label_sets = st.lists(st.sets(st.integers(0, 6), max_size=4), min_size=1, max_size=8)


@settings(deadline=None, max_examples=50)
@given(label_sets, st.data())
def test_subset_and_targets_equal_the_obvious_twin(sets: list[set[int]], data: st.DataObject) -> None:
    surveys = made(sets)
    index = np.array(data.draw(st.lists(st.integers(0, len(sets) - 1), max_size=8)), int)
    chosen = surveys.subset(index)
    assert as_sets(chosen) == [(10 * i, sets[i]) for i in index]
    assert chosen.lon.tolist() == [i + 0.5 for i in index] and chosen.ids.tolist() == index.tolist()
    mask = np.isin(np.arange(len(sets)), index)
    assert as_sets(surveys.subset(mask)) == [(10 * i, sets[i]) for i in np.flatnonzero(mask)]
    if len(index):
        dense = surveys.targets(torch.from_numpy(index), 7)
        assert dense.tolist() == [[float(k in sets[i]) for k in range(7)] for i in index]


@settings(deadline=None, max_examples=25)
@given(label_sets, label_sets)
def test_concatenate_keeps_order_labels_and_sources(first: list[set[int]], second: list[set[int]]) -> None:
    joined = Samples.concatenate([made(first, "a"), made(second, "b"), made(first, "a")])
    assert [s for _, s in as_sets(joined)] == first + second + first
    names = ["a"] * len(first) + ["b"] * len(second) + ["a"] * len(first)
    assert joined.datasets.tolist() == names
    assert joined.dataset_names == ("a", "b") and not joined.presence_only


# --- the vocabulary -------------------------------------------------------------------------------------


def test_the_vocabulary_is_every_species_of_both_tables(tmp_path: Path) -> None:
    species = read_species(region(tmp_path, po=PO, pa=PA))
    assert species.ids.tolist() == [7, 12, 31, 40]  # gaps, not counted from 1
    assert species.classes(np.array([40, 7, 12]), "here").tolist() == [3, 0, 1]
    with pytest.raises(ValueError, match=r"here: 2 species of 3 rows .* 4 species, the first: \[8, 99\]"):
        species.classes(np.array([99, 8, 7, 8]), "here")


@pytest.mark.parametrize("names", [(), ("Abies alba", "", "NA", "Quercus; robur")])
def test_the_vocabulary_survives_its_file(tmp_path: Path, names: tuple[str, ...]) -> None:
    saved = SpeciesIndex(VOCABULARY.ids, names)
    saved.save(tmp_path / "species.csv")
    loaded = SpeciesIndex.load(tmp_path / "species.csv")
    assert loaded.ids.tolist() == saved.ids.tolist() and loaded.names == names


def test_a_file_that_is_no_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "species.csv"
    path.write_text("class;speciesId;name\n0;7;\n1;5;\n")
    with pytest.raises(ValueError, match=r"species\.csv is no vocabulary: speciesIds must ascend"):
        SpeciesIndex.load(path)
    path.write_text("speciesId;name\n7;\n")
    with pytest.raises(ValueError, match=r"is no vocabulary: it has the columns \['speciesId', 'name'\]"):
        SpeciesIndex.load(path)


def test_a_species_table_rules(tmp_path: Path) -> None:
    (tmp_path / "species.csv").write_text("speciesId;code\n31;c\n7;a\n12;b\n")
    described = {"file": "species.csv", "name": "code"}
    species = read_species(region(tmp_path, pa=PA, species=described))
    assert species.ids.tolist() == [7, 12, 31] and species.names == ("a", "b", "c")
    (tmp_path / "species.csv").write_text("speciesId;code\n31;c\n7;a\n31;b\n")
    with pytest.raises(ValueError, match=r"species\.csv: species \[31\] stand there twice"):
        read_species(region(tmp_path, pa=PA, species=described))


# --- bad input ------------------------------------------------------------------------------------------


def rows(*places: str) -> str:
    return "\n".join(["lon;lat;speciesId;patchID;dayOfYear", *places]) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (rows("45;5;12;1;9", "46;6;12;2;9", "47;7;12;3;9"), r"3 of 3 rows lie in the region only with lon and"
         r" lat exchanged: are the columns swapped\?"),
        (rows("5;45;12;1;9", "5;95;12;2;9", "-181;45;7;3;9"), r"of 3 rows 2 with coordinates that are no "
         r"place on Earth, the first at line\(s\) \[3, 4\]; `incomplete: drop`"),
        (rows("5;45;12;1;9", ";45;12;2;9", "5;x;12;3;9"), r"of 3 rows 1 without coordinates, .*\[3\]; 1 with "
         r"coordinates that are no numbers, .*\[4\]"),
        (rows("5;45;12;1;9", "5;45.1;7;1;9"), r"1 surveys \(patchID, dayOfYear\) have more than one place, "
         r"the first at line\(s\) \[3\]"),
        (rows("5;45;12;1;9", "5;45;13;2;9"), r"1 species of 1 rows are not in the vocabulary of 4 species"),
        (rows("5;45;12.5;1;9"), r"1 values of speciesId are not whole numbers, the first at line\(s\) \[2\]"),
        (rows("5;45;12;abc;9", "5;45;12;;9"), r"1 values of patchID are not whole numbers, .*\[2\]"),
        (rows("5;45;12;1;", "5;45;12;1;june"), r"1 values of dayOfYear are not whole numbers, .*\[3\]"),
        ("lon;lat;patchID\n5;45;1\n", r"column \['speciesId'\] is missing"),
        (PA.replace(";", ","), r"its first line names no columns between ';', but between ','"),
    ],
)  # fmt: skip
def test_bad_tables_are_refused_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"pa\.csv: {message}"):
        pa(tmp_path, text)


def test_a_presence_only_row_must_name_its_species(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"po\.csv: 1 presence-only records name no species, .*\[3\]"):
        read_samples(region(tmp_path, po=rows("5;45;12;1;9", "5;45;;1;9")), "po", VOCABULARY)


def test_missing_tables_are_named(tmp_path: Path) -> None:
    described = region(tmp_path, tables={"pa": {"file": GLC23_PA}})
    with pytest.raises(FileNotFoundError, match=f"{GLC23_PA[0]} or {GLC23_PA[1]} not found under"):
        read_samples(described, "pa", VOCABULARY)
    with pytest.raises(ValueError, match=r"region tables describes no po table; it has \['pa'\]"):
        read_samples(described, "po", VOCABULARY)


# --- tables of points -----------------------------------------------------------------------------------


def test_points_of_anyone(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("name,LON,lat\na,5.5,45\nb,-170,-80\n")
    points = read_points(None, path)
    assert points.lon.tolist() == [5.5, -170] and points.lat.tolist() == [45, -80]
    assert points.ids.tolist() == [0, 1] and points.patch_id.tolist() == [-1, -1]
    assert points.at(np.array([False, True])).ids.tolist() == [1]
    path.write_text("a;b\n5;45\n")
    with pytest.raises(ValueError, match=r"no column looks like longitude or latitude; it has \['a', 'b'\]"):
        read_points(None, path)


def test_tables_are_written_whole(tmp_path: Path) -> None:
    write_csv(tmp_path / "out.csv", {"Id": [1, 2], "Predicted": ["4 5", "6"]})
    assert (tmp_path / "out.csv").read_text() == "Id,Predicted\n1,4 5\n2,6\n"
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_surveys_without_a_place_id_are_refused(address_region):
    path = address_region.find(*address_region.table("pa").file)
    lines = [line.split(";") for line in path.read_text().splitlines()]
    position = lines[0].index("patchID")
    path.write_text("".join(";".join(line[:position] + line[position + 1 :]) + "\n" for line in lines))
    with pytest.raises(ValueError, match="no row has a patchID, which tells surveys apart"):
        read_samples(address_region, "pa", read_species(address_region))


def test_tables_that_others_wrote(tmp_path: Path) -> None:
    """Tabs and quoted headers as R writes them; columns of presence; a survey by columns of any type."""
    rows = ["plot-a\t2020-05-01\t1", "plot-a\t2020-05-01\t0", "plot-a\t2020-06-01\t1", "plot-b\t\t0"]
    text = "".join(f'"{7 + 5 * (i % 2)}"\t5.1\t45.2\t{row}\n' for i, row in enumerate(rows))
    keys = {"survey": ["plot", "date"], "presence": {"found": [1]}, "separator": "\t"}
    written = region(tmp_path, po='"speciesId"\t"lon"\t"lat"\t"plot"\t"date"\t"found"\n' + text)
    written.tables["po"] = written.tables["po"].model_copy(update=keys)
    written.tables["pa"] = written.tables["po"]
    surveys = read_samples(written, "pa", VOCABULARY)
    assert [species for _, species in as_sets(surveys)] == [{0}, {0}, set()]
    assert read_samples(written, "po", VOCABULARY).species.tolist() == [0, 0]


def test_incomplete_rows_stop_the_reading_or_are_left_out(tmp_path: Path) -> None:
    text = "lon;lat;speciesId\n5.1;45.2;7\n;45.2;7\n5.1;45.2;\n5.1;45.2;nonsense\n"
    written = region(tmp_path, po=text)
    with pytest.raises(ValueError, match=r"of 4 rows 1 without coordinates, the first at line\(s\) \[3\]"):
        read_samples(written, "po", VOCABULARY)
    written.tables["po"].incomplete = "drop"
    with pytest.raises(ValueError, match=r"not whole numbers, the first at line\(s\) \[5\]"):
        read_samples(written, "po", VOCABULARY)
    (tmp_path / "po.csv").write_text(text.replace("nonsense", "12"))
    assert read_samples(written, "po", VOCABULARY).species.tolist() == [0, 1]
