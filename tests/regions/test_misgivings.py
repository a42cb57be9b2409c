"""`no problems` only where an ecologist would say so, each problem with what to do."""

import numpy as np
import pytest

from glczoo.data.occurrences import Samples, SpeciesIndex
from glczoo.regions.check_result import TableCheck
from glczoo.regions.misgivings import doubts_of_names, doubts_of_patches, doubts_of_samples
from glczoo.regions.suspects import NO_DATA

SPECIES = SpeciesIndex(np.array([1, 2]), ("Abies alba", "Poa annua"))


def samples(sets: list[set[int]], presence_only: bool = False, lon: np.ndarray | None = None) -> Samples:
    number = np.arange(len(sets))
    return Samples(
        number / 100 if lon is None else lon,
        number * 0.0 + 45,
        number,
        number,
        np.concatenate([[0], np.cumsum([len(s) for s in sets])]).astype(int),
        np.array([k for s in sets for k in sorted(s)], int),
        presence_only=presence_only,
    )


def only(doubts: list[str]) -> str:
    (doubt,) = doubts
    return doubt


def test_sound_tables_raise_no_doubt() -> None:
    assert doubts_of_samples(samples([{0}, {1}, set(), {0, 1}]), SPECIES) == []
    assert doubts_of_samples(samples([{0}, {1}] * 20, presence_only=True), SPECIES) == []


def test_surveys_without_a_single_absence() -> None:
    doubt = only(doubts_of_samples(samples([{0, 1}] * 5), SPECIES))
    assert "without a single absence nothing can be learnt" in doubt and "`presence` in region.yaml" in doubt


def test_a_species_of_every_survey() -> None:
    assert "1 species are in every survey (1 Abies alba)" in only(
        doubts_of_samples(samples([{0, 1}, {0}, {0}]), SPECIES)
    )


def test_surveys_without_species() -> None:
    assert "none of 3 surveys has a species" in only(doubts_of_samples(samples([set()] * 3), SPECIES))
    mostly = [{0}, {1}, *[set()] * 38]
    assert "95 % of the surveys have no species" in only(doubts_of_samples(samples(mostly), SPECIES))


def test_records_of_one_species_need_another_loss() -> None:
    one = SpeciesIndex(np.array([1]), ("Abies alba",))
    doubt = only(doubts_of_samples(samples([{0}] * 9, presence_only=True), one))
    assert "cross-entropy" in doubt and "sinr_full" in doubt


def test_records_that_are_nearly_all_of_one_species() -> None:
    doubt = only(doubts_of_samples(samples([{0}] * 95 + [{1}] * 5, presence_only=True), SPECIES))
    assert "95 % of the records are of 1 Abies alba" in doubt


@pytest.mark.parametrize("presence_only", [True, False])
def test_samples_piled_on_one_place(presence_only: bool) -> None:
    lon = np.where(np.arange(100) < 30, 5.0, np.arange(100) / 10 + 6)
    doubt = only(doubts_of_samples(samples([{0}, {1}] * 50, presence_only, lon), SPECIES))
    assert "30 of 100" in doubt and ("cell_km" in doubt) == presence_only


def test_samples_where_no_raster_has_data() -> None:
    table = TableCheck("pa", 120, 120, suspicious={NO_DATA: 45})
    doubt = only(doubts_of_patches(table, 8))
    assert doubt.startswith("45 of 120 surveys lie where no raster has data") and "`nodata`" in doubt
    assert doubts_of_patches(TableCheck("pa", 120, 120, suspicious={NO_DATA: 6}), 8) == []


def test_patches_that_are_wider_than_the_raster() -> None:
    doubt = only(doubts_of_patches(TableCheck("po", 9, 9, filled={"bio1": 0.998, "bio2": 0.4}), 999))
    assert doubt.startswith("99.8 % of the cells of bio1 in patches of 999 cells") and "patch_size" in doubt


def test_a_table_of_which_nothing_is_left() -> None:
    assert doubts_of_samples(samples([], presence_only=True), SPECIES) == ["no row is left to learn from"]


def test_near_names_are_a_problem_with_the_way_out() -> None:
    species = SpeciesIndex(np.arange(4), ("Quercus robur", "Quercus robus", "Poa annua", "Poa annua L."))
    near, twice = doubts_of_names(species)
    assert "Quercus robur / Quercus robus" in near and "give them one name" in near
    assert "Poa annua / Poa annua L." in twice
