"""Tables of samples and points as strangers have them: layouts, days, filters of records, rows left out."""

from pathlib import Path

import numpy as np
import pytest
from test_occurrences import VOCABULARY, as_sets, region

from glczoo.data.occurrences import Points, Samples, SpeciesIndex
from glczoo.data.region import RecordFilters, Region, Table
from glczoo.data.sphere import nearest_km, thinned
from glczoo.data.tables import read_and_report, read_points, read_samples, read_species


def described(folder: Path, kind: str, text: str, species: str = "", **keys: object) -> Region:
    """A region of one comma-separated table and, if any, of a species table."""
    table = {"file": f"{kind}.csv", "separator": ",", "species": "species"} | keys
    others: dict[str, object] = {}
    if species:
        (folder / "species.csv").write_text(species)
        others["species"] = {"file": "species.csv", "separator": ",", "name": "name"}
    (folder / f"{kind}.csv").write_text(text)
    return region(folder, tables={kind: table}, **others)


def sets(samples: Samples) -> list[set[int]]:
    return [members for _, members in as_sets(samples)]


# --- surveys --------------------------------------------------------------------------------------------

NAMES = "speciesId,name\n1,Abies alba\n2,Poa annua\n3,Fagus sylvatica\n"


def test_a_wide_table_has_a_column_for_each_species(tmp_path: Path) -> None:
    text = "plot,lon,lat,Abies alba,altitude,Poa annua\na,5,45,1,900,0\nb,6,46,0,0,3\nc,7,47,0,100,0\n"
    place = described(tmp_path, "pa", text, NAMES, layout="wide", survey=["plot"])
    samples = read_samples(place, "pa", read_species(place))
    assert sets(samples) == [{0}, {1}, set()] and samples.lon.tolist() == [5, 6, 7]


def test_a_wide_table_of_no_known_species_is_refused(tmp_path: Path) -> None:
    place = described(tmp_path, "pa", "plot,lon,lat,Larix\na,5,45,1\n", NAMES, layout="wide", survey=["plot"])
    with pytest.raises(ValueError, match=r"no column is named like a species .* \['Abies alba'"):
        read_samples(place, "pa", read_species(place))


def test_a_wide_table_needs_a_species_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the pa table names species .*layout: wide"):
        described(tmp_path, "pa", "plot,lon,lat,Larix\na,5,45,1\n", layout="wide", survey=["plot"])


def test_a_value_of_a_wide_table_that_is_not_understood_stops(tmp_path: Path) -> None:
    text = "plot,lon,lat,Abies alba\na,5,45,perhaps\n"
    place = described(tmp_path, "pa", text, NAMES, layout="wide", survey=["plot"])
    with pytest.raises(ValueError, match="Abies alba holds 'perhaps' in 1 rows"):
        read_samples(place, "pa", read_species(place))


TIMED = (
    "plot,when,lon,lat,species\na,2020-05-01T08:00,5,45,7\na,2020-05-01 09:30,5,45,12\na,2020-05-02,5,45,7\n"
)


@pytest.mark.parametrize(("column", "surveys"), [("when", 3), ("day of when", 2)])
def test_a_survey_is_a_day_where_it_says_so(tmp_path: Path, column: str, surveys: int) -> None:
    place = described(tmp_path, "pa", TIMED, survey=["plot", column])
    assert len(read_samples(place, "pa", VOCABULARY)) == surveys


def test_numbers_above_0_are_presences_and_a_survey_of_zeros_stays(tmp_path: Path) -> None:
    text = "plot,lon,lat,species,n\na,5,45,7,4\na,5,45,12,0\nb,6,45,7,0\n"
    place = described(tmp_path, "pa", text, survey=["plot"], presence={"n": "above 0"})
    assert sets(read_samples(place, "pa", VOCABULARY)) == [{0}, set()]


def test_words_that_are_not_understood_stop_the_reading(tmp_path: Path) -> None:
    text = "plot,lon,lat,species,status\na,5,45,7,present\nb,6,45,7,perhaps\n"
    place = described(tmp_path, "pa", text, survey=["plot"], presence={"status": ["present"]})
    with pytest.raises(ValueError, match=r"status holds 'perhaps' .* tables\.pa\.absence\.status"):
        read_samples(place, "pa", VOCABULARY)
    place.tables["pa"].absence = {"status": ["perhaps"]}
    assert sets(read_samples(place, "pa", VOCABULARY)) == [{0}, set()]


# --- what one cell cannot stop --------------------------------------------------------------------------


def test_an_empty_name_of_a_data_set_is_a_name(tmp_path: Path) -> None:
    place = described(tmp_path, "po", "lon,lat,species,datasetName\n5,45,7,north\n6,45,12,\n")
    samples = read_samples(place, "po", VOCABULARY)
    assert samples.datasets is not None and samples.datasets.tolist() == ["north", ""]


@pytest.mark.parametrize("cell", ["", "NA", " "])
def test_a_record_without_a_name_is_counted_or_left_out(tmp_path: Path, cell: str) -> None:
    text = f"lon,lat,species\n5,45,Abies alba\n6,45,{cell}\n"
    place = described(tmp_path, "po", text, NAMES, species_by="name")
    with pytest.raises(ValueError, match=r"1 presence-only records name no species, .*\[3\]"):
        read_samples(place, "po", read_species(place))
    place.tables["po"].incomplete = "drop"
    assert sets(read_samples(place, "po", read_species(place))) == [{0}]


def test_names_are_found_whatever_their_blanks_and_case(tmp_path: Path) -> None:
    text = "lon,lat,species\n5,45,ABIES ALBA\n6,45,Poa\u00a0 annua \n7,45,abies\u202falba\n"
    place = described(tmp_path, "po", text, NAMES, species_by="name")
    assert sets(read_samples(place, "po", read_species(place))) == [{0}, {1}, {0}]


def test_a_species_table_of_other_case_is_read(tmp_path: Path) -> None:
    place = described(tmp_path, "po", "lon,lat,species\n5,45,7\n", "SpeciesID,NAME\n7,\n12,NA\n")
    assert read_species(place).ids.tolist() == [7, 12] and read_species(place).names == ("", "NA")


def test_an_empty_species_table_is_named(tmp_path: Path) -> None:
    place = described(tmp_path, "po", "lon,lat,species\n5,45,7\n", "speciesId,name\n")
    with pytest.raises(ValueError, match=r"species\.csv: the species table has a header and no rows"):
        read_species(place)


def test_a_check_counts_the_rows_that_would_stop_a_training(tmp_path: Path) -> None:
    text = "lon,lat,species\n5,45,7\n-999,-999,7\n0,0,7\n,45,7\n6,45,\n"
    samples, reading = read_and_report(described(tmp_path, "po", text), "po", VOCABULARY)
    assert len(samples) == 1 and len(reading.stops) == 2
    assert {reason: number for reason, number in reading.left_out.items() if number} == {
        "without coordinates": 1,
        "with coordinates that are no place on Earth": 1,
        "at 0, 0": 1,
        "without a species": 1,
    }


def test_what_stops_a_check_does_not_stop_is_left_out_with_drop(tmp_path: Path) -> None:
    text = "lon,lat,species\n5,45,7\n-999,-999,7\n0,0,7\n,45,7\n6,45,\n"
    place = described(tmp_path, "po", text, incomplete="drop")
    assert read_samples(place, "po", VOCABULARY).lon.tolist() == [5]
    assert read_and_report(place, "po", VOCABULARY)[1].stops == []


def test_a_table_in_metres_is_read_by_its_crs(tmp_path: Path) -> None:
    text = "x,y,species\n700000,6600000,7\n"
    place = described(tmp_path, "po", text, lon="x", lat="y", crs="EPSG:2154")
    samples = read_samples(place, "po", VOCABULARY)
    np.testing.assert_allclose([samples.lon[0], samples.lat[0]], [3.0, 46.5], atol=1e-6)


# --- filters of records ---------------------------------------------------------------------------------

GBIF = """lon,lat,species,coordinateUncertaintyInMeters,basisOfRecord,year,issue
5.0,45,7,10,HUMAN_OBSERVATION,2010,
5.0,45,7,5000,HUMAN_OBSERVATION,2011,GEODETIC_DATUM_ASSUMED_WGS84
5.01,45,7,,PRESERVED_SPECIMEN,1950,ZERO_COORDINATE;COUNTRY_INVALID
5.01,45,12,30,FOSSIL_SPECIMEN,,
6.0,46,7,30,HUMAN_OBSERVATION,2020,
"""


def filtered(folder: Path, **filters: object) -> tuple[list[int], dict[str, int]]:
    """Rows that are used, by their longitude and latitude's order in GBIF, and what each filter took."""
    place = described(folder, "po", GBIF)
    place.records = RecordFilters.model_validate(filters)
    samples, reading = read_and_report(place, "po", VOCABULARY)
    assert len(read_samples(place, "po", VOCABULARY)) == len(samples)
    return len(samples), {key: value for key, value in reading.left_out.items() if key.startswith("records.")}


def test_without_filters_every_record_is_used(tmp_path: Path) -> None:
    assert filtered(tmp_path) == (5, {})


@pytest.mark.parametrize(
    ("filters", "used", "taken"),
    [
        ({"max_uncertainty_m": 1000}, 4, {"max_uncertainty_m: above 1000 m": 1}),
        ({"require_uncertainty": True}, 4, {"require_uncertainty: not known": 1}),
        ({"basis": ["human observation"]}, 3, {"basis: not human observation": 2}),
        ({"years": [2000, 2015]}, 2, {"years: not in 2000 to 2015": 3}),
        ({"issues": ["ZERO_COORDINATE"]}, 4, {"issues: ZERO_COORDINATE": 1}),
        ({"cell_km": 0.5}, 4, {"cell_km: another of the species in 0.5 km": 1}),
        ({"thin_km": 2}, 3, {"thin_km: another of the species within 2 km": 2}),
    ],
)
def test_a_filter_takes_what_it_says(
    tmp_path: Path, filters: dict[str, object], used: int, taken: dict[str, int]
) -> None:
    assert filtered(tmp_path, **filters) == (used, {f"records.{key}": value for key, value in taken.items()})


def test_filters_count_one_after_the_other(tmp_path: Path) -> None:
    used, taken = filtered(tmp_path, max_uncertainty_m=1000, years=[2000, 2030], thin_km=1)
    assert used == 2 and list(taken.values()) == [1, 2, 0]


def test_a_filter_needs_its_column(tmp_path: Path) -> None:
    place = described(tmp_path, "po", "lon,lat,species\n5,45,7\n")
    place.records = RecordFilters(max_uncertainty_m=10)
    with pytest.raises(ValueError, match=r"column \['coordinateUncertaintyInMeters'\] is missing"):
        read_samples(place, "po", VOCABULARY)


def test_a_filter_reads_the_column_that_is_named(tmp_path: Path) -> None:
    place = described(tmp_path, "po", "lon,lat,species,error\n5,45,7,90\n6,45,7,5\n")
    place.records = RecordFilters(max_uncertainty_m=10, columns={"uncertainty": "error"})
    assert read_samples(place, "po", VOCABULARY).lon.tolist() == [6]


def test_thinned_points_are_apart_and_every_other_is_near_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    number = np.arange(400)
    points = Points(179.9 + rng.uniform(0, 0.2, 400) % 180, rng.uniform(60, 60.2, 400), number, number)
    group = number % 2
    kept = thinned(points, group, 3.0)
    for one in (0, 1):
        mine, stay = points.at(group == one), points.at((group == one) & kept)
        assert nearest_km(mine, stay).max() < 3.0
        for i in range(len(stay)):
            others = stay.at(np.arange(len(stay)) != i)
            assert nearest_km(stay.at(np.array([i])), others)[0] >= 3.0


# --- points ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "lon,lat\n1.5,48\n",
        "lon\tlat\n1.5\t48\n",
        "lon, lat\n1.5, 48.0\n",
        "lon;lat\n1,5;48,0\n",
        "decimalLongitude,decimalLatitude\n1.5,48\n",
        "species,x,y\nAbies,1.5,48\n",
        "lng|lat\n1.5|48\n",
    ],
)
def test_points_are_read_as_people_have_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "points.csv").write_text(text)
    points = read_points(None, tmp_path / "points.csv")
    assert (points.lon.tolist(), points.lat.tolist()) == ([1.5], [48.0])


def test_ids_may_be_letters(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("id,lon,lat\nA,1,48\nB7,2,48\n")
    assert read_points(None, tmp_path / "points.csv").ids.tolist() == ["A", "B7"]


def test_a_row_with_an_empty_cell_stays_without_a_place(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("id,lon,lat\nA,1,48\nB,,49\nC,2,49\n")
    points = read_points(None, tmp_path / "points.csv")
    assert points.unplaced.tolist() == [False, True, False] and points.ids.tolist() == ["A", "B", "C"]


def test_points_without_any_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("lon,lat\n,48\nx,49\n")
    with pytest.raises(ValueError, match="of 2 rows 1 without coordinates, .* 1 with coordinates that"):
        read_points(None, tmp_path / "points.csv")


def test_points_in_metres_are_read_by_their_crs(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("x,y\n700000,6600000\n")
    points = read_points(None, tmp_path / "points.csv", crs="EPSG:2154")
    np.testing.assert_allclose([points.lon[0], points.lat[0]], [3.0, 46.5], atol=1e-6)


def test_a_row_of_a_test_table_without_a_place_stops(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("Id;lon;lat\n1;5;45\n2;;45\n")
    with pytest.raises(ValueError, match=r"of 2 rows 1 without coordinates, the first at line\(s\) \[3\]"):
        read_points(None, tmp_path / "test.csv", Table(file=["test.csv"]))


def test_an_index_of_species_with_one_name_twice_cannot_look_names_up() -> None:
    import pandas as pd

    with pytest.raises(ValueError, match="two species of the vocabulary are"):
        SpeciesIndex(np.array([1, 2]), ("Poa annua", "POA  ANNUA")).classes_of_names(pd.Series(["x"]), "t")
