"""What init takes the columns of a stranger's table for: labels, layouts, days, coordinates."""

from pathlib import Path

import pytest

from glczoo.regions.columns import guess_table
from glczoo.regions.guessed_table import GuessedTable


def guess(folder: Path, text: str, kind: str = "pa", name: str = "t.csv", **named: str) -> GuessedTable:
    (folder / name).write_text(text)
    return guess_table(folder / name, kind, named)


def surveys(head: str, *values: object, species: str = "species") -> str:
    """Three surveys of two species with one more column of `values`."""
    rows = [
        f"p{i // 2},5.{i // 2 + 1},45,{('Abies alba', 'Poa annua')[i % 2]},{value}"
        for i, value in enumerate(values)
    ]
    return "\n".join([f"plot,lon,lat,{species},{head}", *rows]) + "\n"


# --- presence -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "values", "rule"),
    [
        ("observed", (2, 0, 1, 5, 0, 3), "above 0"),
        ("presence", (1, 0, 1, 1, 0, 1), [1]),
        ("presence", (1, "", 1, 1, "", 1), [1]),
        ("presence", ("x", "", "x", "x", "", "x"), ["x"]),
        ("detected", ("detected", "not detected") * 3, ["detected"]),
        ("présence", ("présence", "absence") * 3, ["présence"]),
        ("Presence", ("TRUE", "FALSE") * 3, ["True"]),
        ("found", ("+", "-") * 3, ["+"]),
        ("abundance", (3, 0, 12, 0, 1, 0), "above 0"),
        ("cover", ("0,5", 0, "r", 0, "2a", 0), "above 0"),
        ("count", (3, "", 12, "", 1, ""), "above 0"),
    ],
)
def test_presence_is_understood_and_told(tmp_path: Path, head: str, values: tuple, rule: object) -> None:
    text = surveys(head, *values).replace(",0,5\n", ',"0,5"\n')
    found = guess(tmp_path, text)
    assert found.keys["presence"] == {head: rule}
    present = sum(value not in (0, "", "not detected", "absence", "FALSE", "-") for value in values)
    expected = f"guessed: {present} presences, {len(values) - present} absences"
    assert found.reasons["presence"].startswith(expected) and found.num_surveys == 3


def test_words_that_are_not_understood_stop_and_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"presence holds 'vielleicht', 'unklar' beside ja, nein: "):
        guess(tmp_path, surveys("presence", "ja", "nein", "vielleicht", "ja", "unklar", "vielleicht"))


def test_a_person_names_the_words_for_presence(tmp_path: Path) -> None:
    text = surveys("status", "sure", "guess", "none", "sure", "sure", "guess")
    found = guess(tmp_path, text, presence="status:sure,guess")
    assert found.keys["presence"] == {"status": ["sure", "guess"]} and found.keys["absence"] == {
        "status": ["none"]
    }


def test_a_person_says_that_a_column_is_no_presence(tmp_path: Path) -> None:
    found = guess(
        tmp_path, surveys("status", "wild", "planted", "wild", "wild", "wild", "wild"), presence="none"
    )
    assert "presence" not in found.keys


def test_a_blank_beside_words_for_no_is_told(tmp_path: Path) -> None:
    found = guess(tmp_path, surveys("presence", 1, 0, "", 1, "", 0))
    assert "2 rows with a blank presence count as absences, as those that say so" in found.doubts


def test_a_blank_count_of_records_is_no_absence(tmp_path: Path) -> None:
    found = guess(tmp_path, surveys("individualCount", 1, 0, "", "", 3, 0), "po")
    assert found.keys["presence"] == {"individualCount": "above 0 or blank"} and len(found.lon) == 4


def test_occurrence_status_is_present_unless_it_says_otherwise(tmp_path: Path) -> None:
    found = guess(tmp_path, surveys("occurrenceStatus", "PRESENT", "ABSENT", "", "", "PRESENT", ""), "po")
    assert found.keys["presence"] == {"occurrenceStatus": ["PRESENT", ""]} and len(found.lon) == 5


@pytest.mark.parametrize("head", ["is_present", "presence01", "no_individuals", "Frequency", "bb_cover"])
def test_a_name_that_only_resembles_one_of_presence_is_tried(tmp_path: Path, head: str) -> None:
    assert list(guess(tmp_path, surveys(head, 1, 0, 1, 0, 1, 1)).keys["presence"]) == [head]


@pytest.mark.parametrize(
    ("head", "values"),
    [
        ("flag", (1, 0, 0, 1)),
        ("Zotx", ("yes", "", "", "yes")),
        ("k", (0, 3, 1, 0)),
        ("abundance", ("D", "", "", "F")),
    ],
)
def test_what_differs_between_the_species_of_a_survey_is_asked_about(
    tmp_path: Path, head: str, values: tuple
) -> None:
    with pytest.raises(ValueError, match=f"{head} holds .*--columns presence={head}.*presence=none"):
        guess(tmp_path, surveys(head, *values))
    assert "presence" in guess(tmp_path, surveys(head, *values), presence=f"{head}:D,F,yes,1,3").keys
    assert "presence" not in guess(tmp_path, surveys(head, *values), presence="none").keys


@pytest.mark.parametrize("values", [(1, 1, 0, 0), (1, 0, 1, 0)])
def test_what_tells_of_a_place_or_of_a_species_is_no_presence(tmp_path: Path, values: tuple) -> None:
    assert "presence" not in guess(tmp_path, surveys("forest", *values)).keys


def test_codes_1_and_2_are_asked_about(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="presence holds 1 and 2: are these counts, or codes"):
        guess(tmp_path, surveys("presence", 1, 2, 2, 1))
    assert "presence" not in guess(tmp_path, surveys("observed", 1, 2, 3, 1)).keys


@pytest.mark.parametrize("head", ["response", "wasDetected", "pb"])
def test_records_that_say_no_are_none(tmp_path: Path, head: str) -> None:
    found = guess(tmp_path, surveys(head, 1, 0, 0, 1), "po")
    assert found.keys["presence"] == {head: [1]} and len(found.lon) == 2


def test_letters_of_abundance_are_not_taken_for_words(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="abundance holds 'D', 'A', 'F'"):
        guess(tmp_path, surveys("abundance", "D", "A", "F", 0))


def test_a_table_of_absences_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every row says 0 in presence: no presence"):
        guess(tmp_path, surveys("presence", 0, 0, 0, 0))


# --- wide tables ----------------------------------------------------------------------------------------

WIDE = """plot,lon,lat,year,altitude,Abies alba,Poa.annua,Quercus_robur
a,5.1,45,2020,900,1,0,2
b,5.2,45,2020,0,0,0,0
c,5.3,45,2020,100,1,3,0
"""


def test_a_column_for_each_species_is_recognised(tmp_path: Path) -> None:
    found = guess(tmp_path, WIDE)
    assert found.keys["layout"] == "wide" and "species" not in found.keys
    assert found.names.tolist() == ["Abies alba", "Poa.annua", "Quercus_robur"]
    assert found.num_surveys == 3 and found.reasons["layout"].startswith("guessed: 3 columns are species")


def test_columns_that_are_taken_for_no_species_are_listed(tmp_path: Path) -> None:
    assert "columns that are taken for no species: altitude" in guess(tmp_path, WIDE).doubts


def test_codes_of_species_with_0_and_1_are_species(tmp_path: Path) -> None:
    text = "siteid,x,y,awt1,awt2\n1,145.1,-17,1,0\n2,145.2,-17,0,0\n3,145.3,-17,1,1\n"
    assert guess(tmp_path, text).names.tolist() == ["awt1", "awt2"]


def test_presence_of_no_named_species_asks_for_its_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="If presence is about one species, rename the column"):
        guess(tmp_path, "lon,lat,presence\n5,45,1\n6,45,0\n")


# --- days -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dates", "survey"),
    [
        (["2020-05-01T08:00", "2020-05-01T09:30", "2020-05-02T08:00"], ["site", "day of eventDate"]),
        (["2020-05-01 08:00:10", "2020-05-01 09:30", "2020-05-02"], ["site", "day of eventDate"]),
        (["01/05/2020 8:00", "01/05/2020 9:30 AM", "02/05/2020 8:00"], ["site", "day of eventDate"]),
        (["20200501T0800", "20200501T0930", "20200502T0800"], ["site", "day of eventDate"]),
        (["2020-05-01", "2020-05-01", "2020-05-02"], ["site", "eventDate"]),
    ],
)
def test_a_time_of_day_does_not_make_a_survey(tmp_path: Path, dates: list[str], survey: list[str]) -> None:
    rows = [f"a,5.1,45,{name},{date}" for name, date in zip(["Abies", "Poa", "Abies"], dates, strict=True)]
    found = guess(tmp_path, "\n".join(["site,lon,lat,species,eventDate", *rows]) + "\n")
    assert found.keys["survey"] == survey and found.num_surveys == 2
    assert any("holds times of day" in doubt for doubt in found.doubts) == survey[1].startswith("day of")


# --- places and columns ---------------------------------------------------------------------------------


def test_rows_without_a_place_are_left_out_with_the_reason(tmp_path: Path) -> None:
    text = "lon,lat,species\n5,45,a\n-999,-999,b\n0,0,a\n6,45,b\n7,45,a\n"
    found = guess(tmp_path, text, "po")
    assert found.keys["incomplete"] == "drop" and len(found.lon) == 3
    told = "guessed: of 5 rows 1 with coordinates that are no place on Earth and 1 at 0, 0"
    assert found.reasons["incomplete"] == told


def test_sentinels_may_be_most_of_the_rows(tmp_path: Path) -> None:
    text = "lon,lat,species\n" + "-999,-999,a\n" * 6 + "5,45,a\n6,45,b\n"
    assert guess(tmp_path, text, "po").lon.tolist() == [5, 6]


def test_zero_zero_amid_the_others_is_a_place(tmp_path: Path) -> None:
    found = guess(tmp_path, "lon,lat,species\n5,5,a\n-5,-5,b\n0,0,a\n", "po")
    assert len(found.lon) == 3 and "incomplete" not in found.keys


def test_metres_need_their_crs(tmp_path: Path) -> None:
    text = "species,x,y\na,700000,6600000\nb,700100,6600000\n"
    with pytest.raises(ValueError, match=r"hold no degrees, .* If they are metres, name their CRS"):
        guess(tmp_path, text, "po")
    (tmp_path / "t.csv").write_text(text)
    found = guess_table(tmp_path / "t.csv", "po", {}, crs="EPSG:2154")
    assert found.keys["crs"] == "EPSG:2154" and found.lon[0] == pytest.approx(3.0)


@pytest.mark.parametrize(
    "head", ["species,Species,lon,lat", "species,lon,Lon,lat", "plot,Plot,lon,lat,species"]
)
def test_columns_that_are_named_alike_are_both_named(tmp_path: Path, head: str) -> None:
    text = head + "\n" + ",".join("5" for _ in head.split(",")) + "\n"
    with pytest.raises(ValueError, match=r"the columns (\w+) and (?i:\1) are named alike"):
        guess(tmp_path, text)


def test_the_crs_in_the_names_of_columns_is_a_guess(tmp_path: Path) -> None:
    found = guess(tmp_path, "species,x_EPSG2154,y_EPSG2154\na,700000,6600000\nb,700100,6600000\n", "po")
    assert found.keys["crs"] == "EPSG:2154" and found.reasons["crs"].startswith("guessed: ")
    assert found.lon[0] == pytest.approx(3.0)


def test_a_person_may_name_the_day_of_a_column(tmp_path: Path) -> None:
    text = "site,when,lon,lat,species\na,2020-05-01 8:00,5,45,x\na,2020-05-01 9:00,5,45,y\n"
    assert guess(tmp_path, text, survey="site,day of when").num_surveys == 1


def test_a_person_names_one_of_two_columns_that_are_named_alike(tmp_path: Path) -> None:
    text = "species,Species,lon,lat\nAbies alba,ABIES,5,45\nPoa annua,POA,6,45\n"
    assert guess(tmp_path, text, "po", species="Species").keys["species"] == "Species"


def test_a_download_of_gbif_asks_for_its_doi(tmp_path: Path) -> None:
    found = guess(tmp_path, "lon,lat,species\n5,45,a\n", "po", "0012345-200101000000000.csv")
    assert any("https://www.gbif.org/occurrence/download/0012345-200101000000000" in d for d in found.doubts)


def test_a_crs_is_not_meant_of_a_table_in_degrees(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("species,lon,lat\nAbies alba,5.5,45\n")
    found = guess_table(tmp_path / "t.csv", "po", {}, "EPSG:2154")
    assert "crs" not in found.keys and found.lon.tolist() == [5.5]
    assert found.doubts == ["lon, lat are degrees: EPSG:2154 is not meant of them"]
    assert guess_table(tmp_path / "t.csv", "po", {}, "EPSG:4258").keys["crs"] == "EPSG:4258"


def test_a_species_everywhere_is_a_species(tmp_path: Path) -> None:
    text = "plot,lon,lat,Abies alba,Poa annua,Soil moisture\na,5,45,1,1,12.5\nb,6,46,1,0,20\n"
    found = guess(tmp_path, text)
    assert found.names is not None and found.names.tolist() == ["Abies alba", "Poa annua"]
    assert "columns that are taken for no species: Soil moisture" in found.doubts


def test_a_word_of_a_wide_table_that_is_not_understood_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Abies alba holds '\?' beside 1, 0: was the species found"):
        guess(tmp_path, "plot,lon,lat,Abies alba\na,5,45,1\nb,6,46,0\nc,7,46,?\n")
