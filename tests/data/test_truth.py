"""Test tables and solution files of the competitions: which survey is meant, and what it found."""

from pathlib import Path

import numpy as np
import pytest

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.data.region import Region
from glczoo.data.tables import read_samples, read_species
from glczoo.data.truth import read_test_points, read_test_samples

VOCABULARY = SpeciesIndex(np.array([7, 12, 31, 40]))
TEST = "Id;datasetName;date;dayOfYear;year;patchID;lon;lat\n7;;;;;21;5;45\n3;;;;;22;6;46\n5.0;;;;;;6;46\n"
HEAD = "lon,lat,year,geoUncertaintyInM,areaInM2,region,country,speciesId,surveyId"
SURVEYS = f"""{HEAD}
9.67188,56.18192,2020,10.0,79.0,CONTINENTAL,Denmark,6310.0,1167600
9.67188,56.18192,2020,10.0,79.0,CONTINENTAL,Denmark,12.0,1167600
18.689813,42.596633,2018,0.0,inf,MEDITERRANEAN,Montenegro,11140.0,866975
"""
RECORDS = """publisher,year,month,day,lat,lon,geoUncertaintyInM,taxonRank,date,dayOfYear,speciesId,surveyId
Pl@ntNet,2019,5,5,43.74,1.57,6.0,SPECIES,2019-05-05,125,3383.0,1
iNaturalist group,2018,6,1,45.10,2.50,,SPECIES,2018-06-01,152,12.0,2
"""
BLIND = """lon,lat,year,geoUncertaintyInM,areaInM2,region,country,surveyId
9.67,56.18,2020,10.0,79.0,CONTINENTAL,Denmark,642
2.5,45.1,2020,5.0,100.0,CONTINENTAL,France,1792
2.5,45.1,2020,5.0,100.0,CONTINENTAL,France,1792
"""
MORE = BLIND + "3.5,45.2,2020,5.0,100.0,CONTINENTAL,France,3256\n"
KEYS = {"separator": ",", "patch": "surveyId", "survey": ["surveyId"]}
TEST_KEYS = {"separator": ",", "patch": "surveyId", "id": "surveyId", "predicted": "predictions"}


def described(folder: Path, **keys: object) -> Region:
    """A region of which only the tables are ever opened."""
    modality = {"name": "m", "bands": [{"name": "b", "file": "b.tif"}]}
    region = Region.model_validate({"name": "tables", "modalities": [modality], "tables": {}, **keys})
    region._folder = folder
    return region


def of_2023(folder: Path) -> Region:
    (folder / "test.csv").write_text(TEST)
    return described(folder, tables={"test": {"file": ["blind.csv", "test.csv"]}})


def of_2024(folder: Path) -> Region:
    """The layout of GeoLifeCLEF 2024 with two test tables, of which one holds the other."""
    for name, text in (("pa", SURVEYS), ("po", RECORDS), ("iid", BLIND), ("glc25", MORE)):
        (folder / f"{name}.csv").write_text(text)
    tables = {name: {"file": f"{name}.csv", **KEYS} for name in ("pa", "po")}
    tests = {"glc25": {"file": "glc25.csv", **TEST_KEYS}}
    return described(folder, tables=tables | {"test": {"file": "iid.csv", **TEST_KEYS}}, tests=tests)


def sets(samples: Samples) -> list[set[int]]:
    bounds = zip(samples.offsets[:-1], samples.offsets[1:], strict=True)
    return [set(samples.species[a:b].tolist()) for a, b in bounds]


def solution(folder: Path, text: str) -> Path:
    (folder / "truth.csv").write_text(text)
    return folder / "truth.csv"


def test_test_surveys_take_their_species_from_rows_of_the_truth(tmp_path: Path) -> None:
    region = of_2023(tmp_path)
    surveys = read_test_samples(
        region, solution(tmp_path, "Id;speciesId\n3;12\n7;40\n3;7\n3;12\n"), VOCABULARY
    )
    assert surveys.ids.tolist() == [7, 3, 5] and surveys.patch_id.tolist() == [21, 22, -1]
    assert sets(surveys) == [{3}, {0, 1}, set()]


def test_an_id_of_no_test_table_is_named(tmp_path: Path) -> None:
    truth = solution(tmp_path, "Id;speciesId\n4;12\n")
    with pytest.raises(ValueError, match=r"truth\.csv: 1 rows have an Id that is not in the test table.*: 4"):
        read_test_samples(of_2023(tmp_path), truth, VOCABULARY)


def test_the_layout_of_2024_is_read(tmp_path: Path) -> None:
    """speciesId as 6310.0, a row for each species, the vocabulary of PA and PO together."""
    region = of_2024(tmp_path)
    vocabulary = read_species(region)
    assert vocabulary.ids.tolist() == [12, 3383, 6310, 11140]
    surveys, records = (read_samples(region, kind, vocabulary) for kind in ("pa", "po"))
    assert surveys.patch_id.tolist() == [1167600, 866975] and sets(surveys) == [{0, 2}, {3}]
    assert records.patch_id.tolist() == [1, 2] and sets(records) == [{1}, {0}]
    assert records.lon.tolist() == [1.57, 2.5] and records.lat.tolist() == [43.74, 45.1]


def test_a_survey_of_a_test_table_in_several_rows_is_one(tmp_path: Path) -> None:
    points = read_test_points(of_2024(tmp_path))
    assert points.ids.tolist() == [642, 1792] and points.patch_id.tolist() == [642, 1792]


def test_other_test_tables_go_by_name(tmp_path: Path) -> None:
    region = of_2024(tmp_path)
    assert read_test_points(region, "glc25").ids.tolist() == [642, 1792, 3256]
    with pytest.raises(ValueError, match=r"no test table 'ood'\. It has test, glc25"):
        read_test_points(region, "ood")


@pytest.mark.parametrize("column", ["target_species_ids", "predictions", "speciesIds"])
def test_sets_of_a_solution_file_are_read_and_repeats_dropped(column: str, tmp_path: Path) -> None:
    region = of_2024(tmp_path)
    truth = solution(tmp_path, f"surveyId,{column},Usage\n1792,12 31 12,Private\n642,40,Public\n")
    surveys = read_test_samples(region, truth, VOCABULARY)
    assert surveys.ids.tolist() == [642, 1792] and sets(surveys) == [{3}, {1, 2}]
    assert surveys.unknown is None


def test_the_truth_says_which_test_table_is_meant(tmp_path: Path) -> None:
    truth = solution(tmp_path, "surveyId,target_species_ids\n3256,7\n1792,12\n642,40\n")
    assert read_test_samples(of_2024(tmp_path), truth, VOCABULARY).ids.tolist() == [642, 1792, 3256]


def test_a_survey_that_found_nothing_stays(tmp_path: Path) -> None:
    truth = solution(tmp_path, "surveyId,target_species_ids\n1792,12\n642,\n")
    assert sets(read_test_samples(of_2024(tmp_path), truth, VOCABULARY)) == [set(), {1}]


def test_species_that_the_vocabulary_lacks_count_as_found(tmp_path: Path) -> None:
    truth = solution(tmp_path, "surveyId,target_species_ids\n1792,12 99 100 99\n642,7\n")
    surveys = read_test_samples(of_2024(tmp_path), truth, VOCABULARY)
    assert sets(surveys) == [{0}, {1}] and surveys.richness().tolist() == [1, 3]
    assert surveys.subset(np.array([1])).richness().tolist() == [3]


ROWS = "surveyId,target_species_ids\n642,12\n"
MISTAKES = {
    ROWS + "1792,7\n642,12\n": "1 surveys stand there twice, the first: surveyId 642",
    ROWS: r"1 of 2 surveys of the test table test have no row, .* 1792\. Is",
    ROWS + "9,7\n": "1 rows have an Id that is not in any of the test tables test, glc25",
    ROWS + "1792,7 x\n": "1 values of target_species_ids are not whole numbers",
    ROWS.replace("target_species_ids", "species"): "no column holds species: neither speciesId, one a row",
    ROWS.replace("surveyId", "Id"): r"there is no column surveyId; it has \['Id', ",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_of_a_solution_file_are_named(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=MISTAKES[text]):
        read_test_samples(of_2024(tmp_path), solution(tmp_path, text), VOCABULARY)
