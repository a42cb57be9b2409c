"""Coordinates as people have them become degrees, or the reason why not."""

import numpy as np
import pandas as pd
import pytest

from glczoo.data.places import Places, coordinate_columns, crs_in_names, numbers, place_rows, within


def placed(lon: list[object], lat: list[object], **options: object) -> Places:
    return place_rows(pd.Series(lon, name="lon"), pd.Series(lat, name="lat"), **options)


@pytest.mark.parametrize(
    "names",
    [
        ("decimalLongitude", "decimalLatitude"),
        ("lng", "lat"),
        ("Long", "Lat"),
        ("x", "y"),
        ("LONGITUDE", "LATITUDE"),
        ("X_WGS84", "Y_WGS84"),
        ("coords.x", "coords.y"),
        ("longitude_decimal", "latitude_decimal"),
        ("Longitude (°)", "Latitude (°)"),
        ("GPS lon", "GPS lat"),
        ("lon_deg", "lat_deg"),
        ("Längengrad", "Breitengrad"),
        ("POINT_X", "POINT_Y"),
        ("x_l93", "y_l93"),
    ],
)
def test_columns_of_coordinates_are_known_by_their_names(names: tuple[str, str]) -> None:
    assert coordinate_columns(["id", *names, "species"], "t.csv") == names


def test_degrees_are_preferred_to_metres() -> None:
    assert coordinate_columns(["x", "y", "lon", "lat"], "t.csv") == ("lon", "lat")


def test_metres_are_preferred_where_their_crs_is_named() -> None:
    assert coordinate_columns(["x_l93", "y_l93", "lon", "lat"], "t.csv", True) == ("x_l93", "y_l93")


@pytest.mark.parametrize(
    ("names", "crs"), [(("x_EPSG3035", "y_EPSG3035"), "EPSG:3035"), (("x_epsg3035", "y_epsg2154"), None)]
)
def test_names_of_columns_may_bear_their_crs(names: tuple[str, str], crs: str | None) -> None:
    assert crs_in_names(*names) == crs


def test_two_columns_that_are_named_alike_are_both_named() -> None:
    with pytest.raises(ValueError, match="t.csv: the columns Lon and lon are named alike"):
        coordinate_columns(["Lon", "lat", "lon"], "t.csv")


def test_decimal_commas_are_numbers() -> None:
    values, commas = numbers(pd.Series(["5,25", "-3", "NA", None]))
    np.testing.assert_array_equal(values, [5.25, -3, np.nan, np.nan])
    assert commas


@pytest.mark.parametrize(
    ("cells", "values", "commas"),
    [
        (["1,5", "2.5", "3"], [1.5, 2.5, 3], True),  # two people typed them
        (["6.934.954,2", "550.180,5"], [6934954.2, 550180.5], True),
        (["6,934,954.2", "550,180.5"], [6934954.2, 550180.5], False),
        (["2'600'000", "1'200'000.5"], [2600000, 1200000.5], False),
        (["6 934 954,2", "550 180,0"], [6934954.2, 550180], True),
    ],
)
def test_thousands_that_are_set_apart(cells: list[str], values: list[float], commas: bool) -> None:
    found, with_commas = numbers(pd.Series(cells))
    assert found.tolist() == values and with_commas == commas


def test_longitudes_from_minus_360() -> None:
    places = placed(["-190", "-170", "-350"], ["60", "60", "10"])
    assert places.lon.tolist() == [170, -170, 10] and "-360 to 0" in places.notes[0]


def test_points_are_no_commas() -> None:
    values, commas = numbers(pd.Series(["5.25", "1,234", "7.5"]))
    np.testing.assert_array_equal(values, [5.25, np.nan, 7.5])
    assert not commas


def test_rows_without_a_place_are_told_apart() -> None:
    places = placed(["5.5", None, "x", "-999", "0", "NA"], ["44.5", "44", "44", "-999", "0", "44"])
    assert {reason: np.flatnonzero(mask).tolist() for reason, mask in places.reasons.items()} == {
        "without coordinates": [1, 5],
        "with coordinates that are no numbers": [2],
        "with coordinates that are no place on Earth": [3],
        "at 0, 0": [4],
    }
    assert places.unplaced.tolist() == [False, True, True, True, True, True]


def test_zero_zero_is_a_place_where_the_region_holds_it() -> None:
    assert not placed([0.0], [0.0], bounds=(-5, -5, 5, 5)).unplaced.any()


def test_longitudes_from_0_to_360_lie_in_the_west() -> None:
    places = placed([290.5, 10.0], [45.0, 45.0])
    assert places.lon.tolist() == [-69.5, 10.0] and "from 0 to 360" in places.notes[0]


def test_beside_negative_longitudes_one_above_180_is_no_place() -> None:
    assert placed([290.5, -10.0], [45.0, 45.0]).unplaced.tolist() == [True, False]


def test_projected_coordinates_become_degrees() -> None:
    places = placed([700_000.0, np.nan], [6_600_000.0, 6_600_000.0], crs="EPSG:2154")
    np.testing.assert_allclose([places.lon[0], places.lat[0]], [3.0, 46.5], atol=1e-6)
    assert places.unplaced.tolist() == [False, True] and places.notes == ["projected from EPSG:2154"]


def test_a_crs_that_is_not_known_is_named() -> None:
    with pytest.raises(ValueError, match=r"the CRS 'Lambert' is not known .* named like EPSG:2154"):
        placed([1.0], [1.0], crs="Lambert")


@pytest.mark.parametrize(
    ("bounds", "inside"),
    [
        ((170, -20, -170, 20), [True, True, False, False]),  # across 180°
        ((160, -20, 200, 20), [True, True, False, False]),  # of a raster that counts on beyond 180
        ((0, -90, 360, 90), [True, True, True, True]),
        ((-10, -20, 10, 20), [False, False, True, False]),
    ],
)
def test_bounds_may_cross_180_degrees(bounds: tuple[float, float, float, float], inside: list[bool]) -> None:
    lon = np.array([175.0, -175.0, 5.0, -100.0])
    assert within(lon, np.zeros(4), bounds).tolist() == inside


@pytest.mark.parametrize(
    ("lon", "lat", "place"),
    [
        ("1°30'E", "48°30'N", (1.5, 48.5)),
        ("1° 30' 36\" W", "48° 30' 0\" S", (-1.51, -48.5)),
        ("1.5°", "48.5°", (1.5, 48.5)),
        ("1,5 W", "48,5 N", (-1.5, 48.5)),
        ("1d30m36sE", "48d30m0sN", (1.51, 48.5)),
    ],
)
def test_degrees_with_signs_minutes_and_seconds(lon: str, lat: str, place: tuple[float, float]) -> None:
    places = placed([lon], [lat])
    assert (places.lon[0], places.lat[0]) == pytest.approx(place) and "degrees with signs" in places.notes[0]


def test_what_is_no_degree_is_no_number() -> None:
    assert placed(["Berlin", "1°75'E"], ["near", "48°30'N"]).unplaced.all()
