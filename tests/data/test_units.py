import pytest

from glczoo.data.units import between


@pytest.mark.parametrize(
    ("value", "unit", "other", "expected"),
    [
        (20, "°C", "K", 293.15),
        (293.15, "K", "degC", 20),
        (2931.5, "0.1 K", "°C", 20),
        (200, "°C x 10", "degC", 20),
        (2931, "0.1 degC from -273.15", "°C", 19.95),
        (68, "°F", "°C", 20),
        (80, "cm", "mm", 800),
        (800, "kg m-2", "cm", 80),
        (8000, "0.1 kg m-2", "mm", 800),
        (35, "%", "1", 0.35),
        (65, "pH x 10", "pH", 6.5),
        (230, "g/kg", "%", 23),
        (7, "some unit", "some unit", 7),
    ],
)
def test_values_convert(value: float, unit: str, other: str, expected: float):
    line = between(unit, other)
    assert line is not None and line.factor * value + line.offset == pytest.approx(expected)


@pytest.mark.parametrize(("unit", "other"), [("K", "mm"), ("", "K"), ("class", "%"), ("0.1", "K")])
def test_units_that_do_not_convert(unit: str, other: str):
    assert between(unit, other) is None


@pytest.mark.parametrize("band", ["bio4", "bio_07", "wc2.1_10m_bio_2", "temp_range", "tas_std"])
def test_differences_of_temperature_have_no_zero_to_shift(band: str):
    line = between("K", "°C", band)
    assert line is not None and (line.factor, line.offset) == (1, 0)


def test_temperatures_have():
    line = between("K", "°C", "bio10")
    assert line is not None and line.offset == pytest.approx(-273.15)
