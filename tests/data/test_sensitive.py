"""Sensitive species: their kilometres are read and kept, and nothing finer is shown."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_occurrences import as_sets
from test_tables import described

from glczoo.data.occurrences import Points, Samples, SpeciesIndex
from glczoo.data.sensitive import cell_centres, shown_coarsely, shown_places
from glczoo.data.sphere import EARTH_KM, nearest_km
from glczoo.data.tables import read_species

SPECIES = SpeciesIndex(np.array([7, 12, 31]), ("Abies alba", "Poa annua", "Cypripedium calceolus"))
TABLE = "speciesId,name,km\n7,Abies alba,\n12,Poa annua,0\n31,Cypripedium calceolus,10\n"


def scattered(number: int) -> Points:
    rng = np.random.default_rng(0)
    index = np.arange(number)
    return Points(rng.uniform(5, 6, number), rng.uniform(45, 46, number), index, index)


# --- where they are named -------------------------------------------------------------------------------


def test_a_column_of_the_species_table(tmp_path: Path) -> None:
    place = described(tmp_path, "po", "lon,lat,species\n5,45,7\n", TABLE)
    assert place.species is not None
    place.species.sensitive = "km"
    assert read_species(place).sensitive_km.tolist() == [0, 0, 10]


@pytest.mark.parametrize("key", ["cypripedium  calceolus", 31, "31"])
def test_a_name_or_an_id_in_the_region_file(tmp_path: Path, key: str | int) -> None:
    place = described(tmp_path, "po", "lon,lat,species\n5,45,7\n", TABLE)
    place.sensitive = {key: 5.0}
    assert read_species(place).sensitive_km.tolist() == [0, 0, 5]


def test_the_coarser_of_two_holds() -> None:
    once = SPECIES.guarded({7: 5.0})
    assert once.guarded({"Abies alba": 20, 7: 2}).sensitive_km.tolist() == [20, 0, 0]


def test_a_species_that_there_is_not_is_named(tmp_path: Path) -> None:
    place = described(tmp_path, "po", "lon,lat,species\n5,45,7\n", TABLE)
    place.sensitive = {"Cypripedium": 5.0}
    with pytest.raises(ValueError, match="`sensitive` names species that there are not: Cypripedium"):
        read_species(place)


def test_a_run_keeps_them(tmp_path: Path) -> None:
    SPECIES.guarded({31: 10}).save(tmp_path / "species.csv")
    assert SpeciesIndex.load(tmp_path / "species.csv").sensitive_km.tolist() == [0, 0, 10]
    SPECIES.save(tmp_path / "species.csv")
    assert "sensitive" not in (tmp_path / "species.csv").read_text()


# --- what is shown --------------------------------------------------------------------------------------


def test_centres_are_those_of_cells_as_large_as_they_say() -> None:
    points = scattered(500)
    centres, number = cell_centres(points, 10)
    there = Points(centres.lon[number], centres.lat[number], points.patch_id, points.ids)
    apart = np.array([nearest_km(points.at([i]), there.at([i]))[0] for i in range(len(points))])
    assert apart.max() < 10 / np.sqrt(2) * 1.1 and len(centres) < 200 and EARTH_KM > 0


def test_predictions_of_a_sensitive_species_tell_the_cell_alone() -> None:
    points, species = scattered(300), SPECIES.guarded({31: 20})

    def predict(places: Points) -> torch.Tensor:
        return torch.from_numpy(np.stack([places.lon, places.lat, places.lon + places.lat], axis=1))

    fine = predict(points)
    shown = shown_coarsely(fine, points, species, predict, lambda places: np.ones(len(places), bool))
    assert torch.equal(shown[:, :2], fine[:, :2])
    _, number = cell_centres(points, 20)
    for cell in np.unique(number):
        assert len(shown[torch.from_numpy(number == cell), 2].unique()) == 1
    one = points.at(np.array([3]))  # asked alone it is shown the same
    alone = shown_coarsely(predict(one), one, species, predict, lambda places: np.ones(len(places), bool))
    assert alone[0, 2] == shown[3, 2]


def test_where_the_centre_has_no_data_nothing_is_shown() -> None:
    points, species = scattered(5), SPECIES.guarded({31: 20})
    fine = torch.ones(5, 3)
    shown = shown_coarsely(fine, points, species, lambda p: fine[: len(p)], lambda p: np.zeros(len(p), bool))
    assert shown[:, 2].isnan().all() and torch.equal(shown[:, :2], fine[:, :2])


def test_pictures_show_samples_of_a_sensitive_species_at_their_centres() -> None:
    points = scattered(40)
    samples = Samples(
        points.lon, points.lat, points.patch_id, points.ids, np.arange(41), np.arange(40) % 2 * 2
    )
    shown = shown_places(samples, SPECIES.guarded({31: 20}))
    held = samples.species == 2
    assert np.array_equal(shown.lon[~held], samples.lon[~held]) and as_sets(shown) == as_sets(samples)
    centres, number = cell_centres(samples.at(held), 20)
    np.testing.assert_array_equal(shown.lon[held], centres.lon[number])
    np.testing.assert_array_equal(shown.lat[held], centres.lat[number])
